"""One-row serving side by side, and what a second worker brings."""

import json
import math
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from functools import partial

from benchmarks.model import CHAMPION, PLAIN, ROW, use_models
from benchmarks.servers import check_wrk, load, script, server

OURS, EMPTY = "python -m serve", "an empty Flask endpoint"
KEYED, LOGGED = f"{OURS} with an API key", f"{OURS} with the prediction log"
PICKLED = "Flask, pickled scaler and forest"
MLFLOW_PLAIN = "mlflow models serve, scikit-learn pipeline"
MLFLOW_OURS = "mlflow models serve, this model"
ONE, BULK = "one row", 10_000
KEY = "k"
MANY = 64  # connections, so that the kernel gives each of two workers about half of them
ONE_WORKER, TWO_WORKERS = "1 worker", "2 workers"
SERVE = [sys.executable, "-m", "serve", "--port", "{port}"]


def commands(folder):
    """The command and the settings of each server, all of one worker and the same forest."""
    mlflow = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local",
              "--workers", "1", "--port", "{port}", "-m"]  # fmt: skip
    app = [sys.executable, "-m", "benchmarks.apps"]
    return {
        OURS: (SERVE, {}),
        KEYED: (SERVE, {"LIQUIDITY_API_KEY": KEY}),
        LOGGED: (SERVE, {"LIQUIDITY_PREDICTION_LOG": f"{folder}/predictions.jsonl"}),
        EMPTY: ([*app, "empty", "{port}"], {}),
        PICKLED: ([*app, "pickled", "{port}"], {}),
        MLFLOW_PLAIN: ([*mlflow, PLAIN], {}),
        MLFLOW_OURS: ([*mlflow, CHAMPION], {}),
    }


def serving(bench):
    """All servers up, asked in turn: one row under load, many rows in one request, memory."""
    use_models(bench)
    with ExitStack() as stack:
        up = {}
        for name, (command, settings) in commands(bench.folder).items():
            with bench.attempt(name):
                up[name] = stack.enter_context(server(name, command, bench.folder, **settings))
        with bench.attempt("load"):
            check_wrk()
            under_load(bench, up)
        bulk(bench, up)
    ready(bench)
    bench.coarse("two seconds of load and one round; p99 and memory most of all")


def check_answers(bench, up, body):
    """All servers that score have to give the row the same score, which is then noted."""
    scores = {
        name: up[name].post(body.encode())[1][0]
        for name in (OURS, LOGGED, PICKLED, MLFLOW_PLAIN, MLFLOW_OURS)
        if name in up
    }
    if max(scores.values()) - min(scores.values()) > 1e-9:
        raise RuntimeError(f"the servers disagree: {scores}")
    bench.notes.append(f"{len(scores)} servers gave the row the same score, to 1e-9.")


def under_load(bench, up):
    body = json.dumps({"dataframe_records": [ROW]})
    with bench.attempt("the servers' answers"):
        check_answers(bench, up, body)
    plain = script(bench.folder / "row.lua", body)
    luas = dict.fromkeys(up, plain)
    if KEYED in up:
        luas[KEYED] = script(bench.folder / "key.lua", body, key=f"Bearer {KEY}")

    def measure(name):
        found = load(up[name], luas[name], seconds=bench.pick(4, 2))
        wanted = ("requests/s", "p50 ms", "p99 ms", "CPU us per request")
        return {name: found[name] for name in wanted} | {"worker MB": up[name].megabytes()}

    for name in up:
        with bench.attempt(f"warming up {name}"):
            load(up[name], luas[name], seconds=1)
    ways = {(name, ONE): partial(measure, name) for name in up}
    bench.in_turn("Serving one row", ways, rounds=bench.pick(5, 1))
    for other in (MLFLOW_PLAIN, MLFLOW_OURS, PICKLED, EMPTY):
        bench.ratio(OURS, other, measure="requests/s", at=ONE)
    for name in (KEYED, LOGGED):
        bench.ratio(name, OURS, measure="requests/s", at=ONE)
    bench.ratio(OURS, EMPTY, measure="p99 ms", under_measure="p50 ms", at=ONE)

    requests = bench.pick(200_000, 20_000)
    at = f"{requests:,} requests"
    seconds = math.ceil(requests / min(bench.figures[OURS, ONE, "requests/s"]))
    bench.console.print(f"{at} for the worker's memory, {seconds} s", highlight=False)
    before = up[OURS].megabytes()
    load(up[OURS], plain, seconds=seconds)
    bench.add(OURS, at, {"MB before": before, "MB after": up[OURS].megabytes()})
    bench.ratio(OURS, OURS, at=at, measure="MB after", under_measure="MB before")


def bulk(bench, up):
    """Many rows in one request."""
    rows = [[ROW["24h_volume"] * (1 + i / BULK), 1e8 + i, 0.01, 1.0] for i in range(BULK)]
    body = json.dumps({"dataframe_split": {"columns": list(ROW), "data": rows}}).encode()
    at = f"{BULK:,} rows in one request"

    def measure(name):
        seconds, scores = zip(*(up[name].post(body) for _ in range(3)), strict=True)
        if any(len(answer) != BULK for answer in scores):
            raise RuntimeError(f"it did not answer all of {BULK} rows")
        return {"ms": 1000 * statistics.median(seconds)}

    names = [name for name in (OURS, MLFLOW_PLAIN, MLFLOW_OURS) if name in up]
    ways = {(name, at): partial(measure, name) for name in names}
    bench.in_turn(f"Serving {at}", ways, rounds=bench.pick(5, 1))
    for other in (MLFLOW_PLAIN, MLFLOW_OURS):
        bench.ratio(other, OURS, measure="ms", at=at)


def ready(bench):
    """Seconds from start to the first answer."""

    def measure(name):
        command, settings = commands(bench.folder)[name]
        with (
            tempfile.TemporaryDirectory() as cache,
            server(name, command, bench.folder, **settings | {"LIQUIDITY_CACHE_DIR": cache}) as up,
        ):
            return {"seconds": up.seconds}

    at = "start to first answer"
    ways = {(name, at): partial(measure, name) for name in (OURS, MLFLOW_PLAIN)}
    bench.in_turn("Starting servers", ways, rounds=bench.pick(3, 1))
    bench.ratio(MLFLOW_PLAIN, OURS, measure="seconds", at=at)


def workers(bench):
    """One worker and two, both servers up and loaded in turn, with what wrk leaves of the cores.

    `limit` is the rate at which the server's and wrk's processor time per request, as measured
    with one worker, fill all cores; more than it no number of workers can bring.
    """
    check_wrk()
    use_models(bench)
    luas = {
        f"{text} per request": script(
            bench.folder / f"{count}.lua", json.dumps({"dataframe_records": [ROW] * count})
        )
        for text, count in ((ONE, 1), ("100 rows", 100))
    }
    with ExitStack() as stack:
        up = {
            at: stack.enter_context(server(at, [*SERVE, "--workers", at[0]], bench.folder))
            for at in (ONE_WORKER, TWO_WORKERS)
        }

        def measure(at, lua):
            found = load(up[at], lua, seconds=bench.pick(4, 2), connections=MANY)
            wanted = ("requests/s", "CPU us per request", "cores it used", "cores wrk used")
            found = {name: found[name] for name in wanted}
            used = found["cores it used"] + found["cores wrk used"]
            return found | {"limit": os.cpu_count() * found["requests/s"] / used}

        for subject, lua in luas.items():
            for running in up.values():
                load(running, lua, seconds=1)  # warms up
            ways = {(subject, at): partial(measure, at, lua) for at in up}
            bench.in_turn(f"Workers, {subject}", ways, rounds=bench.pick(5, 1))
            bench.ratio(subject, subject, measure="requests/s", at=TWO_WORKERS,
                        under_at=ONE_WORKER)  # fmt: skip
            bench.ratio(subject, subject, measure="CPU us per request", at=TWO_WORKERS,
                        under_at=ONE_WORKER)  # fmt: skip
            bench.ratio(subject, subject, measure="limit", under_measure="requests/s",
                        at=ONE_WORKER)  # fmt: skip
    bench.coarse("two seconds of load and one round")
