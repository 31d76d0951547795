"""A store that an earlier version of this project has made goes on being used."""

import os
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import train
from liquidity.model import gate
from liquidity.model.loading import SAME_DAY, load_champion, load_model
from serve.app import close_app, create_app

ARCHIVE = Path(__file__).with_name("store_of_2026_11.tar.xz")
CHAMPION = "models:/crypto-liquidity@champion"
PROJECT = Path(__file__).parents[2]
SAMPLE = str(PROJECT / "data/sample.csv")
ROW = {"24h_volume": 1e7, "mkt_cap": 1e8, "1h": 0.01, "price": 1.0}
# What the version that made the store answered to it.
SCORE = {
    "liquidity": 0.1482165635203782, "level": "Low", "lower": 0.023712832718598687,
    "upper": 0.899972506161714, "in_range": True,
}  # fmt: skip


@pytest.fixture
def old_store(store, tmp_path):
    """The store of a training of November 2026, format 2, unpacked where this test runs."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    database = sqlite3.connect(tmp_path / "mlflow.db")
    places = {
        "experiments": "artifact_location", "runs": "artifact_uri",
        "logged_models": "artifact_location", "model_versions": "storage_location",
    }  # fmt: skip
    for table, column in places.items():
        database.execute(f"UPDATE {table} SET {column} = replace({column}, '/PLACE', '{tmp_path}')")
    database.commit()
    database.close()
    return store


def test_the_old_code_is_still_known(old_store):
    assert len(SAME_DAY.code) >= 2
    assert load_model(CHAMPION).metadata["format"] == 2 < SAME_DAY.newest_format


def test_an_old_champion_scores_as_it_did(old_store):
    assert load_champion().answer_row(list(ROW.values())) == SCORE


def test_an_old_champion_is_served_on_the_page_and_to_programs(old_store, tmp_path):
    app = create_app({"CACHE_DIR": str(tmp_path / "cache")})
    try:
        client = app.test_client()
        answer = client.post("/predict", json=ROW).get_json()
        assert answer["liquidity"] == SCORE["liquidity"]
        page = client.post("/predict", data=ROW).get_data(as_text=True)
        assert "90 % interval" in page
        assert "High is above 0.5" in page
        model = client.get("/model").get_json()
        assert model["target"] == "liquidity = 24h_volume / mkt_cap of the same snapshot"
    finally:
        close_app(app)


def test_a_champion_keeps_its_own_threshold_and_coverage_where_the_constants_change(
    old_store, tmp_path
):
    """Changed constants made every registered champion unusable once: refused, deleted, not
    compared. In a process of its own, for others have imported the constants as they are.
    """
    result = subprocess.run(
        [sys.executable, "-c", CHANGED, SAMPLE, str(tmp_path / "cache")],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]


CHANGED = """
import sys
from liquidity import contract
contract.THRESHOLD, contract.COVERAGE = 0.4, 0.8
from liquidity.processes import loading
with loading():
    from serve.app import close_app, create_app
    import mlflow, train
train.training_log.log_figures = lambda figures: None  # a third of the training
sample, cache = sys.argv[1:]
small = ["--n-estimators", "20", "--max-depth", "none", "--min-samples-split", "2", "--cv", "3"]
small += ["--n-jobs", "1"]  # each worker takes seconds to start
assert train.main(["--data", sample, *small, "--promote", "auto"]) == 0
version = mlflow.MlflowClient().get_model_version("crypto-liquidity", "2")
assert "champion version 1: r2" in version.tags["gate.reason"], version.tags["gate.reason"]
row = {"24h_volume": 1e7, "mkt_cap": 1e8, "1h": 0.01, "price": 1.0}
for number, threshold, share in (("1", 0.5, "90 %"), ("2", 0.4, "80 %"), ("1", 0.5, "90 %")):
    uri = f"models:/crypto-liquidity/{number}"
    app = create_app({"MODEL_URI": uri, "CACHE_DIR": cache})
    client = app.test_client()
    page = client.post("/predict", data=row).get_data(as_text=True)
    assert f"High is above {threshold}" in page and f"{share} interval" in page, page
    model = client.get("/model").get_json()
    assert (model["threshold"], model["version"]) == (threshold, number)
    document = client.get("/openapi.json").get_data(as_text=True)
    assert share in document and ("90 %" in document) == (share == "90 %")
    close_app(app)
"""


def test_the_gate_compares_with_an_old_champion(old_store, without_figures):
    small = ["--n-estimators", "20", "--max-depth", "none", "--min-samples-split", "2", "--cv", "3"]
    assert train.main(["--data", SAMPLE, *small]) == 0
    version = old_store.get_model_version("crypto-liquidity", "2")
    assert "champion version 1: r2" in version.tags["gate.reason"]
    assert int(version.tags["gate.rows"]) >= gate.LEAST_ROWS
