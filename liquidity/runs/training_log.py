"""What a training writes into its parent run, step by step."""

import math
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import mlflow
import sklearn
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from liquidity.contract import COIN, DATE, TARGET
from liquidity.data.table import digest
from liquidity.progress import notice, progress_bar
from liquidity.report import training_plots
from liquidity.report.notes import run_note
from liquidity.report.style import write_png
from liquidity.runs import addresses, tracking
from liquidity.runs.records import FINISHED, HORIZON, SEARCH_KEY, children_of
from liquidity.runs.tables import write_table
from liquidity.scratch import scratch_folder
from liquidity.search.grid import best_trial

SCHEMA_ROWS = 1000  # that tell the types of all
LONGEST_NOTE = 8000  # what MLflow takes as a tag
LIST_METRICS = ["test_r2", "har_test_r2", "persistence_test_r2", "typical_error"]
LIST_METRICS += ["interval_coverage"]
# By which trainings are told apart.
TRAINING_METRICS = ["best_r2", "test_r2", "test_log_r2", "har_test_r2", "interval_coverage"]
TRAINING_PARAMS = ["data", "horizon"]


def run_tags(task, key, *, settings, data_digest):
    """The tags of a run, in the order in which MLflow's page shows them: plumbing stands last."""
    return {
        HORIZON: str(task.horizon),
        **{f"resolved.{setting}": str(value) for setting, value in settings.items()},
        "data_digest": data_digest,
        "scikit_learn_version": sklearn.__version__,
        SEARCH_KEY: key,
    }


def run_name(source, task, trials, r2=None):
    """How a run is called, before and after its test r2 is known."""
    what = ", ".join(filter(None, [tracking.source_name(source), task.ahead]))
    scored = "" if r2 is None else f"test r2 {r2:.4f}, "
    return f"{what}: {scored}{trials} trials"


def list_name(source, horizons):
    """How the run of a list of horizons is called."""
    return f"{tracking.source_name(source)}: {', '.join(map(str, horizons))} days ahead"


def log_list(outer):
    """Let MLflow's page compare the horizons of a list; returns where, by what it shows."""
    addresses.save_view(outer, metrics=LIST_METRICS, drawn=LIST_METRICS, grid={})
    return {
        "horizons": addresses.table_path(outer),
        "in charts": addresses.charts_path(outer),
        "the list": addresses.run_path(outer),
    }


def log_data(task, cleaning, *, source):
    """The cleaned table, what cleaning did, and both sets as MLflow datasets."""
    mlflow.log_dict(cleaning.to_dict(), "cleaning.json")
    with scratch_folder() as folder:
        mlflow.log_artifact(write_table(task.table, Path(folder), horizon=task.horizon))
    for frame, name, context in (
        (task.training, "train", "training"),
        (task.test, "test", "test"),
    ):
        rows = frame[[DATE, COIN, *task.features, TARGET]]
        describe = partial(mlflow.data.from_pandas, targets=TARGET, name=name, digest=digest(rows))
        dataset = describe(rows, LocalArtifactDatasetSource(source))
        # Of all rows MLflow takes seconds for it, value by value in Python.
        dataset.schema = describe(rows.head(SCHEMA_ROWS)).schema
        mlflow.log_input(dataset, context=context)


@contextmanager
def log_trials(run, finished, grid, total, console):
    """Yields the search's `on_trial`: the trial is in MLflow before the next one is awaited.

    Trials that an interrupted search finished are copied first.
    """
    addresses.save_view(
        run, metrics=["r2", "r2_std", "rank"], drawn=["r2", "r2_std", "fit_seconds"], grid=grid
    )
    addresses.save_trainings(run, metrics=TRAINING_METRICS, params=TRAINING_PARAMS)
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
    log_figures(training_plots.search_figures(trials))


def log_evaluation(metrics, figures, cleaning):
    """The metrics and figures of the test rows, which a task returns, and how many rows there are.

    MLflow's page lists the metrics in this order.
    """
    metrics = metrics | {"rows_read": cleaning.rows_read, "rows_used": cleaning.rows_used}
    # MLflow's stores do not all take NaN: what cannot be said of so few rows is not logged.
    mlflow.log_metrics({name: value for name, value in metrics.items() if math.isfinite(value)})
    log_figures(figures)


def log_verdict(run, trials, worth, *, decision, name, version, run_name, outer=None):
    """The run's note, a paragraph in that of its list, and its name, which is `run_name(r2=...)`
    where it is still `run_name()`; returns where to look, by what it shows.
    """
    called = run_name(r2=next(iter(worth.scores.values())))
    client = mlflow.MlflowClient()
    links = {"Trials by r2": addresses.table_path(run), "In charts": addresses.charts_path(run)}
    if len(trials) <= addresses.MOST_DRAWN:
        compared = addresses.comparison_path(children_of(client, run, FINISHED))
        links["Compared by their parameters"] = compared
    link = f"[{name} version {version}]({addresses.version_path(name, version)})"
    note = run_note(worth, trials, decision, version=link, links=links)
    client.set_tag(run.info.run_id, MLFLOW_RUN_NOTE, note[:LONGEST_NOTE])
    tracking.rename(run, run_name(), called)
    if outer:
        before = client.get_run(outer.info.run_id).data.tags.get(MLFLOW_RUN_NOTE, "")
        told = f"[{called}]({addresses.run_path(run)})\n\n{worth.conclusion}\n\n"
        client.set_tag(outer.info.run_id, MLFLOW_RUN_NOTE, (before + told)[:LONGEST_NOTE])
    return {
        "trials by r2": links["Trials by r2"],
        "in charts": links["In charts"],
        "this run": addresses.run_path(run),
        "all trainings": addresses.trainings_path(run),
    }


def log_figures(figures):
    """Log each figure under its file name in the run's folder `figures`."""
    with scratch_folder() as folder:
        for name, figure in figures.items():
            write_png(figure, Path(folder) / name)
        mlflow.log_artifacts(folder, "figures")
