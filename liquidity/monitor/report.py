"""The report of a check: one HTML page that opens with the verdict, and the same as text."""

import base64
import html
import io
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from liquidity.contract import FINE, STALE, percent
from liquidity.monitor import drift
from liquidity.monitor.ledger import Version, as_date
from liquidity.monitor.outcomes import pooled
from liquidity.report.market_report import STYLE
from liquidity.report.style import BLUE, GREY, ORANGE, write_png

SHOWN = {
    "live_skill": "skill",
    "live_har_skill": "skill over HAR",
    "live_coverage": "coverage",
    "live_r2": "r2",
    "live_brier": "Brier",
    "live_rows": "rows",
}


@dataclass
class Standing:
    """How a version stands: its role, its last scored days (MONTH of them, oldest first), what is
    wrong with it, and how its features have moved (a table that informs).
    """

    version: Version
    role: str
    days: list
    reference: dict
    waiting: int
    findings: list = field(default_factory=list)
    features: pd.DataFrame | None = None

    @property
    def name(self):
        """Its name and role, for people."""
        return f"{self.version} ({self.role})"


@dataclass
class Report:
    """What a check found: on the market, on each version, and what it did."""

    last: int
    findings: list
    standings: list
    scored: int
    lapsed: int
    notes: list

    @property
    def stale(self):
        """The champions that something is wrong with; all of them where it is the market."""
        champions = [each for each in self.standings if each.role == "champion"]
        return [each for each in champions if each.findings or self.findings]

    @property
    def is_stale(self):
        """Whether anything is wrong that exit code 3 is for."""
        return bool(self.stale or self.findings)

    @property
    def title(self):
        """Day and verdict in a few words."""
        return f"{as_date(self.last)}, {STALE if self.is_stale else FINE}"

    def headline(self):
        """The verdict, its reasons and what to do, a line each."""
        day = as_date(self.last)
        if not self.is_stale:
            lines = [f"Fine on {day}: no champion is stale."]
        else:
            of = ", ".join(str(each.version) for each in self.stale)
            lines = [f"STALE on {day}: {of or 'the data'}."]
        lines += [f"The data: {f.said}. What to do: {f.cure}." for f in self.findings]
        for each in self.standings:
            lines += [f"{each.name}: {f.said}. What to do: {f.cure}." for f in each.findings]
        return lines

    def text(self):
        """The report for a terminal."""
        lines = [*self.headline(), *self.notes]
        waiting = sum(each.waiting for each in self.standings)
        lines.append(
            f"{self.scored:,} forecasts scored, {self.lapsed:,} lapsed without a value, {waiting} "
            "days have yet to come or to be complete."
        )
        lines += [f"{each.name}: {_alarms(each)}" for each in self.standings if each.days]
        return "\n".join([*lines, *self._table()])

    def _table(self):
        table = standings_table(self.standings)
        return [] if table.empty else [f"The last {drift.MONTH} scored days", table.to_string()]

    def page(self):
        """The report as an HTML page that needs no other file and no network."""
        verdict, *reasons = self.headline()
        parts = [f"<p>{html.escape(line)}</p>" for line in [*reasons, *self.notes]]
        table = standings_table(self.standings)
        if not table.empty:
            parts.append(f"<h2>The last {drift.MONTH} scored days</h2>")
            parts.append(table.to_html(border=0, classes="numbers"))
            parts.append(
                "<p>Skill is 1 - squared error / that of today's liquidity (or of HAR), on the "
                "scale of the logarithm; above 0 the forecast is worth something.</p>"
            )
        for each in self.standings:
            if each.days:
                told = _alarms(each)
                told = html.escape(told[0].upper() + told[1:])
                parts.append(f"<h2>{html.escape(each.name)}</h2><p>{told}</p>")
                parts.append(_picture(curves(each), each.name))
            if each.features is not None and len(each.features):
                parts.append(
                    "<p>Features of the last day against those of the model's test rows; this "
                    "informs and decides nothing: it is high while a model is fine.</p>"
                )
                parts.append(each.features.round(3).to_html(border=0, classes="numbers"))
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(verdict)}</title><style>{STYLE}</style></head><body>"
            f"<h1>{html.escape(verdict)}</h1>{''.join(parts)}</body></html>"
        )


def standings_table(standings):
    """A line per version with scored days: SHOWN figures of them together, as text."""
    rows = {}
    for each in standings:
        if each.days:
            figures = pooled(each.days)
            rows[each.name] = {
                "days": str(len(each.days)),
                "until": str(as_date(each.days[-1].target)),
                **{SHOWN[name]: f"{value:.3f}" for name, value in figures.items()},
                "rows": f"{figures['live_rows']:,}",
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def curves(standing):
    """Skill and coverage of a version by target day."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    days = standing.days
    dates = [as_date(day.target) for day in days]
    coverage = standing.reference["coverage"]
    left.axhline(0, color=GREY, linewidth=1)
    left.plot(dates, [day.skill for day in days], marker=".", color=BLUE)
    left.set(title="Skill over today's liquidity")
    for level, style in (
        (coverage, "-"),
        (coverage - drift.BELOW, "--"),
        (coverage + drift.ABOVE, "--"),
        (coverage - drift.FAR, ":"),
    ):
        right.axhline(level, color=ORANGE, linestyle=style, linewidth=1)
    right.plot(dates, [day.coverage for day in days], marker=".", color=BLUE)
    right.set(title=f"Coverage, expected {percent(coverage)}", ylim=(0, 1.02))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return figure


def _picture(figure, name):
    file = io.BytesIO()
    write_png(figure, file, dpi=110)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(name)} by day" src="data:image/png;base64,{data}">'


def _alarms(standing):
    """How often the rule would have been wrong on the model's own test rows."""
    weeks, alarms = standing.reference["weeks"], standing.reference["false_alarms"]
    if not weeks:
        return f"false alarms are not known: {standing.reference['problem']}."
    return (
        f"on the test rows of its training, {weeks} weeks, it would have been called stale in "
        f"{alarms}."
    )
