"""Training under faults: killed, cut off from its server, without disk, and beside another.

Slow, so `make soak` runs it.
"""

import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing, redirect_stdout
from io import StringIO

import mlflow
import pytest
from mlflow.entities import LoggedModelStatus
from support import (
    NAME,
    PROJECT,
    SAMPLE,
    SHORT,
    TRIALS,
    Job,
    MlflowServer,
    all_runs,
    finish,
    full_only,
    parents,
    wait_for_trials,
)

import train
from liquidity.model.loading import champion_version, load_model

pytestmark = pytest.mark.soak
JOB = ["--data", str(SAMPLE), "--n-estimators", "10,20,30", "--cv", "3"]
# Ten seconds of search, to be cut off from the server in; in the short form five.
LONG = ["--data", str(SAMPLE), "--n-estimators", "20,40,60" if SHORT else "50,100,150"]
# As long, of 36 trials.
WIDE = ["--data", str(SAMPLE), "--n-estimators", "20,40", "--min-samples-split", "2,3,4,5,6,7"]
KILLS = 2 if SHORT else 20
OUTAGE = 4 if SHORT else 20  # seconds
LOCKED = 45  # seconds


def assert_whole(job, expected):
    """The last search is complete and equals `expected`; nothing is left open or half there."""
    parent = max(job.finished(), key=lambda run: run.info.start_time)
    assert job.scores(parent) == expected
    assert len(job.trials(parent)) == len(expected) == TRIALS, "a trial is there twice"
    assert not [run for run in all_runs(job.client) if run.info.status == "RUNNING"]
    for experiment in job.client.search_experiments():
        for model in job.client.search_logged_models([experiment.experiment_id]):
            assert model.status != LoggedModelStatus.PENDING
    assert_registry(job)
    assert champion_of(job) is not None


def champion_of(job):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", job.uri)
        return champion_version(NAME)


def assert_registry(job):
    """Every version can be explained and loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", job.uri)
        for version in job.versions():
            assert version.tags.keys() >= {"gate.decision", "gate.reason", "gate.rule"}
            load_model(f"models:/{NAME}/{version.version}")


@pytest.fixture
def run_again(store, monkeypatch):
    """Run a job to its end; returns what was printed. In the short form within this process, which
    has the libraries already: to load them takes a new one a third of its time.
    """

    def run(job):
        if not SHORT:
            return job.run()
        with monkeypatch.context() as patch, redirect_stdout(StringIO()) as output:
            patch.chdir(job.folder)
            patch.setenv("MLFLOW_TRACKING_URI", job.uri)
            # train.main sets it, and the next job has an experiment of its own.
            patch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
            assert train.main([*job.options]) == 0, output.getvalue()
        return output.getvalue()

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory, empty_store):
    """An uninterrupted run of JOB: the job, its scores and its seconds."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copy(empty_store, folder / "mlflow.db")
    job = Job(folder, *JOB)
    process = job.start()
    wait_for_search(process)
    started = time.perf_counter()
    finish(process)
    seconds = time.perf_counter() - started
    (parent,) = job.finished()
    return job, job.scores(parent), seconds


def wait_for_search(process):
    """Return when the rows are read and split; the search is next."""
    for line in process.stdout:
        if "coins to train on" in line:
            return
    raise AssertionError("the job ended before its search")


def test_kills_at_random_moments_lose_and_double_nothing(run_again, whole, empty_store, tmp_path):
    first, expected, seconds = whole
    moments = random.Random(20)
    hit = Counter()
    for number in range(KILLS):
        # Every other time there is a champion already.
        database = first.folder / "mlflow.db" if number % 2 else empty_store
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(database, folder / "mlflow.db")
        job = Job(folder, *JOB)
        before = champion_of(job)
        process = job.start()
        wait_for_search(process)
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        output, _ = process.communicate(timeout=30)  # ends only when the workers have ended too
        assert process.returncode in (-signal.SIGKILL, 0), output
        assert_registry(job)
        after = champion_of(job)
        assert after is not None or before is None, "the champion is gone"
        hit[phase(output)] += 1
        run_again(job)
        assert_whole(job, expected)
        shutil.rmtree(folder)
    print(f"{KILLS} kills within {seconds:.1f} s of job, each run again: {dict(hit)}; 0 lost")


def phase(output):
    """How far a job had come, by what it had printed."""
    for text, name in (
        ("Registered", "at its end"), ("Compiling", "registering"), ("Refitting", "evaluating"),
        ("Trials", "searching"), ("", "before the third trial"),
    ):  # fmt: skip
        if text in output:
            return name
    raise AssertionError(output)


@pytest.fixture
def over_http(store, tmp_path):
    """A server, and a search of ten seconds over it that is not started."""
    folder = tmp_path / "client"
    folder.mkdir()
    with MlflowServer(tmp_path) as server:
        yield server, Job(folder, *LONG, uri=server.uri)


def test_a_server_that_is_killed_and_comes_back_costs_no_trial(over_http):
    server, job = over_http
    process = job.start()
    wait_for_trials(job, 3)
    server.stop(signal.SIGKILL)
    time.sleep(OUTAGE)
    server.start()
    output = finish(process)
    (parent,) = job.finished()
    assert "MLflow does not answer" in output
    assert_whole(job, job.scores(parent))
    print(f"server killed, back after {OUTAGE} s: {TRIALS} trials, 0 lost, 0 twice")


@full_only
def test_a_server_that_hangs_for_a_while_costs_no_trial(over_http):
    server, job = over_http
    process = job.start()
    wait_for_trials(job, 3)
    server.hang()
    time.sleep(OUTAGE)
    server.wake()
    finish(process)
    (parent,) = job.finished()
    assert_whole(job, job.scores(parent))
    print(f"server hangs for {OUTAGE} s: {TRIALS} trials, 0 lost, 0 twice")


@full_only
def test_a_server_that_stays_away_ends_the_job_and_loses_no_trial(over_http, monkeypatch):
    server, job = over_http
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # by itself four minutes
    process = job.start()
    wait_for_trials(job, 3)
    server.stop(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "train.py: failed: MlflowException: " in output
    assert "the same command goes on" in output
    assert "Traceback" not in output
    server.start()
    output = job.run()
    assert "was killed; it is FAILED now" in output
    (parent,) = job.finished()
    taken = [c for c in job.trials(parent) if "resumed_from" in c.data.tags]
    assert len(taken) >= 3
    assert_whole(job, job.scores(parent))
    print(f"server gone for good: clear error, run again: {len(taken)} trials taken over, 0 lost")


@full_only
def test_a_store_that_another_program_has_locked_costs_no_trial(store, tmp_path):
    """For longer than MLflow waits for SQLite, which is 20 s."""
    job = Job(tmp_path, *LONG)
    process = job.start()
    wait_for_trials(job, 3)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=30, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        time.sleep(LOCKED)
    output = finish(process)
    (parent,) = job.finished()
    assert "MLflow does not answer" in output
    assert_whole(job, job.scores(parent))
    print(f"store locked for {LOCKED} s: {TRIALS} trials, 0 lost, 0 twice")


@full_only
def test_a_killed_search_resumes_and_equals_an_uninterrupted_one(store, tmp_path):
    job = Job(tmp_path, *WIDE)
    process = job.start()
    killed = wait_for_trials(job, 3)
    process.kill()
    process.communicate(timeout=30)  # ends only when the workers are gone as well
    kept = job.trials(killed)
    assert store.get_run(killed.info.run_id).info.status == "RUNNING"

    output = job.run()
    assert f"Run {killed.info.run_id} was killed; it is FAILED now." in output
    assert store.get_run(killed.info.run_id).info.status == "FAILED"
    (resumed,) = job.finished()
    taken = [c for c in job.trials(resumed) if "resumed_from" in c.data.tags]
    assert 3 <= len(taken) <= len(kept)

    assert train.main([*WIDE, "--resume", "never"]) == 0
    (whole,) = (p for p in job.finished() if p.info.run_id != resumed.info.run_id)
    assert job.scores(resumed) == job.scores(whole)
    assert len(job.scores(whole)) == 36
    for name in ("best_r2", "test_r2", "interval_coverage"):
        assert resumed.data.metrics[name] == whole.data.metrics[name]
    assert not [run for run in all_runs(store) if run.info.status == "RUNNING"]


def test_two_trainings_at_once_on_one_store_both_end(whole, store, tmp_path):
    _, expected, _ = whole
    folder = tmp_path / "new"  # that one of them has to make the store, too, is part of it
    folder.mkdir()
    job = Job(folder, *JOB)
    for process in [job.start(), job.start()]:
        finish(process)
    assert [job.scores(parent) for parent in job.finished()] == [expected, expected]
    assert {int(version.version) for version in job.versions()} == {1, 2}
    assert_whole(job, expected)
    print(f"two jobs at once on a store that neither finds: {2 * TRIALS} trials, 0 lost")


@pytest.fixture
def small_disk(make_disk):
    """A folder that holds 64 MiB."""
    return make_disk("64m")


def test_a_full_disk_ends_the_job_and_leaves_the_champion_alone(
    whole, tmp_path, run_again, small_disk
):
    first, *_ = whole
    shutil.copy(first.folder / "mlflow.db", tmp_path / "mlflow.db")
    job = Job(tmp_path, *JOB, "--experiment", "full")
    job.client.create_experiment("full", artifact_location=small_disk.as_uri())
    (small_disk / "ballast").write_bytes(bytes(2**26 - 300_000))
    before = champion_of(job)
    process = job.start()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "No space left on device" in output
    assert "Traceback" not in output
    assert len(job.versions()) == 1
    assert champion_of(job).version == before.version
    assert "FAILED" in [run.info.status for run in parents(job.client)]
    (small_disk / "ballast").unlink()
    output = run_again(job)
    assert f"{TRIALS} of {TRIALS} trials were finished by an interrupted search" in output
    print("disk full at the figures: clear error, champion untouched, 0 trials lost")


def test_a_clock_that_steps_back_an_hour_gives_no_negative_duration(whole, store, tmp_path):
    _, expected, _ = whole
    job = Job(tmp_path, *JOB)
    stepping = f"""
import os, sys, time
right = time.time
time.time = lambda: right() - 3600 * os.path.exists("back")
sys.path.insert(0, {str(PROJECT)!r})
import train
sys.exit(train.main({JOB!r}))
"""
    process = job.start("-c", stepping)
    wait_for_trials(job, 5)
    (tmp_path / "back").touch()
    finish(process)
    assert_whole(job, expected)
    runs = all_runs(job.client)
    assert len(runs) == TRIALS + 1
    assert all(run.info.end_time >= run.info.start_time for run in runs)
    (parent,) = job.finished()
    ends = [trial.info.end_time for trial in job.trials(parent)]
    assert min(ends) < parent.info.start_time, "the clock did not step back within the search"
    print(f"clock set back an hour: {len(runs)} runs, 0 negative durations")
