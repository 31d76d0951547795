"""A coin's history as CoinGecko's /coins/{id}/market_chart answers it, as one row a day."""

import json
from datetime import UTC, date, datetime, timedelta
from urllib.parse import quote

from liquidity.contract import INPUTS, LARGEST, MARKET_CAP, PRICE, VOLUME
from liquidity.data.coingecko import ask
from liquidity.errors import FetchError

SERIES = {"prices": PRICE, "total_volumes": VOLUME, "market_caps": MARKET_CAP}
LIMIT_TRIES = 8  # six minutes: a limit per minute has passed by then
DAY = 86_400_000  # milliseconds
MOST_POINTS = 100_000  # of a series: eleven years by the hour
EPOCH = date(1970, 1, 1)
# From Bitcoin's first block on: an earlier time is one in seconds, or none.
FIRST_DAY = date(2009, 1, 3)


def fetch_chart(server, coin, *, days, notify):
    """The last `days` days of a coin of `/coins/markets`, as `(rows, odd)` of `daily_rows`.

    None where the server does not know the coin any more. Raises FetchError, see `ask`.
    """
    name = coin_label(coin)
    # Without the interval up to 90 days come by the hour.
    query = {"vs_currency": "usd", "days": days, "interval": "daily"}
    path = f"/coins/{quote(coin['id'], safe='')}/market_chart"
    chart = ask(
        server, path, query, what=name, notify=notify, limit_tries=LIMIT_TRIES, may_be_gone=True
    )
    if chart is None:
        return None
    try:
        return daily_rows(chart, now=datetime.now(UTC))
    except ValueError as error:
        raise FetchError(f"{name}: {error}.") from error


def coin_label(coin):
    """What messages call a coin: names are not unique, and ids say little."""
    return f"{coin['name']} ({coin['id']})"


def daily_rows(chart, *, now):
    """One row per UTC day of a chart, `[day, price, volume, cap]` in the order of the days, with
    the day as text, USD as floats and None for unknown; and what was left out, as sentences.

    A point at exactly 00:00 covers the day before; any other is of the day of the time 12 hours
    before, the middle of the 24 hours that its volume covers. Of a day's points the one that knows
    most counts, and of those the one nearest to the midnight that ends the day: its 24 hours are
    the day's own, and it is the point that a chart by the day has too, so that a history made of
    both is of one kind.
    Values that break the contract's rules, and times before FIRST_DAY or more than a day ahead of
    `now`, are left out. Raises ValueError where the chart has not the documented form, or has
    points of which none can be used.
    """
    lists = [chart.get(key) for key in SERIES] if isinstance(chart, dict) else [None]
    if not all(isinstance(points, list) for points in lists):
        got = json.dumps(chart)
        raise ValueError(
            f"expected {', '.join(SERIES)} as lists of [milliseconds, value], got "
            f"{got if len(got) <= 100 else got[:100] + '...'}"
        )
    if max(map(len, lists)) > MOST_POINTS:
        raise ValueError(f"expected at most {MOST_POINTS:,} points, got {max(map(len, lists)):,}")
    known, odd = {}, []
    for key, column in SERIES.items():
        for point in chart[key]:
            try:
                time, value = _point(point, column, now)
            except ValueError as error:
                odd.append(f"{key}: {error}")
                continue
            values = known.setdefault(time, {})
            if value is not None:
                values[column] = value
    best = {}
    for time, values in known.items():
        day = _day(time)
        rank = len(values), -abs(time - (day + 1) * DAY), time
        if values and (day not in best or rank > best[day][0]):
            best[day] = rank, values
    if odd and not best:
        raise ValueError(f"none of its points can be used, such as {odd[0]}")
    rows = [
        [_date(day).isoformat(), *(best[day][1].get(column) for column in SERIES.values())]
        for day in sorted(best)
    ]
    return rows, odd


def _point(point, column, now):
    """A point's time in milliseconds, and its value, None for unknown; raises ValueError."""
    if not (isinstance(point, list) and len(point) == 2 and _is_number(point[0])):
        raise ValueError(f"expected [milliseconds, value], got {json.dumps(point)[:60]}")
    time, value = int(point[0]), point[1]
    first, last = (FIRST_DAY - EPOCH).days, (now.date() - EPOCH).days + 1
    if not first <= time // DAY <= last:
        raise ValueError(f"expected milliseconds since 1970, got {time}")
    if value is None or (column == MARKET_CAP and value == 0):  # how CoinGecko says unknown
        return time, None
    rule = INPUTS[column].rule
    if not (_is_number(value) and rule.lowest <= value <= LARGEST):
        said = f"{_date(_day(time))}: expected {rule}, at most {LARGEST:g}"
        raise ValueError(f"{said}, got {json.dumps(value)[:30]}")
    return time, float(value)


def _is_number(value):
    # Neither infinite nor NaN, nor an integer of more digits than a float can hold.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= 10**300


def _day(time):
    """The number of the day, from 1970-01-01 on, that the 24 hours up to `time` belong to."""
    return time // DAY - 1 if time % DAY == 0 else (time - DAY // 2) // DAY


def _date(number):
    return EPOCH + timedelta(days=number)
