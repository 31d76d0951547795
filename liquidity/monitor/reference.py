"""What a version is compared with: HAR, its features as they were, and how often it would have
been called stale while it held, all from the test rows of its own training.

A model does not keep the coefficients of HAR; its run keeps the cleaned table, from which the same
regression comes again, to the last digit.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from liquidity.contract import ACTUAL, COIN, COVERAGE, DATE, FORECAST_FEATURES, TARGET, THRESHOLD
from liquidity.errors import MarketDataError, first_line
from liquidity.forecast import baselines
from liquidity.model.model import EPSILON, HISTORY_FEATURES, history_features
from liquidity.monitor import drift, ledger
from liquidity.monitor.market import from_frame
from liquidity.monitor.outcomes import day_figures
from liquidity.runs.tables import read_table
from liquidity.scratch import scratch_folder

_NOTHING = {"har": None, "features": None, "weeks": 0, "false_alarms": 0}
SHARES = np.linspace(0, 1, 21)  # of the quantiles that are kept of each feature


def reference_of(version, model, run_id):
    """The version's reference, from the ledger or made and kept there.

    A JSON object: `run_id`, `threshold`, `coverage`, `weekday_profile`; `har` (4 coefficients),
    `features` (SHARES quantiles of each), `weeks` and `false_alarms` (how many weeks of the test
    rows, and on how many of them a day would have been called stale), all null or 0 where the run's
    table cannot be read; `problem` says why. Raises MarketDataError where the ledger is that of
    another registry.
    """
    found = ledger.read_reference(version)
    if found is None:
        found = {
            "run_id": run_id,
            "threshold": model.metadata["threshold"],
            "coverage": model.metadata["interval"]["coverage"],
            "weekday_profile": model.metadata.get("weekday_profile"),
            **_learned(version, model, run_id),
        }
        ledger.write_reference(version, found)
    check_run(version, found, run_id)
    return found


def unknown_reference(problem):
    """What stands in for the reference of a version that is gone: the usual threshold and share."""
    usual = {"threshold": THRESHOLD, "coverage": COVERAGE, "weekday_profile": None}
    return usual | _NOTHING | {"problem": problem}


def check_run(version, reference, run_id):
    """Raise MarketDataError where the version of that number was trained by another run."""
    if reference["run_id"] != run_id:
        raise MarketDataError(
            f"{version.folder}: holds forecasts of another model that was {version} too (of run "
            f"{reference['run_id']}, the registry's is of run {run_id}): move the folder away, or "
            "name another --ledger."
        )


def _learned(version, model, run_id):
    try:
        with scratch_folder() as folder:
            table = read_table(run_id, Path(folder), horizon=version.horizon)
    except Exception as error:  # whatever the store or the table's reader makes of it
        problem = f"the table of its run {run_id} cannot be read ({first_line(error)})"
        return _NOTHING | {"problem": problem}
    day = table[DATE].to_numpy("datetime64[D]").astype(np.int64)
    columns = [table[name].to_numpy(float) for name in FORECAST_FEATURES]
    train, test = (np.flatnonzero(table["set"] == name) for name in ("train", "test"))
    X, days_used = history_features(
        pd.factorize(table[COIN])[0], day, *columns, answer=np.concatenate([train, test])
    )
    y = np.log10(table[TARGET].to_numpy() + EPSILON)
    har = baselines.fit_har(X[: len(train)], y[train])
    X, days_used = X[len(train) :], days_used[len(train) :]
    made = forecast_columns(model, X, days_used, np.column_stack(columns)[test], har)
    made[ACTUAL] = table[TARGET].to_numpy()[test]
    days = pd.DataFrame(made).groupby(day[test] + version.horizon)
    threshold = model.metadata["threshold"]
    figures = [day_figures(target, rows, threshold) for target, rows in days]
    coverage = model.metadata["interval"]["coverage"]
    whole = from_frame(table)
    moves = drift.price_moves(whole, whole.last - int(whole.day[0]))
    stale = [
        figures[last].target
        for last in range(len(figures))
        if drift.judge_days(figures[: last + 1][-drift.WINDOW :], coverage, moves)
    ]
    return {
        "har": har.tolist(),
        "features": {
            name: np.nanquantile(X[:, column], SHARES).tolist()
            for column, name in enumerate(HISTORY_FEATURES)
            if not np.isnan(X[:, column]).all()
        },
        "weeks": len({week(each.target) for each in figures}),
        "false_alarms": len(set(map(week, stale))),
        "problem": None,
    }


def week(day):
    """The number of a day's week, from Monday to Sunday."""
    return (day + 3) // 7


def forecast_columns(model, X, days_used, values, har):
    """The columns of numbers that the ledger has of rows, by name, each of shape (rows,).

    Arguments as `Forecast.forecast` of model.py takes them, and HAR's coefficients, None for none.
    """
    answer = model.forecast(X, days_used, values)
    columns = {name: answer[name] for name in (TARGET, "lower", "upper", "p_high")}
    columns["persistence"] = _liquidity(baselines.persistence(X))
    unknown = np.full(len(X), np.nan)
    columns["har"] = unknown if har is None else _liquidity(baselines.har(np.array(har), X))
    return columns


def _liquidity(level):
    return np.maximum(10**level - EPSILON, 0)
