"""The project's own files agree with each other."""

import hashlib
import re
import subprocess
import sys

import pytest
import yaml
from support import PROJECT, SAMPLE

import train
from liquidity import coingecko, eda
from liquidity.data.market import read_market
from liquidity.model.packaging import REQUIREMENTS
from liquidity.monitor import job as monitor
from liquidity.scoring.job import parse_arguments
from serve import __main__ as server


def monitor_options():
    """Its action stands without a name; the experiment is for live figures of all runs."""
    options = vars(monitor.parse_arguments(["check", "--data", "d"]))
    return {name: value for name, value in options.items() if name != "experiment"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("main", train.parse_arguments([]).logged),
        ("fetch", vars(coingecko.parse_arguments([]))),
        ("eda", {"data": eda.parse_arguments([]).data}),
        ("serve", vars(server.parse_arguments([]))),
        ("score", vars(parse_arguments(["--input", "i", "--output", "o"]))),
        ("monitor", monitor_options()),
    ],
)
def test_mlproject_has_the_jobs_options_with_their_defaults(name, options):
    entry = yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"][name]
    assert entry["parameters"].keys() == options.keys() - {"overwrite"}
    for name, parameter in entry["parameters"].items():
        if "default" in parameter:
            assert str(parameter["default"]) == str(options[name]), name
        option = "" if name == "action" else f"--{name.replace('_', '-')} "
        assert f"{option}{{{name}}}" in entry["command"]


def test_a_changed_requirements_file_is_a_new_conda_environment():
    digest = hashlib.sha256((PROJECT / "requirements.txt").read_bytes()).hexdigest()
    first = (PROJECT / "conda.yaml").read_text().splitlines()[0]
    assert first.endswith(digest), "run `make pins`"


def test_every_requirement_is_pinned_exactly():
    for name in ("requirements.txt", "requirements-cluster.txt", "requirements-dev.txt"):
        for line in (PROJECT / name).read_text().splitlines():
            assert re.fullmatch(r"[\w\[\]-]+==[\w.]+|-r requirements\S*\.txt", line), line


def test_the_first_command_of_the_readme_pins_what_the_project_pins():
    """MLflow upgrades a store for good, so the first command has to bring the project's version."""
    readme = (PROJECT / "README.md").read_text()
    (command,) = re.findall(r"^pip install .* mlflow run .*$", readme, re.MULTILINE)
    pins = [*(PROJECT / "requirements.txt").read_text().split()]
    pins += (PROJECT / "requirements-dev.txt").read_text().split()
    named = re.findall(r"(\w+)==([\w.]+)", command)
    assert [name for name, _ in named] == ["mlflow", "uv"]
    for name, version in named:
        assert f"{name}=={version}" in pins


def test_the_models_packages_are_installed_and_pinned_with_the_model():
    pins = (PROJECT / "requirements.txt").read_text()
    for package in REQUIREMENTS:
        assert re.search(rf"^{package.removesuffix('-skinny')}==", pins, re.MULTILINE), package


def test_the_sample_is_what_its_program_writes(tmp_path):
    program = PROJECT / "data/make_sample.py"
    subprocess.run([sys.executable, program, tmp_path / "sample.csv"], check=True)
    assert (tmp_path / "sample.csv").read_bytes() == SAMPLE.read_bytes()


def test_the_sample_is_shaped_like_the_real_market(sample_table):
    """Medians, tails and correlations of the two published snapshots, within sampling error."""
    frame, cleaning = read_market(SAMPLE)
    assert (cleaning.rows_read, frame["coin"].nunique(), frame["date"].nunique()) == (1200, 300, 4)
    assert frame["coin"].str.startswith("Synthetic").all()
    real = {
        "price": (0.194, 1.095, 7.23),
        "24h_volume": (1.77e6, 8.34e6, 4.00e7),
        "mkt_cap": (1.16e8, 2.12e8, 5.95e8),
        "liquidity": (0.0088, 0.0338, 0.0883),
    }
    for name, quartiles in real.items():
        measured = sample_table.assign(price=frame["price"])[name].quantile([0.25, 0.5, 0.75])
        for got, expected in zip(measured, quartiles, strict=True):
            assert 0.6 < got / expected < 1.5, name
    logs = sample_table[["24h_volume", "mkt_cap", "price"]].map(lambda v: max(v, 1e-12))
    correlation = logs.apply(lambda column: column.map(__import__("math").log10)).corr()
    assert abs(correlation.loc["24h_volume", "mkt_cap"] - 0.53) < 0.1
    assert abs(correlation.loc["24h_volume", "price"] - 0.14) < 0.1
    assert abs(correlation.loc["mkt_cap", "price"] - 0.18) < 0.1
