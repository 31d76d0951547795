"""The last good copies of a served model, for a start without the registry; all of it optional.

Whatever happens to the folder while the server runs (deleted, full, read-only), what is asked here
does without it, says so once, and takes it up again when it can.
"""

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
from mlflow.utils.workspace_context import get_request_workspace

from liquidity.errors import first_line

LOG = logging.getLogger("serve")
FOLDERS_KEPT = 3
DOWNLOAD = ".liquidity-download-"
# A download that a kill has left; no living one is as old.
LEFT_SECONDS = 3600
# Another worker's round is awaited so long; then they go on side by side.
LOCK_SECONDS = 30
# What a disk says that cannot take a download; another one may.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)
NO_ROOM += (errno.ENOTDIR, errno.EFBIG, errno.EIO)
# What served.json has to hold.
TEXTS = ("name", "version", "registered", "source_uri", "folder", "loaded")


class Cache:
    """The folder of the model `model_uri` of this registry, named `name` there.

    Without `cache_dir` it is in the user's cache folder. No method raises for a disk, but `fetched`
    where no disk of the machine has room.
    """

    def __init__(self, cache_dir, model_uri):
        self._folder = cache_folder(cache_dir, model_uri)
        self._failure = self._not_used = None
        self._lock = None
        self._patience = LOCK_SECONDS
        self._make()

    def _make(self):
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "lock").touch()
        except OSError as error:
            self._say(error)

    def _say(self, error):
        reason = first_line(error)
        if reason != self._failure:
            LOG.warning(
                "the cache folder %s cannot be written: %s; a start without the registry may find "
                "no model", self._folder, reason,
            )  # fmt: skip
        self._failure = reason

    def copy_of(self, version):
        """The folder of a copy of this ModelVersion, which need not be there."""
        return self._folder / folder_name(version.version, version.source)

    @contextmanager
    def fetched(self, fetch):
        """Call `fetch(folder)` with an empty folder of the cache or, where its disk has no room,
        of another; yields the folder, which is gone afterwards unless `keep` has taken it.
        """
        failure = FileNotFoundError("no folder can be written")
        for place in self._places():
            try:
                parent = Path(tempfile.mkdtemp(dir=place, prefix=DOWNLOAD))
            except OSError as error:
                failure = error
                continue
            try:
                (parent / "model").mkdir()
                fetch(parent / "model")
                break
            except Exception as error:
                shutil.rmtree(parent, ignore_errors=True)
                if not _is_no_room(error):
                    raise
                failure = error
        else:
            raise failure
        try:
            yield parent / "model"
        finally:
            shutil.rmtree(parent, ignore_errors=True)

    def _places(self):
        self._folder_again()
        yield self._folder
        with suppress(OSError):  # raised where none of the usual ones can be written
            yield Path(tempfile.gettempdir())
        yield Path("/dev/shm")  # memory
        yield Path("/var/tmp")

    def _folder_again(self):
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)

    def keep(self, info, fetched):
        """Keep what is served: `fetched`, the folder of a download, or the copy that is there."""
        try:
            self._folder_again()
            folder = self._folder / info["folder"]
            if fetched is not None:
                self._move(fetched, folder)
            os.utime(folder)
            partial = self._folder / f"served.{os.getpid()}"
            partial.write_text(json.dumps(info))
            partial.replace(self._folder / "served.json")
            self._forget()
            self._failure = None
        except OSError as error:
            self._say(error)

    def _move(self, fetched, folder):
        """Nothing but a model that works takes the place of an older copy, which may be whole."""
        partial = Path(tempfile.mkdtemp(dir=self._folder, prefix=DOWNLOAD))
        try:
            try:
                fetched.rename(partial / "model")
            except OSError:  # it is on another disk
                shutil.copytree(fetched, partial / "model")
            shutil.rmtree(folder, ignore_errors=True)
            (partial / "model").rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _forget(self):
        """Delete the oldest copies, and what a kill has left of downloads."""
        folders = [p for p in self._folder.iterdir() if p.is_dir() and p.name[0] != "."]
        folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in folders[FOLDERS_KEPT:]:
            shutil.rmtree(path, ignore_errors=True)
        for place in self._places():
            for path in place.glob(f"{DOWNLOAD}*"):
                with suppress(OSError):  # another worker's, which is gone meanwhile
                    if path.stat().st_mtime < time.time() - LEFT_SECONDS:
                        shutil.rmtree(path, ignore_errors=True)

    def last(self, *, name, alias, version):
        """What was last served under this name and alias, or of this version: its folder and its
        info; None where there is nothing, or nothing that can be used.
        """
        try:
            info = json.loads((self._folder / "served.json").read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            return self.not_used(f"served.json of the cache cannot be read: {first_line(error)}")
        wrong = _wrong(info)
        if wrong is None and (info["name"], info["alias"]) != (name, alias):
            wrong = "name"
        if wrong is None and version not in (None, info["version"]):
            wrong = "version"
        if wrong is not None:
            return self.not_used(f"served.json of the cache is not used: its {wrong} is damaged")
        return self._folder / info["folder"], info

    def not_used(self, reason):
        """Say once why what was kept is not served."""
        if reason != self._not_used:
            LOG.warning(reason)
        self._not_used = reason

    @contextmanager
    def lock(self):
        """One worker at a time, so that others find its download, and a new SQLite store is
        migrated once; but nobody waits for ever, and nobody without a lock file.
        """
        lock = self._lock = self._locked()
        try:
            yield
        finally:
            if lock:
                lock.close()

    def unlock(self):
        """Let others on, though the one that has the lock does not come back."""
        if self._lock:
            self._lock.close()

    def _locked(self):
        try:
            lock = (self._folder / "lock").open("w")
        except OSError:
            return None
        deadline = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._patience = LOCK_SECONDS
                return lock
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                if self._patience:
                    LOG.warning("another process holds %s; going on without it", lock.name)
                self._patience = 0  # until it is let go
            except OSError:  # a file system without locks
                pass
            lock.close()
            return None


def cache_folder(cache_dir, model_uri):
    """Where the last good copies of `model_uri` of this registry lie: the name is made of all that
    chooses the registry.
    """
    registry, workspace = str(mlflow.get_registry_uri()), get_request_workspace()
    # A relative file is another one in every folder.
    place = Path.cwd() if registry.startswith("sqlite:") or "://" not in registry else ""
    base = cache_dir or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "crypto-liquidity")
    key = f"{registry} {place} {model_uri}" + (f" {workspace}" if workspace else "")
    return Path(base).expanduser() / _digest(key)[:16]


def folder_name(version, source):
    """Tells a version from every other one, also of a model deleted and made again."""
    return f"{version}-{_digest(source)[:12]}"


def _wrong(info):
    """The first key of what served.json holds that is not as `keep` writes it, or None."""
    if not isinstance(info, dict):
        return "content"
    for key in TEXTS:
        if not isinstance(info.get(key), str):
            return key
    for key in ("alias", "run_id"):
        if key not in info or not isinstance(info[key], str | None):
            return key
    if not re.fullmatch("[0-9]+", info["version"], re.ASCII):
        return "version"
    if info["folder"] != folder_name(info["version"], info["source_uri"]):
        return "folder"
    if not isinstance(info.get("metrics"), dict):
        return "metrics"
    numbers = {"load_seconds": info.get("load_seconds"), **info["metrics"]}
    for key, value in numbers.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            return key
    return None


def _is_no_room(error):
    """Whether a disk is the reason; MLflow wraps what its threads raise in a text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()
