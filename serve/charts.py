"""Values in, coordinates out: the scale and the what-if curves that the page draws as SVG."""

import math

import numpy as np

from liquidity.contract import EPSILON, FRACTION, INPUTS, MARKET_CAP, VOLUME
from liquidity.report.formatting import short_number

WIDTH, HEIGHT = 300, 150
LEFT, RIGHT, TOP, BOTTOM = 38, 8, 8, 26
POINTS = 61
# What is as good as none is drawn where the axis begins; it ends at 10 unless more is shown.
LOWEST, HIGHEST = EPSILON, 10
FACTOR = 100  # an amount is drawn from a hundredth to a hundredfold
CHANGE = 0.1  # a fraction from ten points below to ten above


def amount(liquidity):
    """A liquidity as the page says it."""
    if math.isinf(liquidity):
        return "more than 1e308"
    return f"{liquidity:.4f}" if 1e-3 <= liquidity < 1e5 else f"{liquidity:.3g}"


def scale(headline, estimate, interval, threshold, *, largest):
    """Positions in percent of the width, on a log axis: headline, estimate, threshold and ticks,
    and those of the `interval`, (lower, upper), unless it is None.
    """
    highest = _highest(largest, headline, estimate, *(interval or ()))
    lower, upper = (_percent(end, highest) for end in interval or (0, 0))
    return {
        "headline": _percent(headline, highest),
        "estimate": _percent(estimate, highest),
        "interval": interval and {"x": lower, "width": max(upper - lower, 0.5)},
        "threshold": _percent(threshold, highest),
        "lowest": f"{LOWEST:g}",
        "ticks": [(_percent(tick, highest), f"{tick:g}") for tick in _decades(highest)],
    }


def curves(model, x, facts):
    """One chart per feature: the score when that value alone changes around the row x (features,).

    `facts` are the model's, complete. The interval is drawn where the model has seen such rows, the
    ratio of volume and cap where it is what the model has learned, and depends on the value.
    """
    grids = [_grid(name, value, facts) for name, value in zip(model.features, x, strict=True)]
    X = np.repeat(x[None], POINTS * len(grids), axis=0)
    for column, grid in enumerate(grids):
        X[POINTS * column : POINTS * (column + 1), column] = grid
    liquidity, lower, upper, in_range = model.score(X)
    with np.errstate(over="ignore"):
        ratio = X[:, model.features.index(VOLUME)] / X[:, model.features.index(MARKET_CAP)]
    lines = {
        "liquidity": liquidity,
        "lower": np.where(in_range, lower, np.nan),
        "upper": np.where(in_range, upper, np.nan),
    }
    highest = _highest(facts["largest"], liquidity.max(), *upper[in_range])
    charts = []
    for number, (name, grid, value) in enumerate(zip(model.features, grids, x, strict=True)):
        at = slice(POINTS * number, POINTS * (number + 1))
        own = {key: values[at] for key, values in lines.items()}
        if facts["target_is_ratio"] and name in (VOLUME, MARKET_CAP):
            own["ratio"] = ratio[at]
        charts.append(_curve(name, grid, value, facts["threshold"], highest, own))
    return charts


def _is_fraction(name):
    return INPUTS[name].unit == FRACTION


def _grid(name, value, facts):
    low, high = facts["training_ranges"][name]
    if _is_fraction(name):
        reach = max(CHANGE, CHANGE * abs(value))
        return np.linspace(max(facts["rules"][name][0], value - reach), value + reach, POINTS)
    if value <= 0:  # a log axis has no place for it
        low, high = max(low, 1e-12), max(high, 1e-6)
    else:
        low, high = max(value / FACTOR, 1e-300), min(value * FACTOR, facts["largest"])
    return np.geomspace(low, max(high, low * 10), POINTS)


def _curve(name, grid, value, threshold, highest, lines):
    """A chart from its `lines` by name, each of shape (POINTS,), NaN where there is nothing."""
    log = not _is_fraction(name)
    across = np.log(grid) if log else grid
    at = math.log(max(value, grid[0])) if log else value
    x = LEFT + (WIDTH - LEFT - RIGHT) * (across - across[0]) / (across[-1] - across[0])
    here = float(np.interp(at, across, x))
    y = {key: _height(values, highest) for key, values in lines.items()}
    seen = ~np.isnan(y["lower"])  # one stretch: each value of a row has one usual range
    ratio = lines.get("ratio")
    ticks = [0, POINTS // 2, POINTS - 1]
    liquidity = lines["liquidity"]
    return {
        "name": name,
        "line": _points(x, y["liquidity"]),
        "band": _points([*x[seen], *x[seen][::-1]], [*y["upper"][seen], *y["lower"][seen][::-1]]),
        "ratio": ""
        if ratio is None
        else _points(x[ratio <= highest], y["ratio"][ratio <= highest]),
        "x": round(here, 1),
        "y": round(float(np.interp(here, x, y["liquidity"])), 1),
        "threshold": round(float(_height(threshold, highest)), 1),
        "x_ticks": [(round(float(x[tick]), 1), _short(name, grid[tick])) for tick in ticks],
        "y_ticks": [
            (round(float(_height(tick, highest)), 1), f"{tick:g}") for tick in _decades(highest)
        ],
        "least": amount(liquidity.min()),
        "most": amount(liquidity.max()),
        "from": _short(name, grid[0]),
        "to": _short(name, grid[-1]),
        "at": int(np.argmin(np.abs(x - here))),
        "readings": [
            _reading(_short(name, grid[point]), {key: lines[key][point] for key in lines})
            for point in range(POINTS)
        ],
    }


def _reading(value, scores):
    """What the curves say at one value, as a text."""
    text = f"{value}: {amount(scores['liquidity'])}"
    if not math.isnan(scores["lower"]):
        text += f" ({amount(scores['lower'])} to {amount(scores['upper'])})"
    return text + (f", ratio {amount(scores['ratio'])}" if "ratio" in scores else "")


def _short(name, value):
    return f"{100 * value:.1f} %" if _is_fraction(name) else short_number(float(value))


def _highest(largest, *values):
    """Where the axis ends."""
    return max(HIGHEST, min(1.5 * max(map(float, values)), largest))


def _decades(highest):
    first, last = round(math.log10(LOWEST)), math.floor(math.log10(highest))
    return [10.0**power for power in range(first, last + 1, max(1, (last - first) // 4))]


def _share(value, highest):
    """Where a liquidity stands on the log axis, 0 to 1."""
    shown = np.clip(value, LOWEST, highest)
    return np.clip(np.log(shown / LOWEST) / math.log(highest / LOWEST), 0, 1)


def _percent(value, highest):
    return round(100 * float(_share(value, highest)), 2)


def _height(value, highest):
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - _share(value, highest))


def _points(x, y):
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


RANGE_WIDTH = 120  # of a range in a row of the market


def ranges_of(middle, lower, upper):
    """Where forecasts' ranges lie on the market's log axis, in its units; arrays of shape (n,)."""
    ends = np.array([lower, middle, upper])
    starts, dots, stops = np.round(RANGE_WIDTH * _share(ends, HIGHEST), 1).tolist()
    return [
        {"from": start, "width": max(round(stop - start, 1), 1), "at": dot}
        for start, dot, stop in zip(starts, dots, stops, strict=True)
    ]


def range_legend(threshold):
    """The same of the threshold, and of the axis' ticks."""
    at = round(RANGE_WIDTH * float(_share(threshold, HIGHEST)), 1)
    return {"width": RANGE_WIDTH, "threshold": at, "least": f"{LOWEST:g}", "most": f"{HIGHEST:g}"}


FAN_WIDTH, FAN_HEIGHT = 720, 300
PAST = ("upper", "liquidity", "lower")
FAN_LEFT, FAN_RIGHT, FAN_TOP, FAN_BOTTOM = 48, 12, 12, 28


def fan(known, threshold):
    """A coin's days and what is expected of them, as coordinates: liquidity on a log axis by date.

    `known` is what serve.market_pages.coin_facts returns. A day that is missing parts the line.
    Of the earlier forecasts those of one horizon are drawn, the middle one: all would be a tangle.
    """
    days = [np.datetime64(each["date"], "D").astype(int) for each in known["history"]]
    values = [each["liquidity"] for each in known["history"]]
    ahead = known["forecasts"]
    last = days[-1] + max((each["horizon"] for each in ahead), default=0)
    shown = [*values, *(each[end] for each in ahead for end in ("lower", "upper"))]
    ticks = [step * 10.0**power for power in range(-4, 20) for step in (1, 2, 5)]
    least = max(tick for tick in ticks if tick <= max(min(shown), LOWEST))
    most = min(tick for tick in ticks if tick >= max(*shown, 10 * least))
    height = FAN_HEIGHT - FAN_TOP - FAN_BOTTOM

    def across(day):
        span = max(last - days[0], 1)
        return FAN_LEFT + (FAN_WIDTH - FAN_LEFT - FAN_RIGHT) * (day - days[0]) / span

    def up(value):
        share = math.log(max(min(value, most), least) / least) / math.log(most / least)
        return FAN_TOP + height * (1 - share)

    lines, line = [], []
    for n, (day, value) in enumerate(zip(days, values, strict=True)):
        if n and day - days[n - 1] > 1:
            lines.append(line)
            line = []
        line.append((across(day), up(value)))
    lines.append(line)
    newest = days[-1]
    points = [
        {
            "x": round(across(newest + each["horizon"]), 1),
            "y": round(up(each["liquidity"]), 1),
            "lower": round(up(each["lower"]), 1),
            "upper": round(up(each["upper"]), 1),
            "horizon": each["horizon"],
        }
        for each in ahead
    ]
    told = known["past"][len(known["past"]) // 2] if known["past"] else None
    start = (across(newest), up(values[-1]))
    upper = [start, *((each["x"], each["upper"]) for each in points)]
    lower = [start, *((each["x"], each["lower"]) for each in points)]
    middle = [start, *((each["x"], each["y"]) for each in points)]
    heights = [tick for tick in ticks if least <= tick <= most]
    if len(heights) > 7:  # decades are enough
        heights = [tick for tick in heights if round(math.log10(tick), 9).is_integer()]
    dated = sorted({0, len(days) // 2, len(days) - 1})
    return {
        "width": FAN_WIDTH,
        "height": FAN_HEIGHT,
        "left": FAN_LEFT,
        "right": FAN_WIDTH - FAN_RIGHT,
        "lines": [_points(*zip(*each, strict=True)) for each in lines if len(each) > 1],
        "dots": [(round(x, 1), round(y, 1)) for each in lines if len(each) == 1 for x, y in each],
        "band": _points(*zip(*(upper + lower[::-1]), strict=True)) if points else "",
        "middle": _points(*zip(*middle, strict=True)) if points else "",
        "points": points,
        "past": told
        and {
            "horizon": told["horizon"],
            "ranges": [
                (round(across(day), 1), *(round(up(each[end]), 1) for end in PAST))
                for each in told["forecasts"]
                if (day := np.datetime64(each["date"], "D").astype(int)) >= days[0]
            ],
        },
        "threshold": round(up(threshold), 1) if least <= threshold <= most else None,
        "today": round(across(newest), 1),
        "y_ticks": [(round(up(tick), 1), f"{tick:g}") for tick in heights],
        "x_ticks": [(round(across(days[n]), 1), known["history"][n]["date"]) for n in dated],
        "last": (round(across(last), 1), ahead[-1]["date"]) if ahead else None,
    }
