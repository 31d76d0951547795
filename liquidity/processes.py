"""How processes end: a job by a signal, a worker with the process that started it."""

import os
import signal
import threading
import time
from contextlib import contextmanager


def exit_with_parent(parent):
    """Called in a worker: it ends within a second of the process `parent`, its parent's id.

    A worker whose parent was killed would otherwise wait or serve for ever, stdout held open.
    """

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


@contextmanager
def stop_signals():
    """Ctrl-C and SIGTERM end the job the same way, and the second one does not cut its end off:
    `mlflow run` sends SIGTERM a quarter of a second after Ctrl-C.
    """

    stopped = False

    def stop(number, frame):
        nonlocal stopped
        if not stopped:
            stopped = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
