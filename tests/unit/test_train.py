"""The job as its user runs it: whole runs, bad input, and every way to stop it."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from multiprocessing import active_children
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from support import (
    GOOD,
    METRICS,
    PROJECT,
    SAMPLE,
    SMALL,
    Job,
    all_runs,
    children,
    parents,
    scores,
    use_copy,
    wait_for_trials,
)

import train
from liquidity import executors
from liquidity.executors.local import local_executor
from liquidity.runs import addresses

# About ten seconds of search, to be interrupted.
LONG = ["--data", str(SAMPLE), "--n-estimators", "20,40", "--min-samples-split", "2,3,4,5,6,7"]


def test_a_run_holds_all_that_the_contract_names(complete):
    client, parent = complete
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics.keys() >= METRICS
    assert all(np.isfinite(value) for value in parent.data.metrics.values())
    assert parent.data.metrics["trials"] == 4
    assert parent.data.metrics["rows_read"] == 1200
    assert parent.data.params["n_estimators"] == "3,6"
    assert parent.data.tags.keys() >= {"search_key", "data_digest", "scikit_learn_version"}
    datasets = parent.inputs.dataset_inputs
    assert [(each.dataset.name, each.tags[0].value) for each in datasets] == [
        ("train", "training"), ("test", "test")
    ]  # fmt: skip
    described = json.loads(datasets[0].dataset.schema)["mlflow_colspec"]
    assert [column["name"] for column in described][-2:] == ["price", "liquidity"]
    assert json.loads(datasets[0].dataset.profile)["num_rows"] == 927
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names == {"cleaned_data.csv", "cleaning.json", "figures", "trials.csv"}
    assert len(client.list_artifacts(parent.info.run_id, "figures")) == 7


def test_a_run_says_what_it_is_and_what_it_is_worth(complete):
    client, parent = complete
    r2 = parent.data.metrics["test_r2"]
    assert parent.info.run_name == f"sample.csv: test r2 {r2:.4f}, 4 trials"
    note = parent.data.tags["mlflow.note.content"]
    first, _, conclusion, *_ = note.splitlines()
    assert first.startswith("**[crypto-liquidity version 1](#/models/crypto-liquidity/versions/1) ")
    assert " is champion** | [Trials by r2](#/experiments/" in first
    assert all(child.info.run_id in first for child in children(client, parent))
    assert conclusion.startswith(f"The forest explains {r2:.0%} of how the test rows differ")
    for part in ("| untuned forest | ", "The best of 4 trials", "there was no champion."):
        assert part in note
    # MLflow's page lists them in the order in which they came.
    assert next(iter(parent.data.metrics)) == "best_r2"
    tags = [tag for tag in parent.data.tags if not tag.startswith("mlflow.")]
    assert tags[-2:] == ["search_key", "process"]


def test_a_version_and_its_name_say_what_they_are(complete):
    client, _ = complete
    (version,) = client.search_model_versions("name = 'crypto-liquidity'")
    assert re.fullmatch(
        r"Test r2 [\d.]+, log r2 [\d.]+, the 90 % interval holds \d+%; trained on 927 rows of 233 "
        r"coins of sample\.csv, 2022-03-16 to 2022-03-19, tested on 265\. Registered as champion: "
        r"there was no champion\.",
        version.description,
    )
    said = client.get_registered_model("crypto-liquidity").description
    assert "Inputs: 24h_volume, mkt_cap, 1h, price." in said
    assert "`models:/crypto-liquidity@champion`" in said


def test_every_trial_is_a_complete_child(complete):
    client, parent = complete
    found = children(client, parent)
    assert len(found) == 4
    for child in found:
        assert child.info.status == "FINISHED"
        assert child.data.params.keys() == {"n_estimators", "max_depth", "min_samples_split"}
        assert child.data.metrics.keys() == {
            "r2", "r2_std", "r2_fold_1", "r2_fold_2", "r2_fold_3", "rank", "fit_seconds"
        }  # fmt: skip
    assert max(c.data.metrics["r2"] for c in found) == parent.data.metrics["best_r2"]


def test_the_cleaned_table_goes_with_the_run(complete):
    client, parent = complete
    table = pd.read_csv(client.download_artifacts(parent.info.run_id, "cleaned_data.csv"))
    assert list(table) == [
        "date", "coin", "24h_volume", "mkt_cap", "1h", "price",
        "liquidity", "liquidity_level", "set",
    ]  # fmt: skip
    assert len(table) == parent.data.metrics["rows_used"]
    sides = table.groupby("coin")["set"].nunique()
    assert (sides == 1).all(), "a coin stands on both sides"


def test_the_champion_loads_and_scores(complete):
    client, _ = complete
    version = client.get_model_version_by_alias("crypto-liquidity", "champion")
    model = mlflow.pyfunc.load_model(
        client.get_model_version_download_uri(version.name, version.version)
    )
    scored = model.predict(pd.DataFrame([GOOD, GOOD | {"24h_volume": 1e9}]))
    assert scored["level"].tolist() == ["Low", "High"]
    assert scored["liquidity"].is_monotonic_increasing


def test_the_summary_says_what_was_found_and_what_to_do(complete):
    client, parent = complete
    text = Path(client.tracking_uri.removeprefix("sqlite:///")).with_name("output.txt").read_text()
    for part in (
        "1,192 of 1,200 rows of 1 file(s) used; dropped: 8 unknown 24h_volume",
        "Trials 4/4", "The best of 4 trials", "24h_volume / mkt_cap", "untuned forest",
        "Registered crypto-liquidity version 1 as champion: there was no champion.",
        "mlflow ui --port 5001", "above the mean of the training rows", "divide where you know",
        "Reading ", "Trials 1/4",
    ):  # fmt: skip
        assert part in text
    for path in (addresses.table_path(parent), addresses.charts_path(parent)):
        assert re.search(rf"  http://127.0.0.1:5001/{re.escape(path)}$", text, re.MULTILINE)


def test_a_repeat_of_a_finished_run_fits_afresh(
    complete, tmp_path, monkeypatch, empty_store, without_figures
):
    database = complete[0].tracking_uri.removeprefix("sqlite:///")
    with use_copy(database, tmp_path, monkeypatch) as store:
        assert train.main(SMALL) == 0
        repeat, first = parents(store)
        assert first.info.run_id == complete[1].info.run_id
        assert scores(store, repeat) == scores(*complete)
        assert not any("resumed_from" in child.data.tags for child in children(store, repeat))


@pytest.mark.parametrize("split", ["random", "date"])
def test_the_other_splits_train_too(store, without_figures, split):
    assert train.main([*SMALL, "--split", split]) == 0
    assert parents(store)[0].data.metrics["rows_used"] == 1192


def test_trimming_is_counted(store, without_figures):
    assert train.main([*SMALL, "--outliers", "iqr"]) == 0
    (parent,) = parents(store)
    cleaning = mlflow.artifacts.load_dict(f"{parent.info.artifact_uri}/cleaning.json")
    assert cleaning["dropped"]["outlier"] > 100
    assert cleaning["rows_used"] == parent.data.metrics["rows_used"]


WINNER = ["--max-depth", "none", "--min-samples-split", "2"]


@pytest.mark.parametrize(
    ("options", "trials"),
    [(WINNER, 3), pytest.param([], 27, marks=pytest.mark.soak)],
    ids=["the winner's sizes", "the whole grid"],
)
def test_the_reference_results_come_out_to_the_last_digit(
    store, real_data, without_figures, options, trials
):
    data = str(real_data / "seed/data_with_liquidity.csv")
    assert train.main(["--data", data, "--split", "random", *options]) == 0
    (parent,) = parents(store)
    metrics, params = parent.data.metrics, parent.data.params
    assert metrics["trials"] == len(children(store, parent)) == trials
    assert metrics["best_r2"] == pytest.approx(0.9606031159732608, abs=1e-12)
    assert metrics["test_r2"] == pytest.approx(0.9677326294195632, abs=1e-12)
    winner = {name: params[f"best_{name}"] for name in ("max_depth", "min_samples_split")}
    assert winner == {"max_depth": "None", "min_samples_split": "2"}
    assert params["best_n_estimators"] == "200"


BAD_ARGUMENTS = [
    (["--split", "time"], "--split: invalid choice: 'time'"),
    (["--promote", "maybe"], "--promote: invalid choice: 'maybe'"),
    (["--outliers", "some"], "--outliers: invalid choice"),
    (["--test-size", "0"], "--test-size: expected a share between 0 and 1, got '0'"),
    (["--test-size", "1.5"], "--test-size: expected a share"),
    (["--test-size", "nan"], "--test-size: expected a share"),
    (["--test-size", "x"], "--test-size: expected a share"),
    (["--max-samples", "0"], "--max-samples: expected a share above 0, at most 1, got '0'"),
    (["--max-samples", "1.5"], "--max-samples: expected a share"),
    (["--max-samples", "nan"], "--max-samples: expected a share"),
    (["--max-samples", "x"], "--max-samples: expected a share"),
    (["--cv", "1"], "--cv: expected a whole number >= 2, got '1'"),
    (["--cv", "2.5"], "--cv: expected a whole number"),
    (["--n-jobs", "0"], "--n-jobs: expected -1 or a whole number >= 1"),
    (["--random-state", "-1"], "--random-state: expected"),
    (["--n-estimators", "0"], "n_estimators: expected whole numbers >= 1"),
    (["--n-estimators=-3"], "n_estimators: expected whole numbers >= 1"),
    (["--max-depth", "abc"], "max_depth: expected whole numbers >= 1 or none"),
    (["--min-samples-split", ""], "min_samples_split: expected whole numbers >= 2"),
    (["--model-name", "a/b"], "--model-name: expected a name without / and :"),
    (["--model-name", " "], "--model-name: expected a name"),
    (["--n-estimators", "5,5"], "n_estimators: '5' is given twice in '5,5'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_a_wrong_argument_is_one_sentence_and_no_run(store, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        train.main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not all_runs(store)


BAD_DATA = [
    ("nothing.csv", None, [], "no such file"),
    ("folder", None, [], "holds no snapshot"),
    ("empty.csv", "", [], "cannot be read as CSV"),
    ("header.csv", "{header}", [], "a header but no rows"),
    (
        "column.csv",
        "coin,date\na,2022-03-16\n",
        [],
        "columns 24h_volume, mkt_cap, 1h, price: missing",
    ),
    ("text.csv", "{header}a,2022-03-16,x,1,1,0\n", [], "column price: expected a number"),
    ("infinite.csv", "{header}a,2022-03-16,inf,1,1,0\n", [], "column price: expected a finite"),
    ("cap.csv", "{header}a,2022-03-16,1,1,-1,0\n", [], "column mkt_cap: expected a number >= 0"),
    ("volume.csv", "{header}a,2022-03-16,1,-1,1,0\n", [], "column 24h_volume: expected"),
    ("dropped.csv", "{header}a,2022-03-16,1,1,0,0\n", [], "1 mkt_cap 0"),
    ("few.csv", "{rows}", ["--split", "random"], "cv=5 folds with split=random need"),
    ("share.csv", "{rows}", ["--split=random", "--cv=2", "--max-samples=0.1"], "draws no row"),
    ("coins.csv", "{rows}", ["--cv", "6"], "cv=6 folds with split=coin need at least 6 coins"),
    ("date.csv", "{rows}", ["--split", "date"], "split=date needs at least 3 dates"),
    ("no.parquet", "coin,date", [], "cannot be read as Parquet"),
]


@pytest.mark.parametrize(("name", "content", "more", "message"), BAD_DATA)
def test_bad_data_is_exit_2_and_no_run(store, tmp_path, capsys, name, content, more, message):
    header = "coin,date,price,24h_volume,mkt_cap,1h\n"
    rows = header + "".join(f"coin {n},2022-03-16,1,1,{n + 1},0\n" for n in range(6))
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_text(content.format(header=header, rows=rows))
    assert train.main(["--data", name, *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not all_runs(store)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/no/mlflow.db"])
def test_a_store_that_cannot_be_used_is_exit_2(store, monkeypatch, capsys, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert train.main(SMALL) == 2
    assert uri in capsys.readouterr().err


@pytest.mark.parametrize("installed", [True, False])
def test_a_cluster_that_cannot_be_used_is_exit_2_and_no_run(store, monkeypatch, capsys, installed):
    if not installed:
        monkeypatch.setitem(sys.modules, "distributed", None)
    assert train.main([*SMALL, "--scheduler", "nonsense"]) == 2
    said = "No Dask scheduler answers at 'nonsense'"
    if not installed:
        said = "Dask is not installed here: run pip install '.[cluster]' in this project's folder."
    assert said in capsys.readouterr().err
    assert not all_runs(store)


def test_a_failure_on_the_way_marks_the_run_failed_and_registers_nothing(
    store, monkeypatch, capsys
):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mlflow, "log_artifacts", full)
    assert train.main(SMALL) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert [parent.info.status for parent in parents(store)] == ["FAILED"]
    assert not store.search_registered_models()
    monkeypatch.undo()


def test_a_failure_at_the_start_speaks_of_no_trials(store, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mlflow, "log_artifact", full)
    assert train.main(SMALL) == 1
    error = capsys.readouterr().err
    assert error == "train.py: failed: OSError: [Errno 28] No space left on device.\n"


def test_a_worker_that_is_killed_keeps_the_finished_trials(store, monkeypatch, capfd):
    others, log_trial = set(active_children()), train.tracking.log_trial

    def kill(*args, **options):
        log_trial(*args, **options)
        for worker in list(set(active_children()) - others)[:1]:
            os.kill(worker.pid, signal.SIGKILL)

    monkeypatch.setattr(executors, "local_executor", local_executor)  # workers of its own
    monkeypatch.setattr(train.tracking, "log_trial", kill)
    assert train.main(LONG) == 1
    *_, last = capfd.readouterr().err.splitlines()
    assert last.endswith(
        "lower --n-jobs or the grid. Finished trials are kept: the same command goes on from them."
    )
    (parent,) = parents(store)
    statuses = [child.info.status for child in children(store, parent)]
    assert (parent.info.status, "FINISHED" in statuses) == ("FAILED", True)


def test_a_database_that_fails_on_the_way_is_one_message(store, tmp_path, monkeypatch, capfd):
    log_trial = train.tracking.log_trial

    def without_tables(*args, **options):
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
            database.execute("ALTER TABLE runs RENAME TO away")
        log_trial(*args, **options)

    monkeypatch.setattr(train.tracking, "log_trial", without_tables)
    assert train.main(SMALL) == 1
    error = capfd.readouterr().err
    assert "train.py: failed: MlflowException: no such table: runs." in error
    assert error.endswith("Finished trials are kept: the same command goes on from them.\n")
    assert "Traceback" not in error


def assert_stopped(store, parent, code, output):
    assert code == 130, output
    assert output.splitlines()[-1] == (
        "train.py: stopped. Finished trials are kept: the same command goes on from them."
    )
    assert "Traceback" not in output
    assert store.get_run(parent.info.run_id).info.status == "KILLED"
    statuses = [child.info.status for child in children(store, parent)]
    assert set(statuses) <= {"FINISHED", "KILLED"}
    assert statuses.count("FINISHED") >= 2
    assert not store.search_registered_models()


def test_ctrl_c_keeps_finished_trials_and_kills_the_run(store, tmp_path):
    job = Job(tmp_path, *LONG, "--n-jobs", "1")  # each worker takes seconds to start
    process = job.start()
    parent = wait_for_trials(job, 2)
    os.killpg(process.pid, signal.SIGINT)  # the whole group, as a terminal's Ctrl-C does
    os.killpg(process.pid, signal.SIGTERM)  # and a second one, as `mlflow run` sends
    output, _ = process.communicate(timeout=180)
    assert_stopped(store, parent, process.returncode, output)


def test_sigterm_keeps_finished_trials_and_kills_the_run(store, monkeypatch, capfd):
    log_trial = train.tracking.log_trial
    logged = []

    def stop(*args, **options):
        logged.append(log_trial(*args, **options))
        if len(logged) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train.tracking, "log_trial", stop)
    code = train.main(SMALL)
    (parent,) = parents(store)
    assert_stopped(store, parent, code, "".join(capfd.readouterr()))


@pytest.fixture(scope="module")
def stopped_store(tmp_path_factory, empty_store):
    """A store with a search that was stopped after its last trial, to copy."""
    folder = tmp_path_factory.mktemp("stopped")

    def stop(*args):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, use_copy(empty_store, folder, patch):
        patch.setattr(train.training_log, "log_search", stop)
        assert train.main(SMALL) == 130
    return folder / "mlflow.db"


@pytest.fixture
def stopped(stopped_store, tmp_path, monkeypatch, without_figures):
    """The test's copy of it."""
    with use_copy(stopped_store, tmp_path, monkeypatch) as client:
        yield client


def test_a_larger_grid_takes_over_what_a_smaller_one_finished(stopped):
    larger = [*SMALL[:3], "3,6,9", *SMALL[4:]]
    assert train.main(larger) == 0
    finished = next(p for p in parents(stopped) if p.info.status == "FINISHED")
    taken = [c for c in children(stopped, finished) if "resumed_from" in c.data.tags]
    assert (len(taken), len(children(stopped, finished))) == (4, 6)


def test_a_search_killed_after_its_last_trial_has_nothing_left_to_fit(stopped):
    assert train.main(SMALL) == 0
    finished = next(p for p in parents(stopped) if p.info.status == "FINISHED")
    assert [("resumed_from" in c.data.tags) for c in children(stopped, finished)] == [True] * 4


def mlflow_run(*settings):
    """`mlflow run` of this project, with the python that runs the tests."""
    command = [sys.executable, "-m", "mlflow", "run", str(PROJECT), "--env-manager", "local"]
    for setting in settings:
        command += ["-P", setting]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def test_mlflow_run_runs_the_project(store):
    done = mlflow_run(
        "n_estimators=3,6", "max_depth=4", "min_samples_split=2", "cv=3.0", "test_size=0.30",
        "max_samples=0.50", "n_jobs=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "Loading the libraries"
    (parent,) = parents(store)
    assert re.fullmatch(r"sample\.csv: test r2 [\d.]+, 2 trials", parent.info.run_name)
    assert parent.info.status == "FINISHED"
    assert len(children(store, parent)) == 2
    assert parent.data.params["test_size"] == "0.30"
    import skops.io  # which takes seconds, and no other test needs it

    uri = "models:/crypto-liquidity@champion/artifacts/pipeline.skops"
    pipeline = mlflow.artifacts.download_artifacts(uri)
    trusted = skops.io.get_untrusted_types(file=pipeline)
    assert skops.io.load(pipeline, trusted=trusted)[-1].max_samples == 0.5


def test_mlflow_run_with_bad_input_fails_with_the_sentence(store):
    done = mlflow_run("data=nothing here.csv")
    assert done.returncode == 1
    assert "train.py: nothing here.csv: no such file" in done.stderr
    assert [parent.info.status for parent in parents(store)] == ["FAILED"]


def test_a_doubt_about_the_data_is_said_before_the_search(write_csv, capsys):
    lines = [f"2022-03-16,c{n},C,1,2.5,5,9" for n in range(30)]
    _, cleaning = train.read_market(write_csv(*lines, name="[red]market.csv"))
    train.summary.print_read(Console(), cleaning)
    out = capsys.readouterr().out
    assert "Warning: " in out
    assert "[red]market.csv, column 1h: half of the changes are beyond 2.5" in out
    assert "are these percent?" in out
