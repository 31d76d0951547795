"""One-row serving side by side: this server, MLflow's, and an empty Flask endpoint.

    python benchmarks/serving.py [--rounds N] [--seconds N] [--soak REQUESTS]

All servers run one worker and answer in turn, round by round; ratios are taken within a round.
Load comes from wrk (Debian's package), over loopback, at 16 connections.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

ROW = {"24h_volume": 1e7, "mkt_cap": 1e8, "1h": 0.01, "price": 1.0}
TREES = 200
CONNECTIONS = 16
BULK = 10_000
EMPTY = """
import sys
from flask import Flask
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from serve.gateway import Gateway

def make():
    app = Flask("empty")
    app.add_url_rule("/invocations", "score", lambda: "", methods=["POST"])
    app.add_url_rule("/health", "health", lambda: "")
    return Gateway(app.wsgi_app, max_bytes=2**24)

if __name__ == "__main__":
    Granian("empty:make", factory=True, interface=Interfaces.RSGI, port=int(sys.argv[1]),
            http=HTTPModes.http1, websockets=False, log_enabled=False).serve()
"""


def register_models(folder):
    """Register our model as champion and the plain pipeline beside it, of the same forest."""
    import mlflow

    from liquidity import registry
    from liquidity.features import build_table, inputs_and_target
    from liquidity.market import read_market
    from liquidity.pipeline import build_pipeline, fit_pipeline, with_forest_params

    os.chdir(folder)
    table = build_table(read_market(PROJECT / "data/sample.csv")[0])
    pipeline = with_forest_params(build_pipeline(random_state=42), n_estimators=TREES)
    fitted = fit_pipeline(pipeline, *inputs_and_target(table), n_jobs=-1)
    client = mlflow.MlflowClient()
    with mlflow.start_run():
        ours = registry.log_model(fitted, table, quantile=0.4, digest="benchmark")
        plain = mlflow.sklearn.log_model(
            fitted, name="plain", skops_trusted_types=["sklearn.tree._tree.Tree"],
            input_example=table[list(ROW)].head(3), pip_requirements=[],
        ).model_uri  # fmt: skip
    version = mlflow.register_model(ours, "crypto-liquidity").version
    client.set_registered_model_alias("crypto-liquidity", "champion", version)
    mlflow.register_model(plain, "plain")


@contextmanager
def server(name, command, folder, **settings):
    """A server on a free port: yields its base address, process and seconds to be ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.perf_counter()
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [part.format(port=port) for part in command], cwd=folder, env=os.environ | settings,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while not answers(f"{url}/health"):
            if process.poll() is not None or time.perf_counter() - started > 120:
                sys.exit(f"{name} did not start:\n{(folder / f'{name}.log').read_text()[-2000:]}")
            time.sleep(0.02)
        yield url, process, time.perf_counter() - started
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


def load(url, script, *, seconds):
    """Requests a second and p50, p99 in milliseconds under wrk; every answer has to be 2xx."""
    text = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", script,
         f"{url}/invocations"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "Non-2xx" in text or "Socket errors" in text:
        sys.exit(f"{url}: not every answer was right\n{text}")
    scale = {"us": 0.001, "ms": 1, "s": 1000}
    latency = {
        percent: float(value) * scale[unit]
        for percent, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)\b", text)
    }
    return {
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "p50": latency["50"],
        "p99": latency["99"],
    }


def bulk_seconds(url, body):
    request = urllib.request.Request(
        f"{url}/invocations", body, {"Content-Type": "application/json"}
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=120) as response:
        answer = response.read()
    seconds = time.perf_counter() - started
    assert len(json.loads(answer)["predictions"]) == BULK
    return seconds


def worker_megabytes(process):
    """Resident memory of the server's largest process."""
    family = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    sizes = []
    for pid in [process.pid, *map(int, family.stdout.split())]:
        status = Path(f"/proc/{pid}/status").read_text()
        sizes.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024)
    return max(sizes)


def lua(folder):
    """wrk's script of a one-row request."""
    path = folder / "row.lua"
    body = json.dumps({"dataframe_records": [ROW]})
    path.write_text(
        f'wrk.method = "POST"\nwrk.body = [[{body}]]\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
    )
    return str(path)


def bulk_body():
    rows = [[ROW["24h_volume"] * (1 + i / BULK), 1e8 + i, 0.01, 1.0] for i in range(BULK)]
    return json.dumps({"dataframe_split": {"columns": list(ROW), "data": rows}}).encode()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of load per server and round")
    parser.add_argument("--soak", type=int, default=200_000, help="requests for the memory check")
    args = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        os.environ |= {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONPATH": str(PROJECT),
            # MLflow starts uvicorn by its name.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LIQUIDITY_CACHE_DIR": str(folder / "cache"),
        }
        subprocess.run(
            [sys.executable, __file__, "--register", place], check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        (folder / "empty.py").write_text(EMPTY)
        python = sys.executable
        mlflow_serve = [python, "-m", "mlflow", "models", "serve", "--env-manager", "local",
                        "--workers", "1", "--port", "{port}", "-m"]  # fmt: skip
        ways = {
            "empty": ([python, "empty.py", "{port}"], {}),
            "serve": ([python, "-m", "serve", "--port", "{port}"], {}),
            "logged": (
                [python, "-m", "serve", "--port", "{port}"],
                {"LIQUIDITY_PREDICTION_LOG": str(folder / "predictions.jsonl")},
            ),
            "mlflow plain": ([*mlflow_serve, "models:/plain/1"], {}),
        }
        servers = {
            name: stack.enter_context(server(name.replace(" ", "-"), command, folder, **settings))
            for name, (command, settings) in ways.items()
        }
        results = measure(servers, folder, args)
    report(results)


def measure(servers, folder, args):
    script, body = lua(folder), bulk_body()
    rounds = []
    for number in range(args.rounds + 1):
        one = {name: load(url, script, seconds=args.seconds) for name, (url, *_) in servers.items()}
        bulk = {
            name: statistics.median(bulk_seconds(servers[name][0], body) for _ in range(3))
            for name in ("serve", "mlflow plain")
        }
        if number:  # the first one warms up
            rounds.append({"one": one, "bulk": bulk})
    url, process, ready = servers["serve"]
    before = worker_megabytes(process)
    rate = statistics.median(r["one"]["serve"]["rate"] for r in rounds)
    load(url, script, seconds=max(1, round(args.soak / rate)))
    return {
        "rounds": rounds, "ready_seconds": ready, "megabytes": before,
        "megabytes_after": worker_megabytes(process), "soak": args.soak,
    }  # fmt: skip


def report(results):
    rounds = results["rounds"]

    def line(text, values, unit=""):
        median, low, high = statistics.median(values), min(values), max(values)
        print(f"{text:58}{median:10.2f}{unit} ({low:.2f}-{high:.2f})")

    for name in rounds[0]["one"]:
        line(f"{name}: requests/s, one row", [r["one"][name]["rate"] for r in rounds])
        line(f"{name}: p50", [r["one"][name]["p50"] for r in rounds], " ms")
        line(f"{name}: p99", [r["one"][name]["p99"] for r in rounds], " ms")
    one = [r["one"] for r in rounds]
    line("serve / mlflow models serve, plain pipeline", [
        r["serve"]["rate"] / r["mlflow plain"]["rate"] for r in one])  # fmt: skip
    line("serve / empty Flask endpoint", [r["serve"]["rate"] / r["empty"]["rate"] for r in one])
    line("serve's p99 / empty's p50", [r["serve"]["p99"] / r["empty"]["p50"] for r in one])
    line("with / without prediction log", [r["logged"]["rate"] / r["serve"]["rate"] for r in one])
    line(f"{BULK} rows: mlflow's seconds / serve's", [
        r["bulk"]["mlflow plain"] / r["bulk"]["serve"] for r in rounds])  # fmt: skip
    for name in ("serve", "mlflow plain"):
        line(f"{name}: {BULK} rows", [1000 * r["bulk"][name] for r in rounds], " ms")
    print(f"ready after {results['ready_seconds']:.1f} s (all servers starting one by one)")
    print(f"worker's memory {results['megabytes']:.0f} MB, after {results['soak']:,} more requests "
          f"{results['megabytes_after']:.0f} MB")  # fmt: skip
    target = PROJECT / "benchmarks/results/serving.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--register"]:
        register_models(sys.argv[2])
    else:
        main()
