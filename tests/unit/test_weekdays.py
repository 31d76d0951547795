"""Dates that mean another day than a model's: seen by the weekdays, cured by --day-shift."""

import numpy as np
import pandas as pd
import pytest

import train
from liquidity.contract import FORECAST_FEATURES
from liquidity.data.market import read_market
from liquidity.forecast.weekdays import DailyChanges, weekday_profile
from liquidity.model.model import L0, LAG1
from liquidity.scoring.job import main as score
from liquidity.tasks.forecast import read_panel

URI = "models:/crypto-liquidity-7d@champion"


def changes(source):
    """Days and the changes of L of a source."""
    panel = read_panel(read_market(source, required=FORECAST_FEATURES)[0])
    return panel.columns[1], panel.X[:, L0] - panel.X[:, LAG1]


@pytest.fixture(scope="module")
def real(real_data):
    day, change = changes(f"{real_data}/panel/*.parquet")
    before = day < np.datetime64("2023-07-15").astype(int)
    return day, change, weekday_profile(day[before], change[before])


def test_half_of_28_days_most_of_60_and_all_of_180_are_told_and_none_falsely(real):
    day, change, profile = real
    daily = DailyChanges()
    daily.add(day, change)
    day, mean = daily.means()
    told = {}
    for length in (28, 60, 180):
        for label in (-1, 0, 1):
            found = []
            for start in range(0, len(day) - length, 7):
                window = DailyChanges()
                some = slice(start, start + length)
                window.add(day[some] + label, mean[some])
                found.append(window.likely_shift(profile))
            told[length, label] = np.mean(np.array(found) == -label) if label else set(found)
    for length, share in ((28, 0.5), (60, 0.83), (180, 0.99)):
        assert told[length, 0] == {0}
        assert min(told[length, -1], told[length, 1]) > share


def test_a_source_that_labels_days_otherwise_is_told(real, real_data):
    *_, profile = real
    daily = DailyChanges()
    for day, change in zip(
        *(np.array_split(each, 3) for each in changes(real_data / "daily")), strict=True
    ):
        daily.add(day, change)
    assert daily.likely_shift(profile) == 1


def test_nothing_is_told_from_nothing():
    daily = DailyChanges()
    assert daily.likely_shift([0.0] * 7) == 0
    daily.add(np.array([20_000, 20_001]), np.array([np.nan, np.nan]))
    assert daily.likely_shift([0.0] * 7) == 0
    daily.add(np.array([20_000]), np.array([0.0]))
    assert daily.likely_shift([0.0] * 7) == 0
    for seed in range(20):  # no weekday differs from the others
        daily = DailyChanges()
        daily.add(np.arange(20_000, 20_700), np.random.default_rng(seed).normal(0, 0.02, 700))
        assert daily.likely_shift([0.0, 0.06, 0.0, 0.0, 0.0, 0.0, -0.06]) == 0
    assert weekday_profile(np.arange(20_000, 20_006), np.ones(6)) is None
    assert weekday_profile(np.arange(20_000, 20_007), np.ones(7)) == [1.0] * 7


@pytest.fixture
def files(forecasts, panel, monkeypatch, tmp_path):
    """The panel's dates as they are, and a day earlier."""
    monkeypatch.chdir(forecasts)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{forecasts}/mlflow.db")
    frame = panel[0]
    frame.to_csv(tmp_path / "right.csv", index=False)
    early = pd.to_datetime(frame["date"]) - pd.Timedelta(days=1)
    frame.assign(date=early.dt.strftime("%Y-%m-%d")).to_csv(tmp_path / "early.csv", index=False)
    return tmp_path


def scored(folder, name, *options):
    command = ["--input", f"{folder}/{name}.csv", "--output", f"{folder}/out.csv", "--overwrite"]
    assert score([*command, "--model-uri", URI, *options]) == 0
    return pd.read_csv(folder / "out.csv")


def test_files_with_other_dates_are_told_and_scored_as_if_they_had_the_right_ones(files, capsys):
    expected = scored(files, "right")
    assert "--day-shift" not in capsys.readouterr().out
    scored(files, "early")
    assert "these files call a day what the model knows as the day after it" in (
        said := capsys.readouterr().out
    )
    assert "score them with --day-shift 1" in said
    shifted = scored(files, "early", "--day-shift", "1")
    assert "--day-shift" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(shifted.drop(columns="date"), expected.drop(columns="date"))


def test_training_shifts_its_dates(store, panel, tmp_path):
    frame = panel[0][panel[0]["date"] > panel[0]["date"].iloc[0]]
    frame.to_csv(tmp_path / "panel.csv", index=False)
    plain, _ = read_market(tmp_path / "panel.csv", required=FORECAST_FEATURES)
    shifted, _ = read_market(tmp_path / "panel.csv", required=FORECAST_FEATURES, day_shift=-1)
    assert (plain["date"] - shifted["date"]).eq(pd.Timedelta(days=1)).all()


@pytest.mark.parametrize("value", ["2", "0.5", "x"])
def test_a_shift_of_more_than_a_day_is_refused(value, capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["--day-shift", value])
    assert caught.value.code == 2
    assert "--day-shift" in capsys.readouterr().err


def test_a_same_day_model_has_no_use_for_it(champion, sample_table, tmp_path, capsys):
    sample_table.head(5).to_csv(tmp_path / "in.csv", index=False)
    command = ["--input", f"{tmp_path}/in.csv", "--output", f"{tmp_path}/out.csv"]
    assert score([*command, "--day-shift", "1"]) == 2
    assert "--day-shift: this model does not ask for dates" in capsys.readouterr().err
