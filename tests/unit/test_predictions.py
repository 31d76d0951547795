"""The prediction log: shared by workers, rotated, and whole lines when the disk is full."""

import json
import resource
import threading
import time
from collections import Counter

import numpy as np
import pytest

from serve import background, prediction_log
from serve.prediction_log import PredictionLog

SCORES = {"liquidity": 0.1, "level": "Low"}


@pytest.fixture
def make_log(tmp_path):
    logs = []

    def make():
        logs.append(PredictionLog(tmp_path / "log.jsonl"))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def lines_of(tmp_path):
    paths = sorted(tmp_path.glob("log.jsonl*"))
    return [
        json.loads(line)
        for path in paths
        if path.suffix != ".lock"
        for line in path.read_text().splitlines()
    ]


def test_two_workers_rotate_one_log_and_lose_no_line(make_log, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_log, "ROTATE_BYTES", 20_000)
    monkeypatch.setattr(prediction_log, "FILES_KEPT", 50)
    monkeypatch.setattr(background, "FLUSH_SECONDS", 0.001)
    logs = [make_log(), make_log()]

    def fill(log, name):
        for number in range(2000):
            log.put(f"{name}-{number}", "1", ["price"], [[1.5]], SCORES)
            if number % 100 == 0:
                time.sleep(0.005)

    threads = [threading.Thread(target=fill, args=(log, i)) for i, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    found = [line["request_id"] for line in lines_of(tmp_path)]
    assert len(found) == len(set(found)) == 4000
    assert len(list(tmp_path.glob("log.jsonl.*"))) > 3


def test_each_worker_writes_its_own_file_and_leaves_the_name_to_the_next(make_log, tmp_path):
    first, second = make_log(), make_log()
    first.close()
    third = make_log()
    for name, log in (("second", second), ("third", third)):
        log.put(name, "1", ["price"], [[1.5]], SCORES)
        log.close()
    assert '"third"' in (tmp_path / "log.jsonl").read_text()
    assert '"second"' in (tmp_path / "log.jsonl-2").read_text()
    assert not (tmp_path / "log.jsonl-3").exists()


def test_only_the_newest_files_are_kept(make_log, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_log, "ROTATE_BYTES", 0)
    log = make_log()
    for number in range(9):
        log.put(str(number), "1", ["price"], [[1.5]], SCORES)
        log.flush()
    log.close()
    found = {line["request_id"] for line in lines_of(tmp_path)}
    assert "8" in found
    assert "0" not in found
    assert len(list(tmp_path.glob("log.jsonl.?"))) == prediction_log.FILES_KEPT


def test_a_full_disk_is_said_once_and_leaves_no_half_line(make_log, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(prediction_log, "WAITING_BYTES", 10 * prediction_log.ROW_BYTES)
    monkeypatch.setattr(background, "FLUSH_SECONDS", 60)  # flushed by hand
    log = make_log()
    log.put("first", "1", ["price"], [[1.5]], SCORES)
    log.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, ((tmp_path / "log.jsonl").stat().st_size + 5, before[1])
    )
    try:
        for number in range(20):
            log.put(str(number), "1", ["price"], [[1.5]], SCORES)
            log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(lines_of(tmp_path)) == 1
    assert sum("cannot be written" in record.message for record in caplog.records) == 1
    log.flush()
    log.flush()
    assert [line["request_id"] for line in lines_of(tmp_path)] == ["first", *map(str, range(11))]


def test_what_waits_for_a_full_disk_is_bounded_in_bytes(make_log, tmp_path, monkeypatch):
    """Requests of 100,000 rows that waited as requests of one row do would take gigabytes."""
    monkeypatch.setattr(background, "FLUSH_SECONDS", 60)
    monkeypatch.setattr(prediction_log, "WAITING_BYTES", 10 * 2**18)
    rows, requests = 25_000, 12  # of 0.6 MB each, as text of 2 MB
    scores = {"liquidity": np.full(rows, 0.1), "level": np.full(rows, "Low")}
    log = make_log()
    append, sizes = log._append, []

    def fail(lines):
        raise OSError("disk full")

    log._append = fail
    for number in range(requests):
        log.put(str(number), "1", ["price"], np.ones((rows, 1)), scores)
        log.flush()
    log._append = lambda lines: (sizes.append(len(lines)), append(lines))
    started = time.monotonic()
    log.flush()
    assert time.monotonic() - started < 20
    found = Counter(line["request_id"] for line in lines_of(tmp_path))
    kept = 4
    assert set(found.values()) == {rows}
    assert list(found) == [str(number) for number in range(len(found))]
    assert len(found) == kept + 1  # one was half written
    assert max(sizes) < 2**20


def test_a_path_that_cannot_be_written_fails_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        PredictionLog(tmp_path / "file" / "log")
