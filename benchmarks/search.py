"""The tracked search against plain GridSearchCV on the same rows and cores.

    python benchmarks/search.py [--data FILE] [--rounds N]

Each measurement is a fresh process, so that both pay for starting their workers; the clock runs
from the first worker to the last score (and, tracked, the last write). Compared in turn: plain
GridSearchCV, our search alone, our search with every trial in SQLite. Scores must be equal.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sklearn.model_selection import GridSearchCV

from liquidity.evaluation import make_folds, split_rows
from liquidity.features import build_table, inputs_and_target
from liquidity.market import read_market
from liquidity.pipeline import PARAM_GRID, build_pipeline
from liquidity.search import cv_results, local_executor, search

GRIDS = {
    "27 trials": PARAM_GRID,
    "72 trials of 8 forest sizes": PARAM_GRID | {"n_estimators": list(range(50, 401, 50))},
}
WAYS = ("plain", "bare", "tracked")


def plain(X, y, folds, grid):
    named = {f"forest__{name}": values for name, values in grid.items()}
    plain = GridSearchCV(
        build_pipeline(random_state=42), named, cv=folds, scoring="r2", n_jobs=-1, refit=False
    )
    return plain.fit(X, y).cv_results_["mean_test_score"]


def bare(X, y, folds, grid):
    with local_executor(-1) as executor:
        return run(X, y, folds, grid, executor, on_trial=lambda trial: None)


def tracked(X, y, folds, grid):
    from liquidity import tracking

    with (
        local_executor(-1) as executor,
        tracking.parent_run(experiment="benchmark", params={}, tags={}) as parent,
    ):
        trials = run(
            X, y, folds, grid, executor, on_trial=lambda trial: tracking.log_trial(parent, trial)
        )
        tracking.log_ranks(parent, trials)
    return trials


def run(X, y, folds, grid, executor, *, on_trial):
    return search(
        build_pipeline(random_state=42), X, y, param_grid=grid, folds=folds, executor=executor,
        on_trial=on_trial,
    )  # fmt: skip


def measure(way, grid, data):
    """Seconds and scores of one search; runs in a process of its own."""
    table = build_table(read_market(data)[0])
    training = table.iloc[split_rows(table, split="random", test_size=0.2, random_state=42)[0]]
    X, y = inputs_and_target(training)
    folds = make_folds(training, split="random", cv=5)
    if way == "tracked":
        from liquidity import tracking

        tracking.check_store()  # makes the store, which is no part of a search
    started = time.perf_counter()
    result = globals()[way](X, y, folds, GRIDS[grid])
    seconds = time.perf_counter() - started
    means = result if way == "plain" else cv_results(result)["mean_test_score"]
    return {"seconds": seconds, "scores": list(means), "rows": len(X)}


def measure_apart(way, grid, data):
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        command = [sys.executable, __file__, "--data", data, "--one", way, grid]
        output = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        ).stdout
    return json.loads(output.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data/sample.csv")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args.data)))
        return
    for grid in GRIDS:
        rounds = [{way: measure_apart(way, grid, args.data) for way in WAYS}
                  for _ in range(args.rounds)]  # fmt: skip
        assert all(r[way]["scores"] == r["plain"]["scores"] for r in rounds for way in WAYS)
        print(f"{grid}, {rounds[0]['plain']['rows']} rows, {os.cpu_count()} cores: scores equal")
        for way in WAYS:
            print(f"  {way:8} {spread([r[way]['seconds'] for r in rounds])} s")
        for above, below in (("tracked", "plain"), ("tracked", "bare")):
            ratios = [r[above]["seconds"] / r[below]["seconds"] for r in rounds]
            print(f"  {above} / {below}: {spread(ratios)}")


def spread(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    main()
