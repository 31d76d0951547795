"""Real stores in temporary folders, the real market data, and the sample."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from playwright.sync_api import sync_playwright

import train
from liquidity import registry
from liquidity.contract import MODEL_NAME
from liquidity.data.market import read_market
from liquidity.data.table import build_table, inputs_and_target
from liquidity.model.gate import Decision
from liquidity.model.packaging import log_model
from liquidity.search.pipeline import build_pipeline, with_forest_params

PROJECT = Path(__file__).parents[1]
SAMPLE = PROJECT / "data/sample.csv"
# A whole job in four seconds.
SMALL = ["--data", str(SAMPLE), "--n-estimators", "3,6", "--max-depth", "none,4"]
SMALL += ["--min-samples-split", "2", "--cv", "3"]
GOOD = {"24h_volume": 1e7, "mkt_cap": 1e8, "1h": 0.01, "price": 1.0}
# The slow tests in their short form, where minutes count.
SHORT = os.environ.get("LIQUIDITY_SOAK") == "short"
full_only = pytest.mark.skipif(SHORT, reason="not in the short form")
REAL_DATA = Path(os.environ.get("LIQUIDITY_REAL_DATA", PROJECT / "../shared/data"))


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
def empty_store(tmp_path_factory):
    """A migrated, empty SQLite store to copy: making one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    code = "import mlflow; mlflow.MlflowClient().search_experiments()"
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{path}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=path.parent)
    return path


@pytest.fixture
def store(tmp_path, monkeypatch, empty_store):
    """A tracking store of the test's own, in its own working folder; yields a client."""
    yield from use_copy(empty_store, tmp_path, monkeypatch)


@pytest.fixture
def champion(tmp_path, monkeypatch, model_folder):
    """The same with the model of the tests as crypto-liquidity's champion."""
    yield from use_copy(model_folder.parent / "mlflow.db", tmp_path, monkeypatch)


def use_copy(database, tmp_path, monkeypatch):
    shutil.copy(database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    # mlflow.set_experiment sets a variable and a global, which the next test would find.
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.setenv(name, "")  # so that there is something to put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    yield mlflow.MlflowClient()
    assert mlflow.active_run() is None, "a test left a run open"


@pytest.fixture(scope="session")
def sample_table():
    return build_table(read_market(SAMPLE)[0])


@pytest.fixture(scope="session")
def fitted(sample_table):
    pipeline = with_forest_params(build_pipeline(random_state=0), n_estimators=20)
    return pipeline.fit(*inputs_and_target(sample_table))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, fitted, sample_table, empty_store):
    """The model as MLflow stores it, beside the store whose champion it is."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        with mlflow.start_run(experiment_id="0"):
            uri = log_model(fitted, sample_table, quantile=0.5, digest="d")
        decision = Decision(True, "of the tests", {})
        registry.register(uri, decision, name=MODEL_NAME)
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder / "model"))


@pytest.fixture(scope="session")
def model(model_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        return mlflow.pyfunc.load_model(str(model_folder))


@pytest.fixture
def write_csv(tmp_path):
    """Write lines as a CSV file; `header` unless told otherwise."""
    columns = "date,coin,symbol,price,1h,24h_volume,mkt_cap"

    def write(*lines, name="market.csv", header=columns):
        path = tmp_path / name
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    return write


def coin(number, **fields):
    """A coin as CoinGecko's /coins/markets answers it."""
    return {
        "id": f"coin-{number}", "symbol": f"c{number}", "name": f"Coin {number}",
        "image": "https://example.org/coin.png", "current_price": 1.5, "market_cap": 10_000_000,
        "market_cap_rank": number, "total_volume": 2_000_000.0,
        "roi": {"times": 5, "currency": "usd", "percentage": 500},
        "last_updated": "2026-11-24T23:59:01.123Z",
        "price_change_percentage_1h_in_currency": 1.0,
        "price_change_percentage_24h_in_currency": -2,
        "price_change_percentage_7d_in_currency": 3.0,
        **fields,
    }  # fmt: skip


def wait_for_http(url, *, seconds=30):
    """Return once `url` answers; fails after so many seconds."""
    for _ in range(10 * seconds):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer within {seconds} s")


def all_runs(store):
    return store.search_runs([e.experiment_id for e in store.search_experiments()])


def parents(store):
    return [run for run in all_runs(store) if "mlflow.parentRunId" not in run.data.tags]


def children(store, parent):
    condition = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    return store.search_runs([parent.info.experiment_id], condition)


@pytest.fixture(scope="session")
def complete(tmp_path_factory, empty_store):
    """One small run through the whole job, to be looked at: `(client, parent run)`."""
    folder = tmp_path_factory.mktemp("complete")
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_EXPERIMENT_ID", "")  # put back when the job has set it
        patch.delenv("MLFLOW_EXPERIMENT_ID")
        assert train.main(SMALL) == 0
    client = mlflow.MlflowClient(uri)
    (parent,) = parents(client)
    return client, parent


@pytest.fixture
def free_port():
    return free_port_number()


def free_port_number():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MlflowServer:
    """A real `mlflow server` over the folder's mlflow.db, up for the time of a with block, in
    which it can be stopped, started again and held still.
    """

    def __init__(self, folder):
        self._folder = folder
        self._port = free_port_number()
        self._process = None
        self.uri = f"http://127.0.0.1:{self._port}"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, start_new_session=True,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )  # fmt: skip
        wait_for_http(f"{self.uri}/health", seconds=120)

    def stop(self, number=signal.SIGTERM):
        if self._process:
            self._signal(signal.SIGCONT)
            self._signal(number)
            self._process.wait(20)
            self._process = None

    def hang(self):
        """From now on it accepts connections and never answers."""
        self._signal(signal.SIGSTOP)

    def wake(self):
        self._signal(signal.SIGCONT)

    def _signal(self, number):
        os.killpg(self._process.pid, number)


@pytest.fixture
def start_serve(tmp_path, complete, free_port):
    """Start `python -m serve` over the registry of a finished run; returns the process."""
    client, _ = complete
    servers = []

    def start(*options, wait=True, **settings):
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": client.tracking_uri,
            "PYTHONPATH": str(PROJECT),
            "LIQUIDITY_CACHE_DIR": str(tmp_path / "cache"),
            "LIQUIDITY_REFRESH_SECONDS": "0.2",
        }
        command = [sys.executable, "-m", "serve", "--port", str(free_port), *options]
        with (tmp_path / "log").open("a") as log:
            server = subprocess.Popen(
                command, cwd=tmp_path, env=environment | settings, stdout=log, stderr=log
            )
        server.url = f"http://127.0.0.1:{free_port}"
        server.log = tmp_path / "log"
        servers.append(server)
        if wait:
            wait_for_http(f"{server.url}/health")
        return server

    yield start
    for server in servers:
        if server.poll() is None:
            server.terminate()
        server.wait(10)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, or a skip; where CI requires it, a failure."""
    chromium = "/usr/bin/chromium"
    if not os.path.exists(chromium):
        message = f"no browser at {chromium}; apt-get install chromium"
        if os.environ.get("LIQUIDITY_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    return browser.new_page()
