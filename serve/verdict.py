"""What the page says of one coin: which fields are wrong, and the result in full."""

import numpy as np

from liquidity.contract import FRACTION, HIGH, INPUTS, LOW, MARKET_CAP, VOLUME
from serve import charts
from serve.inputs import THRESHOLD_FIELD


def problems(known, columns, threshold):
    """By field, what breaks a rule of the model whose complete facts are `known`, as a sentence."""
    found = {}
    for name, (value,) in columns.items():
        lowest, included = known["rules"][name]
        if value < lowest or (value == lowest and not included):
            least = f"{lowest:g}" + (f" ({100 * lowest:g} %)" if _is_fraction(name) else "")
            bound = f"{'at least' if included else 'more than'} {least}"
        elif value > known["largest"]:
            bound = f"at most {known['largest']:,.0f}"
        else:
            continue
        found[name] = f"{INPUTS[name].label} must be {bound}"
    if threshold is not None and abs(threshold) > known["largest"]:
        found[THRESHOLD_FIELD] = f"Threshold must be at most {known['largest']:,.0f}"
    return found


def verdict(model, known, X, scores):
    """What the page shows of one row, X of shape (1, inputs), and its scores.

    `known` are the model's facts, complete, with the threshold that the row was judged by.
    """
    row = np.array(X[0][: len(model.features)], float)
    x = dict(zip(model.features, row.tolist(), strict=True))
    threshold, ranges = known["threshold"], known["training_ranges"]
    ratio, exact = x[VOLUME] / x[MARKET_CAP], known["target_is_ratio"]
    interval = (scores["lower"], scores["upper"]) if scores["in_range"] else None
    headline = ratio if exact else scores["liquidity"]
    return scores | {
        "exact": exact,
        "ratio": ratio,
        "headline": headline,
        "headline_level": _level(headline, threshold),
        "interval": interval,
        "uncertain": bool(interval) and interval[0] <= threshold < interval[1],
        "threshold": threshold,
        "outside": [name for name in x if not ranges[name][0] <= x[name] <= ranges[name][1]],
        "readings": {name: _reading(name, value) for name, value in x.items()},
        "scale": charts.scale(
            headline, scores["liquidity"], interval, threshold, largest=known["largest"]
        ),
        "curves": charts.curves(model, row, known),
    }


def examples(model, known):
    """A few of the model's examples by what they show, `{label: values}`: the largest and the
    smallest coin that is High and that is Low, and the one that is traded least.
    """
    X = np.array([example["values"] for example in known["examples"]], float)
    volume, cap = (X[:, model.features.index(name)] for name in (VOLUME, MARKET_CAP))
    shown = volume / cap if known["target_is_ratio"] else model.score(X)[0]
    high, order, half = shown > known["threshold"], np.argsort(cap), np.median(cap)
    found = {}
    for level, rows in ((LOW, order[~high[order]]), (HIGH, order[high[order]])):
        if len(rows) and cap[rows[-1]] >= half:
            found[f"Huge and {level.lower()}"] = rows[-1]
        if len(rows) and cap[rows[0]] < half:
            found[f"Small and {level.lower()}"] = rows[0]
    least = int(shown.argmin())
    if least not in found.values():
        found["Hardly traded"] = least
    return {label: X[at].tolist() for label, at in found.items()}


def _is_fraction(name):
    return INPUTS[name].unit == FRACTION


def _level(liquidity, threshold):
    return HIGH if liquidity > threshold else LOW


def _reading(name, value):
    """What a field was read as: a fraction as percent, any other number in full."""
    return f"{100 * value:.6g} %" if _is_fraction(name) else f"= {value:,.15g}"
