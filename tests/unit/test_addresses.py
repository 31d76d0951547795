"""Where MLflow's page is, for every kind of store, and the views that are saved for it."""

import json

import mlflow
import pytest

from liquidity.report.summary import looking
from liquidity.runs import addresses

LOCAL = "http://127.0.0.1:5001/"


@pytest.mark.parametrize(
    ("uri", "address", "command"),
    [
        ("http://host:5000", "http://host:5000/", None),
        ("https://me:secret@host/mlflow/", "https://host/mlflow/", None),
        ("sqlite:////a b/m.db", LOCAL, "mlflow ui --port 5001 --backend-store-uri "
         "'sqlite:////a b/m.db'"),
        ("postgresql://me:secret@host/db", LOCAL, "mlflow ui --port 5001 --backend-store-uri "
         '"$MLFLOW_TRACKING_URI"'),
        ("postgresql://host/db", LOCAL, "mlflow ui --port 5001 --backend-store-uri "
         "postgresql://host/db"),
    ],
)  # fmt: skip
def test_the_page_is_the_stores_own_or_one_to_start(monkeypatch, uri, address, command):
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    assert addresses.mlflow_page() == (address, command)
    lines = looking(addresses.mlflow_page(), {"a run": "#/x", "it": "#/y"})
    assert lines == [
        f"Look:   {command}, then" if command else "Look:",
        f"  a run  {address}#/x",
        f"  it     {address}#/y",
    ]


def test_a_store_in_the_working_folder_is_found_from_another_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "sqlite:///mlflow.db")
    assert f"sqlite:///{tmp_path}/mlflow.db" in addresses.mlflow_page().command


def view_of(store, run):
    tags = store.get_experiment(run.info.experiment_id).tags
    return json.loads(tags[f"mlflow.sharedViewState.{run.info.run_id}"])


@pytest.mark.parametrize(("depths", "drawn"), [([4, 5], True), ([None, 5], False)])
def test_params_are_drawn_where_mlflow_leaves_no_trial_out(store, depths, drawn):
    """Its picture of runs by their params has none whose depth is None."""
    run = store.create_run("0")
    grid = {"max_depth": depths, "n_estimators": [3]}
    addresses.save_view(run, metrics=["r2", "rank"], drawn=["r2"], grid=grid)
    view = view_of(store, run)
    assert [chart["type"] for chart in view["compareRunCharts"]] == ["PARALLEL"] * drawn + ["BAR"]
    assert view["selectedColumns"] == [
        "metrics.`r2`", "metrics.`rank`", "params.`max_depth`", "params.`n_estimators`"
    ]  # fmt: skip


def test_a_view_that_may_not_be_saved_ends_no_training(store, monkeypatch):
    run = store.create_run("0")

    def refuse(*args):
        raise mlflow.exceptions.MlflowException("no")

    monkeypatch.setattr(mlflow.MlflowClient, "set_experiment_tag", refuse)
    addresses.save_view(run, metrics=["r2"], drawn=["r2"], grid={})
