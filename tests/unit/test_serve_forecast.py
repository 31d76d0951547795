"""The server with forecasts: as the model of its old doors, and side by side at POST /forecast."""

import io
import json
import time
import urllib.request

import mlflow
import pandas as pd
import pytest
from support import UNPACKER, mlflow_scoring_server, post, run_commands, standing_app, use_copy

from liquidity import forecast_liquidity, load_champion
from serve.app import close_app, create_app

NUMBERS = ["24h_volume", "mkt_cap", "price"]
COLUMNS = [*NUMBERS, "coin", "date"]
URI = "models:/crypto-liquidity-7d@champion"


@pytest.fixture(scope="module")
def app(forecasts, tmp_path_factory):
    """A server whose model is the forecast of 7 days, beside the forecasts that there are."""
    cache = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(forecasts)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{forecasts}/mlflow.db")
        settings = {"MODEL_URI": URI, "CACHE_DIR": cache, "REFRESH_SECONDS": "0.2"}
        app = create_app(settings, unpacker=UNPACKER)
        wait_for_forecasts(app, 2)
        yield app
        close_app(app)


def wait_for_forecasts(app, count):
    client = app.test_client()
    for _ in range(600):
        if len(client.get("/model").get_json().get("forecasts", [])) == count:
            return
        time.sleep(0.1)
    raise AssertionError(f"{count} forecasts were not loaded within a minute")


@pytest.fixture
def days(panel):
    frame = panel[0]
    return frame[frame["coin"] == frame["coin"].iloc[-1]].tail(90)


@pytest.mark.parametrize("columns", [COLUMNS, NUMBERS], ids=["with coin and date", "without"])
def test_every_payload_is_answered_as_a_frame_is(app, panel, columns):
    frame = panel[0].tail(300)[columns].reset_index(drop=True)
    expected = mlflow.pyfunc.load_model(URI).predict(frame)
    client = app.test_client()
    records = json.loads(frame.to_json(orient="records"))
    split = {"columns": columns, "data": [list(row.values()) for row in records]}
    answers = [
        client.post("/invocations", json={"dataframe_records": records}),
        client.post("/invocations", json={"dataframe_split": split}),
        client.post("/invocations", json={"inputs": frame.to_dict(orient="list")}),
        client.post("/invocations", data=frame.to_csv(index=False), content_type="text/csv"),
        client.post(
            "/invocations",
            data=frame.to_parquet(index=False),
            content_type="application/vnd.apache.parquet",
        ),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.get_data(as_text=True)
        got = pd.DataFrame(answer.get_json()["predictions"])
        pd.testing.assert_frame_equal(got[list(expected)], expected, rtol=1e-9, check_dtype=False)


def test_a_csv_file_is_answered_as_a_frame_is(app, panel):
    frame = panel[0].tail(300)
    answer = app.test_client().post(
        "/batch", data=frame.to_csv(index=False), content_type="text/csv"
    )
    got = pd.read_csv(io.BytesIO(answer.get_data()))
    expected = mlflow.pyfunc.load_model(URI).predict(frame[COLUMNS].reset_index(drop=True))
    pd.testing.assert_frame_equal(got[list(expected)], expected, rtol=1e-9, check_dtype=False)


def test_the_newest_of_a_coins_days_is_forecast_by_every_champion(app, days):
    rows = json.loads(days.to_json(orient="records"))
    client = app.test_client()
    answer = client.post("/forecast", json={"rows": rows[::-1]}).get_json()
    assert answer["coin"] == days["coin"].iloc[-1]
    assert answer["date"] == days["date"].iloc[-1]
    assert [each["horizon"] for each in answer["forecasts"]] == [1, 7]
    for each in answer["forecasts"]:
        uri = f"models:/{each['model']['name']}/{each['model']['version']}"
        row = mlflow.pyfunc.load_model(uri).predict(days[COLUMNS]).iloc[-1]
        for name in ("liquidity", "lower", "upper", "p_high"):
            assert each[name] == pytest.approx(row[name], rel=1e-9)
        assert (each["level"], each["in_range"]) == (row["level"], row["in_range"])
        assert answer["days_used"] == row["days_used"]
        assert each["date"] > answer["date"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"rows": []}, 400, "rows: expected a list of objects"),
        ({}, 400, "rows: expected a list of objects"),
        ({"coin": "Bitcoin"}, 404, "no folder of snapshots"),
        ({"coin": 7, "rows": [{}]}, 400, "coin: expected a name as text"),
        ({"rows": [{"date": "2026-01-01", "mkt_cap": 1e8, "price": 1.0}]}, 400, "24h_volume"),
        ({"rows": [{"date": None}]}, 400, "row 0, column date"),
        ({"rows": [{"date": "2026-13-01"}]}, 400, "row 0, column date: expected a day"),
        ({"rows": [{"coin": 5}]}, 400, "row 0, column coin: expected a name as text"),
        ({"rows": [{"mkt_cap": 0}]}, 400, "row 0, column mkt_cap: expected a finite number > 0"),
        ({"rows": [{"coin": "a"}, {"coin": "b"}]}, 400, "the days of one coin"),
    ],
)
def test_what_cannot_be_forecast_is_one_sentence(app, body, status, said):
    good = {"date": "2026-01-01", "24h_volume": 1e6, "mkt_cap": 1e8, "price": 1.0}
    if body.get("rows") and "price" not in body["rows"][0]:
        body = {**body, "rows": [good | row for row in body["rows"]]}
    answer = app.test_client().post("/forecast", json=body)
    assert answer.status_code == status
    assert said in answer.get_json()["message"]


def test_the_fast_lane_answers_with_the_same_bytes(app, days, forecasts, tmp_path):
    rows = json.loads(days.to_json(orient="records"))
    slow = create_app({"MODEL_URI": URI, "CACHE_DIR": str(tmp_path)}, fastlane=False)
    try:
        wait_for_forecasts(slow, 2)
        answers = [
            each.test_client().post("/forecast", json={"rows": rows}).get_data()
            for each in (app, slow)
        ]
    finally:
        close_app(slow)
    assert answers[0] == answers[1]


def test_documents_and_figures_know_the_forecasts(app):
    client = app.test_client()
    model = client.get("/model").get_json()
    assert [each["name"] for each in model["forecasts"]] == [
        "crypto-liquidity-1d", "crypto-liquidity-7d"
    ]  # fmt: skip
    assert "residual_quantiles" not in model["interval"]
    assert "/forecast" in client.get("/openapi.json").get_json()["paths"]
    metrics = client.get("/metrics").get_data(as_text=True)
    assert 'liquidity_forecast_version{horizon="7"} 1.0' in metrics


def test_the_page_shows_a_row_alone(app):
    row = {"24h_volume": "1e7", "mkt_cap": "1e8", "price": "1"}
    answer = app.test_client().post("/predict", data=row)
    assert answer.status_code == 200
    page = answer.get_data(as_text=True)
    assert "7 days after its date" in page
    assert 'name="1h"' not in page


def test_a_server_without_forecasts_says_how_to_get_one(inner):
    with standing_app(inner, FORECASTS="") as app:
        answer = app.test_client().post("/forecast", json={"rows": [{}]})
        assert answer.status_code == 503
        assert "train.py --horizon" in answer.get_json()["message"]


def test_a_broken_horizon_leaves_the_others(forecasts, monkeypatch, tmp_path, days, caplog):
    """The one of 1 day loses its files after it was registered."""
    with use_copy(forecasts / "mlflow.db", tmp_path, monkeypatch) as client:
        first = client.get_model_version_by_alias("crypto-liquidity-1d", "champion")
        stranger = client.create_registered_model("crypto-liquidity-30d")
        client.create_model_version(stranger.name, f"{tmp_path}/nowhere", run_id=first.run_id)
        client.set_registered_model_alias(stranger.name, "champion", "1")
        app = create_app({"MODEL_URI": URI, "CACHE_DIR": str(tmp_path), "REFRESH_SECONDS": "0.2"})
        try:
            wait_for_forecasts(app, 2)
            rows = json.loads(days.to_json(orient="records"))
            answer = app.test_client().post("/forecast", json={"rows": rows}).get_json()
            assert [each["horizon"] for each in answer["forecasts"]] == [1, 7]
        finally:
            close_app(app)


@pytest.mark.soak
def test_mlflows_own_server_answers_as_a_frame_is(forecasts, panel, tmp_path):
    frame = panel[0].tail(200)[COLUMNS].reset_index(drop=True)
    with mlflow_scoring_server(forecasts / "x", tmp_path, "local", uri=URI) as url:
        for columns in (COLUMNS, NUMBERS):
            rows = frame[columns]
            records = json.loads(rows.to_json(orient="records"))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{forecasts}/mlflow.db")
                expected = mlflow.pyfunc.load_model(URI).predict(rows)
            split = {"columns": columns, "data": [list(row.values()) for row in records]}
            for body, kind in (
                ({"dataframe_records": records}, "application/json"),
                ({"dataframe_split": split}, "application/json"),
                (rows.to_csv(index=False), "text/csv"),
            ):
                status, answer = post(url, body, kind)
                assert status == 200, answer
                got = pd.DataFrame(answer["predictions"])
                pd.testing.assert_frame_equal(
                    got[list(expected)], expected, rtol=1e-9, check_dtype=False
                )


def test_the_commands_for_programs_run(start_serve, forecasts, tmp_path):
    uri = f"sqlite:///{forecasts}/mlflow.db"
    server = start_serve(MLFLOW_TRACKING_URI=uri, LIQUIDITY_MODEL_URI=URI)
    for _ in range(600):
        if len(get_json(f"{server.url}/model")["forecasts"]) == 2:
            break
        time.sleep(0.1)
    with urllib.request.urlopen(f"{server.url}/programs") as response:
        printed = run_commands(response.read().decode(), tmp_path)
    answer = json.loads(printed["days", "bash"])
    dates = [each["date"] for each in answer["forecasts"]]
    assert dates == ["2026-02-01", "2026-02-07"]
    for language in {language for _, language in printed} - {"bash"}:
        assert [line.split()[0] for line in printed["days", language].splitlines()] == dates
    assert json.loads(printed["one", "bash"])["days_used"] == 1


def get_json(url):
    with urllib.request.urlopen(url) as response:
        return json.load(response)


def test_a_frame_of_days_is_forecast_in_python(forecasts, panel, tmp_path, monkeypatch):
    frame = panel[0].tail(300)
    with use_copy(forecasts / "mlflow.db", tmp_path, monkeypatch):
        expected = mlflow.pyfunc.load_model(URI).predict(frame[COLUMNS])
        found = load_champion(7)
        dated = frame.assign(date=pd.to_datetime(frame["date"]))
        for each in (dated, dated.set_index(["coin", "date"])):
            scored = found.score_frame(each).set_axis(expected.index)
            pd.testing.assert_frame_equal(scored, expected)
        (one,) = forecast_liquidity(dated.iloc[-1:], horizons=7)["forecasts"]
    assert one["horizon"] == 7


def test_a_file_without_names_and_days_is_answered_row_by_row(app):
    answer = app.test_client().post(
        "/batch", data="24h_volume,mkt_cap,price\n1e7,1e8,1\n", content_type="text/csv"
    )
    assert answer.status_code == 200, answer.text
    assert pd.read_csv(io.BytesIO(answer.data))["days_used"].tolist() == [1]
