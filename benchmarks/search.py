"""The tracked search against GridSearchCV on the same rows and cores; what tracking costs."""

import shutil
import tempfile
import time
from collections import defaultdict
from functools import partial

import mlflow
from sklearn.model_selection import GridSearchCV

from benchmarks.measure import SAMPLE, apart, python
from benchmarks.servers import server
from liquidity.data.market import read_market
from liquidity.data.table import build_table, inputs_and_target
from liquidity.evaluation import make_folds, split_rows
from liquidity.executors.local import local_executor
from liquidity.runs.store import check_store, quieten_mlflow
from liquidity.runs.tracking import log_ranks, log_trial, parent_run
from liquidity.search.grid import Trial
from liquidity.search.grid import search as search_grid
from liquidity.search.pipeline import PARAM_GRID, build_pipeline

PLAIN, AUTOLOG = "GridSearchCV", "GridSearchCV with mlflow autolog"
OURS = "this search, tracked"
HTTP = ", over HTTP"


def search(bench):
    """Whole searches in fresh processes: from the first worker to the last score and write."""
    copy = store_copies(bench.folder)
    step = bench.pick(50, 3)
    grids = {
        "27 trials": [2 * step, 4 * step, 6 * step],
        "72 trials of 8 sizes": list(range(step, 9 * step, step)),
    }
    seen = defaultdict(list)

    def compare(at, others, uri=None):
        grid = at.removesuffix(HTTP)

        def measure(way):
            found = apart(timed_search, way, grids[grid], MLFLOW_TRACKING_URI=uri or copy())
            return checked(found, seen[grid])

        ways = {(way, at): partial(measure, way) for way in (*others, OURS)}
        bench.in_turn(f"Search, {at}", ways, rounds=3)
        for other in others:
            bench.ratio((other, at), (OURS, at), "seconds")

    compare("27 trials", (PLAIN, AUTOLOG))
    compare("72 trials of 8 sizes", (PLAIN,))
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
    """The seconds of a search, whose scores have to be those that others of the grid have seen."""
    seen.append(found["scores"])
    if seen[-1] != seen[0]:
        raise RuntimeError("its scores are not those of the other searches")
    return {"seconds": found["seconds"]}


def timed_search(way, sizes):
    """Seconds and mean scores of a search; runs in a process of its own."""
    X, y, folds = training_rows()
    quieten_mlflow()
    check_store()
    before, started = count_runs(), time.perf_counter()
    scores = WAYS[way](X, y, folds, PARAM_GRID | {"n_estimators": sizes})
    seconds, runs = time.perf_counter() - started, count_runs() - before
    if runs != (expected := 0 if way == PLAIN else len(scores) + 1):
        raise RuntimeError(f"{way} wrote {runs} runs, not {expected}")
    return {"seconds": seconds, "scores": scores}


def training_rows():
    """X, y and the folds of the sample's training rows."""
    table = build_table(read_market(SAMPLE)[0])
    training = table.iloc[split_rows(table, split="random", test_size=0.2, random_state=42)[0]]
    return *inputs_and_target(training), make_folds(training, split="random", cv=5)


def count_runs():
    return len(mlflow.search_runs(search_all_experiments=True, output_format="list"))


def plain(X, y, folds, grid):
    named = {f"forest__{name}": values for name, values in grid.items()}
    pipeline = build_pipeline(random_state=42)
    grid_search = GridSearchCV(pipeline, named, cv=folds, scoring="r2", n_jobs=-1, refit=False)
    return grid_search.fit(X, y).cv_results_["mean_test_score"].tolist()


def autolog(X, y, folds, grid):
    """A child run per trial and no model, as in `tracked`."""
    mlflow.sklearn.autolog(max_tuning_runs=None, log_models=False, log_datasets=False, silent=True)
    mlflow.set_experiment("autolog")
    with mlflow.start_run():
        return plain(X, y, folds, grid)


def tracked(X, y, folds, grid):
    with (
        local_executor(-1) as executor,
        parent_run(experiment="tracked", params={}, tags={}) as run,
    ):
        trials = run_search(X, y, folds, grid, executor, on_trial=partial(log_trial, run))
        log_ranks(run, trials)
    return [trial.r2 for trial in trials]


WAYS = {PLAIN: plain, AUTOLOG: autolog, OURS: tracked}


def run_search(X, y, folds, grid, executor, *, on_trial):
    pipeline = build_pipeline(random_state=42)
    return search_grid(
        pipeline, X, y, param_grid=grid, folds=folds, executor=executor, on_trial=on_trial
    )


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
