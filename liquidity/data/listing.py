"""The market's coins, page by page: which can be used, and what is wrong with the others."""

import re
from datetime import UTC, datetime, timedelta

from liquidity.contract import CHANGES, DATE
from liquidity.data.coingecko import ask
from liquidity.data.market import api_frame
from liquidity.errors import FetchError, MarketDataError

PAGE_SIZE = 250  # the most that a page can hold


def fetch_page(server, page, *, notify):
    """One page of the coins by market capitalisation, as the list of dicts that the API answers.

    Returns `(coins, left_out)`: the coins that can be used and a sentence for each other one. Both
    are empty where the list ends before the page. A failure that may pass is tried again, see
    `ask`. Raises FetchError, also where not one coin can be used.
    """
    query = {
        "vs_currency": "usd",
        "order": "market_cap_desc",
        "per_page": PAGE_SIZE,
        "page": page,
        "price_change_percentage": ",".join(CHANGES),
    }
    place = f"page {page}"
    coins = ask(server, "/coins/markets", query, what=place, notify=notify)
    if coins == []:
        return [], []
    coins = _completed(coins)
    try:
        _check(coins, place)
    except MarketDataError as error:
        rows = list(enumerate(coins, 1)) if isinstance(coins, list) else []
        used, left_out = _sift(rows, place) if len(rows) > 1 else ([], [])
        if not used:
            raise FetchError(_first_problem(error)) from error
        return used, left_out
    return coins, []


def _completed(coins):
    """The coins with all fields that any of them has, and a coin without a time with the newest of
    the page: what one of them lacks is then unknown and no fault, also where it is looked at alone.
    """
    if not isinstance(coins, list):
        return coins
    known = [coin for coin in coins if isinstance(coin, dict)]
    names = dict.fromkeys(name for coin in known for name in coin)
    times = (str(coin.get("last_updated")) for coin in known)
    latest = f"{_latest_day()}T24"
    newest = max((t for t in times if re.match(r"\d{4}-\d\d-\d\d", t) and t < latest), default=None)
    completed = []
    for coin in coins:
        if isinstance(coin, dict):
            coin = {name: coin.get(name) for name in names}
            if "last_updated" in coin and coin["last_updated"] is None:
                coin["last_updated"] = newest
        completed.append(coin)
    return completed


def _check(coins, place):
    """Raise MarketDataError for coins that a snapshot cannot have."""
    days, latest = api_frame(coins, origin=place)[DATE].dt.date, _latest_day()
    for row, (coin, day) in enumerate(zip(coins, days, strict=True), 1):
        if day > latest:  # it would be the market's newest day for all
            raise MarketDataError(
                f"{place}, row {row}, column date: expected a day up to {latest}, got {day}."
            )
        for field, column in (("id", "id"), ("name", "coin")):
            if not (isinstance(coin.get(field), str) and coin[field].strip()):
                raise MarketDataError(
                    f"{place}, row {row}, column {column}: expected a name, got "
                    f"{coin.get(field)!r}."
                )


def _sift(rows, place):
    """The usable coins of `rows`, pairs (row, coin), and a sentence for each other one.

    By halves: a check takes as long for one coin as for a hundred.
    """
    try:
        _check([coin for _, coin in rows], place)
    except MarketDataError as error:
        if len(rows) > 1:
            half = len(rows) // 2
            (coins, left_out), others = _sift(rows[:half], place), _sift(rows[half:], place)
            return coins + others[0], left_out + others[1]
        ((row, coin),) = rows
        problem = _first_problem(error).replace("row 1", f"row {row}", 1)
        names = [coin.get(field) for field in ("name", "id")] if isinstance(coin, dict) else []
        name = next((name for name in names if name and str(name).strip()), None)
        return [], [f"{name} is left out: {problem}" if name else f"Left out: {problem}"]
    return [coin for _, coin in rows], []


def _latest_day():
    """Tomorrow, as far as this machine's clock is right."""
    return datetime.now(UTC).date() + timedelta(days=1)


def _first_problem(error):
    """The first of a MarketDataError's problems, and how many more there are."""
    # Of several problems each has a line, under a headline.
    first, *others = str(error).splitlines()[1:] or [str(error)]
    return first.strip() + (f" (and {len(others)} more)" if others else "")
