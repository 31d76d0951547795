"""Where a training's run and its files go, checked before anything is written."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from liquidity.errors import ModelError, SettingsError, TrackingError, first_line
from liquidity.printable import without_passwords
from liquidity.runs.records import PROCESS

ANOTHER = (
    "train into another experiment (--experiment NAME, or `mlflow run --experiment-name NAME`) "
    "from a folder that can be written to"
)


class Destination(NamedTuple):
    """The store's address without its password, and that of the runs' files, or None where only
    the store's server knows it.
    """

    store: str
    files: str | None


def check_destination(experiment):
    """The Destination of a new run.

    The files go where the experiment says, for ever: of a new one in a database that is `mlruns`
    in the working folder. Raises SettingsError where MLFLOW_RUN_ID names a run that is not new, or
    the experiment is deleted, and TrackingError where nothing can be written there.
    """
    client, store = mlflow.MlflowClient(), without_passwords(mlflow.get_tracking_uri())
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        found = client.get_experiment(_check_run(client, run_id).info.experiment_id)
    else:
        found = client.get_experiment_by_name(experiment)
    if found is None:
        if mlflow.get_tracking_uri().startswith("http"):
            return Destination(store, None)
        location = str(Path(DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).absolute())
    else:
        if found.lifecycle_stage != LifecycleStage.ACTIVE:
            raise SettingsError(
                f"The experiment {found.name} is deleted: take another --experiment, or run "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`."
            )
        location = found.artifact_location
    if is_local_uri(location):
        folder = Path(local_file_uri_to_path(location))
        if found and not folder.exists() and _has_models(client, found):
            raise TrackingError(
                f"The experiment {found.name} keeps its files in {folder}, which is not there: put "
                "the folder back, or a link to where it is now (MLflow keeps the path for ever), "
                f"or {ANOTHER}."
            )
        _check_writable(folder)
    return Destination(store, without_passwords(location))


def local_files(run):
    """The folder of the run's files on this machine, or None where they are elsewhere."""
    location = run.info.artifact_uri
    return Path(local_file_uri_to_path(location)) if is_local_uri(location) else None


def _check_run(client, run_id):
    """The run that `mlflow run` made for this job; raises SettingsError for any other."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise SettingsError(f"MLFLOW_RUN_ID: {first_line(error)}: unset MLFLOW_RUN_ID.") from error
    state = run.info.status if run.info.lifecycle_stage == LifecycleStage.ACTIVE else "deleted"
    if state != "RUNNING":
        raise SettingsError(
            f"MLFLOW_RUN_ID: the run {run_id} is {state}, and a training would write into it: "
            "unset MLFLOW_RUN_ID."
        )
    if PROCESS in run.data.tags:
        raise SettingsError(
            f"MLFLOW_RUN_ID: the run {run_id} is another training's: unset MLFLOW_RUN_ID."
        )
    return run


def _has_models(client, experiment):
    """Whether a model was logged there, so that its folder has to exist."""
    models = client.search_logged_models([experiment.experiment_id], max_results=10)
    return any(str(model.status) == "READY" for model in models)


def _check_writable(folder):
    """Write a file and take it back, in the folder or where it would be made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise TrackingError(
            f"The files of the run would go to {folder}, and {there} cannot be written to "
            f"({error.strerror}): make it writable, or {ANOTHER}."
        ) from error


def check_files(model_uri):
    """Raise ModelError, a clause without its end, where the registry has a model whose folder on
    this machine is gone.
    """
    try:
        location = get_artifact_repository(model_uri).repo.artifact_uri
    except Exception:  # whoever loads the model says what is wrong with it
        return
    if is_local_uri(location) and not os.path.exists(folder := local_file_uri_to_path(location)):
        raise ModelError(
            f"it was registered with its files in {folder}, which is not there: put the folder "
            "back, or a link to where it is now (MLflow keeps the path for ever)"
        )
