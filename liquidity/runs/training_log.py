"""What a training writes into its parent run, step by step."""

import math
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.data.sources import LocalArtifactDatasetSource

from liquidity.contract import COIN, DATE, TARGET
from liquidity.progress import notice, progress_bar
from liquidity.report import training_plots
from liquidity.runs import tracking
from liquidity.runs.tables import write_table
from liquidity.scratch import scratch_folder
from liquidity.search.grid import best_trial


def log_data(task, cleaning, *, source):
    """The cleaned table, what cleaning did, and both sets as MLflow datasets."""
    mlflow.log_metrics({"rows_read": cleaning.rows_read, "rows_used": cleaning.rows_used})
    mlflow.log_dict(cleaning.to_dict(), "cleaning.json")
    with scratch_folder() as folder:
        mlflow.log_artifact(write_table(task.table, Path(folder), horizon=task.horizon))
    for frame, context in ((task.training, "training"), (task.test, "test")):
        rows = frame[[DATE, COIN, *task.features, TARGET]]
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
    log_figures(training_plots.search_figures(trials))


def log_evaluation(metrics, figures):
    """The metrics and figures of the test rows, which a task returns."""
    # MLflow's stores do not all take NaN: what cannot be said of so few rows is not logged.
    mlflow.log_metrics({name: value for name, value in metrics.items() if math.isfinite(value)})
    log_figures(figures)


def log_figures(figures):
    """Log each figure under its file name in the run's folder `figures`."""
    for name, figure in figures.items():
        mlflow.log_figure(figure, f"figures/{name}")
