"""Large and packed bodies, read in a process of their own: within bounds, and beside the loop.

Reading 16 MiB of JSON keeps the interpreter for a second, in which nobody else is answered, and a
few bytes of Parquet can stand for gigabytes. So a worker has a helper that it hands such bodies to.
The helper forks for every one of them: what that took goes back to the system when it ends,
however it ends.
"""

import gc
import os
import resource
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe

import psutil

from serve.inputs import InputError
from serve.limits import UNPACKED, UNPACKED_BYTES, UNPACKING_SECONDS

# A helper that has not answered by then is stopped: others wait for it.
PATIENCE_SECONDS = 3 * UNPACKING_SECONDS
NICE = 10  # behind whoever answers one row


class HelperLost(Exception):
    """The helper cannot be started, or does not answer; the next call starts another."""


class Unpacker:
    """Calls functions of modules in a helper process, one call after the other, from any thread.

    The helper ends with this process. It takes seconds to start: `start` has it ready for the
    first call, which waits for it otherwise.
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

    def start(self):
        """Start the helper, in the background."""
        with self._one, suppress(OSError):  # the first call says what is wrong
            self._start()

    def close(self):
        """End the helper."""
        with self._one:
            self._end()

    def _start(self):
        self._pipe, theirs = Pipe()
        with theirs:
            # Modules come from where this process has them from, whatever its folder is by now.
            program = f"import sys; sys.path = {sys.path!r}; import serve.tables; "
            program += f"from serve.unpacking import main; main({theirs.fileno()})"
            self._helper = subprocess.Popen(
                [sys.executable, "-c", program],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Arrow's own pool keeps back much more than it uses, which would count.
                env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},
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


def directly(function, *arguments):
    """Call `function` here and now, as an Unpacker does elsewhere."""
    return function(*arguments)


def main(descriptor):
    """The helper: answer each call of the pipe until its other end is closed."""
    os.nice(NICE)
    gc.disable()  # millions of a body's objects would be looked through again and again
    with Connection(descriptor) as pipe:
        while True:
            try:
                function, arguments = pipe.recv()
            except (EOFError, OSError):
                return
            child = os.fork()
            if not child:
                _answer(pipe, function, arguments)
            _, status = os.waitpid(child, 0)
            # Arrow ends the process where metadata is damaged, the system where time is up.
            if status:
                pipe.send((None, _too_much()))
            del function, arguments


def _answer(pipe, function, arguments):
    """In a child of its own: what the call returns or raises, within the bounds; never returns."""
    status = 1
    # Whatever happens here is said by the exit status.
    with suppress(BaseException):
        space = psutil.Process().memory_info().data + UNPACKED_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (space, space))
        resource.setrlimit(resource.RLIMIT_CPU, (UNPACKING_SECONDS, UNPACKING_SECONDS))
        try:
            answer = function(*arguments), None
        except (MemoryError, SystemError):  # orjson makes the one out of the other
            answer = None, _too_much()
        except Exception as error:
            if not isinstance(error, InputError):
                error.add_note(traceback.format_exc())  # which does not get through the pipe
            answer = None, error
        pipe.send(answer)
        status = 0
    os._exit(status)


def _too_much():
    return InputError(
        f"The body takes more than {UNPACKED} or {UNPACKING_SECONDS} s to read, or is damaged: "
        "send it in parts.",
        status=413,
    )
