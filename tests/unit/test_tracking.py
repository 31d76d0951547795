"""Runs in a real store: what is written, what a crash leaves, what is taken over."""

import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress

import mlflow
import psutil
import pytest
import sqlalchemy
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from support import PROJECT

from liquidity.processes import _started, is_alive, place, process_tag
from liquidity.runs import records, tracking
from liquidity.runs.records import PROCESS, SEARCH_KEY, now
from liquidity.runs.recovery import close_dead_runs, finished_trials
from liquidity.runs.tracking import (
    _is_made_up,
    log_ranks,
    log_trial,
    parent_run,
    rename,
    source_name,
)
from liquidity.search.grid import Trial

TAGS = {SEARCH_KEY: "abc"}


def trial(trees=10, scores=(0.5, 0.7), seconds=0.25):
    params = {"max_depth": None, "min_samples_split": 2, "n_estimators": trees}
    return Trial(params, scores, seconds)


def parent(**tags):
    return parent_run(experiment="e", params={"cv": 2}, tags=TAGS | tags)


def interrupted(*trials):
    """A parent run that logs the trials and then fails."""
    try:
        with parent() as run:
            for each in trials:
                log_trial(run, each)
            raise OSError("stop")
    except OSError:
        return run


def runs(store, condition=""):
    experiments = [e.experiment_id for e in store.search_experiments()]
    return store.search_runs(experiments, condition)


def children(store):
    return runs(store, "tags.mlflow.parentRunId != ''")


def dead_process_tag():
    """The tag of a process that has ended."""
    code = "from liquidity.processes import process_tag; print(process_tag())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    return done.stdout.strip()


def test_a_trial_is_a_finished_child_with_the_contracts_names(store):
    with parent() as run:
        log_trial(run, trial())
        (child,) = children(store)
        assert child.info.status == "FINISHED", "while the parent still runs"
        log_ranks(run, [trial()])
    (child,) = children(store)
    assert child.data.params == {
        "max_depth": "None", "min_samples_split": "2", "n_estimators": "10"
    }  # fmt: skip
    assert child.data.metrics == {
        "r2": 0.6, "r2_std": pytest.approx(0.1), "r2_fold_1": 0.5, "r2_fold_2": 0.7,
        "fit_seconds": 0.25, "rank": 1,
    }  # fmt: skip
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert child.data.tags["mlflow.user"]
    assert child.info.end_time - child.info.start_time == 250


def test_a_clock_that_steps_back_gives_no_negative_duration(store, monkeypatch):
    with parent() as run:
        monkeypatch.setattr(tracking, "now", lambda: run.info.start_time - 3_600_000)
        log_trial(run, trial())
        monkeypatch.setattr(time, "time", lambda: run.info.start_time / 1000 - 3600)
    for each in runs(store):
        assert each.info.end_time >= each.info.start_time


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (KeyboardInterrupt, "KILLED"), (OSError, "FAILED")]
)
def test_the_parent_always_ends(store, error, status):
    try:
        with parent() as run:
            if error:
                raise error
    except (KeyboardInterrupt, OSError):
        pass
    assert store.get_run(run.info.run_id).info.status == status


def test_a_trial_that_was_being_written_ends_with_its_parent(store, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    try:
        with parent() as run:
            monkeypatch.setattr(mlflow.MlflowClient, "log_batch", stop)
            log_trial(run, trial())
    except KeyboardInterrupt:
        pass
    assert [child.info.status for child in children(store)] == ["KILLED"]
    assert not finished_trials("abc", folds=2)


def test_a_trial_whose_creation_was_sent_twice_is_no_second_finished_trial(store):
    with parent() as run:
        log_trial(run, trial())
        # The server wrote it, died before it could say so, and was asked again.
        store.create_run(run.info.experiment_id, tags={"mlflow.parentRunId": run.info.run_id})
    assert sorted(child.info.status for child in children(store)) == ["FAILED", "FINISHED"]


def test_a_model_that_was_being_written_fails_with_its_run(store):
    with suppress(KeyboardInterrupt), parent() as run:
        model = store.create_logged_model(run.info.experiment_id, source_run_id=run.info.run_id)
        raise KeyboardInterrupt
    assert store.get_logged_model(model.model_id).status == LoggedModelStatus.FAILED


def test_a_model_that_a_killed_run_left_half_written_is_closed(store):
    lost = store.create_run("0", tags=TAGS | {PROCESS: dead_process_tag()})
    half = store.create_logged_model("0", source_run_id=lost.info.run_id)
    other = store.create_logged_model("0", source_run_id=store.create_run("0").info.run_id)
    close_dead_runs("abc")
    assert store.get_logged_model(half.model_id).status == LoggedModelStatus.FAILED
    assert store.get_logged_model(other.model_id).status == LoggedModelStatus.PENDING


def test_params_that_mlflow_run_has_logged_are_left_alone(store, monkeypatch):
    experiment = store.create_experiment("other")
    made = store.create_run(experiment)
    store.log_param(made.info.run_id, "cv", "'2.0'")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with parent() as run:
        mlflow.log_metric("x", 1)
    assert run.info.run_id == made.info.run_id
    assert store.get_run(made.info.run_id).data.params == {"cv": "'2.0'"}


@pytest.mark.parametrize(
    ("made_up", "called"), [("dapper-quail-493", "ours"), ("my-run-1", "my-run-1")]
)
def test_a_name_that_a_person_gave_mlflow_run_stays(store, monkeypatch, made_up, called):
    made = store.create_run("0", run_name=made_up)
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with parent_run(experiment="e", params={}, name="ours") as run:
        rename(run, "ours", "ours, scored")
    name = store.get_run(made.info.run_id).info.run_name
    assert name == ("ours, scored" if called == "ours" else called)


def test_names_that_mlflow_makes_up_are_known(store):
    for _ in range(20):
        assert _is_made_up(store.create_run("0").info.run_name)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/sample.csv", "sample.csv"), ("/a/panel/", "panel"), ("/a/*.csv", "*.csv"),
        ("/", "/"), ("a\x1b[31m.csv", "a\\x1b[31m.csv"), ("x" * 99, "x" * 37 + "..."),
    ],
)  # fmt: skip
def test_a_source_has_a_short_printable_name(source, name):
    assert source_name(source) == name


def locked(*_, **__):
    error = MlflowException("(sqlite3.OperationalError) database is locked")
    error.__cause__ = sqlalchemy.exc.OperationalError(
        "INSERT", {}, sqlite3.OperationalError("database is locked")
    )
    raise error


@pytest.mark.parametrize("name", ["create_run", "log_batch", "set_terminated"])
def test_a_trial_waits_while_another_program_has_the_store_locked(store, monkeypatch, name):
    """MLflow itself gives up after 20 s."""
    write, refusals = getattr(mlflow.MlflowClient, name), iter([locked, locked])

    def busy(*args, **options):
        return next(refusals, write)(*args, **options)

    with parent() as run, monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, name, busy)
        log_trial(run, trial())
    assert [child.info.status for child in children(store)] == ["FINISHED"]
    monkeypatch.setattr(tracking, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(mlflow.MlflowClient, name, locked)
    with pytest.raises(MlflowException, match="locked"):
        log_trial(run, trial())


@pytest.mark.parametrize("trials", [[], [trial()]])
def test_finished_trials_are_spoken_of_only_where_there_are_some(store, trials):
    def fail():
        with parent() as run:
            for each in trials:
                log_trial(run, each)
            raise OSError("stop")

    with pytest.raises(OSError, match="stop") as caught:
        fail()
    assert getattr(caught.value, "__notes__", []) == [tracking.KEPT] * len(trials)


def test_doubles_come_back_with_every_bit(store):
    scores = (0.1 + 0.2, math.pi * 1e-300)
    interrupted(trial(scores=scores))
    (found,) = finished_trials("abc", folds=2).values()
    assert found == trial(scores=scores)


def test_trials_of_unfinished_parents_are_found_and_of_finished_ones_not(store):
    failed = interrupted(trial(10), trial(20))
    tags = {"mlflow.parentRunId": failed.info.run_id}
    half = store.create_run(failed.info.experiment_id, tags=tags)
    store.log_metric(half.info.run_id, "r2_fold_1", 0.5)
    with parent() as run:
        log_trial(run, trial(30))
    found = finished_trials("abc", folds=2)
    assert sorted(t.params["n_estimators"] for t in found.values()) == [10, 20]
    assert not finished_trials("abc", folds=3), "a fold is missing"
    assert not finished_trials("other", folds=2)


def test_runs_of_a_dead_process_are_closed(store):
    dead = {PROCESS: dead_process_tag()}
    experiment = store.create_experiment("e")
    lost = store.create_run(experiment, tags=TAGS | dead)
    child = store.create_run(experiment, tags=dead | {"mlflow.parentRunId": lost.info.run_id})
    assert close_dead_runs("abc") == [f"Run {lost.info.run_id} was killed; it is FAILED now."]
    for run in (lost, child):
        assert store.get_run(run.info.run_id).info.status == "FAILED"


def test_runs_of_a_killed_but_unreaped_process_are_closed(store):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    tag = f"{place()}/{process.pid}/{_started(process.pid)}"
    run = store.create_run("0", tags=TAGS | {PROCESS: tag})
    close_dead_runs("abc")
    assert store.get_run(run.info.run_id).info.status == "RUNNING"
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until waited
    close_dead_runs("abc")
    assert store.get_run(run.info.run_id).info.status == "FAILED"
    process.communicate()


def test_a_reused_process_id_is_not_mistaken_for_the_dead_one(store):
    here, pid, started = process_tag().rsplit("/", 2)
    run = store.create_run("0", tags=TAGS | {PROCESS: f"{here}/{pid}/{int(started) - 1}"})
    close_dead_runs("abc")
    assert store.get_run(run.info.run_id).info.status == "FAILED"


def test_a_living_training_of_the_same_search_is_named_and_left_alone(store):
    tag = f"{place()}/{os.getppid()}/{_started(os.getppid())}"
    run = store.create_run("0", tags=TAGS | {PROCESS: tag})
    assert close_dead_runs("abc") == [f"Run {run.info.run_id} is doing this search too."]
    assert store.get_run(run.info.run_id).info.status == "RUNNING"


@pytest.mark.parametrize(("hours", "status"), [(1, "RUNNING"), (25, "FAILED")])
def test_a_run_of_another_machine_is_closed_after_a_day_of_silence(store, hours, status):
    """Whatever it searched: with the data of each night no other training does the same search."""
    start = now() - hours * 3_600_000
    tags = TAGS | {PROCESS: "elsewhere/1/1"}
    same, other = (
        store.create_run("0", start_time=start, tags=tags | {SEARCH_KEY: key}).info.run_id
        for key in (TAGS[SEARCH_KEY], "other")
    )
    notes = " ".join(close_dead_runs("abc"))
    assert same in notes
    assert (other in notes) is (status == "FAILED")
    assert [store.get_run(each).info.status for each in (same, other)] == [status] * 2


def test_a_list_of_horizons_of_another_machine_is_closed_by_the_silence_of_all_its_trials(store):
    """Nothing but the day tells that it is dead: it has no search key of its own."""
    long_ago = now() - 25 * 3_600_000
    elsewhere = {PROCESS: "elsewhere/b/1/1/1"}
    lists = []
    for start in (long_ago, now()):
        outer = store.create_run("0", start_time=long_ago, tags=elsewhere)
        within = elsewhere | {"mlflow.parentRunId": outer.info.run_id, SEARCH_KEY: "other"}
        inner = store.create_run("0", start_time=long_ago, tags=within)
        trial = store.create_run(
            "0", start_time=start, tags={"mlflow.parentRunId": inner.info.run_id}
        )
        lists.append([outer, inner, trial])
    close_dead_runs("abc")
    statuses = [[store.get_run(run.info.run_id).info.status for run in each] for each in lists]
    assert statuses == [["FAILED"] * 3, ["RUNNING"] * 3]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_process_id_says_nothing_in_another_place(store, part):
    """Host, boot and PID namespace: containers share the first two, and have a process 1 each."""
    parts = process_tag().split("/")
    parts[part] += "x"
    parts[-1] = "1"  # no process here started then
    run = store.create_run("0", tags=TAGS | {PROCESS: "/".join(parts)})
    (note,) = close_dead_runs("abc")
    assert "another machine or container" in note
    assert store.get_run(run.info.run_id).info.status == "RUNNING"


@pytest.mark.parametrize(("here", "there"), [("node_1", "node-1"), ("a%", "abc"), ("n", "N")])
def test_hosts_are_compared_exactly(store, monkeypatch, here, there):
    rest = process_tag().partition("/")[2].rpartition("/")[0]
    run = store.create_run("0", tags=TAGS | {PROCESS: f"{there}/{rest}/1"})
    monkeypatch.setattr(socket, "gethostname", lambda: here)
    close_dead_runs("abc")
    assert store.get_run(run.info.run_id).info.status == "RUNNING"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes PID namespaces")
def test_a_training_is_left_alone_by_one_in_another_container_of_the_same_host(store):
    """With a /proc of its own, in which the process is not to be seen."""
    run = store.create_run("0", tags=TAGS | {PROCESS: process_tag()})
    code = "from liquidity.runs.recovery import close_dead_runs; print(close_dead_runs('abc'))"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert f"Run {run.info.run_id} of another machine or container" in done.stdout
    assert store.get_run(run.info.run_id).info.status == "RUNNING"


def test_a_process_that_proc_hides_counts_as_living(monkeypatch):
    """/proc can be mounted so that it does not show the processes of other users."""

    def refuse(pid, number):
        raise PermissionError

    def hide(pid):
        raise psutil.NoSuchProcess(pid)

    tag = process_tag()
    monkeypatch.setattr(psutil, "Process", hide)
    assert not is_alive(tag)
    monkeypatch.setattr(os, "kill", refuse)
    assert is_alive(tag)


def test_other_peoples_runs_are_never_touched(store):
    run = store.create_run("0", start_time=0)
    assert close_dead_runs("abc") == []
    assert store.get_run(run.info.run_id).info.status == "RUNNING"


def test_a_search_of_more_trials_than_a_page_holds_is_found(store, monkeypatch):
    monkeypatch.setattr(records, "PAGE", 2)
    interrupted(*(trial(trees) for trees in range(1, 6)))
    assert len(finished_trials("abc", folds=2)) == 5
