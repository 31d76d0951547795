"""The fast lane around Flask, whose routing and contexts cost a multiple of scoring a row.

It has no WSGI environment either, which costs as much as scoring a row.
"""

import hmac
import time
from typing import ClassVar

import orjson

from serve.answers import (
    count,
    count_forecasts,
    log_rows,
    score_days,
    score_invocation,
    score_record,
)
from serve.inputs import JSON
from serve.keys import given_key
from serve.limits import LARGE
from serve.request_log import UNCACHED, request_id

FORECAST = "/forecast"


class FastLane:
    """Answers the gateway's small, valid JSON requests with the bytes of Flask's views.

    Everything else is Flask's: a rule that a request breaks and a bug as an exception that it
    translates; where a key is set, all that does not bring it as a Bearer token too.
    """

    SCORERS: ClassVar = {"/invocations": score_invocation, "/predict": score_record}

    def __init__(self, *, champion, forecasts, outlooks, log, key, recorder):
        self._champion = champion
        self._forecasts, self._outlooks = forecasts, outlooks
        self._log = log
        self._key = key.encode()
        self._recorder = recorder

    def takes(self, scope):
        """The length of the body of a request that may be answered here; else 0."""
        path = scope.path
        if scope.method != "POST" or (path not in self.SCORERS and path != FORECAST):
            return 0
        headers = scope.headers
        if headers.get("content-type") != JSON or "content-encoding" in headers:
            return 0
        length = int(headers.get("content-length", 0))  # Granian has checked it
        return length if length <= LARGE and self._admits(headers) else 0

    def _admits(self, headers):
        if not self._key:
            return True
        scheme, given = given_key(headers.get("authorization", ""))
        return scheme == "bearer" and hmac.compare_digest(given.encode(errors="replace"), self._key)

    def answer(self, scope, body):
        """Headers and body of the answer, which has status 200; raises what Flask has to say."""
        started = time.perf_counter()
        path, number = scope.path, request_id(scope.headers.get("x-request-id", ""))
        if path == FORECAST:
            answer = score_days(self._forecasts.current(), body, JSON, self._outlooks)
            version, scored = count_forecasts(answer)
            sent = orjson.dumps(answer)
        else:
            served = self._champion.current()
            X, scores, sent = self.SCORERS[path](served, body, JSON)
            version, scored = served.info["version"], count(scores)
            if self._log:
                log_rows(self._log, number, served, X, scores)
        seconds = time.perf_counter() - started
        self._recorder.put(path, 200, seconds, "POST", path, number, version, scored)
        headers = [
            ("Content-Type", JSON),
            ("Content-Length", str(len(sent))),
            *UNCACHED,
            ("X-Request-ID", number),
        ]
        return headers, sent
