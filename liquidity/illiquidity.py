"""Liquidity as traders use the word: what a trade costs, estimated from daily figures.

Beside turnover, not mixed into it: these speak of price, turnover of activity.
"""

import numpy as np

MILLION = 1e6
_K = 3 - 2 * np.sqrt(2)


def amihud(day, price, volume):
    """Amihud's illiquidity of one coin: mean |return| by the day's volume, per million USD.

    Arrays of shape (days,), sorted by day; a day counts whose day before is there, whose prices are
    known and whose volume is more than 0. NaN where none does. Yakov Amihud, "Illiquidity and stock
    returns: cross-section and time-series effects", Journal of Financial Markets 5 (2002), 31-56,
    equation 1.
    """
    day, price, volume = (np.asarray(values, float) for values in (day, price, volume))
    with np.errstate(all="ignore"):
        returns = np.abs(price[1:] / price[:-1] - 1)
        cost = returns / volume[1:]
    counted = (np.diff(day) == 1) & np.isfinite(cost) & (price[:-1] > 0)
    return float(MILLION * cost[counted].mean()) if counted.any() else np.nan


def high_low_spread(day, high, low):
    """Corwin and Schultz's estimate of the bid-ask spread of one coin, as a share of the price.

    Highs and lows of 24 hours, arrays of shape (days,), sorted by day; the mean over pairs of
    consecutive days, of which a negative one counts as 0, as its authors recommend. NaN where there
    is no pair. Shane A. Corwin and Paul Schultz, "A simple way to estimate bid-ask spreads from
    daily high and low prices", Journal of Finance 67 (2012), 719-760, equations 14 and 18. A day
    whose high and low are those of other 24 hours than its neighbour's, as snapshots taken at
    different times have them, blurs it.
    """
    day, high, low = (np.asarray(values, float) for values in (day, high, low))
    with np.errstate(all="ignore"):
        ranges = np.log(high / low) ** 2
        beta = ranges[1:] + ranges[:-1]
        gamma = np.log(np.maximum(high[1:], high[:-1]) / np.minimum(low[1:], low[:-1])) ** 2
        alpha = (np.sqrt(2 * beta) - np.sqrt(beta)) / _K - np.sqrt(gamma / _K)
        spread = np.maximum(2 * np.expm1(alpha) / (1 + np.exp(alpha)), 0)
    counted = (np.diff(day) == 1) & np.isfinite(spread) & (low[1:] > 0) & (low[:-1] > 0)
    return float(spread[counted].mean()) if counted.any() else np.nan
