"""What happens around every request: its id, its log line, its metrics, its answer's headers."""

import random
import re
import sys
import time
from contextlib import suppress
from urllib.parse import quote

from serve.background import Background

PLAIN_PATH = re.compile("[!-~]*")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
LONGEST = 200  # of a path or a method in the log
# Requests that wait to be recorded while all cores are busy; beyond it they are lost, and counted.
WAITING = 20_000
# Keys of the WSGI environment that views read or set: the request's id, the version that answered,
# and how many rows were scored, High ones and those out of range among them.
ID, VERSION, SCORED = "liquidity.request_id", "liquidity.version", "liquidity.scored"
HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),  # without any a browser hides where our own form is from
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
UNCACHED = [*HEADERS, ("Cache-Control", "no-store")]


class RequestLog:
    """WSGI middleware; around Flask instead of in its hooks, which would cost a row's scoring."""

    def __init__(self, wsgi_app, *, doors, recorder):
        self._app = wsgi_app
        self._doors = doors
        self._recorder = recorder

    def __call__(self, environ, start_response):
        """Answer, and leave the rest to the recorder."""
        started = time.perf_counter()
        environ[ID] = number = request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        path = environ["PATH_INFO"]
        door = path if path in self._doors else "static" if path.startswith("/static/") else "none"
        code = 500

        def start(status, headers, exc_info=None):
            nonlocal code
            code = int(status[:3])
            fixed = HEADERS if door == "static" else UNCACHED
            return start_response(status, [*headers, *fixed, ("X-Request-ID", number)], exc_info)

        try:
            return self._app(environ, start)
        finally:
            seconds = time.perf_counter() - started
            found = environ.get(VERSION, "-"), environ.get(SCORED)
            method = environ["REQUEST_METHOD"]
            self._recorder.put(door, code, seconds, method, path, number, *found)


def request_id(wanted):
    """The id of a request that asks for this one: a new one where it is none."""
    return wanted if REQUEST_ID.fullmatch(wanted) else f"{random.getrandbits(64):016x}"


class Recorder:
    """Counts and logs answered requests, off their path: up to a twentieth of a second later.

    No value of a request is logged, so no query either.
    """

    def __init__(self, metrics):
        self._metrics = metrics
        self._lost = 0
        self._second, self._date = 0, ""
        self._background = Background(self._write, name="recorder")
        self.flush, self.close = self._background.flush, self._background.close

    def put(self, door, code, seconds, method, path, number, version, scored):
        """Queue an answered request: its id, the version that answered, what `count` found."""
        if self._background.waiting() >= WAITING:
            self._lost += 1
            return
        self._background.put(
            (time.time(), door, code, seconds, method, path, number, version, scored)
        )

    def _write(self, queued):
        lines = [self._record(*request) for request in queued]
        if self._lost:
            lost, self._lost = self._lost, 0
            self._metrics.lines_lost(lost)
        self._metrics.publish()
        if lines:
            with suppress(OSError):  # outside of a worker, whose stderr is a LogStream
                sys.stderr.write("".join(lines))
                sys.stderr.flush()

    def _record(self, now, door, code, seconds, method, path, number, version, scored):
        self._metrics.answered(door, code, seconds)
        if scored:
            self._metrics.scored(*scored)
        if int(now) != self._second:  # the date is written once for all lines of a second
            self._second = int(now)
            self._date = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))
        if not PLAIN_PATH.fullmatch(path):  # a space would make one field of the line two
            path = quote(path, encoding="latin-1")
        return (
            f"{self._date},{int(1000 * (now % 1)):03d} INFO serve.request: "
            f"{method[:LONGEST]} {path[:LONGEST]} {code} "
            f"{1000 * seconds:.1f} ms id={number} version={version}\n"
        )
