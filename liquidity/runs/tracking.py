"""The experiment in MLflow: one parent run, and a child run per trial."""

import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.utils import name_utils
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from liquidity.printable import printable
from liquidity.processes import process_tag
from liquidity.runs import store
from liquidity.runs.records import (
    FINISHED,
    PROCESS,
    RESUMED_FROM,
    children_of,
    end_run,
    end_unfinished,
    now,
    trial_key,
)
from liquidity.search.grid import ranks

KEPT = "Finished trials are kept: the same command goes on from them."
LONGEST_NAME = 40  # of a file in the name of a run; the table of runs shows less
PATIENCE_SECONDS = 4 * 60  # as long as MLflow's client tries a server
# How a trial's run is called, by the params that it has.
TRIAL_NAMES = {
    "n_estimators": "{} trees",
    "max_depth": "depth {}",
    "min_samples_split": "split {}",
    "min_samples_leaf": "leaf {}",
    "max_features": "features {}",
}


@contextmanager
def parent_run(*, experiment, params, tags=(), name=None, outer=None):
    """The job's run: FINISHED, or KILLED after Ctrl-C and SIGTERM, or FAILED, never RUNNING;
    what was being written then, a trial or the model, ends with it. Where the server is gone,
    the next job's `close_dead_runs` ends it. An error takes the note KEPT along where it is true.

    Under `mlflow run` it is the run that MLflow made, in the experiment that it chose, and has the
    name that a person has given it. With an `outer` run, the one of a list of horizons, it is a run
    within that one.
    """
    tags = dict(tags) | {PROCESS: process_tag()}
    if "MLFLOW_RUN_ID" in os.environ:
        run = mlflow.start_run(tags=tags)
        if name and _is_made_up(run.info.run_name):
            rename(run, run.info.run_name, name)
    else:
        if not outer:
            mlflow.set_experiment(experiment)
        run = mlflow.start_run(nested=bool(outer), tags=tags, run_name=name)
    try:
        # `mlflow run` has logged its parameters already, as typed; a param cannot be changed.
        mlflow.log_params({k: v for k, v in params.items() if k not in run.data.params})
        yield run
    except BaseException as error:
        kept = True
        # Perhaps for want of the server: the first error is the one to tell, and soon.
        with store.brief_requests(), suppress(MlflowException):
            _end_job(run, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            kept = bool(children_of(mlflow.MlflowClient(), run, FINISHED))
        if kept and KEPT not in getattr(error, "__notes__", ()):
            error.add_note(KEPT)
        raise
    _end_job(run, "FINISHED")


def source_name(source):
    """The name of the file, the folder or the glob that was read, to be part of a run's name."""
    name = printable(Path(source).absolute().name or source)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def rename(run, before, after):
    """Give the run another name, unless somebody has renamed it meanwhile."""
    client = mlflow.MlflowClient()
    if client.get_run(run.info.run_id).info.run_name == before:
        client.update_run(run.info.run_id, name=after)


def _is_made_up(name):
    """Whether MLflow has made the name, such as dapper-quail-493, for want of another."""
    first, _, rest = name.partition("-")
    made_up = first in name_utils._GENERATOR_PREDICATES
    return made_up and rest.partition("-")[0] in name_utils._GENERATOR_NOUNS


def _end_job(run, status):
    client = mlflow.MlflowClient()
    mlflow.end_run(status)
    if now() < run.info.start_time:  # the clock was set back meanwhile
        end_run(client, run, status)
    # Beside a finished search only a run whose creation was sent twice can be left open: the
    # server had died before it could answer the first time.
    end_unfinished(client, run, "KILLED" if status == "KILLED" else "FAILED")


def _patiently(write, *args, **options):
    """Call `write`, and again while another program has an SQLite store locked, which MLflow waits
    20 s for. Of a server its client does as much by itself.
    """
    started = time.monotonic()
    while True:
        try:
            return write(*args, **options)
        except MlflowException as error:
            if not store.is_locked(error) or time.monotonic() - started > PATIENCE_SECONDS:
                raise


def log_trial(parent, trial, *, resumed_from=None):
    """Write one trial as a finished child run of `parent`."""
    client = mlflow.MlflowClient()
    end = now()
    start = end - int(1000 * trial.fit_seconds)
    name = ", ".join(
        TRIAL_NAMES[param].format(trial.params[param])
        for param in TRIAL_NAMES
        if param in trial.params
    )
    tags = {
        MLFLOW_PARENT_RUN_ID: parent.info.run_id,
        MLFLOW_RUN_NAME: name,
        PROCESS: process_tag(),
        **{k: v for k, v in parent.data.tags.items() if k in ("mlflow.user", "mlflow.source.name")},
        **({RESUMED_FROM: resumed_from} if resumed_from else {}),
    }
    child = _patiently(client.create_run, parent.info.experiment_id, start_time=start, tags=tags)
    _patiently(
        client.log_batch,
        child.info.run_id,
        metrics=[Metric(key, value, end, 0) for key, value in trial.metrics.items()],
        params=[Param(key, str(value)) for key, value in trial.params.items()],
    )
    _patiently(client.set_terminated, child.info.run_id, end_time=end)


def log_ranks(parent, trials):
    """Add `rank` to the trials' runs: it is known when the last trial is."""
    client = mlflow.MlflowClient()
    run_ids = {trial_key(child): child.info.run_id for child in children_of(client, parent)}
    for trial, rank in zip(trials, ranks(trials), strict=True):
        client.log_metric(run_ids[trial.key], "rank", rank)


def trials_table(trials):
    """One row per trial, best first, with the columns that the child runs have."""
    rows = [
        {
            "rank": rank,
            **{name: str(value) for name, value in trial.params.items()},
            **trial.metrics,
        }
        for trial, rank in zip(trials, ranks(trials), strict=True)
    ]
    return pd.DataFrame(rows).sort_values("rank", kind="stable")
