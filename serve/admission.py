"""Who is let in: the key, forms of other sites, and bodies that are whole and not packed."""

import hmac

from flask import abort, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from liquidity.contract import MODEL_NAME
from serve.gateway import BODY_STATUS, FAILURE
from serve.keys import given_key

OPEN_DOORS = ("api.health", "static")
CUT = "The body ended before all of it had arrived: send it again."


def admit(*, key):
    """Let the request on to its view, or raise what it is refused with; an empty `key` is none."""
    if key and request.endpoint not in OPEN_DOORS:
        _check_key(key)
    if failure := request.environ.pop(FAILURE, None):
        raise failure
    if status := request.environ.get(BODY_STATUS):
        abort(status, CUT if status == 400 else None)
    if request.headers.get("Content-Encoding", "identity") != "identity":
        abort(415, "Content-Encoding: bodies are not unpacked here; send it as it is, without one.")


def _check_key(key):
    scheme, given = given_key(request.headers.get("Authorization", ""))
    # A browser sends a remembered password with whatever form another site makes it post.
    if scheme == "basic" and request.method == "POST" and _posted_elsewhere():
        abort(400, "A form of another site was posted here; open this server's own page.")
    if not hmac.compare_digest(given.encode(errors="replace"), key.encode()):
        raise Unauthorized(www_authenticate=WWWAuthenticate("basic", {"realm": MODEL_NAME}))


def _posted_elsewhere():
    """Whether a browser says that another origin's page made the request; programs say nothing."""
    if site := request.headers.get("Sec-Fetch-Site"):
        return site not in ("same-origin", "none")
    # Over plain HTTP browsers leave that header out, but not this one.
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != request.host
