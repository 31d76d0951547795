"""The training job: snapshot files in, a tracked search and a registered champion out."""

import argparse
import sys

import numpy as np
import sklearn
from mlflow.exceptions import MlflowException
from rich.console import Console

from liquidity import evaluation, registry
from liquidity.command import Parser, run, share, share_or_all, whole_number
from liquidity.contract import MODEL_NAME
from liquidity.data.market import read_market, trim_outliers
from liquidity.data.table import build_table, digest, inputs_and_target
from liquidity.executors import add_scheduler_option, workers
from liquidity.model.gate import PROMOTE, decide
from liquidity.model.packaging import log_model
from liquidity.progress import elapsed_time
from liquidity.report.summary import print_data, print_summary
from liquidity.runs import tracking, training_log
from liquidity.runs.records import SEARCH_KEY
from liquidity.runs.recovery import find_finished
from liquidity.runs.store import check_store, quieten_mlflow
from liquidity.search.grid import best_trial, candidates, fit_fold, search, search_key
from liquidity.search.pipeline import (
    PARAM_GRID,
    build_pipeline,
    fit_pipeline,
    parse_grid,
    with_forest_params,
)

PROG = "train.py"
EXPERIMENT = "crypto-liquidity"


def main(argv=None):
    """Run the job; returns the exit code: 0, 1 (failed), 2 (bad input) or 130 (stopped)."""
    args = parse_arguments(argv)
    quieten_mlflow()
    return run(
        PROG,
        lambda: train(args, Console()),
        failures=(MlflowException,),
        afterwards="Finished trials are kept: the same command goes on from them.",
    )


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
    check_store()
    finished = find_finished(key, len(folds), grid=args.grid, resume=args.resume, console=console)
    tags = {
        SEARCH_KEY: key,
        "data_digest": data_digest,
        "scikit_learn_version": sklearn.__version__,
    }
    with (
        workers(args.scheduler, fit_fold, n_jobs=args.n_jobs, console=console) as executor,
        tracking.parent_run(experiment=args.experiment, params=args.logged, tags=tags) as parent,
    ):
        training_log.log_data(table, cleaning, source=args.data)
        total = len(candidates(args.grid))
        with training_log.log_trials(parent, finished, total, console) as on_trial:
            trials = search(
                pipeline,
                X,
                y,
                param_grid=args.grid,
                folds=folds,
                executor=executor,
                on_trial=on_trial,
                finished=finished.values(),
            )
        training_log.log_search(parent, trials)
        with elapsed_time(console, "Refitting the best, calibrating and evaluating"):
            tuned = with_forest_params(pipeline, **best_trial(trials).params)
            quantile = evaluation.interval_quantile(tuned, X, y, folds=folds, n_jobs=args.n_jobs)
            fitted = fit_pipeline(tuned, X, y, n_jobs=args.n_jobs)
            baselines = evaluation.baseline_metrics(pipeline, training, test, n_jobs=args.n_jobs)
            metrics = training_log.log_evaluation(
                fitted, test, quantile=quantile, baselines=baselines
            )
        with elapsed_time(console, "Compiling, comparing and registering"):
            model_uri = log_model(fitted, training, quantile=quantile, digest=data_digest)
            decision = decide(
                model_uri, table, name=args.model_name, promote=args.promote, split=args.split
            )
            version = registry.register(model_uri, decision, name=args.model_name)
    print_summary(console, trials, metrics, decision, name=args.model_name, version=version)


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
    add_scheduler_option(parser)
    add("--promote", choices=PROMOTE, default="auto")
    add("--resume", choices=("auto", "never"), default="auto", help="never: fit everything afresh")
    add("--experiment", default=EXPERIMENT, help="not used under `mlflow run`")
    add("--model-name", type=_model_name, default=MODEL_NAME)
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
