"""CoinGecko's API, asked with patience: whom to ask, how often, and what an answer means."""

import email.utils
import json
import queue
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

import requests

from liquidity.errors import FetchError, RefusedError, SettingsError

URL, PRO_URL = "https://api.coingecko.com/api/v3", "https://pro-api.coingecko.com/api/v3"
DEMO_KEY, PRO_KEY = "COINGECKO_DEMO_API_KEY", "COINGECKO_PRO_API_KEY"
BASE_URL = "COINGECKO_BASE_URL"
KEY_HEADERS = {DEMO_KEY: "x-cg-demo-api-key", PRO_KEY: "x-cg-pro-api-key"}
CALLS_PER_MINUTE = "COINGECKO_CALLS_PER_MINUTE"
# By the key: what its smallest plan grants. Without a key the limit is shared with whoever has the
# same address, and is told nowhere.
USUAL_CALLS = {PRO_KEY: 250, DEMO_KEY: 100, None: 10}
TRIES = 4
# Seconds before the second try; doubled before every further one up to a minute, since the public
# limit is per minute.
FAILURE_WAIT, LIMIT_WAIT, OWN_LONGEST_WAIT = 2, 15, 60
LONGEST_WAIT = 120
# What a try may take altogether, however slowly an answer drips in.
TRY_SECONDS = 60
LARGEST_ANSWER = 20_000_000  # bytes; a page has a fiftieth of it
BREAKS_OFF = "the answer breaks off", "try again later"
TIME_RANGE = 10012  # CoinGecko's code for days that a key's plan does not reach


class _TryAgain(Exception):
    """A failure that may pass, its cure if it does not, and the wait that the server asks for.

    `limit` is true of the rate limit, which is no failure of what was asked for.
    """

    def __init__(self, reason, cure, *, first_wait, asked=None, limit=False):
        super().__init__(reason)
        self.cure, self.first_wait, self.asked, self.limit = cure, first_wait, asked, limit


@dataclass(frozen=True)
class Server:
    """Whom to ask; `key` names the variable that the key came from, if any."""

    url: str
    headers: dict
    key: str | None
    calls_per_minute: float


def find_server(environ):
    """Whom to ask, from the environment's variables. Raises SettingsError."""
    key = next((name for name in (PRO_KEY, DEMO_KEY) if environ.get(name, "").strip()), None)
    headers = {"User-Agent": "crypto-liquidity"}
    if key:
        value = environ[key].strip()
        if not re.fullmatch(r"[\x21-\x7e]+", value):
            raise SettingsError(f"{key}: expected a key of letters and digits without spaces.")
        headers[KEY_HEADERS[key]] = value
    url = environ.get(BASE_URL, "").strip().rstrip("/") or (PRO_URL if key == PRO_KEY else URL)
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", url):
        raise SettingsError(f"{BASE_URL}: expected an address such as {URL}, got {url!r}.")
    calls = environ.get(CALLS_PER_MINUTE, "").strip() or str(USUAL_CALLS[key])
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", calls) or float(calls) == 0:
        raise SettingsError(f"{CALLS_PER_MINUTE}: expected a number above 0, got {calls!r}.")
    return Server(url, headers, key, float(calls))


def ask(server, path, query, *, what, notify, limit_tries=TRIES, may_be_gone=False):
    """The parsed answer to a GET of `path`, which is `what` in messages.

    A failure that may pass is tried again, TRIES times in all, and the rate limit `limit_tries`
    times; every wait is told to `notify` first. None where the server does not know the path and
    that `may_be_gone`. Raises FetchError, as RefusedError where the server would refuse whatever
    is asked next.
    """
    tries = Counter()
    while True:
        try:
            return _get(server, path, query, what=what, may_be_gone=may_be_gone)
        except _TryAgain as error:
            tries[error.limit] += 1
            number, most = tries[error.limit], limit_tries if error.limit else TRIES
            wait = min(error.first_wait * 2 ** (number - 1), OWN_LONGEST_WAIT)
            wait = wait if error.asked is None else error.asked
            kind = RefusedError if error.limit else FetchError
            if wait > LONGEST_WAIT:
                raise kind(
                    f"{what}: {error}, and it asks to wait {wait:g} s: {error.cure}."
                ) from error
            if number == most:
                raise kind(f"{what}: {error}, {most} times: {error.cure}.") from error
            notify(f"{what}: {error}; waiting {wait:g} s before try {number + 1} of {most}")
            time.sleep(wait)


def _get(server, path, query, *, what, may_be_gone):
    """One try: the parsed body. Raises FetchError, or _TryAgain for what may pass."""
    status, headers, body = _within(
        TRY_SECONDS, lambda: _request(f"{server.url}{path}", query, server.headers)
    )
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
        # Where no length is given, a body that breaks off is seen only by its end.
        if status == 200 and re.match(rb"[\[{]", body) and not re.search(rb"[\[\]}]\s*$", body):
            raise _TryAgain(*BREAKS_OFF, first_wait=FAILURE_WAIT) from None
    code, said = _told(answer)
    if status == 200 and code is not None:
        status = code
    if status == 404 and may_be_gone and answer is not None:
        return None
    if code == TIME_RANGE:
        raise RefusedError(
            f"{what}: {server.url} refuses so many days{said}: ask for --history 365 at most, or "
            f"set {PRO_KEY}."
        )
    _check_status(server, status, said, headers.get("retry-after"))
    if answer is None:
        start = " ".join(body[:60].decode("utf-8", "replace").split())
        raise FetchError(
            f"{what}: the answer is not JSON but starts with {start!r}: check {BASE_URL}, and "
            "whether a proxy or a login page answers in the server's place."
        )
    return answer


def _told(answer):
    """The code and the words of an error in a body: {"status": {...}}, {"error": {"status": {...}}}
    or {"error": "..."}. CoinGecko also sends errors with status 200 and the true one in the body.
    """
    told = answer if isinstance(answer, dict) else {}
    for name in ("error", "status"):
        told = told[name] if isinstance(told.get(name), dict) else told
    code, said = told.get("error_code"), told.get("error_message") or told.get("error")
    code = code if isinstance(code, int) and not isinstance(code, bool) else None
    return code, f" ({said:.200})" if isinstance(said, str) and said else ""


def _check_status(server, status, said, retry_after):
    if status == 429:
        more = "" if server.key else f", or set {DEMO_KEY}"
        raise _TryAgain(
            f"the rate limit is reached{said}",
            f"wait some minutes or fetch fewer --pages{more}",
            first_wait=LIMIT_WAIT,
            asked=_seconds(retry_after),
            limit=True,
        )
    if 500 <= status < 600:
        raise _TryAgain(
            f"the server fails with status {status}{said}",
            "try again later",
            first_wait=FAILURE_WAIT,
            asked=_seconds(retry_after),
        )
    if status in (401, 403) and server.key is None:
        raise RefusedError(
            f"{server.url} refuses to answer without a key (status {status}){said}: "
            f"set {DEMO_KEY} or {PRO_KEY}."
        )
    if status in (401, 403):
        raise RefusedError(
            f"{server.url} refuses the key of {server.key} (status {status}){said}: check the "
            f"key, and that a demo key is in {DEMO_KEY}, a pro key in {PRO_KEY}."
        )
    if status != 200:
        raise FetchError(
            f"{server.url} answers with status {status}{said}, expected 200: check {BASE_URL} "
            "and the key's variable."
        )


def _request(url, query, headers):
    """Status, headers and body of a GET. Raises FetchError, or _TryAgain for what may pass."""
    failure = {"first_wait": FAILURE_WAIT}
    try:
        # No redirects: the key would go along to wherever they lead.
        with requests.get(
            url, query, headers=headers, timeout=TRY_SECONDS, stream=True, allow_redirects=False
        ) as response:
            body = b""
            for chunk in response.iter_content(2**16):
                body += chunk
                if len(body) > LARGEST_ANSWER:
                    raise FetchError(
                        f"{url} answers with more than {LARGEST_ANSWER:,} bytes: check {BASE_URL}."
                    )
            return response.status_code, response.headers, body
    except requests.exceptions.SSLError as error:
        raise FetchError(
            f"no secure connection to {url}: {_reason(error)}: check {BASE_URL}, the clock and "
            "the certificates of this machine."
        ) from error
    except requests.Timeout as error:
        raise _TryAgain(
            f"no answer within {TRY_SECONDS:g} s", "try again later", **failure
        ) from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise _TryAgain(*BREAKS_OFF, **failure) from error
    except requests.ConnectionError as error:
        reason = f"no connection to {url} ({_reason(error)})"
        raise _TryAgain(reason, f"check the network and {BASE_URL}", **failure) from error
    except requests.RequestException as error:
        raise FetchError(f"{url} cannot be asked ({_reason(error)}): check {BASE_URL}.") from error


def _reason(error):
    """The innermost cause that says something, without the layers of addresses around it."""
    reason, cause = type(error).__name__, error
    while cause:
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return reason


def _within(seconds, work):
    """What `work()` returns or raises, or _TryAgain when that takes longer than `seconds`.

    A timeout of requests bounds each wait for bytes, but not how often one has to wait.
    """
    outcome = queue.SimpleQueue()

    def run():
        try:
            outcome.put((work(), None))
        except BaseException as error:
            outcome.put((None, error))

    # A daemon: an answer that never ends does not keep the job from ending.
    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        reason = f"no complete answer within {seconds:g} s"
        raise _TryAgain(reason, "try again later", first_wait=FAILURE_WAIT) from None
    if error:
        raise error
    return result


def _seconds(retry_after):
    """The seconds of a Retry-After header (a number or a date), or None."""
    text = (retry_after or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, round((when - datetime.now(UTC)).total_seconds()))
