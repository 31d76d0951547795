"""The optional log of what was scored, as JSON lines, written off the request path."""

import fcntl
import logging
import threading
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
# What waits for a disk that is full or slow: beyond it requests are dropped, and said so. Counted
# as it is held, so many bytes of one row alone and so many of each number among many.
WAITING_BYTES = 32 * 2**20
ROW_BYTES, CELL_BYTES = 1000, 8
SLICE_ROWS = 2000  # written at once: 600 kB of lines


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
        self._waiting = self._dropped = 0
        self._counting = threading.Lock()
        self._slices = iter(())  # of a request that is half written
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = _claim(path)
        self._rotation = RotatingFileHandler(self._path, backupCount=FILES_KEPT, delay=True)
        self._append(b"")  # fails now, not at the first request
        self._background = Background(self._write, name="prediction-log")
        self.flush = self._background.flush

    def put(self, request_id, version, features, X, scores):
        """Queue the rows of a request: X of shape (rows, features) and scores of serve.answers."""
        size = _size(X, scores)
        with self._counting:
            if self._waiting + size > WAITING_BYTES:
                self._dropped += 1
                return
            self._waiting += size
        self._background.put((time.time(), request_id, version, features, X, scores, size))

    def close(self):
        """Write what is queued, end, and leave the name to another worker."""
        self._background.close()
        self._lock.close()

    def _write(self, queued):
        try:
            # What failed is tried again before the queue is emptied further.
            while self._lines or self._next(queued):
                self._append(self._lines)
                self._lines = b""
        except OSError as error:
            if self._failure is None:
                LOG.error("the prediction log %s cannot be written: %s", self._path, error)
            self._failure = error
            return
        if self._failure or self._dropped:
            LOG.info("the prediction log is written again; %d requests lost", self._dropped)
            self._failure, self._dropped = None, 0

    def _next(self, queued):
        """Take the lines of the next rows up, as many as are written at once; whether there are."""
        lines, rows = [], 0
        while rows < SLICE_ROWS:
            found = next(self._slices, None)
            if found is None:
                request = next(queued, None)
                if request is None:
                    break
                *request, size = request
                with self._counting:
                    self._waiting -= size
                self._slices = _slices(*request)
            else:
                lines.append(found[0])
                rows += found[1]
        self._lines = b"".join(lines)
        return bool(lines)

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


def _slices(seconds, request_id, version, features, X, scores):
    """The lines of a request, SLICE_ROWS at a time, each time with how many they are."""
    when = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    line = {"time": when, "request_id": request_id, "version": version}
    for start in range(0, len(X), SLICE_ROWS):
        part = slice(start, start + SLICE_ROWS)
        values, found = X[part], scores
        if type(X) is not list:
            values = values.tolist()
            found = {name: column[part] for name, column in scores.items()}
        lines = b"".join(
            orjson.dumps(
                {**line, **dict(zip(features, row, strict=True)), **score},
                option=orjson.OPT_APPEND_NEWLINE,
            )
            for row, score in zip(values, records(found), strict=True)
        )
        yield lines, len(values)


def _size(X, scores):
    """About how many bytes a request holds while it waits."""
    if type(X) is list:
        return ROW_BYTES
    return ROW_BYTES + CELL_BYTES * len(X) * (X.shape[1] + len(scores))
