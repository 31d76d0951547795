"""What a request leaves behind: log and numbers, which neither wait nor end for anything."""

import logging
import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from support import GOOD, INFO

from serve import background, log_stream, metrics, request_log, shared
from serve.app import close_app
from serve.background import Background
from serve.champion import Followed, Served
from serve.log_stream import LogStream
from serve.metrics import Metrics
from serve.shared import Places, shared_places


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        os.close(descriptor)


def read_all(descriptor, expected):
    text = b""
    while expected not in text:
        text += os.read(descriptor, 65536)
    return text.decode()


def test_a_log_that_nobody_reads_holds_nobody_up(pipe, monkeypatch):
    reader, writer = pipe
    monkeypatch.setattr(log_stream, "WAITING_BYTES", 100_000)
    log, dropped = LogStream(writer), []
    log.on_drop = dropped.append
    started = time.monotonic()
    for number in range(10_000):
        log.write(f"line {number} of a log\n" * 2)
    log.end()
    assert time.monotonic() - started < 3
    assert 0 < sum(dropped) < 20_000
    text = read_all(reader, b"line 0 ")
    assert text.startswith("line 0 of a log\n")
    # What still waits would be written to whatever gets the descriptor's number next.
    os.set_blocking(reader, False)
    while log._thread.is_alive():
        with suppress(BlockingIOError):
            os.read(reader, 65536)


def test_lines_that_were_lost_are_said_when_there_is_a_reader_again(tmp_path):
    """A full disk is one that later has room."""
    reader, writer = os.pipe()
    os.close(reader)
    log, dropped = LogStream(writer), []
    log.on_drop = dropped.append
    log.write("one\ntwo\n")
    while not dropped:
        time.sleep(0.01)
    with open(tmp_path / "log", "wb") as file:
        os.dup2(file.fileno(), writer)
        log.write("three\n")
        log.end()
    os.close(writer)
    first, last = (tmp_path / "log").read_text().splitlines()
    assert last.endswith("WARNING serve: 2 lines before this one were lost")
    assert (first, dropped) == ("three", [2])


def test_work_that_fails_is_called_again_and_said_once(monkeypatch, caplog):
    monkeypatch.setattr(background, "FLUSH_SECONDS", 0.001)
    done = []

    def work(items):
        for item in items:
            if item == "bad":
                raise RuntimeError("a bug")
            done.append(item)

    thread = Background(work, name="worker")
    for item in ("bad", 1, "bad", 2, "bad", 3):
        thread.put(item)
    deadline = time.monotonic() + 5
    while len(done) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    thread.close()
    assert done == [1, 2, 3]
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == [
        "the worker failed"
    ]


def test_a_recorder_that_is_behind_drops_and_counts(monkeypatch):
    monkeypatch.setattr(request_log, "WAITING", 10)
    numbers = Metrics()
    recorder = request_log.Recorder(numbers)
    with recorder._background._one:  # as long as it is busy
        for _ in range(30):
            recorder.put("/", 200, 0.001, "GET", "/", "i", "-", None)
    recorder.close()
    text = numbers.exposition().decode()
    assert 'liquidity_requests_total{door="/",status="200"} 10.0' in text
    assert "liquidity_log_lines_lost_total 20.0" in text


def test_asking_for_metrics_waits_for_no_log(app, monkeypatch):
    """The door is answered on the event loop, where a wait for stderr stops all others."""
    client = app.test_client()
    monkeypatch.setattr(sys, "stderr", None)  # whoever writes to it now fails the request
    client.post("/predict", json=GOOD)
    assert client.get("/metrics").status_code == 200


OTHER = """
import sys, time
from serve.metrics import Metrics
numbers = Metrics()
for _ in range(int(sys.argv[1])):
    numbers.answered("/predict", 200, 0.0003)
numbers.publish()
print("published", flush=True)
if sys.argv[2:]:
    time.sleep(60)
"""


def requests_in(numbers):
    (line,) = [
        line
        for line in numbers.exposition().decode().splitlines()
        if line.startswith("liquidity_requests_total{")
    ]
    return float(line.split()[1])


def test_workers_add_up_and_one_that_dies_is_continued():
    with shared_places(2):
        own = Metrics()
        own.answered("/predict", 200, 0.1)
        for asked, expected in ((3, 4), (5, 9)):
            other = subprocess.Popen(
                [sys.executable, "-c", OTHER, str(asked), "stay"], stdout=subprocess.PIPE
            )
            assert other.stdout.readline() == b"published\n"
            assert requests_in(own) == expected
            other.kill()
            other.communicate()
            assert requests_in(own) == expected
        assert 'liquidity_request_seconds_bucket{door="/predict",le="0.0005"} 8.0' in (
            own.exposition().decode()
        )


def test_a_write_that_a_kill_cut_short_leaves_what_was_there_before(monkeypatch):
    with shared_places(2):
        one, two = Places(), Places()
        one.write(b"first")
        whole = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: whole(fd, data[:-3], at))
        one.write(b"second")
        assert two.others() == [b"first"]
        monkeypatch.undo()
        one.write(b"third")
        assert two.others() == [b"third"]
        one.write(b"x" * shared.HALF)  # too large to be shown
        assert two.others() == [b"third"]


def test_without_places_a_worker_counts_by_itself(monkeypatch):
    for places in ("", "/proc/1/fd/999:/nowhere"):
        monkeypatch.setenv(shared.VARIABLE, places)
        numbers = Metrics()
        numbers.answered("/predict", 200, 0.1)
        numbers.publish()
        assert requests_in(numbers) == 1


def test_of_workers_that_follow_the_one_that_is_worst_off_counts(inner, monkeypatch):

    served = Served(inner, INFO)
    with shared_places(2):
        one, two = Metrics(), Metrics()
        for numbers, now in ((two, 1000.0), (one, 2000.0)):
            monkeypatch.setattr(metrics, "time", lambda now=now: now)
            numbers.followed(Followed(served))
            numbers.swapped(served)
            numbers.publish()
        text = one.exposition().decode()
    assert "liquidity_model_followed_timestamp_seconds 1000.0" in text
    assert "liquidity_model_loaded_timestamp_seconds 2000.0" in text


def test_before_the_first_model_there_is_no_version():
    """An alert looks for the absence of the number."""
    assert b"\nliquidity_model_version " not in Metrics().exposition()


def test_closing_does_not_wait_for_what_hangs(app, monkeypatch):
    monkeypatch.setattr(background, "CLOSE_SECONDS", 0.1)
    hanging = Background(lambda items: time.sleep(3), name="hanging")
    time.sleep(0.1)
    started = time.monotonic()
    hanging.close()
    assert time.monotonic() - started < 1
    close_app(app)
