"""Make the README's pictures: train on the sample, look at the trials in MLflow's page.

    python docs/make_pictures.py

Needs Debian's Chromium (/usr/bin/chromium) and the packages of requirements-dev.txt.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

import mlflow
from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
PORT = 5001


def main():
    """Train in a temporary folder and keep three pictures."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        environment = os.environ | {"MLFLOW_TRACKING_URI": store}
        train = [
            sys.executable,
            DOCS.parent / "train.py",
            "--data",
            DOCS.parent / "data/sample.csv",
        ]
        subprocess.run(train, env=environment, cwd=folder, check=True)
        client = mlflow.MlflowClient(store)
        experiment = client.get_experiment_by_name("crypto-liquidity").experiment_id
        runs = client.search_runs([experiment])
        parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
        for name in ("predicted_vs_actual", "grid_heatmap"):
            path = client.download_artifacts(parent.info.run_id, f"figures/{name}.png")
            shutil.copy(path, DOCS)
        trials = [run.info.run_id for run in runs if run is not parent]
        ui = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "ui", "--port", str(PORT)],
            env=environment, cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            photograph(experiment, trials, DOCS / "trials.png")
        finally:
            os.killpg(ui.pid, signal.SIGTERM)
            ui.wait()


def photograph(experiment, trials, path):
    """Take a picture of MLflow's comparison of the runs `trials`."""
    query = {"runs": json.dumps(trials), "experiments": json.dumps([experiment])}
    url = f"http://127.0.0.1:{PORT}/#/compare-runs?{urllib.parse.urlencode(query)}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        for _ in range(60):
            try:
                page.goto(url)
                break
            except Exception:  # the server is not up yet
                time.sleep(0.5)
        page.get_by_text(f"Comparing {len(trials)} Runs").wait_for(timeout=60_000)
        page.get_by_label("Close").first.click()
        page.wait_for_timeout(2000)  # the chart draws itself
        page.screenshot(path=path)
        browser.close()
    # A palette keeps the picture small.
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main()
