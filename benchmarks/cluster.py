"""The same search and the same files on a Dask cluster of this machine and without one."""

import time
from contextlib import contextmanager, suppress
from functools import partial

from rich.console import Console

from benchmarks.measure import apart, process, python, run
from benchmarks.model import use_models, write_market
from benchmarks.search import checked, run_search, store_copies, training_rows
from benchmarks.servers import free_port
from liquidity.executors import LOCAL, workers
from liquidity.search.grid import fit_fold
from liquidity.search.pipeline import PARAM_GRID

HERE, DASK = "this machine, n_jobs=2", "Dask, one-thread workers"
SCORE_HERE, SCORE_DASK = "scoring on this machine", "scoring on Dask, 2 workers"


def cluster(bench):
    """Whole searches in fresh processes, connecting included, and a folder of files.

    The clusters run all the time; the first search of each, which is not counted, warms them up.
    """
    copy = store_copies(bench.folder)
    seen = []

    def measure(address):
        found = apart(timed_search, address, bench.quick, MLFLOW_TRACKING_URI=copy())
        return checked(found, seen)

    with dask_cluster(bench.folder, 1) as one, dask_cluster(bench.folder, 2) as two:
        for address in (one, two):
            measure(address)
        here, dask, single = (HERE, "27 trials"), (DASK, "2 workers"), (DASK, "1 worker")
        ways = {
            here: partial(measure, LOCAL),
            dask: partial(measure, two),
            single: partial(measure, one),
        }
        bench.in_turn("Search on Dask", ways, rounds=3)
        bench.ratio(dask, here, "seconds")
        bench.ratio(single, dask, "seconds")
        if not bench.failures:
            bench.notes.append("All searches found the same r2 to the last bit.")

        use_models(bench)
        files, rows = bench.pick((8, 250_000), (4, 20_000))
        folder = bench.folder / "dask"
        for name in ("in", "out"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(files):
            write_market(folder / f"in/{number}.csv", rows)
        here, dask = (
            (way, f"{files} CSV files of {rows:,} rows") for way in (SCORE_HERE, SCORE_DASK)
        )
        ways = {
            here: partial(score, bench, folder, LOCAL),
            dask: partial(score, bench, folder, two),
        }
        bench.in_turn("Scoring on Dask", ways, rounds=5)
        bench.ratio(dask, here, "seconds")
    bench.coarse("starting and connecting count for most")


def timed_search(address, quick):
    """Seconds and mean scores of one search; runs in a process of its own."""
    X, y, folds = training_rows()
    grid = PARAM_GRID | ({"n_estimators": [5, 10, 15]} if quick else {})
    started = time.perf_counter()
    with workers(address, fit_fold, n_jobs=2, console=Console(quiet=True)) as executor:
        trials = run_search(X, y, folds, grid, executor, on_trial=lambda trial: None)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "scores": [trial.r2 for trial in trials]}


def score(bench, folder, address):
    command = python("-m liquidity.scoring --overwrite --scheduler", address)
    command += ["--input", folder / "in", "--output", folder / "out"]
    measured = run(command, bench.folder)
    # The workers' memory is not that of the command.
    return {"seconds": measured["seconds"]}


@contextmanager
def dask_cluster(folder, workers):
    """The address of a scheduler with so many one-thread workers, started as in docs/cluster.md."""
    port = free_port()
    address, place = f"tcp://127.0.0.1:{port}", folder / f"dask-{workers}"
    place.mkdir(exist_ok=True)
    with (place / "log").open("w") as log:
        options = {"cwd": place, "stdout": log, "stderr": log}
        scheduler = python("-m dask scheduler --no-dashboard --host 127.0.0.1 --port", port)
        worker = python("-m dask worker --no-dashboard --nthreads 1 --nworkers", workers, address)
        with process(scheduler, **options), process(worker, **options):
            apart(wait_for_workers, address, workers)
            yield address


def wait_for_workers(address, workers):
    """Return when all workers have come; runs in a process of its own."""
    import distributed

    for _ in range(100):
        with suppress(OSError):
            client = distributed.Client(address, timeout=2)
            client.wait_for_workers(workers, timeout=60)
            return
        time.sleep(0.2)
