"""The log's way out: a stream that nobody waits for, however slow, full or gone its reader is."""

import io
import logging
import os
import select
import sys
import threading
import time
from contextlib import contextmanager, suppress
from queue import SimpleQueue

# Text that waits for a slow reader; beyond it lines are dropped, and counted.
WAITING_BYTES = 2**22
# What is not written so long after the end stays unwritten.
CLOSE_SECONDS = 1


class LogStream(io.TextIOBase):
    """A text stream over a file descriptor, written by a thread of its own.

    `write` never blocks and never raises. What does not fit, or cannot be written, is dropped:
    `on_drop(lines)` is told, and a line says so as soon as the reader takes lines again.
    """

    encoding = "utf-8"

    def __init__(self, descriptor):
        self.on_drop = lambda lines: None
        self._descriptor = descriptor
        self._queue = SimpleQueue()
        self._waiting = 0
        self._dropped = 0
        self._counting = threading.RLock()  # a signal's handler may write in the middle of a write
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text):
        """Queue a text."""
        data = text.encode(errors="backslashreplace")
        with self._counting:
            room = self._waiting + len(data) <= WAITING_BYTES
            self._waiting += len(data) * room
        if room:
            self._queue.put(data)
        else:
            self._drop(data)
        return len(text)

    def end(self):
        """Write what is queued, within a second, and end."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self):
        while (data := self._queue.get()) is not None:
            try:
                self._write(data)
            except OSError:  # the reader went away, or its disk is full
                self._drop(data)
            else:
                if self._dropped and self._waiting == len(data):  # no others wait
                    self._say_dropped()
            with self._counting:
                self._waiting -= len(data)

    def _write(self, data):
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever shares the pipe wants it so
                select.select([], [self._descriptor], [])

    def _say_dropped(self):
        dropped, when = self._dropped, time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        line = f"{when},000 WARNING serve: {dropped} lines before this one were lost\n"
        with suppress(OSError):  # it is said with the next line that can be written
            self._write(line.encode())
            with self._counting:
                self._dropped -= dropped

    def _drop(self, data):
        lines = data.count(b"\n")
        with self._counting:
            self._dropped += lines
        self.on_drop(lines)


@contextmanager
def log_without_waiting():
    """Let sys.stderr, and what Granian logs, be a LogStream for the time of the with block; yields
    it. At the end of the block it is written out.
    """
    log = sys.stderr = LogStream(sys.__stderr__.fileno())
    for handler in logging.getLogger("_granian").handlers:
        handler.setStream(log)
    try:
        yield log
    finally:
        sys.stderr = sys.__stderr__  # in a worker it was its parent's stream
        log.end()
