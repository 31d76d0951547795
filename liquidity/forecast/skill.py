"""How good forecasts mu of y are: L = log10(liquidity + EPSILON), arrays of shape (rows,)."""

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score

from liquidity.contract import COVERAGE

MISS = round(2 / (1 - COVERAGE), 9)  # what a miss costs per unit, in the interval score
BLOCK_DAYS, RESAMPLES = 30, 1000
FEWEST_BLOCKS = 4  # draws of fewer say little about the spread


def r2(y, mu):
    """1 - squared error / squared deviation from the mean."""
    return float(r2_score(y, mu))


def spearman_per_date(y, mu, day):
    """Mean over the days of the rank correlation between the coins of a day.

    Days with fewer than three coins, or on which all are equal, are left out.
    """
    groups = pd.DataFrame({"y": y, "mu": mu}).groupby(np.asarray(day))
    ranks = groups.rank()
    centred = ranks - ranks.groupby(np.asarray(day)).transform("mean")
    products = centred.pow(2).assign(both=centred["y"] * centred["mu"])
    sums = products.groupby(np.asarray(day)).sum()
    sums = sums[(groups.size() >= 3) & (sums["y"] > 0) & (sums["mu"] > 0)]
    return float((sums["both"] / np.sqrt(sums["y"] * sums["mu"])).mean())


def brier(happened, p):
    """Mean squared difference between what happened (0 or 1) and its probability."""
    return float(np.mean((p - happened) ** 2))


def interval_score(y, lower, upper):
    """Mean width plus MISS times the miss (Winkler 1972); lower is better."""
    miss = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
    return float(np.mean(upper - lower + MISS * miss))


def coverage(y, lower, upper):
    """The share of rows within their interval."""
    return float(np.mean((lower <= y) & (y <= upper)))


def worst_coverage(y, lower, upper, groups, *, fewest=1):
    """The lowest coverage among the groups of at least `fewest` rows, e.g. of months."""
    inside = pd.Series((lower <= y) & (y <= upper))
    table = inside.groupby(np.asarray(groups)).agg(["mean", "size"])
    return float(table.loc[table["size"] >= fewest, "mean"].min())


def months(day):
    """Months since 1970 of days since 1970."""
    return np.asarray(day).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def deciles(values):
    """0 to 9 by the deciles of `values`, 10 where they are NaN."""
    edges = np.nanquantile(values, np.linspace(0.1, 0.9, 9))
    return np.where(np.isnan(values), 10, np.searchsorted(edges, values, side="right"))


def gain_interval(y, mu, mu_baseline, day, *, random_state, coverage=0.95):
    """`(low, high)` of r2(mu) - r2(mu_baseline) over resampled blocks of 30 calendar days.

    Errors of neighbouring days are alike, so whole blocks are drawn with replacement (Künsch 1989,
    non-overlapping), 1,000 times; the spread of y is that of each draw. A last block that is not
    full is drawn like the others. Both ends are NaN where there are fewer than FEWEST_BLOCKS.
    """
    block = (np.asarray(day) - np.min(day)) // BLOCK_DAYS
    block = np.unique(block, return_inverse=True)[1]
    if block.max(initial=-1) + 1 < FEWEST_BLOCKS:
        return float("nan"), float("nan")
    weights = (np.ones(len(y)), y, y**2, (y - mu_baseline) ** 2 - (y - mu) ** 2)
    sums = np.stack([np.bincount(block, each) for each in weights])
    drawn = np.random.default_rng(random_state).integers(
        sums.shape[1], size=(RESAMPLES, sums.shape[1])
    )
    rows, total, squares, gain = sums[:, drawn].sum(axis=2)
    gains = gain / (squares - total**2 / rows)
    low, high = np.quantile(gains, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def typical_error(y, mu):
    """The median error of the liquidity as a share: 0.23 is 23 % up or down."""
    return float(10 ** np.median(np.abs(y - mu)) - 1)


def within_factor(y, mu, factor):
    """The share of rows whose liquidity is within `factor` of the forecast."""
    return float(np.mean(np.abs(y - mu) <= np.log10(factor)))
