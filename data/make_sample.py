"""Write sample.csv: 300 synthetic coins on 4 days, shaped like a real list of the top 500.

    python data/make_sample.py

No row is a real coin. The distributions follow published quantiles of two real snapshots; the
seed is fixed and the values are rounded, so every run writes the same bytes.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

SEED = 20220316
COINS = 300
DATES = ["2022-03-16", "2022-03-17", "2022-03-18", "2022-03-19"]
SHARES = [0.0, 0.01, 0.05, 0.25, 0.50, 0.75, 0.95, 0.99, 1.0]
# Quantiles of real snapshots at SHARES. Volume is liquidity x cap: in reality the two are all but
# independent of each other, which gives the volume its real correlation with both.
PRICE = [1e-9, 5.0e-7, 0.0034, 0.194, 1.095, 7.23, 363, 4.06e4, 4.12e4]
MARKET_CAP = [6.6e7, 6.78e7, 7.26e7, 1.16e8, 2.12e8, 5.95e8, 5.93e9, 3.85e10, 7.76e11]
LIQUIDITY = [1e-6, 3.2e-6, 0.00065, 0.0088, 0.0338, 0.0883, 0.282, 1.18, 5.95]
CHANGE_1H = [-0.07, -0.018, -0.005, 0.001, 0.006, 0.019, 0.036, 0.054, 0.095]
CHANGE_24H = [-0.3, -0.083, -0.030, 0.001, 0.016, 0.035, 0.101, 0.217, 0.577]
CHANGE_7D = [-0.5, -0.244, -0.131, -0.041, -0.0005, 0.037, 0.230, 0.762, 4.61]
# Correlations of log cap, log liquidity and log price.
LEVELS = [[1, 0.07, 0.18], [0.07, 1, 0.1], [0.18, 0.1, 1]]
# Correlations of the normal shares behind the changes; the long tail of 7d halves what is left
# of them: 0.44 between 1h and 24h and 0.48 between 24h and 7d, as in reality.
CHANGES = [[1, 0.44, 0.35], [0.44, 1, 0.75], [0.35, 0.75, 1]]
# How a coin's log10 volume, cap and price move from one day to the next.
DAILY_MEAN, DAILY_DEVIATION = [-0.04, 0, 0], [0.28, 0.02, 0.03]
INCOMPLETE = 8  # rows without 1h, 24h and volume, as real exports have them


def make_sample():
    """The sample as a frame, in the columns of a snapshot."""
    random = np.random.default_rng(SEED)
    cap, liquidity, price = (
        10 ** _quantile(shares, np.log10(values))
        for shares, values in zip(
            _correlated(random, COINS, LEVELS), (MARKET_CAP, LIQUIDITY, PRICE), strict=True
        )
    )
    order = np.argsort(-cap)
    levels = np.log10(np.stack([cap * liquidity, cap, price]))[:, order]
    days = []
    for date in DATES:
        changes = _correlated(random, COINS, CHANGES)
        volume, cap, price = 10**levels
        days.append(
            pd.DataFrame(
                {
                    "date": date,
                    "coin": [f"Synthetic Coin {number:03d}" for number in range(1, COINS + 1)],
                    "symbol": [f"SYN{number:03d}" for number in range(1, COINS + 1)],
                    "price": _significant(price),
                    "1h": _quantile(changes[0], CHANGE_1H).round(3),
                    "24h": _quantile(changes[1], CHANGE_24H).round(3),
                    "7d": _quantile(changes[2], CHANGE_7D).round(3),
                    "24h_volume": volume.round(),
                    "mkt_cap": cap.round(),
                }
            )
        )
        moves = random.normal(size=(3, COINS)) * np.transpose([DAILY_DEVIATION])
        levels = levels + moves + np.transpose([DAILY_MEAN])
    sample = pd.concat(days, ignore_index=True)
    lost = random.choice(len(sample), INCOMPLETE, replace=False)
    sample.loc[lost, ["1h", "24h", "24h_volume"]] = np.nan
    return sample


def _correlated(random, count, correlation):
    """Uniform shares of shape (variables, count), joined by a Gaussian copula."""
    independent = random.normal(size=(len(correlation), count))
    return norm.cdf(np.linalg.cholesky(correlation) @ independent)


def _quantile(shares, values):
    return np.interp(shares, SHARES, values)


def _significant(values):
    return np.array([float(f"{value:.6g}") for value in values])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="?", default=Path(__file__).with_name("sample.csv"))
    make_sample().to_csv(parser.parse_args().output, index=False, lineterminator="\n")
