"""The experiment in MLflow: one parent run, a child run per trial, and what survives a crash."""

import os
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import LoggedModelStatus, Metric, Param, RunStatus, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from liquidity import store
from liquidity.search import Trial, ranks

SEARCH_KEY = "search_key"
PROCESS = "process"
RESUMED_FROM = "resumed_from"
FOLD_METRIC = "r2_fold_"
PAGE = 1000
# A run of another machine that wrote nothing for so long is taken for dead.
SILENT_SECONDS = 24 * 3600


@contextmanager
def parent_run(*, experiment, params, tags):
    """The job's run: FINISHED, or KILLED after Ctrl-C and SIGTERM, or FAILED, never RUNNING;
    what was being written then, a trial or the model, ends with it. Where the server is gone,
    the next job's `close_dead_runs` ends it.

    Under `mlflow run` it is the run that MLflow made, in the experiment that it chose.
    """
    if "MLFLOW_RUN_ID" not in os.environ:
        mlflow.set_experiment(experiment)
    run = mlflow.start_run(tags=tags | {PROCESS: process_tag()})
    status = RunStatus.FAILED
    try:
        # `mlflow run` has logged its parameters already, as typed; a param cannot be changed.
        mlflow.log_params({k: v for k, v in params.items() if k not in run.data.params})
        yield run
        status = RunStatus.FINISHED
    except KeyboardInterrupt:
        status = RunStatus.KILLED
        raise
    finally:
        if status == RunStatus.FINISHED:
            _end_job(run, status)
        else:  # perhaps for want of the server: the first error is the one to tell, and soon
            with store.brief_requests(), suppress(MlflowException):
                _end_job(run, status)


def _end_job(run, status):
    client, ended = mlflow.MlflowClient(), RunStatus.to_string(status)
    mlflow.end_run(ended)
    if _now() < run.info.start_time:  # the clock was set back meanwhile
        _end(client, run, ended)
    # Beside a finished search only a run whose creation was sent twice can be left open: the
    # server had died before it could answer the first time.
    _end_unfinished(client, run, "KILLED" if status == RunStatus.KILLED else "FAILED")


def log_trial(parent, trial, *, resumed_from=None):
    """Write one trial as a finished child run of `parent`."""
    client = mlflow.MlflowClient()
    end = _now()
    start = end - int(1000 * trial.fit_seconds)
    name = "{n_estimators} trees, depth {max_depth}, split {min_samples_split}"
    tags = {
        MLFLOW_PARENT_RUN_ID: parent.info.run_id,
        MLFLOW_RUN_NAME: name.format(**trial.params),
        PROCESS: process_tag(),
        **{k: v for k, v in parent.data.tags.items() if k in ("mlflow.user", "mlflow.source.name")},
        **({RESUMED_FROM: resumed_from} if resumed_from else {}),
    }
    child = client.create_run(parent.info.experiment_id, start_time=start, tags=tags)
    client.log_batch(
        child.info.run_id,
        metrics=[Metric(key, value, end, 0) for key, value in trial_metrics(trial).items()],
        params=[Param(key, str(value)) for key, value in trial.params.items()],
    )
    client.set_terminated(child.info.run_id, end_time=end)


def log_ranks(parent, trials):
    """Add `rank` to the trials' runs: it is known when the last trial is."""
    client = mlflow.MlflowClient()
    run_ids = {_params(child): child.info.run_id for child in _children(client, parent)}
    for trial, rank in zip(trials, ranks(trials), strict=True):
        client.log_metric(run_ids[trial.key], "rank", rank)


def trials_table(trials):
    """One row per trial, best first, with the columns that the child runs have."""
    rows = [
        {
            "rank": rank,
            **{name: str(value) for name, value in trial.params.items()},
            **trial_metrics(trial),
        }
        for trial, rank in zip(trials, ranks(trials), strict=True)
    ]
    return pd.DataFrame(rows).sort_values("rank", kind="stable")


def trial_metrics(trial):
    """A trial's metrics by their MLflow names."""
    return {
        "r2": trial.r2,
        "r2_std": trial.r2_std,
        **{f"{FOLD_METRIC}{n}": score for n, score in enumerate(trial.fold_scores, 1)},
        "fit_seconds": trial.fit_seconds,
    }


def finished_trials(key, *, folds):
    """Trials of earlier searches with this key that did not finish: `{run id: Trial}`."""
    client = mlflow.MlflowClient()
    trials = {}
    for parent in _search_runs(f"tags.{SEARCH_KEY} = '{key}' and attributes.status != 'FINISHED'"):
        for child in _children(client, parent, "attributes.status = 'FINISHED'"):
            trial = _trial(child, folds)
            if trial:
                trials[trial.key] = child.info.run_id, trial
    return dict(trials.values())


def close_dead_runs(key):
    """End the runs that a killed training left RUNNING; returns sentences on what was found.

    A run of this machine is dead when its process is gone; one of another machine, with this
    search key, when it has written nothing for a day. No living run is touched.
    """
    client = mlflow.MlflowClient()
    host = socket.gethostname()
    notes = []
    for run in _search_runs(f"tags.{PROCESS} LIKE '{host}/%' and attributes.status = 'RUNNING'"):
        is_child = MLFLOW_PARENT_RUN_ID in run.data.tags
        if not _is_alive(run.data.tags[PROCESS]):
            _end(client, run, "FAILED")
            if not is_child:
                _end_unfinished(client, run, "FAILED")
                notes.append(f"Run {run.info.run_id} was killed; it is FAILED now.")
        elif run.data.tags.get(SEARCH_KEY) == key and run.data.tags[PROCESS] != process_tag():
            notes.append(f"Run {run.info.run_id} is doing this search too.")
    for run in _search_runs(f"tags.{SEARCH_KEY} = '{key}' and attributes.status = 'RUNNING'"):
        if run.data.tags.get(PROCESS, "").startswith(f"{host}/"):
            continue
        children = _children(client, run)
        seen = max([run.info.start_time, *(child.info.end_time or 0 for child in children)])
        if _now() - seen > 1000 * SILENT_SECONDS:
            _end(client, run, "FAILED")
            _end_unfinished(client, run, "FAILED")
            notes.append(f"Run {run.info.run_id} was silent for a day; it is FAILED now.")
        else:
            notes.append(f"Run {run.info.run_id} of another machine is doing this search too.")
    return notes


def process_tag():
    """host/pid/start of this process, which no later process repeats."""
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"


def _is_alive(tag):
    _, pid, started = tag.rsplit("/", 2)
    return _started(int(pid)) == started


def _started(pid):
    """When the process started, in clock ticks since boot, which no change of the clock moves.

    "gone" for no process and for a dead one that nobody has waited for yet. Without /proc it is
    only known whether there is a process of that number.
    """
    try:
        # The second field is the program's name and may hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "gone" if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return "gone"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    return "unknown"


def _trial(child, folds):
    metrics = child.data.metrics
    try:
        scores = tuple(metrics[f"{FOLD_METRIC}{number}"] for number in range(1, folds + 1))
        return Trial(dict(_params(child)), scores, metrics["fit_seconds"])
    except (KeyError, ValueError):
        return None


def _params(child):
    """A trial's params out of the texts that MLflow keeps, as its `Trial.key`."""
    params = child.data.params
    return tuple(sorted((k, None if v == "None" else int(v)) for k, v in params.items()))


def _end(client, run, status):
    client.set_terminated(run.info.run_id, status, max(_now(), run.info.start_time))


def _end_unfinished(client, parent, status):
    """End what a parent run that has ended left open: trials, and a model without its files."""
    for child in _children(client, parent, "attributes.status = 'RUNNING'"):
        _end(client, child, status)
    models = client.search_logged_models(
        [parent.info.experiment_id], f"source_run_id = '{parent.info.run_id}'"
    )
    for model in models:
        if model.status == LoggedModelStatus.PENDING:
            client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)


def _children(client, parent, condition=""):
    condition = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.info.run_id}' and {condition}"
    return _pages(client, [parent.info.experiment_id], condition.removesuffix(" and "))


def _search_runs(condition):
    """Runs in all experiments: `mlflow run` and `python train.py` write to different ones."""
    client = mlflow.MlflowClient()
    experiments, token = [], None
    while True:
        page = client.search_experiments(ViewType.ACTIVE_ONLY, page_token=token)
        experiments += [experiment.experiment_id for experiment in page]
        if not (token := page.token):
            return _pages(client, experiments, condition)


def _pages(client, experiments, condition):
    runs, token = [], None
    while True:
        page = client.search_runs(experiments, condition, max_results=PAGE, page_token=token)
        runs += page
        if not (token := page.token):
            return runs


def _now():
    return int(1000 * time.time())
