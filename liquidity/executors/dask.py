"""A Dask cluster that exists in place of this machine's worker processes.

Its workers have this project installed as this machine has it. Its scheduler has Dask alone: what
it reads of a task are bytes and functions of Python itself.
"""

import logging
import operator
import pickle
import threading
import time
import warnings
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from functools import partial

from liquidity.errors import ClusterError, WorkerLost
from liquidity.executors.versions import ALL, TALKING, differences, installed, unfit, versions

CONNECT_SECONDS = 5
PREPARE_SECONDS = 60  # for all workers to answer and to import what a job needs, from a slow disk
WORKER_SECONDS = 30  # without any worker for so long, a job is given up
CURE = (
    "Run pip install '.[cluster]' in the same version of this project on every machine, and "
    "restart what runs there."
)


class ClusterExecutor:
    """A concurrent.futures executor on the workers of a Dask client."""

    def __init__(self, client, needs):
        self._client, self._needs = client, needs
        self._executor = client.get_executor(pure=False)
        self._sent = {}

    def submit(self, function, *args, **kwargs):
        """Call a function of this package on a worker; returns a concurrent.futures.Future.

        A positional argument goes to the cluster once, however many calls share it, and must not
        be changed by them; keyword arguments go with their call.
        """
        call = self._load(partial(_call, self._needs, function, **kwargs))
        return self._executor.submit(operator.call, call, *map(self._send, args))

    def _send(self, value):
        if id(value) not in self._sent:
            # The value too, so that no other gets its id.
            self._sent[id(value)] = value, self._load(value)
        return self._sent[id(value)][1]

    def _load(self, value):
        """The value as the result of a task: what is scattered is lost with the worker that has
        it (Dask soon drops all copies but one), and every task that needs it is cancelled.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is large
            return self._client.submit(pickle.loads, pickle.dumps(value), pure=False)

    def on_every_worker(self, function, *args):
        """What the function returns on each worker, by the worker's address."""
        return self._client.run(function, *args)

    def cancel(self):
        """Cancel all calls that are not done."""
        self._executor.shutdown(wait=False)


@contextmanager
def cluster_executor(address, function, *, console):
    """Yields a ClusterExecutor on the Dask scheduler at `address` for calls of `function`.

    Raises ClusterError where the cluster cannot be used, before it computes anything, and
    WorkerLost where it goes away later. A worker that dies is none of both: others do its tasks.
    """
    distributed = _import_distributed()
    with _connected(distributed, address) as client:
        _check(client, address, function)
        threads = client.nthreads()
        console.print(
            f"{len(threads)} workers with {sum(threads.values())} threads at {address}",
            highlight=False,
            soft_wrap=True,
        )
        executor = ClusterExecutor(client, installed())
        with _given_up_without_workers(client, executor) as given_up:
            try:
                yield executor
            except CancelledError as error:
                reason = f"the scheduler at {address} went away"
                if given_up.is_set():
                    reason = f"there was no worker at {address} for {WORKER_SECONDS} s"
                raise WorkerLost(f"{reason}.") from error
            except distributed.KilledWorker as error:
                raise WorkerLost(
                    f"several workers of {address} died at the same task, perhaps because "
                    "memory ran out."
                ) from error
            except ModuleNotFoundError as error:
                if str(error.name).partition(".")[0] != "liquidity":
                    raise
                raise WorkerLost(
                    f"a worker that came later cannot import this project: {error}. {CURE}"
                ) from error


def _import_distributed():
    try:
        import distributed
    except ImportError as error:
        raise ClusterError(
            "Dask is not installed here: run pip install '.[cluster]' in this project's folder."
        ) from error
    # Lost connections are told here, in one sentence instead of many tracebacks.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("distributed", "tornado")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


@contextmanager
def _connected(distributed, address):
    connect = partial(distributed.Client, timeout=CONNECT_SECONDS, set_as_default=False)
    try:
        if "://" not in address:
            raise ValueError("for an empty one Dask would start a cluster of its own")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other versions are told below
            # Dask's own limit does not count for what accepts a connection and never answers.
            client = _within(2 * CONNECT_SECONDS, connect, address)
    except Exception as error:  # OSError, MemoryError: whatever it is that answers
        raise ClusterError(
            f"No Dask scheduler answers at {address!r}: expected an address such as "
            "tcp://host:8786; start one with `dask scheduler`, and workers with `dask worker "
            "ADDRESS`."
        ) from error
    try:
        yield client
    finally:
        with suppress(Exception):  # the scheduler may be gone
            client.close(timeout=CONNECT_SECONDS)


def _within(seconds, function, *args):
    """What the function returns or raises; TimeoutError if that takes longer, and it goes on."""
    future = Future()

    def run():
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(timeout=seconds)


def _check(client, address, function):
    """Raise ClusterError unless all of the cluster can compute what this machine can."""
    with suppress(TimeoutError):
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    if not client.nthreads():
        raise ClusterError(
            f"The Dask scheduler at {address} has no workers: start some with `dask worker "
            f"{address}`."
        )
    try:
        problems = _within(PREPARE_SECONDS, _problems, client, function.__module__)
    except OSError as error:  # TimeoutError is one
        raise ClusterError(
            f"Not all workers of {address} answer, within {PREPARE_SECONDS} s: restart those that "
            "hang."
        ) from error
    if problems:
        raise ClusterError(
            f"The cluster at {address} cannot do what this machine does: {'; '.join(problems)}. "
            f"{CURE}"
        )


def _problems(client, module):
    """A clause for each machine that differs from this one, or cannot import `module`."""
    scheduler = versions(client.get_versions()["scheduler"])
    found = {"the scheduler": differences(scheduler, installed(), TALKING)}
    for worker, clause in client.run(unfit, installed(), module, on_error="return").items():
        if isinstance(clause, Exception):  # from a worker that could not even load unfit
            clause = f"cannot import this project: {clause}"
        found[f"worker {worker}"] = clause
    return [f"{machine} {clause}" for machine, clause in found.items() if clause]


def _call(needs, function, /, *args, **kwargs):
    """On a worker, which may have come in the middle of the job: call the function."""
    if problem := differences(installed(), needs, ALL):
        from distributed import get_worker

        raise WorkerLost(f"worker {get_worker().address} {problem}. {CURE}")
    return function(*args, **kwargs)


@contextmanager
def _given_up_without_workers(client, executor):
    """Cancel what is pending once there has been no worker for too long: Dask waits for ever.

    Yields the event that tells whether it has.
    """
    ended, given_up = threading.Event(), threading.Event()

    def watch():
        seen = time.monotonic()
        while not ended.wait(2) and not given_up.is_set():
            with suppress(Exception):
                if client.nthreads():
                    seen = time.monotonic()
            if time.monotonic() - seen > WORKER_SECONDS:
                given_up.set()
                executor.cancel()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield given_up
    finally:
        ended.set()
