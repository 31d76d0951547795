"""Forecasts written down, scored once when their day comes, and stale champions replaced."""

import json
import shutil
import tomllib
from datetime import date, timedelta
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from support import NAME, PROJECT, use_copy

from liquidity import registry
from liquidity.contract import LEDGER_COLUMNS, LIVE_METRICS
from liquidity.forecast import baselines
from liquidity.model.gate import Decision
from liquidity.model.loading import load_model
from liquidity.model.model import EPSILON, history_features
from liquidity.monitor import job, ledger, live, outcomes
from liquidity.monitor.ledger import FORECAST, OUTCOME, Version, as_date, as_day
from liquidity.monitor.reference import reference_of
from liquidity.monitor.retrain import BEGUN, training_job
from liquidity.monitor.roles import find_roles
from liquidity.runs.addresses import VIEW

LAST = date(2026, 6, 20)  # of the market at first; the panel has ten days more
COLUMNS = ["date", "coin", "price", "24h_volume", "mkt_cap"]


class Monitor:
    """The job over a folder of snapshots, a ledger and a store of the test's own."""

    def __init__(self, folder, frame):
        self.data, self.ledger = folder / "snapshots", folder / "ledger"
        self.data.mkdir(exist_ok=True)
        self.frame = frame.assign(date=pd.to_datetime(frame["date"]))
        self.last = LAST

    def past(self):
        """The days up to LAST in one file."""
        rows = self.frame[self.frame["date"] <= pd.Timestamp(LAST)]
        rows[COLUMNS].to_parquet(self.data / "past.parquet")

    def come(self, day, *, change=None, share=1.0):
        """A snapshot of a day, of a share of its coins, arrives."""
        rows = self.frame[self.frame["date"] == pd.Timestamp(day)]
        rows = rows.head(round(share * len(rows)))[COLUMNS]
        rows = change(rows.copy()) if change else rows
        rows.to_csv(self.data / f"market_{day}.csv", index=False)
        self.last = max(self.last, day)

    def run(self, action, *options, data=None, today=None):
        today = today or self.last + timedelta(1)
        paths = ["--data", str(data or self.data), "--ledger", str(self.ledger)]
        return job.main([action, *paths, "--today", str(today), *options])

    def version(self, horizon=1, number="1"):
        return Version(self.ledger, f"{NAME}-{horizon}d", number, horizon)


@pytest.fixture(scope="module")
def started(tmp_path_factory, forecasts, panel):
    """A folder with the market up to LAST and the forecasts made then."""
    folder = tmp_path_factory.mktemp("monitor")
    with (
        pytest.MonkeyPatch.context() as patch,
        use_copy(forecasts / "mlflow.db", folder, patch),
    ):
        monitor = Monitor(folder, panel[0])
        monitor.past()
        assert monitor.run("forecast") == 0
    return folder


@pytest.fixture
def monitor(started, tmp_path, monkeypatch, panel):
    """The job over copies of all that `started` has."""
    with use_copy(started / "mlflow.db", tmp_path, monkeypatch) as client:
        for name in ("snapshots", "ledger"):
            shutil.copytree(started / name, tmp_path / name)
        monitor = Monitor(tmp_path, panel[0])
        monitor.client = client
        yield monitor


def histories(client):
    """The points of every live metric by `(run name, metric)`: lists of (step, value)."""
    experiment = client.get_experiment_by_name(live.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], f"tags.`{live.VERSION}` LIKE '%'")
    assert {run.info.status for run in runs} <= {"FINISHED"}
    assert len({run.data.tags[live.VERSION] for run in runs}) == len(runs)
    return {
        (run.info.run_name, name): [
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)
        ]
        for run in runs
        for name in LIVE_METRICS
    }


def test_a_day_has_a_file_per_version_that_is_never_written_again(monitor, capsys):
    for horizon in (1, 7):
        version = monitor.version(horizon)
        table = ledger.read(version, FORECAST, as_day(LAST))
        assert list(table.columns) == LEDGER_COLUMNS
        assert set(table["target_date"]) == {pd.Timestamp(LAST + timedelta(horizon))}
        there = monitor.frame["date"] == pd.Timestamp(LAST)
        assert list(table["coin"]) == list(monitor.frame["coin"][there])
        assert (table["lower"] <= table["liquidity"]).all()
        assert not table.isna().any().any()
    before = {path: path.read_bytes() for path in monitor.ledger.rglob("*.parquet")}
    assert monitor.run("forecast") == 0
    assert "is there already and stays as it is" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in monitor.ledger.rglob("*.parquet")}


def test_a_forecast_is_what_the_model_says_of_the_whole_panel(monitor):
    model = load_model(f"models:/{NAME}-7d@champion")
    rows = monitor.frame[monitor.frame["date"] <= pd.Timestamp(LAST)]
    rows = rows.assign(date=rows["date"].dt.strftime("%Y-%m-%d"))
    answer = model.predict(None, rows[["24h_volume", "mkt_cap", "price", "coin", "date"]])
    answer = answer[(rows["date"] == str(LAST)).to_numpy()].reset_index(drop=True)
    table = ledger.read(monitor.version(7), FORECAST, as_day(LAST))
    for name in ("liquidity", "lower", "upper", "p_high"):
        assert (table[name] == answer[name]).all(), name
    today = rows[rows["date"] == str(LAST)]
    ratio = (today["24h_volume"] / today["mkt_cap"]).to_numpy()
    np.testing.assert_allclose(table["persistence"], ratio, rtol=1e-9)


def test_har_is_that_of_the_models_own_run(monitor):
    """A model does not keep its coefficients; its run's table gives them again."""
    (role,) = (role for role in find_roles(monitor.ledger, NAME) if role.version.horizon == 7)
    reference = ledger.read_reference(role.version)
    run = monitor.client.get_run(role.registered.run_id)
    path = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="cleaned_data.parquet"
    )
    table = pd.read_parquet(path)
    day = table["date"].to_numpy("datetime64[D]").astype(int)
    columns = (table[name].to_numpy() for name in ("24h_volume", "mkt_cap", "price"))
    X, _ = history_features(pd.factorize(table["coin"])[0], day, *columns)
    test = (table["set"] == "test").to_numpy()
    y = np.log10(table["liquidity"].to_numpy()[test] + EPSILON)
    error = np.sum((y - baselines.har(np.array(reference["har"]), X[test])) ** 2)
    r2 = 1 - error / np.sum((y - y.mean()) ** 2)
    assert r2 == pytest.approx(run.data.metrics["har_test_r2"], abs=1e-9)
    assert reference["weeks"] >= 4
    assert reference["problem"] is None


def test_without_the_runs_table_the_forecast_is_made_and_says_so(monitor, capsys):
    shutil.rmtree(monitor.version().folder)
    role = find_roles(monitor.ledger, NAME)[0]
    monitor.client.delete_run(role.registered.run_id)
    model = load_model(f"models:/{NAME}-1d@champion")
    artifacts = monitor.client.get_run(role.registered.run_id).info.artifact_uri
    moved = f"{artifacts}/cleaned_data.parquet"
    shutil.move(moved, monitor.ledger / "aside")
    try:
        reference = reference_of(role.version, model, role.registered.run_id)
    finally:
        shutil.move(monitor.ledger / "aside", moved)
    assert reference["har"] is None
    assert monitor.run("forecast") == 0
    assert "without HAR: the table of its run" in capsys.readouterr().out
    assert ledger.read(monitor.version(), FORECAST, as_day(LAST))["har"].isna().all()


def test_a_forecast_is_scored_once_and_its_figures_are_the_days_own(monitor, capsys):
    assert monitor.run("check") == 0
    assert "0 forecasts scored, 0 lapsed without a value, 2 days have" in capsys.readouterr().out
    monitor.come(LAST + timedelta(1))
    assert monitor.run("check") == 0
    table = ledger.read(monitor.version(), OUTCOME, as_day(LAST) + 1)
    y, mu, today = (
        np.log10(table[name] + 0.001)[table["actual"].notna()]
        for name in ("actual", "liquidity", "persistence")
    )
    points = histories(monitor.client)
    ((step, skill),) = points[f"{NAME}-1d v1, live", "live_skill"]
    assert step == as_day(LAST) + 1
    assert skill == pytest.approx(1 - np.sum((y - mu) ** 2) / np.sum((y - today) ** 2))
    tags = monitor.client.get_model_version(f"{NAME}-1d", "1").tags
    assert float(tags["live_skill"]) == pytest.approx(skill, abs=1e-3)
    assert tags["live_until"] == str(LAST + timedelta(1))
    assert (tags["live_days"], tags["live_verdict"]) == ("1", "fine")
    # The same day again, with other values: it has been scored.
    monitor.come(LAST + timedelta(1), change=lambda rows: rows.assign(mkt_cap=1e6))
    outcome = monitor.version().file(OUTCOME, as_day(LAST) + 1)
    before = outcome.read_bytes()
    monitor.run("check")
    assert outcome.read_bytes() == before
    assert histories(monitor.client) == points


def test_late_and_reordered_snapshots_are_scored_when_they_come(monitor):
    days = [LAST + timedelta(number) for number in (1, 2, 3)]
    for day in days[:2]:
        monitor.come(day)
        assert monitor.run("forecast") == 0
    moved = monitor.data / f"market_{days[0]}.csv"
    late = moved.rename(monitor.data / "late")
    monitor.come(days[2])
    assert monitor.run("check") == 0
    version = monitor.version()
    assert [as_date(day) for day in version.days(OUTCOME)] == days[1:]
    late.rename(moved)
    assert monitor.run("check") == 0
    assert [as_date(day) for day in version.days(OUTCOME)] == days
    steps = [step for step, _ in histories(monitor.client)[f"{NAME}-1d v1, live", "live_rows"]]
    assert sorted(steps) == [as_day(day) for day in days]


def test_half_a_day_waits_for_the_rest_and_a_day_without_a_snapshot_lapses(monitor, monkeypatch):
    day = LAST + timedelta(1)
    monitor.come(day, share=0.5)
    assert monitor.run("check") == 0
    assert monitor.version().days(OUTCOME) == []
    monkeypatch.setattr(outcomes, "LAPSED_DAYS", 2)
    monitor.come(day + timedelta(3))
    (monitor.data / f"market_{day}.csv").unlink()
    monitor.run("check")
    table = ledger.read(monitor.version(), OUTCOME, as_day(day))
    assert table["actual"].isna().all()
    # Its snapshot comes after all: the day has been settled.
    monitor.come(day)
    monitor.run("check")
    assert ledger.read(monitor.version(), OUTCOME, as_day(day))["actual"].isna().all()
    assert histories(monitor.client)[f"{NAME}-1d v1, live", "live_rows"] == []


@pytest.mark.parametrize("moment", ["create_run", "set_terminated", "log_batch", "log_text"])
def test_what_ends_a_check_in_the_middle_leaves_nothing_twice(monitor, monkeypatch, moment):
    """Between the outcome's file, the run, its metrics and the report."""
    monitor.come(LAST + timedelta(1))
    with monkeypatch.context() as patch:
        owner = mlflow if moment == "log_text" else mlflow.MlflowClient

        def stopped(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(owner, moment, stopped)
        assert monitor.run("check") == 130
    assert monitor.run("check") == 0
    points = histories(monitor.client)
    assert {len(each) for (name, _), each in points.items() if "1d" in name} == {1}
    runs = monitor.client.search_runs(
        [monitor.client.get_experiment_by_name(live.EXPERIMENT).experiment_id]
    )
    assert "RUNNING" not in {run.info.status for run in runs}


def test_the_same_point_written_twice_is_one(monitor):
    monitor.come(LAST + timedelta(1))
    assert monitor.run("check") == 0
    before = histories(monitor.client)
    version, patch = monitor.version(), pytest.MonkeyPatch()
    found = mlflow.get_experiment_by_name(live.EXPERIMENT)
    with patch.context() as patch:  # as if the store had not told of them yet
        patch.setattr(mlflow.MlflowClient, "get_metric_history", lambda *_: [])
        reference = ledger.read_reference(version)
        assert live.log_outcomes(version, reference, experiment_id=found.experiment_id) == 1
    assert histories(monitor.client) == before


def test_a_challenger_is_forecast_and_scored_beside_the_champion(monitor, capsys):
    source = monitor.client.get_model_version(f"{NAME}-1d", "1").source
    registry.register(source, Decision(False, "of the test", {}), name=f"{NAME}-1d")
    assert monitor.run("forecast") == 0
    monitor.come(LAST + timedelta(1))
    assert monitor.run("check") == 0
    out = capsys.readouterr().out
    assert f"{NAME}-1d version 2 (challenger)" in out
    points = histories(monitor.client)
    shadow, own = (points[f"{NAME}-1d v{number}, live", "live_skill"] for number in (2, 1))
    assert shadow == own
    tags = monitor.client.get_model_version(f"{NAME}-1d", "2").tags
    assert "live_skill" in tags
    assert "live_verdict" not in tags


def test_a_version_that_was_deleted_is_scored_all_the_same(monitor, capsys):
    monitor.come(LAST + timedelta(1))
    assert monitor.run("forecast") == 0
    source = monitor.client.get_model_version(f"{NAME}-1d", "1").source
    registry.register(source, Decision(True, "of the test", {}), name=f"{NAME}-1d")
    monitor.client.delete_model_version(f"{NAME}-1d", "1")
    assert monitor.run("check") == 0
    out = capsys.readouterr().out
    assert f"{NAME}-1d version 1 is not in the registry any more" in out
    assert f"{NAME}-1d version 2 has made no forecast yet" in out
    monitor.come(LAST + timedelta(2))
    assert monitor.run("check") == 0
    assert len(monitor.version().days(OUTCOME)) == 2
    assert len(histories(monitor.client)[f"{NAME}-1d v1, live", "live_skill"]) == 2


def test_the_report_opens_with_the_verdict_its_reason_and_what_to_do(monitor, capsys):
    monitor.come(LAST + timedelta(1), change=lambda rows: rows.assign(mkt_cap=rows.mkt_cap * 1000))
    assert monitor.run("check") == 3
    said = capsys.readouterr().out
    assert f"STALE on {LAST + timedelta(1)}: {NAME}-1d version 1, {NAME}-7d version 1." in said
    assert "What to do: correct mkt_cap from that day on." in said
    experiment = monitor.client.get_experiment_by_name(live.EXPERIMENT)
    (run,) = monitor.client.search_runs([experiment.experiment_id], "metrics.stale = 2")
    page = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report.html")
    opening, reason = page.index("<h1>STALE on "), page.index("The data: mkt_cap of 100 % of the")
    assert opening < reason < page.index("<h2>")
    assert "it would have been called stale in" in page
    tags = monitor.client.get_model_version(f"{NAME}-1d", "1").tags
    assert tags["live_verdict"] == "stale"
    assert tags["live_reason"].startswith("The data: mkt_cap")
    # The page of MLflow names it, and shows it and the live figures at the addresses that are told.
    assert run.info.run_name == f"{LAST + timedelta(1)}, stale"
    assert f"/runs/{run.info.run_id}/artifacts/report.html" in said
    view = json.loads(monitor.client.get_experiment(experiment.experiment_id).tags[f"{VIEW}live"])
    charts = json.loads(view["state"])["compareRunCharts"]
    assert [chart["metricKey"] for chart in charts] == LIVE_METRICS
    assert {chart["xAxisKey"] for chart in charts} == {"time"}
    assert "viewStateShareKey=live" in said


def test_data_that_are_wrong_are_not_trained_on(monitor, capsys):
    monitor.come(LAST + timedelta(1), change=lambda rows: rows.assign(mkt_cap=rows.mkt_cap * 1000))
    assert monitor.run("check", "--retrain") == 3
    assert "not trained again: first correct the data" in capsys.readouterr().out
    assert len(monitor.client.search_model_versions(f"name = '{NAME}-1d'")) == 1


def test_a_stale_champion_is_trained_again_through_the_gate(
    monitor, monkeypatch, capsys, without_figures
):
    """It came of age here; the training is the one that made it, on the newest days."""
    source = monitor.client.get_model_version(f"{NAME}-7d", "1")
    monitor.client.delete_registered_model_alias(source.name, "champion")
    monitor.come(LAST + timedelta(1))
    monkeypatch.setattr("liquidity.monitor.drift.OLDEST", -1e9)
    assert monitor.run("check", "--retrain") == 0
    out = capsys.readouterr().out
    assert f"{NAME}-1d version 1: version 2 is champion in place of version 1." in out
    assert monitor.client.get_model_version_by_alias(f"{NAME}-1d", "champion").version in (2, "2")
    first, second = (
        monitor.client.get_run(monitor.client.get_model_version(f"{NAME}-1d", number).run_id)
        for number in ("1", "2")
    )
    for name in ("n_estimators", "max_samples", "cv"):
        assert second.data.params[name] == first.data.params[name]
    assert second.data.params["promote"] == "auto"
    assert second.data.params["horizon"] == "1"
    # The new one has made no forecast yet: nothing is stale, and nothing is trained.
    assert monitor.run("check", "--retrain") == 0
    assert len(monitor.client.search_model_versions(f"name = '{NAME}-1d'")) == 2


def test_a_training_that_changed_nothing_is_not_tried_again_at_once(monitor, monkeypatch, capsys):
    client, name = monitor.client, f"{NAME}-1d"
    monkeypatch.setattr("liquidity.monitor.drift.OLDEST", -1e9)
    client.delete_registered_model_alias(f"{NAME}-7d", "champion")
    source = client.get_model_version(name, "1").source
    client.set_model_version_tag(name, "1", BEGUN, f"{LAST} 1")
    registry.register(source, Decision(False, "below champion version 1", {}), name=name)
    trained = []
    monkeypatch.setattr(
        "liquidity.monitor.retrain.training_job",
        lambda: type("Job", (), {"main": staticmethod(lambda argv: trained.append(argv) or 1)}),
    )
    assert monitor.run("check", "--retrain") == 3
    assert "version 2 was trained on the days to 2026-06-20" in capsys.readouterr().out
    assert not trained
    # One that a kill cut short has left no version that is complete: it is done again.
    client.update_model_version(name, "2", "")
    assert monitor.run("check", "--retrain") == 1
    assert "could not be trained again (exit code 1" in capsys.readouterr().err
    assert len(trained) == 1


def broken(monitor):
    path = monitor.version(7).file(FORECAST, as_day(LAST))
    path.write_bytes(path.read_bytes()[:1000])
    monitor.come(LAST + timedelta(7))


def elsewhere(monitor):
    monitor.version(7).file(FORECAST, as_day(LAST)).rename(
        monitor.version(1).file(FORECAST, as_day(LAST) - 1)
    )
    monitor.come(LAST + timedelta(1))


def other_registry(monitor):
    path = monitor.version().folder / ledger.REFERENCE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run_id": "another"}))


@pytest.mark.parametrize(
    ("action", "damage", "options", "said"),
    [
        ("check", None, ["--model-name", "other"], "There is no champion of other-...d"),
        ("forecast", None, ["--model-name", "other"], "There is no champion of other-...d"),
        ("check", None, ["--ledger", "nowhere"], "nowhere: holds no forecast of crypto-liquidity"),
        ("check", broken, [], "cannot be read as a file of the ledger"),
        ("check", elsewhere, [], "column model: expected crypto-liquidity-1d in every row"),
        ("check", other_registry, [], "holds forecasts of another model"),
        ("check", None, ["--today", "2026-06-19"], "2026-06-20, is behind today, 2026-06-19"),
        ("forecast", None, ["--today", "2026-06-19"], "is behind today, 2026-06-19"),
        ("check", None, ["--data", "nowhere"], "nowhere: no such file, folder or glob"),
        ("forecast", None, ["--data", "ledger"], "ledger: holds no snapshot"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_lost(
    monitor, action, damage, options, said, capsys
):
    if damage:
        damage(monitor)
    before = {path: path.read_bytes() for path in monitor.ledger.rglob("*.parquet")}
    capsys.readouterr()
    assert monitor.run(action, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    after = {path: path.read_bytes() for path in monitor.ledger.rglob("*.parquet")}
    assert before.items() <= after.items()


def test_a_ledger_of_another_model_name_says_whose_it_is(monitor, capsys):
    shutil.move(monitor.ledger / f"{NAME}-1d", monitor.ledger / "other-1d")
    shutil.rmtree(monitor.ledger / f"{NAME}-7d")
    assert monitor.run("check") == 2
    assert "It holds those of other-1d" in capsys.readouterr().err


def test_a_store_that_is_away_is_one_sentence(monitor, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for action in ("forecast", "check"):
        assert monitor.run(action) == 2
        assert "The MLflow store at http://127.0.0.1:9" in capsys.readouterr().err


def test_a_broken_version_keeps_no_other_from_forecasting(monitor, capsys):
    """Its files are gone."""
    model = monitor.client.create_model_version(f"{NAME}-1d", str(monitor.data))
    monitor.client.set_registered_model_alias(f"{NAME}-1d", "champion", model.version)
    monitor.come(LAST + timedelta(1))
    assert monitor.run("forecast") == 1
    assert f"The model models:/{NAME}-1d/2 cannot be loaded" in capsys.readouterr().err
    assert len(monitor.version(7).days(FORECAST)) == 2


@pytest.mark.parametrize(
    "options",
    [["watch", "--data", "d"], ["check"], ["check", "--data", "d", "--today", "soon"],
     ["check", "--data", "d", "--retrain", "perhaps"]],
)  # fmt: skip
def test_a_command_that_makes_no_sense_is_one_sentence(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        job.main(options)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_data_that_are_wrong_are_told_where_no_champion_has_made_a_forecast_yet(monitor, capsys):
    for horizon in (1, 7):
        name = f"{NAME}-{horizon}d"
        source = monitor.client.get_model_version(name, "1").source
        registry.register(source, Decision(True, "of the test", {}), name=name)
    assert monitor.run("check", today=LAST + timedelta(9)) == 3
    assert f"STALE on {LAST}: the data." in capsys.readouterr().out
    assert monitor.run("check", "--retrain", today=LAST + timedelta(9)) == 3


def test_the_training_job_is_the_packages_own_whatever_lies_in_the_working_folder(
    tmp_path, monkeypatch
):
    (tmp_path / "train.py").write_text("raise SystemExit('a train.py of somebody else')")
    monkeypatch.chdir(tmp_path)
    training_job.cache_clear()
    assert Path(training_job().__file__) == PROJECT / "train.py"


def test_the_training_job_is_installed_beside_the_package():
    installed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert installed["py-modules"] == ["train"]
