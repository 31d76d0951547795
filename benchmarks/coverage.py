"""How many unseen rows the 90 % interval holds, over several seeds of the split by coin."""

from functools import partial

import numpy as np

from benchmarks.measure import REAL_DATA, SAMPLE, apart
from liquidity.data.market import read_market
from liquidity.data.table import build_table, inputs_and_target
from liquidity.evaluation import interval_quantile, log_residuals, make_folds, split_rows
from liquidity.executors.local import local_executor
from liquidity.search.grid import out_of_fold
from liquidity.search.pipeline import build_pipeline, fit_pipeline, with_forest_params


def coverage(bench):
    """The sample, and the real market where it is at hand; a round is a seed of the split."""
    files = {"the sample": SAMPLE} | {
        f"real market, {name}": path
        for name in ("seed", "monthly")
        if (path := REAL_DATA / name).is_dir()
    }
    trees = bench.pick(200, 30)
    for name, path in files.items():
        seeds = iter(range(5))
        measure = partial(lambda path, seeds: apart(one, path, next(seeds), trees), path, seeds)
        ways = {("90 % interval", name): measure}
        bench.in_turn(f"Coverage, {name}", ways, rounds=5)
    bench.coarse("one seed and small forests")


def one(data, seed, trees):
    """Calibrate on the folds of the training coins as train.py does, count on the test rows."""
    table = build_table(read_market(data)[0])
    train_rows, test_rows = split_rows(table, split="coin", test_size=0.2, random_state=seed)
    training = table.iloc[train_rows]
    folds = make_folds(training, split="coin", cv=5)
    pipeline = with_forest_params(build_pipeline(random_state=42), n_estimators=trees)
    X, y = inputs_and_target(training)
    with local_executor(-1) as executor:
        y_pred = np.concatenate(out_of_fold(pipeline, X, y, folds=folds, executor=executor))
    quantile = interval_quantile(np.concatenate([y[test] for _, test in folds]), y_pred)
    X_test, y_test = inputs_and_target(table.iloc[test_rows])
    y_pred = fit_pipeline(pipeline, X, y, n_jobs=-1).predict(X_test)
    return {
        "% of unseen rows within": 100 * np.mean(log_residuals(y_test, y_pred) <= quantile),
        "end / score": float(np.exp(quantile)),
    }
