"""What a client gets to read when something is wrong: one shape, translated in one place."""

import logging
from functools import partial
from http import HTTPStatus

from flask import current_app, request
from mlflow.exceptions import INVALID_PARAMETER_VALUE, ErrorCode, MlflowException
from werkzeug.exceptions import HTTPException

from liquidity.errors import MarketDataError
from serve import limits
from serve.champion import NoModel
from serve.inputs import InputError
from serve.market import NoMarket
from serve.outlook import UnknownCoin
from serve.unpacking import HelperLost

LOG = logging.getLogger("serve")
BROKEN_RULE = ErrorCode.Name(INVALID_PARAMETER_VALUE)
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
# A visitor can do nothing about it; what an operator can do, programs and the log are told.
NO_MODEL = "There is no model here yet that could answer; it comes by itself: try again later."
SENTENCES = {
    401: "A key is needed: send `Authorization: Bearer KEY`, or the key as Basic password.",
    404: "There is nothing at this address; GET /openapi.json lists what there is.",
    405: "This address does not take this method; the header Allow names those that it takes.",
    408: "The body did not arrive in time: send it faster or in smaller parts.",
    413: f"The body is larger than {limits.BODY}, or a form of more than {limits.FIELDS} or "
    f"{limits.FORM_TEXT} of text: send it in parts, a CSV as a file.",
    500: "The server failed; its log says how.",
    503: "The server is busy with other uploads: try again in a moment.",
}


def register_errors(app, *, page):
    """Translate every exception of the application; `page(message)` is a browser's answer."""
    answer = partial(_answer, page=page)
    handlers = {
        InputError: lambda e: answer(e.status, str(e)),
        MarketDataError: lambda e: answer(400, str(e)),  # a file's header
        NoModel: lambda e: answer(503, str(e), shown=NO_MODEL),
        NoMarket: lambda e: answer(e.status, str(e)),
        UnknownCoin: lambda e: answer(404, str(e)),
        HelperLost: partial(_helper_lost, answer),
        MlflowException: partial(_model_error, answer),
        HTTPException: partial(_http_error, answer),
        Exception: partial(_bug, answer),
    }
    for kind, handler in handlers.items():
        app.register_error_handler(kind, handler)


def _answer(status, message, *, page, code=None, shown=None):
    """The one error shape: a page for who asks for one, else JSON; a page has `shown`, if given,
    in place of the message.
    """
    accepted = request.accept_mimetypes
    if accepted["text/html"] > accepted["application/json"]:
        response = current_app.make_response(page(shown or message))
    else:
        code = code or CODES.get(status) or HTTPStatus(status).name
        response = current_app.json.response(error_code=code, message=message)
    response.status_code = status
    return response


def _model_error(answer, error):
    if error.error_code != BROKEN_RULE:
        return _bug(answer, error)
    return answer(400, error.message, code=error.error_code)


def _helper_lost(answer, error):
    LOG.error("%s", error)
    return answer(503, SENTENCES[503])


def _http_error(answer, error):
    response = answer(error.code, SENTENCES.get(error.code) or error.description)
    for name, value in error.get_headers():
        if name in ("Allow", "Content-Range", "WWW-Authenticate"):
            response.headers[name] = value
    return response


def _bug(answer, error):
    LOG.error("%s failed", request.endpoint, exc_info=error)
    return answer(500, SENTENCES[500])
