"""Where a job computes: on this machine, or on a Dask cluster."""

from liquidity.executors.dask import cluster_executor
from liquidity.executors.local import local_executor

LOCAL = "local"


def workers(scheduler, function, *, n_jobs=-1, console):
    """The executor for calls of `function`, as a context: on `n_jobs` processes of this machine
    (-1: one per core) where `scheduler` is LOCAL, or else on the Dask cluster at its address.
    """
    if scheduler == LOCAL:
        return local_executor(n_jobs)
    return cluster_executor(scheduler, function, console=console)


def add_scheduler_option(parser):
    """The option `--scheduler` of a command."""
    parser.add_argument(
        "--scheduler", default=LOCAL, help="a Dask scheduler's address, tcp://HOST:8786"
    )
