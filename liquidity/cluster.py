"""A Dask cluster that exists in place of this machine's worker processes.

It needs `dask[distributed]` and the pinned libraries; this project's code comes with the job.
"""

import hashlib
import io
import logging
import re
import sys
import threading
import time
import warnings
import zipfile
from concurrent.futures import CancelledError, InvalidStateError
from contextlib import contextmanager, suppress
from importlib.metadata import version as installed
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from weakref import WeakSet

import numpy as np

LOCAL = "local"
PREFIX = "crypto-liquidity-"
CONNECT_SECONDS = 5
WORKER_SECONDS = 30  # without any worker for so long, a job is given up
# Packages whose versions have to be the same on all machines: these to talk to each other at all,
TALKING = ("dask", "distributed", "cloudpickle")
# and these for the same digits.
TRAINING = (*TALKING, "numpy", "scipy", "scikit-learn", "joblib")
SCORING = (*TALKING, "numpy", "pandas", "pyarrow", "mlflow", "onnxruntime")


class ClusterError(Exception):
    """The cluster cannot be used; the message names it and the cure."""


class ClusterLost(Exception):
    """The cluster went away in the middle of a job."""


class ClusterExecutor:
    """A concurrent.futures executor on a Dask cluster, which sends large values only once."""

    def __init__(self, client):
        self._executor = client.get_executor(pure=False)
        self._client = client
        self._sent = {}
        self.pending = WeakSet()

    def submit(self, function, *args, **kwargs):
        """Call `function` on a worker; returns a concurrent.futures.Future."""
        args = [self.send(a) if isinstance(a, np.ndarray) else a for a in args]
        future = self._executor.submit(function, *args, **kwargs)
        self.pending.add(future)
        return future

    def send(self, value):
        """Put `value` on the cluster, if it is not there yet; returns what stands for it.

        It goes as the result of a task: what is scattered is lost with the worker that has it
        (Dask soon drops all copies but one), and every task that needs it is cancelled.
        """
        if id(value) not in self._sent:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is large
                remote = self._client.submit(_same, value, pure=False)
            self._sent[id(value)] = value, remote  # the value too, so that no other gets its id
        return self._sent[id(value)][1]

    def check_paths(self, files, folders):
        """Raise ClusterError where a worker does not see these files and folders."""
        for worker, unseen in self._client.run(_unseen, [*files, *folders]).items():
            if unseen:
                raise ClusterError(
                    f"worker {worker} does not see {unseen[0]}: put input and output where all "
                    "workers have them under the same path, or score without a scheduler."
                )


@contextmanager
def cluster_executor(address, *, packages, console):
    """Yields a ClusterExecutor on the Dask scheduler at `address`.

    Raises ClusterError before anything is sent where the cluster cannot be used, and ClusterLost
    where it goes away later. A worker that dies is none of both: others do its tasks.
    """
    distributed = _import_distributed()
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError

    with _connected(distributed, address) as client:
        workers = _wait_for_workers(client, address)
        _check_versions(client, address, packages)
        _send_code(client, address)
        console.print(
            f"{len(workers)} workers with {sum(workers.values())} threads at {address}",
            highlight=False,
            soft_wrap=True,
        )
        executor, ended = ClusterExecutor(client), threading.Event()
        watch = threading.Thread(
            target=_give_up_without_workers, args=(client, executor, ended, address), daemon=True
        )
        watch.start()
        try:
            yield executor
        except (CancelledError, FutureCancelledError, CommClosedError) as error:
            raise ClusterLost(f"the scheduler at {address} went away") from error
        except distributed.KilledWorker as error:
            raise ClusterLost(
                f"several workers of {address} died at the same task, perhaps for want of memory"
            ) from error
        finally:
            ended.set()


def _import_distributed():
    try:
        import distributed
    except ImportError as error:
        raise ClusterError(
            "Dask is not installed here: pip install 'dask[distributed]' in this environment, in "
            "the version that the cluster has (this project is tested with the one that "
            "requirements-dev.txt names)."
        ) from error
    # Lost connections are told here, in one sentence instead of many tracebacks.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("distributed", "tornado")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


@contextmanager
def _connected(distributed, address):
    answers = SimpleQueue()

    def connect():
        try:
            answers.put(distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False))
        except Exception as error:  # OSError, MemoryError: whatever else listens there
            answers.put(error)

    client = None
    if re.fullmatch(r"(tcp|tls|wss?)://.+:\d+", address):
        with warnings.catch_warnings(), suppress(Empty):
            warnings.simplefilter("ignore")  # other versions are told below
            # Dask's own limit does not count for what accepts a connection and never answers.
            threading.Thread(target=connect, daemon=True).start()
            client = answers.get(timeout=2 * CONNECT_SECONDS)
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


def _check_versions(client, address, packages):
    """Refuse a cluster whose machines lack a package or have another version of one."""
    expected = {package: installed(package) for package in packages}
    found = client.get_versions(packages=packages)
    machines = {"the scheduler": found["scheduler"]}
    machines |= {f"worker {name}": versions for name, versions in found["workers"].items()}
    python = "{}.{}".format(*sys.version_info)
    problems = []
    for machine, versions in machines.items():
        has = versions["packages"]
        wrong = [
            f"{package} {has.get(package) or 'is missing'} (here {version})"
            for package, version in expected.items()
            if has.get(package) != version
            # The scheduler computes nothing.
            and (machine != "the scheduler" or package in TALKING)
        ]
        found_python = ".".join(versions["host"]["python"].split(".")[:2])
        if found_python != python:
            wrong.insert(0, f"Python {found_python} (here {python})")
        if wrong:
            problems.append(f"{machine}: {', '.join(wrong)}")
    if problems:
        raise ClusterError(
            f"The cluster at {address} has other packages than this machine: "
            f"{'; '.join(problems)}. Install the same requirements on all of them."
        )


def _send_code(client, address):
    """Put this package's code on the scheduler and all workers, those that come later too."""
    from distributed.diagnostics.plugin import SchedulerUploadFile, UploadFile

    package = Path(__file__).parent
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(package.glob("*.py")):
            # The same code is the same file: no dates in it.
            file.writestr(zipfile.ZipInfo(f"{package.name}/{path.name}"), path.read_bytes())
    digest = hashlib.sha256(archive.getvalue()).hexdigest()[:12]
    try:
        # A worker keeps what it has imported, of an earlier version of this project perhaps.
        client.run(_forget, package.name, PREFIX)
        client.run_on_scheduler(_forget, package.name, PREFIX)
        with TemporaryDirectory() as folder:
            path = Path(folder, f"{PREFIX}{digest}.zip")
            path.write_bytes(archive.getvalue())
            # By a name of ours: upload_file would keep the code of every job for ever.
            for plugin in (SchedulerUploadFile(str(path)), UploadFile(str(path))):
                client.register_plugin(plugin, name="crypto-liquidity")
    except Exception as error:
        raise ClusterError(
            f"The code could not be sent to the cluster at {address}: {type(error).__name__}: "
            f"{error}."
        ) from error


def _same(value):
    return value


def _forget(package, prefix):
    import os
    import sys

    sys.path[:] = [p for p in sys.path if not os.path.basename(p).startswith(prefix)]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def _unseen(paths):
    import os

    return [
        path for path in paths if not os.access(path, os.W_OK if os.path.isdir(path) else os.R_OK)
    ]


# So that they are sent by value: the machines that they are for do not have this module.
_forget.__module__ = _unseen.__module__ = "__main__"


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
                        ClusterLost(f"there was no worker at {address} for {WORKER_SECONDS} s")
                    )
