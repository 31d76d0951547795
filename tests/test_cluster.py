"""The same jobs on a Dask cluster of real processes, which know nothing of this project.

Slow, so `make soak` runs it.
"""

import filecmp
import os
import signal
import subprocess
import sys
import time

import mlflow
import pytest
from conftest import PROJECT, SAMPLE, free_port_number, full_only
from test_faults import TRIALS, Job, finish, wait_for_trials

pytestmark = pytest.mark.soak
GRID = ["--data", str(SAMPLE), "--n-estimators", "10,20,30", "--cv", "3"]


class Cluster:
    """`dask scheduler` and `dask worker`s of one thread, started in a folder of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{free_port_number()}"
        self.workers = []
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port",
                                     self.address.rpartition(":")[2])  # fmt: skip

    def add_worker(self, **environment):
        folder = self.folder / str(len(self.workers))
        options = ["--nthreads", "1", "--local-directory", str(folder)]
        worker = self._start("worker", self.address, *options, **environment)
        self.workers.append(worker)

    def _start(self, *command, **environment):
        environment = os.environ | environment
        if "PYTHONPATH" in environment and not environment["PYTHONPATH"].startswith(
            str(self.folder)
        ):
            del environment["PYTHONPATH"]
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *command, "--no-dashboard"], cwd=self.folder,
                env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait(self, count):
        """Return when `count` workers have come."""
        code = "import sys, distributed as d; d.Client(sys.argv[1], timeout=30)"
        code += ".wait_for_workers(int(sys.argv[2]), timeout=60)"
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
        folder.mkdir()
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
    worked = (two.folder / "log").read_text()
    assert "Reload module liquidity" in worked

    # What is begun here can be finished there: the trials are the same.
    interrupted = Job(tmp_path, *GRID)
    process = interrupted.start()
    while "Trials 6" not in (process.stdout.readline() or pytest.fail("no trials")):
        pass
    process.kill()
    process.communicate()
    assert " of 27 trials were finished by an interrupted search" in remote.run()
    assert fold_scores(remote) == here


def test_a_killed_worker_costs_no_trial(store, make_cluster, tmp_path):
    two = make_cluster(2)
    job = Job(tmp_path, *GRID[:2], "--n-estimators", "50,100,150", "--scheduler", two.address)
    process = job.start()
    wait_for_trials(job, 3)
    two.kill(two.workers[0])
    finish(process)
    assert len(fold_scores(job)) == TRIALS


@full_only
@pytest.mark.parametrize("lost", ["scheduler", "workers"])
def test_a_cluster_that_goes_away_ends_the_job_and_keeps_its_trials(
    store, make_cluster, tmp_path, lost
):
    two = make_cluster(2)
    job = Job(tmp_path, *GRID[:2], "--n-estimators", "50,100,150", "--scheduler", two.address)
    process = job.start()
    wait_for_trials(job, 3)
    for gone in two.workers if lost == "workers" else [two.scheduler]:
        two.kill(gone)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in output
    said = "there was no worker at" if lost == "workers" else "went away"
    assert said in output
    assert "the same command goes on from here" in output
    here = Job(tmp_path, *job.options[:-2])
    assert " of 27 trials were finished by an interrupted search" in here.run()
    assert len(fold_scores(here)) == TRIALS


def refused(tmp_path, address):
    """What a job says that cannot use the cluster; it has to leave no run."""
    job = Job(tmp_path, *GRID, "--scheduler", address)
    output, _ = job.start().communicate(timeout=90)
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
    old = cluster_.folder / "old"
    (old / "scikit_learn-1.0.dist-info").mkdir(parents=True)
    (old / "scikit_learn-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: scikit-learn\nVersion: 1.0\n"
    )
    cluster_.add_worker(PYTHONPATH=str(old))
    cluster_.wait(1)
    said = refused(tmp_path, cluster_.address)
    assert "has other packages than this machine: worker tcp://127.0.0.1:" in said
    assert "scikit-learn 1.0 (here 1." in said


def test_files_scored_on_a_cluster_are_those_of_this_machine(champion, make_cluster, tmp_path):
    two = make_cluster(2)
    for folder in ("in", "here", "there"):
        (tmp_path / folder).mkdir()
    lines = SAMPLE.read_text().splitlines(keepends=True)
    for number in range(5):
        (tmp_path / f"in/{number}.csv").write_text("".join([lines[0], *lines[1 + number :]]))

    def score(output, *options):
        command = [sys.executable, "-m", "liquidity.scoring", "--input", "in", "--output", output]
        environment = os.environ | {"PYTHONPATH": str(PROJECT)}
        return subprocess.run([*command, *options], cwd=tmp_path, env=environment, text=True,
                              capture_output=True, timeout=120)  # fmt: skip

    there = ("--scheduler", two.address)
    assert score("here").returncode == 0
    done = score("there", *there)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "in").iterdir())
    assert filecmp.cmpfiles(tmp_path / "here", tmp_path / "there", names, shallow=False)[0] == names

    # A rerun does what is missing, and nothing else.
    (tmp_path / "there/2.csv").unlink()
    before = (tmp_path / "there/3.csv").stat().st_ino
    assert "4 of 5 files are in there already" in score("there", *there).stdout
    assert (tmp_path / "there/3.csv").stat().st_ino == before
    assert (tmp_path / "there/2.csv").read_bytes() == (tmp_path / "here/2.csv").read_bytes()

    # What is wrong with one file is said as it is here.
    (tmp_path / "in/9.csv").write_text(lines[0] + lines[1].replace(lines[1].split(",")[3], "x", 1))
    here, there = score("here"), score("there", *there)
    assert (here.returncode, there.returncode) == (2, 2)
    assert here.stderr.splitlines()[-1].replace(str(tmp_path / "in"), "in") == (
        there.stderr.splitlines()[-1].replace(str(tmp_path / "in"), "in")
    )
    assert not list((tmp_path / "there").glob("*9.csv*"))
