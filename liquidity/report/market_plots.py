"""What a market looks like."""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from liquidity.contract import (
    CHANGES,
    EPSILON,
    MARKET_CAP,
    PRICE,
    TARGET,
    THRESHOLD,
    VOLUME,
)
from liquidity.report.style import BLUE, GREY, ORANGE, axes_of

POINTS = 20_000  # more say nothing more and take longer to draw


def distributions(frame):
    """Histograms of the values on log axes (zeros are counted in the title), and of the changes."""
    names = [PRICE, VOLUME, MARKET_CAP, TARGET, *(name for name in CHANGES if name in frame)]
    rows = -(-len(names) // 4)
    figure = Figure(figsize=(14, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, 4, squeeze=False).flat
    for name, axes in zip(names, panels, strict=False):
        values = frame[name].dropna()
        if name in CHANGES:
            # One coin that rose a hundredfold would squeeze all others into one bar.
            low, high = values.quantile([0.005, 0.995])
            bins, shown = np.linspace(low, max(high, low + 1e-9), 60), values
            axes.set_title(f"{name}, middle 99 %")
        else:
            shown = values[values > 0]
            low, high = (shown.min(), shown.max()) if len(shown) else (1, 1)
            bins = np.geomspace(low, max(high, 1.01 * low), 60)
            axes.set_xscale("log" if len(shown) else "linear")
            zeros = len(values) - len(shown)
            axes.set_title(f"{name}{f', {zeros:,} zeros not shown' if zeros else ''}")
        axes.hist(shown, bins=bins, color=BLUE)
        if name == TARGET:
            axes.axvline(THRESHOLD, color=ORANGE, linestyle="--", linewidth=1)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_visible(axes.has_data())
    return figure


def volume_against_cap(frame):
    """Volume against capitalisation on log axes, coloured by liquidity, with the threshold."""
    figure, axes = axes_of((7.5, 6))
    known = frame[(frame[VOLUME] > 0) & (frame[TARGET] > 0)]
    shown = known.sample(min(POINTS, len(known)), random_state=0)
    points = axes.scatter(
        shown[MARKET_CAP],
        shown[VOLUME],
        c=shown[TARGET],
        s=9,
        alpha=0.7,
        cmap="viridis",
        norm=LogNorm(1e-4, 10),
    )
    if len(shown):
        caps = np.geomspace(shown[MARKET_CAP].min() / 1.5, shown[MARKET_CAP].max() * 1.5, 2)
        axes.plot(caps, THRESHOLD * caps, color=ORANGE, linestyle="--", label="High above the line")
        axes.legend(loc="lower right", frameon=False)
        axes.set(xscale="log", yscale="log")
    figure.colorbar(points, label=TARGET, extend="both")
    of = f" of {len(known):,}, at random" if len(shown) < len(known) else ""
    zeros = len(frame) - len(known)
    axes.set(
        xlabel=f"{MARKET_CAP} (USD)",
        ylabel=f"{VOLUME} (USD)",
        title=f"{len(shown):,} rows{of}{f'; {zeros:,} with volume 0 not shown' if zeros else ''}",
    )
    return figure


def liquidity_by_cap(deciles):
    """Boxes of liquidity per decile of mkt_cap: quartiles, whiskers at 5 and 95 %."""
    figure, axes = axes_of((8, 4.5))
    floor = EPSILON / 10
    boxes = [
        {
            "label": str(number),
            "fliers": [],
            **{
                key: max(row[share], floor)
                for key, share in {
                    "whislo": "5 %",
                    "q1": "25 %",
                    "med": "median",
                    "q3": "75 %",
                    "whishi": "95 %",
                }.items()
            },
        }
        for number, row in deciles.iterrows()
    ]
    axes.bxp(
        boxes,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": "#bee3f8"},
        medianprops={"color": ORANGE, "linewidth": 2},
    )
    axes.axhline(THRESHOLD, color=ORANGE, linestyle="--", linewidth=1)
    axes.set(
        yscale="log",
        ylabel="liquidity",
        xlabel=f"decile of {MARKET_CAP}, 1 the smallest",
        title="Liquidity by capitalisation: quartiles, whiskers at 5 and 95 %",
    )
    return figure


def correlations(matrix):
    """A heat map of a correlation matrix."""
    figure, axes = axes_of((1.8 + 0.8 * len(matrix), 1.3 + 0.7 * len(matrix)))
    values = matrix.to_numpy(float)
    image = axes.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r")
    for (row, column), value in np.ndenumerate(values):
        shade = "white" if abs(value) > 0.6 else "black"
        text = "-" if np.isnan(value) else f"{value:.2f}"
        axes.text(column, row, text, ha="center", va="center", color=shade)
    axes.set_xticks(range(len(matrix)), matrix.columns, rotation=30)
    axes.set_yticks(range(len(matrix)), matrix.index)
    axes.set_title("Correlation of the logarithms")
    figure.colorbar(image)
    return figure


def levels_by_date(by_date):
    """The shares of High and Low on every date."""
    figure, axes = axes_of((10, 4))
    high = by_date["High share"].to_numpy(float)
    if len(by_date) <= 31:
        labels = [f"{date:%Y-%m-%d}" for date in by_date.index]
        axes.bar(labels, high, color=ORANGE, label="High", width=0.8)
        axes.bar(labels, 1 - high, bottom=high, color="#bee3f8", label="Low", width=0.8)
        axes.tick_params(axis="x", rotation=45 if len(labels) > 6 else 0)
        axes.margins(x=0.5 if len(labels) == 1 else 0.05)
    else:
        axes.stackplot(
            by_date.index, high, 1 - high, colors=[ORANGE, "#bee3f8"], labels=["High", "Low"]
        )
        axes.margins(x=0)
    # Where High is rare, its changes would be a hair at the bottom.
    axes.set(
        ylim=(0, min(1, 2 * high.max() + 0.02)),
        ylabel="share of the coins",
        title=f"High (liquidity above {THRESHOLD:g}) and Low by date",
    )
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def ranking(ranked, title):
    """Liquidity by rank on a log axis, with its interval where `lower` and `upper` are given.

    `ranked` has the rank as its index; a line parts ranks that do not follow each other. A zero
    stands at the left edge.
    """
    figure, axes = axes_of((8, 1.6 + 0.26 * len(ranked)))
    liquidity = ranked[TARGET].to_numpy(float)
    edge = min(liquidity[liquidity > 0], default=EPSILON) / 3
    positions = -np.arange(len(ranked))
    high = ranked["level"] == "High" if "level" in ranked else ranked[TARGET] > THRESHOLD
    colours = np.where(high, ORANGE, BLUE)
    if "lower" in ranked:
        lower, upper = ranked["lower"].clip(lower=edge), ranked["upper"].clip(lower=edge)
        axes.hlines(positions, lower, upper, colors=colours, linewidth=4, alpha=0.35)
    axes.scatter(np.maximum(liquidity, edge), positions, c=colours, s=28, zorder=3)
    gaps = np.flatnonzero(np.diff(ranked.index) > 1)
    for gap in gaps:
        axes.axhline(positions[gap] - 0.5, color=GREY, linewidth=1)
    axes.axvline(THRESHOLD, color=ORANGE, linestyle="--", linewidth=1)
    labels = [
        f"{name}  {rank:,}" for rank, name in zip(ranked.index, _plain(ranked["coin"]), strict=True)
    ]
    axes.set_yticks(positions, labels)
    axes.grid(axis="y", color="#edf2f7")
    axes.set_axisbelow(True)
    of_interval = ", bars: the interval" if "lower" in ranked else ""
    axes.set(xscale="log", title=title, xlabel=f"liquidity (orange: High{of_interval})")
    axes.set_xlim(left=edge / 1.3)
    return figure


def rows_by_reason(rows):
    """How many rows are used, dropped and incomplete, by reason."""
    figure, axes = axes_of((8, 1.2 + 0.4 * len(rows)))
    shown = rows[::-1]
    bars = axes.barh(shown.index, shown["rows"], color=BLUE)
    axes.bar_label(bars, [f"{count:,}" for count in shown["rows"]], padding=4)
    axes.margins(x=0.15)
    axes.set(title="Rows read, used, dropped and with gaps", xlabel="rows")
    return figure


def persistence(pairs, by_date):
    """Liquidity against that of the same coin on the date before, and how well ranks hold."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = pairs.sample(min(POINTS, len(pairs)), random_state=0)
    floor = EPSILON / 10
    before, after = (shown[name].clip(lower=floor) for name in ("before", "after"))
    left.scatter(before, after, s=8, alpha=0.5, color=BLUE)
    left.axline((floor, floor), (1, 1), color=GREY, linewidth=1)
    for line in (left.axvline, left.axhline):
        line(THRESHOLD, color=ORANGE, linestyle="--", linewidth=1)
    left.set(
        xscale="log",
        yscale="log",
        xlabel="liquidity on a date",
        ylabel="on the next date",
        title=f"{len(shown):,} of {len(pairs):,} pairs",
    )
    few = len(by_date) <= 31
    right.plot(
        by_date.index,
        by_date["rank correlation"],
        color=BLUE,
        linewidth=1,
        marker="o" if few else None,
    )
    if few:
        right.set_xticks(by_date.index, [f"{date:%Y-%m-%d}" for date in by_date.index])
    right.set(
        ylim=(min(0, by_date["rank correlation"].min()), 1.02),
        ylabel="rank correlation",
        title="Rank correlation with the date before",
    )
    right.tick_params(axis="x", rotation=30)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _plain(names):
    """Names as labels: a dollar sign would start a formula, and a long one eats the figure."""
    return [str(name).replace("$", r"\$")[:24] for name in names]
