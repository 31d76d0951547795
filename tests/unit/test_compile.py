"""The compiled forest with missing values against scikit-learn's."""

import numpy as np
import onnxruntime
import pytest
from sklearn.ensemble import RandomForestRegressor

from liquidity.forecast.panel import cut_features, cut_histories, horizon_target
from liquidity.model.compile import compile_forest, threshold_points
from liquidity.model.model import DAYS, history_features, logarithms

FOREST = {
    "n_estimators": 20, "min_samples_leaf": 10, "max_features": 0.4, "max_samples": 0.5,
    "random_state": 42, "n_jobs": 1,
}  # fmt: skip
# Unlike scikit-learn's, ONNX's sum runs over trees in another order.
TOLERANCE = 1e-13


def compiled(forest, X):
    session = onnxruntime.InferenceSession(
        compile_forest(forest), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"X": X.astype(np.float32).astype(np.float64)})[0][:, 0]


def assert_alike(forest, X):
    X = np.asarray(X).astype(np.float32)
    np.testing.assert_allclose(compiled(forest, X), forest.predict(X), rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def learned(panel_arrays):
    """A forest on real rows, a quarter of them with cut histories, and the table."""
    X, used = history_features(*panel_arrays)
    y = horizon_target(*panel_arrays[:2], logarithms(*panel_arrays[2:])[0], horizon=1)
    rows = np.flatnonzero(~np.isnan(y) & ~np.isnan(X[:, 0]))
    days = cut_histories(len(rows), random_state=42)
    X_cut, _ = cut_features(X, used, panel_arrays, rows, days)
    return RandomForestRegressor(**FOREST).fit(X_cut, y[rows] - X_cut[:, 1]), X[rows], X_cut, rows


def test_compiled_forest_equals_scikit_learn_with_missing_values(learned, panel_arrays):
    forest, X, X_cut, rows = learned
    assert np.isnan(X_cut).any(axis=0).sum() >= 6
    assert_alike(forest, X)
    assert_alike(forest, X_cut)
    for days in (1, 2, 3, 7):
        alone = history_features(*panel_arrays, days=days, answer=rows[:3000])[0]
        assert_alike(forest, alone)
    for table in (X, X_cut):
        points = threshold_points(forest, table.astype(np.float32))
        assert np.isfinite(points[~np.isnan(points)]).all()
        assert_alike(forest, points)
    random = np.random.default_rng(0)
    wild = random.normal(scale=10, size=(5000, X.shape[1]))
    wild[random.random(wild.shape) < 0.5] = np.nan
    assert_alike(forest, wild)
    assert_alike(forest, np.full((1, X.shape[1]), np.nan))
    # The data can tell: the attribute is not all 0.
    assert any(tree.tree_.missing_go_to_left.any() for tree in forest.estimators_)
    assert any(np.isinf(tree.tree_.threshold).any() for tree in forest.estimators_)


def test_a_forest_of_single_leaves_knows_missing_values():
    X = np.full((30, 2), np.nan)
    assert_alike(RandomForestRegressor(n_estimators=3, random_state=0).fit(X, np.arange(30.0)), X)


def test_cut_rows_are_the_rows_of_a_shorter_history(panel_arrays):
    days = cut_histories(400, random_state=1)
    assert (days < DAYS).sum() == 100
    assert set(days.tolist()) == {1, 2, 3, 5, 7, 14, 30, DAYS}
    np.testing.assert_array_equal(days, cut_histories(400, random_state=1))
    X, used = history_features(*panel_arrays)
    rows = np.arange(len(panel_arrays[0]))[-400:]
    X_cut, used_cut = cut_features(X, used, panel_arrays, rows, days)
    assert (used_cut <= days).all()
    np.testing.assert_array_equal(X_cut[days == DAYS], X[rows[days == DAYS]])
    assert np.isnan(X_cut[days == 1, 2]).all()
