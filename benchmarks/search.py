"""The tracked search against GridSearchCV on the same rows and cores; what tracking costs."""

import shutil
import sys
import tempfile
import time
from functools import partial
from itertools import cycle

import mlflow
from sklearn.model_selection import GridSearchCV

from benchmarks.measure import SAMPLE, apart
from benchmarks.servers import server
from liquidity.data.market import read_market
from liquidity.data.table import build_table, inputs_and_target
from liquidity.evaluation import make_folds, split_rows
from liquidity.executors.local import local_executor
from liquidity.runs.store import check_store, quieten_mlflow
from liquidity.runs.tracking import log_ranks, log_trial, parent_run
from liquidity.search.grid import Trial, cv_results
from liquidity.search.grid import search as search_grid
from liquidity.search.pipeline import PARAM_GRID, build_pipeline

PLAIN, AUTOLOG = "GridSearchCV", "GridSearchCV with mlflow autolog"
OURS, BARE = "this search, tracked", "this search, not tracked"
HTTP = ", over HTTP"


def search(bench):
    """Whole searches in fresh processes: from the first worker to the last score and write."""
    copy = store_copies(bench.folder)
    step = bench.pick(50, 3)
    grids = {
        "27 trials": [2 * step, 4 * step, 6 * step],
        "72 trials of 8 sizes": list(range(step, 9 * step, step)),
    }
    scores = {}

    def measure(way, at, uri=None):
        sizes = grids[at.removesuffix(HTTP)]
        (found,) = apart(searches, [way], sizes, MLFLOW_TRACKING_URI=uri or copy())
        return checked(at, found)

    def checked(at, found):
        if scores.setdefault(at.removesuffix(HTTP), found["scores"]) != found["scores"]:
            raise RuntimeError("its scores are not those of the other searches")
        return {"seconds": found["seconds"]}

    for at, others in zip(grids, ((PLAIN, AUTOLOG), (PLAIN,)), strict=True):
        ways = {(way, at): partial(measure, way, at) for way in (*others, OURS)}
        bench.in_turn(f"Search, {at}", ways, rounds=bench.pick(3, 1))
        for other in others:
            bench.ratio(other, OURS, measure="seconds", at=at)
    with bench.attempt("search over HTTP"), tracking_server(bench.folder) as running:
        at = f"27 trials{HTTP}"
        ways = {(way, at): partial(measure, way, at, running.url) for way in (AUTOLOG, OURS)}
        bench.in_turn(f"Search, {at}", ways, rounds=bench.pick(3, 1))
        bench.ratio(AUTOLOG, OURS, measure="seconds", at=at)

    orders = cycle([(BARE, OURS), (OURS, BARE)])

    def both():
        order = next(orders)
        found = apart(searches, order, grids["27 trials"], MLFLOW_TRACKING_URI=copy())
        found = {way: checked("27 trials", one) for way, one in zip(order, found, strict=True)}
        return {"s with tracking": found[OURS]["seconds"], "s without": found[BARE]["seconds"]}

    subject = ("this search, one process", "27 trials")
    bench.in_turn("With and without tracking", {subject: both}, rounds=bench.pick(4, 1))
    bench.ratio(subject[0], subject[0], at=subject[1], measure="s with tracking",
                under_measure="s without")  # fmt: skip
    if not bench.failures:
        bench.notes.append("All searches of a grid found the same r2 to the last bit.")
    bench.coarse("with small forests the start of the worker processes counts for most")


def tracking_server(folder):
    """MLflow's own tracking server with an SQLite file."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", "{port}", "--workers", "1",
               "--backend-store-uri", f"sqlite:///{folder}/server.db"]  # fmt: skip
    return server("mlflow server", command, folder)


def searches(ways, sizes):
    """Seconds and mean scores of searches one after the other; runs in a process of its own."""
    X, y, folds = training_rows()
    quieten_mlflow()
    check_store()
    grid = PARAM_GRID | {"n_estimators": sizes}
    found = []
    for way in ways:
        before, started = count_runs(), time.perf_counter()
        scores = WAYS[way](X, y, folds, grid)
        found.append({"seconds": time.perf_counter() - started, "scores": list(scores)})
        expected = len(scores) + 1 if way in (AUTOLOG, OURS) else 0
        if count_runs() - before != expected:
            raise RuntimeError(f"{way} wrote {count_runs() - before} runs, not {expected}")
    return found


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
    return grid_search.fit(X, y).cv_results_["mean_test_score"]


def autolog(X, y, folds, grid):
    """A child run per trial and no model, as in `tracked`."""
    mlflow.sklearn.autolog(max_tuning_runs=None, log_models=False, log_datasets=False, silent=True)
    mlflow.set_experiment("autolog")
    with mlflow.start_run():
        return plain(X, y, folds, grid)


def bare(X, y, folds, grid):
    with local_executor(-1) as executor:
        return run_search(X, y, folds, grid, executor, on_trial=lambda trial: None)[1]


def tracked(X, y, folds, grid):
    with (
        local_executor(-1) as executor,
        parent_run(experiment="tracked", params={}, tags={}) as run,
    ):
        trials, scores = run_search(
            X, y, folds, grid, executor, on_trial=lambda trial: log_trial(run, trial)
        )
        log_ranks(run, trials)
    return scores


WAYS = {PLAIN: plain, AUTOLOG: autolog, OURS: tracked, BARE: bare}


def run_search(X, y, folds, grid, executor, *, on_trial):
    trials = search_grid(
        build_pipeline(random_state=42), X, y, param_grid=grid, folds=folds, executor=executor,
        on_trial=on_trial,
    )  # fmt: skip
    return trials, cv_results(trials)["mean_test_score"]


def track(bench):
    """What MLflow costs per trial as a search grows: trials that took no time, in fresh stores."""
    copy = store_copies(bench.folder)

    def measure(trials):
        return apart(write_trials, trials, MLFLOW_TRACKING_URI=copy())

    subject, counts = "tracking a trial", (9, 27, 81, 243)
    ways = {(subject, f"{trials} trials"): partial(measure, trials) for trials in counts}
    bench.in_turn("Tracking", ways, rounds=bench.pick(5, 1))
    for trials in counts[1:]:
        for measured in ("ms per trial", "CPU ms per trial"):
            bench.ratio(subject, subject, measure=measured, at=f"{trials} trials",
                        under_at="9 trials")  # fmt: skip


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
    logged, ranked, used = timed_run(number)
    return {
        "ms per trial": 1000 * (logged + ranked) / number,
        "of it log_trial": 1000 * logged / number,
        "of it log_ranks": 1000 * ranked / number,
        "CPU ms per trial": 1000 * used / number,
    }


def timed_run(number):
    """Seconds of log_trial, of log_ranks, and of processor time."""
    trials = [
        Trial({"n_estimators": n, "max_depth": None, "min_samples_split": 2}, (0.5,) * 5, 0.1)
        for n in range(number)
    ]
    with parent_run(experiment="tracked", params={}, tags={}) as run:
        started, used = time.perf_counter(), time.process_time()
        for trial in trials:
            log_trial(run, trial)
        logged = time.perf_counter()
        log_ranks(run, trials)
        ranked, used = time.perf_counter(), time.process_time() - used
    return logged - started, ranked - logged, used
