"""The served model: load it from the registry, watch its alias, swap it, fall back."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from liquidity.errors import ModelError, first_line
from liquidity.model.loading import fetch_model, load_checked, return_freed_memory
from liquidity.scratch import lasting_folder
from serve.settings import parse_model_uri

LOG = logging.getLogger("serve")
FOLDERS_KEPT = 3
# MLflow's codes for a model, a version or an alias that does not exist.
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
# The first answer of the registry is awaited so long; then the cached version serves meanwhile.
START_SECONDS = 3
# Without one the server opens its doors when the registry has answered, or after this long.
PATIENCE_SECONDS = 10


class NoModel(RuntimeError):
    """Nothing is loaded yet; the message says what to do."""


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


class Champion:
    """Holds the served model; a thread of its own asks the registry whether the alias moved.

    `model_uri` is `models:/name@alias` or `models:/name/version`. `on_swap(served)` and
    `on_failure()` are called in that thread. An `optional` model that has yet to be trained is no
    failure.
    """

    def __init__(
        self,
        model_uri,
        *,
        refresh_seconds,
        cache_dir,
        on_swap=None,
        on_failure=None,
        optional=False,
    ):
        self.model_uri = model_uri
        self.name, self.alias, self.version = parse_model_uri(model_uri)
        self._refresh_seconds = refresh_seconds
        self._on_swap = on_swap or (lambda served: None)
        self._on_failure = on_failure or (lambda: None)
        self._folder = cache_folder(cache_dir, model_uri)
        self._optional, self._awaited = optional, False
        self._served = None
        self._failure = None
        self._refused = None
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
            self._serve_cached()
            if self._served is None:
                self._asked.wait(PATIENCE_SECONDS)

    def stop(self):
        """End the watching thread after its current round."""
        self._stop.set()

    def refresh(self):
        """Ask the registry once; load and swap where it names another version."""
        try:
            # One worker at a time: the others find its download, and a new SQLite store is
            # migrated once.
            with self._one_worker():
                version = self._registered()
                served = self._served
                if served and served.identity == _identity(version):
                    if served.info["source"] == "cache":
                        self._swap(Served(served.model, served.info | {"source": "registry"}))
                elif _identity(version) == self._refused:
                    return
                else:
                    self._swap(self._load(version))
            if self._failure:
                LOG.info("the registry answers again; version %s is served", version.version)
                self._failure = None
        except Exception as error:  # whatever a store, a network or a broken version may raise
            self._failed(error)
            if self._served is None:
                self._serve_cached()

    def _watch(self):
        while True:
            self.refresh()
            self._asked.set()
            if self._stop.wait(self._refresh_seconds):
                return

    def _failed(self, error):
        reason = first_line(error)
        if self._optional and self._served is None and not isinstance(error, ModelError):
            # Nothing is missed yet; that the registry is away, the served models say.
            if getattr(error, "error_code", None) in NOT_THERE and not self._awaited:
                LOG.info("%s is not there yet: %s", self.model_uri, reason)
                self._awaited = True
            return
        if reason != self._failure:
            LOG.error("%s cannot be refreshed: %s", self.model_uri, reason)
        self._failure = reason
        self._on_failure()

    def _swap(self, served, *, only_if_none=False):
        with self._swapping:
            before = self._served
            if before is not None and only_if_none:
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
        if self.alias:
            return client.get_model_version_by_alias(self.name, self.alias)
        return client.get_model_version(self.name, self.version)

    def _load(self, version):
        started = time.perf_counter()
        folder = self._folder / f"{version.version}-{_digest(version.source)[:12]}"
        try:
            model = self._load_copy(folder) or self._download(version, folder)
        except ModelError as error:
            self._refused = _identity(version)
            raise ModelError(f"version {version.version} is refused: {error}") from error
        info = {
            "name": self.name,
            "version": str(version.version),
            "alias": self.alias,
            "run_id": version.run_id,
            "registered": _iso(version.creation_timestamp),
            "metrics": self._metrics(version.run_id),
            "source": "registry",
            "source_uri": version.source,
            "folder": folder.name,
            "loaded": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_seconds": round(time.perf_counter() - started, 3),
        }
        os.utime(folder)
        _write_json(self._folder / "served.json", info)
        self._forget_old_folders()
        return Served(model, info)

    def _load_copy(self, folder):
        """The model in `folder`, or None where there is none that this code can use."""
        try:
            return load_checked(folder) if folder.exists() else None
        except ModelError:
            return None

    def _download(self, version, folder):
        """The model of `version`, from now on in `folder`.

        Only a model that works takes the place of an older copy, which may be whole, and nothing
        that this version of the project knows.
        """
        for left_by_a_kill in self._folder.glob(".download-*"):  # nobody else has the lock
            shutil.rmtree(left_by_a_kill)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=".download-") as partial:
            fetched = Path(partial, "model")
            fetched.mkdir()
            fetch_model(f"models:/{self.name}/{version.version}", fetched)
            model = load_checked(fetched)
            shutil.rmtree(folder, ignore_errors=True)
            fetched.rename(folder)
        return model

    def _metrics(self, run_id):
        if not run_id:  # registered outside of a run
            return {}
        try:
            return mlflow.MlflowClient().get_run(run_id).data.metrics
        except MlflowException:  # the run was deleted; its model was not
            return {}

    def _serve_cached(self):
        try:
            info = json.loads((self._folder / "served.json").read_text())
            model = load_checked(self._folder / info["folder"])
        except (OSError, ValueError, KeyError, ModelError):
            return
        self._swap(Served(model, info | {"source": "cache"}), only_if_none=True)

    def _forget_old_folders(self):
        folders = [path for path in self._folder.iterdir() if path.is_dir()]
        folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in folders[FOLDERS_KEPT:]:
            shutil.rmtree(path)

    @contextmanager
    def _one_worker(self):
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def cache_folder(cache_dir, model_uri):
    """The folder that keeps the last good copies of `model_uri` of this registry; made if need be.

    Without `cache_dir` it is in the user's cache folder; where that cannot be written, in a
    temporary one, and a restart then needs the registry.
    """
    registry = mlflow.get_registry_uri()
    # A relative SQLite file is another one in every folder.
    place = Path.cwd() if registry.startswith("sqlite:") else ""
    base = cache_dir or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "crypto-liquidity")
    folder = Path(base).expanduser() / _digest(f"{registry} {place} {model_uri}")[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    except OSError as error:
        LOG.warning("the cache folder %s cannot be written: %s", folder, error)
        return lasting_folder()
    return folder


def _write_json(path, value):
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(value))
    os.replace(partial, path)


def _identity(version):
    return str(version.version), version.source


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def _iso(milliseconds):
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
