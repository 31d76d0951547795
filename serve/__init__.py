"""A thin Flask front end over the champion in the registry; `python -m serve` runs it."""

import hmac
import logging
import re
from http import HTTPStatus

from flask import Flask, abort, current_app, request
from flask.sessions import NullSession, SessionInterface
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import HTTPException, Unauthorized

from serve.gateway import BODY_STATUS

LOG = logging.getLogger("serve")
DEFAULTS = {
    "MODEL_URI": "models:/crypto-liquidity@champion",
    "REFRESH_SECONDS": "10",
    "API_KEY": "",  # empty: no key is asked for
    "CACHE_DIR": "",  # empty: the user's cache folder
    "PREDICTION_LOG": "",  # empty: none
}
NOTHING = NullSession()
MAX_BYTES = 16 * 2**20  # of a body
OPEN_DOORS = ("api.health", "static")
CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    404: "ENDPOINT_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "REQUEST_LIMIT_EXCEEDED",
    415: "UNSUPPORTED_MEDIA_TYPE",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}
SENTENCES = {
    401: "A key is needed: send `Authorization: Bearer KEY`, or the key as Basic password.",
    404: "There is nothing at this address; GET /openapi.json lists what there is.",
    405: "This address does not take this method; the header Allow names those that it takes.",
    408: "The body did not arrive in time: send it faster or in smaller parts.",
    413: "The body is larger than 16 MiB, or a form of more than 1,000 fields or 500 kB of text: "
    "send it in parts, a CSV as a file.",
    500: "The server failed; its log says how.",
    503: "The server is busy with other uploads: try again in a moment.",
}
CUT = "The body ended before all of it had arrived: send it again."


def create_app(config=None, champion=None):
    """The application; `config` overrides LIQUIDITY_* of the environment, which override DEFAULTS.

    `champion` is a serve.champion.Champion or what behaves like one; by default it watches
    MODEL_URI. Raises ValueError for settings that make no sense and OSError for a prediction log
    that cannot be written, but nothing for a registry that is away.
    """
    # Not at the top: the server's parent process imports this package and needs none of it, and
    # prometheus_client reads the environment when it is imported.
    from mlflow.exceptions import MlflowException

    from liquidity.contract import FEATURES
    from serve.access import Access, Recorder
    from serve.api import Shortcut, api
    from serve.champion import Champion, NoModel
    from serve.inputs import InputError
    from serve.metrics import Metrics
    from serve.pages import pages
    from serve.predictions import PredictionLog

    app = Flask(__name__)
    app.session_interface = NoSessions()
    app.url_map.merge_slashes = False  # a wrong path is 404, not a redirect
    app.config.from_mapping(DEFAULTS, MAX_CONTENT_LENGTH=MAX_BYTES)
    app.config.from_prefixed_env("LIQUIDITY", loads=str)
    app.config.from_mapping(config or {})
    api_key(app.config["API_KEY"])
    metrics = app.extensions["metrics"] = Metrics()
    path = app.config["PREDICTION_LOG"]
    app.extensions["prediction_log"] = PredictionLog(path, FEATURES) if path else None
    if champion is None:
        champion = Champion(
            app.config["MODEL_URI"],
            refresh_seconds=refresh_seconds(app.config["REFRESH_SECONDS"]),
            cache_dir=app.config["CACHE_DIR"],
            on_swap=metrics.swapped,
            on_failure=metrics.refresh_failed,
        )
        champion.start()
    app.extensions["champion"] = champion
    app.register_blueprint(api)
    app.register_blueprint(pages)
    app.before_request(_admit)
    app.register_error_handler(InputError, lambda e: _error(e.status, str(e)))
    app.register_error_handler(NoModel, lambda e: _error(503, str(e)))
    # What the model's own rules raise.
    app.register_error_handler(MlflowException, lambda e: _error(400, e.message, code=e.error_code))
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _bug)
    doors = {rule.rule for rule in app.url_map.iter_rules()}
    recorder = app.extensions["recorder"] = Recorder(metrics)
    app.wsgi_app = Shortcut(
        app.wsgi_app, champion=champion, log=app.extensions["prediction_log"],
        key=app.config["API_KEY"],
    )  # fmt: skip
    app.wsgi_app = Access(app.wsgi_app, doors=doors, recorder=recorder)
    return app


class NoSessions(SessionInterface):
    """Nothing is remembered between requests, and no time spent on finding that out."""

    def open_session(self, app, request):  # noqa: D102
        return NOTHING

    def is_null_session(self, session):  # noqa: D102
        return True


def refresh_seconds(text):
    """The setting REFRESH_SECONDS as a number; raises ValueError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e6:
        raise ValueError(f"LIQUIDITY_REFRESH_SECONDS: expected a number > 0, got {text!r}")
    return seconds


def api_key(text):
    """The setting API_KEY; raises ValueError for one that no client could send in a header."""
    if not re.fullmatch("[!-~]*", text):
        raise ValueError(
            "LIQUIDITY_API_KEY: expected printable ASCII without spaces, as a header carries it, "
            "got something else (a line break at its end, perhaps)"
        )
    return text


def parse_model_uri(uri):
    """Name, alias and version out of `models:/name@alias` or `models:/name/version`; the one
    that the URI does not have is None. Raises ValueError.
    """
    found = re.fullmatch(r"models:/([^/@:]+)(?:@([^/@:]+)|/([0-9]+))", uri)
    if not found:
        raise ValueError(
            f"model URI: expected models:/<name>@<alias> or models:/<name>/<version>, got {uri!r}"
        )
    return found.groups()


def close_app(app):
    """End the application's threads; what was not yet logged is."""
    app.extensions["champion"].stop()
    app.extensions["recorder"].close()
    if log := app.extensions["prediction_log"]:
        log.close()


def _admit():
    key = current_app.config["API_KEY"]
    if key and request.endpoint not in OPEN_DOORS:
        _check_key(key)
    if status := request.environ.get(BODY_STATUS):
        abort(status, CUT if status == 400 else None)
    if request.headers.get("Content-Encoding", "identity") != "identity":
        abort(415, "Content-Encoding: bodies are not unpacked here; send it as it is, without one.")


def _check_key(key):
    given = request.authorization
    if given and given.type == "bearer":
        given = given.token or ""
    elif given and given.type == "basic":
        given = given.password or ""
        # A browser sends a remembered password with whatever form another site makes it post.
        if request.method == "POST" and _posted_elsewhere():
            abort(400, "A form of another site was posted here; open this server's own page.")
    else:
        given = ""
    if not hmac.compare_digest(given.encode(), key.encode()):
        raise Unauthorized(www_authenticate=WWWAuthenticate("basic", {"realm": "crypto-liquidity"}))


def _posted_elsewhere():
    """Whether a browser says that another origin's page made the request; programs say nothing."""
    if site := request.headers.get("Sec-Fetch-Site"):
        return site not in ("same-origin", "none")
    # Over plain HTTP browsers leave that header out, but not this one.
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != request.host


def _error(status, message, *, code=None):
    """The one error shape: a page for who asks for one, else JSON."""
    from serve.api import json_response
    from serve.pages import error_page

    accepted = request.accept_mimetypes
    if accepted["text/html"] > accepted["application/json"]:
        response = current_app.make_response(error_page(message))
    else:
        code = code or CODES.get(status) or HTTPStatus(status).name
        response = json_response({"error_code": code, "message": message})
    response.status_code = status
    return response


def _http_error(error):
    response = _error(error.code, SENTENCES.get(error.code) or error.description)
    for name, value in error.get_headers():
        if name in ("Allow", "Content-Range", "WWW-Authenticate"):
            response.headers[name] = value
    return response


def _bug(error):
    LOG.error("%s failed", request.endpoint, exc_info=error)
    return _error(500, SENTENCES[500])
