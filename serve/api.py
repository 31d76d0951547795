"""The REST doors: programs' way to a score, and what operators ask a server for."""

import re

import mlflow
from flask import Blueprint, Response, current_app, request

from serve.answers import note, note_forecasts, score_days, score_invocation, score_record
from serve.champion import NoModel
from serve.facts import facts
from serve.gateway import BODY
from serve.inputs import FORMS, JSON, check_content_type, is_heavy
from serve.metrics import CONTENT_TYPE
from serve.openapi import document
from serve.request_log import VERSION
from serve.unpacking import directly

api = Blueprint("api", __name__)
HIDDEN = ("folder", "source_uri")  # of the server's own
DESCRIBED = ("features", "target", "target_is_ratio", "target_range")
DESCRIBED += ("threshold", "interval", "training_ranges", "training_rows")
HOST = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(:\d+)?", re.ASCII | re.IGNORECASE)


def served():
    """The model that answers this request, whatever the alias does meanwhile."""
    found = current_app.extensions["champion"].current()
    request.environ[VERSION] = found.info["version"]
    return found


def answer_json(scorer):
    """Score the request's body, count, and answer."""
    model = served()
    X, scores, answer = scorer(model, *_sent())
    note_scores(model, X, scores)
    return Response(answer, mimetype=JSON)


def _sent():
    """The request's body, its content type and its reader."""
    body = request.environ.get(BODY)
    body = request.get_data() if body is None else body
    return body, request.content_type, reader(body, request.content_type)


def reader(body, content_type):
    """What reads a body: the helper where it is heavy."""
    return current_app.extensions["unpacker"] if is_heavy(body, content_type) else directly


def note_scores(model, X, scores):
    """Count and log what a view has scored."""
    note(request.environ, model, X, scores, log=current_app.extensions["prediction_log"])


@api.post("/invocations")
def invocations():
    """MLflow's scoring protocol."""
    return answer_json(score_invocation)


@api.post("/forecast")
def forecast():
    """One coin's days, and what every forecast champion expects after the newest of them."""
    served = current_app.extensions["forecasts"].current()
    body, content_type, run = _sent()
    outlooks = current_app.extensions["outlooks"]
    answer = score_days(served, body, content_type, outlooks, run)
    note_forecasts(request.environ, answer)
    return answer


def predict_json():
    """One coin as a JSON object; the page's form has the same address, and its view calls this."""
    check_content_type(request.content_type, (JSON, *FORMS))
    return answer_json(score_record)


@api.get("/ping")
@api.get("/health")
def health():
    """200 with a model loaded, else 503."""
    served()
    return {"status": "ok"}


@api.get("/version")
def mlflow_version():
    """MLflow's version, as its own server answers."""
    return Response(mlflow.__version__, mimetype="text/plain")


@api.get("/model")
def model():
    """The served model and where it came from."""
    found = served()
    known, info = facts(found), found.info
    described = {name: known[name] for name in DESCRIBED if name in known}
    described["interval"] = {
        name: value for name, value in known["interval"].items() if not isinstance(value, list)
    }
    shown = {name: info[name] for name in info if name not in HIDDEN} | described
    shown |= _followed(current_app.extensions["champion"], found)
    return shown | {"forecasts": _forecasts()}


def _followed(source, served):
    found = source.followed(served)
    return {"followed": found.at, "live": found.live}


def _forecasts():
    """The loaded forecast champions, `{horizon: what is known of it}`."""
    forecasts = current_app.extensions["forecasts"]
    try:
        served = forecasts.current()
    except NoModel:
        return []
    return [
        {"horizon": horizon}
        | {name: each.info[name] for name in each.info if name not in HIDDEN}
        | _followed(forecasts, each)
        | {"target": each.model.metadata["target"]}
        for horizon, each in served.items()
    ]


@api.get("/metrics")
def metrics():
    """Prometheus' text format, all workers together, as of a twentieth of a second ago."""
    return Response(current_app.extensions["metrics"].exposition(), content_type=CONTENT_TYPE)


@api.get("/openapi.json")
def openapi():
    """OpenAPI 3.1, with the numbers of the served model."""
    try:
        known = facts(served())
    except NoModel:
        known = facts()
    return document(known, forecasts=bool(_forecasts()), server=own_address())


def own_address():
    """This server's address as the client has it, a proxy in front included."""
    # Commands are made of it: a header that is no name of a host goes into none.
    host = request.host if HOST.fullmatch(request.host) else "localhost"
    secure = request.is_secure or request.headers.get("X-Forwarded-Proto") == "https"
    return f"http{'s' if secure else ''}://{host}"
