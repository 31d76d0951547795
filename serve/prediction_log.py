"""The optional log of what was scored, as JSON lines, written off the request path."""

import fcntl
import logging
import time
from datetime import UTC, datetime
from itertools import count
from logging.handlers import RotatingFileHandler
from pathlib import Path

import orjson

from serve.background import Background
from serve.records import records

LOG = logging.getLogger("serve")
ROTATE_BYTES = 64 * 2**20
FILES_KEPT = 5
# Requests that wait for a disk that is full or slow; beyond it they are dropped, and said so.
WAITING = 100_000


class PredictionLog:
    """Appends a line per scored row to `path`, or to `path-2` and so on where other workers have
    the names before.

    A full file becomes `path.1`, that one `path.2` and so on; the five newest are kept. A kill -9
    loses at most what the last twentieth of a second scored. Raises OSError if `path` cannot be
    written.
    """

    def __init__(self, path):
        self._lines = b""
        self._failure = None
        self._dropped = 0
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = _claim(path)
        self._rotation = RotatingFileHandler(self._path, backupCount=FILES_KEPT, delay=True)
        self._append(b"")  # fails now, not at the first request
        self._background = Background(self._write, name="prediction-log")
        self.flush = self._background.flush

    def put(self, request_id, version, features, X, scores):
        """Queue the rows of a request: X of shape (rows, features) and scores of serve.answers."""
        if self._background.waiting() < WAITING:
            self._background.put((time.time(), request_id, version, features, X, scores))
        else:
            self._dropped += 1

    def close(self):
        """Write what is queued, end, and leave the name to another worker."""
        self._background.close()
        self._lock.close()

    def _write(self, queued):
        try:
            # What failed is tried again before the queue is emptied further.
            self._lines = self._lines or b"".join(map(self._lines_of, queued))
            if self._lines:
                self._append(self._lines)
        except OSError as error:
            if self._failure is None:
                LOG.error("the prediction log %s cannot be written: %s", self._path, error)
            self._failure = error
            return
        self._lines = b""
        if self._failure:
            LOG.info("the prediction log is written again; %d requests lost", self._dropped)
            self._failure, self._dropped = None, 0

    def _lines_of(self, request):
        seconds, request_id, version, features, X, scores = request
        when = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "request_id": request_id, "version": version}
        X = X if type(X) is list else X.tolist()
        return b"".join(
            orjson.dumps(
                {**line, **dict(zip(features, values, strict=True)), **row},
                option=orjson.OPT_APPEND_NEWLINE,
            )
            for values, row in zip(X, records(scores), strict=True)
        )

    def _append(self, lines):
        with open(self._path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                while lines:
                    lines = lines[file.write(lines) :]
            except OSError:
                file.truncate(size)  # no half line
                raise
            full = file.tell() > ROTATE_BYTES
        if full:
            self._rotation.doRollover()


def _claim(path):
    """The first of path, path-2, path-3 ... that no other worker writes, and the lock on it."""
    for number in count(1):
        name = f"{path}-{number}" if number > 1 else str(path)
        lock = open(f"{name}.lock", "w")  # noqa: SIM115 - open as long as the worker lives
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return name, lock
