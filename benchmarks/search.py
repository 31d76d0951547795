"""The tracked search against GridSearchCV on the same rows and cores; what tracking costs."""

import os
import shutil
import tempfile
import time
from collections import defaultdict
from functools import partial

import mlflow
import pandas as pd
from sklearn.model_selection import GridSearchCV

from benchmarks.measure import SAMPLE, apart, cpu_seconds, python, waited_for
from benchmarks.servers import server
from data.make_sample import make_panel
from liquidity.contract import DATE, FORECAST_FEATURES
from liquidity.data.market import read_market
from liquidity.data.table import build_table, inputs_and_target
from liquidity.evaluation import make_folds, split_rows
from liquidity.executors.local import local_executor
from liquidity.runs.store import check_store, quieten_mlflow
from liquidity.runs.tracking import log_ranks, log_trial, parent_run
from liquidity.search.grid import Trial
from liquidity.search.grid import search as search_grid
from liquidity.search.pipeline import FORECAST_GRID, PARAM_GRID, build_pipeline
from liquidity.tasks import forecast

PLAIN, AUTOLOG = "GridSearchCV", "GridSearchCV with mlflow autolog"
OURS = "this search, tracked"
HTTP = ", over HTTP"
FORECAST = "27 trials of a forecast"


def search(bench):
    """Whole searches in fresh processes: from the first worker to the last score and write."""
    copy = store_copies(bench.folder)
    step = bench.pick(50, 3)
    grids = {
        "27 trials": PARAM_GRID | {"n_estimators": [2 * step, 4 * step, 6 * step]},
        "72 trials of 8 sizes": PARAM_GRID | {"n_estimators": list(range(step, 9 * step, step))},
        FORECAST: FORECAST_GRID,
    }
    panel = bench.pick((400, 150), (150, 20))
    seen = defaultdict(list)

    def compare(at, others, uri=None):
        grid = at.removesuffix(HTTP)

        def measure(way):
            size = panel if at == FORECAST else None
            found = apart(timed_search, way, grids[grid], size, MLFLOW_TRACKING_URI=uri or copy())
            return checked(found, seen[grid])

        ways = {(way, at): partial(measure, way) for way in (*others, OURS)}
        bench.in_turn(f"Search, {at}", ways, rounds=3)
        for other in others:
            bench.ratio((other, at), (OURS, at), "seconds", "CPU s")

    compare("27 trials", (PLAIN, AUTOLOG))
    compare("72 trials of 8 sizes", (PLAIN,))
    compare(FORECAST, (PLAIN,))
    tracking_server = python(
        "-m mlflow server --port {port} --workers 1 --backend-store-uri",
        f"sqlite:///{bench.folder}/server.db",
    )
    with bench.attempt("search over HTTP"), server("mlflow", tracking_server, bench.folder) as up:
        compare(f"27 trials{HTTP}", (AUTOLOG,), up.url)
    if not bench.failures:
        bench.notes.append("All searches of a grid found the same r2 to the last bit.")
    bench.coarse("with small forests the start of the worker processes counts for most")


def checked(found, seen):
    """The times of a search, whose scores have to be those that others of the grid have seen."""
    seen.append(found.pop("scores"))
    if seen[-1] != seen[0]:
        raise RuntimeError("its scores are not those of the other searches")
    return found


def timed_search(way, grid, panel):
    """Times and mean scores of a search; runs in a process of its own."""
    rows = training_rows() if panel is None else forecast_rows(*panel)
    quieten_mlflow()
    check_store()
    before, started, used = count_runs(), time.perf_counter(), processor_time()
    scores = WAYS[way](*rows, grid)
    seconds, used = time.perf_counter() - started, processor_time() - used
    runs = count_runs() - before
    if runs != (expected := 0 if way == PLAIN else len(scores) + 1):
        raise RuntimeError(f"{way} wrote {runs} runs, not {expected}")
    return {"seconds": seconds, "CPU s": used, "scores": scores}


def processor_time():
    """Seconds on a core of this process, and of its children that live or have ended."""
    return cpu_seconds(os.getpid()) + waited_for()


def training_rows():
    """The pipeline, X, y and the folds of the sample's training rows."""
    table = build_table(read_market(SAMPLE)[0])
    training = table.iloc[split_rows(table, split="random", test_size=0.2, random_state=42)[0]]
    folds = make_folds(training, split="random", cv=5)
    return build_pipeline(random_state=42), *inputs_and_target(training), folds


def forecast_rows(days, coins):
    """The same of a forecast of 7 days on a synthetic panel."""
    frame = pd.concat(make_panel(days=days, coins=coins).values(), ignore_index=True)
    frame = frame.dropna(subset=FORECAST_FEATURES)
    frame = frame.assign(**{DATE: pd.to_datetime(frame[DATE])}).reset_index(drop=True)
    task = forecast.prepare(
        forecast.read_panel(frame), 7,
        split="date", test_size=0.2, cv=5, max_samples=0.1, random_state=42,
    )  # fmt: skip
    return build_pipeline(random_state=42, max_samples=0.1), task.X, task.y, task.folds


def count_runs():
    return len(mlflow.search_runs(search_all_experiments=True, output_format="list"))


def plain(pipeline, X, y, folds, grid):
    named = {f"forest__{name}": values for name, values in grid.items()}
    grid_search = GridSearchCV(pipeline, named, cv=folds, scoring="r2", n_jobs=-1, refit=False)
    return grid_search.fit(X, y).cv_results_["mean_test_score"].tolist()


def autolog(pipeline, X, y, folds, grid):
    """A child run per trial and no model, as in `tracked`."""
    mlflow.sklearn.autolog(max_tuning_runs=None, log_models=False, log_datasets=False, silent=True)
    mlflow.set_experiment("autolog")
    with mlflow.start_run():
        return plain(pipeline, X, y, folds, grid)


def tracked(pipeline, X, y, folds, grid):
    with (
        local_executor(-1) as executor,
        parent_run(experiment="tracked", params={}, tags={}) as run,
    ):
        log = partial(log_trial, run)
        trials = search_grid(
            pipeline, X, y, param_grid=grid, folds=folds, executor=executor, on_trial=log
        )
        log_ranks(run, trials)
    return [trial.r2 for trial in trials]


WAYS = {PLAIN: plain, AUTOLOG: autolog, OURS: tracked}


def track(bench):
    """What MLflow costs per trial as a search grows: trials that took no time, in fresh stores."""
    copy = store_copies(bench.folder)

    def measure(trials):
        return apart(write_trials, trials, MLFLOW_TRACKING_URI=copy())

    ways = {
        ("tracking a trial", f"{trials} trials"): partial(measure, trials)
        for trials in (9, 27, 81, 243)
    }
    bench.in_turn("Tracking", ways, rounds=5)
    fewest, *_, most = ways
    bench.ratio(most, fewest, "ms per trial", "CPU ms per trial")


def store_copies(folder):
    """A function that returns the URI of a fresh store each time; making one takes seconds."""
    empty = folder / "empty.db"
    apart(check_store, MLFLOW_TRACKING_URI=f"sqlite:///{empty}")

    def copy():
        return f"sqlite:///{shutil.copy(empty, tempfile.mkdtemp(dir=folder))}"

    return copy


def write_trials(number):
    """Milliseconds per trial of a run with so many; runs in a process of its own."""
    check_store()
    timed_run(3)  # what MLflow and SQLAlchemy do only once
    seconds, used = timed_run(number)
    return {"ms per trial": 1000 * seconds / number, "CPU ms per trial": 1000 * used / number}


def timed_run(number):
    """Seconds of writing so many trials and their ranks, and of processor time."""
    trials = [
        Trial({"n_estimators": n, "max_depth": None, "min_samples_split": 2}, (0.5,) * 5, 0.1)
        for n in range(number)
    ]
    with parent_run(experiment="tracked", params={}, tags={}) as run:
        started, used = time.perf_counter(), time.process_time()
        for trial in trials:
            log_trial(run, trial)
        log_ranks(run, trials)
        return time.perf_counter() - started, time.process_time() - used
