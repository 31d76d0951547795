"""What a crash left in the store: open runs to close, finished trials to take over."""

import mlflow
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from liquidity.processes import is_alive, is_here, process_tag
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

    A run of this machine, boot and container is dead when its process is gone. Of others nothing
    can be seen but that they are silent for a day. No living run is touched.
    """
    client = mlflow.MlflowClient()
    runs = search_runs(f"tags.{PROCESS} LIKE '%' and attributes.status = 'RUNNING'")
    # Before any is ended, which is a sign of life of the one that it is part of.
    dead = {run.info.run_id for run in runs if _is_dead(client, run)}
    notes = []
    for run in runs:
        run_id, tags = run.info.run_id, run.data.tags
        same_search, here = tags.get(SEARCH_KEY) == key, is_here(tags[PROCESS])
        if run_id in dead:
            _fail(client, run)
            if MLFLOW_PARENT_RUN_ID not in tags:
                what = "was killed" if here else "was silent for a day"
                notes.append(f"Run {run_id} {what}; it is FAILED now.")
        elif same_search and not here:
            notes.append(
                f"Run {run_id} of another machine or container, or from before a restart, is "
                "doing this search too."
            )
        elif same_search and tags[PROCESS] != process_tag():
            notes.append(f"Run {run_id} is doing this search too.")
    return notes


def _fail(client, run):
    """End the run and what is open within it: horizons, trials and models."""
    end_run(client, run, "FAILED")
    if not _is_trial(run):
        for child in children_of(client, run, "attributes.status = 'RUNNING'"):
            _fail(client, child)
        end_unfinished(client, run, "FAILED")


def _is_dead(client, run):
    """By its process, where that would be seen from here; else by a day's silence."""
    tag = run.data.tags[PROCESS]
    if is_here(tag):
        return not is_alive(tag)
    return now() - _last_seen(client, run) > 1000 * SILENT_SECONDS


def _last_seen(client, run):
    """When the run, its trials or those of its horizons began or ended last, in ms."""
    seen = [run.info.start_time, run.info.end_time or 0]
    if not _is_trial(run):
        seen += [_last_seen(client, child) for child in children_of(client, run)]
    return max(seen)


def _is_trial(run):
    return MLFLOW_PARENT_RUN_ID in run.data.tags and SEARCH_KEY not in run.data.tags


def _trial(child, folds):
    try:
        return Trial.from_metrics(dict(trial_key(child)), child.data.metrics, folds=folds)
    except (KeyError, ValueError):
        return None
