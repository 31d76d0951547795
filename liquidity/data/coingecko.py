"""CoinGecko's API: one page of the market's coins, asked with patience."""

import email.utils
import json
import queue
import re
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import requests

from liquidity.contract import CHANGES
from liquidity.data.market import api_frame
from liquidity.errors import FetchError, MarketDataError, SettingsError

URL, PRO_URL = "https://api.coingecko.com/api/v3", "https://pro-api.coingecko.com/api/v3"
DEMO_KEY, PRO_KEY = "COINGECKO_DEMO_API_KEY", "COINGECKO_PRO_API_KEY"
BASE_URL = "COINGECKO_BASE_URL"
KEY_HEADERS = {DEMO_KEY: "x-cg-demo-api-key", PRO_KEY: "x-cg-pro-api-key"}
PAGE_SIZE = 250  # the most that a page can hold
TRIES = 4
# Seconds before the second try; doubled before every further one. The public limit is per minute.
FAILURE_WAIT, LIMIT_WAIT = 2, 15
LONGEST_WAIT = 120
# What a try may take altogether, however slowly an answer drips in.
TRY_SECONDS = 60
LARGEST_ANSWER = 20_000_000  # bytes; a page has a fiftieth of it


class _TryAgain(Exception):
    """A failure that may pass, its cure if it does not, and the wait that the server asks for."""

    def __init__(self, reason, cure, *, first_wait, asked=None):
        super().__init__(reason)
        self.cure, self.first_wait, self.asked = cure, first_wait, asked


@dataclass(frozen=True)
class Server:
    """Whom to ask; `key` names the variable that the key came from, if any."""

    url: str
    headers: dict
    key: str | None


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
    return Server(url, headers, key)


def fetch_page(server, page, *, notify):
    """The coins of one page, checked, as the list of dicts that the API answers.

    A failure that may pass is tried again, TRIES times in all; every wait is told to `notify`
    first. Raises FetchError.
    """
    tries = 0
    while True:
        tries += 1
        try:
            return _checked(_get(server, page), page)
        except _TryAgain as error:
            wait = error.first_wait * 2 ** (tries - 1) if error.asked is None else error.asked
            if wait > LONGEST_WAIT:
                raise FetchError(
                    f"page {page}: {error}, and it asks to wait {wait:g} s: {error.cure}."
                ) from error
            if tries == TRIES:
                raise FetchError(f"page {page}: {error}, {tries} times: {error.cure}.") from error
            notify(
                f"Page {page}: {error}; waiting {wait:g} s before try {tries + 1} of {TRIES}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            time.sleep(wait)


def _get(server, page):
    """One try: the parsed body. Raises FetchError, or _TryAgain for what may pass."""
    query = {
        "vs_currency": "usd",
        "order": "market_cap_desc",
        "per_page": PAGE_SIZE,
        "page": page,
        "price_change_percentage": ",".join(CHANGES),
    }
    status, headers, body = _within(
        TRY_SECONDS, lambda: _request(f"{server.url}/coins/markets", query, server.headers)
    )
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    # CoinGecko also sends errors with status 200 and the true one in the body.
    told = answer.get("status", answer) if isinstance(answer, dict) else {}
    told = told if isinstance(told, dict) else {}
    if status == 200 and isinstance(told.get("error_code"), int):
        status = told["error_code"]
    said = told.get("error_message") or told.get("error") or ""
    _check_status(
        server,
        status,
        f" ({said:.200})" if isinstance(said, str) and said else "",
        headers.get("retry-after"),
    )
    if answer is None:
        start = " ".join(body[:60].decode("utf-8", "replace").split())
        raise FetchError(
            f"page {page}: the answer is not JSON but starts with {start!r}: check {BASE_URL}, and "
            "whether a proxy or a login page answers in the server's place."
        )
    return answer


def _check_status(server, status, said, retry_after):
    if status == 429:
        more = "" if server.key else f", or set {DEMO_KEY}"
        raise _TryAgain(
            f"the rate limit is reached{said}",
            f"wait some minutes or fetch fewer --pages{more}",
            first_wait=LIMIT_WAIT,
            asked=_seconds(retry_after),
        )
    if 500 <= status < 600:
        raise _TryAgain(
            f"the server fails with status {status}{said}",
            "try again later",
            first_wait=FAILURE_WAIT,
            asked=_seconds(retry_after),
        )
    if status in (401, 403) and server.key is None:
        raise FetchError(
            f"{server.url} refuses to answer without a key (status {status}){said}: "
            f"set {DEMO_KEY} or {PRO_KEY}."
        )
    if status in (401, 403):
        raise FetchError(
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
        raise _TryAgain("the answer breaks off", "try again later", **failure) from error
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


def _checked(coins, page):
    if coins == []:
        raise FetchError(f"page {page}: the page is empty, the list ends before it: lower --pages.")
    try:
        api_frame(coins, origin=f"page {page}")
    except MarketDataError as error:
        # Of several problems each has a line, under a headline.
        first, *others = str(error).splitlines()[1:] or [str(error)]
        more = f" (and {len(others)} more)" if others else ""
        raise FetchError(f"{first.strip()}{more}") from error
    for row, coin in enumerate(coins, 1):
        if not (isinstance(coin.get("id"), str) and coin["id"]):
            got = coin.get("id")
            raise FetchError(f"page {page}, row {row}, column id: expected a name, got {got!r}.")
    return coins
