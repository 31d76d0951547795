"""Forecasts at their doors: one coin's days, one row, a panel's file, and a whole market."""

import json
import os
import time
import urllib.request
from contextlib import ExitStack, suppress
from functools import partial

import mlflow
import numpy as np
import pandas as pd
import skops.io

import train
from benchmarks.measure import apart, python, run
from benchmarks.servers import check_wrk, load, script, server
from data.make_sample import make_panel
from liquidity.contract import DATE, EPSILON, FORECAST_FEATURES

HORIZONS = "1,7,30"
WEEK = "models:/crypto-liquidity-7d/1"
PANDAS = "models:/pandas-7d/1"
SERVER, MLFLOW_OURS = "python -m serve", "mlflow models serve, this model"
MLFLOW_PANDAS = "mlflow models serve, features in pandas"
ALONE, DAYS = "one row", "one coin's 90 days, 3 horizons"
READ = "while the folder is read"
FOREST = ["--min-samples-leaf", "50", "--max-features", "0.4", "--cv", "3"]


class InPandas(mlflow.pyfunc.PythonModel):
    """The same forecast as one writes it first: its 14 features in pandas, then the pipeline."""

    def load_context(self, context):  # noqa: D102
        path = context.artifacts["pipeline"]
        self.pipeline = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))

    def predict(self, context, model_input: pd.DataFrame):  # noqa: D102
        dated = {"coin", DATE} <= set(model_input)
        groups = model_input.groupby("coin") if dated else [(None, model_input)]
        X = pd.concat([self._features(coin, dated) for _, coin in groups]).loc[model_input.index]
        level = self.pipeline.predict(X.to_numpy()) + X["ew7"].to_numpy()
        return pd.DataFrame({"liquidity": np.maximum(10**level - EPSILON, 0)})

    def _features(self, coin, dated):
        if not dated:
            return pd.concat([self._of_days(coin.iloc[[i]], None) for i in range(len(coin))])
        return self._of_days(coin, pd.to_datetime(coin[DATE]))

    def _of_days(self, coin, date):
        days = pd.DatetimeIndex(["2000-01-01"] if date is None else date)
        by_day = coin.set_axis(days)[FORECAST_FEATURES].asfreq("D")
        level = np.log10(by_day["24h_volume"] / by_day["mkt_cap"] + EPSILON)
        means = {f"m{n}": level.rolling(n, min_periods=1).mean() for n in (3, 7, 30, 90)}
        ew7 = level.ewm(alpha=0.25, ignore_na=False).mean()
        price, volume = np.log10(by_day["price"]), np.log10(by_day["24h_volume"] + 1)
        found = {"l0": level, "ew7": ew7, "lag1": level.shift(), **means}
        found = {name: each if name == "ew7" else each - ew7 for name, each in found.items()}
        found["absd30"] = level.diff().abs().rolling(30, min_periods=5).mean()
        found["s7"] = level.rolling(7, min_periods=3).std()
        found |= {"dv1": volume.diff(), "dp1": price.diff(), "dp7": price.diff(7)}
        found["lcap"] = np.log10(by_day["mkt_cap"])
        found["dow"] = np.nan if date is None else by_day.index.dayofweek.astype(float)
        return pd.DataFrame(found).loc[days].set_axis(coin.index)


def forecasts(bench):
    """Servers up and asked in turn, then a whole command on a panel's file."""
    days, coins = bench.pick((400, 150), (250, 20))
    apart(register, days, coins, bench.pick("100", "10"))
    frame = pd.concat(make_panel(days=days, coins=coins).values(), ignore_index=True)
    with bench.attempt("load"):
        check_wrk()
        under_load(bench, frame)
    source, output = bench.folder / "panel.csv", bench.folder / "scored.csv"
    frame.to_csv(source, index=False)
    command = python("-m liquidity.scoring --overwrite --model-uri", WEEK)
    command += ["--input", source, "--output", output]

    def scoring():
        found = run(command, bench.folder)
        return found | {"rows/s": len(frame) / found["seconds"]}

    bench.in_turn("A panel's file", {("liquidity.scoring", "a panel's CSV"): scoring}, rounds=3)
    bench.coarse("two seconds of load and one round")


def register(days, coins, trees):
    """The forecasts of all horizons of a synthetic panel, and the 7 days' pipeline in pandas."""
    pd.concat(make_panel(days=days, coins=coins).values()).to_csv("train.csv", index=False)
    options = ["--data", "train.csv", "--horizon", HORIZONS, "--n-estimators", trees, *FOREST]
    options += ["--promote", "always"]
    if code := train.main(options):
        raise RuntimeError(f"train.py: exit code {code}")
    folder = mlflow.artifacts.download_artifacts(WEEK, dst_path=".")
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="pandas",
            python_model=InPandas(),
            artifacts={"pipeline": f"{folder}/artifacts/pipeline.skops"},
            registered_model_name="pandas-7d",
            pip_requirements=[],
        )


def market(bench):
    """A market of 2,500 coins: its pages, when a new file is seen, and a row while it is read."""
    apart(register, *bench.pick((400, 150), (250, 20)), bench.pick("100", "10"))
    coins, snapshots = bench.pick(2500, 200), bench.folder / "snapshots"
    snapshots.mkdir()
    *days, last = make_panel(days=91, coins=coins).values()
    for frame in days:
        frame.to_csv(snapshots / f"{frame[DATE].iloc[0]}.csv", index=False)
    day_before, day = days[-1][DATE].iloc[0], last[DATE].iloc[0]
    settings = {"LIQUIDITY_MODEL_URI": WEEK, "LIQUIDITY_SNAPSHOTS": str(snapshots)}
    command = python("-m serve --port {port}")
    with server(SERVER, command, bench.folder, **settings) as up:

        def shown():
            with urllib.request.urlopen(f"{up.url}/coins") as answer:
                found = json.load(answer)
            return found["date"], len(found["coins"][0]["forecasts"])

        def until(date):
            started = time.perf_counter()
            while time.perf_counter() - started < 300:
                with suppress(OSError):  # 503: not read yet
                    if shown() == (date, 3):
                        return {"seconds": time.perf_counter() - started}
                time.sleep(0.1)
            raise RuntimeError(f"{date} was not seen in 300 s")

        def seen():
            (snapshots / "new.csv").unlink(missing_ok=True)
            until(day_before)
            last.head(1000).to_csv(snapshots / "new.part", index=False)
            (snapshots / "new.part").rename(snapshots / "new.csv")
            return until(day)

        def door(path):
            found = load(up, page, seconds=2, connections=1, door=path)
            return {each: found[each] for each in ("p50 ms", "CPU us per request")}

        def row(read):
            if read:
                for path in snapshots.iterdir():
                    os.utime(path)
            found = load(up, one, seconds=bench.pick(8, 2), door="/predict")
            until(day_before)
            return {each: found[each] for each in ("requests/s", "CPU us per request")}

        check_wrk()
        until(day_before)
        page = bench.folder / "page.lua"
        page.write_text('wrk.headers["Accept"] = "text/html"\n')
        alone = {name: float(days[-1][name].iloc[0]) for name in FORECAST_FEATURES}
        one = script(bench.folder / "one.lua", json.dumps(alone))
        name = days[-1]["coin"].iloc[0].replace(" ", "%20")
        paths = ("/market", "/market?sort=h7", "/market?as=csv", "/coins", f"/coins/{name}")
        ways = {("GET", path): partial(door, path) for path in paths}
        bench.in_turn(f"A market of {coins:,} coins", ways, rounds=3)
        ways = {(ALONE, at): partial(row, at == READ) for at in ("at rest", READ)}
        bench.in_turn("A row while the market is read", ways, rounds=7)
        bench.ratio((ALONE, READ), (ALONE, "at rest"), "requests/s")
        bench.in_turn("A new file", {("1,000 coins", "until they are shown"): seen}, rounds=5)
    bench.coarse("a market of 200 coins and one round")


def under_load(bench, frame):
    own = json.loads(
        frame[frame["coin"] == frame["coin"].iloc[-1]].tail(90).to_json(orient="records")
    )
    alone = [{name: own[-1][name] for name in FORECAST_FEATURES}]
    week = script(bench.folder / "row.lua", json.dumps({"dataframe_records": alone}))
    rows = script(bench.folder / "days.lua", json.dumps({"rows": own}))
    mlflow_serve = "-m mlflow models serve --env-manager local --workers 1 --port {port} -m"
    commands = {
        SERVER: (python("-m serve --port {port}"), {"LIQUIDITY_MODEL_URI": WEEK}),
        MLFLOW_OURS: (python(mlflow_serve, WEEK), {}),
        MLFLOW_PANDAS: (python(mlflow_serve, PANDAS), {}),
    }
    with ExitStack() as stack:
        up = {
            name: stack.enter_context(server(name, command, bench.folder, **settings))
            for name, (command, settings) in commands.items()
        }
        bodies = {name: json.dumps({"dataframe_records": own}).encode() for name in up}
        scores = {name: up[name].post(body)[1][-1] for name, body in bodies.items()}
        if max(scores.values()) - min(scores.values()) > 1e-9:
            raise RuntimeError(f"the servers disagree: {scores}")
        bench.notes.append("The servers' forecasts of one coin's 90 days were the same to 1e-9.")

        def measure(name, lua, door):
            found = load(up[name], lua, seconds=bench.pick(4, 2), door=door)
            return {each: found[each] for each in ("requests/s", "p99 ms", "CPU us per request")}

        ways = {(name, ALONE): partial(measure, name, week, "/invocations") for name in up}
        ways[SERVER, DAYS] = partial(measure, SERVER, rows, "/forecast")
        for name, at in ways:
            with bench.attempt(f"warming up {name}, {at}"):
                ways[name, at]()
        bench.in_turn("Serving a forecast", ways, rounds=5)
        for other in (MLFLOW_PANDAS, MLFLOW_OURS):
            bench.ratio((SERVER, ALONE), (other, ALONE), "requests/s")
            bench.ratio((other, ALONE), (SERVER, ALONE), "CPU us per request")
