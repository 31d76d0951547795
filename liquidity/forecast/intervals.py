"""The interval and P(High) of a forecast, from signed out-of-fold residuals by groups.

A single quantile of residuals holds 90 % in total and 65 % of the most volatile third, so the
residuals are kept apart by volatility: 10 groups of absd30 for rows with at least 30 days of
history, two for shorter ones (whose absd30 is an estimate from few days), and one for those that
are too short to have any. In the last three, coins that are really young and old coins whose
history is cut short count by halves: the young ones are harder, and a hundred times rarer.
"""

import numpy as np

from liquidity.contract import COVERAGE, EPSILON
from liquidity.model.model import ABSD30, LONG_HISTORY, residual_group, share_above

DECILES = 10
SHORT, UNKNOWN = DECILES, DECILES + 2  # the first group of short histories, the one without absd30
GROUPS = UNKNOWN + 1
KEPT = 1001  # quantiles of a group's residuals, from the lowest to the highest residual
FEWEST = 100  # residuals that a group needs; with fewer it takes those of all groups


def fit_intervals(residuals, absd30, days_used, cut):
    """Intervals from residuals y - mu of rows that their forecast had not seen.

    Four arrays of shape (rows,); `cut` is True for a row whose history was shortened on purpose,
    which counts in the groups of short histories only. The ends are split conformal: of n residuals
    of a group the floor((n + 1) 0.05)-th and the ceil((n + 1) 0.95)-th smallest (Lei et al. 2018,
    "Distribution-Free Predictive Inference for Regression").

    Returns the model's metadata on its interval, on the scale of L: `absd30_edges` of shape (9,)
    between the deciles; `absd30_middle` between the two groups of short histories; `low` (<= 0)
    and `high` of shape (13,), how far an interval reaches from the forecast; and
    `residual_quantiles`, 13 ascending arrays of at most KEPT residuals, evenly spaced in
    probability.
    """
    known = ~np.isnan(absd30)
    long = known & (days_used >= LONG_HISTORY) & ~cut
    short = known & (days_used < LONG_HISTORY)
    shares = np.arange(1, DECILES) / DECILES
    # Where there is no such row, one will be answered from all residuals: FEWEST sees to it.
    edges = np.quantile(absd30[long], shares) if long.any() else np.zeros(DECILES - 1)
    middle = float(np.median(absd30[short])) if short.any() else 0.0
    group = residual_group(absd30, days_used, edges=edges, middle=middle)

    low, high, quantiles = [], [], []
    for number in range(GROUPS):
        real, shortened = (residuals[(group == number) & (cut == side)] for side in (False, True))
        if number < SHORT:
            chosen = real
        elif len(real) and len(shortened):
            size = max(len(real), len(shortened))
            chosen = np.concatenate([np.resize(real, size), np.resize(shortened, size)])
        else:
            chosen = np.concatenate([real, shortened])
        chosen = np.sort(chosen if len(chosen) >= FEWEST else residuals)
        # 1e-9: (n + 1) 0.05 may come out just below the whole number that it is.
        rank = max(int((len(chosen) + 1) * (1 - COVERAGE) / 2 + 1e-9), 1)
        low.append(min(chosen[rank - 1], 0.0))
        high.append(max(chosen[-rank], 0.0))
        quantiles.append(np.quantile(chosen, np.linspace(0, 1, min(len(chosen), KEPT))))
    return {
        "coverage": COVERAGE,
        "epsilon": EPSILON,
        "absd30_edges": edges,
        "absd30_middle": middle,
        "low": np.array(low),
        "high": np.array(high),
        "residual_quantiles": quantiles,
    }


def interval(intervals, mu, group):
    """`(lower, upper)` on the scale of L, each of shape (rows,); they hold `mu`."""
    # No liquidity is below 0.
    lower = np.maximum(mu + intervals["low"][group], np.log10(EPSILON))
    return np.minimum(lower, mu), mu + intervals["high"][group]


def groups(intervals, X, days_used):
    """The group of each row of history features, of shape (rows,)."""
    return residual_group(
        X[:, ABSD30],
        days_used,
        edges=intervals["absd30_edges"],
        middle=intervals["absd30_middle"],
    )


def p_high(intervals, mu, group, *, threshold):
    """The probability that liquidity exceeds `threshold`, of shape (rows,)."""
    needed = np.log10(threshold + EPSILON) - mu
    return share_above(needed, group, intervals["residual_quantiles"])
