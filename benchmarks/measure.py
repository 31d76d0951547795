"""How figures are taken: in turn, round by round, in fresh processes, time and memory watched."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

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
        """Measure the ways one after the other, `rounds` times, in changing order.

        `ways` has a function for each `(subject, at)`, which returns its measures as a dict. One
        that fails is left out from there on; the others go on.
        """
        ways = dict(ways)
        with progress_bar(self.console, title, rounds * len(ways)) as advance:
            for number in range(rounds):
                for way in list(ways)[:: -1 if number % 2 else 1]:
                    with self.attempt(" ".join(way)) as attempt:
                        self.add(*way, ways[way]())
                    if attempt.failed:
                        del ways[way]
                    advance(" ".join(way))

    def add(self, subject, at, measures):
        """One round's values, by measure."""
        for measure, value in measures.items():
            self.figures.setdefault((subject, at, measure), []).append(value)

    def ratio(self, over, under, *, measure, at="", under_at=None, under_measure=None):
        """Ask for a ratio within each round; it is left out where one of the two is missing."""
        pair = (
            (over, at, measure),
            (under, at if under_at is None else under_at, under_measure or measure),
        )
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
        """What fails within is said and kept in `failures`; `.failed` tells."""
        attempt = Attempt()
        try:
            yield attempt
        except Exception as error:  # whatever a measured program makes of this machine
            attempt.failed = True
            self.failures.append(f"{what}: {error}")
            self.console.print(f"Failed: {self.failures[-1]}", style="red", markup=False)


class Attempt:
    """Whether what was attempted has failed."""

    failed = False


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
        raise RuntimeError(f"{function.__name__} failed: {last_line(errors)}")
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


def run(command, folder, *, quiet=True):
    """Seconds and peak memory (MB) of a command with all its processes; it has to succeed."""
    log = folder / "command.log"
    started, peak = time.perf_counter(), 0.0
    with (
        log.open("w") as output,
        process(command, cwd=folder, stderr=output, stdout=output if quiet else None) as job,
    ):
        # wait4's ru_maxrss would count this process too.
        while job.poll() is None:
            elapsed = time.perf_counter() - started
            if elapsed > LIMIT_SECONDS:
                raise RuntimeError(f"it took more than {LIMIT_SECONDS} s")
            peak = max(peak, memory_of_tree(job.pid))
            time.sleep(min(1, 0.1 + elapsed / 100))  # looking costs a long job a percent
    seconds = time.perf_counter() - started
    if job.returncode:
        raise RuntimeError(f"exit code {job.returncode}: {last_line(log.read_text())}")
    return {"seconds": seconds, "peak MB": peak}


def last_line(text):
    """What a program said last."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def memory_of_tree(root):
    """Proportional set size in MB of `root` and all its descendants (shared pages once)."""
    total = 0
    for pid in family(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(text.partition("\nPss:")[2].split()[0])
    return total / 1024


def cpu_seconds(root):
    """Seconds on a core that `root` and its living descendants have had."""
    ticks = sum(sum(map(int, stat[11:13])) for stat in map(_stat, family(root)) if stat)
    return ticks / os.sysconf("SC_CLK_TCK")


def family(root):
    """The ids of `root` and all its living descendants."""
    stats = {int(path.name): _stat(path.name) for path in Path("/proc").glob("[0-9]*")}
    parents = {pid: int(stat[1]) for pid, stat in stats.items() if stat}
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _stat(pid):
    """Fields of /proc/<pid>/stat after the program's name, or None."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
