"""A Dask cluster that exists in place of this machine's worker processes.

It needs `dask[distributed]` and the pinned libraries; this project's code comes with the job.
"""

import hashlib
import io
import logging
import pickle
import re
import sys
import threading
import time
import warnings
import zipfile
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version as installed
from pathlib import Path
from queue import Empty, SimpleQueue
from weakref import WeakSet

import numpy as np

from liquidity.errors import ClusterError, WorkerLost

CONNECT_SECONDS = 5
PREPARE_SECONDS = 60  # for all workers to answer and to import what a job needs, from a slow disk
WORKER_SECONDS = 30  # without any worker for so long, a job is given up
# Packages whose versions have to be the same on all machines: these to talk to each other at all,
TALKING = ("dask", "distributed", "cloudpickle")
# and these for the same digits.
TRAINING = (*TALKING, "numpy", "scipy", "scikit-learn", "joblib")
SCORING = (*TALKING, "numpy", "pandas", "pyarrow", "mlflow", "onnxruntime")


class ClusterExecutor:
    """A concurrent.futures executor on a Dask cluster, which sends large values only once.

    The scheduler sees bytes and functions of Python itself, whatever it has installed.
    """

    def __init__(self, client, address, code):
        self._executor = client.get_executor(pure=False)
        self._client = client
        self._address = address
        self._sent = {}
        self._code = code
        self.pending = WeakSet()

    def submit(self, function, *args, **kwargs):
        """Call `function` of this package on a worker; returns a concurrent.futures.Future.

        Arrays, and what `send` has returned, go to the cluster once. The future raises this
        package's errors as they were raised there, and WorkerLost.
        """
        args = [self.send(a) if isinstance(a, np.ndarray) else a for a in args]
        remote = {n: a.remote for n, a in enumerate(args) if isinstance(a, Sent)}
        args = [None if n in remote else a for n, a in enumerate(args)]
        call = pickle.dumps((function.__module__, function.__name__, args, kwargs, list(remote)))
        code = self.send(self._code).remote
        outcome = self._executor.submit(_call, call, code, *remote.values())
        future = Future()
        self.pending.add(future)
        outcome.add_done_callback(partial(_settle, future, self._address))
        return future

    def send(self, value):
        """Put `value` on the cluster, if it is not there yet; returns what stands for it.

        It goes as the result of a task: what is scattered is lost with the worker that has it
        (Dask soon drops all copies but one), and every task that needs it is cancelled.
        """
        if id(value) not in self._sent:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is large
                remote = self._client.submit(pickle.loads, pickle.dumps(value), pure=False)
            # The value too, so that no other gets its id.
            self._sent[id(value)] = value, Sent(remote)
        return self._sent[id(value)][1]

    def check_paths(self, files, folders):
        """Raise ClusterError where a worker does not have these files, or cannot write in these
        folders.
        """
        sizes = {str(file): file.stat().st_size for file in files}
        found = self._client.run(_unseen, sizes, [str(folder) for folder in folders])
        for worker, unseen in found.items():
            if unseen:
                raise ClusterError(
                    f"Worker {worker} does not have {unseen[0]} as this machine has it: put input "
                    "and output where all workers can read and write them under the same path, or "
                    "score without a scheduler."
                )


@dataclass(frozen=True)
class Sent:
    """A value that is on the cluster, for `submit`."""

    remote: object


@contextmanager
def cluster_executor(address, *, module, packages, console):
    """Yields a ClusterExecutor on the Dask scheduler at `address` for functions of `module`.

    Raises ClusterError where the cluster cannot be used, before it computes anything, and
    WorkerLost where it goes away later. A worker that dies is none of both: others do its tasks.
    """
    distributed = _import_distributed()
    expected = {package: installed(package) for package in packages}
    code = (*_archive(), expected)
    with _connected(distributed, address) as client:
        workers = _wait_for_workers(client, address)
        answer = _within(PREPARE_SECONDS, _problems, client, expected, code, module)
        if answer is None:
            raise ClusterError(
                f"Not all workers of {address} answer, within {PREPARE_SECONDS} s: restart those "
                "that hang."
            )
        if isinstance(answer, Exception):
            raise ClusterError(
                f"The workers of {address} cannot be asked what they have installed: "
                f"{type(answer).__name__}: {answer}."
            ) from answer
        if answer:
            raise ClusterError(
                f"The cluster at {address} cannot do what this machine does: {'; '.join(answer)}. "
                "Install the same requirements on all of them."
            )
        console.print(
            f"{len(workers)} workers with {sum(workers.values())} threads at {address}",
            highlight=False,
            soft_wrap=True,
        )
        executor, ended = ClusterExecutor(client, address, code), threading.Event()
        watch = threading.Thread(
            target=_give_up_without_workers, args=(client, executor, ended, address), daemon=True
        )
        watch.start()
        try:
            yield executor
        finally:
            ended.set()


def _import_distributed():
    try:
        import distributed
    except ImportError as error:
        pins = Path(__file__).parents[2] / "requirements-dev.txt"
        tested = re.search("^distributed(==.+)", pins.read_text() if pins.exists() else "", re.M)
        raise ClusterError(
            "Dask is not installed here: pip install "
            f"'dask[distributed]{tested[1] if tested else ''}' in this environment, or the version "
            "that the cluster has."
        ) from error
    # Lost connections are told here, in one sentence instead of many tracebacks.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("distributed", "tornado")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


@contextmanager
def _connected(distributed, address):
    client = None
    if re.fullmatch(r"(tcp|tls|wss?)://.+:\d+", address):
        connect = partial(distributed.Client, timeout=CONNECT_SECONDS, set_as_default=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other versions are told below
            # Dask's own limit does not count for what accepts a connection and never answers.
            client = _within(2 * CONNECT_SECONDS, connect, address)
    if not isinstance(client, distributed.Client):
        raise ClusterError(
            f"No Dask scheduler answers at {address!r}: expected an address such as "
            "tcp://host:8786; start one with `dask scheduler`, and workers with `dask worker "
            "ADDRESS`."
        )
    try:
        yield client
    finally:
        with suppress(Exception):  # the scheduler may be gone
            client.close(timeout=CONNECT_SECONDS)


def _within(seconds, function, *args):
    """What the function returns, or raises, or None if that takes longer; it goes on then."""
    answers = SimpleQueue()

    def run():
        try:
            answers.put(function(*args))
        except Exception as error:  # OSError, MemoryError: whatever it is that answers
            answers.put(error)

    threading.Thread(target=run, daemon=True).start()
    with suppress(Empty):
        return answers.get(timeout=seconds)


def _wait_for_workers(client, address):
    """The number of threads of each worker by its address."""
    with suppress(TimeoutError):
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    workers = client.nthreads()
    if not workers:
        raise ClusterError(
            f"The Dask scheduler at {address} has no workers: start some with `dask worker "
            f"{address}`."
        )
    return workers


def _problems(client, expected, code, module):
    """A clause for each machine that lacks a package, has another version of one, or cannot
    import `module`.
    """
    found = client.get_versions(packages=list(expected))
    # The scheduler computes nothing.
    talking = {package: expected[package] for package in TALKING}
    machines = [("the scheduler", found["scheduler"], talking)]
    machines += [(f"worker {name}", has, expected) for name, has in found["workers"].items()]
    python = "{}.{}".format(*sys.version_info)
    problems = []
    for machine, has, needs in machines:
        wrong = [
            f"{package} {has['packages'].get(package) or 'is missing'} (here {version})"
            for package, version in needs.items()
            if has["packages"].get(package) != version
        ]
        found_python = ".".join(has["host"]["python"].split(".")[:2])
        if found_python != python:
            wrong.insert(0, f"Python {found_python} (here {python})")
        if wrong:
            problems.append(f"{machine} has {', '.join(wrong)}")
    if not problems:  # only then do the workers understand what is sent to them
        loaded = client.run(_unloaded, code, module)
        problems = [f"worker {name} {error}" for name, error in loaded.items() if error]
    return problems


def _archive():
    """This package's code as the bytes of a zip file, and their digest."""
    package = Path(__file__).parents[1]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(package.rglob("*.py")):
            # The same code is the same file: no dates in it.
            file.writestr(
                zipfile.ZipInfo(f"{package.name}/{path.relative_to(package)}"), path.read_bytes()
            )
    return hashlib.sha256(archive.getvalue()).hexdigest(), archive.getvalue()


def _settle(future, address, outcome):
    """Give a future of `submit` what came of its task."""
    with suppress(InvalidStateError):  # given up before
        if outcome.cancelled():
            future.set_exception(WorkerLost(f"the scheduler at {address} went away"))
        elif error := outcome.exception():
            if type(error).__name__ == "KilledWorker":
                error = WorkerLost(
                    f"several workers of {address} died at the same task, perhaps for want of "
                    "memory"
                )
            future.set_exception(error)
        else:
            result, error = outcome.result()
            if error:
                module, name, message = error
                future.set_exception(getattr(import_module(module), name)(message))
            else:
                future.set_result(result)


# The functions below run on workers, which do not have this module: they are sent by value, and
# import what they need.


def _call(call, code, *remote):
    """Call a function of the code that was sent: its result and None, or None and its error."""
    import pickle

    from distributed import get_worker

    module, name, args, kwargs, positions = pickle.loads(call)
    for position, value in zip(positions, remote, strict=True):
        args[position] = value
    loaded, error = _load(code, module)
    if error:  # a worker that came in the middle of the job
        return None, ("liquidity.errors", "WorkerLost", f"worker {get_worker().address} {error}")
    try:
        return getattr(loaded, name)(*args, **kwargs), None
    except Exception as error:
        # The class of an error of this project is not that of the machine that asked.
        if type(error).__module__.partition(".")[0] != "liquidity":
            raise
        return None, (type(error).__module__, type(error).__name__, str(error))


def _unloaded(code, module):
    """A clause on why a module of the code that was sent cannot be loaded, or None."""
    return _load(code, module)[1]


def _load(code, module):
    """A module of the code that was sent, or a clause on why it cannot be loaded.

    Each version of this project is loaded once and kept apart from all others, for jobs of
    different versions may share a worker; sys.modules is as before. So the code must not import
    more of itself when it runs.
    """
    import importlib
    import os
    import sys
    import tempfile
    import threading
    import types
    from importlib.metadata import PackageNotFoundError, version

    digest, archive, expected = code
    kept = sys.modules.setdefault("_crypto_liquidity", types.ModuleType("_crypto_liquidity"))
    lock = vars(kept).setdefault("lock", threading.Lock())
    modules = vars(kept).setdefault("modules", {})

    def take_out():
        names = [name for name in sys.modules if name.partition(".")[0] == "liquidity"]
        return {name: sys.modules.pop(name) for name in names}

    with lock:
        if (digest, module) in modules:
            return modules[digest, module], None
        for package, wanted in expected.items():
            try:
                found = version(package)
            except PackageNotFoundError:
                found = "is missing"
            if found != wanted:
                return None, f"has {package} {found}, expected {wanted}"
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "code.zip")
            with open(path, "wb") as file:
                file.write(archive)
            others = take_out()
            sys.path.insert(0, path)
            try:
                modules[digest, module] = importlib.import_module(module)
            except ImportError as error:
                return None, f"cannot import what is needed: {error}"
            finally:
                sys.path.remove(path)
                sys.path_importer_cache.pop(path, None)
                take_out()
                sys.modules.update(others)
        return modules[digest, module], None


def _unseen(sizes, folders):
    """The files that are not there in this size, and the folders that cannot be written to."""
    import os

    found = {path: os.path.getsize(path) if os.access(path, os.R_OK) else None for path in sizes}
    return [path for path in sizes if found[path] != sizes[path]] + [
        path for path in folders if not os.access(path, os.W_OK)
    ]


for _function in (_call, _load, _unloaded, _unseen):
    _function.__module__ = "__main__"


def _give_up_without_workers(client, executor, ended, address):
    """Fail what is pending once there has been no worker for too long: Dask waits for ever."""
    seen = time.monotonic()
    while not ended.wait(2):
        with suppress(Exception):
            if client.nthreads():
                seen = time.monotonic()
        if time.monotonic() - seen > WORKER_SECONDS:
            for future in list(executor.pending):
                with suppress(InvalidStateError):
                    future.set_exception(
                        WorkerLost(f"there was no worker at {address} for {WORKER_SECONDS} s")
                    )
