"""From Granian's event loop to an answer, with bounds on what a client may do.

A WSGI server reads a body in the thread that runs the view, so a few slow uploads stop them all.
Here bodies are read on the event loop, against the clock and up to a size, before any view runs.
What is quick to answer is answered on the loop: handing it to a thread would cost more than it.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

from granian.rsgi import ProtocolClosed

from liquidity.processes import return_freed_memory
from serve.inputs import is_heavy
from serve.limits import LARGE

# A body has this long, and a second more for every RATE bytes that have arrived.
BODY_SECONDS = 10
RATE = 2**16
# All bodies that a worker holds, being read or being answered.
BUFFERED_BYTES = 2**28
THREADS = 2
# What is answered of hundreds of coins takes longer than a row.
WHOLE_MARKET = ("/market", "/coins")
# In the WSGI environment, the status of a body that was not read; the application answers it.
BODY_STATUS = "liquidity.body_status"
# The body itself, which need not be read out of a stream once more,
BODY = "liquidity.body"
# and the exception that answering it raised, which the application answers as any of its own.
FAILURE = "liquidity.failure"


class BodyRefused(Exception):
    """The body was not read to its end; `status` is the HTTP status that says why."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


class Gateway:
    """An RSGI application in front of a WSGI one, and of a FastLane, if there is one.

    A body holds at most `max_bytes`; `on_stop()` is called when the worker ends.
    """

    def __init__(self, wsgi_app, *, max_bytes, lane=None, on_stop=None):
        self._lane = lane
        self._on_stop = on_stop
        self._app = wsgi_app
        self._max_bytes = max_bytes
        self._buffered = 0
        self._deadlines = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="bulk")

    def __rsgi_init__(self, loop):
        """Granian calls this once in each worker."""
        loop.create_task(self._end_slow_bodies())

    def __rsgi_del__(self, loop):
        """Granian calls this when the worker was told to end and has answered its requests."""
        if self._on_stop:
            self._on_stop()

    async def __rsgi__(self, scope, protocol):
        """Read the request, answer it."""
        body, found, short = b"", {}, 0
        if scope.method not in ("GET", "HEAD"):
            short = self._lane.takes(scope) if self._lane else 0
            try:
                body = await self._read(
                    protocol, short or int(scope.headers.get("content-length", -1))
                )
            except BodyRefused as refused:
                found[BODY_STATUS], short = refused.status, 0
        if short:
            try:
                headers, answer = self._lane.answer(scope, body)
            except Exception as error:
                found[FAILURE] = error
            else:
                return protocol.response_bytes(200, headers, answer)
        environ = wsgi_environ(scope) | found
        self._buffered += len(body)
        try:
            environ["CONTENT_LENGTH"] = str(len(body))
            environ["wsgi.input"] = BytesIO(body)
            environ[BODY] = body
            if is_heavy(body, environ.get("CONTENT_TYPE")) or scope.path.startswith(WHOLE_MARKET):
                loop = asyncio.get_running_loop()
                answer = await loop.run_in_executor(self._threads, self._call_heavy, environ)
            else:
                answer = call(self._app, environ)
        finally:
            self._buffered -= len(body)
        protocol.response_bytes(*answer)

    def _call_heavy(self, environ):
        try:
            return call(self._app, environ)
        finally:
            return_freed_memory()

    async def _read(self, protocol, announced):
        if announced > self._max_bytes:
            raise BodyRefused(413)
        task = asyncio.current_task()
        started = asyncio.get_running_loop().time()
        self._deadlines[task] = started + BODY_SECONDS
        body = bytearray()
        ended = False
        try:
            if 0 <= announced <= LARGE:
                return await protocol()
            async for chunk in protocol:
                # Granian ends a whole body with an empty chunk, and a broken one with two of them.
                if ended:
                    raise BodyRefused(400)
                ended = not chunk
                body += chunk
                self._buffered += len(chunk)
                self._deadlines[task] = started + BODY_SECONDS + len(body) / RATE
                if len(body) > self._max_bytes:
                    raise BodyRefused(413)
                if self._buffered > BUFFERED_BYTES:
                    raise BodyRefused(503)
            return body
        except asyncio.CancelledError:
            raise BodyRefused(408) from None
        except ProtocolClosed:
            raise BodyRefused(400) from None
        finally:
            self._buffered -= len(body)
            del self._deadlines[task]

    async def _end_slow_bodies(self):
        """A timeout of its own for every request would cost more than scoring a row."""
        while True:
            await asyncio.sleep(1)
            now = asyncio.get_running_loop().time()
            for task in [task for task, deadline in self._deadlines.items() if deadline < now]:
                task.cancel()


def wsgi_environ(scope):
    """PEP 3333's environment of a request, without its body."""
    host, _, port = scope.server.rpartition(":")
    environ = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": scope.client.rpartition(":")[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope.headers.items():
        # With an underscore it would stand for the header with a hyphen, which Granian has checked;
        # and a body that came in chunks is whole by now.
        if "_" in name or name == "transfer-encoding":
            continue
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


def call(app, environ):
    """Run the WSGI application; returns `(status, headers, body)`."""
    started = []

    def start_response(status, headers, exc_info=None):
        started[:] = int(status[:3]), headers

    chunks = app(environ, start_response)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    return *started, body
