"""Which process it is, whether it lives, and how it ends: by a signal, or with its parent."""

import os
import resource
import signal
import socket
import threading
import time
from contextlib import contextmanager

import psutil


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


@contextmanager
def bounded_memory(room):
    """Within the block this process may take `room` bytes more, or what the machine has if that is
    less; more is a MemoryError, where the system would otherwise end this process or another.
    """
    room = min(room, psutil.virtual_memory().available)
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = psutil.Process().memory_info().data + room
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def process_tag():
    """host/pid/start of this process, which no later process repeats."""
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"


def is_alive(tag):
    """Whether the process of a `process_tag` of this machine still runs."""
    _, pid, started = tag.rsplit("/", 2)
    return _started(int(pid)) == started


def _started(pid):
    """When the process started, in clock ticks since boot, which no change of the clock moves.

    "gone" for no process and for a dead one that nobody has waited for yet.
    """
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return "gone"
        since_boot = process.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return "gone"
    return str(round(since_boot * os.sysconf("SC_CLK_TCK")))
