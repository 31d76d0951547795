"""Make the docs' pictures: train on the sample, look at the trials and at the served page; then
forecast a synthetic market, and look at a coin of it.

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
from contextlib import contextmanager
from pathlib import Path

import mlflow
from PIL import Image
from playwright.sync_api import Error, sync_playwright

DOCS = Path(__file__).parent
PORT = 5001
COIN = "Synthetic Coin 116"  # High today, and not expected to stay so


def main():
    """Train in a temporary folder and keep five pictures."""
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
        with running("mlflow", "ui", folder=folder, environment=environment), chromium() as browser:
            photograph_trials(browser, experiment, trials, DOCS / "trials.png")
        environment |= {"PYTHONPATH": str(DOCS.parent), "LIQUIDITY_CACHE_DIR": f"{folder}/cache"}
        with running("serve", folder=folder, environment=environment), chromium() as browser:
            photograph_page(browser, DOCS / "page.png")
        panel = f"{folder}/panel"
        make = [sys.executable, DOCS.parent / "data/make_sample.py", "--days", "400"]
        subprocess.run([*make, "--coins", "150", "--out", panel], check=True)
        train = [*train[:3], panel, "--horizon", "1,7,30"]
        subprocess.run(train, env=environment, cwd=folder, check=True)
        environment |= {"LIQUIDITY_SNAPSHOTS": panel}
        with running("serve", folder=folder, environment=environment), chromium() as browser:
            photograph_coin(browser, DOCS / "coin.png")


@contextmanager
def running(*module, folder, environment):
    """Run a Python module that serves on PORT, for the time of a with block."""
    command = [sys.executable, "-m", *module, "--port", str(PORT)]
    server = subprocess.Popen(command, env=environment, cwd=folder, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@contextmanager
def chromium():
    """Debian's browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield browser
        browser.close()


def photograph_trials(browser, experiment, trials, path):
    """Take a picture of MLflow's comparison of the runs `trials`."""
    query = {"runs": json.dumps(trials), "experiments": json.dumps([experiment])}
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    visit(page, f"#/compare-runs?{urllib.parse.urlencode(query)}")
    page.get_by_text(f"Comparing {len(trials)} Runs").wait_for(timeout=60_000)
    page.get_by_label("Close").first.click()
    page.wait_for_timeout(2000)  # the chart draws itself
    save(page, path)


def photograph_page(browser, path):
    """Take a picture of a scored coin."""
    page = browser.new_page(viewport={"width": 1100, "height": 860})
    visit(page, "")
    page.locator(".chips a").first.click()
    page.locator(".verdict").wait_for()
    page.evaluate("window.scrollTo(0, 0)")
    save(page, path)


def photograph_coin(browser, path):
    """Take a picture of a coin of the market: what it was, and what is expected."""
    page = browser.new_page(viewport={"width": 1000, "height": 690}, device_scale_factor=2)
    visit(page, "market")
    for _ in range(300):  # the snapshots are read and the forecasts loaded meanwhile
        if page.get_by_text("Expected, 30 d").count():
            break
        page.wait_for_timeout(1000)
        page.reload()
    visit(page, f"coins/{COIN}")
    save(page, path, colours=64)


def visit(page, address):
    """Open a page of the server on PORT as soon as it is up."""
    for _ in range(60):
        try:
            page.goto(f"http://127.0.0.1:{PORT}/{address}")
            return
        except Error:
            time.sleep(0.5)


def save(page, path, *, colours=256):
    """Keep the page as a picture; a palette keeps it small."""
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(colours).save(path, optimize=True)


if __name__ == "__main__":
    main()
