"""The measures of a forecast against other ways to get them."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import brier_score_loss, r2_score

from liquidity.forecast import skill


@pytest.fixture
def scored():
    random = np.random.default_rng(0)
    day = 19000 + random.integers(0, 200, 4000)
    y = random.normal(size=4000).round(1)
    return y, y + random.normal(size=4000).round(1), day


def test_measures_are_the_usual_ones(scored):
    y, mu, day = scored
    assert skill.r2(y, mu) == pytest.approx(r2_score(y, mu), abs=1e-12)
    expected = np.mean([spearmanr(y[day == d], mu[day == d]).statistic for d in np.unique(day)])
    assert skill.spearman_per_date(y, mu, day) == pytest.approx(expected, abs=1e-12)
    p = 1 / (1 + np.exp(-mu))
    assert skill.brier(y > 0, p) == pytest.approx(brier_score_loss(y > 0, p), abs=1e-12)
    assert skill.interval_score(np.array([0.0, 3, -1]), *np.array([[-1.0, 1, 0], [1.0, 2, 1]])) == (
        pytest.approx((2 + (1 + 20) + (1 + 20)) / 3)
    )
    assert skill.typical_error(np.zeros(3), np.log10([1.0, 1.5, 3])) == pytest.approx(0.5)
    assert skill.within_factor(np.zeros(4), np.log10([0.4, 0.6, 1.9, 2.1]), 2) == 0.5


def test_dates_that_rank_nothing_are_left_out():
    y, mu, day = np.array(
        [[1.0, 2, 3, 1, 2, 1, 1, 1], [1, 2, 3, 9, 8, 1, 2, 3], [1, 1, 1, 2, 2, 3, 3, 3]]
    )
    assert skill.spearman_per_date(y, mu, day) == 1


def test_worst_coverage_names_the_worst_group_with_enough_rows():
    y = np.array([0, 0, 0, 5, 0, 5, 5.0])
    groups = np.array([1, 1, 2, 2, 2, 3, 3])
    assert skill.worst_coverage(y, y * 0 - 1, y * 0 + 1, groups) == 0
    assert skill.worst_coverage(y, y * 0 - 1, y * 0 + 1, groups, fewest=3) == pytest.approx(2 / 3)
    assert skill.months(np.array([0, 31, 365])).tolist() == [0, 1, 12]
    assert skill.deciles(np.array([np.nan, *range(100)])).tolist()[:2] == [10, 0]


def test_the_gain_interval_holds_the_gain_and_is_that_of_a_slow_bootstrap(scored):
    y, mu, day = scored
    base = mu + np.random.default_rng(1).normal(size=len(y)) * 0.3
    gain = skill.r2(y, mu) - skill.r2(y, base)
    low, high = skill.gain_interval(y, mu, base, day, random_state=42)
    assert low < gain < high
    assert low > 0
    block = (day - day.min()) // 30
    random = np.random.default_rng(42)
    gains = []
    for drawn in random.integers(block.max() + 1, size=(1000, block.max() + 1)):
        rows = np.concatenate([np.flatnonzero(block == number) for number in drawn])
        gains.append(skill.r2(y[rows], mu[rows]) - skill.r2(y[rows], base[rows]))
    assert (low, high) == pytest.approx(np.quantile(gains, [0.025, 0.975]), abs=1e-9)
