"""Forecasts: a list of horizons trained on a small panel, and their answers at every door."""

import copy
import json
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from support import SMALL_FORECAST, all_runs, children

import train
from liquidity import forecast_liquidity
from liquidity.contract import EPSILON
from liquidity.forecast.intervals import fit_intervals
from liquidity.forecast.newest import forecast_alone
from liquidity.model.loading import fetched_model, load_checked, load_model
from liquidity.model.model import ABSD30, EW7, history_features, keys
from liquidity.scoring.job import main as score
from liquidity.search.grid import out_of_fold
from liquidity.search.pipeline import build_pipeline, with_forest_params
from liquidity.tasks.forecast import prepare, read_panel

NUMBERS = ["24h_volume", "mkt_cap", "price"]
METRICS = {
    "best_r2", "test_r2", "persistence_test_r2", "ewma_test_r2", "har_test_r2", "test_spearman",
    "test_brier", "test_interval_score", "har_interval_score", "interval_coverage",
    "interval_coverage_worst_month", "interval_coverage_worst_group", "parity_relative",
}  # fmt: skip


@pytest.fixture
def use(forecasts, monkeypatch):
    """The store with the forecasts, for one test; yields a client."""
    monkeypatch.chdir(forecasts)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{forecasts}/mlflow.db")
    return mlflow.MlflowClient()


def of_coin(frame, coin, days=90):
    return frame[frame["coin"] == coin].tail(days)


# Training


def test_a_list_is_an_outer_run_with_a_run_for_each_horizon(use):
    runs = all_runs(use)
    (outer,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert outer.data.params["horizon"] == "1,7"
    nested = children(use, outer)
    assert {run.data.tags["horizon"] for run in nested} == {"1", "7"}
    for run in nested:
        assert run.data.tags["search_key"]
        assert run.data.tags["resolved.split"] == "date"
        assert run.data.metrics.keys() >= METRICS
        trials = children(use, run)
        assert len(trials) == 2
        assert {tuple(sorted(trial.data.params)) for trial in trials} == {
            ("max_features", "min_samples_leaf", "n_estimators")
        }
    assert outer.info.run_name == "panel.parquet: 1, 7 days ahead"
    names = sorted(run.info.run_name for run in nested)
    assert re.fullmatch(r"panel\.parquet, 1 day ahead: test r2 0\.\d{4}, 2 trials", names[0])
    assert names[1].startswith("panel.parquet, 7 days ahead: test r2 ")
    note = outer.data.tags["mlflow.note.content"]
    assert note.index(f"[{names[0]}](#/") < note.index(f"[{names[1]}](#/")
    assert "In 7 days the typical error is" in note
    assert {run.info.status for run in runs} == {"FINISHED"}
    for horizon in (1, 7):
        assert use.get_model_version_by_alias(f"crypto-liquidity-{horizon}d", "champion")


def test_the_table_keeps_its_sets_with_an_embargo_between_them(use, tmp_path):
    version = use.get_model_version_by_alias("crypto-liquidity-7d", "champion")
    path = use.download_artifacts(version.run_id, "cleaned_data.parquet", str(tmp_path))
    table = pd.read_parquet(path)
    assert set(table["set"]) == {"train", "gap", "test", "none"}
    last_train = table.loc[table["set"] == "train", "date"].max()
    first_test = table.loc[table["set"] == "test", "date"].min()
    assert last_train + pd.Timedelta(days=7) < first_test
    row = table[table["set"] == "test"].iloc[0]
    later = table[
        (table["coin"] == row["coin"]) & (table["date"] == row["date"] + pd.Timedelta(days=7))
    ]
    assert row["liquidity"] == pytest.approx((later["24h_volume"] / later["mkt_cap"]).item())


@pytest.mark.soak
def test_a_list_goes_on_with_the_horizon_that_was_interrupted(store, panel, monkeypatch, tmp_path):
    arguments = ["--data", str(panel[1]), "--horizon", "1,7", *SMALL_FORECAST]
    register = train.registry.decide_and_register

    def stop(*args, **options):
        if options["name"].endswith("-7d"):
            raise KeyboardInterrupt
        return register(*args, **options)

    monkeypatch.setattr(train.registry, "decide_and_register", stop)
    assert train.main(arguments) == 130
    assert {run.info.status for run in all_runs(store)} == {"FINISHED", "KILLED"}
    monkeypatch.setattr(train.registry, "decide_and_register", register)
    assert train.main(arguments) == 0
    assert store.get_model_version_by_alias("crypto-liquidity-1d", "champion").version == 1
    assert store.get_model_version_by_alias("crypto-liquidity-7d", "champion").version == 1
    trials = [run for run in all_runs(store) if "resumed_from" in run.data.tags]
    assert len(trials) == 2
    assert not [run for run in all_runs(store) if run.info.status == "RUNNING"]


@pytest.mark.parametrize(
    ("horizon", "said"),
    [
        ("0.5", "horizon: expected whole numbers of days from 0 to 90"),
        ("-1", "horizon: expected whole numbers"),
        ("91", "horizon: expected whole numbers"),
        ("a", "horizon: expected whole numbers"),
        ("", "horizon: expected whole numbers"),
        ("7,7", "horizon: expected each number once"),
    ],
)
def test_a_horizon_that_is_none_is_one_sentence(store, panel, capsys, horizon, said):
    with pytest.raises(SystemExit) as exit_:
        train.main(["--data", str(panel[1]), f"--horizon={horizon}"])
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err
    assert not all_runs(store)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame[frame["date"] >= "2026-06-01"], "needs snapshots of at least 37 days"),
        (lambda frame: frame.assign(date="2026-06-30"), "needs snapshots of at least 37 days"),
        (lambda frame: frame[frame["date"].str[-2:] == "01"], "needs snapshots of at least 37"),
    ],
    ids=["too few days", "all dates equal", "no row a week later"],
)
def test_too_little_of_a_panel_is_one_sentence(store, panel, tmp_path, capsys, change, said):
    path = tmp_path / "few.csv"
    change(panel[0]).drop_duplicates(["coin", "date"]).to_csv(path, index=False)
    assert train.main(["--data", str(path), "--horizon", "7", *SMALL_FORECAST]) == 2
    assert said in capsys.readouterr().err
    assert not all_runs(store)


def test_one_coin_of_constant_liquidity_ends_in_a_sentence_or_a_challenger(store, panel, tmp_path):
    frame = of_coin(panel[0], panel[0]["coin"].iloc[0], 150)
    path = tmp_path / "one.csv"
    frame.assign(**{"24h_volume": 0.25 * frame["mkt_cap"]}).to_csv(path, index=False)
    assert train.main(["--data", str(path), "--horizon", "7", *SMALL_FORECAST]) in (0, 2)
    assert not [run for run in all_runs(store) if run.info.status == "RUNNING"]


# The registered model


def test_the_interval_is_that_of_forests_fitted_anew_on_each_fold(panel):
    """Whole and cut histories of rows that a forest has not seen."""
    frame = panel[0].assign(date=pd.to_datetime(panel[0]["date"]))
    frame = frame.dropna(subset=NUMBERS).reset_index(drop=True)
    settings = {"split": "date", "test_size": 0.2, "cv": 3, "max_samples": 0.3, "random_state": 1}
    task = prepare(read_panel(frame), 7, **settings)
    pipeline = with_forest_params(
        build_pipeline(random_state=1, max_samples=0.3), n_estimators=5, min_samples_leaf=20
    )
    mu, rows = np.full(len(task.y), np.nan), len(task.training)
    for rows_seen, test in task.folds:
        fitted = pipeline.fit(task.X[rows_seen], task.y[rows_seen])
        cut = rows + np.flatnonzero(np.isin(task.cut_rows, test))
        for unseen in (test, cut):
            mu[unseen] = fitted.predict(task.X[unseen]) + task.offset[unseen]
    with ThreadPoolExecutor(1) as executor:
        unseen = out_of_fold(
            pipeline, task.X, task.y,
            folds=task.folds, unscored=task.unscored, executor=executor,
        )  # fmt: skip
    found, known = task.calibrate(unseen), ~np.isnan(mu)
    expected = fit_intervals(
        (task.level - mu)[known],
        task.X[known][:, ABSD30],
        task.days_used[known],
        (np.arange(len(mu)) >= rows)[known],
    )
    assert known[:rows].any()
    assert known[rows:].any()
    assert json.dumps(found, default=np.ndarray.tolist) == json.dumps(
        expected, default=np.ndarray.tolist
    )


@pytest.fixture
def model(use):
    return load_model("models:/crypto-liquidity-7d@champion")


@pytest.fixture
def loaded(use):
    return mlflow.pyfunc.load_model("models:/crypto-liquidity-7d@champion")


def test_it_answers_as_the_pipeline_and_its_residuals_do(use, model, panel, tmp_path):
    import skops.io

    version = use.get_model_version_by_alias("crypto-liquidity-7d", "champion")
    folder = mlflow.artifacts.download_artifacts(
        f"models:/{version.name}/{version.version}", dst_path=str(tmp_path)
    )
    path = f"{folder}/artifacts/pipeline.skops"
    pipeline = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
    frame = panel[0].tail(2000)
    X = model.parse(frame)
    coin, day = keys(X[:, 3:])
    history, _ = history_features(coin, day, *X[:, :3].T)
    level = pipeline.predict(history) + history[:, EW7]
    expected = np.maximum(10**level - EPSILON, 0)
    np.testing.assert_allclose(model.answer(X)["liquidity"], expected, rtol=1e-9)


def test_the_answer_has_its_columns_keeps_the_index_and_holds_together(loaded, panel):
    frame = panel[0].tail(500).sample(frac=1, random_state=0)
    answer = loaded.predict(frame[[*NUMBERS, "coin", "date"]])
    assert list(answer) == [
        "liquidity", "level", "lower", "upper", "in_range", "p_high", "days_used"
    ]  # fmt: skip
    assert answer.index.equals(frame.index)
    assert (answer["lower"] <= answer["liquidity"]).all()
    assert (answer["liquidity"] <= answer["upper"]).all()
    assert answer["p_high"].between(0, 1).all()
    assert ((answer["level"] == "High") == (answer["liquidity"] > 0.5)).all()


def test_a_row_knows_earlier_days_of_its_coin_alone(loaded, panel):
    frame = panel[0].tail(3000)[[*NUMBERS, "coin", "date"]]
    coin = frame["coin"].iloc[-1]
    together = loaded.predict(frame)[frame["coin"] == coin]
    alone = loaded.predict(frame[frame["coin"] == coin])
    pd.testing.assert_frame_equal(together, alone)
    later = loaded.predict(frame[frame["coin"] == coin].iloc[::-1])
    pd.testing.assert_frame_equal(alone, later.iloc[::-1], rtol=1e-9)
    assert alone["days_used"].iloc[-1] > alone["days_used"].iloc[0] == 1


def test_a_row_without_coin_or_date_stands_alone(loaded, panel):
    frame = of_coin(panel[0], panel[0]["coin"].iloc[-1])[[*NUMBERS, "coin", "date"]]
    for left in (NUMBERS, [*NUMBERS, "coin"], [*NUMBERS, "date"]):
        assert (loaded.predict(frame[left])["days_used"] == 1).all()
    unknown = frame.assign(coin="NA")
    assert (loaded.predict(unknown)["days_used"] == 1).all()


def test_the_same_coin_and_date_twice_are_answered_from_their_own_values(loaded, panel):
    frame = of_coin(panel[0], panel[0]["coin"].iloc[-1])[[*NUMBERS, "coin", "date"]]
    double = frame.iloc[[-2]].assign(**{"24h_volume": frame["24h_volume"].iloc[-2] * 10})
    answer = loaded.predict(pd.concat([frame.iloc[:-1], double, frame.iloc[-1:]]))
    first, second = answer["liquidity"].iloc[-3], answer["liquidity"].iloc[-2]
    assert first != second
    plain = loaded.predict(frame)
    assert first == pytest.approx(plain["liquidity"].iloc[-2], rel=1e-9)
    assert answer["liquidity"].iloc[-1] != plain["liquidity"].iloc[-1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"date": "2026-02-30"}, "row 3, column date: expected a day such as 2026-01-31"),
        ({"date": "2024"}, "row 3, column date"),
        ({"date": "today"}, "row 3, column date"),
        ({"date": "0001-01-01"}, "row 3, column date"),
        ({"price": float("nan")}, "row 3, column price: expected a finite number >= 0"),
        ({"mkt_cap": 0.0}, "row 3, column mkt_cap: expected a finite number > 0"),
    ],
)
def test_what_breaks_a_rule_is_named(loaded, panel, change, said):
    frame = panel[0].tail(10)[[*NUMBERS, "coin", "date"]].reset_index(drop=True)
    for name, value in change.items():
        frame.loc[3, name] = value
    with pytest.raises(MlflowException, match=said) as raised:
        loaded.predict(frame)
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"


def test_one_row_at_a_time_is_answered_to_the_same_bits(model, panel):
    X = model.parse(panel[0].tail(1500))
    coin, day = keys(X[:, 3:])
    history, days_used = history_features(coin, day, *X[:, :3].T)
    for threshold in (None, 0.01, 0.0, -1.0):
        together = model.forecast(history, days_used, X, threshold)
        for row in range(len(X)):
            alone = model.forecast_row(
                history[row].tolist(), int(days_used[row]), X[row, :3].tolist(), threshold
            )
            assert alone == {name: values[row].item() for name, values in together.items()}


def test_a_row_alone_is_answered_to_the_same_bits(model, panel):
    frame = panel[0].tail(1500)
    X = model.parse(frame)
    answers = model.answer(np.column_stack([X[:, :3], np.full((len(X), 2), np.nan)]))
    dated = model.answer(np.column_stack([X[:, :3], np.arange(len(X)), X[:, -1]]))
    for row, (*values, _, _) in enumerate(X.tolist()):
        for expected, coin, date in (
            (answers, None, None),
            (answers, "NA", float("nan")),
            (dated, "Coin", frame["date"].iloc[row]),
        ):
            alone = forecast_alone(model, values, coin, date)
            assert alone == {name: each[row].item() for name, each in expected.items()}


@pytest.mark.parametrize(
    ("values", "coin", "date"),
    [
        ([-1.0, 1e8, 1.0], None, None),
        ([1e7, 0.0, 1.0], None, None),
        ([1e7, 1e8, float("nan")], None, None),
        ([1e7, 10**400, 1.0], None, None),
        ([1e7, 1e8, 1.0], 7, None),
        ([1e7, 1e8, 1.0], "Coin", "2026-02-30"),
    ],
)
def test_a_row_alone_that_breaks_a_rule_goes_the_long_way(model, values, coin, date):
    assert forecast_alone(model, values, coin, date) is None


def test_the_loaded_model_can_be_copied_and_pickled(loaded, panel):
    rows = panel[0].tail(50)[[*NUMBERS, "coin", "date"]]
    expected = loaded.predict(rows)
    for other in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        pd.testing.assert_frame_equal(other.predict(rows), expected)


def test_a_text_that_is_too_long_for_a_date_is_none(model):
    row = {"24h_volume": [1e6], "mkt_cap": [1e8], "price": [1.0]}
    longest, padded = "2026-01-31T00:00:00.000000+00:00", " " * 50 + "2026-01-31" + " " * 50
    assert model.parse(row | {"date": [longest]})[0, -1] == 20_484
    assert model.parse(row | {"date": [padded]})[0, -1] == 20_484
    for text in (f"{longest}0", "9" * 10**6):
        with pytest.raises(MlflowException, match=r"expected a day .* got '.{30,90}$"):
            model.check(model.parse(row | {"date": [text]}), row | {"date": [text]})


def test_a_cap_next_to_nothing_is_answered_with_numbers(model):
    row = {"24h_volume": [1e18], "mkt_cap": [5e-324], "price": [1.0]}
    X = model.parse(row)
    model.check(X, row)
    answer = {name: values[0].item() for name, values in model.answer(X).items()}
    assert all(np.isfinite(answer[name]) for name in ("liquidity", "lower", "upper", "p_high"))
    assert forecast_alone(model, X[0, :3].tolist(), None, None) == answer


def test_a_coin_given_as_a_number_is_refused(model):
    row = {"24h_volume": [1e6], "mkt_cap": [1e8], "price": [1.0], "coin": [7]}
    with pytest.raises(MlflowException, match="column coin: expected a name as text, got 7"):
        model.check(model.parse(row), row)


def test_a_time_of_day_counts_for_the_day_that_it_covers(model):
    row = {"24h_volume": [1e6], "mkt_cap": [1e8], "price": [1.0]}
    for date, day in [
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T00:00:00Z", "2026-01-31"),
        ("2026-01-31T06:00:00Z", "2026-01-30"),
        ("2026-01-31 12:00", "2026-01-31"),
        ("2026-01-31T13:00:00+02:00", "2026-01-30"),
    ]:
        X = model.parse(row | {"date": [date]})
        assert X[0, -1] == (np.datetime64(day) - np.datetime64("1970-01-01")).astype(int)


def test_whole_numbers_count_as_their_decimals_do(model):
    whole = {"24h_volume": [10**6, 10**18 - 1], "mkt_cap": [10**8, 2**53 + 1], "price": [1, 2.5]}
    decimal = {name: [float(value) for value in values] for name, values in whole.items()}
    assert model.parse(whole).tobytes() == model.parse(decimal).tobytes()
    endless = whole | {"price": [1, 10**400]}
    with pytest.raises(MlflowException, match=r"row 1, column price: expected a finite number"):
        model.check(model.parse(endless), endless)


# Doors


def test_files_are_answered_as_a_frame_is(use, loaded, panel, tmp_path):
    """Over files, by the block and from a rerun that does only what is missing."""
    frame = panel[0].tail(4000)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(frame)), 3)):
        frame.iloc[part].to_csv(tmp_path / f"in/{number}.csv", index=False)
    command = ["--model-uri", "models:/crypto-liquidity-7d@champion"]
    command += ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert score(command) == 0
    expected = loaded.predict(frame[[*NUMBERS, "coin", "date"]]).reset_index(drop=True)
    read = lambda: pd.concat(  # noqa: E731
        [pd.read_csv(tmp_path / f"out/{n}.csv") for n in range(3)], ignore_index=True
    )
    pd.testing.assert_frame_equal(read()[list(expected)], expected, rtol=1e-9, check_dtype=False)
    (tmp_path / "out/1.csv").unlink()
    assert score(command) == 0
    pd.testing.assert_frame_equal(read()[list(expected)], expected, rtol=1e-9, check_dtype=False)


def test_files_whose_dates_fall_are_refused(use, panel, tmp_path, capsys):
    frame = panel[0].tail(500).iloc[::-1]
    frame.to_csv(tmp_path / "in.csv", index=False)
    command = ["--model-uri", "models:/crypto-liquidity-7d@champion"]
    command += ["--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.csv")]
    assert score(command) == 2
    assert "a forecast reads a coin's days in their order" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_a_file_whose_coins_are_numbers_is_refused_by_the_columns_name(
    use, panel, tmp_path, capsys
):
    panel[0].tail(50).assign(coin=7).to_parquet(tmp_path / "in.parquet")
    command = ["--model-uri", "models:/crypto-liquidity-7d@champion"]
    command += ["--input", str(tmp_path / "in.parquet"), "--output", str(tmp_path / "out.csv")]
    assert score(command) == 2
    assert "column coin: expected names as text, got int64" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_one_coins_newest_day_is_forecast_at_every_horizon(use, panel):
    frame = of_coin(panel[0], panel[0]["coin"].iloc[-1])
    answer = forecast_liquidity(frame, horizons=(1, 7))
    assert answer == forecast_liquidity(
        json.loads(frame.to_json(orient="records")), horizons=[1, 7]
    )
    assert answer["date"] == frame["date"].iloc[-1]
    assert [each["horizon"] for each in answer["forecasts"]] == [1, 7]
    for each in answer["forecasts"]:
        model = mlflow.pyfunc.load_model(f"models:/crypto-liquidity-{each['horizon']}d@champion")
        row = model.predict(frame[[*NUMBERS, "coin", "date"]]).iloc[-1]
        assert answer["days_used"] == row["days_used"]
        for name in ("liquidity", "lower", "upper", "p_high"):
            assert each[name] == pytest.approx(row[name], rel=1e-9)
        assert (each["level"], each["in_range"]) == (row["level"], row["in_range"])
        assert pd.Timestamp(each["date"]) - pd.Timestamp(answer["date"]) == pd.Timedelta(
            days=each["horizon"]
        )


def test_the_days_of_two_coins_and_a_day_without_a_date_are_refused(use, panel):
    with pytest.raises(MlflowException, match="the days of one coin"):
        forecast_liquidity(panel[0].tail(20), horizons=[1])
    frame = of_coin(panel[0], panel[0]["coin"].iloc[-1]).copy()
    frame.loc[frame.index[3], "date"] = None
    with pytest.raises(MlflowException, match="row 3, column date: expected a day"):
        forecast_liquidity(frame, horizons=[1])


def test_models_that_are_loaded_at_the_same_time_are_not_taken_for_one_another(use):
    """MLflow hands a model of code over in a global, and a server loads several at its start."""
    uris = {horizon: f"models:/crypto-liquidity-{horizon}d@champion" for horizon in (1, 7)}
    with fetched_model(uris[1]) as (_, first), fetched_model(uris[7]) as (_, second):
        folders = {1: first, 7: second}
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as pool:
                asked = [1, 7] * 100
                loaded = list(pool.map(lambda horizon: load_checked(folders[horizon]), asked))
        finally:
            sys.setswitchinterval(before)
    assert len({id(model) for model in loaded}) == len(asked)
    assert [model.horizon for model in loaded] == asked
    assert "dbutils" not in sys.modules
