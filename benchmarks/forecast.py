"""How good forecasts are on a real panel: train on the past, judge on the year that follows.

    python -m benchmarks.forecast [PANEL] [--starts 2023-07-15,2022-07-15] [--horizons 1,7,30]

PANEL is what `train.py --data` takes, by default the real market data that the tests use. No
search: the forest is the one in the middle of the default grid.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

from liquidity.contract import DATE, EPSILON, FORECAST_FEATURES, TARGET
from liquidity.data.market import read_market
from liquidity.executors.local import local_executor
from liquidity.forecast import baselines, skill
from liquidity.forecast.intervals import groups, interval
from liquidity.forecast.panel import cut_features
from liquidity.model.model import EW7
from liquidity.search.grid import out_of_fold
from liquidity.search.pipeline import build_pipeline, fit_pipeline, with_forest_params
from liquidity.tasks import forecast

REAL_DATA = os.environ.get("LIQUIDITY_REAL_DATA", Path(__file__).parents[2] / "shared/data")
PANEL = f"{REAL_DATA}/panel/*.parquet"
FOREST = {"n_estimators": 100, "min_samples_leaf": 50, "max_features": 0.4}
SHOWN = (
    "test_r2",
    "har_test_r2",
    "persistence_test_r2",
    "har_gain_lower",
    "har_gain_upper",
    "test_spearman",
    "har_test_spearman",
    "test_brier",
    "har_test_brier",
    "test_interval_score",
    "har_interval_score",
    "interval_coverage",
    "interval_coverage_worst_month",
    "interval_coverage_worst_group",
    "typical_error",
    "persistence_typical_error",
    "within_factor_2",
    "persistence_within_factor_2",
)
CUTS = (1, 3, 7)  # days of history
YOUNG = ((2, 6), (7, 14), (15, 29), (2, 29))  # of coins that are really so young


def main():
    """Print a table per year: a line per figure, a column per horizon."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("panel", nargs="?", default=PANEL)
    parser.add_argument("--starts", default="2023-07-15,2022-07-15", help="first days tested")
    parser.add_argument("--horizons", default="1,7,30")
    parser.add_argument("--n-jobs", type=int, default=-1)
    args = parser.parse_args()
    frame, _ = read_market(args.panel, required=FORECAST_FEATURES)
    for start in args.starts.split(","):
        first = pd.Timestamp(start)
        year = frame[frame[DATE] < first + pd.DateOffset(years=1)].reset_index(drop=True)
        started = time.perf_counter()
        panel = forecast.read_panel(year)
        print(f"\n{len(year):,} rows, features in {time.perf_counter() - started:.1f} s")
        figures = {
            f"h={horizon}": judge(panel, int(horizon), first, n_jobs=args.n_jobs)
            for horizon in args.horizons.split(",")
        }
        print(f"tested from {start} for a year\n{pd.DataFrame(figures).round(4).to_string()}")


def judge(panel, horizon, first, *, n_jobs):
    """The figures of one horizon, `{name: value}`."""
    dates = np.sort(panel.frame[DATE].unique())
    dates = dates[dates <= dates[-1] - np.timedelta64(horizon, "D")]
    share = float((dates >= first.to_datetime64()).mean())
    task = forecast.prepare(
        panel, horizon, split="date", test_size=share, cv=5, max_samples=0.1, random_state=42
    )
    tuned = with_forest_params(build_pipeline(random_state=42, max_samples=0.1), **FOREST)
    with local_executor(n_jobs) as executor:
        rows = {"folds": task.folds, "unscored": task.unscored}
        intervals = task.calibrate(out_of_fold(tuned, task.X, task.y, **rows, executor=executor))
    X, y = task.X[task.fit_rows], task.y[task.fit_rows]
    fitted = fit_pipeline(tuned, X, y, n_jobs=n_jobs)
    metrics, _ = task.evaluate(fitted, intervals, None)
    figures = {"rows trained on": len(task.training), "rows tested": len(task.test)}
    figures |= {name: metrics[name] for name in SHOWN}

    rows = len(task.training)
    har = baselines.fit_har(task.X[:rows], (task.y + task.offset)[:rows])
    y = np.log10(task.test[TARGET].to_numpy() + EPSILON)
    positions = task.test.index.to_numpy()
    for days in CUTS:
        cut, used = cut_features(
            panel.X, panel.days_used, panel.columns, positions, np.full(len(positions), days)
        )
        mu = fitted.predict(cut) + cut[:, EW7]
        ends = interval(intervals, mu, groups(intervals, cut, used))
        figures[f"history cut to {days}: r2"] = skill.r2(y, mu)
        figures[f"history cut to {days}: HAR's r2"] = skill.r2(y, baselines.har(har, cut))
        figures[f"history cut to {days}: coverage"] = skill.coverage(y, *ends)
    mu = fitted.predict(task.X_test) + task.X_test[:, EW7]
    ends = interval(intervals, mu, groups(intervals, task.X_test, task.days_used_test))
    for low, high in YOUNG:
        some = (task.days_used_test >= low) & (task.days_used_test <= high)
        persistence = baselines.persistence(task.X_test[some])
        name = f"really {low} to {high} days old"
        figures[f"{name}: r2"] = skill.r2(y[some], mu[some])
        figures[f"{name}: persistence's r2"] = skill.r2(y[some], persistence)
        figures[f"{name}: coverage"] = skill.coverage(y[some], *(end[some] for end in ends))
    return figures


if __name__ == "__main__":
    main()
