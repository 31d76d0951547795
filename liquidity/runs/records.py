"""The runs of this project in the store: their tags and metrics, how they are found and ended."""

import time

import mlflow
from mlflow.entities import LoggedModelStatus, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

SEARCH_KEY = "search_key"
PROCESS = "process"
HORIZON = "horizon"
RESUMED_FROM = "resumed_from"
FINISHED = "attributes.status = 'FINISHED'"
PAGE = 1000


def trial_key(child):
    """A trial's params out of the texts that MLflow keeps, as its `Trial.key`."""
    return tuple(sorted((name, _value(text)) for name, text in child.data.params.items()))


def _value(text):
    if text == "None":
        return None
    return int(text) if text.isdigit() else float(text)


def end_run(client, run, status):
    """End a run, never before its start: the clock may have been set back meanwhile."""
    client.set_terminated(run.info.run_id, status, max(now(), run.info.start_time))


def end_unfinished(client, parent, status):
    """End what a parent run that has ended left open: trials, and a model without its files."""
    for child in children_of(client, parent, "attributes.status = 'RUNNING'"):
        end_run(client, child, status)
    models = client.search_logged_models(
        [parent.info.experiment_id], f"source_run_id = '{parent.info.run_id}'"
    )
    for model in models:
        if model.status == LoggedModelStatus.PENDING:
            client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)


def children_of(client, parent, condition=""):
    """The runs of a parent's trials that meet the condition of MLflow's search language."""
    condition = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.info.run_id}' and {condition}"
    return _pages(client, [parent.info.experiment_id], condition.removesuffix(" and "))


def search_runs(condition):
    """Runs in all experiments: `mlflow run` and `python train.py` write to different ones."""
    client = mlflow.MlflowClient()
    experiments, token = [], None
    while True:
        page = client.search_experiments(ViewType.ACTIVE_ONLY, page_token=token)
        experiments += [experiment.experiment_id for experiment in page]
        if not (token := page.token):
            return _pages(client, experiments, condition)


def _pages(client, experiments, condition):
    runs, token = [], None
    while True:
        page = client.search_runs(experiments, condition, max_results=PAGE, page_token=token)
        runs += page
        if not (token := page.token):
            return runs


def now():
    """The time in milliseconds, as MLflow writes it."""
    return int(1000 * time.time())
