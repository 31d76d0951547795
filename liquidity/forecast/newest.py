"""One coin's days in, what is expected after the newest of them out, at every horizon."""

import numpy as np
from mlflow.exceptions import MlflowException

from liquidity.contract import COIN, DATE
from liquidity.model.model import keys, last_features


def forecast_newest(models, columns):
    """Answer the newest of one coin's days with each of `models`, `{horizon: Forecast}`.

    `columns` maps names to sequences of equal length: volume, capitalisation, price and date of
    each day, in any order. Returns `{"date", "days_used", "forecasts"}`; a forecast has its
    `horizon`, the `date` that it is for, and the columns of the model's answer. Raises
    INVALID_PARAMETER_VALUE for a value that breaks a rule, a row without a date, and two coins.
    """
    answers = []
    for horizon, model in sorted(models.items()):
        if not answers:
            # The rules and the features are the same for all horizons.
            X = model.parse(columns)
            model.check(X, columns)
            coin, day = keys(X[:, len(model.features) :])
            _check_days(X[:, -1], columns)
            if len(np.unique(coin)) > 1:
                raise _invalid(f"column {COIN}: expected the days of one coin, got several")
            history, days_used, newest = last_features(day, *X[:, : len(model.features)].T)
            row, newest_day = X[newest : newest + 1], day[newest]
        answer = model.forecast(history, days_used, row)
        values = {name: value[0].item() for name, value in answer.items() if name != "days_used"}
        answers.append({"horizon": horizon, "date": _iso(newest_day + horizon), **values})
    return {"date": _iso(newest_day), "days_used": int(days_used[0]), "forecasts": answers}


def _check_days(days, columns):
    unknown = np.flatnonzero(np.isnan(days))
    if unknown.size:
        got = repr(list(columns[DATE])[unknown[0]]) if DATE in columns else "none"
        raise _invalid(
            f"row {unknown[0]}, column {DATE}: expected a day such as 2026-01-31, got {got}"
        )


def _iso(day):
    return str(np.datetime64(int(day), "D"))


def _invalid(message):
    return MlflowException.invalid_parameter_value(f"{message}.")
