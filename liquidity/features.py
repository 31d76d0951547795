"""From market rows to the table that is learned from: inputs, target and level."""

import hashlib

import numpy as np
import pandas as pd

from liquidity.market import (
    CHANGE_1H,
    KEYS,
    LARGEST,
    MARKET_CAP,
    PRICE,
    VOLUME,
    MarketDataError,
)

# The order counts: a forest draws its random numbers by column position.
FEATURES = [VOLUME, MARKET_CAP, CHANGE_1H, PRICE]
TARGET = "liquidity"
LEVEL = "liquidity_level"
THRESHOLD = 0.5  # above it a coin's liquidity is High


def turnover(frame):
    """24h_volume / mkt_cap, dimensionless: the share of a coin's value that changed hands."""
    return frame[VOLUME] / frame[MARKET_CAP]


def target(frame):
    """Liquidity of shape (rows,): the file's own column where it has one, else `turnover`.

    Raises MarketDataError for a value beyond 1e18 (a capitalisation next to nothing).
    """
    values = turnover(frame)
    if TARGET in frame:
        values = frame[TARGET].fillna(values)
    beyond = np.flatnonzero(~(values <= LARGEST))
    if beyond.size:
        row = frame.iloc[beyond[0]]
        raise MarketDataError(
            f"{row.coin} on {row.date:%Y-%m-%d}: 24h_volume / mkt_cap is {values.iloc[beyond[0]]}"
            f" ({beyond.size} such rows); expected at most {LARGEST:g}: mend {MARKET_CAP}."
        )
    return values.rename(TARGET)


def build_table(frame):
    """The cleaned, reduced table: date, coin, the four features, liquidity and liquidity_level.

    `liquidity_level` is 1 where liquidity > 0.5. Raises MarketDataError as `target` does.
    """
    table = frame[[*reversed(KEYS), *FEATURES]].copy()
    table[TARGET] = target(frame)
    table[LEVEL] = (table[TARGET] > THRESHOLD).astype(int)
    return table


def inputs_and_target(table):
    """X of shape (rows, 4) in the order of FEATURES and y of shape (rows,), both float64."""
    return table[FEATURES].to_numpy(float), table[TARGET].to_numpy(float)


def digest(table):
    """A short digest of every row in its order, by which equal training data is recognised."""
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    return hashlib.sha256(rows).hexdigest()[:16]
