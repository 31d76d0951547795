"""How good a model is: split, folds, metrics, baselines and the prediction interval."""

import hashlib

import numpy as np
from sklearn.metrics import (
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
    root_mean_squared_error,
)
from sklearn.model_selection import GroupKFold, KFold, TimeSeriesSplit, train_test_split

from liquidity.contract import COVERAGE, EPSILON, THRESHOLD
from liquidity.data.table import inputs_and_target, turnover
from liquidity.errors import MarketDataError

SPLITS = ("coin", "random", "date")


def split_rows(table, *, split, test_size, random_state):
    """Positions of the training and the test rows.

    `coin`: all rows of a coin on one side, by a hash of its name, so that a coin stays on its
    side however much the data grows; `random`: train_test_split; `date`: the last dates test.
    Raises MarketDataError when a side would have fewer than two rows (r2 needs two).
    """
    rows = np.arange(len(table))
    dates = np.sort(table["date"].unique())
    if split == "date" and len(dates) < 3:
        raise MarketDataError(
            f"split=date needs at least 3 dates (two to train on, one to test), got "
            f"{len(dates)}: add snapshots or use split=coin."
        )
    if split == "coin":
        coins = table["coin"].unique()
        chosen = [c for c in coins if _hash_share(f"{random_state}:{c}") < test_size]
        in_test = table["coin"].isin(chosen).to_numpy()
    elif split == "date":
        count = min(max(1, round(test_size * len(dates))), len(dates) - 2)
        in_test = (table["date"] >= dates[-count]).to_numpy()
    else:
        # train_test_split's own count of test rows; it shuffles, and the order of rows counts.
        count = int(np.ceil(test_size * len(rows)))
        in_test = rows < count
    if min(in_test.sum(), (~in_test).sum()) < 2:
        raise MarketDataError(
            f"{len(rows)} rows of {table['coin'].nunique()} coins are too few for split={split} "
            f"with test_size={test_size}: {in_test.sum()} rows would test and "
            f"{(~in_test).sum()} train, expected at least 2 each; add data or change test_size."
        )
    if split == "random":
        return train_test_split(rows, test_size=test_size, random_state=random_state)
    return rows[~in_test], rows[in_test]


def make_folds(table, *, split, cv, max_samples=1.0):
    """`cv` pairs (training positions, scoring positions) within the training rows `table`.

    GroupKFold by coin, KFold, or whole dates in time order (then min(cv, dates - 1) folds).
    Raises MarketDataError when there is too little for `cv` folds of at least 2 rows, or for the
    share `max_samples` of a fold's training rows to be a row.
    """
    counted, noun = {
        "coin": (table["coin"].nunique(), "coins"),
        "random": (len(table), "rows"),
        "date": (table["date"].nunique(), "dates"),
    }[split]
    if split == "date":
        days = np.sort(table["date"].unique())
        day = np.searchsorted(days, table["date"].to_numpy())
        folds = [
            (np.flatnonzero(np.isin(day, before)), np.flatnonzero(np.isin(day, after)))
            for before, after in TimeSeriesSplit(min(cv, counted - 1)).split(days)
        ]
    elif counted < cv:
        folds = []
    elif split == "coin":
        folds = list(GroupKFold(cv).split(table, groups=table["coin"]))
    else:
        folds = list(KFold(cv).split(table))
    if not folds or min(len(test) for _, test in folds) < 2:
        raise MarketDataError(
            f"cv={cv} folds with split={split} need at least {cv} {noun} and 2 rows in each fold; "
            f"the training set has {counted} {noun} in {len(table)} rows: lower cv or add data."
        )
    fewest = min(len(train) for train, _ in folds)
    if int(max_samples * fewest) < 1:
        raise MarketDataError(
            f"max_samples={max_samples} draws no row of the {fewest:,} that the smallest fold "
            f"trains on, expected at least 1/{fewest}: raise max_samples or add data."
        )
    return folds


def log_r2(y, y_pred):
    """r2 of log10(liquidity + EPSILON): how well coins of every size are told apart.

    Plain r2 on this heavy tail is decided by the few most liquid coins.
    """
    return r2_score(np.log10(y + EPSILON), np.log10(np.maximum(y_pred, 0) + EPSILON))


def final_metrics(y, y_pred, *, quantile):
    """The metrics of the final model on the test rows, by their MLflow names.

    `high_*` take liquidity above THRESHOLD as the positive class; where there is none, they are 0.
    """
    precision, recall, f1, _ = precision_recall_fscore_support(
        y > THRESHOLD, y_pred > THRESHOLD, average="binary", zero_division=0
    )
    return {
        "test_r2": r2_score(y, y_pred),
        "test_log_r2": log_r2(y, y_pred),
        "test_rmse": root_mean_squared_error(y, y_pred),
        "test_mae": mean_absolute_error(y, y_pred),
        "high_precision": precision,
        "high_recall": recall,
        "high_f1": f1,
        "interval_coverage": float(np.mean(log_residuals(y, y_pred) <= quantile)),
    }


def baseline_metrics(train, test):
    """r2 on the test rows of the formula and of the training mean."""
    (_, y), (_, y_test) = inputs_and_target(train), inputs_and_target(test)
    return {
        "formula_test_r2": r2_score(y_test, turnover(test)),
        "mean_test_r2": r2_score(y_test, np.full(len(y_test), y.mean())),
    }


def log_residuals(y, y_pred):
    """|log((y + e) / (y_pred + e))|, the scale on which the interval is symmetric."""
    return np.abs(np.log((y + EPSILON) / (y_pred + EPSILON)))


def interval_quantile(y, y_pred):
    """The residual that a share of COVERAGE of unseen rows stays below.

    Split conformal prediction: `y_pred` are out-of-fold predictions, and of n residuals it is the
    ceil((n + 1) * coverage)-th smallest (Lei et al. 2018, "Distribution-Free Predictive Inference
    for Regression").
    """
    residuals = np.sort(log_residuals(y, y_pred))
    rank = min(int(np.ceil((len(residuals) + 1) * COVERAGE)), len(residuals))
    return float(residuals[rank - 1])


def _hash_share(text):
    """A number in [0, 1) that depends on `text` alone, alike on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
