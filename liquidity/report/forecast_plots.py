"""How good a forecast is on the test rows, and where; y and mu are L = log10(liquidity + e)."""

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from liquidity.contract import COVERAGE, EPSILON, THRESHOLD, percent
from liquidity.report.style import BLUE, GREY, ORANGE, axes_of

AGES = [1, 2, 3, 5, 7, 14, 30, 60, 90]
BINS = 10  # of the probabilities in the reliability figure
FEWEST = 30  # rows behind a point


def forecast_figures(y, mu, lower, upper, p, *, persistence, day, volatility, days_used, horizon):
    """Figures of the test rows by file name; all arrays of shape (rows,)."""
    inside = (lower <= y) & (y <= upper)
    month = day.astype("datetime64[D]").astype("datetime64[M]")
    return {
        "forecast_vs_actual.png": forecast_vs_actual(y, mu, horizon=horizon),
        "coverage.png": coverage(inside, month, volatility),
        "reliability.png": reliability(y > np.log10(THRESHOLD + EPSILON), p),
        "error_by_history.png": error_by_history(y, mu, persistence, days_used),
        "skill_by_month.png": skill_by_month(y, mu, persistence, month),
    }


def forecast_vs_actual(y, mu, *, horizon):
    """Where rows lie, forecast against actual liquidity on log axes."""
    figure, axes = axes_of((6.5, 6))
    image = axes.hexbin(mu, y, gridsize=70, norm=LogNorm(), cmap="viridis", mincnt=1)
    ends = [min(y.min(), mu.min()), max(y.max(), mu.max())]
    axes.plot(ends, ends, color=GREY, linewidth=1)
    at = np.log10(THRESHOLD + EPSILON)
    axes.axvline(at, color=ORANGE, linestyle="--", linewidth=1)
    axes.axhline(at, color=ORANGE, linestyle="--", linewidth=1)
    ticks = np.arange(np.ceil(ends[0]), np.floor(ends[1]) + 1)
    labels = [f"{10**tick:g}" for tick in ticks]
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    when = "1 day later" if horizon == 1 else f"{horizon} days later"
    axes.set(
        title=f"{len(y):,} test rows, dashed: High above {THRESHOLD:g}",
        xlabel="forecast of liquidity",
        ylabel=f"liquidity {when}",
    )
    figure.colorbar(image, label="rows")
    return figure


def coverage(inside, month, volatility):
    """The share of rows within their interval, by month and decile of volatility (?: unknown)."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    monthly = pd.Series(inside).groupby(month).agg(["mean", "size"])
    monthly = monthly[monthly["size"] >= FEWEST]
    left.plot(monthly.index, monthly["mean"], marker="o", color=BLUE)
    _date_axis(left)
    groups = pd.Series(inside).groupby(volatility).agg(["mean", "size"])
    groups = groups[groups["size"] >= FEWEST]
    labels = ["?" if number == 10 else str(number + 1) for number in groups.index]
    right.bar(labels, groups["mean"], color=BLUE)
    for axes, title in ((left, "by month"), (right, "by decile of volatility")):
        axes.axhline(COVERAGE, color=ORANGE, linestyle="--", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(title=f"Coverage {title}, expected {percent(COVERAGE)}", ylim=(0.5, 1.0))
    left.set_ylabel("share of rows in the interval")
    return figure


def reliability(high, p):
    """How often High comes true where it was given a probability, with the rows behind it."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0, 1, BINS + 1)
    number = np.minimum((p * BINS).astype(int), BINS - 1)
    table = pd.DataFrame({"p": p, "high": high}).groupby(number).agg(["mean", "size"])
    table = table[table["p"]["size"] >= FEWEST]
    top.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    top.plot(table["p"]["mean"], table["high"]["mean"], marker="o", color=BLUE)
    bottom.hist(p, bins=edges, color=BLUE)
    bottom.set(yscale="log", xlabel="P(High) as forecast", ylabel="rows")
    top.set(title="Reliability of P(High)", ylabel="share that was High")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def error_by_history(y, mu, persistence, days_used):
    """The typical error by the days of history, beside that of today's liquidity."""
    figure, axes = axes_of((7, 4))
    age = np.searchsorted(AGES, days_used, side="right") - 1
    errors = pd.DataFrame(
        {"forecast": np.abs(y - mu), "today's liquidity": np.abs(y - persistence)}
    )
    groups = errors.groupby(age)
    median = (10 ** groups.median() - 1)[groups.size() >= FEWEST]
    labels = [_ages(number) for number in median.index]
    for name, colour in (("forecast", BLUE), ("today's liquidity", GREY)):
        axes.plot(labels, 100 * median[name], marker="o", color=colour, label=name)
    axes.set(
        title="Typical error by days of history", xlabel="days known", ylabel="median error, %"
    )
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def skill_by_month(y, mu, persistence, month):
    """1 - squared error / that of today's liquidity, by month; 0 is no better."""
    figure, axes = axes_of((8, 4))
    table = pd.DataFrame({"forecast": (y - mu) ** 2, "today": (y - persistence) ** 2, "rows": 1})
    sums = table.groupby(month).sum()
    sums = sums[(sums["rows"] >= FEWEST) & (sums["today"] > 0)]
    axes.axhline(0, color=GREY, linewidth=1)
    axes.plot(sums.index, 1 - sums["forecast"] / sums["today"], marker="o", color=BLUE)
    _date_axis(axes)
    axes.set(title="Skill over today's liquidity by month", ylabel="skill")
    return figure


def _ages(number):
    first = AGES[number]
    last = AGES[number + 1] - 1 if number + 1 < len(AGES) else None
    return str(first) if last in (first, None) else f"{first}-{last}"


def _date_axis(axes):
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
