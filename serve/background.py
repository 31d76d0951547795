"""Work that no request waits for: a queue, and a thread that empties it every so often."""

import logging
import threading
from queue import Empty, SimpleQueue

LOG = logging.getLogger("serve")
FLUSH_SECONDS = 0.05
# What is not done so long after the end stays undone: a disk may hang.
CLOSE_SECONDS = 2


class Background:
    """Calls `work(items)` in a thread of its own with an iterator over what `put` has queued.

    What `work` leaves in the iterator stays queued; what it raises is logged once, and it is called
    again. The queue has no bound of its own: who puts looks at `waiting()`.
    """

    def __init__(self, work, *, name):
        self._work = work
        self._failure = None
        self._queue = SimpleQueue()
        self._one = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.put, self.waiting = self._queue.put, self._queue.qsize
        self._thread.start()

    def flush(self):
        """Do now what is queued."""
        with self._one:
            try:
                self._work(iter(self._next, None))
            except Exception as error:  # the thread would end, and nothing be done any more
                if repr(error) != self._failure:
                    LOG.error("the %s failed", self._thread.name, exc_info=error)
                self._failure = repr(error)

    def close(self):
        """Do what is queued, within two seconds, and end."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self):
        while not self._stop.wait(FLUSH_SECONDS):
            self.flush()
        self.flush()

    def _next(self):
        try:
            return self._queue.get_nowait()
        except Empty:
            return None
