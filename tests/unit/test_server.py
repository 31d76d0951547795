"""`python -m serve` as a real process: starting, stopping, swapping, and clients that misbehave."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import mlflow
import pandas as pd
import psutil
import pytest
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from support import (
    GOOD,
    INSTANCES,
    NAME,
    PROJECT,
    STARTED_SECONDS,
    declared_as_gigabytes,
    free_port_number,
    post,
    raw,
    starting_servers,
    wait_for_http,
    wait_for_workers,
    workers_of,
)

from serve.inputs import PARQUET
from serve.limits import UNPACKED_BYTES


def metrics_of(server):
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        return response.read().decode()


def model_of(server):
    with urllib.request.urlopen(f"{server.url}/model") as response:
        return json.load(response)


@pytest.fixture(scope="module")
def server(tmp_path_factory, complete):
    """One that goes on, for what harms none, until Ctrl-C in the last test of it."""
    folder, uri = tmp_path_factory.mktemp("server"), complete[0].tracking_uri
    with starting_servers(folder, free_port_number(), lambda: uri) as start:
        yield start(LIQUIDITY_PREDICTION_LOG=str(folder / "predictions"))


@pytest.fixture(scope="module")
def new_server(tmp_path_factory, empty_store):
    """One on an IPv6 address over a store without a model, until it is killed in the last test of
    it; with a client of the store.
    """
    folder, port = tmp_path_factory.mktemp("new"), free_port_number()
    uri = f"sqlite:///{shutil.copy(empty_store, folder)}"
    with starting_servers(folder, port, lambda: uri) as start:
        server = start("--host", "::1", wait=False)
        server.url = f"http://[::1]:{port}"
        wait_for_http(f"{server.url}/static/page.css", server)
        yield server, mlflow.MlflowClient(uri, uri)


def test_it_serves_swaps_and_ends_within_seconds(start_serve, complete):
    """One server for what needs no other: two workers, both doors, a swap, metrics, SIGTERM."""
    server = start_serve(workers=2)
    started = time.monotonic()
    status, answer = post(f"{server.url}/invocations")
    assert status == 200
    assert answer["predictions"][0]["liquidity"] > 0
    for _ in range(20):
        assert post(f"{server.url}/predict", GOOD)[0] == 200

    # Either worker adds up what both have counted, the other one with a short delay.
    counted = (
        'liquidity_requests_total{door="/predict",status="200"} 20.0\n',
        "liquidity_rows_scored_total 21.0\n",
        "liquidity_model_version 1.0\n",
    )
    deadline = time.monotonic() + 10
    while missing := [line for line in counted if line not in metrics_of(server)]:
        assert time.monotonic() < deadline, missing
        time.sleep(0.1)

    # When it was last found to be right, in both places: on a busy machine a worker may begin with
    # the cached copy, and ask the registry in its next round.
    while not (followed := model_of(server)["followed"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    followed = datetime.fromisoformat(followed)
    assert time.time() - 60 < followed.timestamp() <= time.time()
    assert "liquidity_model_followed_timestamp_seconds 1." in metrics_of(server)

    # MLflow's own client, unchanged.
    client = ScoringServerClient("127.0.0.1", int(server.url.rpartition(":")[2]))
    client.wait_server_ready(timeout=5, scoring_server_proc=server)
    predictions = client.invoke(pd.DataFrame([GOOD, GOOD]), params={"threshold": 0.0})
    assert list(predictions.get_predictions()["level"]) == ["High", "High"]

    # A worker killed is replaced, and the other answers meanwhile. (One that dies within 5.5
    # seconds of its start is taken for one that cannot start, and ends the server.)
    time.sleep(max(0, 6 - (time.monotonic() - started)))
    before = workers_of(server)
    os.kill(before[0], signal.SIGKILL)
    answered = []
    for _ in range(20):
        with suppress(OSError):  # a connection that the killed one had accepted
            answered.append(post(f"{server.url}/invocations")[0])
    assert answered.count(200) >= 18
    wait_for_workers(server, 3)  # one that is starting would take its time to end
    assert len(workers_of(server)) == 2
    assert before[0] not in workers_of(server)

    # SIGTERM lets the request in flight finish.
    rows = {"instances": [GOOD] * 10_000}  # a busy machine has four seconds for them too
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(post(f"{server.url}/invocations", rows))
    )
    thread.start()
    time.sleep(0.2)
    started = time.monotonic()
    server.terminate()
    thread.join(10)
    assert server.wait(10) == 0
    assert time.monotonic() - started < 5
    ((status, answer),) = answers
    assert status == 200
    assert len(answer["predictions"]) == 10_000


def test_clients_that_go_away_leave_no_trace(server):
    before = len(server.log.read_text())
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(INSTANCES).encode()
    for data in (
        head + b"Content-Length: 100\r\n\r\nhalf",
        head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhal",
        head + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        b"GET / HT",
        b"\x00\xff" * 50,
    ):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(data)
    time.sleep(0.5)
    assert post(f"{server.url}/invocations")[0] == 200
    log = server.log.read_text()[before:]
    assert "Traceback" not in log
    assert "rror" not in log, log


def test_bodies_in_chunks_cut_short_and_under_false_names(server):
    """What a WSGI application behind a gateway may get wrong."""
    head = b"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nConnection: close\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    rows = b"24h_volume,mkt_cap,1h,price\n" + b"1e7,1e8,0.01,1.0\n" * 3000
    chunk = b"%x\r\n%s\r\n" % (len(rows), rows)

    # Views take a body in chunks for a body.
    answer = raw(server.url, chunked + chunk + b"0\r\n\r\n")
    assert b" 200 " in answer.partition(b"\r\n")[0], answer

    # A part of a file is not answered as if it were all of it.
    for data, shut in (
        (chunked + chunk + b"zz\r\n", False),
        (chunked + chunk, True),
        (head + b"Content-Length: 9999999\r\n\r\n" + rows, True),
        (head + b"Content-Length: 1000\r\n\r\n" + rows[:500], True),
    ):
        answer = raw(server.url, data, shut=shut)
        assert b" 400 " in answer.partition(b"\r\n")[0], answer
        assert b"ended before all of it" in answer

    # A header with underscores is not the one with hyphens, which the server has checked.
    fields = b"Content_Length: x\r\nContent_Type: x\r\nX_Request_ID: forged\r\n"
    answer = raw(server.url, head + fields + b"Content-Length: %d\r\n\r\n" % len(rows) + rows)
    assert b" 200 " in answer.partition(b"\r\n")[0], answer
    assert b"forged" not in answer
    assert "Traceback" not in server.log.read_text()


def test_heavy_bodies_are_read_by_a_copy_of_the_worker(server):
    """Within the same bounds as in a process of its own, and holding nothing of the server's."""
    (worker,) = workers_of(server)
    (helper,) = psutil.Process(worker).children()
    assert helper.cmdline() == psutil.Process(worker).cmdline()
    assert os.getpgid(helper.pid) == helper.pid  # which Ctrl-C is not for
    held = {os.readlink(path) for path in Path(f"/proc/{helper.pid}/fd").iterdir()}
    assert len([name for name in held if name.startswith(("socket:", "pipe:"))]) == 1
    before = helper.memory_info().data
    body = pd.DataFrame([GOOD]).to_parquet()
    assert post(f"{server.url}/invocations", body, PARQUET)[0] == 200
    (reader,) = helper.children()
    assert reader.memory_info().data - before < UNPACKED_BYTES / 4  # no pool of Arrow's own
    body = declared_as_gigabytes(tuple(GOOD))
    status, answer = post(f"{server.url}/invocations", body, PARQUET)
    assert status == 413
    assert "takes more than 1 GiB" in answer["message"]
    for killed in (False, True):
        if killed:  # and replaced
            helper.kill()
            while helper.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
        status, answer = post(f"{server.url}/invocations", {"instances": [GOOD] * 1000})
        assert (status, len(answer["predictions"])) == (200, 1000)
        assert (psutil.Process(worker).children() == [helper]) is not killed


def test_ctrl_c_ends_it_as_any_other_command(server):
    url = f"{server.url}/predict"
    request = urllib.request.Request(url, json.dumps(GOOD).encode(), {"X-Request-ID": "last"})
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request).close()
    for pid in (server.pid, *workers_of(server)):  # as a terminal does
        os.kill(pid, signal.SIGINT)
    assert server.wait(10) == 130
    text = server.log.read_text()
    assert text.endswith("serve: stopped.\n"), text
    assert "Traceback" not in text
    logged = (server.log.parent / "predictions").read_text().splitlines()
    assert [json.loads(line)["request_id"] for line in logged].count("last") == 1


def test_a_start_without_a_champion_waits_for_one(new_server, model_folder):
    """503 with a sentence until there is one, then 200 without a restart."""
    server, store = new_server
    assert f"Serving on {server.url} " in server.log.read_text()
    status, answer = post(f"{server.url}/invocations")
    assert status == 503
    assert "No model is loaded" in answer["message"]
    store.create_registered_model(NAME)
    store.create_model_version(NAME, str(model_folder))
    store.set_registered_model_alias(NAME, "champion", "1")
    deadline = time.monotonic() + STARTED_SECONDS
    while time.monotonic() < deadline:
        if post(f"{server.url}/invocations")[0] == 200:
            assert post(f"{server.url}/predict", GOOD)[0] == 200
            return
        time.sleep(0.1)
    raise AssertionError(server.log.read_text())


def test_workers_end_with_a_killed_parent(new_server):
    server, _ = new_server
    (worker,) = psutil.Process(server.pid).children()
    started = [worker, *worker.children()]
    assert len(started) == 2  # the other one reads heavy bodies
    server.kill()
    server.wait()
    _, alive = psutil.wait_procs(started, timeout=5)
    for process in alive:
        process.kill()
    assert not alive, "they outlived their parent"


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        (["--port", "0"], {}, "expected a whole number >= 1"),
        (["--workers", "0"], {}, "expected a whole number >= 1"),
        (["--port", "99999"], {}, "port 99999 cannot be used"),
        (["--host", "256.1.1.1"], {}, "256.1.1.1 port .* cannot be used"),
        ([], {"LIQUIDITY_REFRESH_SECONDS": "soon"}, "LIQUIDITY_REFRESH_SECONDS: expected a number"),
        ([], {"LIQUIDITY_MODEL_URI": "champion"}, "expected models:/<name>@<alias>"),
        ([], {"LIQUIDITY_API_KEY": "key\n"}, "LIQUIDITY_API_KEY: expected printable ASCII"),
        ([], {"LIQUIDITY_PREDICTION_LOG": "/proc/x/log"}, "PREDICTION_LOG cannot be written"),
    ],
)
def test_settings_that_make_no_sense_are_one_sentence(start_serve, options, settings, message):
    server = start_serve(*options, wait=False, **settings)
    assert server.wait(STARTED_SECONDS) == 2
    text = server.log.read_text()
    assert re.search(message, text), text
    assert len(text.splitlines()) == 1
    assert text.startswith("serve: ")


def test_a_start_imports_nothing_that_only_training_needs(model_folder):
    """It would take seconds and megabytes of every worker; the parent needs less still."""
    parent = "import serve.__main__"
    worker = (
        "import serve.worker; from liquidity.model.loading import load_checked;"
        "load_checked(sys.argv[1]).answer_row([1e7, 1e8, 0.01, 1.0])"
    )
    for code, needed, unwanted in ((parent, {"granian"}, WORKER), (worker, WORKER, TRAINING)):
        code = f"import sys; {code}; print(*sys.modules)"
        result = subprocess.run(
            [sys.executable, "-c", code, model_folder],
            cwd=PROJECT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        loaded = set(result.stdout.split())
        assert needed <= loaded
        assert not unwanted & loaded


WORKER = {"flask", "mlflow", "numpy", "prometheus_client"}
TRAINING = {
    "sklearn", "skrub", "matplotlib", "rich", "skops", "onnx", "onnxruntime",
    "dask", "distributed",
    "liquidity.data.market", "liquidity.data.readers", "liquidity.search", "liquidity.report.style",
}  # fmt: skip


def test_a_port_in_use_is_one_sentence(start_serve, free_port):
    with socket.create_server(("127.0.0.1", free_port)):
        server = start_serve(wait=False)
        assert server.wait(STARTED_SECONDS) == 2
    assert f"port {free_port} cannot be used: Address already in use" in server.log.read_text()
