"""The trials in MLflow's own page, seen by a real browser."""

import json
import os
import signal
import subprocess
import sys
import urllib.parse

import pytest
from support import children, free_port_number, wait_for_http

from liquidity.runs import addresses


@pytest.fixture(scope="module")
def mlflow_ui(complete, tmp_path_factory):
    """`mlflow ui` over the store of a finished run."""
    client, _ = complete
    free_port = free_port_number()
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(free_port), "--workers", "1"]
    command += ["--backend-store-uri", client.tracking_uri]
    with (tmp_path_factory.mktemp("ui") / "ui.log").open("w") as log:
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        server = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env=environment
        )
    try:
        wait_for_http(f"http://127.0.0.1:{free_port}/health", server)
        yield f"http://127.0.0.1:{free_port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


@pytest.fixture(scope="module")
def page(browser):
    """One page for all tests, as each would load MLflow's scripts anew."""
    page = browser.new_page()
    yield page
    page.context.close()


def test_the_trials_compare_by_params_and_r2(complete, mlflow_ui, page):
    client, parent = complete
    runs = json.dumps([child.info.run_id for child in children(client, parent)])
    experiments = json.dumps([parent.info.experiment_id])
    query = urllib.parse.urlencode({"runs": runs, "experiments": experiments})
    page.goto(f"{mlflow_ui}/#/compare-runs?{query}")
    page.get_by_text("Comparing 4 Runs from 1 Experiment").wait_for(timeout=60_000)
    for text in ("6 trees, depth None, split 2", "min_samples_split", "r2_fold_3", "rank"):
        page.get_by_text(text).first.wait_for(timeout=10_000)


def test_the_printed_addresses_open_where_they_say(complete, mlflow_ui, page):
    """The table has the columns by which trials are told apart, the best one first."""
    client, parent = complete
    best = max(children(client, parent), key=lambda run: run.data.metrics["r2"])
    page.set_viewport_size({"width": 1600, "height": 900})  # columns beyond the edge are not there
    page.goto(f"{mlflow_ui}/{addresses.table_path(parent)}")
    page.get_by_text("4 matching runs").wait_for(timeout=60_000)
    for column in ("r2", "r2_std", "rank", "max_depth", "min_samples_split", "n_estimators"):
        page.get_by_role("columnheader", name=column).first.wait_for(timeout=10_000)
    names = page.locator("[role=row] a[href*='/runs/']")
    assert names.first.inner_text() == best.info.run_name
    page.goto("about:blank")
    page.goto(f"{mlflow_ui}/{addresses.charts_path(parent)}")
    page.get_by_text("fit_seconds").first.wait_for(timeout=60_000)
    page.goto("about:blank")
    page.goto(f"{mlflow_ui}/{addresses.trainings_path(parent)}")
    page.get_by_text("1 matching run").wait_for(timeout=60_000)
    page.get_by_role("button", name="Trainings").wait_for(timeout=10_000)
    page.get_by_role("columnheader", name="test_log_r2").first.wait_for(timeout=10_000)


def test_a_runs_note_stands_first_and_its_links_work(complete, mlflow_ui, page):
    _, parent = complete
    page.goto(f"{mlflow_ui}/{addresses.run_path(parent)}")
    page.get_by_role("heading", name=parent.info.run_name).wait_for(timeout=60_000)
    page.get_by_text("The forest explains").wait_for(timeout=10_000)
    trials = page.get_by_role("link", name="Trials by r2").get_attribute("href")
    assert trials == addresses.table_path(parent)
    compared = page.get_by_role("link", name="Compared by their").get_attribute("href")
    page.goto("about:blank")
    page.goto(f"{mlflow_ui}/{compared}")
    page.get_by_text("Comparing 4 Runs from 1 Experiment").wait_for(timeout=60_000)
