"""The market's doors: the ranking, a coin's page, and the same as JSON."""

import numpy as np
import pyarrow as pa
from flask import Blueprint, Response, current_app, render_template, request, url_for

from liquidity.contract import COIN, HIGH, LOW, MARKET_CAP, PRICE, RATIO, VOLUME, percent
from liquidity.data.cells import number
from liquidity.report.formatting import short_number
from liquidity.scoring.blocks import csv_header, csv_lines, without_formulas
from serve import charts
from serve.inputs import CSV, InputError
from serve.outlook import SHARE, iso
from serve.request_log import VERSION

market = Blueprint("market", __name__)
PAGE_ROWS = 100
ENDS = ("liquidity", "lower", "upper")
# What the ranking can be sorted by: the heading, and whether the largest comes first.
COLUMNS = {
    "rank": ("Rank", False),
    "coin": ("Coin", False),
    "price": ("Price", True),
    "cap": ("Market cap", True),
    "liquidity": ("Liquidity", True),
    "change": ("Change of rank", True),
    "days": ("Days", True),
}


@market.get("/market")
def ranking():
    """The ranking as a page, or, with `as=csv`, all rows of it as a file."""
    outlook = current()
    chosen = Choice(outlook, request.args)
    if request.args.get("as") == "csv":
        return _csv(outlook, chosen.rows)
    return _page(outlook, chosen)


@market.get("/coins")
def coins():
    """Every coin's newest day and what is expected of it."""
    outlook = current()
    if "coins" not in outlook.kept:
        known = [outlook.row(n) for n in range(len(outlook.coins))]
        answer = {"date": iso(outlook.newest_day), "read": outlook.days.read, "coins": known}
        outlook.kept["coins"] = current_app.json.response(answer).get_data()
    return Response(outlook.kept["coins"], mimetype=current_app.json.mimetype)


@market.get("/coins/<path:coin>")
def coin(coin):
    """A coin's page, or for a program the same numbers."""
    outlook = current()
    n = outlook.find(coin)
    known = coin_facts(outlook, n, share=_share(request.args), position=_position(request.args))
    accepted = request.accept_mimetypes
    if accepted["text/html"] <= accepted["application/json"]:
        return known
    return render_template(
        "coin.html", outlook=outlook, known=known, short=short_number, percent=percent,
        chart=charts.fan(known, outlook.threshold), values=request.args, ratio=RATIO,
        latest=known["history"][-1],
    )  # fmt: skip


def coin_facts(outlook, n, *, share=SHARE, position=None):
    """All that is known of the coin at position `n`, for JSON and its page."""
    forecasts = current_app.extensions["forecasts"]
    tradeable = outlook.tradeable(n, share=share)
    if position is not None:
        tradeable["position"] = position
        for each in tradeable["forecasts"]:
            each["days_needed"] = position / each["lower"] if each["lower"] else None
    return outlook.row(n) | {
        "history": outlook.history(n),
        "tradeable": tradeable,
        "costs": outlook.costs(n),
        "past": outlook.past(n),
        "models": [
            served.reference
            | {"horizon": horizon, "registered": served.info.get("registered")}
            | {"metrics": _test_figures(served.info.get("metrics", {}))}
            | {"live": forecasts.followed(served).live}
            for horizon, served in outlook.served.items()
        ],
    }


def current():
    """The Outlook that answers this request."""
    outlook = current_app.extensions["outlooks"].current()
    request.environ[VERSION] = ",".join(
        f"{horizon}d:{served.info['version']}" for horizon, served in outlook.served.items()
    )
    return outlook


class Choice:
    """Which coins of an Outlook a query asks for, in which order, and which of them are shown."""

    def __init__(self, outlook, query):
        self.search = query.get("q", "").strip()[:100]
        self.level = query.get("level", "")
        self.least_cap = query.get("min_cap", "").strip()[:40]
        self.columns = COLUMNS | {
            key: (f"{heading}, {horizon} d", True)
            for horizon in outlook.forecasts
            for key, heading in ((f"h{horizon}", "Expected"), (f"p{horizon}", "P(High)"))
        }
        # The probability of the first horizon stands in the table, the others only sort.
        first = next(iter(outlook.forecasts), None)
        self.shown = [n for n in self.columns if n[0] != "p" or n in ("price", f"p{first}")]
        self.sort = query.get("sort", "rank")
        if self.sort not in self.columns:
            raise InputError(
                f"sort: expected one of {', '.join(self.columns)}, got {self.sort[:40]!r}."
            )
        largest_first = self.columns[self.sort][1]
        self.descending = query.get("order", "desc" if largest_first else "asc") == "desc"
        self.rows = self._ordered(outlook, self._wanted(outlook))
        self.pages = max(1, -(-len(self.rows) // PAGE_ROWS))
        self.number = min(max(1, query.get("page", 1, int)), self.pages)
        self.page = self.rows[(self.number - 1) * PAGE_ROWS : self.number * PAGE_ROWS].tolist()

    def address(self, **changes):
        """The address of the same choice with something changed."""
        query = {
            "q": self.search, "level": self.level, "min_cap": self.least_cap, "sort": self.sort,
            "order": "desc" if self.descending else "asc", "page": 1,
        } | changes  # fmt: skip
        plain = {"q": "", "level": "", "min_cap": "", "sort": "rank", "order": "asc", "page": 1}
        kept = {name: v for name, v in query.items() if plain.get(name, "") != v}
        if kept.get("sort") and "order" not in kept:
            kept["order"] = query["order"]
        return url_for("market.ranking", **kept)

    def by(self, column):
        """The address that sorts by a column: turned round where it does so already."""
        descending = not self.descending if column == self.sort else self.columns[column][1]
        return self.address(sort=column, order="desc" if descending else "asc")

    def _wanted(self, outlook):
        days = outlook.days
        wanted = np.ones(len(days.coins), bool)
        if self.search:
            text = self.search.casefold()
            wanted &= [
                text in name.casefold() or text == (symbol or "").casefold()
                for name, symbol in zip(days.coins, days.symbols, strict=True)
            ]
        if self.level:
            if self.level not in (HIGH, LOW):
                raise InputError(f"level: expected {HIGH} or {LOW}, got {self.level[:40]!r}.")
            wanted &= (outlook.liquidity > outlook.threshold) == (self.level == HIGH)
        if self.least_cap:
            wanted &= days.cap[days.newest] >= _number("min_cap", self.least_cap)
        return np.flatnonzero(wanted)

    def _ordered(self, outlook, rows):
        days, newest = outlook.days, outlook.days.newest
        values = {
            "rank": outlook.rank, "price": days.price[newest], "cap": days.cap[newest],
            "liquidity": outlook.liquidity, "change": outlook.rank_change,
            "days": outlook.days_known,
        }  # fmt: skip
        for horizon, answer in outlook.forecasts.items():
            values |= {f"h{horizon}": answer["liquidity"], f"p{horizon}": answer["p_high"]}
        if self.sort == "coin":
            order = sorted(rows.tolist(), key=lambda n: days.coins[n].casefold())
            return np.array(order[::-1] if self.descending else order, int)
        key = values[self.sort][rows].astype(float)
        # What is not known comes last, whichever way.
        return rows[np.argsort(-key if self.descending else key, kind="stable")]


def _page(outlook, chosen):
    return render_template(
        "market.html", outlook=outlook, chosen=chosen, iso=iso, percent=percent, ratio=RATIO,
        rows=_rows(outlook, chosen.page), legend=charts.range_legend(outlook.threshold),
    )  # fmt: skip


def draw_first(app, outlook):
    """Draw the ranking as it is asked for first, so that nobody waits for it."""
    app.jinja_env.get_template("coin.html")  # compiles it: 50 ms
    with app.test_request_context("/market"):
        _page(outlook, Choice(outlook, request.args))


def _rows(outlook, positions):
    """The ranking's rows at `positions` as HTML: each is drawn once, whatever it is sorted by."""
    drawn = outlook.kept.setdefault("rows", {})
    if new := [n for n in positions if n not in drawn]:
        ranges = {
            horizon: charts.ranges_of(*(answer[end][new] for end in ENDS))
            for horizon, answer in outlook.forecasts.items()
        }
        row = current_app.jinja_env.get_template("ranked.html").module.row
        legend = charts.range_legend(outlook.threshold)
        for at, n in enumerate(new):
            shown = [each[at] for each in ranges.values()]
            drawn[n] = row(outlook.row(n), shown, legend, short_number)
    return [drawn[n] for n in positions]


def _csv(outlook, rows):
    """The rows as CSV, of which no cell is a formula for a spreadsheet."""
    days, at = outlook.days, outlook.days.newest[rows]
    columns = {
        "rank": outlook.rank[rows],
        COIN: pa.array([days.coins[n] for n in rows], pa.string()),
        "symbol": pa.array([days.symbols[n] for n in rows], pa.string()),
        "date": _dates(days.day[at]),
        PRICE: pa.array(days.price[at], from_pandas=True),  # which says null for NaN
        VOLUME: days.volume[at],
        MARKET_CAP: days.cap[at],
        "liquidity": outlook.liquidity[rows],
        "level": np.where(outlook.liquidity[rows] > outlook.threshold, HIGH, LOW),
        "rank_change": pa.array(outlook.rank_change[rows], pa.int64(), from_pandas=True),
        "days_used": outlook.days_known[rows],
        "days_late": outlook.late[rows],
    }
    for horizon, answer in outlook.forecasts.items():
        columns[f"date_{horizon}d"] = _dates(days.day[at] + horizon)
        for name in (*ENDS, "p_high"):
            columns[f"{name}_{horizon}d"] = answer[name][rows]
    table = without_formulas(pa.table(columns))
    text = csv_header(table.column_names) + csv_lines(table)
    name = f"market_{iso(outlook.newest_day)}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text, mimetype=CSV, headers=headers)


def _dates(days):
    return np.datetime_as_string(days.astype("datetime64[D]"))


def _test_figures(metrics):
    names = ("test_r2", "har_test_r2", "persistence_test_r2", "interval_coverage", "test_brier")
    return {name: metrics[name] for name in names if name in metrics}


def _share(query):
    share = _number("share", query["share"]) if query.get("share") else SHARE
    if not 0 < share <= 1:
        raise InputError(f"share: expected a share of a day's volume, 0 to 1, got {share:g}.")
    return share


def _position(query):
    return _number("position", query["position"]) if query.get("position") else None


def _number(name, text):
    try:
        value = number(text[:40])
    except ValueError as error:
        raise InputError(f"{name}: {error}.") from None
    if not 0 <= value <= 1e18:
        raise InputError(f"{name}: expected a number from 0 to 1e18, got {text[:40]!r}.")
    return value
