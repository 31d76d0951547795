"""From market rows to the table that is learned from: inputs, target and level."""

import hashlib

import numpy as np
import pandas as pd

from liquidity.contract import (
    EPSILON,
    FEATURES,
    KEYS,
    LARGEST,
    LEVEL,
    MARKET_CAP,
    RATIO,
    TARGET,
    THRESHOLD,
    VOLUME,
)
from liquidity.errors import MarketDataError


def turnover(frame):
    """RATIO, dimensionless: the share of a coin's value that changed hands."""
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
            f"{row.coin} on {row.date:%Y-%m-%d}: {RATIO} is {values.iloc[beyond[0]]}"
            f" ({beyond.size} such rows); expected at most {LARGEST:g}: correct {MARKET_CAP}."
        )
    return values.rename(TARGET)


def build_table(frame):
    """The cleaned, reduced table: date, coin, the four features, liquidity and liquidity_level.

    `liquidity_level` is 1 where liquidity is above THRESHOLD. Raises MarketDataError as `target`
    does.
    """
    table = frame[[*reversed(KEYS), *FEATURES]].copy()
    table[TARGET] = target(frame)
    table[LEVEL] = (table[TARGET] > THRESHOLD).astype(int)
    return table


def inputs_and_target(table):
    """X of shape (rows, 4) in the order of FEATURES and y of shape (rows,), both float64."""
    return table[FEATURES].to_numpy(float), table[TARGET].to_numpy(float)


def describe_target(table):
    """What the column liquidity of these rows is, checked on them, as metadata of a model.

    A file's own liquidity is a ratio too where it is one to a thousandth in every row, on the
    scale of log(liquidity + EPSILON).
    """
    y, ratio = table[TARGET], turnover(table)
    unlike = int((np.abs(np.log((y + EPSILON) / (ratio + EPSILON))) > 1e-3).sum())
    if unlike:
        said = (
            f"column {TARGET} of the files, not the ratio {RATIO} (unlike it in {unlike:,} of "
            f"{len(table):,} rows)"
        )
    else:
        said = f"{TARGET} = {RATIO} of the same row"
    return {
        "target": said,
        "target_is_ratio": not unlike,
        "target_range": [float(y.min()), float(y.max())],
    }


def digest(table):
    """A short digest of every row in its order, by which equal training data is recognised."""
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    return hashlib.sha256(rows).hexdigest()[:16]
