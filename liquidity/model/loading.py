"""Fetch a registered model, check that it is one of this project's, and load it."""

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from liquidity.contract import (
    CHAMPION,
    CHANGE_1H,
    COIN,
    DATE,
    FEATURES,
    FORECAST_FEATURES,
    INPUTS,
    LARGEST,
    MODEL_NAME,
)
from liquidity.errors import ModelError, first_line
from liquidity.model.forest import read as read_forest
from liquidity.model.graph import read_graph
from liquidity.model.metadata import check_metadata
from liquidity.model.model import Forecast, Forest, SameDay
from liquidity.processes import return_freed_memory
from liquidity.runs.destination import check_files
from liquidity.runs.store import check_store
from liquidity.scratch import scratch_folder

DESCRIPTION, CODE, METADATA = "MLmodel", "model.py", "artifacts/metadata.json"
# The reader of each file that a forest has been kept in.
FORESTS = {"artifacts/forest.npz": read_forest, "artifacts/forest.onnx": read_graph}
LOADS_MORE = "loading it would run or read more than this project's model.py"


@dataclass(frozen=True)
class Kind:
    """What models of one kind have in common. The default of a parameter is no part of it: a
    champion that was trained with another threshold goes on serving with its own.
    """

    inputs: dict[str, str]
    optional: dict[str, str]  # further inputs
    outputs: dict[str, str]
    params: dict[str, str]
    # The sha256 of every model.py that this project has shipped, the newest last, and the format
    # of the metadata that it reads.
    code: dict[str, int]

    @property
    def newest_format(self):
        """The format of metadata that the newest model.py reads."""
        return list(self.code.values())[-1]

    def signature(self, **defaults):
        """The MLflow signature of a model of this kind with these defaults of its parameters."""
        return ModelSignature(
            Schema(
                [ColSpec(type_, name) for name, type_ in self.inputs.items()]
                + [ColSpec(type_, name, required=False) for name, type_ in self.optional.items()]
            ),
            Schema([ColSpec(type_, name) for name, type_ in self.outputs.items()]),
            ParamSchema([ParamSpec(n, type_, defaults[n]) for n, type_ in self.params.items()]),
        )


# The columns of scores that every kind answers with.
SCORES = {
    "liquidity": "double",
    "level": "string",
    "lower": "double",
    "upper": "double",
    "in_range": "boolean",
}
SAME_DAY = Kind(
    inputs=dict.fromkeys(FEATURES, "double"),
    optional={},
    outputs=SCORES,
    params={"threshold": "double"},
    code={
        "e45dbe93e3515b1ebdf604654e3ff3da8849c259d1cd5c976e9a4c69b7274937": 2,
        "c8539d53a13c76811459eec9ff63abb0cdb367a29b72bcf86afdffaf241c44ee": 3,
        "0013810b36eae26c1683413281f9bc724e447867cc8b52b65136fa8cfec2f178": 3,
        "c00dec713ef1c3178a0e66de77e76b39a64f6db953a5d07ececa042f5af8bbf9": 4,
        "d53c0f0765e1a5d34446d25e760c89bc27a5786c8d3305989984e0354d7c9514": 4,
    },
)
FORECAST = Kind(
    inputs=dict.fromkeys(FORECAST_FEATURES, "double"),
    optional={CHANGE_1H: "double", COIN: "string", DATE: "string"},
    outputs=SCORES | {"p_high": "double", "days_used": "long"},
    params={"threshold": "double"},
    code={
        "c8539d53a13c76811459eec9ff63abb0cdb367a29b72bcf86afdffaf241c44ee": 3,
        "0013810b36eae26c1683413281f9bc724e447867cc8b52b65136fa8cfec2f178": 3,
        "c00dec713ef1c3178a0e66de77e76b39a64f6db953a5d07ececa042f5af8bbf9": 4,
        "d53c0f0765e1a5d34446d25e760c89bc27a5786c8d3305989984e0354d7c9514": 4,
    },
)
KINDS = {"same-day": SAME_DAY, "forecast": FORECAST}


def kind_of(horizon):
    """The kind of the models that look `horizon` days ahead."""
    return FORECAST if horizon else SAME_DAY


def champion_version(name):
    """The champion's ModelVersion, or None."""
    client = mlflow.MlflowClient()
    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        # An unknown alias is INVALID_PARAMETER_VALUE in this version of MLflow. A server with
        # passwords refuses a model that does not exist as it does one of somebody else's.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE") or (
            error.error_code == "PERMISSION_DENIED" and not _is_registered(client, name)
        ):
            return None
        raise


def _is_registered(client, name):
    """Whether a model of this name is among those that the user may see."""
    return any(model.name == name for model in client.search_registered_models(f"name = '{name}'"))


def load_model(model_uri):
    """The scorer (see `load_checked`) of the model at `model_uri`; raises ModelError."""
    with fetched_model(model_uri) as (model, _):
        return model


@contextmanager
def fetched_model(model_uri):
    """Yields the scorer of the model at `model_uri` and the folder that its files are in meanwhile.

    Nothing of its download stays on disk: MLflow itself leaves 20 MB behind at every load from
    a server. Raises ModelError where there is none, where it is not one of ours, or broken.
    """
    with scratch_folder() as folder:
        try:
            fetch_model(model_uri, folder)
            model = load_checked(folder)
        except ModelError as error:
            raise ModelError(f"The model {model_uri} cannot be used: {error}.") from error
        except Exception as error:  # from the registry or the store
            raise ModelError(
                f"The model {model_uri} cannot be loaded from {mlflow.get_registry_uri()}: "
                f"{first_line(error)}. Train one first (python train.py), or set "
                "MLFLOW_TRACKING_URI to the store it is in."
            ) from error
        return_freed_memory()
        yield model, Path(folder)


def fetch_model(model_uri, folder):
    """Download the files of a model into `folder`; raises ModelError for one that is not ours.

    The pipeline is for review only. Nothing unexpected comes along: Python would run a compiled
    file beside model.py in its place.
    """
    check_files(model_uri)
    repository = get_artifact_repository(model_uri)
    repository.download_artifacts(DESCRIPTION, folder)
    for name in files(folder):  # of another kind of model they may well not be there
        if name != DESCRIPTION:
            repository.download_artifacts(name, folder)


def files(folder):
    """The names of all that is fetched of the model whose description is in `folder`; raises
    ModelError where it is not one of ours.
    """
    described, _ = _check_kind(folder)
    return DESCRIPTION, CODE, _forest_file(described), METADATA


def _forest_file(described):
    try:
        forest = described.flavors["python_function"]["artifacts"]["forest"]["path"]
    except (KeyError, TypeError) as error:
        raise ModelError(f"it is not a model of this project ({first_line(error)})") from error
    if forest not in FORESTS:
        raise ModelError(LOADS_MORE)
    return forest


def load_checked(folder):
    """The scorer (SameDay or Forecast of model.py) of the model in `folder`, which holds at least
    its files.

    The Python file that was registered with the model is not run: it has to be one that this
    project has shipped, and what those read is read by the newest of them. Metadata and forest are
    checked before. Raises ModelError with a clause without its end.
    """
    metadata, arrays = _checked_files(Path(folder))
    try:
        model = (Forecast if metadata["horizon"] else SameDay)(metadata, Forest(**arrays))
        values = zip(*(coin["values"] for coin in metadata["examples"]), strict=True)
        answer = model.answer(model.parse(dict(zip(model.features, values, strict=True))))
    except Exception as error:  # whatever broken files make of NumPy
        raise ModelError(f"it cannot be loaded ({first_line(error)})") from error
    if not np.isfinite(answer["liquidity"]).all():
        raise ModelError("it does not score its own examples")
    return model


def _check_kind(folder):
    """The model's description and its Kind; raises ModelError."""
    try:
        described = Model.load(str(folder))
        columns = _columns(described.signature)
    except Exception as error:  # MLflow raises what YAML and its own classes raise
        raise ModelError(f"it is not a model of this project ({first_line(error)})") from error
    for kind in KINDS.values():
        # By way of a signature of MLflow's own, which knows what is left out of a short form.
        if columns == _columns(kind.signature(**dict.fromkeys(kind.params, 0.0))):
            return described, kind
    raise ModelError(
        "its columns are not those of a liquidity model: name one that train.py has registered"
    )


def _columns(signature):
    params = [(param.name, param.dtype, param.shape) for param in signature.params or ()]
    return signature.inputs.to_dict(), signature.outputs.to_dict(), params


def _checked_files(folder):
    """The metadata and the forest's arrays in `folder`; raises ModelError."""
    described, kind = _check_kind(folder)
    forest = _forest_file(described)
    try:
        flavor = described.flavors["python_function"]
        loads_more = (
            flavor["loader_module"] != "mlflow.pyfunc.loaders.code_model"
            or flavor.get("code")
            or "python_model" in flavor
            or Path(flavor["model_code_path"]).name != CODE
            or flavor["artifacts"]["metadata"]["path"] != METADATA
        )
        if loads_more:
            raise ModelError(LOADS_MORE)
        metadata = json.loads((folder / METADATA).read_text())
        data = (folder / forest).read_bytes()
        code = hashlib.sha256((folder / CODE).read_bytes()).hexdigest()
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"it is not a model of this project ({first_line(error)})") from error
    if code not in kind.code:
        raise ModelError(
            f"its model.py (sha256 {code[:12]}...) is not one that this project has "
            "shipped; use the version of this project that trained it, or train again"
        )
    format_ = metadata.get("format") if isinstance(metadata, dict) else None
    if format_ != kind.code[code]:
        raise ModelError(
            f"its metadata has format {format_!r}, expected {kind.code[code]}; train again"
        )
    check_metadata(metadata, kind)
    if hashlib.sha256(data).hexdigest() != metadata["forest_sha256"]:
        raise ModelError(f"its {Path(forest).name} is not the file that metadata.json is for")
    arrays = FORESTS[forest](data, inputs=len(metadata["scaler"]["mean"]))
    return _completed(metadata), arrays


def _completed(metadata):
    """The metadata with what format 2 had in its code."""
    rules = {name: [INPUTS[name].rule.lowest, INPUTS[name].rule.included] for name in FEATURES}
    return {"horizon": 0, "rules": rules, "largest": LARGEST} | metadata


def load_champion(*, name=MODEL_NAME):
    """The champion's scorer, loaded when the alias has moved and kept otherwise.

    Asks the registry at each call, which takes a millisecond with SQLite. Raises ModelError
    where there is no champion and TrackingError where there is no store.
    """
    return load_version(find_champion(name))


def find_champion(name):
    """The champion's ModelVersion; raises ModelError and TrackingError as `load_champion` does."""
    if not _load_version.cache_info().currsize:
        check_store()
    version = champion_version(name)
    if version is None:
        raise ModelError(
            f"There is no {CHAMPION} of {name} in {mlflow.get_registry_uri()}: train one first "
            "(python train.py), or set MLFLOW_TRACKING_URI to the store it is in."
        )
    return version


def load_version(version):
    """The scorer of a ModelVersion, loaded once; raises ModelError."""
    return _load_version(mlflow.get_registry_uri(), version.name, version.version, version.source)


@lru_cache(maxsize=8)  # the horizons of some registries
def _load_version(registry_uri, name, version, source):
    """`registry_uri` and `source` only tell versions of the same number apart."""
    return load_model(f"models:/{name}/{version}")
