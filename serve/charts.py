"""Values in, coordinates out: the scale and the what-if curves that the page draws as SVG."""

import math

import numpy as np

from liquidity.contract import EPSILON, FRACTION, INPUTS
from liquidity.report.formatting import short_number

WIDTH, HEIGHT = 300, 150
LEFT, RIGHT, TOP, BOTTOM = 38, 8, 8, 26
POINTS = 61
# What is as good as none is drawn where the axis begins; it ends at 10 unless more is shown.
LOWEST, HIGHEST = EPSILON, 10
FACTOR = 100  # an amount is drawn from a hundredth to a hundredfold
CHANGE = 0.1  # a fraction from ten points below to ten above


def scale(liquidity, lower, upper, threshold):
    """Positions in percent of the width, on a log axis: score, interval, threshold and ticks."""
    highest = max(HIGHEST, upper * 1.5)
    return {
        "score": _percent(liquidity, highest),
        "lower": _percent(lower, highest),
        "width": max(_percent(upper, highest) - _percent(lower, highest), 0.5),
        "threshold": _percent(threshold, highest),
        "lowest": f"{LOWEST:g}",
        "ticks": [(_percent(tick, highest), f"{tick:g}") for tick in _decades(highest)],
    }


def curves(model, x, facts):
    """One chart per feature: the score when that value alone changes around the row x (4,).

    `facts` are the model's, complete.
    """
    grids = [_grid(name, value, facts) for name, value in zip(model.features, x, strict=True)]
    X = np.repeat(x[None], POINTS * len(grids), axis=0)
    for column, grid in enumerate(grids):
        X[POINTS * column : POINTS * (column + 1), column] = grid
    liquidity, lower, upper, _ = model.score(X)
    highest = max(HIGHEST, float(upper.max()) * 1.5)
    blocks = [slice(POINTS * number, POINTS * (number + 1)) for number in range(len(grids))]
    return [
        _curve(name, grid, value, facts["threshold"], highest, liquidity[at], lower[at], upper[at])
        for name, grid, value, at in zip(model.features, grids, x, blocks, strict=True)
    ]


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


def _curve(name, grid, value, threshold, highest, liquidity, lower, upper):
    log = not _is_fraction(name)
    across = np.log(grid) if log else grid
    at = math.log(max(value, grid[0])) if log else value
    x = LEFT + (WIDTH - LEFT - RIGHT) * (across - across[0]) / (across[-1] - across[0])
    here = float(np.interp(at, across, x))
    y = {"line": liquidity, "lower": lower, "upper": upper}
    y = {key: _height(values, highest) for key, values in y.items()}
    ticks = [0, POINTS // 2, POINTS - 1]
    return {
        "name": name,
        "line": _points(x, y["line"]),
        "band": _points([*x, *x[::-1]], [*y["upper"], *y["lower"][::-1]]),
        "x": round(here, 1),
        "y": round(float(np.interp(here, x, y["line"])), 1),
        "threshold": round(float(_height(threshold, highest)), 1),
        "x_ticks": [(round(float(x[tick]), 1), _short(name, grid[tick])) for tick in ticks],
        "y_ticks": [
            (round(float(_height(tick, highest)), 1), f"{tick:g}") for tick in _decades(highest)
        ],
        "least": float(liquidity.min()),
        "most": float(liquidity.max()),
        "from": _short(name, grid[0]),
        "to": _short(name, grid[-1]),
    }


def _short(name, value):
    return f"{100 * value:.1f} %" if _is_fraction(name) else short_number(float(value))


def _decades(highest):
    first, last = round(math.log10(LOWEST)), math.floor(math.log10(highest))
    return [10.0**power for power in range(first, last + 1, max(1, (last - first) // 4))]


def _share(value, highest):
    """Where a liquidity stands on the log axis, 0 to 1."""
    return np.clip(np.log(np.maximum(value, LOWEST) / LOWEST) / math.log(highest / LOWEST), 0, 1)


def _percent(value, highest):
    return round(100 * float(_share(value, highest)), 2)


def _height(value, highest):
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - _share(value, highest))


def _points(x, y):
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


RANGE_WIDTH = 120  # of a range in a row of the market


def range_of(lower, middle, upper):
    """Where a forecast's range lies on the market's log axis, in its units."""
    ends = [round(RANGE_WIDTH * float(_share(value, HIGHEST)), 1) for value in (lower, upper)]
    at = round(RANGE_WIDTH * float(_share(middle, HIGHEST)), 1)
    return {"from": ends[0], "width": max(round(ends[1] - ends[0], 1), 1), "at": at}


def range_legend(threshold):
    """The same of the threshold, and of the axis' ticks."""
    at = round(RANGE_WIDTH * float(_share(threshold, HIGHEST)), 1)
    return {"width": RANGE_WIDTH, "threshold": at, "least": f"{LOWEST:g}", "most": f"{HIGHEST:g}"}


FAN_WIDTH, FAN_HEIGHT = 720, 300
FAN_LEFT, FAN_RIGHT, FAN_TOP, FAN_BOTTOM = 48, 12, 12, 28


def fan(known, threshold):
    """A coin's days and what is expected of them, as coordinates: liquidity on a log axis by date.

    `known` is what serve.market_pages.coin_facts returns. A day that is missing parts the line.
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
        "threshold": round(up(threshold), 1) if least <= threshold <= most else None,
        "today": round(across(newest), 1),
        "y_ticks": [(round(up(tick), 1), f"{tick:g}") for tick in heights],
        "x_ticks": [(round(across(days[n]), 1), known["history"][n]["date"]) for n in dated],
        "last": (round(across(last), 1), ahead[-1]["date"]) if ahead else None,
    }
