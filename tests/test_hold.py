"""What holds under load and faults; slow, so `make soak` runs it."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter

import mlflow
import pytest
from conftest import GOOD, SHORT
from test_champion import NAME, build_model  # noqa: F401
from test_server import workers_of

pytestmark = pytest.mark.soak
BODY = json.dumps(GOOD).encode()
REQUEST = (
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
) + BODY
SWAPS = 20 if SHORT else 100
LEAST = 20_000 if SHORT else 100_000  # requests
KILLS = 2 if SHORT else 5


class Client:
    """A keep-alive connection that asks for the same coin again and again."""

    def __init__(self, url):
        self._address = tuple(url.removeprefix("http://").split(":"))
        self._connection = None

    def ask(self):
        """Status and answer; None and the error where the connection broke."""
        try:
            if self._connection is None:
                self._connection = socket.create_connection(self._address, timeout=20)
            self._connection.sendall(REQUEST)
            data = b""
            while b"\r\n\r\n" not in data:
                data += self._received()
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(body) < length:
                body += self._received()
            return int(head[9:12]), json.loads(body)
        except OSError as error:
            self.close()
            return None, repr(error)

    def _received(self):
        data = self._connection.recv(65536)
        if not data:
            raise ConnectionResetError("closed by the server")
        return data

    def close(self):
        if self._connection:
            self._connection.close()
            self._connection = None


class Load:
    """Clients in threads, until the with block ends; `answers` counts (status, version, score)."""

    def __init__(self, url, clients=4):
        self._url = url
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        self._counters = []
        self.errors = []

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join()

    @property
    def answers(self):
        return sum(self._counters, Counter())

    def _run(self):
        client, counter = Client(self._url), Counter()
        self._counters.append(counter)
        while not self._end.is_set():
            status, answer = client.ask()
            if status == 200:
                counter[status, answer["model"]["version"], answer["liquidity"]] += 1
            else:
                counter[status, None, None] += 1
                self.errors.append(answer)
        client.close()


@pytest.fixture
def registry(store, build_model):  # noqa: F811
    """Two versions of different scores: `{version: score}`, version 1 is champion."""
    store.create_registered_model(NAME)
    for trees in (3, 5):
        store.create_model_version(NAME, build_model(trees))
    store.set_registered_model_alias(NAME, "champion", "1")
    scores = {}
    for version in ("1", "2"):
        model = mlflow.pyfunc.load_model(f"models:/{NAME}/{version}").unwrap_python_model()
        scores[version] = model.answer_row(list(GOOD.values()))["liquidity"]
    assert scores["1"] != scores["2"]
    return scores


def test_swaps_under_load_drop_and_mix_nothing(store, registry, start_serve):
    server = start_serve(
        "--workers", "2", MLFLOW_TRACKING_URI=mlflow.get_tracking_uri(),
        LIQUIDITY_REFRESH_SECONDS="0.1",
    )  # fmt: skip
    late = 0
    with Load(server.url) as load:
        for number in range(SWAPS):
            version = "21"[number % 2]
            store.set_registered_model_alias(NAME, "champion", version)
            time.sleep(1)  # asking, loading and swapping in both workers, all cores busy
            clients = [Client(server.url) for _ in range(4)]
            late += sum(c.ask()[1]["model"]["version"] != version for c in clients)
            for client in clients:
                client.close()
        while sum(load.answers.values()) < LEAST:
            time.sleep(1)
    answers = load.answers
    assert not load.errors
    assert {(version, score) for _, version, score in answers} == set(registry.items())
    assert sum(answers.values()) >= LEAST
    assert late == 0
    print(f"{SWAPS} swaps, {sum(answers.values()):,} requests, 0 failed, 0 mixed, 0 late")


def test_killed_workers_cost_at_most_the_requests_they_held(registry, start_serve):
    server = start_serve("--workers", "2", MLFLOW_TRACKING_URI=mlflow.get_tracking_uri())
    time.sleep(4)
    with Load(server.url) as load:
        for _ in range(KILLS):
            os.kill(workers_of(server)[0], signal.SIGKILL)
            deadline = time.monotonic() + 20
            while len(workers_of(server)) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(5)  # a worker that dies within 3.5 seconds is taken for a crash loop
    answered = sum(load.answers.values())
    assert server.poll() is None
    # Each of the four clients may have been talking to it, and have met its closing door once more.
    assert len(load.errors) <= 2 * 4 * KILLS
    print(f"{KILLS} workers killed, {answered:,} requests, {len(load.errors)} cut off")


def test_five_hundred_idle_and_slow_clients_leave_others_half_the_speed(registry, start_serve):
    server = start_serve(MLFLOW_TRACKING_URI=mlflow.get_tracking_uri())
    address = tuple(server.url.removeprefix("http://").split(":"))

    def rate():
        with Load(server.url) as load:
            time.sleep(5)
        assert not load.errors
        return sum(load.answers.values()) / 5

    rate()
    alone = rate()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    beginnings = [b"", b"POST /pre", head, head + b"Content-Length: 50\r\n\r\n{",
                  head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"]  # fmt: skip
    idle = []
    for number in range(500):
        connection = socket.create_connection(address)
        connection.sendall(beginnings[number % len(beginnings)])
        idle.append(connection)
    beside = rate()
    for connection in idle:
        connection.close()
    assert beside >= alone / 2
    assert "Traceback" not in server.log.read_text()
    print(f"{alone:.0f} requests/s alone, {beside:.0f} beside 500 idle and slow clients")
