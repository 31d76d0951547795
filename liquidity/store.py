"""The MLflow store as its readers see it: whether it can be used, and the model found there.

Scoring needs no more of MLflow than this, and nothing here needs scikit-learn.
"""

import ctypes
import fcntl
import hashlib
import json
import logging
import os
import sys
import tempfile
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import mlflow
import numpy as np
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from liquidity.features import FEATURES, THRESHOLD

MODEL_NAME = "crypto-liquidity"
CHAMPION = "champion"
# All that is fetched of a model.
FILES = ("MLmodel", "model.py", "artifacts/forest.onnx", "artifacts/metadata.json")
# sha256 of every liquidity/model.py whose models this server may run, the newest last.
KNOWN_CODE = ("e45dbe93e3515b1ebdf604654e3ff3da8849c259d1cd5c976e9a4c69b7274937",)
FORMAT = 2  # of the model's metadata and methods; a reader refuses a number it does not know
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("double", name) for name in FEATURES]),
    outputs=Schema(
        [
            ColSpec("double", "liquidity"),
            ColSpec("string", "level"),
            ColSpec("double", "lower"),
            ColSpec("double", "upper"),
            ColSpec("boolean", "in_range"),
        ]
    ),
    params=ParamSchema([ParamSpec("threshold", "double", THRESHOLD)]),
)


class TrackingError(RuntimeError):
    """The tracking store cannot be used; the message names its URI."""


class ModelError(RuntimeError):
    """The model cannot be used; the message names it and the cure."""


def quieten_mlflow():
    """Keep MLflow's migrations, tracebacks and a link per trial out of the progress bar's way."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A database error is logged with three tracebacks, and raised as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def check_store():
    """Fail now, within seconds, if the tracking store or the registry cannot be used.

    Left alone, MLflow tries an unreachable server for four minutes and an SQLite file that
    cannot be opened for two.
    """
    uris = dict.fromkeys([mlflow.get_tracking_uri(), mlflow.get_registry_uri()])
    try:
        with ExitStack() as stack:
            for uri in uris:
                stack.enter_context(_checked_sqlite(uri))
            stack.enter_context(brief_requests())
            client = mlflow.MlflowClient()
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
    except Exception as error:  # from SQLAlchemy, sqlite3, the file system or HTTP
        raise TrackingError(
            f"The MLflow store at {' and '.join(uris)} cannot be used: {first_line(error)}. Start "
            "the server, make the file writable, or set MLFLOW_TRACKING_URI to a store that works."
        ) from error


@contextmanager
def brief_requests():
    """Wait for an MLflow server for seconds; by itself MLflow tries for four minutes."""
    with _environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT="10"):
        yield


def champion_version(name):
    """The champion's ModelVersion, or None."""
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        # An unknown alias is INVALID_PARAMETER_VALUE in this version of MLflow.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def load_model(model_uri):
    """The LiquidityModel at `model_uri`; raises ModelError."""
    with fetched_model(model_uri) as (model, _):
        return model


@contextmanager
def fetched_model(model_uri):
    """Yields the LiquidityModel at `model_uri` and the folder that its FILES are in meanwhile.

    Nothing of its download stays on disk: MLflow itself leaves 20 MB behind at every load from
    a server. Raises ModelError where there is none, where it is of another kind, or broken.
    """
    with tempfile.TemporaryDirectory() as folder:
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
        _return_freed_memory()
        yield model, Path(folder)


def fetch_model(model_uri, folder):
    """Download FILES of a model into `folder`; raises ModelError for one of another kind.

    The pipeline is for review only. Nothing unexpected comes along: Python would run a compiled
    file beside model.py in its place.
    """
    repository = get_artifact_repository(model_uri)
    for name in FILES:
        repository.download_artifacts(name, folder)
        if name == "MLmodel":
            _check_kind(folder)  # which may well lack the other files


def load_checked(folder):
    """The LiquidityModel in `folder`, which holds at least FILES.

    Loading runs the Python file that was registered with the model, so that file has to be one
    that this project shipped, and nothing else may be loaded with it. Raises ModelError with a
    clause without its end.
    """
    _check_files(Path(folder))
    try:
        with _no_bytecode():
            loaded = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
        model = loaded.unwrap_python_model()
        answer = model.answer(np.array([coin["values"] for coin in model.metadata["examples"]]))
    except Exception as error:  # whatever a broken file makes of ONNX Runtime, JSON or NumPy
        raise ModelError(f"it cannot be loaded ({first_line(error)})") from error
    if not np.isfinite(answer["liquidity"]).all():
        raise ModelError("it does not score its own examples")
    return model


def _check_kind(folder):
    try:
        described = Model.load(str(folder))
    except Exception as error:  # MLflow raises what YAML and its own classes raise
        raise ModelError(f"it is no model of this project ({first_line(error)})") from error
    if described.signature != SIGNATURE:
        raise ModelError(
            "it is of another kind: expected the signature of a liquidity model; name one that "
            "train.py has registered"
        )
    return described


def _check_files(folder):
    described = _check_kind(folder)
    try:
        flavor = described.flavors["python_function"]
        artifacts = [flavor["artifacts"][name]["path"] for name in ("forest", "metadata")]
        metadata = json.loads((folder / "artifacts/metadata.json").read_text())
        code = hashlib.sha256((folder / "model.py").read_bytes()).hexdigest()
        loads_more = (
            flavor["loader_module"] != "mlflow.pyfunc.loaders.code_model"
            or flavor.get("code")
            or "python_model" in flavor
            or Path(flavor["model_code_path"]).name != "model.py"
            or artifacts != list(FILES[2:])
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"it is no model of this project ({first_line(error)})") from error
    if loads_more:
        raise ModelError("loading it would run or read more than this project's model.py")
    if code not in KNOWN_CODE:
        raise ModelError(
            f"its model.py (sha256 {code[:12]}...) is none that this project shipped; use the "
            "version of this project that trained it, or train again"
        )
    if metadata.get("format") != FORMAT:
        raise ModelError(
            f"its metadata has format {metadata.get('format')!r}, expected {FORMAT}; train again"
        )


def load_champion(*, name=MODEL_NAME):
    """The champion as a LiquidityModel, loaded when the alias has moved and kept otherwise.

    Asks the registry at each call, which takes a millisecond with SQLite. Raises ModelError
    where there is no champion and TrackingError where there is no store.
    """
    if not _load_version.cache_info().currsize:
        check_store()
    version = champion_version(name)
    if version is None:
        raise ModelError(
            f"There is no {CHAMPION} of {name} in {mlflow.get_registry_uri()}: train one first "
            "(python train.py), or set MLFLOW_TRACKING_URI to the store it is in."
        )
    return _load_version(mlflow.get_registry_uri(), name, version.version, version.source)


@lru_cache(maxsize=1)
def _load_version(registry_uri, name, version, source):
    """`registry_uri` and `source` only tell versions of the same number apart."""
    return load_model(f"models:/{name}/{version}")


def _return_freed_memory():
    """Loading a forest of 300 trees frees 50 MB that glibc would keep for the process's life."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _no_bytecode():
    """Leave no compiled file beside the model's code."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def first_line(error):
    """What an exception says first, to stand within a sentence.

    SQLAlchemy wraps a database's own sentence in the statement and links.
    """
    error = next((e.orig for e in (error, error.__cause__) if hasattr(e, "orig")), error)
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


@contextmanager
def _checked_sqlite(uri):
    """Write to an SQLite store and take it back; SQLite locks a read-only one without a word.

    Until the with block ends the store's folder is locked: of two jobs that make the same new
    store at once, MLflow's migrations fail one.
    """
    if not uri.startswith("sqlite:"):
        yield
        return
    engine = sqlalchemy.create_engine(uri, connect_args={"timeout": 5})
    path = Path((engine.url.database or "").removeprefix("file:"))
    if not path.parent.exists():  # MLflow makes a folder that is missing, or fails at once
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with closing(engine.raw_connection()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE can_it_be_written (x)")
            connection.rollback()
        engine.dispose()
        yield
    finally:
        os.close(folder)


@contextmanager
def _environment(**settings):
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
