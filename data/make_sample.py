"""Write synthetic market data: no row is a real coin.

    python data/make_sample.py                                          # sample.csv
    python data/make_sample.py --days 400 --coins 150 --out FOLDER      # a panel to forecast

sample.csv has 300 coins on 4 days, shaped like a real list of the top 500: the distributions
follow published quantiles of two real snapshots. A panel has a file per day, and what a forecast
can learn from: liquidity returns to a mean of its own, moves with the weekday, and is more volatile
for some coins than for others; coins are listed later, and miss days. The seed is fixed and the
values are rounded, so every run writes the same bytes.
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


# A panel: how log10 liquidity differs by weekday from Monday on, after the mean changes of a real
# panel (Tuesday +0.09, Sunday -0.09).
WEEKDAYS = [-0.04, 0.05, 0.05, 0.05, 0.03, -0.02, -0.12]
LAST_DAY = "2026-06-30"
# A coin's own deviation in a day, from the calmest to the wildest, and how much of a deviation is
# left on the next day; its mean wanders too, a fiftieth as fast.
VOLATILITY, REMAINS, WANDERS = (0.06, 0.3), 0.75, 0.02
LISTED_LATER, MISSED = 0.25, 0.01  # shares of the coins, and of their days


def make_panel(*, days, coins):
    """A panel as `{day: frame}` in the columns of a snapshot, without 1h."""
    random = np.random.default_rng(SEED)
    cap, mean, price = (
        _quantile(shares, np.log10(values))
        for shares, values in zip(
            _correlated(random, coins, LEVELS), (MARKET_CAP, LIQUIDITY, PRICE), strict=True
        )
    )
    volatility = np.geomspace(*VOLATILITY, coins)
    random.shuffle(volatility)
    listed = np.where(random.random(coins) < LISTED_LATER, random.integers(0, days, coins), 0)
    deviation = np.zeros(coins)
    panel = {}
    for number, date in enumerate(pd.date_range(end=LAST_DAY, periods=days)):
        # Five degrees of freedom: now and then a day is far from all others.
        deviation = REMAINS * deviation + volatility * random.standard_t(5, coins)
        mean = mean + WANDERS * volatility * random.normal(size=coins)
        move = 0.02 * random.standard_t(5, coins)
        price, cap = price + move, cap + move
        volume = cap + np.minimum(mean + deviation + WEEKDAYS[date.weekday()], 1)
        there = (listed <= number) & (random.random(coins) >= MISSED)
        frame = pd.DataFrame(
            {
                "date": f"{date:%Y-%m-%d}",
                "coin": [f"Synthetic Coin {n:03d}" for n in range(1, coins + 1)],
                "symbol": [f"SYN{n:03d}" for n in range(1, coins + 1)],
                "price": _significant(10**price),
                "24h_volume": (10**volume).round(),
                "mkt_cap": (10**cap).round(),
            }
        )
        panel[date] = frame[there].sort_values("mkt_cap", ascending=False)
    return panel


def _correlated(random, count, correlation):
    """Uniform shares of shape (variables, count), joined by a Gaussian copula."""
    independent = random.normal(size=(len(correlation), count))
    return norm.cdf(np.linalg.cholesky(correlation) @ independent)


def _quantile(shares, values):
    return np.interp(shares, SHARES, values)


def _significant(values):
    return np.array([float(f"{value:.6g}") for value in values])


def _at_least(lowest):
    def parse(text):
        if not text.isdigit() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {lowest}, got {text!r}")
        return int(text)

    return parse


def main():
    """Write sample.csv, or with --days a panel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="?", default=Path(__file__).with_name("sample.csv"))
    parser.add_argument("--days", type=_at_least(1), help="write a panel of so many days")
    parser.add_argument("--coins", type=_at_least(1), default=150, help="of the panel (150)")
    parser.add_argument("--out", type=Path, default=Path("data/panel"), help="its folder")
    args = parser.parse_args()
    if not args.days:
        make_sample().to_csv(args.output, index=False, lineterminator="\n")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for date, frame in make_panel(days=args.days, coins=args.coins).items():
        path = args.out / f"synthetic_{date:%Y-%m-%d}.csv"
        frame.to_csv(path, index=False, lineterminator="\n")
    print(f"{args.days} days of at most {args.coins} synthetic coins in {args.out}")


if __name__ == "__main__":
    main()
