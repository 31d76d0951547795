"""How figures are taken: in turn, round by round, in fresh processes, time and memory watched."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import psutil

from liquidity.progress import progress_bar

PROJECT = Path(__file__).parents[1]
SAMPLE = PROJECT / "data/sample.csv"
REAL_DATA = Path(os.environ.get("LIQUIDITY_REAL_DATA", PROJECT / "../shared/data")).resolve()
LIMIT_SECONDS = 3 * 3600  # of one process


class Bench:
    """What one part measures: its figures, the ratios to take of them, and what went wrong.

    A figure is `(subject, at, measure)`, such as `("GridSearchCV", "27 trials", "seconds")`, and
    has one value per round. All parts of a run share `folder`.
    """

    def __init__(self, folder, *, quick, console):
        self.folder = folder
        self.quick = quick
        self.console = console
        self.figures = {}
        self.ratios = []
        self.notes = []
        self.failures = []

    def in_turn(self, title, ways, *, rounds):
        """Measure the ways one after the other, `rounds` times (once if quick), in changing order.

        `ways` has a function for each `(subject, at)`, which returns its measures as a dict. One
        that fails is left out from there on; the others go on.
        """
        ways, rounds = dict(ways), self.pick(rounds, 1)
        with progress_bar(self.console, title, rounds * len(ways)) as advance:
            for number in range(rounds):
                for way in list(ways)[:: -1 if number % 2 else 1]:
                    name, failed = " ".join(way), len(self.failures)
                    with self.attempt(name):
                        self.add(*way, ways[way]())
                    if len(self.failures) > failed:
                        del ways[way]
                    advance(name)

    def add(self, subject, at, measures):
        """One round's values, by measure."""
        for measure, value in measures.items():
            self.figures.setdefault((subject, at, measure), []).append(value)

    def ratio(self, over, under, *measures):
        """Ask for ratios of two ways within each round; one that lacks either is left out."""
        for measure in measures:
            pair = (*over, measure), (*under, measure)
            if all(key in self.figures for key in pair):
                self.ratios.append(pair)

    def pick(self, full, quick):
        """One of the two, by the size of this run."""
        return quick if self.quick else full

    def coarse(self, why):
        """Note that the figures of a quick run are no measure of the full ones."""
        if self.quick:
            self.notes.append(f"Too coarse to quote: {why}.")

    @contextmanager
    def attempt(self, what):
        """What fails within is said and kept in `failures`."""
        try:
            yield
        except Exception as error:  # whatever a measured program makes of this machine
            self.failures.append(f"{what}: {error}")
            self.console.print(f"Failed: {self.failures[-1]}", style="red", markup=False)


def python(*parts):
    """The command `python ...`; texts are split at their spaces, paths and numbers are not."""
    words = (part.split() if isinstance(part, str) else [str(part)] for part in parts)
    return [sys.executable, *chain.from_iterable(words)]


def apart(function, *args, **settings):
    """`function(*args)` in a fresh process with these environment variables.

    The function is one of a module's top level; arguments and result pass as JSON.
    """
    code = (
        f"import json, sys; from {function.__module__} import {function.__name__} as function; "
        "print(json.dumps(function(*json.loads(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, json.dumps(args, default=str)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with process(command, env=os.environ | settings, **pipes) as job:
        answer, errors = job.communicate(timeout=LIMIT_SECONDS)
    if job.returncode:
        said = last_line(errors)
        raise RuntimeError(f"{function.__name__}: exit code {job.returncode}: {said}")
    return json.loads(answer.splitlines()[-1])


@contextmanager
def process(command, **options):
    """A process that ends with the with block, and with it all that it has started."""
    job = subprocess.Popen([str(part) for part in command], start_new_session=True, **options)
    try:
        yield job
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def run(command, folder):
    """Seconds, processor time and peak memory (MB) of a command with all its processes; it has to
    succeed.
    """
    log = folder / "command.log"
    started, before, peak = time.perf_counter(), waited_for(), 0.0
    with (
        log.open("w") as output,
        process(command, cwd=folder, stdout=output, stderr=output) as job,
    ):
        # wait4's ru_maxrss would count this process too.
        while job.poll() is None:
            elapsed = time.perf_counter() - started
            if elapsed > LIMIT_SECONDS:
                raise RuntimeError(f"it took more than {LIMIT_SECONDS} s")
            peak = max(peak, memory_of_tree(job.pid))
            time.sleep(min(1, 0.1 + elapsed / 100))  # looking is to cost a percent
    seconds = time.perf_counter() - started
    if job.returncode:
        raise RuntimeError(f"exit code {job.returncode}: {last_line(log.read_text())}")
    return {"seconds": seconds, "CPU s": waited_for() - before, "peak MB": peak}


def waited_for():
    """Seconds on a core of all processes that this one has waited for, and theirs."""
    times = os.times()
    return times.children_user + times.children_system


def last_line(text):
    """What a program said last."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def memory_of_tree(root):
    """Proportional set size in MB of `root` and all its descendants (shared pages once)."""
    return sum(each(root, lambda process: process.memory_full_info().pss)) / 2**20


def cpu_seconds(root):
    """Seconds on a core that `root` and its living descendants have had."""
    return sum(each(root, lambda process: sum(process.cpu_times()[:2])))


def each(root, measure):
    """`measure(process)` of the process `root` and of all its descendants that live."""
    found = []
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(root)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                found.append(measure(process))
    return found
