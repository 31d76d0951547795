"""The registered versions for a terminal: roles, test figures, and live ones where they are."""

import math
from datetime import UTC, datetime
from typing import NamedTuple

from rich.box import SIMPLE
from rich.table import Table

from liquidity.contract import CHALLENGER, LIVE, LIVE_METRICS
from liquidity.report.formatting import short_number

# Figures of a version's run by their headings; one that no version has is no column.
FIGURES = {
    "test r2": "test_r2",
    "log r2": "test_log_r2",
    "HAR r2": "har_test_r2",
    "coverage": "interval_coverage",
    "rows": "rows_used",
}
WHOLE = {"rows"}
DATA_WIDTH = 13  # what is left of 80 columns
FIRST = [f"{LIVE}{name}" for name in ("verdict", "reason", "days", "until")]  # of the live tags


class Listed(NamedTuple):
    """A version: its number, its aliases, when it was registered (ms since 1970), its run's metrics
    and what it read, and its tags.
    """

    number: int
    roles: list[str]
    registered: int
    metrics: dict[str, float]
    data: str
    tags: dict[str, str]


def versions_table(name, versions):
    """A table of the versions of one name, as they come; fits 80 columns."""
    table = Table(
        title=name, title_justify="left", title_style="bold", box=SIMPLE, padding=0, pad_edge=False
    )
    known = {
        heading: metric
        for heading, metric in FIGURES.items()
        if any(metric in version.metrics for version in versions)
    }
    table.add_column("version", justify="right", no_wrap=True)
    table.add_column("role", overflow="fold", width=len(CHALLENGER))
    table.add_column("registered", no_wrap=True)
    for heading in known:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("data", no_wrap=True, overflow="ellipsis", max_width=DATA_WIDTH)
    for version in versions:
        day = datetime.fromtimestamp(version.registered / 1000, UTC)
        figures = [
            _figure(version.metrics.get(metric), heading) for heading, metric in known.items()
        ]
        table.add_row(
            str(version.number), ", ".join(version.roles) or "-", f"{day:%Y-%m-%d}", *figures,
            version.data or "-",
        )  # fmt: skip
    return table


def live_lines(versions):
    """A line per version that has live figures."""
    lines = []
    for version in versions:
        live = {key: value for key, value in version.tags.items() if key.startswith(LIVE)}
        # The verdict, then figures in their order, then whatever else there is.
        order = [*FIRST, *LIVE_METRICS, *sorted({*live} - {*FIRST, *LIVE_METRICS})]
        told = [
            f"{key.removeprefix(LIVE).replace('_', ' ')} {_short(live[key])}"
            for key in order
            if live.get(key)
        ]
        if told:
            lines.append(f"  version {version.number} live: {', '.join(told)}")
    return lines


def _figure(value, heading):
    if value is None:
        return "-"
    return f"{value:,.0f}" if heading in WHOLE else f"{value:.4f}"


def _short(text):
    """A tag as a short number, or as it is where it is none."""
    try:
        value = float(text)
    except ValueError:
        return text
    return short_number(int(value) if math.isfinite(value) and value == int(value) else value)
