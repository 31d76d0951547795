"""The same search on a Dask cluster of this machine and without one."""

import time
from contextlib import contextmanager
from functools import partial

from rich.console import Console

from benchmarks.measure import apart, process, python
from benchmarks.search import checked, training_rows
from benchmarks.servers import free_port
from liquidity.executors import LOCAL, workers
from liquidity.search.grid import fit_fold, search
from liquidity.search.pipeline import PARAM_GRID

HERE, DASK = "this machine, n_jobs=2", "Dask, one-thread workers"


def cluster(bench):
    """Whole searches in fresh processes, connecting included.

    The clusters run all the time; the first search of each, which is not counted, warms them up.
    """
    seen = []

    def measure(address):
        return checked(apart(timed_search, address, bench.quick), seen)

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
    bench.coarse("starting and connecting count for most")


def timed_search(address, quick):
    """Seconds and mean scores of one search; runs in a process of its own."""
    pipeline, X, y, folds = training_rows()
    grid = PARAM_GRID | ({"n_estimators": [5, 10, 15]} if quick else {})
    started = time.perf_counter()
    with workers(address, fit_fold, n_jobs=2, console=Console(quiet=True)) as executor:
        trials = search(
            pipeline, X, y, param_grid=grid, folds=folds, executor=executor, on_trial=lambda _: None
        )
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "scores": [trial.r2 for trial in trials]}


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

    distributed.Client(address, timeout=60).wait_for_workers(workers, timeout=60)
