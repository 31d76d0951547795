"""Whether the store can be used, and the model found in it."""

import errno
import fcntl
import importlib.util
import os
import py_compile
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import PERMISSION_DENIED, MlflowException
from support import GOOD, PROJECT, SMALL

import train
from liquidity import locks, predict_liquidity, registry
from liquidity.contract import CHAMPION, MODEL_NAME
from liquidity.errors import ModelError, TrackingError
from liquidity.model.gate import Decision
from liquidity.model.loading import SAME_DAY, champion_version, load_champion, load_model
from liquidity.runs import store as store_module
from liquidity.runs.store import check_store

COIN = (GOOD["24h_volume"], GOOD["mkt_cap"], GOOD["1h"], GOOD["price"])


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "sqlite:////proc/no/mlflow.db", "sqlite:///{folder}", "odd://x"]
)
def test_a_store_that_cannot_be_used_is_named_within_seconds(store, monkeypatch, tmp_path, uri):
    uri = uri.format(folder=tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        check_store()
    assert uri in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    assert time.monotonic() - started < 8


def test_a_read_only_store_is_named(store, monkeypatch, tmp_path):
    uri = f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match="readonly"):
        check_store()


def test_a_store_that_another_program_writes_to_is_said_to_be_locked(store, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "LOCKED_SECONDS", 0.5)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            TrackingError, match=r"mlflow\.db is locked by another program that wri"
        ):
            check_store()


def test_a_folder_that_another_process_has_locked_is_waited_for_aloud(
    store, tmp_path, monkeypatch, caplog
):
    """Silence for ever is what a lock of a backup looked like."""
    monkeypatch.setattr(locks, "NOTICE_SECONDS", 0.2)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    timer = threading.Timer(1, os.close, [folder])
    timer.start()
    check_store()
    assert f"Waiting for another process that has locked the folder {tmp_path}." in caplog.text
    timer.join()
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.5)
    with pytest.raises(TrackingError, match=f"kept the folder {tmp_path} locked .*; end it or wai"):
        check_store()
    os.close(folder)


def test_a_new_store_appears_when_it_is_complete(tmp_path, monkeypatch):
    """A job that was stopped while MLflow made the tables left a store that no job could use."""
    code = "import os, pathlib, signal; from liquidity.runs.store import check_store\n"
    # When all tables are made, at the latest moment before the store has its name.
    code += "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\ncheck_store()"
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "PYTHONPATH": str(PROJECT),
    }
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert any(path.stat().st_size > 100_000 for path in tmp_path.iterdir())
    assert not (tmp_path / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    check_store()
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_file_system_without_locks_is_done_without(store, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    check_store()


def test_runs_and_models_in_two_files_of_a_folder_do_not_wait_for_each_other(
    store, tmp_path, monkeypatch
):
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "models.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path}/models.db")
    monkeypatch.setattr(locks, "LOCK_SECONDS", 2)
    check_store()


@pytest.mark.parametrize(
    "uri", ["http://me:s3cret@127.0.0.1:9", "postgresql://me:s3cret@127.0.0.1:9/mlflow"]
)
def test_a_password_in_an_address_is_not_said(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=r"://me:\*\*\*@127") as caught:
        check_store()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        # That of MLflow 3.16.
        ("b7e2c1a4d9f3", "was made by an MLflow older than .*: back it up, then run `mlflow db up"),
        ("0123456789ab", r"was made or upgraded by an MLflow newer than .*needs mlflow==\S+\. Set"),
    ],
)
def test_a_store_of_another_mlflow_ends_a_training_with_one_sentence(
    empty_store, tmp_path, monkeypatch, capsys, schema, said
):
    path = shutil.copy(empty_store, tmp_path / "mlflow.db")
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", [schema])
        database.commit()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    assert train.main(SMALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"train.py: The MLflow store at sqlite:\S+ {said}", line), line
    assert f"its schema is {schema}" in line


@pytest.mark.parametrize("status", [401, 403])
def test_a_store_with_passwords_says_how_to_give_one(monkeypatch, status):
    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(TrackingError, match=f"{status} .*set MLFLOW_TRACKING_USERNAME and MLF"):
            check_store()
        server.shutdown()


def test_a_server_with_passwords_refuses_to_say_whether_there_is_a_champion(store, monkeypatch):
    """It says so of a model that is not registered yet, as before everybody's first training."""

    def refuse(*_):
        raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(mlflow.MlflowClient, "get_model_version_by_alias", refuse)
    assert champion_version("new") is None
    store.create_registered_model("old")
    with pytest.raises(MlflowException, match="Permission denied"):
        champion_version("old")


def test_checking_leaves_the_environment_as_it_was(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    check_store()
    assert dict(os.environ) == before


def test_predict_liquidity_answers_as_the_champion(champion, model):
    expected = model.predict(pd.DataFrame([GOOD])).iloc[0]
    liquidity, level = predict_liquidity(*COIN)
    assert (liquidity, level) == (expected["liquidity"], expected["level"])
    assert (type(liquidity), type(level)) == (float, str)
    volume, *rest = COIN
    assert predict_liquidity(str(volume), *rest) == (liquidity, level)


def test_predict_liquidity_refuses_what_the_model_refuses(champion):
    for value in (0, None, True, "much", float("nan")):
        with pytest.raises(MlflowException, match="column mkt_cap: expected a finite number > 0"):
            predict_liquidity(1e7, value, 0.01, 1.0)


def test_predict_liquidity_follows_the_champion(champion, model):
    before = load_champion()
    assert load_champion() is before
    source = champion.get_model_version(MODEL_NAME, "1").source
    registry.register(source, Decision(True, "again", {}), name=MODEL_NAME)
    assert champion.get_model_version_by_alias(MODEL_NAME, CHAMPION).version == 2
    assert load_champion() is not before


def test_without_a_champion_the_cure_is_said(store):
    with pytest.raises(ModelError, match=r"no champion of crypto-liquidity .*train one first"):
        predict_liquidity(*COIN)


def test_importing_the_package_imports_no_mlflow():
    code = "import liquidity, sys; assert callable(liquidity.predict_liquidity); "
    code += "assert not {'mlflow', 'pandas', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)


def test_loading_leaves_nothing_on_the_disk(champion, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    load_model(f"models:/{MODEL_NAME}@{CHAMPION}")
    assert list(scratch.iterdir()) == []


def test_metadata_of_another_format_is_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    metadata = folder / "artifacts/metadata.json"
    known = SAME_DAY.newest_format
    metadata.write_text(metadata.read_text().replace(f'"format": {known}', '"format": 7'))
    with pytest.raises(ModelError, match=f"has format 7, expected {known}; train again"):
        load_model(str(folder))


def test_a_compiled_file_beside_the_models_code_is_not_run(model_folder, tmp_path, capsys):
    """Python would run it in place of model.py, whatever model.py holds."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    trap = tmp_path / "trap.py"
    trap.write_text("print('it ran')\n" + (folder / "model.py").read_text())
    target = importlib.util.cache_from_source(str(folder / "model.py"))
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(trap), target, invalidation_mode=unchecked, doraise=True)
    assert load_model(str(folder)).metadata["format"] == SAME_DAY.newest_format
    assert "it ran" not in capsys.readouterr().out
