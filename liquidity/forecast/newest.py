"""The short ways to a forecast: of a row alone, and of one coin's newest day at every horizon."""

import math
from datetime import date, timedelta

import numpy as np
from mlflow.exceptions import MlflowException

from liquidity.contract import COIN, DATE
from liquidity.model.model import (
    EPSILON,
    LARGEST_RATIO,
    NOT_ALLOWED,
    coin_number,
    day_number,
    last_features,
)

EPOCH = date(1970, 1, 1)


def forecast_alone(model, values, coin, date, threshold=None):
    """What the model says of one row, to the same bits, as Python's own values.

    `values` are its numbers in the order of `features`. None where a rule is broken: `check` says
    which.
    """
    coin, day = coin_number(coin, {}), day_number(date)
    rules = zip(model.lowest.tolist(), values, strict=True)
    if NOT_ALLOWED in (coin, day) or not all(low <= v <= model.largest for low, v in rules):
        return None
    return model.forecast_row(features_alone(*values[:2], day), 1, values, threshold)


def features_alone(volume, cap, day):
    """`history_features` of one row without a past, as a list: all its means are its own level."""
    level, cap = np.log10([min(volume / cap, LARGEST_RATIO) + EPSILON, cap]).tolist()
    unknown = [math.nan] * 5  # absd30, s7, dv1, dp1 and dp7
    return [0.0, level, math.nan, 0.0, 0.0, 0.0, 0.0, *unknown, cap, (day + 3) % 7]


def forecast_newest(models, columns):
    """Answer the newest of one coin's days with each of `models`, `{horizon: Forecast}`.

    `columns` maps names to sequences of equal length: volume, capitalisation, price and date of
    each day, in any order. Returns `{"date", "days_used", "forecasts"}`; a forecast has its
    `horizon`, the `date` that it is for, and the columns of the model's answer. Raises
    INVALID_PARAMETER_VALUE for a value that breaks a rule, a row without a date, and two coins.
    """
    # The rules and the features are the same for all horizons.
    model = next(iter(models.values()))
    X = model.parse(columns)
    model.check(X, columns)
    _check_days(X[:, -1], columns)
    _check_coins(X[:, -2])
    history, days_used, newest = last_features(X[:, -1], *X[:, :-2].T)
    history, days_used = history[0].tolist(), int(days_used[0])
    *values, _, day = X[newest].tolist()
    forecasts = []
    for horizon, model in sorted(models.items()):
        answer = model.forecast_row(history, days_used, values)
        del answer["days_used"]  # it is that of all horizons
        forecasts.append({"horizon": horizon, "date": _iso(day + horizon), **answer})
    return {"date": _iso(day), "days_used": days_used, "forecasts": forecasts}


def _check_days(days, columns):
    unknown = np.flatnonzero(np.isnan(days))
    if unknown.size:
        got = repr(list(columns[DATE])[unknown[0]]) if DATE in columns else "none"
        raise _invalid(
            f"row {unknown[0]}, column {DATE}: expected a day such as 2026-01-31, got {got}"
        )


def _check_coins(coins):
    """All rows name the same coin, or none does."""
    known = coins == coins
    if not ((coins == coins[0]) if known[0] else ~known).all():
        raise _invalid(f"column {COIN}: expected the days of one coin, got several")


def _iso(day):
    return (EPOCH + timedelta(day)).isoformat()


def _invalid(message):
    return MlflowException.invalid_parameter_value(f"{message}.")
