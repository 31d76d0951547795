"""Amihud's illiquidity, and the spread that highs and lows tell."""

import math

import numpy as np
import pytest

from liquidity.illiquidity import amihud, high_low_spread

DAYS = np.arange(5)


def test_amihud_is_the_mean_return_per_million_traded():
    price, volume = [1, 1.1, 0.99, 0.99, 1.98], [5e6, 2e6, 1e6, 4e6, 1e7]
    expected = np.mean([0.1 / 2, 0.1 / 1, 0.0, 1 / 10])
    assert amihud(DAYS, price, volume) == pytest.approx(expected, rel=1e-12)


def test_days_that_do_not_follow_and_days_without_volume_do_not_count():
    assert amihud([0, 1, 5], [1, 1.1, 9], [1e6] * 3) == pytest.approx(0.1)
    assert amihud([0, 1, 2], [1, 1.1, 9], [1e6, 1e6, 0]) == pytest.approx(0.1)
    assert math.isnan(amihud([0], [1], [1e6]))
    assert math.isnan(amihud([0, 1], [0, 1], [1e6, 1e6]))


def test_the_spread_of_simulated_trades_is_found():
    """Trades at bid or ask around a value that wanders: 2 %, as the authors simulate."""
    random = np.random.default_rng(0)
    days, trades, spread, sigma = 2000, 390, 0.02, 0.03
    steps = random.normal(0, sigma / math.sqrt(trades), (days, trades))
    value = np.exp(np.cumsum(steps.ravel())).reshape(days, trades)
    price = value * (1 + spread / 2 * random.choice([-1, 1], (days, trades)))
    found = high_low_spread(np.arange(days), price.max(axis=1), price.min(axis=1))
    assert found == pytest.approx(spread, rel=0.2)


def test_the_same_range_on_both_days_is_all_spread_and_a_trend_is_none():
    high, low = np.full(5, 1.01), np.full(5, 0.99)
    beta = 2 * math.log(1.01 / 0.99) ** 2
    alpha = (math.sqrt(2 * beta) - math.sqrt(beta)) / (3 - 2 * math.sqrt(2)) - math.sqrt(
        beta / 2 / (3 - 2 * math.sqrt(2))
    )
    expected = 2 * (math.exp(alpha) - 1) / (1 + math.exp(alpha))
    assert high_low_spread(DAYS, high, low) == pytest.approx(expected, rel=1e-12)
    assert high_low_spread(DAYS, 1.5 ** (DAYS + 1.0), 1.5 ** (DAYS + 0.99)) == 0
    assert math.isnan(high_low_spread([0, 2], [1, 1], [1, 1]))
