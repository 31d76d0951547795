"""Targets, splits, folds and the baselines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liquidity.forecast.baselines import climatology, ewma, fit_har, har, persistence
from liquidity.forecast.panel import embargo_split, horizon_target, repeat_young, time_folds
from liquidity.model.model import UNKNOWN_COIN, UNKNOWN_DAY, history_features, logarithms


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([1, 7, 30]))
def test_the_target_is_the_level_exactly_horizon_days_later(seed, rows, horizon):
    random = np.random.default_rng(seed)
    coin = random.integers(-1, 3, rows)
    day = 19000 + random.integers(0, 40, rows)
    day[random.random(rows) < 0.1] = UNKNOWN_DAY
    level = random.normal(size=rows)
    level[random.random(rows) < 0.2] = np.nan
    target = horizon_target(coin, day, level, horizon=horizon)
    for row in range(rows):
        expected = np.nan
        if coin[row] != UNKNOWN_COIN and day[row] != UNKNOWN_DAY:
            for other in range(rows):
                if (
                    coin[other] == coin[row]
                    and day[other] != UNKNOWN_DAY
                    and int(day[other]) == int(day[row]) + horizon
                    and not np.isnan(level[other])
                ):
                    expected = level[other]
        np.testing.assert_equal(target[row], expected)


def test_no_row_has_a_target_without_dates():
    assert np.isnan(horizon_target([0, 0], [UNKNOWN_DAY] * 2, np.ones(2), horizon=1)).all()
    assert horizon_target([], [], np.ones(0), horizon=1).shape == (0,)


@pytest.mark.parametrize("horizon", [1, 7, 30])
def test_no_training_target_reaches_into_the_days_that_are_scored(horizon):
    day = np.repeat(np.arange(100, 400), 3)
    train, gap, test = embargo_split(day, start=300, horizon=horizon)
    assert day[train].max() + horizon == 299
    assert set(day[gap]) == set(range(300 - horizon, 300))
    assert day[test].min() == 300
    assert len(train) + len(gap) + len(test) == len(day)
    folds = time_folds(day, cv=5, horizon=horizon)
    assert len(folds) == 5
    for before, after in folds:
        assert day[before].max() + horizon + 1 == day[after].min()
    scored = np.concatenate([after for _, after in folds])
    assert len(scored) == len(set(scored)) == 5 * 50 * 3


def test_folds_without_training_rows_are_left_out():
    assert len(time_folds(np.arange(60), cv=5, horizon=30)) == 2
    assert len(time_folds(np.arange(3), cv=5, horizon=1)) == 1
    assert time_folds(np.arange(3), cv=5, horizon=3) == []
    assert time_folds(np.zeros(10, int), cv=5, horizon=1) == []


def test_baselines_meet_no_missing_value(panel_arrays):
    X, _ = history_features(*panel_arrays)
    level = logarithms(*panel_arrays[2:])[0]
    y = horizon_target(*panel_arrays[:2], level, horizon=1)
    rows = ~np.isnan(level) & ~np.isnan(y)
    assert np.isnan(X[rows]).any()
    np.testing.assert_allclose(persistence(X[rows]), level[rows], atol=1e-12)
    alone, _ = history_features(*panel_arrays, days=1)
    coefficients = fit_har(X[rows], y[rows])
    for table in (X[rows], alone[rows]):
        for mu in (persistence(table), ewma(table), har(coefficients, table)):
            assert np.isfinite(mu).all()
    error = y[rows] - har(coefficients, X[rows])
    assert abs(error.mean()) < 1e-9
    assert np.mean(error**2) < np.mean((y[rows] - level[rows]) ** 2)
    assert climatology(y[rows], -9) == 1


def test_young_rows_are_repeated_in_what_is_trained_on():
    young = np.array([False, True, False, True])
    assert repeat_young(np.array([0, 1, 2]), young, times=3).tolist() == [0, 1, 2, 1, 1]
    assert repeat_young(np.array([0, 3]), young, times=1).tolist() == [0, 3]
