"""The same jobs on a Dask cluster of real processes; workers have this project, the scheduler not.

Slow, so `make soak-cluster` runs it.
"""

import filecmp
import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import mlflow
import pandas as pd
import pytest
from rich.console import Console
from support import (
    PROJECT,
    SAMPLE,
    SHORT,
    SMALL,
    SMALL_FORECAST,
    TRIALS,
    Job,
    finish,
    free_port_number,
    full_only,
    parents,
    wait_for_trials,
)

from liquidity.errors import ClusterError
from liquidity.executors.dask import cluster_executor
from liquidity.search.grid import fit_fold

pytestmark = pytest.mark.cluster
GRID = ["--data", str(SAMPLE), "--n-estimators", "10,20,30", "--cv", "3"]
LONG = "20,40,60" if SHORT else "50,100,150"  # trees, so that a worker is lost in the search
AFTERWARDS = "Finished trials are kept: the same command goes on from them."


class Cluster:
    """`dask scheduler` and `dask worker`s of one thread, started in a folder of their own.

    The scheduler runs where neither this project nor scikit-learn can be imported.
    """

    def __init__(self, folder):
        bare = without(folder / "bare", "sklearn")
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{free_port_number()}"
        self.workers = []
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port",
                                     self.address.rpartition(":")[2], paths=[bare])  # fmt: skip

    def add_worker(self, *paths, before=()):
        """Start a worker that imports from `paths`, by the command `before` if there is one."""
        folder = self.folder / str(len(self.workers))
        options = ["--nthreads", "1", "--local-directory", str(folder)]
        worker = self._start(
            "worker", self.address, *options, before=before, paths=paths or [PROJECT]
        )
        self.workers.append(worker)

    def _start(self, *command, paths, before=()):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                [*before, sys.executable, "-m", "dask", *command, "--no-dashboard"],
                cwd=self.folder, env=environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def wait(self, count):
        """Return when `count` workers have come."""
        code = "import sys, distributed as d; d.Client(sys.argv[1], timeout=30)"
        code += ".wait_for_workers(int(sys.argv[2]), timeout=120)"
        subprocess.run([sys.executable, "-c", code, self.address, str(count)], check=True)

    def kill(self, process, number=signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            process.wait(30)

    def close(self):
        for process in (*self.workers, self.scheduler):
            self.kill(process)


@pytest.fixture
def make_cluster(tmp_path):
    """Start a cluster of so many workers."""
    made = []

    def make(workers):
        folder = tmp_path / f"cluster-{len(made)}"
        folder.mkdir(exist_ok=True)
        made.append(Cluster(folder))
        for _ in range(workers):
            made[-1].add_worker()
        if workers:
            made[-1].wait(workers)
        return made[-1]

    yield make
    for one in made:
        one.close()


def fold_scores(job):
    """Each trial's params and scores; the last finished job's."""
    parent = max(job.finished(), key=lambda run: run.info.start_time)
    assert len(job.trials(parent)) == TRIALS
    return job.scores(parent)


def test_training_on_a_cluster_gives_the_bits_of_this_machine(store, make_cluster, tmp_path):
    two = make_cluster(2)
    local, remote = Job(tmp_path, *GRID), Job(tmp_path, *GRID, "--scheduler", two.address)
    local.run()
    here = fold_scores(local)
    output = remote.run()
    assert f"2 workers with 2 threads at {two.address}" in output
    assert fold_scores(remote) == here

    # What is begun here can be finished there: the trials are the same.
    interrupted = Job(tmp_path, *GRID)
    process = interrupted.start()
    while "Trials 6" not in (process.stdout.readline() or pytest.fail("no trials")):
        pass
    process.kill()
    process.communicate()
    assert " of 27 trials were finished by an interrupted search" in remote.run()
    assert fold_scores(remote) == here


def test_forecasts_trained_on_a_cluster_have_the_bits_of_this_machine(
    store, make_cluster, panel, tmp_path
):
    options = ["--data", str(panel[1]), "--horizon", "1,7", *SMALL_FORECAST]
    local = Job(tmp_path, *options)
    local.run()
    remote = Job(tmp_path, *options, "--scheduler", make_cluster(2).address, "--resume", "never")
    assert "2 workers with 2 threads at" in remote.run()
    found = {}
    for outer in local.finished():
        nested = store.search_runs(
            [outer.info.experiment_id], f"tags.mlflow.parentRunId = '{outer.info.run_id}'"
        )
        assert {run.data.tags["horizon"] for run in nested} == {"1", "7"}
        for run in nested:
            scores = local.scores(run)
            assert len(scores) == 2
            found.setdefault(run.data.tags["horizon"], []).append((scores, run.data.metrics))
    for here, there in found.values():
        assert here == there


def test_a_killed_worker_costs_no_trial(store, make_cluster, tmp_path):
    two = make_cluster(2)
    job = Job(tmp_path, *GRID[:2], "--n-estimators", LONG, "--scheduler", two.address)
    process = job.start()
    wait_for_trials(job, 3)
    two.kill(two.workers[0])
    finish(process)
    assert len(fold_scores(job)) == TRIALS


@full_only
def test_a_stopped_search_takes_its_tasks_back(store, make_cluster, tmp_path):
    two = make_cluster(2)
    job = Job(tmp_path, *GRID[:2], "--n-estimators", "200,400,600", "--scheduler", two.address)
    process = job.start()
    wait_for_trials(job, 3)
    assert tasks(two) > 10
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output.endswith(f"train.py: stopped. {AFTERWARDS}\n")
    assert [run.info.status for run in parents(job.client)] == ["KILLED"]
    assert tasks(two) == 0


@full_only
@pytest.mark.parametrize("lost", ["scheduler", "workers"])
def test_a_cluster_that_goes_away_ends_the_job_and_keeps_its_trials(
    store, make_cluster, tmp_path, lost
):
    two = make_cluster(2)
    job = Job(tmp_path, *GRID[:2], "--n-estimators", LONG, "--scheduler", two.address)
    process = job.start()
    wait_for_trials(job, 3)
    for gone in two.workers if lost == "workers" else [two.scheduler]:
        two.kill(gone)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "Traceback" not in output
    said = "there was no worker at" if lost == "workers" else "went away"
    assert said in output
    assert output.endswith(f"{AFTERWARDS}\n")
    here = Job(tmp_path, *job.options[:-2])
    assert " of 27 trials were finished by an interrupted search" in here.run()
    assert len(fold_scores(here)) == TRIALS


def refused(tmp_path, address):
    """What a job says that cannot use the cluster; it has to leave no run."""
    job = Job(tmp_path, *GRID, "--scheduler", address)
    output, _ = job.start().communicate(timeout=180)
    assert "Traceback" not in output
    assert not mlflow.MlflowClient().search_runs(["0"])
    assert not [e for e in job.client.search_experiments() if e.name != "Default"]
    return output.splitlines()[-1]


@full_only
def test_what_is_no_cluster_is_one_sentence(store, make_cluster, tmp_path):
    port = free_port_number()
    web = subprocess.Popen([sys.executable, "-m", "http.server", str(port), "-b", "127.0.0.1"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        for address in ("nonsense", f"tcp://127.0.0.1:{free_port_number()}",
                        f"tcp://127.0.0.1:{port}"):  # fmt: skip
            assert f"No Dask scheduler answers at '{address}'" in refused(tmp_path, address)
    finally:
        web.kill()
        web.wait()
    empty = make_cluster(0)
    time.sleep(3)
    assert "has no workers: start some" in refused(tmp_path, empty.address)


def test_workers_with_other_packages_are_named_with_them(store, make_cluster, tmp_path):
    cluster_ = make_cluster(0)
    cluster_.add_worker(with_version_1(cluster_.folder / "old", "scikit-learn"), PROJECT)
    cluster_.wait(1)
    said = refused(tmp_path, cluster_.address)
    assert "cannot do what this machine does: worker tcp://127.0.0.1:" in said
    assert re.search(r"has scikit-learn 1\.0 \(here 1\.\S+\)\. Run pip install", said)


def test_workers_without_this_project_or_with_other_code_are_named(store, make_cluster, tmp_path):
    other = other_code(tmp_path / "other")
    cluster_ = make_cluster(0)
    cluster_.add_worker(tmp_path)
    cluster_.add_worker(other)
    cluster_.wait(2)
    said = refused(tmp_path, cluster_.address)
    assert re.search(r"worker tcp://\S+ cannot import this project: .*No module named", said)
    code = r"crypto-liquidity code \w{12} \(here \w{12}\)"
    assert re.search(rf"worker tcp://\S+ has {code}", said)
    assert said.endswith(
        "Run pip install '.[cluster]' in the same version of this project on every machine, and "
        "restart what runs there."
    )


def test_code_that_changes_under_a_worker_is_told(store, make_cluster, tmp_path):
    """A worker that has loaded the code before would go on with the old one."""
    other = other_code(tmp_path / "other")
    cluster_ = make_cluster(0)
    cluster_.add_worker(other)
    cluster_.wait(1)
    job = Job(tmp_path, *SMALL, "--scheduler", cluster_.address)
    finish(job.start(other / "train.py", *job.options))
    changed = other / "liquidity/contract.py"
    changed.write_text(f"{changed.read_text()}# changed\n")
    output, _ = job.start(other / "train.py", *job.options).communicate(timeout=180)
    assert "has crypto-liquidity code " in output
    # A job that began with the code that the worker began with, while the disk has another.
    old = other_code(tmp_path / "old")
    output, _ = job.start(old / "train.py", *job.options).communicate(timeout=180)
    assert "was started before its crypto-liquidity code changed" in output


LATE = {
    "other packages": r"worker tcp://\S+ has scipy 1\.0 \(here 1\.\S+\)",
    "other code": r"worker tcp://\S+ has crypto-liquidity code \w{12} \(here \w{12}\)",
    "no project": r"a worker that came later cannot import this project: .* 'liquidity'",
}


@full_only
@pytest.mark.parametrize("wrong", LATE)
def test_a_worker_that_is_wrong_and_comes_later_computes_nothing(
    store, make_cluster, tmp_path, wrong
):
    one = make_cluster(1)
    job = Job(tmp_path, *GRID[:2], "--n-estimators", "100,200,300", "--scheduler", one.address)
    process = job.start()
    wait_for_trials(job, 1)
    one.add_worker(*{
        "other packages": (with_version_1(one.folder / "other", "scipy"), PROJECT),
        "other code": (other_code(one.folder / "code"),),
        "no project": (tmp_path,),
    }[wrong])  # fmt: skip
    one.wait(2)
    one.kill(one.workers[0])
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert re.search(rf"failed: {LATE[wrong]}\. Run pip install", output)
    assert output.endswith(f"{AFTERWARDS}\n")


def other_code(folder):
    """A copy of this project whose search scores everything alike."""
    shutil.copytree(PROJECT / "liquidity", folder / "liquidity")
    shutil.copy(PROJECT / "train.py", folder)
    searching = folder / "liquidity/search/grid.py"
    code = searching.read_text()
    assert "float(r2_score(y[test] + offset, own + offset))" in code
    searching.write_text(code.replace("float(r2_score(y[test] + offset, own + offset))", "0.125"))
    return folder


def with_version_1(folder, package):
    """A path on which `package` claims to be of version 1.0."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    return folder


def without(folder, package):
    """A path on which `package` cannot be imported."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(f"raise ImportError('no {package} here')\n")
    return folder


def test_a_worker_that_cannot_import_what_a_job_needs_is_named(champion, make_cluster, tmp_path):
    cluster_ = make_cluster(0)
    cluster_.add_worker(without(cluster_.folder / "less", "mlflow"), PROJECT)
    cluster_.wait(1)
    Job(tmp_path, *SMALL, "--scheduler", cluster_.address).run()  # trains without mlflow
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    shutil.copy(SAMPLE, tmp_path / "in")
    done = score(tmp_path, "out", "--scheduler", cluster_.address)
    assert done.returncode == 2
    assert "cannot import what is needed: no mlflow here. Run pip install" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "out").iterdir())


def test_a_worker_that_hangs_is_said(make_cluster, monkeypatch):
    monkeypatch.setattr("liquidity.executors.dask.PREPARE_SECONDS", 3)
    one = make_cluster(1)
    os.killpg(one.workers[0].pid, signal.SIGSTOP)
    try:
        with (
            pytest.raises(ClusterError, match=r"Not all workers of tcp://.* answer, within 3 s"),
            cluster_executor(one.address, fit_fold, console=Console()),
        ):
            pass
    finally:
        os.killpg(one.workers[0].pid, signal.SIGCONT)


def start_scoring(folder, output, *options):
    command = [sys.executable, "-m", "liquidity.scoring", "--input", "in", "--output", output]
    return subprocess.Popen(
        [*command, *options], cwd=folder, env=os.environ | {"PYTHONPATH": str(PROJECT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def score(folder, output, *options):
    """Score the files of `in`; returns the finished process."""
    with start_scoring(folder, output, *options) as process:
        out, error = process.communicate(timeout=180)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def large_files(folder, count):
    """So many files in `in` that take a worker a second each, beside empty `here` and `there`."""
    for name in ("in", "here", "there"):
        (folder / name).mkdir()
    header, *lines = SAMPLE.read_text().splitlines(keepends=True)
    for number in range(count):
        (folder / f"in/{number}.csv").write_text("".join([header, *lines[number:] * 200]))


def wait_for_files(folder, pattern, process):
    for _ in range(1200):
        if list(folder.glob(pattern)):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in {folder} within a minute")


def scoring_at_work(two, folder, count, pattern="*.csv"):
    """A job that scores so many large files to `there` on a cluster and has come to `pattern`."""
    large_files(folder, count)
    scoring = start_scoring(folder, "there", "--scheduler", two.address)
    wait_for_files(folder / "there", pattern, scoring)
    return scoring


def assert_same_files(folder):
    """What the cluster wrote to `there` is all of `in`, as this machine writes it to `here`."""
    done = score(folder, "here")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (folder / "in").iterdir())
    assert sorted(path.name for path in (folder / "there").iterdir()) == names
    same, *_ = filecmp.cmpfiles(folder / "here", folder / "there", names, shallow=False)
    assert same == names


@full_only
def test_a_worker_killed_while_it_scores_costs_no_file(champion, make_cluster, tmp_path):
    two = make_cluster(2)
    scoring = scoring_at_work(two, tmp_path, 4)
    two.kill(two.workers[0])
    output, error = scoring.communicate(timeout=200)
    assert scoring.returncode == 0, error
    assert f"{200 * sum(range(1197, 1201)):,} rows written to 4 files" in output
    assert_same_files(tmp_path)


@full_only
def test_a_stop_ends_what_the_workers_do(champion, make_cluster, tmp_path):
    two = make_cluster(2)
    scoring = scoring_at_work(two, tmp_path, 6, pattern=".*.partial")
    scoring.send_signal(signal.SIGINT)
    _, error = scoring.communicate(timeout=60)
    said = "liquidity.scoring: stopped. Nothing half-written is left; "
    said += "the same command does what is missing.\n"
    assert (scoring.returncode, error) == (130, said)
    time.sleep(2)
    left = [path.name for path in (tmp_path / "there").iterdir()]
    assert len(left) < 6
    assert not any(name.startswith(".") for name in left)
    assert tasks(two) == 0
    assert score(tmp_path, "there", "--scheduler", two.address).returncode == 0
    assert_same_files(tmp_path)


def tasks(cluster_):
    """How many tasks the cluster still knows."""
    code = "import sys, distributed as d; c = d.Client(sys.argv[1], timeout=30)\n"
    code += "print(c.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))"
    done = subprocess.run([sys.executable, "-c", code, cluster_.address], capture_output=True,
                          text=True, check=True)  # fmt: skip
    return int(done.stdout)


def test_a_worker_with_another_folder_of_the_same_name_is_said(champion, make_cluster, tmp_path):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    cluster_ = make_cluster(0)
    large_files(tmp_path, 1)
    mount = f'mount -t tmpfs none {tmp_path}/there && exec "$@"'
    cluster_.add_worker(before=["unshare", "-m", "sh", "-c", mount, "sh"])
    cluster_.wait(1)
    done = score(tmp_path, "there", "--scheduler", cluster_.address)
    assert done.returncode == 2
    assert re.search(r"Worker tcp://\S+ does not have \S+/there/\S+ as this machine", done.stderr)
    assert not list((tmp_path / "there").iterdir())


def test_files_scored_on_a_cluster_are_those_of_this_machine(champion, make_cluster, tmp_path):
    two = make_cluster(2)
    for folder in ("in", "here", "there"):
        (tmp_path / folder).mkdir()
    lines = SAMPLE.read_text().splitlines(keepends=True)
    for number in range(5):
        (tmp_path / f"in/{number}.csv").write_text("".join([lines[0], *lines[1 + number :]]))
    (tmp_path / "in/5.csv.gz").write_bytes(gzip.compress("".join(lines).encode()))
    pd.read_csv(SAMPLE).to_parquet(tmp_path / "in/6.parquet")

    there = ("--scheduler", two.address)
    assert score(tmp_path, "here").returncode == 0
    done = score(tmp_path, "there", *there)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "in").iterdir())
    assert filecmp.cmpfiles(tmp_path / "here", tmp_path / "there", names, shallow=False)[0] == names

    # A rerun does what is missing, and nothing else.
    (tmp_path / "there/2.csv").unlink()
    before = (tmp_path / "there/3.csv").stat().st_ino
    assert "6 of 7 files are in there already" in score(tmp_path, "there", *there).stdout
    assert (tmp_path / "there/3.csv").stat().st_ino == before
    assert (tmp_path / "there/2.csv").read_bytes() == (tmp_path / "here/2.csv").read_bytes()

    # What is wrong with one file is said as it is here.
    (tmp_path / "in/9.csv").write_text(lines[0] + lines[1].replace(lines[1].split(",")[3], "x", 1))
    here, there = score(tmp_path, "here"), score(tmp_path, "there", *there)
    assert (here.returncode, there.returncode) == (2, 2)
    assert here.stderr.splitlines()[-1].replace(str(tmp_path / "in"), "in") == (
        there.stderr.splitlines()[-1].replace(str(tmp_path / "in"), "in")
    )
    assert not list((tmp_path / "there").glob("*9.csv*"))
