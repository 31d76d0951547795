"""This machine's worker processes as an executor."""

import os
import signal
from contextlib import contextmanager, suppress
from multiprocessing import active_children

from joblib import effective_n_jobs
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool

from liquidity.errors import WorkerLost
from liquidity.processes import exit_with_parent


@contextmanager
def local_executor(n_jobs):
    """`n_jobs` worker processes (-1: one per core) that end with this one, however it ends."""
    others = set(active_children())
    executor = ProcessPoolExecutor(
        max_workers=effective_n_jobs(n_jobs), initializer=exit_with_parent, initargs=(os.getpid(),)
    )
    executor.submit(os.getpid)  # all workers start now and import while the caller prepares
    try:
        yield executor
    except BaseException as error:
        # The executor would wait for its running tasks; its own way to kill them fails with
        # tasks pending.
        for worker in set(active_children()) - others:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        if isinstance(error, BrokenProcessPool):
            raise WorkerLost(
                "a worker process was killed, perhaps because memory ran out: lower --n-jobs or "
                "the grid."
            ) from error
        raise
    finally:
        executor.shutdown()
