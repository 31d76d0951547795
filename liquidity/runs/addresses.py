"""Where MLflow's page shows a run, its trials and a version, and what it shows of the trials."""

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from liquidity.printable import without_passwords
from liquidity.runs.records import SEARCH_KEY, now

PORT = 5001  # MLflow's own, 5000, is taken on some systems
# MLflow's tag of an experiment for a view that others open by its key; without one, or beside a
# filter in the address, the table has no column of a metric or a parameter.
VIEW = "mlflow.sharedViewState."
# Without it the page opens as that of language models.
KIND = "workflowType=machine_learning"
TRAININGS = "trainings"  # the key of the view of all of them
LIVE = "live"  # of that of the runs of live figures
SECTION = "comparison"
MOST_DRAWN = 100  # runs in a chart


class Page(NamedTuple):
    """MLflow's page over the present store: its address, which ends with a slash, and the command
    that starts it, or None where the store is a server, which has it.
    """

    address: str
    command: str | None


def mlflow_page():
    """The Page of the tracking store."""
    uri = mlflow.get_tracking_uri()
    if uri.startswith("http"):
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        return Page(f"{parts.scheme}://{host}{parts.path.rstrip('/')}/", None)
    path = uri.removeprefix("sqlite:///")
    if path != uri:  # for whoever starts it in another folder
        uri = f"sqlite:///{Path(path).absolute()}"
    hidden = without_passwords(uri) != uri
    store = '"$MLFLOW_TRACKING_URI"' if hidden else shlex.quote(uri)
    command = f"mlflow ui --port {PORT} --backend-store-uri {store}"
    return Page(f"http://127.0.0.1:{PORT}/", command)


def run_path(run):
    """Where the page shows a run, behind the address."""
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?{KIND}"


def table_path(run):
    """Where it shows the runs within a run as `save_view` says."""
    return f"{_view_path(run)}{run.info.run_id}"


def trainings_path(run):
    """Where it shows all trainings of the run's experiment."""
    return f"{_view_path(run)}{TRAININGS}"


def live_path(run):
    """Where it draws the live figures of the run's experiment, as `save_live` says."""
    return f"{_view_path(run)}{LIVE}&compareRunsMode=CHART"


def charts_path(run):
    """Where it draws them."""
    return f"{table_path(run)}&compareRunsMode=CHART"


def comparison_path(runs):
    """Where it compares runs of an experiment by all their params and metrics, in one picture."""
    chosen = {
        "runs": json.dumps([run.info.run_id for run in runs], separators=(",", ":")),
        "experiments": json.dumps([runs[0].info.experiment_id]),
    }
    return f"#/compare-runs?{urlencode(chosen, quote_via=quote)}"


def version_path(name, version):
    """Where it shows a version of a registered model."""
    return f"#/models/{quote(name, safe='')}/versions/{version}"


def artifact_path(run, name):
    """Where it shows a file of a run."""
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/{name}?{KIND}"


def _view_path(run):
    return f"#/experiments/{run.info.experiment_id}/runs?{KIND}&viewStateShareKey="


def save_view(run, *, metrics, drawn, grid):
    """Let `table_path` show the runs within `run` with these metrics, sorted by the first one, and
    with the params of the grid `{name: values}`; and `charts_path` with bars of those `drawn`.
    """
    charts = [{"type": "BAR", "metricKey": metric} for metric in drawn]
    # MLflow's picture of params leaves out runs of which one is no number, such as a depth of None.
    if grid and all(isinstance(each, (int, float)) for values in grid.values() for each in values):
        picture = {"selectedParams": list(grid), "selectedMetrics": metrics[:1]}
        charts.insert(0, {"type": "PARALLEL", "showAllRuns": True, **picture})
    view = {
        **_table(metrics, grid),
        **_charts(charts),
        "searchFilter": f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run.info.run_id}'",
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": False,
    }
    _save(run, run.info.run_id, view)


def save_live(run, *, tag, metrics):
    """Let `live_path` draw these metrics of the runs with a tag by day, in this order, and the
    page's menu of views name that.
    """
    charts = [
        {"type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "xAxisKey": "time"}
        for metric in metrics
    ]
    view = _table(metrics, ()) | _charts(charts) | {"searchFilter": f"tags.`{tag}` LIKE '%'"}
    _save_named(run, LIVE, "Live figures", view)


def save_trainings(run, *, metrics, params):
    """Let `trainings_path` show all trainings with these metrics and params, the newest first, and
    the page's menu of views name that.
    """
    view = _table(metrics, params) | {"searchFilter": f"tags.`{SEARCH_KEY}` LIKE '%'"}
    _save_named(run, TRAININGS, "Trainings", view)


def _table(metrics, params):
    columns = [*(f"metrics.`{each}`" for each in metrics), *(f"params.`{each}`" for each in params)]
    return {"selectedColumns": columns}


def _charts(charts):
    common = {"metricSectionId": SECTION, "runsCountToCompare": MOST_DRAWN}
    common |= {"deleted": False, "isGenerated": False}
    section = {"uuid": SECTION, "name": "Comparison", "display": True, "isReordered": False}
    return {
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [section | {"deleted": False, "isGenerated": False}],
        "compareRunCharts": [
            {"uuid": str(number), **common, **chart} for number, chart in enumerate(charts)
        ],
    }


def _save_named(run, key, name, view):
    _save(run, key, {"name": name, "createdAt": now(), "state": json.dumps(view)})


def _save(run, key, view):
    # Who may write runs but no tag of their experiment trains all the same.
    with suppress(MlflowException):
        mlflow.MlflowClient().set_experiment_tag(
            run.info.experiment_id, f"{VIEW}{key}", json.dumps(view)
        )
