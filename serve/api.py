"""The REST doors: programs' way to a score, and what operators ask a server for."""

import hmac
from typing import ClassVar

import mlflow
import orjson
from flask import Blueprint, Response, current_app, request

from serve import inputs
from serve.access import ID, SCORED, VERSION
from serve.gateway import BODY, INLINE_BYTES
from serve.metrics import CONTENT_TYPE
from serve.openapi import DOCUMENT

api = Blueprint("api", __name__)


def served():
    """The model that answers this request, whatever the alias does meanwhile."""
    found = current_app.extensions["champion"].current()
    request.environ[VERSION] = found.info["version"]
    return found


def body():
    """The request's body as bytes."""
    read = request.environ.get(BODY)
    return request.get_data() if read is None else read


def score(model, columns, threshold=None):
    """The rows of inputs as they were parsed, and one object of scores per row.

    Raises what the model's rules raise.
    """
    values = [columns.get(name, ()) for name in model.features]
    if all(len(column) == 1 and type(column[0]) in (float, int) for column in values):
        row = [column[0] for column in values]
        return [row], [model.answer_row(row, threshold)]
    X = model.parse(columns)
    model.check(X, columns)
    return X, records(model.answer(X, threshold))


def score_invocation(served, body, content_type):
    """MLflow's protocol: the rows, their scores, and the answer as it goes out."""
    columns, threshold = inputs.parse_invocation(body, content_type, served.model.features)
    X, scores = score(served.model, columns, threshold)
    return X, scores, {"predictions": scores}


def score_record(served, body, content_type):
    """One coin as a JSON object, likewise; its answer names the model."""
    columns, threshold = inputs.parse_record(body, served.model.features)
    X, scores = score(served.model, columns, threshold)
    return X, scores, scores[0] | {"model": served.reference}


def count(environ, served, X, scores, *, log):
    """Leave in the request's environment what is counted, and put its rows into the log."""
    high = sum(row["level"] == "High" for row in scores)
    environ[SCORED] = len(scores), high, sum(not row["in_range"] for row in scores)
    if log:
        log.put(environ[ID], served.info["version"], X, scores)


def records(scores):
    """Columns of an answer as one object per row."""
    columns = [column.tolist() for column in scores.values()]
    return [
        # Written out, which for thousands of rows takes half of dict(zip(...)).
        {"liquidity": liquidity, "level": level, "lower": lower, "upper": upper, "in_range": inside}
        for liquidity, level, lower, upper, inside in zip(*columns, strict=True)
    ]


def json_response(value):
    """A JSON answer."""
    return Response(orjson.dumps(value), mimetype=inputs.JSON)


def answer_json(scorer):
    """Score the request's body, count, and answer."""
    model = served()
    X, scores, answer = scorer(model, body(), request.content_type)
    count(request.environ, model, X, scores, log=current_app.extensions["prediction_log"])
    return json_response(answer)


@api.post("/invocations")
def invocations():
    """MLflow's scoring protocol."""
    return answer_json(score_invocation)


class Shortcut:
    """WSGI middleware that answers small, valid JSON requests without Flask, whose routing and
    contexts cost a multiple of scoring a row.

    Everything else, and whatever turns out to be wrong, goes on to Flask's views; where a key is
    set, all that does not bring it as a Bearer token, letter for letter, too.
    """

    SCORERS: ClassVar = {"/invocations": score_invocation, "/predict": score_record}

    def __init__(self, wsgi_app, *, champion, log, key):
        self._app = wsgi_app
        self._champion = champion
        self._log = log
        self._authorization = f"Bearer {key}".encode() if key else None

    def __call__(self, environ, start_response):
        """Answer with the bytes that the view would answer with."""
        body = environ.get(BODY)
        scorer = self.SCORERS.get(environ["PATH_INFO"])
        if (
            body
            and scorer
            and len(body) <= INLINE_BYTES
            and environ["REQUEST_METHOD"] == "POST"
            and environ.get("CONTENT_TYPE") == inputs.JSON
            and "HTTP_CONTENT_ENCODING" not in environ
            and self._admits(environ)
        ):
            try:
                served = self._champion.current()
                X, scores, answer = scorer(served, body, inputs.JSON)
            except Exception:  # the view meets it again and says what it is
                return self._app(environ, start_response)
            environ[VERSION] = served.info["version"]
            count(environ, served, X, scores, log=self._log)
            sent = orjson.dumps(answer)
            headers = [("Content-Type", inputs.JSON), ("Content-Length", str(len(sent)))]
            start_response("200 OK", headers)
            return [sent]
        return self._app(environ, start_response)

    def _admits(self, environ):
        if not self._authorization:
            return True
        given = environ.get("HTTP_AUTHORIZATION", "").encode(errors="replace")
        return hmac.compare_digest(given, self._authorization)


@api.get("/ping")
@api.get("/health")
def health():
    """200 with a model loaded, else 503."""
    served()
    return json_response({"status": "ok"})


@api.get("/version")
def mlflow_version():
    """MLflow's version, as its own server answers."""
    return Response(mlflow.__version__, mimetype="text/plain")


@api.get("/model")
def model():
    """The served model and where it came from."""
    found = served()
    metadata = found.model.metadata
    known = ("features", "target", "threshold", "interval", "training_ranges", "training_rows")
    info = {
        name: value for name, value in found.info.items() if name not in ("folder", "source_uri")
    }
    return json_response(info | {name: metadata[name] for name in known})


@api.get("/metrics")
def metrics():
    """Prometheus' text format, all workers together."""
    current_app.extensions["recorder"].flush()
    return Response(current_app.extensions["metrics"].exposition(), content_type=CONTENT_TYPE)


@api.get("/openapi.json")
def openapi():
    """OpenAPI 3.1."""
    return json_response(DOCUMENT)
