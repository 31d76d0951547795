"""Real stores in temporary folders, the real market data, and the sample."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest

import train
from liquidity.features import build_table
from liquidity.market import read_market

PROJECT = Path(__file__).parents[1]
SAMPLE = PROJECT / "data/sample.csv"
# A whole job in four seconds.
SMALL = ["--data", str(SAMPLE), "--n-estimators", "3,6", "--max-depth", "none,4"]
SMALL += ["--min-samples-split", "2", "--cv", "3"]
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
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):  # mlflow.set_experiment sets one
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    yield mlflow.MlflowClient()
    assert mlflow.active_run() is None, "a test left a run open"


@pytest.fixture(scope="session")
def sample_table():
    return build_table(read_market(SAMPLE)[0])


@pytest.fixture
def write_csv(tmp_path):
    """Write lines as a CSV file; `header` unless told otherwise."""
    columns = "date,coin,symbol,price,1h,24h_volume,mkt_cap"

    def write(*lines, name="market.csv", header=columns):
        path = tmp_path / name
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    return write


def wait_for_http(url):
    """Return once `url` answers; fails after half a minute."""
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer within half a minute")


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
