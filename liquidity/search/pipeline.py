"""The scikit-learn pipeline that is tuned, and the grid it is tuned over."""

from sklearn.base import clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

FOREST = "forest"
PARAM_GRID = {
    "n_estimators": [100, 200, 300],
    "max_depth": [None, 5, 10],
    "min_samples_split": [2, 5, 10],
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


def parse_grid(**texts):
    """A grid from comma-separated values per param, `none` for an unlimited max_depth.

    Raises ValueError that names the param and the value.
    """
    return {name: _grid_values(name, texts[name]) for name in PARAM_GRID}


def _grid_values(name, text):
    lowest = {"n_estimators": 1, "max_depth": 1, "min_samples_split": 2}[name]
    none = " or none" if name == "max_depth" else ""
    values = []
    for part in str(text).split(","):
        part = part.strip().lower()
        if none and part == "none":
            value = None
        elif part.isascii() and part.isdigit() and lowest <= int(part) < 2**31:
            value = int(part)
        else:
            raise ValueError(
                f"{name}: expected whole numbers >= {lowest}{none}, separated by commas, got "
                f"{part!r} in {text!r}"
            )
        if value in values:
            raise ValueError(f"{name}: {part!r} is given twice in {text!r}")
        values.append(value)
    return values
