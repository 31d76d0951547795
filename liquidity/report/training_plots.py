"""What a search and the model that it found look like."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from liquidity.contract import (
    COVERAGE,
    EPSILON,
    FEATURES,
    THRESHOLD,
    percent,
)
from liquidity.report.style import BLUE, GREY, ORANGE, axes_of

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
    figure, axes = axes_of((8, 4.5))
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
    figure, axes = axes_of((9, 5))
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
            axes.annotate(
                str(value),
                (position, height),
                (-6, 0),
                "data",
                "offset points",
                ha="right",
                va="center",
                size=9,
                bbox=label,
            )
    axes.axvline(len(scales), color=GREY, linewidth=0.8)
    for share in (0, 0.25, 0.5, 0.75, 1):
        axes.annotate(
            f"{norm.inverse(share):.4f}",
            (len(scales), share),
            (6, 0),
            "data",
            "offset points",
            va="center",
            size=9,
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.set_xlim(-0.35, len(names) - 0.6)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{len(trials)} trials, the best in orange")
    return figure


def predicted_vs_actual(y, y_pred, *, quantile):
    """Predicted against actual liquidity on log axes, with the interval and the threshold."""
    figure, axes = axes_of((6, 6))
    shown = EPSILON / 10  # what stands for zero on a log axis
    low, high = shown, 2 * max(y.max(), y_pred.max(), THRESHOLD)
    line = np.geomspace(low, high, 200)
    lower = np.maximum((line + EPSILON) / np.exp(quantile) - EPSILON, shown)
    upper = (line + EPSILON) * np.exp(quantile) - EPSILON
    axes.fill_betweenx(
        line, lower, upper, color=BLUE, alpha=0.12, label=f"{percent(COVERAGE)} interval"
    )
    axes.plot(line, line, color=GREY, linewidth=1)
    axes.scatter(np.maximum(y, shown), np.maximum(y_pred, shown), s=14, color=BLUE, alpha=0.6)
    axes.axvline(THRESHOLD, color=ORANGE, linestyle="--", linewidth=1)
    axes.axhline(
        THRESHOLD, color=ORANGE, linestyle="--", linewidth=1, label=f"High above {THRESHOLD:g}"
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        ylim=(low, high),
        title="Test rows",
        xlabel="actual liquidity",
        ylabel="predicted liquidity",
    )
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
        xscale="log",
        title=f"Residuals of the test rows, {percent(COVERAGE)} expected between the lines",
        xlabel="predicted liquidity",
        ylabel="log(actual / predicted)",
    )
    right.set_xlabel("rows")
    return figure


def feature_importance(importance):
    """Permutation importance: r2 lost when a feature is shuffled, mean and spread."""
    figure, axes = axes_of((7, 3))
    means, spread = importance.mean(axis=1), importance.std(axis=1)
    order = np.argsort(means)
    names = [FEATURES[number] for number in order]
    axes.barh(names, means[order], xerr=spread[order], color=BLUE, ecolor=GREY)
    axes.set(title="Permutation importance on the test rows", xlabel="r2 lost when shuffled")
    return figure


def confusion_matrix(y, y_pred):
    """Counts of High and Low, actual against predicted."""
    figure, axes = axes_of((4.2, 4))
    actual, predicted = y > THRESHOLD, y_pred > THRESHOLD
    counts = np.array([[(actual == a) & (predicted == p) for p in (0, 1)] for a in (0, 1)]).sum(-1)
    axes.imshow(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)), cmap="Blues", vmax=1.4)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, f"{count:,}", ha="center", va="center", size=14)
    axes.set_xticks([0, 1], ["Low", "High"])
    axes.set_yticks([0, 1], ["Low", "High"])
    axes.set(title="Test rows", xlabel="predicted level", ylabel="actual level")
    return figure


def _values(trials, name):
    return list(dict.fromkeys(trial.params[name] for trial in trials))


def _point(trial):
    return tuple(trial.params[name] for name in TUNED)
