"""The compiled forest against scikit-learn's, bit by bit, with missing values too."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from liquidity.errors import ModelError
from liquidity.forecast.panel import cut_features, cut_histories, horizon_target
from liquidity.model.compile import compile_forest, threshold_points
from liquidity.model.forest import read
from liquidity.model.model import BLOCK, DAYS, FEW, LANES, Forest, history_features, logarithms

FOREST = {
    "n_estimators": 20, "min_samples_leaf": 10, "max_features": 0.4, "max_samples": 0.5,
    "random_state": 42, "n_jobs": 1,
}  # fmt: skip


def compiled(forest):
    return Forest(**read(compile_forest(forest), inputs=forest.n_features_in_))


def assert_alike(forest, X):
    X = np.asarray(X).astype(np.float32)
    expected, ours = forest.predict(X), compiled(forest)
    assert np.array_equal(ours.predict(X), expected)
    assert [ours.predict_row(row) for row in X[:100].tolist()] == expected[:100].tolist()


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


# Ways through the forest: one row, few, many, more than a block; fewer and more trees than lanes.
SIZES = (1, FEW, FEW + 1, LANES - 1, LANES, LANES + 1, BLOCK, BLOCK + 1)


@pytest.mark.parametrize("trees", [1, LANES, LANES + 1])
def test_any_number_of_rows_and_trees_has_the_same_bits(trees):
    random = np.random.default_rng(2)
    X = random.normal(size=(BLOCK + 1, 3)).astype(np.float32)
    y = random.normal(size=200)  # negative answers too
    forest = RandomForestRegressor(trees, random_state=0).fit(X[:200], y)
    expected, ours = forest.predict(X), compiled(forest)
    for rows in SIZES:
        assert np.array_equal(ours.predict(X[:rows]), expected[:rows]), rows
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert np.array_equal(other.predict(X), expected)
    with ThreadPoolExecutor(2) as pool:
        ours.map = pool.map
        assert np.array_equal(ours.predict(X), expected)
    assert len(ours.predict(X[:0])) == 0


def test_threads_do_not_disturb_each_other():
    random = np.random.default_rng(3)
    X = random.normal(size=(300, 4))
    forest = RandomForestRegressor(70, random_state=0).fit(X, X[:, 0])
    expected, ours = forest.predict(X), compiled(forest)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ours.predict(X), range(100)))
        alone = list(pool.map(ours.predict_row, X.tolist()))
    assert all(np.array_equal(answer, expected) for answer in answers)
    assert alone == expected.tolist()


def test_numbers_at_the_ends_of_single_precision():
    """Zeros with a sign, subnormal numbers, huge ones, and thresholds between two floats."""
    tiny, huge = np.float32(1e-45), np.float32(1e36)
    values = np.array([-huge, -1, -tiny, -0.0, 0.0, tiny, 1, np.nextafter(1, 2), huge, np.nan])
    X = np.column_stack([np.repeat(values, 10), np.tile(values, 10)]).astype(np.float32)
    y = np.random.default_rng(4).normal(size=100)
    forest = RandomForestRegressor(30, random_state=0, bootstrap=False, max_features=1).fit(X, y)
    assert_alike(forest, X)
    assert_alike(forest, threshold_points(forest, X))


def test_more_inputs_than_a_node_can_name_are_an_error():
    X = np.random.default_rng(5).normal(size=(50, 17))
    with pytest.raises(ModelError, match=r"over 17 inputs; a model holds .* at most 16"):
        compile_forest(RandomForestRegressor(2, random_state=0).fit(X, X[:, 16]))
