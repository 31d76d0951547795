"""The fixtures: real stores in temporary folders, models, servers, a browser, the real data."""

import fcntl
import gc
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import contextmanager, redirect_stdout

import mlflow
import numpy as np
import pandas as pd
import pytest
import sqlalchemy
from playwright.sync_api import sync_playwright
from support import (
    AXE,
    AXE_SHA512,
    CHAMPION,
    CHROMIUM,
    NAME,
    REAL_DATA,
    SAMPLE,
    SMALL,
    SMALL_FORECAST,
    UNPACKER,
    StandingWorkers,
    free_port_number,
    log_same_day,
    parents,
    standing_app,
    starting_servers,
    use_copy,
)

import train
from data.make_sample import make_panel
from liquidity import executors, registry
from liquidity.contract import MODEL_NAME
from liquidity.data.market import read_market
from liquidity.data.table import build_table, inputs_and_target
from liquidity.model.gate import Decision
from liquidity.runs import training_log
from liquidity.search.pipeline import build_pipeline, with_forest_params
from serve.champion import Champion


def pytest_collection_finish():
    """What is imported by now stays; to look through it for garbage takes 5 % of all tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _standing_processes():
    """What searches and applications of this process hand work to is started once."""
    workers = StandingWorkers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "local_executor", workers.executor)
        yield
    workers.end()
    UNPACKER.end()


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def _wait_for_no_disk(connection, _):
    """Stores that end with the tests need not outlast a loss of power: a commit waits 10 ms."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def without_figures(monkeypatch):
    """Trainings draw nothing, which half of their time goes to; others look at what they draw."""
    monkeypatch.setattr(training_log, "log_figures", lambda figures: None)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """`make_once(name, make)` is a folder that `make(folder)` has filled: once for all processes of
    this run of pytest. Tests that write use a copy.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of the folders that the processes have each

    def make_once(name, make):
        folder, done = root / f"once-{name}", root / f"once-{name}.done"
        with open(root / f"once-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed in it
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return make_once


@contextmanager
def working_in(folder, empty_store):
    """The folder, with an empty store, is the one that jobs work in and write to."""
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("MLFLOW_EXPERIMENT_ID", "")  # put back when a job has set it
        patch.delenv("MLFLOW_EXPERIMENT_ID")
        yield


@pytest.fixture(scope="session")
def real_data():
    """The folder of real market data, or a skip; where CI requires it, a failure."""
    if not REAL_DATA.is_dir():
        message = f"no real market data at {REAL_DATA}; set LIQUIDITY_REAL_DATA"
        if os.environ.get("LIQUIDITY_REQUIRE_REAL_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return REAL_DATA


@pytest.fixture(scope="session")
def panel_arrays(real_data):
    """Coin, day, volume, cap and price of every 20th coin of the real panel, some rows gaps."""
    frame = pd.read_parquet(real_data / "panel/coingecko_daily_2019-01-01_2024-07-14.parquet")
    coin = pd.factorize(frame["coin"])[0]
    some = coin % 20 == 7
    frame, coin = frame[some], coin[some]
    day = frame["date"].to_numpy("datetime64[D]").astype(np.int64)
    values = (frame[name].to_numpy(float) for name in ("24h_volume", "mkt_cap", "price"))
    return [coin, day, *values]


@pytest.fixture(scope="session")
def empty_store(make_once):
    """A migrated, empty SQLite store to copy: making one takes seconds."""

    def make(folder):
        code = "import mlflow; mlflow.MlflowClient().search_experiments()"
        environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=folder)

    return make_once("store", make) / "mlflow.db"


@pytest.fixture
def store(tmp_path, monkeypatch, empty_store):
    """A tracking store of the test's own, in its own working folder; yields a client."""
    with use_copy(empty_store, tmp_path, monkeypatch) as client:
        yield client


@pytest.fixture
def champion(tmp_path, monkeypatch, model_folder):
    """The same with the model of the tests as crypto-liquidity's champion."""
    with use_copy(model_folder.parent / "mlflow.db", tmp_path, monkeypatch) as client:
        yield client


@pytest.fixture(scope="session")
def sample_table():
    return build_table(read_market(SAMPLE)[0])


@pytest.fixture(scope="session")
def fitted(sample_table):
    pipeline = with_forest_params(build_pipeline(random_state=0), n_estimators=20)
    return pipeline.fit(*inputs_and_target(sample_table))


@pytest.fixture(scope="session")
def model_folder(make_once, request, empty_store):
    """The model as MLflow stores it, beside the store whose champion it is."""

    def make(folder):
        # Fitted by the process that makes it alone.
        fitted, sample_table = map(request.getfixturevalue, ("fitted", "sample_table"))
        with working_in(folder, empty_store):
            with mlflow.start_run(experiment_id="0"):
                uri = log_same_day(fitted, sample_table)
            registry.register(uri, Decision(True, "of the tests", {}), name=MODEL_NAME)
            mlflow.artifacts.download_artifacts(uri, dst_path=folder / "model")

    return make_once("model", make) / "model"


@pytest.fixture(scope="session")
def model(model_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        return mlflow.pyfunc.load_model(str(model_folder))


@pytest.fixture(scope="session")
def inner(model):
    """The model itself, without MLflow around it."""
    return model.unwrap_python_model().scorer


@pytest.fixture
def app(inner):
    """The server's application over the model of the tests."""
    with standing_app(inner) as app:
        yield app


@pytest.fixture(scope="session")
def build_model(make_once, request, empty_store):
    """The folder of a model of so many trees, as MLflow stores it; each is made once."""

    def build(trees):
        def make(folder):
            table = request.getfixturevalue("sample_table").head(200)
            pipeline = with_forest_params(build_pipeline(random_state=0), n_estimators=trees)
            fitted = pipeline.fit(*inputs_and_target(table))
            with working_in(folder, empty_store):
                with mlflow.start_run(experiment_id="0"):
                    uri = log_same_day(fitted, table)
                mlflow.artifacts.download_artifacts(uri, dst_path=folder / "model")

        return str(make_once(f"model-{trees}", make) / "model")

    return build


@pytest.fixture
def register(store, tmp_path, build_model):
    """Register a version of so many trees, damaged where wished; returns its number."""
    if not store.search_registered_models():
        store.create_registered_model(NAME)

    def register(trees, *, damage=None):
        run = store.create_run("0")
        store.log_metric(run.info.run_id, "test_r2", trees / 10)
        folder = tmp_path / "models" / run.info.run_id
        shutil.copytree(build_model(trees), folder)
        if damage:
            damage(folder)
        version = store.create_model_version(NAME, str(folder), run.info.run_id).version
        store.set_registered_model_alias(NAME, "champion", version)
        return version

    return register


@pytest.fixture
def away(monkeypatch):
    """The registry cannot be asked any more, until the fixture's `undo`."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    context = pytest.MonkeyPatch()
    yield lambda: context.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9"), context.undo
    context.undo()


@pytest.fixture
def make_champion(store, tmp_path):
    events = []

    def make(uri=CHAMPION, **options):
        champion = Champion(
            uri, refresh_seconds=60, cache_dir=tmp_path / "cache",
            on_swap=lambda served: events.append(served.info["version"]),
            on_failure=lambda: events.append("failure"), **options,
        )  # fmt: skip
        champion.events = events
        return champion

    return make


@pytest.fixture
def write_csv(tmp_path):
    """Write lines as a CSV file; `header` unless told otherwise."""
    columns = "date,coin,symbol,price,1h,24h_volume,mkt_cap"

    def write(*lines, name="market.csv", header=columns):
        path = tmp_path / name
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    return write


@pytest.fixture(scope="session")
def complete(make_once, empty_store):
    """One small run through the whole job, to be looked at: `(client, parent run)`. What it
    printed is in output.txt beside its store.
    """

    def make(folder):
        with (
            working_in(folder, empty_store),
            open(folder / "output.txt", "w") as output,
            redirect_stdout(output),
        ):
            assert train.main(SMALL) == 0

    client = mlflow.MlflowClient(f"sqlite:///{make_once('complete', make)}/mlflow.db")
    (parent,) = parents(client)
    return client, parent


@pytest.fixture
def free_port():
    return free_port_number()


@pytest.fixture
def two_versions(store, build_model):
    """A store with two versions of different forests, the first of them champion."""
    store.create_registered_model(MODEL_NAME)
    for trees in (3, 5):
        store.create_model_version(MODEL_NAME, build_model(trees))
    store.set_registered_model_alias(MODEL_NAME, "champion", "1")
    return store


@pytest.fixture
def make_disk(tmp_path):
    """Mount a disk of so many bytes, as `mount` has them; returns its folder."""
    mounted = []

    def make(size):
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def start_serve(tmp_path, request, free_port):
    """`start` of `starting_servers` over the registry of a finished run, or that of `settings`."""

    def registry_uri():
        return request.getfixturevalue("complete")[0].tracking_uri

    with starting_servers(tmp_path, free_port, registry_uri) as start:
        yield start


def skip_unless_required(message):
    """Skip a test that needs more than this machine has; where CI requires it, fail."""
    if os.environ.get("LIQUIDITY_REQUIRE_BROWSER") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The source of axe-core, a script that finds what is wrong with a page for people who cannot
    see it well or use no mouse; npm brings it from wherever it is told to.
    """
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "pack", AXE, "--silent", "--fetch-retries=1", "--fetch-timeout=20000"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=90)
    except (OSError, subprocess.SubprocessError) as error:
        skip_unless_required(f"no {AXE}: {error}; apt-get install npm, and let it fetch")
    (path,) = folder.glob("*.tgz")
    assert hashlib.sha512(path.read_bytes()).hexdigest() == AXE_SHA512
    with tarfile.open(path) as packed:
        return packed.extractfile("package/axe.min.js").read().decode()


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, or a skip; where CI requires it, a failure."""
    if not os.path.exists(CHROMIUM):
        skip_unless_required(f"no browser at {CHROMIUM}; apt-get install chromium")
    with sync_playwright() as playwright:
        # A site under a name of its own: http://any.example:port is this machine too.
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP *.example 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    return browser.new_page()


@pytest.fixture(scope="session")
def panel(tmp_path_factory):
    """A synthetic panel of 60 coins on 150 days, as a frame and as a file."""
    frame = pd.concat(make_panel(days=150, coins=60).values(), ignore_index=True)
    path = tmp_path_factory.mktemp("panel") / "panel.parquet"
    frame.to_parquet(path)
    return frame, path


@pytest.fixture(scope="session")
def forecasts(make_once, empty_store, panel):
    """The folder of a store with the champions of horizons 1 and 7."""

    def make(folder):
        with working_in(folder, empty_store):
            arguments = ["--data", str(panel[1]), "--horizon", "1,7", *SMALL_FORECAST]
            assert train.main(arguments) == 0

    return make_once("forecasts", make)
