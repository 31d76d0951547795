"""The training job: snapshot files in, a tracked search and a registered champion out."""

import sys
from functools import partial

if __name__ == "__main__":
    # What follows takes seconds, and half a minute where nothing is compiled yet.
    print("Loading the libraries", flush=True)

from liquidity.processes import loading

with loading():
    from mlflow.exceptions import MlflowException

    from liquidity import evaluation, registry
    from liquidity.command import (
        AUTO,
        Parser,
        add_day_shift_option,
        auto_or,
        model_name,
        parse_horizons,
        run,
        share,
        share_or_all,
        whole_number,
    )
    from liquidity.contract import FORECAST_FEATURES, MODEL_NAME, registered_name
    from liquidity.data.market import REQUIRED, read_market, trim_outliers
    from liquidity.data.table import digest
    from liquidity.errors import SettingsError
    from liquidity.executors import add_scheduler_option, workers
    from liquidity.model.gate import PROMOTE, decide
    from liquidity.model.packaging import log_model
    from liquidity.progress import elapsed_time, notice
    from liquidity.report import notes, summary
    from liquidity.runs import tracking, training_log
    from liquidity.runs.addresses import mlflow_page
    from liquidity.runs.destination import check_destination
    from liquidity.runs.recovery import find_finished, finished_before
    from liquidity.runs.store import check_store, quieten_mlflow
    from liquidity.search.grid import (
        best_trial,
        candidates,
        fit_fold,
        out_of_fold,
        search,
        search_key,
    )
    from liquidity.search.pipeline import (
        PARAMS,
        build_pipeline,
        fit_pipeline,
        parse_grid,
        with_forest_params,
    )
    from liquidity.tasks import forecast, same_day
    from liquidity.terminal import Terminal

PROG = "train.py"
EXPERIMENT = "crypto-liquidity"


def main(argv=None):
    """Run the job; returns the exit code: 0, 1 (failed), 2 (bad input) or 130 (stopped)."""
    args = parse_arguments(argv)
    quieten_mlflow()
    return run(PROG, lambda: train(args, Terminal()), failures=(MlflowException,))


def train(args, console):
    """The job from files to registered versions: the data read once, then each horizon."""
    with elapsed_time(console, f"Reading {args.data}"):
        frame, cleaning = read_data(args)
    summary.print_read(console, cleaning)
    tasks = prepare_tasks(frame, args)
    with notice(console, "Opening the MLflow store; a new one takes a moment to make", seconds=1):
        check_store()
        summary.print_destination(console, check_destination(args.experiment))
    if len(tasks) == 1:
        train_task(*tasks, cleaning, args, console)
        return
    name = training_log.list_name(args.data, args.horizons)
    with tracking.parent_run(experiment=args.experiment, params=args.logged, name=name) as outer:
        paths = training_log.log_list(outer)
        for task in tasks:
            train_task(task, cleaning, args, console, outer=outer)
    summary.print_lines(console, summary.looking(mlflow_page(), paths))


def train_task(task, cleaning, args, console, *, outer=None):
    """One horizon from its rows to a registered version, step by step; all wiring is here."""
    settings, grid = args.settings[task.horizon], args.grids[task.horizon]
    name, total = registered_name(args.model_name, task.horizon), len(candidates(grid))
    if outer:
        console.print(f"{name}:", highlight=False)
    summary.print_split(console, task.training, task.test)
    pipeline = build_pipeline(random_state=args.random_state, max_samples=settings["max_samples"])
    key = search_key(pipeline, task.X, task.y, folds=task.folds, searched=grid, offset=task.offset)
    finished = find_finished(key, len(task.folds), grid=grid, resume=args.resume, console=console)
    if outer and args.resume == "auto" and finished_before(key, model_name=args.model_name):
        console.print("Finished by an interrupted list of horizons; it stays as it is.")
        return
    data_digest = digest(task.table)
    tags = training_log.run_tags(task, key, settings=settings, data_digest=data_digest)
    run_name = partial(training_log.run_name, args.data, task, total)
    with (
        workers(args.scheduler, fit_fold, n_jobs=args.n_jobs, console=console) as executor,
        tracking.parent_run(
            experiment=args.experiment, params=args.logged, tags=tags, name=run_name(), outer=outer
        ) as parent,
    ):
        training_log.log_data(task, cleaning, source=args.data)
        untuned = task.start_baseline(pipeline, executor)
        with training_log.log_trials(parent, finished, grid, total, console) as on_trial:
            trials = search(
                pipeline,
                task.X,
                task.y,
                param_grid=grid,
                folds=task.folds,
                executor=executor,
                on_trial=on_trial,
                finished=finished.values(),
                offset=task.offset,
                unscored=task.unscored,
            )
        training_log.log_search(parent, trials)
        with elapsed_time(console, "Refitting the best, calibrating and evaluating"):
            best = best_trial(trials)
            tuned = with_forest_params(pipeline, **best.params)
            rows = {"folds": task.folds, "unscored": task.unscored}
            interval = task.calibrate(
                best.predictions or out_of_fold(tuned, task.X, task.y, **rows, executor=executor)
            )
            X, y = task.X[task.fit_rows], task.y[task.fit_rows]
            fitted = fit_pipeline(tuned, X, y, n_jobs=args.n_jobs)
            metrics, figures = task.evaluate(fitted, interval, untuned)
            training_log.log_evaluation(metrics, figures, cleaning)
            worth = task.worth(metrics)
        with elapsed_time(console, "Compiling, comparing and registering"):
            facts = {"target": task.describe_target(), "interval": interval, "digest": data_digest}
            model_uri = log_model(fitted, task.training, task.X, horizon=task.horizon, **facts)
            options = {"promote": args.promote, "split": settings["split"], "name": name}
            decided = partial(
                decide, model_uri, task.table, metrics, horizon=task.horizon, **options
            )
            about = notes.version_note(worth, task, source=tracking.source_name(args.data))
            decision, version = registry.decide_and_register(
                model_uri, decided, name=name, about=about, about_all=notes.model_note(task, name)
            )
        found = {"decision": decision, "name": name, "version": version}
        paths = training_log.log_verdict(
            parent, trials, worth, run_name=run_name, outer=outer, **found
        )
    look = summary.looking(mlflow_page(), paths)
    summary.print_summary(console, trials, worth, look=look, **found)


def read_data(args):
    """The checked market frame, and what cleaning left out."""
    required = REQUIRED if 0 in args.horizons else FORECAST_FEATURES
    frame, cleaning = read_market(args.data, required=required, day_shift=args.day_shift)
    if args.outliers == "iqr":
        frame, cleaning = trim_outliers(frame, cleaning)
    return frame, cleaning


def prepare_tasks(frame, args):
    """What is learned for each horizon; raises MarketDataError where there is too little."""
    panel = forecast.read_panel(frame) if any(args.horizons) else None
    tasks = []
    for horizon in args.horizons:
        settings = args.settings[horizon] | {
            "test_size": args.test_size,
            "cv": args.cv,
            "random_state": args.random_state,
        }
        if horizon:
            tasks.append(forecast.prepare(panel, horizon, **settings))
        else:
            tasks.append(same_day.prepare(frame, **settings))
    return tasks


def parse_arguments(argv):
    """The job's settings; leaves with exit code 2 and one sentence where they make no sense."""
    parser = Parser(prog="train.py", description=__doc__)
    add = parser.add_argument
    add("--data", default="data/sample.csv", help="a file, a folder or a glob of snapshots")
    add("--horizon", default="0", help="days ahead, or a list such as 1,7,30; 0: the same day")
    add_day_shift_option(parser)
    add("--outliers", choices=("keep", "iqr"), default="keep", help="iqr: trim by Tukey's fences")
    add(
        "--split",
        choices=(AUTO, *evaluation.SPLITS),
        default=AUTO,
        help="auto: coin, or date for forecasts",
    )
    add("--test-size", type=share, default=0.2, help="share of coins, rows or dates")
    add("--cv", type=whole_number(2), default=5, help="number of folds")
    for name in PARAMS:
        add(f"--{name.replace('_', '-')}", default=AUTO, help="values to try, such as 5,10")
    add("--max-samples", type=auto_or(share_or_all), default=AUTO, help="share of rows of a tree")
    add("--random-state", type=whole_number(0), default=42)
    add("--n-jobs", type=whole_number(-1), default=-1, help="worker processes; -1: one per core")
    add_scheduler_option(parser)
    add("--promote", choices=PROMOTE, default="auto")
    add("--resume", choices=("auto", "never"), default="auto", help="never: fit everything afresh")
    add("--experiment", default=EXPERIMENT, help="not used under `mlflow run`")
    add("--model-name", type=model_name, default=MODEL_NAME)
    args = parser.parse_args(argv)
    if args.n_jobs == 0:
        parser.error("argument --n-jobs: expected -1 or a whole number >= 1, got 0")
    args.logged = {name: value for name, value in vars(args).items() if name != "experiment"}
    try:
        args.horizons = parse_horizons(args.horizon)
        texts = {name: getattr(args, name) for name in PARAMS}
        args.grids = {horizon: parse_grid(horizon=horizon, **texts) for horizon in args.horizons}
    except SettingsError as error:
        parser.error(str(error))
    args.settings = {horizon: _settings(args, horizon) for horizon in args.horizons}
    return args


def _settings(args, horizon):
    """What `auto` stands for at this horizon."""
    defaults = {"split": "date", "max_samples": 0.1} if horizon else {}
    defaults = {"split": "coin", "max_samples": 1.0} | defaults
    given = {name: getattr(args, name) for name in defaults}
    return {name: defaults[name] if value == AUTO else value for name, value in given.items()}


if __name__ == "__main__":
    sys.exit(main())
