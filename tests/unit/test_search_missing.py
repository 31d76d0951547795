"""The search with missing values against RandomForestRegressor and GridSearchCV, bit by bit."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, ParameterGrid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from liquidity.forecast.panel import cut_features, cut_histories, horizon_target, time_folds
from liquidity.model.model import EW7, history_features, logarithms
from liquidity.search.grid import fit_fold, grow_trees

SIZES = [4, 8, 12]


@pytest.fixture(scope="module")
def table(panel_arrays):
    """Two tables under each other, cut and uncut, and folds from the first into the second."""
    X, used = history_features(*panel_arrays)
    y = horizon_target(*panel_arrays[:2], logarithms(*panel_arrays[2:])[0], horizon=7)
    rows = np.flatnonzero(~np.isnan(y) & ~np.isnan(X[:, 0]))[::9]
    days = cut_histories(len(rows), random_state=42)
    X_cut, _ = cut_features(X, used, panel_arrays, rows, days)
    folds = time_folds(panel_arrays[1][rows], cv=3, horizon=7)
    folds = [(train, len(rows) + test) for train, test in folds]
    X_both, y_both = np.concatenate([X_cut, X[rows]]), np.tile(y[rows], 2)
    return X_both, y_both - X_both[:, EW7], folds


@pytest.mark.parametrize("max_samples", [None, 0.1, 0.7])
@pytest.mark.parametrize("max_features", [1.0, 0.4])
@pytest.mark.parametrize("missing", [True, False])
def test_grown_trees_are_those_of_the_forest(table, max_samples, max_features, missing):
    X, y, _ = table
    X = np.float32(X if missing else np.nan_to_num(X))
    forest = RandomForestRegressor(
        5, min_samples_leaf=20, max_samples=max_samples, max_features=max_features, random_state=3
    )
    assert np.isnan(X).any() == missing
    expected = forest.fit(X, y).estimators_
    for tree, other in zip(grow_trees(forest, X, y), expected, strict=True):
        for name in ("feature", "threshold", "value", "missing_go_to_left", "children_left"):
            np.testing.assert_array_equal(getattr(tree.tree_, name), getattr(other.tree_, name))


def test_staged_scores_are_those_of_grid_search(table):
    X, y, folds = table
    pipeline = Pipeline([
        ("scaler", StandardScaler()),
        ("forest", RandomForestRegressor(max_samples=0.3, random_state=42)),
    ])  # fmt: skip
    grid = {"min_samples_leaf": [20, 50], "max_features": [0.4, 0.7]}

    def log_scale_r2(fitted, X, y):
        return r2_score(y + X[:, EW7], fitted.predict(X) + X[:, EW7])

    whole = GridSearchCV(
        pipeline,
        {f"forest__{name}": values for name, values in grid.items()}
        | {"forest__n_estimators": SIZES},
        cv=folds, scoring=log_scale_r2, refit=False,
    ).fit(X, y).cv_results_  # fmt: skip
    for params in ParameterGrid(grid):
        pipeline.set_params(forest__n_estimators=max(SIZES))
        pipeline.set_params(**{f"forest__{name}": value for name, value in params.items()})
        for number, (train, test) in enumerate(folds):
            scores, *_ = fit_fold(X, y, train, test, X[:, EW7], pipeline=pipeline, sizes=SIZES)
            for size in SIZES:
                wanted = {f"forest__{k}": v for k, v in (params | {"n_estimators": size}).items()}
                at = whole["params"].index(wanted)
                assert scores[size] == whole[f"split{number}_test_score"][at]
