"""Live figures in MLflow: a run per version with a metric per target day, and the version's tags.

A day's metrics carry its own date as time, and so the same point, written again after a kill, is
the same row of the store and not a second one. The figures come from the ledger, always the same.
"""

import math

import mlflow
from mlflow.entities import Metric, RunTag, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from liquidity.contract import FINE, LIVE_METRICS, STALE
from liquidity.monitor import ledger
from liquidity.monitor.ledger import OUTCOME, as_date
from liquidity.monitor.outcomes import day_figures, pooled
from liquidity.runs.records import end_run

EXPERIMENT = "crypto-liquidity-monitor"
VERSION = "live.version"  # tag of the run of a version's live figures: name/number
DAY_MS = 86_400_000
BATCH = 100 * len(LIVE_METRICS)


def log_outcomes(version, reference, *, experiment_id):
    """Log every scored day of a version that its run does not have yet; returns their number.

    The caller holds the ledger, so that no run is made twice.
    """
    outcomes = version.days(OUTCOME)
    if not outcomes:
        return 0
    client = mlflow.MlflowClient()
    run = _live_run(client, version, experiment_id)
    # The last one of a day's metrics to be written.
    logged = {
        metric.step for metric in client.get_metric_history(run.info.run_id, LIVE_METRICS[-1])
    }
    metrics = []
    new = [day for day in outcomes if day not in logged]
    for day in new:
        found = day_figures(day, ledger.read(version, OUTCOME, day), reference["threshold"])
        figures = found.figures if found else {}
        metrics += [
            Metric(name, figures[name], day * DAY_MS, day)
            for name in LIVE_METRICS
            if math.isfinite(figures.get(name, math.nan))
        ]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + BATCH])
    return len({metric.step for metric in metrics})


def _live_run(client, version, experiment_id):
    """The version's run, FINISHED: it is written to, and never open."""
    key = f"{version.name}/{version.number}"
    found = client.search_runs(
        [experiment_id], f"tags.`{VERSION}` = '{key}'", ViewType.ACTIVE_ONLY,
        order_by=["attributes.start_time ASC"],
    )  # fmt: skip
    name = f"{version.name} v{version.number}, live"
    tags = {VERSION: key, "horizon": str(version.horizon), MLFLOW_RUN_NAME: name}
    run = found[0] if found else client.create_run(experiment_id, tags=tags)
    if run.info.status == "RUNNING":  # new, or a kill came in between
        end_run(client, run, "FINISHED")
    return run


def live_tags(days, wrong=None):
    """The tags of a version from its last scored days, oldest first: the LIVE_METRICS of all their
    rows together, `live_days`, and `live_until`, the last target day.

    Of a champion also `live_verdict` and `live_reason`, from the clauses of what is `wrong`.
    """
    tags = {}
    if days:
        figures = pooled(days)
        tags = {name: f"{value:.4g}" for name, value in figures.items()}
        tags["live_rows"] = str(figures["live_rows"])
        tags |= {"live_days": str(len(days)), "live_until": str(as_date(days[-1].target))}
    if wrong is not None:
        tags |= {"live_verdict": STALE if wrong else FINE, "live_reason": "; ".join(wrong)}
    return tags


def tag_version(version, tags):
    """Set the tags of a version in the registry that are not there as they are."""
    client = mlflow.MlflowClient()
    present = client.get_model_version(version.name, version.number).tags
    for key, value in tags.items():
        if present.get(key) != value:
            client.set_model_version_tag(version.name, version.number, key, value)


def experiment_id(name):
    """The id of the experiment of this name, made where there is none."""
    found = mlflow.get_experiment_by_name(name)
    return found.experiment_id if found else mlflow.create_experiment(name)


def note_in_run(run_id, tags):
    """Add tags to a run that has ended."""
    mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
