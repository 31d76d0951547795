"""Log, cache, temporary folder and metrics taken away while requests run; `make soak` runs it."""

import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest
from support import (
    GOOD,
    NAME,
    PROJECT,
    SHORT,
    STARTED_SECONDS,
    Client,
    Load,
    memory,
    post,
    wait_for_http,
    workers_of,
)

from benchmarks.measure import cpu_seconds

pytestmark = [pytest.mark.soak, pytest.mark.alone]
REQUESTS = 3_000 if SHORT else 10_000
SWAPS = 4 if SHORT else 20
FOLLOWED = 2  # seconds after which both workers have to answer with the version of the alias


@pytest.fixture
def small_disk(make_disk):
    """A folder on a disk of a megabyte."""
    return make_disk("1m")


@pytest.fixture
def serve_into_a_pipe(tmp_path, free_port):
    """Start two workers whose stdout and stderr are a pipe that nobody reads."""
    started = []

    def start(**settings):
        reader, writer = os.pipe()
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
            "PYTHONPATH": str(PROJECT),
            "LIQUIDITY_CACHE_DIR": str(tmp_path / "cache"),
            "LIQUIDITY_REFRESH_SECONDS": "0.2",
        }
        server = subprocess.Popen(
            [sys.executable, "-m", "serve", "--port", str(free_port), "--workers", "2"],
            cwd=tmp_path, env=environment | settings, stdout=writer, stderr=writer,
        )  # fmt: skip
        os.close(writer)
        server.url, server.reader = f"http://127.0.0.1:{free_port}", reader
        started.append(server)
        wait_for_http(f"{server.url}/health", server)
        said, deadline = b"", time.monotonic() + STARTED_SECONDS
        while said.count(b" INFO serve: serving ") < 2:
            assert time.monotonic() < deadline, said
            said += os.read(reader, 65536)
        return server

    yield start
    for server in started:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        os.close(server.reader)


def wait_for_rest(server):
    """Until all processes of the server together use less than 0.4 s of processor time in a second:
    what they do for some seconds after they have begun to serve is no part of what is measured.
    """
    deadline = time.monotonic() + STARTED_SECONDS
    used = cpu_seconds(server.pid)
    while True:
        time.sleep(1)
        before, used = used, cpu_seconds(server.pid)
        if used - before < 0.4:
            return
        assert time.monotonic() < deadline, "the server does not come to rest"


def fill(folder):
    """Leave no byte on the folder's disk."""
    with open(folder / "full", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def seconds_until_followed(url, version):
    """Until sixteen new connections, so both workers, are answered by `version`."""
    started = time.monotonic()
    while time.monotonic() - started < 10 * FOLLOWED:
        clients = [Client(url) for _ in range(16)]
        answers = [client.ask() for client in clients]
        for client in clients:
            client.close()
        assert all(status == 200 for status, _ in answers), answers
        if {answer["model"]["version"] for _, answer in answers} == {version}:
            return time.monotonic() - started
        time.sleep(0.02)
    pytest.fail(f"version {version} is not followed after {10 * FOLLOWED} s")


def test_nothing_optional_stops_serving_or_following(
    two_versions, serve_into_a_pipe, small_disk, tmp_path
):
    """Nobody reads the log, TMPDIR is full, the cache and the metrics' folder are gone, and all of
    it at once.
    """
    server = serve_into_a_pipe(TMPDIR=str(small_disk))
    workers = workers_of(server)
    wait_for_rest(server)
    waits = []

    def moved_to(version):
        two_versions.set_registered_model_alias(NAME, "champion", version)
        return seconds_until_followed(server.url, version)

    with Load(server.url, clients=2) as load:
        fill(small_disk)
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "cache").touch()  # nor can it be made again
        for folder in small_disk.glob("liquidity-metrics-*"):
            shutil.rmtree(folder)
        before = memory(server)
        for number in range(SWAPS):
            version = "12"[(number + 1) % 2]
            waits.append(moved_to(version))
            if waits[-1] > FOLLOWED:  # once more: another job of the machine may have had the cores
                print(f"followed after {waits.pop():.2f} s")
                moved_to("12"[number % 2])
                waits.append(moved_to(version))
            with urllib.request.urlopen(f"{server.url}/metrics", timeout=5) as response:
                assert b"liquidity_requests_total" in response.read()
        while sum(load.answers.values()) < REQUESTS:
            time.sleep(0.1)
    answered, after = sum(load.answers.values()), memory(server)
    assert not load.errors, load.errors[:3]
    assert max(waits) < FOLLOWED
    assert workers_of(server) == workers
    assert after < before + 50
    print(
        f"{answered:,} requests, 0 failed; {SWAPS} swaps followed after "
        f"{statistics.median(waits):.2f} s, at most {max(waits):.2f} s; "
        f"{before:.0f} to {after:.0f} MB"
    )


def test_a_worker_that_is_killed_meanwhile_is_replaced(two_versions, serve_into_a_pipe, small_disk):
    """The new one starts without disk and log, and goes on counting where the other ended."""
    server = serve_into_a_pipe(TMPDIR=str(small_disk))
    for _ in range(1000):
        assert post(f"{server.url}/predict", GOOD)[0] == 200
    time.sleep(4)  # a worker that dies within 3.5 seconds is taken for one that cannot start
    fill(small_disk)
    for folder in small_disk.glob("liquidity-metrics-*"):
        shutil.rmtree(folder)
    before = workers_of(server)
    os.kill(before[0], 9)
    deadline = time.monotonic() + STARTED_SECONDS
    while before[0] in (now := workers_of(server)) or len(now) < 2:
        assert time.monotonic() < deadline, "the killed worker is not replaced"
        time.sleep(0.1)
    time.sleep(8)
    assert workers_of(server) == now, "the new worker does not stay"
    counted = 0
    for _ in range(20):
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=5) as response:
            text = response.read().decode()
        found = [line for line in text.splitlines() if line.startswith("liquidity_rows_scored")]
        assert float(found[0].split()[1]) >= 1000
        counted += 1
    print(f"replaced; {counted} times asked, no count went back")


def test_a_log_whose_disk_is_full_or_whose_reader_has_gone_stops_nothing(
    two_versions, start_serve, small_disk
):
    fill(small_disk)
    with Path(small_disk, "full").open("ab") as full:
        server = start_serve(wait=False, output=full, MLFLOW_TRACKING_URI=mlflow.get_tracking_uri())
    wait_for_http(f"{server.url}/health", server)
    for _ in range(500):
        assert post(f"{server.url}/predict", GOOD)[0] == 200
    two_versions.set_registered_model_alias(NAME, "champion", "2")
    assert seconds_until_followed(server.url, "2") < FOLLOWED
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=5) as response:
        lost = [
            line
            for line in response.read().decode().splitlines()
            if line.startswith("liquidity_log_lines_lost_total ")
        ]
    assert float(lost[0].split()[1]) >= 500
    print(f"500 requests, {lost[0]}")
