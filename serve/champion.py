"""The served model: load it from the registry, watch its alias, swap it, fall back."""

import logging
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import mlflow
from mlflow.exceptions import MlflowException, RestException

from liquidity.errors import ModelError, first_line
from liquidity.model.loading import fetch_model, load_checked
from liquidity.processes import return_freed_memory
from serve.cache import Cache
from serve.live import read_live
from serve.settings import parse_model_uri

LOG = logging.getLogger("serve")
# MLflow's codes for a model, a version or an alias that does not exist.
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
# The first answer of the registry is awaited so long; then the cached version serves meanwhile.
START_SECONDS = 3
# Without one the server opens its doors when the registry has answered, or after this long.
PATIENCE_SECONDS = 10
# A round that asks, fetches and loads has this long. What did not end is left to itself, the
# version left alone for an hour, and so many may hang at a time.
ROUND_SECONDS = 120
AGAIN_SECONDS = 3600
HANGING = 8


class NoModel(RuntimeError):
    """Nothing is loaded yet; the message says what to do."""


class Hanging(Exception):
    """A round does not end."""


class NotThere(Exception):
    """The registry has answered: there is no such model, version or alias."""


@dataclass
class Round:
    """What the watching thread has to know of a round: the identity of the version that it loads,
    and whether it was left to itself.
    """

    loading: tuple | None = None
    left: bool = False


# What a request of thousands of rows is scored by: all of them together have a thread per core.
WALKERS = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="forest")


def load_to_serve(folder):
    """The scorer of the model in `folder`, as `load_checked` has it, for requests of any size."""
    model = load_checked(folder)
    model.forest.map = WALKERS.map
    return model


@dataclass(frozen=True)
class Served:
    """A loaded model and what is known of it."""

    model: object
    info: dict

    @property
    def identity(self):
        """What tells it from every other version, also of a model deleted and made again."""
        return self.info["version"], self.info["source_uri"]

    @property
    def reference(self):
        """Name and version, as they stand in every answer."""
        return {"name": self.info["name"], "version": self.info["version"]}


@dataclass(frozen=True)
class Followed:
    """When what is served was last what the registry named, an ISO time, and how the registry said
    then that its forecasts turned out (serve.live); both None before.
    """

    served: Served
    at: str | None = None
    live: dict | None = None


class Champion:
    """Holds the served model; a thread of its own asks the registry whether the alias moved.

    `model_uri` is `models:/name@alias` or `models:/name/version`. `check(served)` raises ModelError
    for a version that is not to be served. `on_swap(served)`, `on_follow(followed)`, after each
    round that found what is served to be what the registry names, and `on_failure()` are called in
    threads of its own. An `optional` model that has yet to be trained is no failure.
    """

    def __init__(
        self,
        model_uri,
        *,
        refresh_seconds,
        cache_dir,
        check=None,
        on_swap=None,
        on_follow=None,
        on_failure=None,
        optional=False,
        round_seconds=ROUND_SECONDS,
    ):
        self.model_uri = model_uri
        self.name, self.alias, self.version = parse_model_uri(model_uri)
        self._refresh_seconds = refresh_seconds
        self._on_swap = on_swap or (lambda served: None)
        self._check = check or (lambda served: None)
        self._on_follow = on_follow or (lambda followed: None)
        self._on_failure = on_failure or (lambda: None)
        self._cache = Cache(cache_dir, model_uri)
        self._round_seconds = round_seconds
        self._hanging = []
        self._followed = None
        self._optional, self._awaited = optional, False
        self._served = None
        self._failure = None
        self._refused = None, 0.0  # an identity, and until when it is left alone
        self._swapping = threading.Lock()
        self._asked = threading.Event()
        self._stop = threading.Event()

    def current(self):
        """The served model; raises NoModel where nothing could be loaded yet."""
        served = self._served
        if served is None:
            raise NoModel(
                f"No model is loaded: {self.model_uri} could not be fetched from the registry, and "
                "the server's log says why. Train one (`mlflow run .`), or set "
                "LIQUIDITY_MODEL_URI and MLFLOW_TRACKING_URI; the server keeps trying."
            )
        return served

    @property
    def served(self):
        """The served model, or None."""
        return self._served

    def followed(self, served):
        """The Followed of the last round that found this model to be what the registry names."""
        found = self._followed
        return found if found and found.served.model is served.model else Followed(served)

    def start(self, *, wait=True):
        """Load what can be loaded within seconds, then watch; without `wait` return at once.

        Never raises for a store that is down or a version that is broken.
        """
        # The client's own retries would block for minutes; the next round comes soon enough.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        # They say every failed question again, with a traceback or a line of their own; ours is one
        # line per change.
        for name in ("mlflow.store.db.utils", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        threading.Thread(target=self._watch, name="champion", daemon=True).start()
        if wait and not self._asked.wait(START_SECONDS):
            cached = threading.Thread(target=self._serve_cached, name="cached", daemon=True)
            cached.start()
            cached.join(PATIENCE_SECONDS)
            if self._served is None:
                self._asked.wait(PATIENCE_SECONDS)

    def stop(self):
        """End the watching thread after its current round."""
        self._stop.set()

    def refresh(self):
        """Ask the registry once; load and swap where it names another version.

        A round that takes longer than `round_seconds` is left to itself: what it hangs in cannot
        be ended, and what it brings comes too late to be served.
        """
        self._hanging = [thread for thread in self._hanging if thread.is_alive()]
        if len(self._hanging) >= HANGING:
            self._failed(Hanging(f"{HANGING} rounds hang; no other begins before one of them ends"))
            return
        round_ = Round()
        thread = threading.Thread(target=self._round, args=[round_], name="round", daemon=True)
        thread.start()
        thread.join(self._round_seconds)
        if thread.is_alive():
            self._leave(round_, thread)

    def _leave(self, round_, thread):
        with self._swapping:
            round_.left = True
        self._hanging.append(thread)
        self._cache.unlock()
        doing = "asking the registry"
        if round_.loading:
            doing = f"fetching and loading version {round_.loading[0]}"
            self._refused = round_.loading, time.monotonic() + AGAIN_SECONDS
        self._failed(Hanging(f"{doing} took more than {self._round_seconds:g} s"))

    def _round(self, round_):
        try:
            with self._cache.lock():
                version = self._registered()
                served, refused = self._served, self._refused
                if served and served.identity == _identity(version):
                    if served.info["source"] == "cache":
                        served = Served(served.model, served.info | {"source": "registry"})
                        self._swap(served, round_)
                elif _identity(version) == refused[0] and time.monotonic() < refused[1]:
                    return
                else:
                    round_.loading = _identity(version)
                    self._load(version, round_)
            if not round_.left:
                self._follows(version)
        except Exception as error:  # whatever a store, a network or a broken version may raise
            if round_.left:
                return
            self._failed(error)
            # A registry that says that there is no such model is not away.
            if self._served is None and not isinstance(error, NotThere):
                self._serve_cached()

    def _follows(self, version):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._followed = Followed(self._served, now, read_live(version.tags))
        if self._failure:
            LOG.info("the registry answers again; version %s is served", version.version)
            self._failure = None
        self._on_follow(self._followed)

    def _watch(self):
        while True:
            try:
                self.refresh()
            except Exception as error:  # such as no memory for a thread: the next round may have it
                self._failed(error)
            self._asked.set()
            if self._stop.wait(self._refresh_seconds):
                return

    def _failed(self, error):
        reason = first_line(error)
        if self._optional and self._served is None and not isinstance(error, ModelError | Hanging):
            # Nothing is missed yet; that the registry is away, the served models say.
            if isinstance(error, NotThere) and not self._awaited:
                LOG.info("%s is not there yet: %s", self.model_uri, reason)
                self._awaited = True
            return
        if reason != self._failure:
            LOG.error("%s cannot be refreshed: %s", self.model_uri, reason)
        self._failure = reason
        self._on_failure()

    def _swap(self, served, round_=None):
        """Serve it from now on; without a round only where nothing is served."""
        with self._swapping:
            before = self._served
            if (round_ is None and before is not None) or (round_ and round_.left):
                return
            self._served = served
        if before is None or before.reference != served.reference:
            LOG.info(
                "serving %s version %s from the %s, loaded in %.2f s",
                *served.reference.values(),
                served.info["source"],
                served.info["load_seconds"],
            )
        self._on_swap(served)
        del before
        return_freed_memory()

    def _registered(self):
        client = mlflow.MlflowClient()
        # Of a server only its own JSON is its word; a proxy, too, says 404.
        remote = mlflow.get_registry_uri().startswith("http")
        try:
            if self.alias:
                return client.get_model_version_by_alias(self.name, self.alias)
            return client.get_model_version(self.name, self.version)
        except MlflowException as error:
            if error.error_code in NOT_THERE and (not remote or isinstance(error, RestException)):
                raise NotThere(first_line(error)) from error
            raise

    def _load(self, version, round_):
        """Load, check and serve a version, then keep it: serving waits for no disk."""
        started = time.perf_counter()
        try:
            if served := self._copied(version, started):
                self._serve(served, None, round_)
                return
            uri = f"models:/{self.name}/{version.version}"
            with self._cache.fetched(partial(fetch_model, uri)) as folder:
                self._serve(self._checked(folder, version, started), folder, round_)
        except ModelError as error:
            self._refused = _identity(version), math.inf
            raise ModelError(f"version {version.version} is refused: {error}") from error

    def _serve(self, served, fetched, round_):
        self._swap(served, round_)
        if not round_.left:
            self._cache.keep(served.info, fetched)

    def _copied(self, version, started):
        """The cache's copy of a version; None where it has none, or none for this code."""
        folder = self._cache.copy_of(version)
        with suppress(ModelError, OSError):
            return self._checked(folder, version, started) if folder.exists() else None

    def _checked(self, folder, version, started):
        """The version in `folder` as it is to be served; raises ModelError."""
        model = load_to_serve(folder)
        info = {
            "name": self.name,
            "version": str(version.version),
            "alias": self.alias,
            "run_id": version.run_id,
            "registered": _iso(version.creation_timestamp),
            "metrics": self._metrics(version.run_id),
            "source": "registry",
            "source_uri": version.source,
            "folder": self._cache.copy_of(version).name,
            "loaded": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_seconds": round(time.perf_counter() - started, 3),
        }
        served = Served(model, info)
        self._check(served)
        return served

    def _metrics(self, run_id):
        if not run_id:  # registered outside of a run
            return {}
        try:
            metrics = mlflow.MlflowClient().get_run(run_id).data.metrics
        except Exception:  # the run was deleted, its model was not; nobody waits for its metrics
            return {}
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _serve_cached(self):
        found = self._cache.last(name=self.name, alias=self.alias, version=self.version)
        if found is None:
            return
        folder, info = found
        try:
            served = Served(load_to_serve(folder), info | {"source": "cache"})
            self._check(served)
        except ModelError as error:
            self._cache.not_used(f"the cached version {info['version']} is not served: {error}")
            return
        self._swap(served)


def _identity(version):
    return str(version.version), version.source


def _iso(milliseconds):
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
