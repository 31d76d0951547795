"""The scikit-learn pipeline that is tuned, and the grid it is tuned over."""

import re

from sklearn.base import clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from liquidity.command import AUTO
from liquidity.errors import SettingsError

FOREST = "forest"
# The params that can be searched: lowest value, and whether it is a share (up to 1) or may be None.
PARAMS = {
    "n_estimators": (1, "whole"),
    "max_depth": (1, "whole or none"),
    "min_samples_split": (2, "whole"),
    "min_samples_leaf": (1, "whole"),
    "max_features": (0, "share"),
}
# What `auto` stands for; a param that is not there keeps scikit-learn's default.
PARAM_GRID = {
    "n_estimators": [100, 200, 300],
    "max_depth": [None, 5, 10],
    "min_samples_split": [2, 5, 10],
}
FORECAST_GRID = {
    "n_estimators": [50, 75, 100],
    "min_samples_leaf": [20, 50, 100],
    "max_features": [0.3, 0.4, 0.7],
}


def build_pipeline(*, random_state, max_samples=1.0):
    """StandardScaler, then RandomForestRegressor with its default settings, not fitted.

    `max_samples`, in (0, 1], is the share of the rows that each tree draws.
    """
    # All rows are scikit-learn's None: the same draws, and the search key of forests without it.
    forest = RandomForestRegressor(
        random_state=random_state, max_samples=None if max_samples == 1 else max_samples
    )
    return Pipeline([("scaler", StandardScaler()), (FOREST, forest)])


def with_forest_params(pipeline, **params):
    """An unfitted copy of `pipeline` whose forest has `params`."""
    return clone(pipeline).set_params(**{f"{FOREST}__{name}": params[name] for name in params})


def fit_pipeline(pipeline, X, y, *, n_jobs):
    """A fitted copy of `pipeline`; `n_jobs` threads fit it, one thread will predict.

    With more, a forest adds its trees up in whatever order they finish, and the last bits differ
    from run to run.
    """
    fitted = with_forest_params(pipeline, n_jobs=n_jobs).fit(X, y)
    return fitted.set_params(**{f"{FOREST}__n_jobs": None})


def parse_grid(*, horizon=0, **texts):
    """The grid for this horizon from comma-separated values per param, `none` for an unlimited
    max_depth, `auto` for the default.

    Raises SettingsError that names the param and the value.
    """
    default = FORECAST_GRID if horizon else PARAM_GRID
    grid = {}
    for name in PARAMS:
        text = str(texts.get(name, AUTO)).strip()
        if text.lower() != AUTO:
            grid[name] = _grid_values(name, text)
        elif name in default:
            grid[name] = default[name]
    return grid


def _grid_values(name, text):
    values = []
    for part in text.split(","):
        value = _grid_value(name, part.strip().lower(), text)
        if value in values:
            raise SettingsError(f"{name}: {part.strip()!r} is given twice in {text!r}")
        values.append(value)
    return values


def _grid_value(name, part, text):
    lowest, kind = PARAMS[name]
    if kind == "share":
        expected = "shares above 0, at most 1"
        if re.fullmatch(r"\d*\.?\d+", part, re.ASCII) and 0 < float(part) <= 1:
            return float(part)
    else:
        expected = f"whole numbers >= {lowest}{' or none' if kind != 'whole' else ''}"
        if kind != "whole" and part == "none":
            return None
        if part.isascii() and part.isdigit() and lowest <= int(part) < 2**31:
            return int(part)
    raise SettingsError(
        f"{name}: expected {expected}, separated by commas, got {part!r} in {text!r}"
    )
