"""The registered model against the scikit-learn pipeline in it: one row and whole files."""

import pickle
import timeit
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
from pyarrow import csv, parquet

from benchmarks import polars_onnx
from benchmarks.measure import PROJECT, SAMPLE, apart, python, run
from liquidity import registry
from liquidity.contract import COVERAGE, EPSILON, MODEL_NAME, THRESHOLD
from liquidity.data.market import read_market
from liquidity.data.table import build_table, describe_target, inputs_and_target
from liquidity.model.gate import Decision
from liquidity.model.loading import load_model
from liquidity.model.packaging import log_model
from liquidity.progress import progress_bar
from liquidity.search.pipeline import build_pipeline, fit_pipeline, with_forest_params

CHAMPION, PLAIN = "models:/crypto-liquidity@champion", "models:/plain/1"
ROW = {"24h_volume": 1e7, "mkt_cap": 1e8, "1h": 0.01, "price": 1.0}
TREES = 200
SCORE, PIPELINE = "score", "pipeline.predict"
FILE, FILE_PLAIN = "liquidity.scoring", "mlflow models predict on the pipeline"
BY_HAND = "polars and ONNX Runtime by hand"
INTERVAL = {"coverage": COVERAGE, "quantile": 0.4, "epsilon": EPSILON}


def fit(trees):
    """The sample's table and a pipeline fitted on it."""
    table = build_table(read_market(SAMPLE)[0])
    pipeline = with_forest_params(build_pipeline(random_state=42), n_estimators=trees)
    return table, fit_pipeline(pipeline, *inputs_and_target(table), n_jobs=-1)


def log(pipeline, table):
    """Log the pipeline as a same-day model of the active run; returns its URI."""
    return log_model(
        pipeline,
        table,
        inputs_and_target(table)[0],
        horizon=0,
        target=describe_target(table),
        interval=INTERVAL,
        digest="benchmark",
    )


def use_models(bench):
    """Have the models of `register` in the run's store; the first part that asks makes them."""
    if not (bench.folder / "forest.pkl").exists():
        apart(register)


def register():
    """Our model as champion, its pipeline as `plain`, and pickled here; all of one forest."""
    table, pipeline = fit(TREES)
    with mlflow.start_run():
        ours = log(pipeline, table)
        mlflow.sklearn.log_model(
            pipeline,
            name="plain",
            registered_model_name="plain",
            skops_trusted_types=["sklearn.tree._tree.Tree"],
            input_example=table[list(ROW)].head(3),
            pip_requirements=[],
        )
    registry.register(ours, Decision(True, "benchmark", {}), name=MODEL_NAME)
    for name, step in (("scaler", pipeline[0]), ("forest", pipeline[-1])):
        Path(f"{name}.pkl").write_bytes(pickle.dumps(step))
    polars_onnx.prepare(pipeline, Path("by_hand.json"), interval=INTERVAL, threshold=THRESHOLD)


def model(bench):
    """One row in Python as the forest grows."""
    sizes, rounds = bench.pick((50, 100, 200, 400, 800), (50, 200)), bench.pick(5, 1)
    with progress_bar(bench.console, "One row in Python", len(sizes)) as advance:
        for trees in sizes:
            ours, plain = (SCORE, f"{trees} trees"), (PIPELINE, f"{trees} trees")
            with bench.attempt(f"one row, {trees} trees"):
                for measured in apart(one_row, trees, rounds):
                    for way, value in zip((ours, plain), measured, strict=True):
                        bench.add(*way, {"us per row": value})
            bench.ratio(plain, ours, "us per row")
            advance(f"{trees} trees")
    bench.coarse("one round")


def one_row(trees, rounds):
    """Microseconds of a row through the model and through the pipeline, round by round."""
    table, pipeline = fit(trees)
    with mlflow.start_run():
        ours = load_model(log(pipeline, table))
    X = inputs_and_target(table)[0][:1]

    def microseconds(function, number):
        return 1e6 * timeit.timeit(lambda: function(X), number=number) / number

    return [
        (microseconds(ours.score, 5000), microseconds(pipeline.predict, 50)) for _ in range(rounds)
    ]


def files(bench):
    """Files of growing size, whole commands with their start, all their processes' memory."""
    use_models(bench)
    source, output = bench.folder / "in.csv", bench.folder / "out.csv"
    packages = PROJECT / "benchmarks/requirements.txt"
    uv = ["uv", "run", "--no-project", "--with-requirements", packages, "python"]
    with bench.attempt("fetching what is compared"):
        run([*uv, "-c", "import polars, onnxruntime"], bench.folder)

    def command(name, kind):
        read, written = (path.with_suffix(kind) for path in (source, output))
        if name == FILE:
            return python("-m liquidity.scoring --overwrite --input", read, "--output", written)
        if name == BY_HAND:
            return [*uv, polars_onnx.__file__, read, written, "by_hand.json"]
        predict = python("-m mlflow models predict --env-manager local -t csv -m", PLAIN)
        return [*predict, "-i", read, "-o", bench.folder / "out.json"]

    def measure(name, rows, kind):
        found = run(command(name, kind), bench.folder)
        return found | {"rows/s": rows / found["seconds"]}

    def compare(rows, others, kind=".csv"):
        at, of = f"{rows:,} rows", "" if kind == ".csv" else ", Parquet"
        ways = {(name + of, at): partial(measure, name, rows, kind) for name in (FILE, *others)}
        bench.in_turn(f"Files of {at}{of}", ways, rounds=3)
        ours, *theirs = ways
        for other in theirs:
            bench.ratio(ours, other, "rows/s")
            bench.ratio(other, ours, "CPU s", "peak MB")

    sizes = bench.pick((1000, 10_000, 100_000, 1_000_000), (1000, 100_000))
    for rows in sizes:
        write_market(source, rows)
        compare(rows, [FILE_PLAIN, BY_HAND] if rows == sizes[-1] else [FILE_PLAIN])
    parquet.write_table(csv.read_csv(source), source.with_suffix(".parquet"))
    compare(rows, [BY_HAND], ".parquet")
    bench.coarse("one round, and the start of the commands counts for most")


def write_market(path, rows):
    """Rows as wide apart as the real market's (see data/make_sample.py), every one its own."""
    random = np.random.default_rng(0)
    with path.open("w") as file:
        file.write("date,coin,symbol,price,1h,24h_volume,mkt_cap\n")
        for start in range(0, rows, 100_000):
            count = min(100_000, rows - start)
            columns = (
                random.lognormal(0, 4.1, count),  # price
                random.normal(0.006, 0.02, count),  # 1h
                random.lognormal(15.9, 2.7, count),  # 24h_volume
                random.lognormal(19.6, 1.5, count),  # mkt_cap
            )
            file.writelines(
                f"2022-03-16,Coin {start + n},C{n},{p:.6g},{c:.4f},{v:.1f},{m:.1f}\n"
                for n, (p, c, v, m) in enumerate(zip(*columns, strict=True))
            )
