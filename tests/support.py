"""What the tests of all folders share: constants, real servers and jobs, and what asks them.

conftest.py has the fixtures.
"""

import asyncio
import html
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import wait
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pyarrow
import pytest
from joblib.externals.loky.process_executor import ProcessPoolExecutor
from werkzeug.datastructures import Headers
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from liquidity.contract import ACTUAL, COVERAGE, EPSILON
from liquidity.data.table import describe_target, inputs_and_target
from liquidity.model.packaging import log_model
from liquidity.monitor import ledger
from liquidity.monitor.forecasts import new_table
from liquidity.processes import exit_with_parent
from serve.app import close_app, create_app
from serve.champion import Followed, NoModel, Served
from serve.unpacking import Unpacker
from serve.worker import gateway

PROJECT = Path(__file__).parents[1]
SAMPLE = PROJECT / "data/sample.csv"
# A whole job in four seconds.
SMALL = ["--data", str(SAMPLE), "--n-estimators", "3,6", "--max-depth", "none,4"]
SMALL += ["--min-samples-split", "2", "--cv", "3"]
SMALL_FORECAST = ["--n-estimators", "5,10", "--min-samples-leaf", "20", "--max-features", "0.4"]
SMALL_FORECAST += ["--max-samples", "0.5", "--cv", "3", "--promote", "always"]
NAME = "crypto-liquidity"
CHAMPION = f"models:/{NAME}@champion"
GOOD = {"24h_volume": 1e7, "mkt_cap": 1e8, "1h": 0.01, "price": 1.0}
INSTANCES = {"instances": [GOOD]}
COLUMNS, ROW = list(GOOD), list(GOOD.values())
# The slow tests in their short form, where minutes count.
SHORT = os.environ.get("LIQUIDITY_SOAK") == "short"
full_only = pytest.mark.skipif(SHORT, reason="not in the short form")
STARTED_SECONDS = 120  # for MLflow and serve to start where others keep all cores busy
CHROMIUM = "/usr/bin/chromium"  # Debian's
# The accessibility rules that pages are held to, as npm packs them, and the SHA-512 of that.
AXE = "axe-core@4.14.1"
AXE_SHA512 = (
    "1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b73"
    "4f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5"
)
REAL_DATA = Path(os.environ.get("LIQUIDITY_REAL_DATA", PROJECT / "../shared/data"))
# What a browser sends that asks for a page.
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
# What a champion's service knows of it beside the model.
INFO = {
    "name": "crypto-liquidity", "version": "3", "alias": "champion", "run_id": "r",
    "registered": "2026-01-01T00:00:00+00:00", "metrics": {"test_r2": 0.97},
    "source": "registry", "source_uri": "models:/m-1", "folder": "f", "load_seconds": 0.1,
}  # fmt: skip


def log_same_day(fitted, table):
    """Log a fitted pipeline as a same-day model of the active run; returns its URI."""
    return log_model(
        fitted,
        table,
        inputs_and_target(table)[0],
        horizon=0,
        target=describe_target(table),
        interval={"coverage": COVERAGE, "quantile": 0.5, "epsilon": EPSILON},
        digest="d",
    )


class Standing:
    """A champion that stays what it is; None is one that could not be loaded."""

    def __init__(self, served):
        self.served = served

    def current(self):
        if self.served is None:
            raise NoModel("No model is loaded: train one.")
        return self.served

    def followed(self, served):
        return Followed(served)

    def stop(self):
        pass


class StandingUnpacker(Unpacker):
    """The helper of every application that a process of tests makes, which takes seconds to start;
    conftest.py ends it with the process.
    """

    def close(self):
        pass

    def end(self):
        super().close()

    def _start(self):
        super()._start()
        self._pipe.send((len, (b"",)))
        # A call has less patience than it takes to start where others keep all cores busy.
        assert self._pipe.poll(STARTED_SECONDS), "the helper did not start"
        self._pipe.recv()


UNPACKER = StandingUnpacker()


@contextmanager
def standing_app(inner, *, served=True, fastlane=True, **config):
    """The application over a model that stays, or over none; closed after the with block.

    It follows no forecasts unless told which: the store would be that of the working folder.
    """
    champion = Standing(Served(inner, INFO) if served else None)
    config = {"FORECASTS": ""} | config
    app = create_app(config, champion, fastlane=fastlane, unpacker=UNPACKER)
    try:
        yield app
    finally:
        close_app(app)


def post_to_gateway(app, path, data, **headers):
    """What a worker answers to a POST of these bytes, which may go around Flask, as a Response."""
    sent = {"content-length": str(len(data)), "content-type": "application/json"}
    sent |= {name.replace("_", "-").lower(): value for name, value in headers.items()}

    class Protocol:
        async def __call__(self):
            return data

        def response_bytes(self, status, headers, body):
            self.response = TestResponse([body], status, Headers(headers), request=None)

    scope = SimpleNamespace(
        method="POST", path=path, query_string="", scheme="http", http_version="1.1",
        server="127.0.0.1:8000", client="127.0.0.1:50000", headers=sent,
    )  # fmt: skip
    protocol = Protocol()
    asyncio.run(gateway(app).__rsgi__(scope, protocol))
    return protocol.response


class StandingWorkers:
    """Worker processes for every search of a process of tests, as each takes seconds to start.

    Their workers are a search's own in its local_executor, which jobs in processes of their own
    are tested with; what such a search leaves undone, they do not do either.
    """

    def __init__(self):
        self._pool = None

    @contextmanager
    def executor(self, n_jobs):
        """What stands in for liquidity.executors.local.local_executor."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                2, initializer=exit_with_parent, initargs=(os.getpid(),)
            )
        calls = []

        def submit(*call, **options):
            calls.append(self._pool.submit(*call, **options))
            return calls[-1]

        try:
            yield SimpleNamespace(submit=submit)
        finally:
            wait([call for call in calls if not call.cancel()])

    def end(self):
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


@contextmanager
def use_copy(database, tmp_path, monkeypatch):
    """A copy of a store in the test's folder, which is the working folder; yields a client."""
    shutil.copy(database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    # mlflow.set_experiment sets a variable and a global, which the next test would find.
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.setenv(name, "")  # so that there is something to put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    yield mlflow.MlflowClient()
    assert mlflow.active_run() is None, "a test left a run open"


def coin(number, **fields):
    """A coin as CoinGecko's /coins/markets answers it."""
    return {
        "id": f"coin-{number}", "symbol": f"c{number}", "name": f"Coin {number}",
        "image": "https://example.org/coin.png", "current_price": 1.5, "market_cap": 10_000_000,
        "market_cap_rank": number, "total_volume": 2_000_000.0,
        "roi": {"times": 5, "currency": "usd", "percentage": 500},
        "last_updated": "2026-11-24T23:59:01.123Z",
        "price_change_percentage_1h_in_currency": 1.0,
        "price_change_percentage_24h_in_currency": -2,
        "price_change_percentage_7d_in_currency": 3.0,
        **fields,
    }  # fmt: skip


def wait_for_http(url, server=None):
    """Return once `url` answers with success; fails where the process `server` has ended."""
    deadline = time.monotonic() + STARTED_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            assert server is None or server.poll() is None, f"the server of {url} has ended"
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer within {STARTED_SECONDS} s")


def wait_for_workers(server, count):
    """Return once so many workers of `start_serve` have said that they serve a model: any one
    that has answers /health, and each asks the registry by itself.
    """
    deadline = time.monotonic() + STARTED_SECONDS
    while time.monotonic() < deadline:
        if server.log.read_text()[server.log_start :].count(" INFO serve: serving ") >= count:
            return
        time.sleep(0.05)
    raise AssertionError(server.log.read_text()[-2000:])


@contextmanager
def starting_servers(folder, port, registry_uri):
    """Yields what starts `python -m serve` in the folder, over `registry_uri()` or the registry of
    `settings`; it returns the process, by default when every worker has a model. All end with the
    with block.
    """
    servers = []

    def start(*options, workers=1, wait=True, output=None, **settings):
        if "MLFLOW_TRACKING_URI" not in settings:
            settings["MLFLOW_TRACKING_URI"] = registry_uri()
        environment = os.environ | {
            "PYTHONPATH": str(PROJECT),
            "LIQUIDITY_CACHE_DIR": str(folder / "cache"),
            "LIQUIDITY_REFRESH_SECONDS": "0.2",
        }
        command = [sys.executable, "-m", "serve", "--port", str(port)]
        command += ["--workers", str(workers), *options]
        with (folder / "log").open("a") as log:
            before = log.tell()
            server = subprocess.Popen(
                command, cwd=folder, env=environment | settings,
                stdout=output or log, stderr=output or log,
            )  # fmt: skip
        server.url = f"http://127.0.0.1:{port}"
        server.log, server.log_start = folder / "log", before
        servers.append(server)
        if wait:
            wait_for_http(f"{server.url}/health", server)
            wait_for_workers(server, workers)
        return server

    try:
        yield start
    finally:
        for server in servers:
            if server.poll() is None:
                server.terminate()
        for server in servers:
            server.wait(30)


def all_runs(store):
    """The runs of every experiment, children too."""
    return store.search_runs([e.experiment_id for e in store.search_experiments()])


def parents(store):
    return [run for run in all_runs(store) if "mlflow.parentRunId" not in run.data.tags]


def children(store, parent):
    condition = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    return store.search_runs([parent.info.experiment_id], condition)


def free_port_number():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MlflowServer:
    """A real `mlflow server` over the folder's mlflow.db, up for the time of a with block, in
    which it can be stopped, started again and held still.
    """

    def __init__(self, folder):
        self._folder = folder
        self._port = free_port_number()
        self._process = None
        self.uri = f"http://127.0.0.1:{self._port}"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, start_new_session=True,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )  # fmt: skip
        wait_for_http(f"{self.uri}/health", self._process)

    def stop(self, number=signal.SIGTERM):
        if self._process:
            self._signal(signal.SIGCONT)
            self._signal(number)
            self._process.wait(60)
            self._process = None

    def hang(self):
        """From now on it accepts connections and never answers."""
        self._signal(signal.SIGSTOP)

    def wake(self):
        self._signal(signal.SIGCONT)

    def _signal(self, number):
        os.killpg(self._process.pid, number)


TRIALS = 27  # of a search over three values of each param


METRICS = {
    "best_r2", "test_r2", "test_log_r2", "test_rmse", "test_mae", "baseline_test_r2",
    "formula_test_r2", "mean_test_r2", "interval_coverage", "high_precision", "high_recall",
    "high_f1", "trials", "rows_read", "rows_used",
}  # fmt: skip


def scores(client, parent):
    """What a search is worth: each finished trial's params, r2 of every fold and rank."""
    return {
        tuple(sorted(child.data.params.items())): {
            key: value for key, value in child.data.metrics.items() if key != "fit_seconds"
        }
        for child in finished_children(client, parent)
    }


def finished_children(client, parent):
    return [c for c in children(client, parent) if c.info.status == "FINISHED"]


class Job:
    """`train.py` in a folder and on a store of its own."""

    def __init__(self, folder, *options, uri=None):
        self.folder, self.uri = folder, uri or f"sqlite:///{folder}/mlflow.db"
        self.client = mlflow.MlflowClient(self.uri, self.uri)
        self.options = options

    def start(self, *command):
        """Start the job, or `command` in its place, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, *(command or [PROJECT / "train.py", *self.options])],
            cwd=self.folder, text=True,
            env=os.environ | {"MLFLOW_TRACKING_URI": self.uri, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self):
        """Run to the end, which has to be a good one; returns what was printed."""
        return finish(self.start())

    def finished(self):
        return [run for run in parents(self.client) if run.info.status == "FINISHED"]

    def scores(self, parent):
        return scores(self.client, parent)

    def trials(self, parent):
        return finished_children(self.client, parent)

    def versions(self):
        return self.client.search_model_versions(f"name = '{NAME}'")


def finish(process, timeout=300):
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def wait_for_trials(job, count):
    """The newest search of the job's store, once it has so many finished trials."""
    deadline = time.monotonic() + STARTED_SECONDS
    while time.monotonic() < deadline:
        newest = parents(job.client)[:1]
        if newest and len(job.trials(newest[0])) >= count:
            return newest[0]
        time.sleep(0.2)  # each look costs this process as much as it costs the job
    raise AssertionError(f"no {count} trials appeared within {STARTED_SECONDS} s")


def post(url, body=INSTANCES, content_type="application/json"):
    """Status and decoded answer; a body that is neither bytes nor text is sent as JSON."""
    if not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
    request = urllib.request.Request(url, body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def workers_of(server):
    """The process ids of a server's workers."""
    found = subprocess.run(["pgrep", "-P", str(server.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def raw(url, data, *, wait=5, shut=False):
    """Send bytes as they are, `shut` the sending side, return what comes back within `wait` s."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(data)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        try:
            return connection.recv(65536)
        except TimeoutError:
            return b""


# One coin as bytes, for clients that have no time to make them.
BODY = json.dumps(GOOD).encode()
REQUEST = (
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
) + BODY


def commands_of(page):
    """`(section, language, text)` of each command on the page for programs."""
    for section, text in re.findall(r'<h2 id="(\w+)">(.*?)</section>', page, re.DOTALL):
        for language, code in re.findall(r'<code class="(\w+)">(.*?)</code>', text, re.DOTALL):
            if language in INTERPRETERS:
                yield section, language, html.unescape(code)


INTERPRETERS = {"bash": ["bash", "-e"], "python": [sys.executable], "javascript": ["node"]}


def run_commands(page, folder, **environment):
    """Run each command of the page from a folder of its own: `{(section, language): output}`.

    Those in JavaScript are left out where there is no node.
    """
    printed = {}
    for section, language, text in commands_of(page):
        program = INTERPRETERS[language]
        if not shutil.which(program[0]):
            continue
        place = folder / f"{section}-{language}"
        place.mkdir()
        (place / "example.mjs").write_text(text)
        done = subprocess.run(
            [*program, "example.mjs"], cwd=place, env=os.environ | environment,
            capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        printed[section, language] = done.stdout
    return printed


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
        self._last = {}
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

    @property
    def last_versions(self):
        """The versions that the clients' last answers came from."""
        return set(self._last.values())

    def answered_by(self, version):
        return sum(n for (_, by, _), n in self.answers.items() if by == version)

    def _run(self):
        client, counter = Client(self._url), Counter()
        self._counters.append(counter)
        while not self._end.is_set():
            status, answer = client.ask()
            if status == 200:
                version = answer["model"]["version"]
                counter[status, version, answer["liquidity"]] += 1
                self._last[client] = version
            else:
                counter[status, None, None] += 1
                self.errors.append(answer)
        client.close()


def memory(server):
    """MB that the workers hold."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in workers_of(server)]
    return sum(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) for text in texts) / 1024


def mlflow_models(*arguments, model_folder, **options):
    """The command `mlflow models ...` over the store whose champion is the tests' model."""
    programs = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",  # MLflow starts uvicorn by its name
        "MLFLOW_TRACKING_URI": f"sqlite:///{model_folder.parent}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [programs / "mlflow", "models", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, start_new_session=True, **options)


@contextmanager
def mlflow_scoring_server(model_folder, folder, env_manager, *, uri=CHAMPION):
    """MLflow's own server of that model; yields the address of its door for scores."""
    port = free_port_number()
    with open(folder / "log", "w") as log:
        job = mlflow_models(
            "serve", "-m", uri, "--env-manager", env_manager, "--port", port,
            model_folder=model_folder, stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
        try:
            wait_for_http(f"http://127.0.0.1:{port}/ping", job)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(job.pid, signal.SIGTERM)
            job.wait(timeout=20)


@lru_cache
def declared_as_gigabytes(names):
    """Parquet of one row whose page of each column unpacks to 1 GiB: 131 kB, 4 GiB unpacked.

    Written by hand, as no library writes it: Thrift's compact protocol, a field's number and type
    in one byte, whole numbers as zigzag.
    """

    def number(value):
        value, out = value << 1, b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return out + bytes([value])

    def text(value):
        return bytes([len(value)]) + value.encode()

    page = struct.pack("<d", 1.0) + bytes(2**30 - 8)
    packed = pyarrow.compress(page, codec="zstd", asbytes=True)
    counts = b"\x15" + number(1) + b"\x15\x00\x15\x06\x15\x06\x00"  # one value, plain
    header = b"\x15\x00\x15" + number(len(page)) + b"\x15" + number(len(packed)) + b"\x2c" + counts
    body, chunks = b"PAR1", b""
    schema = b"\x48" + text("schema") + b"\x15" + number(len(names)) + b"\x00"
    for name in names:
        start, length = len(body), len(header) + 1 + len(packed)
        body += header + b"\x00" + packed
        chunks += b"\x26" + number(start) + b"\x1c\x15\x0a\x19\x25\x00\x06\x19\x18" + text(name)
        chunks += b"\x15\x0c\x16" + number(1) + b"\x16" + number(8) + b"\x16" + number(length)
        chunks += b"\x26" + number(start) + b"\x00\x00"
        schema += b"\x15\x0a\x25\x00\x18" + text(name) + b"\x00"
    group = b"\x19" + bytes([len(names) << 4 | 12]) + chunks + b"\x16\x10\x16" + number(1) + b"\x00"
    footer = b"\x15\x02\x19" + bytes([len(names) + 1 << 4 | 12]) + schema
    footer += b"\x16" + number(1) + b"\x19\x1c" + group + b"\x00"
    return body + footer + struct.pack("<I", len(footer)) + b"PAR1"


@contextmanager
def listening(app):
    """The address at which the application is served, during the with block."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def found_by(axe, page):
    """What axe finds wrong with a page: rule, place and why."""
    page.evaluate(axe)
    answer = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        (rule["id"], node["target"], node["failureSummary"])
        for rule in answer["violations"]
        for node in rule["nodes"]
    ]


def write_outcome(folder, name, number, day, actual):
    """An outcome file of the ledger for a target day: `actual` by coin; half of it was expected,
    a third by persistence, from a quarter to twice as much.
    """
    horizon = int(name.rpartition("-")[2][:-1])
    version = ledger.Version(Path(folder), name, number, horizon)
    came = np.array([np.nan if value is None else value for value in actual.values()])
    known = np.nan_to_num(came, nan=0.1)
    columns = {"liquidity": known / 2, "lower": known / 4, "upper": known * 2, "p_high": 0.1}
    columns |= {"persistence": known / 3, "har": known, ACTUAL: came}
    path = version.file(ledger.OUTCOME, day)
    ledger.write(path, new_table(version, day - horizon, [*actual], columns))
    return path
