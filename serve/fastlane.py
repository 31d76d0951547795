"""The fast lane around Flask, whose routing and contexts cost a multiple of scoring a row."""

import hmac
from typing import ClassVar

import orjson

from serve.answers import note, note_forecasts, score_days, score_invocation, score_record
from serve.gateway import BODY
from serve.inputs import JSON
from serve.keys import given_key
from serve.limits import LARGE
from serve.request_log import VERSION

# In the WSGI environment, the exception that the application is to answer as any of its own.
FAILURE = "liquidity.failure"
FORECAST = "/forecast"


class FastLane:
    """WSGI middleware that answers small, valid JSON requests with the bytes of Flask's views.

    Everything else goes on to Flask: a rule that a request breaks and a bug as an exception that
    it translates; where a key is set, all that does not bring it as a Bearer token too.
    """

    SCORERS: ClassVar = {"/invocations": score_invocation, "/predict": score_record}

    def __init__(self, wsgi_app, *, champion, forecasts, outlooks, log, key):
        self._app = wsgi_app
        self._champion = champion
        self._forecasts, self._outlooks = forecasts, outlooks
        self._log = log
        self._key = key.encode()

    def __call__(self, environ, start_response):
        """Answer, or let Flask answer."""
        if not self._takes(environ):
            return self._app(environ, start_response)
        try:
            sent = self._answer(environ)
        except Exception as error:
            environ[FAILURE] = error
            return self._app(environ, start_response)
        headers = [("Content-Type", JSON), ("Content-Length", str(len(sent)))]
        start_response("200 OK", headers)
        return [sent]

    def _takes(self, environ):
        body = environ.get(BODY)
        return (
            body
            and len(body) <= LARGE
            and (environ["PATH_INFO"] in self.SCORERS or environ["PATH_INFO"] == FORECAST)
            and environ["REQUEST_METHOD"] == "POST"
            and environ.get("CONTENT_TYPE") == JSON
            and "HTTP_CONTENT_ENCODING" not in environ
            and self._admits(environ)
        )

    def _admits(self, environ):
        if not self._key:
            return True
        scheme, given = given_key(environ.get("HTTP_AUTHORIZATION", ""))
        return scheme == "bearer" and hmac.compare_digest(given.encode(errors="replace"), self._key)

    def _answer(self, environ):
        if environ["PATH_INFO"] == FORECAST:
            answer = score_days(self._forecasts.current(), environ[BODY], JSON, self._outlooks)
            note_forecasts(environ, answer)
            return orjson.dumps(answer)
        served = self._champion.current()
        environ[VERSION] = served.info["version"]
        X, scores, answer = self.SCORERS[environ["PATH_INFO"]](served, environ[BODY], JSON)
        note(environ, served, X, scores, log=self._log)
        return answer
