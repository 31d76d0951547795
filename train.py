"""The training job: snapshot files in, a tracked search and a registered champion out."""

import argparse
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import sklearn
from joblib.externals.loky.process_executor import BrokenProcessPool
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.exceptions import MlflowException
from rich.console import Console
from rich.table import Table
from sklearn.inspection import permutation_importance

from liquidity import cluster, evaluation, plots, registry, store, tracking
from liquidity.arguments import Parser, share, share_or_all, whole_number
from liquidity.artifact import ParityError
from liquidity.features import FEATURES, TARGET, build_table, digest, inputs_and_target
from liquidity.market import MarketDataError, read_market, trim_outliers
from liquidity.pipeline import (
    PARAM_GRID,
    build_pipeline,
    fit_pipeline,
    parse_grid,
    with_forest_params,
)
from liquidity.processes import stop_signals
from liquidity.progress import elapsed_time, notice, progress_bar
from liquidity.search import best_trial, candidates, local_executor, search, search_key
from liquidity.store import TrackingError

EXPERIMENT = "crypto-liquidity"


def main(argv=None):
    """Run the job; returns the exit code: 0, 1 (failed), 2 (bad input) or 130 (stopped)."""
    args = parse_arguments(argv)
    store.quieten_mlflow()
    try:
        with stop_signals():
            train(args, Console())
    except (MarketDataError, TrackingError, cluster.ClusterError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train.py: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    except BrokenProcessPool:
        print(
            "train.py: failed: a worker process was killed, perhaps for want of memory: lower "
            "--n-jobs or the grid; the same command goes on from here.",
            file=sys.stderr,
        )
        return 1
    except cluster.ClusterLost as error:
        print(f"train.py: failed: {error}; the same command goes on from here.", file=sys.stderr)
        return 1
    except MlflowException as error:
        print(
            f"train.py: failed: MLflow: {store.first_line(error)}.\n"
            "Finished trials are kept: the same command goes on from them.",
            file=sys.stderr,
        )
        return 1
    except (ParityError, OSError, MemoryError) as error:
        print(f"train.py: failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def train(args, console):
    """The job from files to a registered version, step by step; all wiring is here."""
    table, cleaning = read_table(args.data, outliers=args.outliers)
    table, training, test = split_table(table, args)
    folds = evaluation.make_folds(
        training, split=args.split, cv=args.cv, max_samples=args.max_samples
    )
    pipeline = build_pipeline(random_state=args.random_state, max_samples=args.max_samples)
    X, y = inputs_and_target(training)
    print_data(console, cleaning, training, test)

    key, data_digest = search_key(pipeline, X, y, folds=folds), digest(table)
    finished = find_finished(key, len(folds), args, console)
    tags = {tracking.SEARCH_KEY: key, "data_digest": data_digest,
            "scikit_learn_version": sklearn.__version__}  # fmt: skip
    with (
        workers(args.scheduler, args.n_jobs, console) as executor,
        tracking.parent_run(experiment=args.experiment, params=args.logged, tags=tags) as run,
    ):
        log_data(table, cleaning, source=args.data)
        with log_trials(run, finished, len(candidates(args.grid)), console) as on_trial:
            trials = search(
                pipeline, X, y, param_grid=args.grid, folds=folds, executor=executor,
                on_trial=on_trial, finished=finished.values(),
            )  # fmt: skip
        log_search(run, trials)
        with elapsed_time(console, "Refitting the best, calibrating and evaluating"):
            tuned = with_forest_params(pipeline, **best_trial(trials).params)
            quantile = evaluation.interval_quantile(tuned, X, y, folds=folds, n_jobs=args.n_jobs)
            fitted = fit_pipeline(tuned, X, y, n_jobs=args.n_jobs)
            baselines = evaluation.baseline_metrics(pipeline, training, test, n_jobs=args.n_jobs)
            metrics = log_evaluation(fitted, test, quantile=quantile, baselines=baselines)
        with elapsed_time(console, "Compiling, comparing and registering"):
            model_uri = registry.log_model(fitted, training, quantile=quantile, digest=data_digest)
            decision = registry.decide(
                model_uri, table, name=args.model_name, promote=args.promote, split=args.split
            )
            version = registry.register(model_uri, decision, name=args.model_name)
    print_summary(console, trials, metrics, decision, name=args.model_name, version=version)


def workers(scheduler, n_jobs, console):
    """The executor that the folds run on: this machine's processes or a cluster's."""
    if scheduler == cluster.LOCAL:
        return local_executor(n_jobs)
    return cluster.cluster_executor(
        scheduler, module=search.__module__, packages=cluster.TRAINING, console=console
    )


def read_table(data, *, outliers):
    """The cleaned table of features and target, and what cleaning left out."""
    frame, cleaning = read_market(data)
    if outliers == "iqr":
        frame, cleaning = trim_outliers(frame, cleaning)
    return build_table(frame), cleaning


def split_table(table, args):
    """The table with its column `set`, its training rows and its test rows, in split order."""
    train_rows, test_rows = evaluation.split_rows(
        table, split=args.split, test_size=args.test_size, random_state=args.random_state
    )
    table = table.assign(set=np.where(table.index.isin(test_rows), "test", "train"))
    return table, table.iloc[train_rows], table.iloc[test_rows]


def print_data(console, cleaning, training, test):
    """What was read, what was left out and why, and how the rest is split."""
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in cleaning.dropped.items())
    console.print(
        f"{cleaning.rows_used:,} of {cleaning.rows_read:,} rows of {len(cleaning.files)} file(s) "
        f"used; dropped: {dropped or 'none'}\n"
        f"{len(training):,} rows of {training['coin'].nunique():,} coins to train on, "
        f"{len(test):,} of {test['coin'].nunique():,} to test on",
        highlight=False,
        soft_wrap=True,
    )
    for warning in cleaning.warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)


def find_finished(key, folds, args, console):
    """Check the store, close what crashes left open, and find the trials to take over."""
    store.check_store()
    for note in tracking.close_dead_runs(key):
        console.print(note, highlight=False, soft_wrap=True)
    if args.resume == "never":
        return {}
    grid = candidates(args.grid)
    found = tracking.finished_trials(key, folds=folds)
    finished = {run_id: trial for run_id, trial in found.items() if trial.params in grid}
    if finished:
        console.print(
            f"{len(finished)} of {len(grid)} trials were finished by an interrupted search",
            highlight=False,
        )
    return finished


def log_data(table, cleaning, *, source):
    """The cleaned table, what cleaning did, and both sets as MLflow datasets."""
    mlflow.log_metrics({"rows_read": cleaning.rows_read, "rows_used": cleaning.rows_used})
    mlflow.log_dict(cleaning.to_dict(), "cleaning.json")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, registry.CLEANED_DATA)
        table.to_csv(path, index=False)
        mlflow.log_artifact(path)
    for name, context in (("train", "training"), ("test", "test")):
        rows = table.loc[table["set"] == name, ["date", "coin", *FEATURES, TARGET]]
        dataset = mlflow.data.from_pandas(
            rows, LocalArtifactDatasetSource(source), targets=TARGET, name=Path(source).name
        )
        mlflow.log_input(dataset, context=context)


@contextmanager
def log_trials(run, finished, total, console):
    """Yields the search's `on_trial`: the trial is in MLflow before the next one is awaited.

    Trials that an interrupted search finished are copied first.
    """
    best = float("-inf")
    with progress_bar(console, "Trials", total) as advance:

        def on_trial(trial, resumed_from=None):
            nonlocal best
            with notice(console, "MLflow does not answer; trying for some minutes"):
                tracking.log_trial(run, trial, resumed_from=resumed_from)
            best = max(best, trial.r2)
            advance(f"best r2 {best:.4f}")

        for run_id, trial in finished.items():
            on_trial(trial, resumed_from=run_id)
        yield on_trial


def log_search(run, trials):
    """What is known when the last trial is: ranks, the winner, the table and the pictures."""
    tracking.log_ranks(run, trials)
    best = best_trial(trials)
    mlflow.log_metrics({"best_r2": best.r2, "trials": len(trials)})
    mlflow.log_params({f"best_{name}": value for name, value in best.params.items()})
    mlflow.log_text(tracking.trials_table(trials).to_csv(index=False), "trials.csv")
    log_figures(plots.search_figures(trials))


def log_evaluation(fitted, test, *, quantile, baselines):
    """Score the test rows, log metrics and figures, and return the metrics."""
    X, y = inputs_and_target(test)
    y_pred = fitted.predict(X)
    metrics = baselines | evaluation.final_metrics(y, y_pred, quantile=quantile)
    mlflow.log_metrics(metrics)
    importance = permutation_importance(fitted, X, y, scoring="r2", n_repeats=5, random_state=0)
    log_figures(
        plots.model_figures(y, y_pred, quantile=quantile, importance=importance.importances)
    )
    return metrics


def log_figures(figures):
    """Log each figure under its file name in the run's folder `figures`."""
    for name, figure in figures.items():
        mlflow.log_figure(figure, f"figures/{name}")


def print_summary(console, trials, metrics, decision, *, name, version):
    """The five best trials, the test figures beside the baselines, and what to do next."""
    top = Table(title=f"The best of {len(trials)} trials", title_justify="left")
    for column in (*PARAM_GRID, "r2", "+/-"):
        top.add_column(column, justify="right")
    for trial in sorted(trials, key=lambda trial: -trial.r2)[:5]:
        values = [str(trial.params[param]) for param in PARAM_GRID]
        top.add_row(*values, f"{trial.r2:.4f}", f"{trial.r2_std:.4f}")
    console.print(top)
    lines = [
        f"  test r2 {metrics['test_r2']:8.4f}  tuned forest",
        f"  test r2 {metrics['baseline_test_r2']:8.4f}  untuned forest",
        f"  test r2 {metrics['formula_test_r2']:8.4f}  volume / cap",
        f"  test r2 {metrics['mean_test_r2']:8.4f}  mean of the training rows",
        f"  the 90 % interval holds {metrics['interval_coverage']:.0%} of the test rows; "
        f"High: precision {metrics['high_precision']:.2f}, recall {metrics['high_recall']:.2f}",
        f"Registered {name} version {version} as {decision.role}: {decision.reason}.",
        "Look:   mlflow ui --port 5001",
        f"Serve:  make serve, or mlflow models serve -m models:/{name}@champion --env-manager uv",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def parse_arguments(argv):
    """The job's settings; leaves with exit code 2 and one sentence where they make no sense."""
    parser = Parser(prog="train.py", description=__doc__)
    add = parser.add_argument
    add("--data", default="data/sample.csv", help="a file, a folder or a glob of snapshots")
    add("--outliers", choices=("keep", "iqr"), default="keep", help="iqr: trim by Tukey's fences")
    add("--split", choices=evaluation.SPLITS, default="coin", help="what separates train and test")
    add("--test-size", type=share, default=0.2, help="share of coins, rows or dates")
    add("--cv", type=whole_number(2), default=5, help="number of folds")
    for name, values in PARAM_GRID.items():
        default = ",".join(str(value).lower() for value in values)
        add(f"--{name.replace('_', '-')}", default=default, help=f"values to try ({default})")
    add("--max-samples", type=share_or_all, default=1.0, help="share of rows that each tree draws")
    add("--random-state", type=whole_number(0), default=42)
    add("--n-jobs", type=whole_number(-1), default=-1, help="worker processes; -1: one per core")
    add("--scheduler", default=cluster.LOCAL, help="a Dask scheduler's address, tcp://HOST:8786")
    add("--promote", choices=registry.PROMOTE, default="auto")
    add("--resume", choices=("auto", "never"), default="auto", help="never: fit everything afresh")
    add("--experiment", default=EXPERIMENT, help="not used under `mlflow run`")
    add("--model-name", type=_model_name, default=registry.MODEL_NAME)
    args = parser.parse_args(argv)
    if args.n_jobs == 0:
        parser.error("argument --n-jobs: expected -1 or a whole number >= 1, got 0")
    try:
        args.grid = parse_grid(**{name: getattr(args, name) for name in PARAM_GRID})
    except ValueError as error:
        parser.error(str(error))
    args.logged = {k: v for k, v in vars(args).items() if k not in ("experiment", "grid")}
    return args


def _model_name(text):
    if not text.strip() or set(text) & set("/:"):
        raise argparse.ArgumentTypeError(f"expected a name without / and :, got {text!r}")
    return text


if __name__ == "__main__":
    sys.exit(main())
