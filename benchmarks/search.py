"""The tracked search against plain GridSearchCV on the same rows and cores.

    python benchmarks/search.py [--data FILE] [--rounds N]

Plain GridSearchCV and our search with every trial in SQLite take turns, each time in a fresh
process, so that both pay for starting their workers; the clock runs from the first worker to the
last score and the last write. What the tracking costs is measured within one process, where our
search runs with and without it in changing order. Scores must be equal throughout.
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
WAYS = ("plain", "tracked")


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


def measure(grid, data, ways):
    """Seconds and mean scores of searches one after the other; runs in a process of its own."""
    from liquidity import store

    table = build_table(read_market(data)[0])
    training = table.iloc[split_rows(table, split="random", test_size=0.2, random_state=42)[0]]
    X, y = inputs_and_target(training)
    folds = make_folds(training, split="random", cv=5)
    store.check_store()  # makes the store, which is no part of a search
    results = []
    for way in ways:
        started = time.perf_counter()
        result = globals()[way](X, y, folds, GRIDS[grid])
        seconds = time.perf_counter() - started
        means = result if way == "plain" else cv_results(result)["mean_test_score"]
        results.append({"seconds": seconds, "scores": list(means), "rows": len(X)})
    return results


def measure_apart(grid, data, *ways):
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        command = [sys.executable, __file__, "--data", data, "--one", grid, *ways]
        output = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        ).stdout
    return json.loads(output.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data/sample.csv")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        grid, *ways = args.one
        print(json.dumps(measure(grid, args.data, ways)))
        return
    for grid in GRIDS:
        plain, tracked = zip(
            *[[measure_apart(grid, args.data, way)[0] for way in WAYS] for _ in range(args.rounds)],
            strict=True,
        )
        assert all(run["scores"] == plain[0]["scores"] for run in plain + tracked)
        print(f"{grid}, {plain[0]['rows']} rows, {os.cpu_count()} cores: scores equal")
        print(f"  plain GridSearchCV  {spread([run['seconds'] for run in plain])} s")
        print(f"  tracked search      {spread([run['seconds'] for run in tracked])} s")
        ratios = [t["seconds"] / p["seconds"] for p, t in zip(plain, tracked, strict=True)]
        print(f"  tracked / plain     {spread(ratios)}")
    order = ["bare", "tracked", "tracked", "bare"] * ((args.rounds + 1) // 2)
    seconds = [run["seconds"] for run in measure_apart("27 trials", args.data, *order)]
    pairs = zip(order[::2], seconds[::2], seconds[1::2], strict=True)
    ratios = [(b / a) if first == "bare" else (a / b) for first, a, b in pairs]
    print(f"  with / without tracking, 27 trials: {spread(ratios)}")


def spread(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    main()
