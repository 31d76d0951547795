"""Work that no request waits for: a queue, and a thread that empties it every so often."""

import threading
from queue import Empty, SimpleQueue

FLUSH_SECONDS = 0.05


class Background:
    """Calls `work(items)` in a thread of its own with an iterator over what `put` has queued.

    What `work` leaves in the iterator stays queued.
    """

    def __init__(self, work, *, name):
        self._work = work
        self._queue = SimpleQueue()
        self._one = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.put, self.waiting = self._queue.put, self._queue.qsize
        self._thread.start()

    def flush(self):
        """Do now what is queued."""
        with self._one:
            self._work(iter(self._next, None))

    def close(self):
        """Do what is queued and end."""
        self._stop.set()
        self._thread.join()

    def _run(self):
        while not self._stop.wait(FLUSH_SECONDS):
            self.flush()
        self.flush()

    def _next(self):
        try:
            return self._queue.get_nowait()
        except Empty:
            return None
