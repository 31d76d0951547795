"""Values in, figures out: what a market, a search and its model look like."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from liquidity.evaluation import EPSILON
from liquidity.features import FEATURES, TARGET, THRESHOLD
from liquidity.market import CHANGES, MARKET_CAP, PRICE, VOLUME

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#718096"
POINTS = 20_000  # more say nothing more and take longer to draw
TUNED = ("max_depth", "min_samples_split", "n_estimators")


def search_figures(trials):
    """Figures of the trials by file name; trials in grid order."""
    return {
        "grid_heatmap.png": grid_heatmap(trials),
        "r2_by_trees.png": r2_by_trees(trials),
        "parallel_coordinates.png": parallel_coordinates(trials),
    }


def model_figures(y, y_pred, *, quantile, importance):
    """Figures of the final model on the test rows by file name.

    `importance` has the shape (features, repeats): the r2 lost when a feature is shuffled.
    """
    return {
        "predicted_vs_actual.png": predicted_vs_actual(y, y_pred, quantile=quantile),
        "residuals.png": residuals(y, y_pred, quantile=quantile),
        "feature_importance.png": feature_importance(importance),
        "confusion_matrix.png": confusion_matrix(y, y_pred),
    }


def grid_heatmap(trials):
    """Mean r2 over max_depth x min_samples_split, one panel per number of trees."""
    depths, splits, sizes = (_values(trials, name) for name in TUNED)
    r2 = {_point(trial): trial.r2 for trial in trials}
    norm = Normalize(min(r2.values()), max(r2.values()) or 1)
    width = 1.6 + len(sizes) * (0.9 + 0.75 * len(splits))
    figure = Figure(figsize=(min(width, 24), 1.6 + 0.6 * len(depths)), layout="constrained")
    panels = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for panel, size in zip(panels, sizes, strict=True):
        values = np.array([[r2[depth, split, size] for split in splits] for depth in depths])
        image = panel.imshow(values, norm=norm, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            shade = "black" if norm(value) > 0.6 else "white"
            panel.text(column, row, f"{value:.3f}", ha="center", va="center", color=shade, size=8)
        panel.set_xticks(range(len(splits)), splits)
        panel.set_yticks(range(len(depths)), [str(depth) for depth in depths])
        panel.set(title=f"{size} trees", xlabel="min_samples_split")
    panels[0].set_ylabel("max_depth")
    figure.colorbar(image, ax=panels, label="mean r2 over the folds")
    return figure


def r2_by_trees(trials):
    """Mean r2 against the number of trees: colour for depth, line style for split."""
    depths, splits, sizes = (_values(trials, name) for name in TUNED)
    r2 = {_point(trial): trial.r2 for trial in trials}
    figure, axes = _axes((8, 4.5))
    colours = colormaps["viridis"](np.linspace(0, 0.85, len(depths)))
    styles = ["-", "--", ":", "-."]
    for depth, colour in zip(depths, colours, strict=True):
        for number, split in enumerate(splits):
            axes.plot(
                sizes,
                [r2[depth, split, size] for size in sizes],
                color=colour,
                linestyle=styles[number % len(styles)],
                marker="o",
                markersize=4,
                label=f"depth {depth}, split {split}",
            )
    axes.set(title="r2 against the size of the forest", xlabel="trees", ylabel="mean r2")
    axes.set_xticks(sizes)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def parallel_coordinates(trials):
    """One line per trial over the three tuned params and its r2; the best stands out."""
    names = [*reversed(TUNED), "r2"]
    scales = [_values(trials, name) for name in names[:-1]]
    scores = np.array([trial.r2 for trial in trials])
    norm = Normalize(scores.min(), scores.max() if np.ptp(scores) else scores.min() + 1)
    figure, axes = _axes((9, 5))
    best = int(scores.argmax())
    for number, trial in sorted(enumerate(trials), key=lambda item: item[1].r2):
        heights = [
            scale.index(trial.params[name]) / max(1, len(scale) - 1)
            for name, scale in zip(names[:-1], scales, strict=True)
        ]
        axes.plot(
            range(len(names)),
            [*heights, norm(trial.r2)],
            color=ORANGE if number == best else colormaps["viridis"](norm(trial.r2)),
            linewidth=3 if number == best else 1.2,
            alpha=1 if number == best else 0.7,
            label="best" if number == best else None,
        )
    label = {"boxstyle": "round,pad=0.15", "color": "white", "alpha": 0.85}
    for position, scale in enumerate(scales):
        axes.axvline(position, color=GREY, linewidth=0.8)
        for value in scale:
            height = scale.index(value) / max(1, len(scale) - 1)
            axes.annotate(str(value), (position, height), (-6, 0), "data", "offset points",
                          ha="right", va="center", size=9, bbox=label)  # fmt: skip
    axes.axvline(len(scales), color=GREY, linewidth=0.8)
    for share in (0, 0.25, 0.5, 0.75, 1):
        axes.annotate(f"{norm.inverse(share):.4f}", (len(scales), share), (6, 0), "data",
                      "offset points", va="center", size=9)  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.set_xlim(-0.35, len(names) - 0.6)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{len(trials)} trials, the best in orange")
    return figure


def predicted_vs_actual(y, y_pred, *, quantile):
    """Predicted against actual liquidity on log axes, with the interval and the 0.5 lines."""
    figure, axes = _axes((6, 6))
    shown = EPSILON / 10  # what stands for zero on a log axis
    low, high = shown, 2 * max(y.max(), y_pred.max(), THRESHOLD)
    line = np.geomspace(low, high, 200)
    lower = np.maximum((line + EPSILON) / np.exp(quantile) - EPSILON, shown)
    upper = (line + EPSILON) * np.exp(quantile) - EPSILON
    axes.fill_betweenx(line, lower, upper, color=BLUE, alpha=0.12, label="90 % interval")
    axes.plot(line, line, color=GREY, linewidth=1)
    axes.scatter(np.maximum(y, shown), np.maximum(y_pred, shown), s=14, color=BLUE, alpha=0.6)
    axes.axvline(THRESHOLD, color=ORANGE, linestyle="--", linewidth=1)
    axes.axhline(THRESHOLD, color=ORANGE, linestyle="--", linewidth=1, label="High above 0.5")
    axes.set(
        xscale="log", yscale="log", xlim=(low, high), ylim=(low, high),
        title="Test rows", xlabel="actual liquidity", ylabel="predicted liquidity",
    )  # fmt: skip
    axes.legend(loc="lower right", frameon=False)
    return figure


def residuals(y, y_pred, *, quantile):
    """log((actual + e) / (predicted + e)) against the prediction, and its distribution."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    ratio = np.log((y + EPSILON) / (y_pred + EPSILON))
    left.scatter(np.maximum(y_pred, EPSILON / 10), ratio, s=14, color=BLUE, alpha=0.6)
    right.hist(ratio, bins=30, orientation="horizontal", color=BLUE, alpha=0.8)
    for axes in (left, right):
        axes.axhline(0, color=GREY, linewidth=1)
        for edge in (-quantile, quantile):
            axes.axhline(edge, color=ORANGE, linestyle="--", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
    left.set(
        xscale="log", title="Residuals of the test rows, 90 % expected between the lines",
        xlabel="predicted liquidity", ylabel="log(actual / predicted)",
    )  # fmt: skip
    right.set_xlabel("rows")
    return figure


def feature_importance(importance):
    """Permutation importance: r2 lost when a feature is shuffled, mean and spread."""
    figure, axes = _axes((7, 3))
    means, spread = importance.mean(axis=1), importance.std(axis=1)
    order = np.argsort(means)
    names = [FEATURES[number] for number in order]
    axes.barh(names, means[order], xerr=spread[order], color=BLUE, ecolor=GREY)
    axes.set(title="Permutation importance on the test rows", xlabel="r2 lost when shuffled")
    return figure


def confusion_matrix(y, y_pred):
    """Counts of High and Low, actual against predicted."""
    figure, axes = _axes((4.2, 4))
    actual, predicted = y > THRESHOLD, y_pred > THRESHOLD
    counts = np.array([[(actual == a) & (predicted == p) for p in (0, 1)] for a in (0, 1)]).sum(-1)
    axes.imshow(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)), cmap="Blues", vmax=1.4)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, f"{count:,}", ha="center", va="center", size=14)
    axes.set_xticks([0, 1], ["Low", "High"])
    axes.set_yticks([0, 1], ["Low", "High"])
    axes.set(title="Test rows", xlabel="predicted level", ylabel="actual level")
    return figure


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
    """24h_volume against mkt_cap on log axes, coloured by liquidity, with the line at 0.5."""
    figure, axes = _axes((7.5, 6))
    known = frame[(frame[VOLUME] > 0) & (frame[TARGET] > 0)]
    shown = known.sample(min(POINTS, len(known)), random_state=0)
    points = axes.scatter(
        shown[MARKET_CAP], shown[VOLUME], c=shown[TARGET], s=9, alpha=0.7, cmap="viridis",
        norm=LogNorm(1e-4, 10),
    )  # fmt: skip
    if len(shown):
        caps = np.geomspace(shown[MARKET_CAP].min() / 1.5, shown[MARKET_CAP].max() * 1.5, 2)
        axes.plot(caps, THRESHOLD * caps, color=ORANGE, linestyle="--", label="High above the line")
        axes.legend(loc="lower right", frameon=False)
        axes.set(xscale="log", yscale="log")
    figure.colorbar(points, label=TARGET, extend="both")
    of = f" of {len(known):,}, at random" if len(shown) < len(known) else ""
    zeros = len(frame) - len(known)
    axes.set(
        xlabel="mkt_cap (USD)", ylabel="24h_volume (USD)",
        title=f"{len(shown):,} rows{of}{f'; {zeros:,} with volume 0 not shown' if zeros else ''}",
    )  # fmt: skip
    return figure


def liquidity_by_cap(deciles):
    """Boxes of liquidity per decile of mkt_cap: quartiles, whiskers at 5 and 95 %."""
    figure, axes = _axes((8, 4.5))
    floor = EPSILON / 10
    boxes = [
        {"label": str(number), "fliers": [], **{
            key: max(row[share], floor) for key, share in
            {"whislo": "5 %", "q1": "25 %", "med": "median", "q3": "75 %", "whishi": "95 %"}.items()
        }}
        for number, row in deciles.iterrows()
    ]  # fmt: skip
    axes.bxp(boxes, showfliers=False, patch_artist=True, boxprops={"facecolor": "#bee3f8"},
             medianprops={"color": ORANGE, "linewidth": 2})  # fmt: skip
    axes.axhline(THRESHOLD, color=ORANGE, linestyle="--", linewidth=1)
    axes.set(
        yscale="log", ylabel="liquidity", xlabel="decile of mkt_cap, 1 the smallest",
        title="Liquidity by capitalisation: quartiles, whiskers at 5 and 95 %",
    )  # fmt: skip
    return figure


def correlations(matrix):
    """A heat map of a correlation matrix."""
    figure, axes = _axes((1.8 + 0.8 * len(matrix), 1.3 + 0.7 * len(matrix)))
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
    figure, axes = _axes((10, 4))
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
    axes.set(ylim=(0, min(1, 2 * high.max() + 0.02)), ylabel="share of the coins",
             title="High (liquidity above 0.5) and Low by date")  # fmt: skip
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def ranking(ranked, title):
    """Liquidity by rank on a log axis, with its interval where `lower` and `upper` are given.

    `ranked` has the rank as its index; a line parts ranks that do not follow each other. A zero
    stands at the left edge.
    """
    figure, axes = _axes((8, 1.6 + 0.26 * len(ranked)))
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
    labels = [f"{name}  {rank:,}" for rank, name in zip(ranked.index, _plain(ranked["coin"]),
                                                        strict=True)]  # fmt: skip
    axes.set_yticks(positions, labels)
    axes.grid(axis="y", color="#edf2f7")
    axes.set_axisbelow(True)
    of_interval = ", bars hold 90 %" if "lower" in ranked else ""
    axes.set(xscale="log", title=title, xlabel=f"liquidity (orange: High{of_interval})")
    axes.set_xlim(left=edge / 1.3)
    return figure


def rows_by_reason(rows):
    """How many rows are used, dropped and incomplete, by reason."""
    figure, axes = _axes((8, 1.2 + 0.4 * len(rows)))
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
    left.set(xscale="log", yscale="log", xlabel="liquidity on a date", ylabel="on the next date",
             title=f"{len(shown):,} of {len(pairs):,} pairs")  # fmt: skip
    few = len(by_date) <= 31
    right.plot(by_date.index, by_date["rank correlation"], color=BLUE, linewidth=1,
               marker="o" if few else None)  # fmt: skip
    if few:
        right.set_xticks(by_date.index, [f"{date:%Y-%m-%d}" for date in by_date.index])
    right.set(ylim=(min(0, by_date["rank correlation"].min()), 1.02), ylabel="rank correlation",
              title="Rank correlation with the date before")  # fmt: skip
    right.tick_params(axis="x", rotation=30)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _plain(names):
    """Names as labels: a dollar sign would start a formula, and a long one eats the figure."""
    return [str(name).replace("$", r"\$")[:24] for name in names]


def _axes(size):
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _values(trials, name):
    return list(dict.fromkeys(trial.params[name] for trial in trials))


def _point(trial):
    return tuple(trial.params[name] for name in TUNED)
