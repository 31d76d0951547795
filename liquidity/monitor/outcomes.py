"""What came of forecasts: each scored once, when its day is in the market."""

from dataclasses import dataclass

import numpy as np

from liquidity.contract import ACTUAL, COIN, TARGET
from liquidity.model.model import EPSILON
from liquidity.monitor import ledger
from liquidity.monitor.ledger import FORECAST, OUTCOME

# A day with fewer coins than this share of those that were forecast is taken for incomplete, and
# waits for the rest: half a day would be scored as a whole one.
COMPLETE = 0.8
LAPSED_DAYS = 14  # of later snapshots, after which a day is scored by what is there, or lapses


@dataclass(frozen=True)
class DayFigures:
    """How the forecasts for one day turned out, as sums over its rows, so that days add up.

    Squared errors are of L = log10(liquidity + EPSILON): of the forecast, of persistence, of HAR
    (NaN where HAR is not known) and of the mean of the rows.
    """

    target: int  # days since 1970
    rows: int
    error: float
    persistence: float
    har: float
    spread: float
    inside: int
    brier: float

    @property
    def figures(self):
        """The LIVE_METRICS by name."""
        return pooled([self])

    @property
    def skill(self):
        """1 - squared error / that of persistence."""
        return _skill(self.error, self.persistence)

    @property
    def coverage(self):
        """The share of the rows within their interval."""
        return self.inside / self.rows


def pooled(days):
    """The LIVE_METRICS of the rows of some days together; the spread is that within the days."""
    total = {
        name: sum(getattr(day, name) for day in days)
        for name in ("rows", "error", "persistence", "har", "spread", "inside", "brier")
    }
    return {
        "live_skill": _skill(total["error"], total["persistence"]),
        "live_har_skill": _skill(total["error"], total["har"]),
        "live_coverage": total["inside"] / total["rows"],
        "live_r2": _skill(total["error"], total["spread"]),
        "live_brier": total["brier"] / total["rows"],
        "live_rows": total["rows"],
    }


def _skill(error, other):
    return 1 - error / other if other > 0 else float("nan")


def day_figures(target, table, threshold):
    """The DayFigures of rows with an actual value, or None where there is none."""
    table = table[table[ACTUAL].notna()]
    if table.empty:
        return None
    names = (ACTUAL, TARGET, "persistence", "har")
    y, mu, persistence, har = (np.log10(table[name].to_numpy() + EPSILON) for name in names)
    actual = table[ACTUAL].to_numpy()
    inside = (table["lower"].to_numpy() <= actual) & (actual <= table["upper"].to_numpy())
    return DayFigures(
        target=int(target),
        rows=len(table),
        error=float(np.sum((y - mu) ** 2)),
        persistence=float(np.sum((y - persistence) ** 2)),
        har=float(np.sum((y - har) ** 2)),
        spread=float(np.sum((y - y.mean()) ** 2)),
        inside=int(inside.sum()),
        brier=float(np.sum((table["p_high"].to_numpy() - (actual > threshold)) ** 2)),
    )


def pending(version):
    """The target days of a version's forecasts that are not settled, ascending."""
    made = {day + version.horizon for day in version.days(FORECAST)}
    return sorted(made - set(version.days(OUTCOME)))


def settle(version, days, market):
    """Write the outcome of each of `days` that has come; yields `(day, scored, lapsed)` for it, in
    rows, and `(day, 0, 0)` for one that has to wait.

    A coin that is not in the snapshot of its day has no actual value; where no snapshot came, no
    coin has, and the day has lapsed.
    """
    for day in days:
        actual = market.liquidity(day)
        overdue = market.last - day > LAPSED_DAYS
        if actual.empty and not overdue:
            yield day, 0, 0
            continue
        table = ledger.read(version, FORECAST, day - version.horizon)
        if len(actual) < COMPLETE * len(table) and not overdue:
            yield day, 0, 0
            continue
        table[ACTUAL] = table[COIN].map(actual)
        ledger.write(version.file(OUTCOME, day), table)
        scored = int(table[ACTUAL].notna().sum())
        yield day, scored, len(table) - scored


def last_figures(version, threshold, *, most):
    """The DayFigures of the last `most` days that were scored, oldest first."""
    found = []
    for day in reversed(version.days(OUTCOME)):
        if len(found) == most:
            break
        figures = day_figures(day, ledger.read(version, OUTCOME, day), threshold)
        found += [figures] if figures else []
    return found[::-1]
