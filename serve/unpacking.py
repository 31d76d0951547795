"""Large and packed bodies, read in a process of their own: within bounds, and beside the loop.

Reading 16 MiB of JSON keeps the interpreter for a second, in which nobody else is answered, and a
few bytes of Parquet can stand for gigabytes. So a worker has a helper that it hands such bodies to.
The helper has a child for them, which ends with the first that failed or took much: what that took
goes back to the system, however the child ends.

The first helper is a copy of the worker, made when that has loaded its libraries and Python has one
thread (OpenBLAS and jemalloc see to theirs around a fork): it takes milliseconds, and shares their
memory. Later ones load what they need.

Both load within `loading`, for Arrow's memory: with Arrow's own pool the first few bytes would take
all that a body may take.
"""

import gc
import math
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import ForkingPickler

from liquidity.processes import most_data
from serve.inputs import InputError
from serve.limits import UNPACKED, UNPACKED_BYTES, UNPACKING_SECONDS

# A helper that has not answered by then is stopped: others wait for it.
PATIENCE_SECONDS = 3 * UNPACKING_SECONDS
NICE = 10  # behind whoever answers one row
KEPT_BYTES = 32 * 2**20  # a child that has grown by more is replaced
WAITING, WORKING, SENDING = range(3)  # what a child is doing


class HelperLost(Exception):
    """The helper cannot be started, or does not answer; the next call starts another."""


class Unpacker:
    """Calls functions of modules in a helper process, one call after the other, from any thread.

    The helper ends with this process. It takes seconds to start, for which the first call would
    wait: `fork` has it ready.
    """

    def __init__(self):
        self._one = threading.Lock()
        self._helper = self._pipe = None

    def __call__(self, function, *arguments):
        """What `function(*arguments)` returns or raises; raises InputError 413 where that takes
        more memory or time than it may, and HelperLost.
        """
        with self._one:
            try:
                if self._helper is None or self._helper.poll() is not None:
                    self._end()
                    self._start()
                self._pipe.send((function, arguments))
                if not self._pipe.poll(PATIENCE_SECONDS):
                    raise TimeoutError("no answer")
                answer, error = self._pipe.recv()
            except (OSError, EOFError) as reason:
                self._end()
                raise HelperLost(f"large bodies cannot be read: {reason!r}") from reason
        if error is not None:
            raise error
        return answer

    def fork(self):
        """Make this process's copy the helper; no other thread may have started by then, as the
        copy of a lock that one holds would never be let go.
        """
        with suppress(OSError):  # the first call says what is wrong
            ours, theirs = Pipe()
            with theirs:
                child = os.fork()
                if not child:
                    _end_as_helper(theirs.fileno())
            self._pipe, self._helper = ours, Copy(child)

    def close(self):
        """End the helper."""
        with self._one:
            self._end()

    def _start(self):
        self._pipe, theirs = Pipe()
        with theirs:
            # Modules come from where this process has them from, whatever its folder is by now.
            program = f"""
import sys
sys.path = {sys.path!r}
from liquidity.processes import loading
with loading():
    import serve.tables
    from serve.unpacking import main
main({theirs.fileno()})
"""
            self._helper = subprocess.Popen(
                [sys.executable, "-c", program],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # In a group of its own: Ctrl-C is for the server, which closes it when it ends.
                process_group=0,
            )

    def _end(self):
        if self._pipe is not None:
            self._pipe.close()
        if self._helper is not None:
            self._helper.kill()
            self._helper.wait()
        self._helper = self._pipe = None


class Copy:
    """A child that was forked, as a Popen."""

    def __init__(self, pid):
        self._pid, self.returncode = pid, None

    def poll(self):  # noqa: D102
        return self._look(os.WNOHANG)

    def wait(self):  # noqa: D102
        return self._look(0)

    def kill(self):  # noqa: D102
        if self.poll() is None:
            os.kill(self._pid, signal.SIGKILL)

    def _look(self, how):
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self._pid, how)
            except ChildProcessError:  # who started the server has SIGCHLD ignored
                pid, status = self._pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _end_as_helper(descriptor):
    """What a copy does: be what `_start` would have started, and end."""
    try:
        os.setpgid(0, 0)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1):
            os.dup2(nothing, stream)
        # The server's port, logs and pipes are not held by what may outlive it for a moment.
        os.closerange(3, descriptor)
        os.closerange(descriptor + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        sys.stderr = sys.__stderr__
        main(descriptor)
    except Exception:
        traceback.print_exc()
        os._exit(1)
    finally:
        os._exit(0)


def directly(function, *arguments):
    """Call `function` here and now, as an Unpacker does elsewhere."""
    return function(*arguments)


def main(descriptor):
    """The helper: answer each call of the pipe until its other end is closed."""
    os.nice(NICE)
    gc.disable()  # millions of a body's objects would be looked through again and again
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take how a child ended
    doing = mmap.mmap(-1, 1)  # which the child writes
    with Connection(descriptor) as pipe:
        while True:
            doing[0] = WAITING
            child = os.fork()
            if not child:
                _answer_calls(pipe, doing)
            _, status = os.waitpid(child, 0)
            # Arrow ends the process where metadata is damaged, the system where time is up.
            if doing[0] == WORKING:
                pipe.send((None, _too_much()))
            elif status:  # the pipe is closed, half an answer is in it, or there can be none
                return


def _answer_calls(pipe, doing):
    """In a child of its own: answer calls, until one fails or they have taken much together; never
    returns.
    """
    status = 1
    try:
        most = most_data(UNPACKED_BYTES)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        error, before = None, _kilobytes()
        while error is None and (_kilobytes() - before) * 1024 < KEPT_BYTES:
            function, arguments = pipe.recv()
            doing[0] = WORKING
            answer, error = _answer(function, arguments)
            message = ForkingPickler.dumps((answer, error))
            doing[0] = SENDING
            pipe.send_bytes(message)
            doing[0] = WAITING
            del function, arguments, answer, message
        status = 0
    except (EOFError, ConnectionError, MemoryError):
        pass  # the server has ended, or the answer is too large to send
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _kilobytes():
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _answer(function, arguments):
    """What the call returns, and what it raises; it ends the process where its time is up."""
    _, longest = resource.getrlimit(resource.RLIMIT_CPU)
    until = math.ceil(time.process_time()) + UNPACKING_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (until, longest))
    try:
        return function(*arguments), None
    except (MemoryError, SystemError):  # orjson makes the one out of the other
        return None, _too_much()
    except Exception as error:
        if not isinstance(error, InputError):
            error.add_note(traceback.format_exc())  # which does not get through the pipe
        return None, error


def _too_much():
    return InputError(
        f"The body takes more than {UNPACKED} or {UNPACKING_SECONDS} s to read, or is damaged: "
        "send it in parts.",
        status=413,
    )
