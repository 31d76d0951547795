"""A stale horizon trained again by the training job itself, and so through the gate."""

import importlib.util
import os
from functools import cache
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

import liquidity
from liquidity.errors import OK, JobError
from liquidity.locks import locked_folder
from liquidity.model.gate import champion_number
from liquidity.monitor.ledger import as_date, as_day
from liquidity.search.pipeline import PARAMS

# Settings of the champion's own training that the next one takes over.
KEPT = ("outliers", "test_size", "cv", *PARAMS, "max_samples", "random_state")
AGAIN = 7  # days of data after which a training that changed nothing is tried again
LOCKS = ".retrain"  # folder beside the versions' that is held while a horizon is trained
BEGUN = "retrain.begun"  # tag of the champion: last day of the data, highest version before


@cache
def training_job():
    """The module train.py, which lies beside the package: in a clone, and where it is installed.

    Not `import train`: a file of that name in the working folder would come first.
    """
    path = Path(liquidity.__file__).parents[1] / "train.py"
    spec = importlib.util.spec_from_file_location("train", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def retrain(version, *, data, day_shift, last, model_name):
    """Train a champion's horizon again on `data`, whose last day is `last`; returns what came of it
    as `(replaced, clause)`. Another process that is at it is left to it.

    Raises JobError where the training fails.
    """
    folder = version.folder.parent / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    options = {"data": data, "day-shift": day_shift, "model-name": model_name}
    try:
        with locked_folder(folder):
            return _retrain(version, options, last)
    except TimeoutError:
        return False, "another process is training it"


def _retrain(version, options, last):
    client = mlflow.MlflowClient()
    champion = str(champion_number(version.name))
    if champion != version.number:
        return True, f"version {champion} has taken its place meanwhile"
    registered = client.get_model_version(version.name, version.number)
    if tried := _tried(client, registered, last):
        return False, tried
    highest = max(_numbers(client, version.name))
    client.set_model_version_tag(version.name, version.number, BEGUN, f"{as_date(last)} {highest}")
    # This run is written to by its own job; a training makes one of its own.
    os.environ.pop("MLFLOW_RUN_ID", None)
    options |= {"horizon": version.horizon, **_settings(client, registered)}
    code = training_job().main([f"--{name}={value}" for name, value in options.items()])
    if code != OK:
        raise JobError(
            f"{version.name} could not be trained again (exit code {code}, see above): version "
            f"{version.number} goes on serving."
        )
    champion = str(champion_number(version.name))
    if champion != version.number:
        return True, f"version {champion} is champion in place of version {version.number}"
    newest = client.get_model_version(version.name, str(max(_numbers(client, version.name))))
    reason = newest.tags.get("gate.reason", "the gate")
    return False, f"version {newest.version} was trained and stays challenger: {reason}"


def _tried(client, registered, last):
    """A clause where a training of these days has been done already; else None.

    One that was begun and killed has registered nothing: the description is a version's last step.
    """
    begun = registered.tags.get(BEGUN)
    if not begun:
        return None
    day, highest = begun.split()
    later = [number for number in _numbers(client, registered.name) if number > int(highest)]
    done = [n for n in later if client.get_model_version(registered.name, str(n)).description]
    if not done or last - as_day(type(as_date(0)).fromisoformat(day)) >= AGAIN:
        return None
    return (
        f"version {done[-1]} was trained on the days to {day} and did not replace it; it is tried "
        f"again when there are {AGAIN} more"
    )


def _numbers(client, name):
    """The numbers of all versions of a model."""
    quote = '"' if "'" in name else "'"
    found = client.search_model_versions(f"name = {quote}{name}{quote}", max_results=1000)
    return sorted(int(version.version) for version in found)


def _settings(client, registered):
    """The options of the training that made a version; train.py's defaults where it is gone."""
    try:
        params = client.get_run(registered.run_id).data.params
    except MlflowException:
        return {}
    return {name.replace("_", "-"): params[name] for name in KEPT if name in params}
