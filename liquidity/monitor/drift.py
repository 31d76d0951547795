"""Has a champion gone stale, and is it the model or the data?

What decides is realised skill, and what makes forecasts worthless at once: days that mean other
days, columns in other units, snapshots that do not come. The limits were chosen by counting on a
real panel's past (docs/monitoring.md has the table, benchmarks/monitor.py makes it): tests of
distributions are no help, PSI is high while a model is fine and 0 while its weekday is wrong. They
are told, and decide nothing.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from liquidity.contract import CHANGE_1H, COIN, FORECAST_FEATURES, PRICE, percent
from liquidity.data.market import LEAST_CHANGES, USUAL_1H
from liquidity.forecast.weekdays import DailyChanges
from liquidity.model.model import HISTORY_FEATURES
from liquidity.monitor.ledger import FORECAST, as_date, clocks

# A day is bad where the forecasts are worse than today's liquidity, or their intervals hold a share
# of the rows that is that much below or above what they should.
BELOW, ABOVE = 0.15, 0.085
BAD, WINDOW = 4, 7  # so many bad days among the last ones, the latest included
# So far below, one day is enough: volumes that a vendor doubles are what forecasts start from the
# next day, and look right again. Unless prices moved too, by so much at the median: then it was the
# market itself, as on one day in ten.
FAR, STORM = 0.2, 0.05
LEAST_ROWS = 30  # of a day that is judged
MONTH = 30  # scored days, of the figures that a version's tags have
OLDEST = 365  # days since the version was registered; a forecast hardly ages
LATE = 3  # days that the newest snapshot, or the newest forecast, may lie back
MISSING, WEEK = 3, 7  # so many days without a snapshot among the last ones
WEEKDAY_WINDOWS = (28, 60, 180)  # days whose weekdays are compared: the longer, the surer
# A column of so large a share of the coins is beyond this factor from the day before.
JUMP, JUMPED = 10, 0.2
SHORT, STEADY, LAGS = 3, 14, 28  # forecasts whose days lie otherwise to the clock than those before
BINS = 10  # of PSI


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: `kind` in a word, a clause that says what, and what to do.

    `retrain` is whether another training can cure it: of the model's faults, not of the data's.
    """

    kind: str
    said: str
    cure: str
    retrain: bool = False


RETRAIN = "train again on the newest data (--retrain, or train.py): the gate decides"


def judge_champion(version, days, reference, market, *, registered, today):
    """All Findings on a champion but those on the market itself.

    `days` are its last DayFigures, oldest first, `registered` and `today` days since 1970.
    """
    return [
        *judge_forecasts(version.days(FORECAST), market.last),
        *judge_clock(clocks(version, LAGS)),
        *judge_weekdays(market, reference["weekday_profile"]),
        *judge_days(days, reference["coverage"], price_moves(market, 2 * WEEK)),
        *judge_age(registered, today),
    ]


def judge_days(days, coverage, moves):
    """The Findings in the last WINDOW DayFigures that were scored, oldest first; `coverage` is the
    share that the intervals are to hold, `moves` what `price_moves` says of the days.
    """
    days = [day for day in days if day.rows >= LEAST_ROWS][-WINDOW:]
    if not days:
        return []
    latest, low = days[-1], coverage - BELOW
    if latest.coverage < coverage - FAR and moves.get(latest.target, 0) < STORM:
        return [
            Finding(
                "coverage",
                f"its intervals held {percent(round(latest.coverage, 2))} of the coins on "
                f"{as_date(latest.target)}, where {percent(coverage)} are expected and prices were "
                "calm",
                f"look at the data of that day first; if they are right, {RETRAIN}",
                retrain=True,
            )
        ]
    outside = [not low <= day.coverage <= coverage + ABOVE for day in days]
    worse = [day.skill < 0 for day in days]
    bad = [a or b for a, b in zip(outside, worse, strict=True)]
    if not bad[-1] or sum(bad) < BAD:
        return []
    said = [f"worse than today's liquidity on {sum(worse)}"] if any(worse) else []
    if any(outside):
        said.append(
            f"with a coverage outside {percent(low)} to {percent(coverage + ABOVE)} on "
            f"{sum(outside)}"
        )
    kind = "skill" if any(worse) else "coverage"
    said = f"{' and '.join(said)} of the last {len(days)} scored days, the latest included"
    return [Finding(kind, said, RETRAIN, retrain=True)]


def judge_age(registered, today):
    """The Finding on a version registered on a day, or none; days since 1970."""
    age = today - registered
    said = f"it was registered {age} days ago, and {OLDEST} are the limit"
    return [Finding("age", said, RETRAIN, retrain=True)] if age > OLDEST else []


def judge_forecasts(made, last):
    """The Finding where the newest of the forecasts made is older than the newest snapshot."""
    since = f"since {as_date(made[-1])}" if made else "yet"
    if made and last - made[-1] <= LATE:
        return []
    said = f"no forecast was made {since}, and the snapshots reach to {as_date(last)}"
    return [Finding("forecasts", said, "run `python -m liquidity.monitor forecast` every day")]


def judge_market(market, today):
    """The Findings on the market itself: what is missing, and columns in other units."""
    return _snapshots(market, today) + _units(market) + _percent(market)


def _snapshots(market, today):
    cure = "see why fetching fails; forecasts for days without a snapshot cannot be scored"
    late = today - market.last
    if late > LATE:
        said = f"the newest snapshot is of {as_date(market.last)}, {late} days ago"
        return [Finding("snapshots", said, cure)]
    first = max(market.last - WEEK + 1, int(market.day[0]))
    days = set(market.day[market.rows(first, market.last)].tolist())
    missing = [day for day in range(first, market.last) if day not in days]
    if len(missing) < MISSING:
        return []
    named = ", ".join(str(as_date(day)) for day in missing)
    said = f"{len(missing)} of the last {WEEK} days have no snapshot: {named}"
    return [Finding("snapshots", said, cure)]


def _pairs(market, days):
    """The positions of rows of the last `days` days and of the same coins the day before."""
    rows = np.arange(len(market.day))[market.rows(market.last - days, market.last)]
    coin = pd.factorize(market.frame[COIN].iloc[rows])[0]
    order = np.lexsort((market.day[rows], coin))
    coin, rows = coin[order], rows[order]
    follows = (np.diff(coin) == 0) & (np.diff(market.day[rows]) == 1)
    return rows[1:][follows], rows[:-1][follows]


def price_moves(market, days):
    """How far prices went on each of the last days since the day before, as the median over the
    coins of the change as a share, up or down: `{day: share}`.
    """
    rows, before = _pairs(market, days)
    price = np.maximum(market.frame[PRICE].to_numpy(float), 1e-12)
    change = pd.Series(np.abs(np.log10(price[rows] / price[before])))
    return (10 ** change.groupby(market.day[rows]).median() - 1).to_dict()


def _units(market):
    rows, before = _pairs(market, WEEK)
    found = []
    for name in FORECAST_FEATURES:
        values = np.maximum(market.frame[name].to_numpy(float), 1e-12)
        jumped = np.abs(np.log10(values[rows] / values[before])) >= np.log10(JUMP)
        days = pd.Series(jumped).groupby(market.day[rows]).agg(["mean", "size"])
        days = days[(days["mean"] >= JUMPED) & (days["size"] >= LEAST_ROWS)]
        if len(days):
            share = percent(round(days["mean"].iloc[-1], 2))
            said = (
                f"{name} of {share} of the coins is more than {JUMP} times as large or as small on "
                f"{as_date(days.index[-1])} as on the day before"
            )
            found.append(Finding("units", said, f"correct {name} from that day on"))
    return found


def _percent(market):
    if CHANGE_1H not in market.frame:
        return []
    known = market.frame[CHANGE_1H].iloc[market.rows(market.last, market.last)].dropna().abs()
    median, (low, high) = known.median(), USUAL_1H
    if len(known) < LEAST_CHANGES or low <= median <= high:
        return []
    said = (
        f"{CHANGE_1H} of half of the coins is beyond {median:.2g} on {as_date(market.last)}, usual "
        f"is {low} to {high}"
    )
    return [Finding("units", said, f"write {CHANGE_1H} as a fraction: 0.022 is 2.2 %")]


def judge_weekdays(market, profile):
    """The Finding where the market's days mean others than those that a model has learned, by its
    mean change of L on each weekday (None: it has not kept one).
    """
    if profile is None:
        return []
    for window in WEEKDAY_WINDOWS:
        rows, before = _pairs(market, window)
        changes = DailyChanges()
        changes.add(market.day[rows], market.level[rows] - market.level[before])
        shift = changes.likely_shift(profile) if len(rows) else 0
        if shift:
            said = (
                f"by the weekdays of the last {window} days the snapshots call a day what the "
                f"model knows as the day {'after' if shift > 0 else 'before'} it"
            )
            return [Finding("weekdays", said, f"if that is so, use --day-shift {shift}")]
    return []


def judge_clock(lags):
    """The Finding where the last forecasts were made on days that lie otherwise to the clock than
    before; `lags` are days between both, oldest first.

    The weekdays would tell within a month; the day on which the labels change is seen at once.
    """
    lags = lags[-LAGS:]
    newest, earlier = lags[-SHORT:], lags[:-SHORT]
    if len(earlier) < STEADY or len(set(newest)) > 1:
        return []
    usual = max(set(earlier), key=earlier.count)
    if abs(newest[0] - usual) != 1 or earlier.count(usual) <= len(earlier) / 2:
        return []
    said = (
        f"the newest day of the snapshots lies {newest[0]} days before the clock's, and before "
        f"that it was {usual}: the source seems to call a day otherwise"
    )
    cure = (
        f"compare a day with the source; if that is so, add {newest[0] - usual} to the dates from "
        "then on; after a change of the hour at which you fetch, leave it"
    )
    return [Finding("weekdays", said, cure)]


def feature_drift(quantiles, X):
    """How far the features of some rows, X of HISTORY_FEATURES, are from those of a version's
    reference: a table by feature with `psi` (over BINS bins of equal shares) and `wasserstein`, in
    units of the distance between the quartiles.

    It informs and decides nothing.
    """
    table = {}
    for column, name in enumerate(HISTORY_FEATURES):
        values = X[:, column][~np.isnan(X[:, column])]
        if name not in quantiles or not len(values):
            continue
        known = np.array(quantiles[name])
        shares = np.linspace(0, 1, len(known))
        edges = np.unique(np.interp(np.linspace(0, 1, BINS + 1)[1:-1], shares, known))
        # What a bin expects, where several quantiles are equal.
        expected = np.diff(np.interp(edges, known, shares, left=0, right=1), prepend=0, append=1)
        got = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) / len(values)
        got, expected = np.maximum(got, 1e-4), np.maximum(expected, 1e-4)
        apart = np.mean(np.abs(np.quantile(values, shares) - known))
        quartiles = np.subtract(*np.interp([0.75, 0.25], shares, known))
        table[name] = {
            "psi": float(np.sum((got - expected) * np.log(got / expected))),
            "wasserstein": float(apart / quartiles) if quartiles > 0 else float("nan"),
        }
    return pd.DataFrame.from_dict(table, orient="index", columns=["psi", "wasserstein"])
