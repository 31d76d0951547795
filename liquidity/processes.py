"""Which process it is, whether it lives, and how it ends: by a signal, or with its parent."""

import ctypes
import gc
import os
import resource
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

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
def loading():
    """Around a program's imports: they make a million objects that all stay. To look through them
    for garbage again and again takes a fifth of the start, and 0.1 s each time later, for which a
    server would stop answering.

    Arrow takes its memory from the system then. Its own pool takes a GiB of space with the first
    bytes, which may be all that a body or `bounded_memory` has, and is no faster.
    """
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # read when Arrow is loaded
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:  # else this is within another one
            gc.enable()


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
    resource.setrlimit(resource.RLIMIT_DATA, (most_data(room), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def most_data(room):
    """RLIMIT_DATA for this process to take `room` bytes more, as far as its hard limit lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = psutil.Process().memory_info().data + room
    return most if hard == resource.RLIM_INFINITY else min(most, hard)


def process_tag():
    """host/boot/PID namespace/pid/start of this process, which no other process repeats."""
    return f"{place()}/{os.getpid()}/{_started(os.getpid())}"


def place():
    """Where a process id means one process: host/boot/PID namespace.

    Containers may share a host name and machines too; each boot has an id of its own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # another system than Linux, or no /proc
        boot, namespace = round(psutil.boot_time()), "-"
    return f"{socket.gethostname()}/{boot}/{namespace}"


def is_here(tag):
    """Whether the process of a `process_tag` would be seen from here, as far as it lives."""
    return tag.rsplit("/", 2)[0] == place()


def is_alive(tag):
    """Whether the process of a `process_tag` that `is_here` still runs."""
    _, pid, started = tag.rsplit("/", 2)
    return _started(int(pid)) in (started, "hidden")


def _started(pid):
    """When the process started, in clock ticks since boot, which no change of the clock moves.

    "gone" for no process and for a dead one that nobody has waited for yet, "hidden" for one of
    another user where /proc does not show it.
    """
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return "gone"
        since_boot = process.create_time() - psutil.boot_time()
    except psutil.Error:
        return "hidden" if _is_anothers(pid) else "gone"
    return str(round(since_boot * os.sysconf("SC_CLK_TCK")))


def _is_anothers(pid):
    """Whether there is such a process, and of another user."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def return_freed_memory():
    """Give the system what this process has freed, and glibc would keep for its life: of loading a
    forest of 300 trees 50 MB.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
