"""The optional log of what was scored, as JSON lines, written off the request path."""

import fcntl
import logging
import os
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue

import orjson

LOG = logging.getLogger("serve")
ROTATE_BYTES = 64 * 2**20
FILES_KEPT = 5
FLUSH_SECONDS = 0.05
# Requests that wait for a disk that is full or slow; beyond it they are dropped, and said so.
WAITING = 100_000
LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


class PredictionLog:
    """Appends a line per scored row to `path`, which several workers may share.

    A full file becomes `path.1`, that one `path.2` and so on; the five newest are kept. A kill -9
    loses at most what the last twentieth of a second scored. Raises OSError if `path` cannot be
    written.
    """

    def __init__(self, path, features):
        self._path = Path(path)
        self._features = features
        self._queue = SimpleQueue()
        self._lines = b""
        self._failure = None
        self._dropped = 0
        self._stop = threading.Event()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._append(b"")  # fails now, not at the first request
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, request_id, version, X, scores):
        """Queue the rows of a request: lists of four inputs, and their scores as objects."""
        if self._queue.qsize() < WAITING:
            self._queue.put((time.time(), request_id, version, X, scores))
        else:
            self._dropped += 1

    def close(self):
        """Write what is queued and end."""
        self._stop.set()
        self._thread.join()

    def _run(self):
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self):
        try:
            # What failed is tried again before the queue is emptied further.
            self._lines = self._lines or b"".join(self._queued())
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

    def _queued(self):
        while True:
            try:
                seconds, request_id, version, X, scores = self._queue.get_nowait()
            except Empty:
                return
            when = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
            for values, row in zip(X, scores, strict=True):
                line = {"time": when, "request_id": request_id, "version": version}
                line.update(zip(self._features, values, strict=True))
                line.update(row)
                yield orjson.dumps(line, option=LINE)

    def _append(self, lines):
        with self._one_writer():
            with self._path.open("ab", buffering=0) as file:
                size = file.tell()
                try:
                    while lines:
                        lines = lines[file.write(lines) :]
                except OSError:
                    file.truncate(size)  # no half line
                    raise
                full = file.tell() > ROTATE_BYTES
            if full:
                self._rotate()

    def _rotate(self):
        for number in range(FILES_KEPT - 1, 0, -1):
            old = Path(f"{self._path}.{number}")
            if old.exists():
                old.rename(f"{self._path}.{number + 1}")
        self._path.rename(f"{self._path}.1")

    @contextmanager
    def _one_writer(self):
        lock = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
