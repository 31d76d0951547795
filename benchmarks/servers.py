"""Servers to compare, each for the time of a with block, and wrk's load on them."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from benchmarks.measure import cpu_seconds, each, last_line, process, waited_for

CONNECTIONS = 16
START_SECONDS = 120
MILLISECONDS = {"us": 0.001, "ms": 1, "s": 1000}


@dataclass
class Server:
    """Where a running server answers, its first process, and how long it took to be ready."""

    url: str
    pid: int
    seconds: float

    def megabytes(self):
        """Resident memory of its largest process."""
        return max(each(self.pid, lambda process: process.memory_info().rss)) / 2**20

    def post(self, body):
        """Seconds of one POST of JSON to /invocations, and the scores of its answer."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/invocations", body, headers)
        started = time.perf_counter()
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = response.read()
        seconds = time.perf_counter() - started
        scores = json.loads(answer)["predictions"]
        return seconds, [one["liquidity"] if isinstance(one, dict) else one for one in scores]


@contextmanager
def server(name, command, folder, **settings):
    """Start a server on a free port, which replaces `{port}`; yields it when it answers."""
    port = free_port()
    command = [str(part).format(port=port) for part in command]
    url, log = f"http://127.0.0.1:{port}", folder / f"{name}.log"
    started = time.perf_counter()
    with (
        log.open("w") as output,
        process(
            command, cwd=folder, env=os.environ | settings, stdout=output, stderr=output
        ) as job,
    ):
        while not answers(f"{url}/health"):
            if job.poll() is not None or time.perf_counter() - started > START_SECONDS:
                raise RuntimeError(f"it did not start: {last_line(log.read_text())}")
            time.sleep(0.02)
        try:
            yield Server(url, job.pid, time.perf_counter() - started)
        finally:
            job.terminate()
            with suppress(subprocess.TimeoutExpired):
                job.wait(10)


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url):
    """Whether a GET of it is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


def check_wrk():
    """Raise RuntimeError where there is no load generator."""
    if not shutil.which("wrk"):
        raise RuntimeError("wrk is not on the PATH: apt-get install wrk")


def script(path, body):
    """Write wrk's script that posts this JSON."""
    path.write_text(
        'wrk.method = "POST"\n'
        f"wrk.body = [[{body}]]\n"
        'wrk.headers["Content-Type"] = "application/json"\n'
    )
    return path


def load(target, lua, *, seconds, connections=CONNECTIONS, door="/invocations"):
    """Rates, latencies and processor time under wrk's load; every answer has to be 2xx."""
    command = f"wrk -t1 -c{connections} -d{seconds}s --latency {target.url}{door} -s".split()
    served, generated, started = cpu_seconds(target.pid), waited_for(), time.perf_counter()
    text = subprocess.run(
        [*command, lua], capture_output=True, text=True, check=True, timeout=seconds + 60
    ).stdout
    elapsed = time.perf_counter() - started
    served, generated = cpu_seconds(target.pid) - served, waited_for() - generated
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"not every answer was right: {last_line(text)}")
    latency = {
        percent: float(value) * MILLISECONDS[unit]
        for percent, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)\b", text)
    }
    return {
        "requests/s": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p50 ms": latency["50"],
        "p99 ms": latency["99"],
        "CPU us per request": 1e6 * served / int(re.search(r"(\d+) requests in", text)[1]),
        "cores it used": served / elapsed,
        "cores wrk used": generated / elapsed,
    }
