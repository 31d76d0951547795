"""The registered model against the plain scikit-learn pipeline in it, at the doors it is used by.

    python benchmarks/model.py [--data FILE] [--rows N ...]

Trains one forest with train.py in a store of its own, registers the same pipeline beside it with
MLflow's scikit-learn flavour, and measures in turn: one row in Python, one row over `mlflow
models serve` (with wrk, where it is on the PATH), the load from the registry, and a CSV file.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
import urllib.request
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import mlflow
import numpy as np
import skops.io
from memory import memory_of_tree
from mlflow.models import infer_signature

from liquidity.features import FEATURES, build_table, inputs_and_target
from liquidity.market import read_market
from liquidity.store import load_model

PROJECT = Path(__file__).parents[1]
OURS, PLAIN = "models:/crypto-liquidity@champion", "models:/plain/1"
ROW = {"24h_volume": 1e7, "mkt_cap": 1e8, "1h": 0.01, "price": 1.0}
WRK_SECONDS = 5


def train(data, trees):
    """Our model as champion of the current store, its pipeline as the model `plain`."""
    options = ["--n-estimators", trees, "--max-depth", "none", "--min-samples-split", "2"]
    command = [sys.executable, PROJECT / "train.py", "--data", data, "--promote", "always"]
    subprocess.run([*map(str, command + options)], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(OURS, dst_path=folder)
        file = Path(path, "artifacts/pipeline.skops")
        pipeline = skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))
    frame = build_table(read_market(data)[0])[FEATURES]
    mlflow.sklearn.log_model(
        pipeline, name="plain", registered_model_name="plain",
        skops_trusted_types=["sklearn.tree._tree.Tree"],
        signature=infer_signature(frame, pipeline.predict(frame.to_numpy())),
    )  # fmt: skip
    mlflow.end_run()
    return pipeline


def one_row(pipeline, data, rounds):
    """Microseconds of one row through `score` and through the pipeline, and their ratio."""
    model = load_model(OURS)
    X = inputs_and_target(build_table(read_market(data)[0]))[0][:1]
    ours, plain, ratios = [], [], []
    for _ in range(rounds):
        ours.append(1e6 * timeit.timeit(lambda: model.score(X), number=5000) / 5000)
        plain.append(1e6 * timeit.timeit(lambda: pipeline.predict(X), number=50) / 50)
        ratios.append(plain[-1] / ours[-1])
    print(f"one row, {len(pipeline[-1].estimators_)} trees, median of {rounds} (range)")
    print(f"  score                 {spread(ours, '.1f')} us")
    print(f"  pipeline.predict      {spread(plain, '.0f')} us")
    print(f"  ratio                 {spread(ratios, '.0f')}")


def serving(rounds, folder):
    """Requests per second of one row over `mlflow models serve`, both servers up, in turn."""
    wrk = shutil.which("wrk")
    if not wrk:
        print("mlflow models serve: not measured, wrk is not on the PATH")
        return
    script = folder / "post.lua"
    body = json.dumps({"dataframe_records": [ROW]})
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = '{body}'\n"
        "wrk.headers['Content-Type'] = 'application/json'\n"
    )
    rates = {OURS: [], PLAIN: []}
    with server(OURS, folder) as ours, server(PLAIN, folder) as plain:
        for number in range(rounds):
            for uri, url in [(OURS, ours), (PLAIN, plain)][:: -1 if number % 2 else 1]:
                command = [wrk, "-t1", "-c4", f"-d{WRK_SECONDS}s", "-s", script, url]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                assert "Non-2xx" not in output, output
                rates[uri].append(float(output.partition("Requests/sec:")[2].split()[0]))
    ratios = [a / b for a, b in zip(rates[OURS], rates[PLAIN], strict=True)]
    print(f"mlflow models serve, one row, 4 connections, median of {rounds} (range)")
    print(f"  this model            {spread(rates[OURS], '.0f')} requests/s")
    print(f"  plain pipeline        {spread(rates[PLAIN], '.0f')} requests/s")
    print(f"  ratio                 {spread(ratios, '.1f')}")


@contextmanager
def server(uri, folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "--port", port]
    job = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd=folder, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(job.pid, signal.SIGTERM)
        job.wait()


def loading(rounds):
    """Seconds from the registry to the first answer in a fresh process, imports done."""
    code = f"""
import time
import mlflow.store.model_registry.sqlalchemy_store  # MLflow imports these when it needs them
import mlflow.store.tracking.sqlalchemy_store
import onnxruntime
import pandas as pd
from liquidity.store import load_model
row = pd.DataFrame([{ROW}])
started = time.perf_counter()
load_model({OURS!r}).predict(None, row)
print(time.perf_counter() - started)
"""
    seconds = [
        float(
            subprocess.run(
                [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(PROJECT)},
            ).stdout
        )
        for _ in range(rounds)
    ]  # fmt: skip
    print(f"registry to first answer, 300 trees  {spread(seconds, '.2f')} s")


def files(rows, rounds, folder):
    """Seconds and peak memory of one CSV file, whole commands with their start."""
    source, output = folder / "in.csv", folder / "out.csv"
    write_market(source, rows)
    ours = [sys.executable, "-m", "liquidity.scoring", "--input", source, "--output", output]
    plain = ["mlflow", "models", "predict", "-m", PLAIN, "--env-manager", "local", "-t", "csv"]
    plain += ["-i", source, "-o", folder / "out.json"]
    results = {"ours": [], "plain": []}
    for number in range(rounds):
        for name, command in [("ours", [*ours, "--overwrite"]), ("plain", plain)][
            :: -1 if number % 2 else 1
        ]:
            results[name].append(measured(command, folder))
    print(f"{rows:,} rows, CSV of {source.stat().st_size / 1e6:.0f} MB, median of {rounds} (range)")
    for name, title in (("ours", "liquidity.scoring   "), ("plain", "mlflow models predict")):
        seconds, memory = zip(*results[name], strict=True)
        rates = [rows / s for s in seconds]
        print(f"  {title} {spread(seconds, '.1f')} s, {spread(rates, ',.0f')} rows/s, "
              f"peak {spread(memory, '.0f')} MB")  # fmt: skip
    ratios = [p[0] / o[0] for o, p in zip(results["ours"], results["plain"], strict=True)]
    print(f"  ratio of rows/s       {spread(ratios, '.1f')}")


def measured(command, folder):
    """Seconds and peak MB of a command with all its processes."""
    started, peak = time.perf_counter(), 0.0
    job = subprocess.Popen(
        [*map(str, command)], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    while job.poll() is None:  # wait4's ru_maxrss would count this process too
        peak = max(peak, memory_of_tree(job.pid))
        time.sleep(0.1)
    assert job.returncode == 0, command
    return time.perf_counter() - started, peak


def write_market(path, rows):
    """Rows as wide apart as the real market's (see data/make_sample.py), every one its own."""
    random = np.random.default_rng(0)
    with open(path, "w") as file:
        file.write("date,coin,symbol,price,1h,24h_volume,mkt_cap\n")
        for start in range(0, rows, 100_000):
            count = min(100_000, rows - start)
            values = zip(
                random.lognormal(0, 4.1, count), random.normal(0.006, 0.02, count),
                random.lognormal(15.9, 2.7, count), random.lognormal(19.6, 1.5, count), strict=True,
            )  # fmt: skip
            file.writelines(
                f"2022-03-16,Coin {start + n},C{n},{p:.6g},{c:.4f},{v:.1f},{m:.1f}\n"
                for n, (p, c, v, m) in enumerate(values)
            )


def spread(values, form):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=PROJECT / "data/sample.csv")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # Whether Python keeps what it has compiled would decide how long commands take to start.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        pipeline = train(args.data.resolve(), 200)
        one_row(pipeline, args.data, args.rounds)
        serving(args.rounds, folder)
        for rows in args.rows:
            files(rows, args.rounds, folder)
        train(args.data.resolve(), 300)
        loading(args.rounds)


if __name__ == "__main__":
    main()
