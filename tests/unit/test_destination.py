"""Where a training's run and files go, refused before anything is written where they cannot."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from support import SMALL, all_runs

import train
from liquidity.contract import CHAMPION_URI
from liquidity.errors import ModelError, SettingsError, TrackingError
from liquidity.model.loading import load_model
from liquidity.processes import process_tag
from liquidity.runs.destination import check_destination, check_files
from liquidity.runs.records import PROCESS


def test_a_run_that_has_ended_is_not_written_into(store, monkeypatch, capsys):
    """MLFLOW_RUN_ID was left set: the old run would become FAILED, with foreign metrics."""
    run = store.create_run("0")
    store.log_metric(run.info.run_id, "theirs", 1)
    store.set_terminated(run.info.run_id)
    before = store.get_run(run.info.run_id).to_dictionary()
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    assert train.main(SMALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"train.py: MLFLOW_RUN_ID: the run {run.info.run_id} is FINISHED, and a training would "
        "write into it: unset MLFLOW_RUN_ID."
    )
    assert store.get_run(run.info.run_id).to_dictionary() == before
    assert len(all_runs(store)) == 1


def deleted(store):
    run_id = store.create_run("0").info.run_id
    store.delete_run(run_id)
    return run_id


def anothers(store):
    return store.create_run("0", tags={PROCESS: process_tag()}).info.run_id


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (deleted, "is deleted, and a training would"),
        (anothers, "is another training's: unset"),
        (lambda store: "f" * 32, "not found: unset MLFLOW_RUN_ID"),
    ],
)
def test_a_run_that_was_not_made_for_this_job_is_refused(store, monkeypatch, make, said):
    monkeypatch.setenv("MLFLOW_RUN_ID", make(store))
    with pytest.raises(SettingsError, match=f"^MLFLOW_RUN_ID: .*{said}"):
        check_destination("e")


def test_a_run_that_mlflow_run_made_is_taken(store, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_RUN_ID", store.create_run("0").info.run_id)
    assert check_destination("e").files == store.get_experiment("0").artifact_location


def test_a_deleted_experiment_is_said_with_the_cure(store):
    gone = store.create_experiment("gone")
    store.delete_experiment(gone)
    with pytest.raises(SettingsError, match=f"restore --experiment-id {gone}"):
        check_destination("gone")


def test_files_of_a_new_experiment_go_to_the_working_folder(store, tmp_path):
    assert check_destination("new").files == str(tmp_path / "mlruns")
    assert not (tmp_path / "mlruns").exists()
    assert store.get_experiment_by_name("new") is None
    mlflow.set_experiment("new")
    assert Path(check_destination("new").files).parent == tmp_path / "mlruns"


def test_a_folder_that_cannot_be_written_to_is_said_before_there_is_a_run(
    store, monkeypatch, capsys
):
    """MLflow would make an experiment whose files go there for ever, from other folders too."""
    monkeypatch.chdir("/proc")
    assert train.main(SMALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "The files of the run would go to /proc/mlruns, and /proc cannot be written to" in line
    assert store.get_experiment_by_name(train.EXPERIMENT) is None
    store.create_experiment("stuck", artifact_location="/proc/mlruns/1")
    with pytest.raises(TrackingError, match=r"make it writable, or train into another experiment"):
        check_destination("stuck")


def test_a_project_that_was_moved_says_where_its_files_should_be(
    complete, tmp_path, monkeypatch, capsys
):
    """MLflow keeps absolute paths, and would start anew where the project was."""
    client, _ = complete
    before = Path(client.tracking_uri.removeprefix("sqlite:///")).parent
    shutil.copytree(before, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/moved/mlflow.db")
    with closing(sqlite3.connect("mlflow.db")) as database:  # as if it were no copy
        for table, column in (
            ("experiments", "artifact_location"),
            ("logged_models", "artifact_location"),
            ("model_versions", "storage_location"),
        ):
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                [str(before), str(tmp_path / "away")],
            )
        database.commit()
    with pytest.raises(ModelError, match=r"away/mlruns/\S+, which is not there: put the folder ba"):
        load_model(CHAMPION_URI)
    assert train.main(SMALL) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"keeps its files in {tmp_path}/away/mlruns/1, which is not there" in line
    assert not (tmp_path / "away").exists()
    (tmp_path / "away").symlink_to(tmp_path / "moved")
    load_model(CHAMPION_URI)
    assert check_destination(train.EXPERIMENT).files == f"{tmp_path}/away/mlruns/1"


def test_models_of_another_store_and_unknown_ones_are_left_to_who_loads_them(store):
    for uri in ("models:/nobody@champion", "nonsense", "models:/a/1"):
        check_files(uri)
