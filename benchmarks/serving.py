"""One-row serving side by side, and what a second worker brings."""

import json
import statistics
import tempfile
from contextlib import ExitStack
from functools import partial

from benchmarks.measure import python
from benchmarks.model import CHAMPION, PLAIN, ROW, use_models
from benchmarks.servers import check_wrk, load, script, server

OURS = "python -m serve"
EMPTY, BARE = "an empty Flask endpoint", "an empty RSGI application"
ANSWER_NOTHING = (EMPTY, BARE)
SLOW, LOGGED = f"{OURS} without the fast lane", f"{OURS} with the prediction log"
PICKLED = "Flask, pickled scaler and forest"
MLFLOW_PLAIN = "mlflow models serve, scikit-learn pipeline"
MLFLOW_OURS = "mlflow models serve, this model"
ONE, BULK = "one row", 10_000
MANY = 64  # connections, so that the kernel gives each of two workers about half of them
SERVE = python("-m serve --port {port}")


def commands(folder):
    """The command and the settings of each server, all of one worker and the same forest."""
    mlflow = "-m mlflow models serve --env-manager local --workers 1 --port {port} -m"
    return {
        OURS: (SERVE, {}),
        SLOW: (python("-m benchmarks.apps slow {port}"), {}),
        LOGGED: (SERVE, {"LIQUIDITY_PREDICTION_LOG": f"{folder}/predictions.jsonl"}),
        EMPTY: (python("-m benchmarks.apps empty {port}"), {}),
        BARE: (python("-m benchmarks.apps bare {port}"), {}),
        PICKLED: (python("-m benchmarks.apps pickled {port}"), {}),
        MLFLOW_PLAIN: (python(mlflow, PLAIN), {}),
        MLFLOW_OURS: (python(mlflow, CHAMPION), {}),
    }


def serving(bench):
    """All servers up, asked in turn: one row under load, many rows in one request, a start."""
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
    scores = {name: up[name].post(body.encode())[1][0] for name in up if name not in ANSWER_NOTHING}
    if max(scores.values()) - min(scores.values()) > 1e-9:
        raise RuntimeError(f"the servers disagree: {scores}")
    bench.notes.append(f"{len(scores)} servers gave the row the same score, to 1e-9.")


def under_load(bench, up):
    body = json.dumps({"dataframe_records": [ROW]})
    with bench.attempt("the servers' answers"):
        check_answers(bench, up, body)
    lua = script(bench.folder / "row.lua", body)

    def measure(name):
        found = load(up[name], lua, seconds=bench.pick(4, 2))
        wanted = ("requests/s", "p50 ms", "p99 ms", "CPU us per request")
        return {name: found[name] for name in wanted} | {"worker MB": up[name].megabytes()}

    for name in up:
        with bench.attempt(f"warming up {name}"):
            load(up[name], lua, seconds=1)
    bench.in_turn("Serving one row", {(name, ONE): partial(measure, name) for name in up}, rounds=5)
    for other in (MLFLOW_PLAIN, MLFLOW_OURS, PICKLED, EMPTY, BARE, SLOW):
        bench.ratio((OURS, ONE), (other, ONE), "requests/s")
        # Beside others on the machine this says more than how many requests found room.
        bench.ratio((other, ONE), (OURS, ONE), "CPU us per request")
    bench.ratio((LOGGED, ONE), (OURS, ONE), "requests/s")


def bulk(bench, up):
    """Many rows in one request."""
    rows = [[ROW["24h_volume"] * (1 + i / BULK), 1e8 + i, 0.01, 1.0] for i in range(BULK)]
    body = json.dumps({"dataframe_split": {"columns": list(ROW), "data": rows}}).encode()

    def measure(name):
        seconds, scores = zip(*(up[name].post(body) for _ in range(3)), strict=True)
        if any(len(answer) != BULK for answer in scores):
            raise RuntimeError(f"it did not answer all of {BULK} rows")
        return {"ms": 1000 * statistics.median(seconds)}

    at = f"{BULK:,} rows in one request"
    compared = [name for name in (OURS, MLFLOW_PLAIN, MLFLOW_OURS) if name in up]
    ways = {(name, at): partial(measure, name) for name in compared}
    bench.in_turn(f"Serving {at}", ways, rounds=5)
    for other in (MLFLOW_PLAIN, MLFLOW_OURS):
        bench.ratio((other, at), (OURS, at), "ms")


def ready(bench):
    """Seconds from start to the first answer."""

    def measure(name):
        command, settings = commands(bench.folder)[name]
        with (
            tempfile.TemporaryDirectory() as cache,
            server(name, command, bench.folder, **settings | {"LIQUIDITY_CACHE_DIR": cache}) as up,
        ):
            return {"seconds": up.seconds}

    ours, plain = ((name, "start to first answer") for name in (OURS, MLFLOW_PLAIN))
    ways = {ours: partial(measure, OURS), plain: partial(measure, MLFLOW_PLAIN)}
    bench.in_turn("Starting servers", ways, rounds=3)
    bench.ratio(plain, ours, "seconds")


def workers(bench):
    """One worker and two, both servers up and loaded in turn, and how many cores wrk takes."""
    check_wrk()
    use_models(bench)
    with ExitStack() as stack:
        up = {
            f"{count} worker{'s' * (count > 1)}": stack.enter_context(
                server(f"{count}", [*SERVE, "--workers", count], bench.folder)
            )
            for count in (1, 2)
        }

        def measure(at, lua):
            found = load(up[at], lua, seconds=bench.pick(4, 2), connections=MANY)
            wanted = ("requests/s", "CPU us per request", "cores it used", "cores wrk used")
            return {name: found[name] for name in wanted}

        for rows, text in ((1, ONE), (100, "100 rows")):
            body = json.dumps({"dataframe_records": [ROW] * rows})
            lua = script(bench.folder / f"{rows}.lua", body)
            for running in up.values():
                load(running, lua, seconds=1)  # warms up
            ways = {(f"{text} per request", at): partial(measure, at, lua) for at in up}
            bench.in_turn(f"Workers, {text} per request", ways, rounds=5)
            one, two = ways
            bench.ratio(two, one, "requests/s", "CPU us per request")
    bench.coarse("two seconds of load and one round")
