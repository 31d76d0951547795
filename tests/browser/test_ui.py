"""The trials in MLflow's own page, seen by a real browser."""

import json
import os
import signal
import subprocess
import sys
import urllib.parse

import pytest
from support import children, wait_for_http


@pytest.fixture
def mlflow_ui(complete, tmp_path, free_port):
    """`mlflow ui` over the store of a finished run."""
    client, _ = complete
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(free_port), "--workers", "1"]
    command += ["--backend-store-uri", client.tracking_uri]
    with (tmp_path / "ui.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for_http(f"http://127.0.0.1:{free_port}/health", server)
        yield f"http://127.0.0.1:{free_port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def test_the_trials_compare_by_params_and_r2(complete, mlflow_ui, page):
    client, parent = complete
    runs = json.dumps([child.info.run_id for child in children(client, parent)])
    experiments = json.dumps([parent.info.experiment_id])
    query = urllib.parse.urlencode({"runs": runs, "experiments": experiments})
    page.goto(f"{mlflow_ui}/#/compare-runs?{query}")
    page.get_by_text("Comparing 4 Runs from 1 Experiment").wait_for(timeout=60_000)
    for text in ("6 trees, depth None, split 2", "min_samples_split", "r2_fold_3", "rank"):
        page.get_by_text(text).first.wait_for(timeout=10_000)
