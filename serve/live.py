"""How the last forecasts of a version turned out, by its tags in the registry.

liquidity.monitor writes them, and anybody may: what is not as it writes them is left out.
"""

import re
from datetime import date
from typing import NamedTuple

from liquidity.contract import FINE, FIRST_YEAR, LAST_YEAR, LIVE, STALE, percent
from liquidity.printable import printable

LOWEST = -1e6  # of what is 1 at best, and the lower the worse
REASON = 500  # letters of a reason that are shown


class Figure(NamedTuple):
    """What a figure is, for people, and between which numbers it lies."""

    said: str
    lowest: float
    highest: float
    whole: bool = False

    def read(self, text):
        """The number in a tag, or None where there is none."""
        try:
            value = float(text)
        except (TypeError, ValueError):
            return None
        if not self.lowest <= value <= self.highest or (self.whole and value % 1):
            return None
        return int(value) if self.whole else value


FIGURES = {
    "skill": Figure("1 - squared error / that of today's liquidity", LOWEST, 1),
    "har_skill": Figure("1 - squared error / that of the linear regression", LOWEST, 1),
    "coverage": Figure("Share of the coins within their range", 0, 1),
    "r2": Figure("r2 of the logarithm", LOWEST, 1),
    "brier": Figure("Squared error of the probability of High", 0, 1),
    "rows": Figure("Forecasts scored", 1, 1e12, whole=True),
    "days": Figure("Days scored", 1, 1000, whole=True),
}


def read_live(tags):
    """How a version's forecasts turned out over its last scored days: numbers by the names of
    FIGURES, `until`, the last day, and `verdict` and `reason`, whether it is stale and why.

    Whatever the tags do not tell is left out; None where they tell nothing.
    """
    found = {name: figure.read(tags.get(LIVE + name)) for name, figure in FIGURES.items()}
    found["until"] = _day(tags.get(f"{LIVE}until", ""))
    verdict = tags.get(f"{LIVE}verdict")
    if verdict in (FINE, STALE):
        found |= {"verdict": verdict, "reason": printable(tags.get(f"{LIVE}reason", ""))[:REASON]}
    return {name: value for name, value in found.items() if value is not None} or None


def told(live):
    """The same as a sentence or two for people."""
    stale = live.get("verdict") == STALE
    parts = [f"Stale: {live['reason'] or 'see the report of the last check'}."] if stale else []
    figures = []
    if "skill" in live:
        share, way = _share(abs(live["skill"])), "below" if live["skill"] >= 0 else "above"
        figures.append(f"squared error {share} {way} that of “nothing changes”")
    if "coverage" in live:
        of = f"{live['rows']:,} forecasts" if "rows" in live else "the forecasts"
        figures.append(f"{_share(live['coverage'])} of {of} within their range")
    if figures and {"days", "until"} <= {*live}:
        last = f"last {live['days']} days" if live["days"] > 1 else "last day"
        parts.append(f"All coins, the {last} scored, to {live['until']}: {', '.join(figures)}.")
    elif not stale:
        parts.append("None of its forecasts has been scored yet.")
    return " ".join(parts)


def _share(value):
    return percent(round(value, 3))


def _day(text):
    try:
        day = date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else None
    except ValueError:
        return None
    return text if day and FIRST_YEAR <= day.year <= LAST_YEAR else None
