"""What a crash left in the store: open runs to close, finished trials to take over."""

import socket

import mlflow
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from liquidity.processes import is_alive, process_tag
from liquidity.runs.records import (
    PROCESS,
    SEARCH_KEY,
    children_of,
    end_run,
    end_unfinished,
    now,
    search_runs,
    trial_key,
)
from liquidity.search.grid import Trial, candidates

# A run of another machine that wrote nothing for so long is taken for dead.
SILENT_SECONDS = 24 * 3600


def find_finished(key, folds, *, grid, resume, console):
    """Close what crashes left open, and find the trials of `grid` to take over: `{run id: Trial}`.

    `resume` "never" takes over none.
    """
    for note in close_dead_runs(key):
        console.print(note, highlight=False, soft_wrap=True)
    if resume == "never":
        return {}
    points = candidates(grid)
    found = finished_trials(key, folds=folds)
    finished = {run_id: trial for run_id, trial in found.items() if trial.params in points}
    if finished:
        console.print(
            f"{len(finished)} of {len(points)} trials were finished by an interrupted search",
            highlight=False,
        )
    return finished


def finished_before(key, *, model_name):
    """The run of a horizon that finished this search within a list that did not, or None."""
    client = mlflow.MlflowClient()
    for run in search_runs(f"tags.{SEARCH_KEY} = '{key}' and attributes.status = 'FINISHED'"):
        outer = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
        same = run.data.params.get("model_name") == model_name
        if outer and same and client.get_run(outer).info.status != "FINISHED":
            return run
    return None


def finished_trials(key, *, folds):
    """Trials of earlier searches with this key that did not finish: `{run id: Trial}`."""
    client = mlflow.MlflowClient()
    trials = {}
    for parent in search_runs(f"tags.{SEARCH_KEY} = '{key}' and attributes.status != 'FINISHED'"):
        for child in children_of(client, parent, "attributes.status = 'FINISHED'"):
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
    for run in search_runs(f"tags.{PROCESS} LIKE '{host}/%' and attributes.status = 'RUNNING'"):
        is_child = MLFLOW_PARENT_RUN_ID in run.data.tags
        if not is_alive(run.data.tags[PROCESS]):
            end_run(client, run, "FAILED")
            if SEARCH_KEY in run.data.tags:  # trials of its own, and a model
                end_unfinished(client, run, "FAILED")
            if not is_child:
                notes.append(f"Run {run.info.run_id} was killed; it is FAILED now.")
        elif run.data.tags.get(SEARCH_KEY) == key and run.data.tags[PROCESS] != process_tag():
            notes.append(f"Run {run.info.run_id} is doing this search too.")
    for run in search_runs(f"tags.{SEARCH_KEY} = '{key}' and attributes.status = 'RUNNING'"):
        if run.data.tags.get(PROCESS, "").startswith(f"{host}/"):
            continue
        children = children_of(client, run)
        seen = max([run.info.start_time, *(child.info.end_time or 0 for child in children)])
        if now() - seen > 1000 * SILENT_SECONDS:
            end_run(client, run, "FAILED")
            end_unfinished(client, run, "FAILED")
            notes.append(f"Run {run.info.run_id} was silent for a day; it is FAILED now.")
        else:
            notes.append(f"Run {run.info.run_id} of another machine is doing this search too.")
    return notes


def _trial(child, folds):
    try:
        return Trial.from_metrics(dict(trial_key(child)), child.data.metrics, folds=folds)
    except (KeyError, ValueError):
        return None
