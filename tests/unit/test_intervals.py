"""Intervals and P(High): they hold what they promise, in every group."""

import numpy as np
import pytest

from liquidity.contract import COVERAGE
from liquidity.forecast.intervals import (
    GROUPS,
    KEPT,
    SHORT,
    UNKNOWN,
    fit_intervals,
    interval,
    p_high,
)
from liquidity.model.model import residual_group


def rows(count, seed):
    """Residuals whose spread grows with absd30, and three times so for short histories."""
    random = np.random.default_rng(seed)
    absd30 = random.uniform(0.01, 1, count)
    used = random.choice([3, 10, 90], count, p=[0.1, 0.1, 0.8])
    cut = (used < 90) & (random.random(count) < 0.5)
    residuals = random.normal(size=count) * absd30 * np.where(used < 90, 3, 1)
    absd30[used == 3] = np.nan
    return residuals, absd30, used, cut


def test_every_group_holds_its_share():
    fitted = fit_intervals(*rows(100_000, 0))
    residuals, absd30, used, _ = rows(100_000, 1)
    group = residual_group(
        absd30, used, edges=fitted["absd30_edges"], middle=fitted["absd30_middle"]
    )
    assert set(group) == set(range(GROUPS))
    assert (group[used == 3] == UNKNOWN).all()
    assert set(group[used == 10]) == {SHORT, SHORT + 1}
    mu = np.linspace(0, 1, len(group))
    lower, upper = interval(fitted, mu, group)
    assert ((lower <= mu) & (mu <= upper)).all()
    inside = (lower <= mu + residuals) & (mu + residuals <= upper)
    for number in range(GROUPS):
        assert inside[group == number].mean() == pytest.approx(COVERAGE, abs=0.02)


def test_p_high_is_calibrated_and_monotonic():
    fitted = fit_intervals(*rows(100_000, 0))
    residuals, absd30, used, _ = rows(100_000, 1)
    group = residual_group(
        absd30, used, edges=fitted["absd30_edges"], middle=fitted["absd30_middle"]
    )
    mu = np.random.default_rng(2).uniform(-1, 1, len(group))
    p = p_high(fitted, mu, group, threshold=0.5)
    happened = mu + residuals > np.log10(0.501)
    for low in np.arange(0, 1, 0.1):
        some = (p >= low) & (p < low + 0.1)
        assert happened[some].mean() == pytest.approx(p[some].mean(), abs=0.03)
    higher = p_high(fitted, mu + 0.1, group, threshold=0.5)
    assert (higher >= p).all()
    assert p_high(fitted, np.array([-9.0, 9.0]), np.array([0, 0]), threshold=0.5).tolist() == [0, 1]


def test_a_group_with_too_few_residuals_takes_those_of_all():
    residuals = np.linspace(-1, 1, 199)
    nothing = np.zeros(199, bool)
    fitted = fit_intervals(residuals, np.full(199, np.nan), np.ones(199, int), nothing)
    assert fitted["low"][0] == fitted["low"][UNKNOWN]
    # The 10th smallest and largest of 199: floor(200 * 0.05).
    assert fitted["low"][0] == residuals[9]
    assert fitted["high"][0] == residuals[-10]
    fitted = fit_intervals(residuals[:5], np.full(5, 0.1), np.full(5, 90), nothing[:5])
    assert fitted["low"][0] == -1


def test_cut_rows_count_for_short_histories_alone_and_there_by_half():
    count = 1000
    residuals = np.concatenate([np.full(50, -4.0), np.full(50, 4.0), np.zeros(count)])
    used = np.full(len(residuals), 2)
    cut = np.arange(len(residuals)) >= 100
    fitted = fit_intervals(residuals, np.full(len(residuals), np.nan), used, cut)
    assert (fitted["low"][UNKNOWN], fitted["high"][UNKNOWN]) == (-4, 4)
    long = fit_intervals(residuals, np.full(len(residuals), 0.1), np.full(len(residuals), 90), cut)
    assert len(long["residual_quantiles"][0]) == 100 or len(long["residual_quantiles"][9]) == 100
    assert max(map(len, fitted["residual_quantiles"])) <= KEPT


def test_no_interval_reaches_below_a_liquidity_of_zero():
    fitted = fit_intervals(*rows(1000, 0))
    lower, upper = interval(fitted, np.array([-2.99, -3.01]), np.array([9, 9]))
    assert lower.tolist() == [-3, -3.01]
    assert (upper > lower).all()
