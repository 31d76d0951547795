"""The registered model behind MLflow's own scoring server and its command `models predict`."""

import json
import re
import subprocess

import pandas as pd
import pytest
from support import CHAMPION, GOOD, mlflow_models, mlflow_scoring_server, post

from liquidity.contract import FEATURES

VALUES = [GOOD[name] for name in FEATURES]


@pytest.fixture(scope="module")
def server(model_folder, tmp_path_factory):
    with mlflow_scoring_server(model_folder, tmp_path_factory.mktemp("server"), "local") as url:
        yield url


FORMS = {
    "dataframe_split": {"columns": FEATURES, "data": [VALUES, VALUES]},
    "dataframe_records": [GOOD, GOOD],
    "instances": [GOOD, GOOD],
    "inputs": {name: [value, value] for name, value in GOOD.items()},
    "inputs, by rows": [GOOD, GOOD],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_json_is_answered_alike(server, model, form):
    status, answer = post(server, {form.partition(",")[0]: FORMS[form]})
    expected = model.predict(pd.DataFrame([GOOD, GOOD])).to_dict("records")
    assert (status, answer) == (200, {"predictions": expected})


def test_csv_and_params_are_answered(server, model):
    csv = f"{','.join(FEATURES)}\n{','.join(map(str, VALUES))}\n"
    status, answer = post(server, csv, "text/csv")
    (expected,) = model.predict(pd.DataFrame([GOOD])).to_dict("records")
    assert (status, answer["predictions"]) == (200, [expected])
    for threshold, level in ((0.0, "High"), (None, "Low")):
        body = {"dataframe_records": [GOOD], "params": {"threshold": threshold}}
        status, answer = post(server, body)
        assert (status, answer["predictions"][0]["level"]) == (200, level)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mkt_cap": 0}, "row 1, column mkt_cap: expected a finite number > 0 .*, got 0.0"),
        ({"24h_volume": -3}, "row 1, column 24h_volume: .*, got -3.0"),
        ({"price": None}, "row 1, column price: .*, got nan"),
        ({"price": float("inf")}, "row 1, column price: .*, got inf"),
        ({"1h": 1e300}, "row 1, column 1h: .* got 1e"),
        ({"price": "cheap"}, "price"),
    ],
)
def test_a_bad_row_is_a_400_that_shows_no_code(server, changes, message):
    status, answer = post(server, {"dataframe_records": [GOOD, GOOD | changes]})
    assert status == 400
    assert_tells(answer, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"dataframe_records": [{"price": 1}]}, "24h_volume"),
        ({"dataframe_split": {"columns": FEATURES, "data": []}}, "0 rows"),
        (
            {"dataframe_split": {"columns": [*FEATURES, "price"], "data": [[*VALUES, 1]]}},
            "price",  # MLflow itself refuses it
        ),
        (
            {"dataframe_records": [GOOD], "params": {"threshold": float("nan")}},
            "params, threshold: expected a finite number",
        ),
    ],
)
def test_a_bad_request_is_a_400_that_shows_no_code(server, body, message):
    status, answer = post(server, body)
    assert status == 400
    assert_tells(answer, message)


def assert_tells(answer, message):
    text = json.dumps(answer)
    assert "stack_trace" not in answer
    assert not [word for word in ("Traceback", ".py", "site-packages") if word in text], text
    assert re.search(message, answer["message"]), answer


JSON = "application/json"
COLUMN = {name: [value, 2 * value] for name, value in GOOD.items()}
SPLIT = {"columns": FEATURES, "data": [VALUES]}
CSV = f"{','.join(FEATURES)}\n{','.join(map(str, VALUES))}\n"
REQUESTS = {
    "records": {"dataframe_records": [GOOD]},
    "records with more columns": {"dataframe_records": [GOOD | {"coin": "x"}]},
    "records of whole numbers": {"dataframe_records": [dict.fromkeys(GOOD, 1), GOOD]},
    "records of texts": {"dataframe_records": [dict.fromkeys(GOOD, "1.5")]},
    "split": {"dataframe_split": SPLIT},
    "split with an index": {"dataframe_split": SPLIT | {"index": [7]}},
    "split in another order": {
        "dataframe_split": {"columns": FEATURES[::-1], "data": [VALUES[::-1]]}
    },
    "instances": {"instances": [GOOD, GOOD]},
    "columns": {"inputs": COLUMN},
    "columns as instances": {"instances": COLUMN},
    "one row as inputs": {"inputs": GOOD},
    "a threshold": {"inputs": COLUMN, "params": {"threshold": 0.01}},
    "a whole threshold": {"inputs": COLUMN, "params": {"threshold": 0}},
    "no threshold": {"inputs": COLUMN, "params": {"threshold": None}},
    "no params": {"inputs": COLUMN, "params": None},
    "another param": {"inputs": COLUMN, "params": {"other": 1}},
    "csv": CSV,
    "csv with more columns": CSV.replace("\n", ",x\n", 1).replace("1.0\n", "1.0,1\n"),
    "a missing column": {"dataframe_records": [{"price": 1}]},
    "a broken rule": {"dataframe_records": [GOOD | {"mkt_cap": 0}]},
    "a null": {"dataframe_records": [GOOD | {"mkt_cap": None}]},
    "text": {"dataframe_records": [GOOD | {"mkt_cap": "much"}]},
    "no rows": {"dataframe_records": []},
    "records as an object": {"dataframe_records": GOOD},
    "lists as instances": {"instances": [VALUES]},
    "two forms": {"inputs": COLUMN, "instances": [GOOD]},
    "none of the forms": {"rows": [GOOD]},
    "a list": [GOOD],
    "columns of unequal length": {"instances": COLUMN | {"price": [1]}},
    "a text as threshold": {"inputs": COLUMN, "params": {"threshold": "much"}},
    "broken json": '{"inputs": ',
}


@pytest.mark.parametrize("body", REQUESTS.values(), ids=REQUESTS.keys())
def test_our_server_answers_as_mlflows_does(server, app, body):
    """The same status for every request, the same scores for every valid one."""
    kind = "text/csv" if isinstance(body, str) and not body.startswith("{") else JSON
    data = body if isinstance(body, str) else json.dumps(body)
    ours = app.test_client().post("/invocations", data=data, content_type=kind)
    status, answer = post(server, data, kind)
    assert ours.status_code == status
    if status == 200:
        assert ours.json == answer
    else:
        assert ours.json["message"]


def test_mlflow_models_predict_answers_too(model, model_folder, tmp_path):
    (tmp_path / "in.csv").write_text(f"{','.join(FEATURES)}\n{','.join(map(str, VALUES))}\n")
    job = mlflow_models(
        "predict", "-m", CHAMPION, "--env-manager", "local", "-i", "in.csv", "-o", "out.json",
        "-t", "csv", model_folder=model_folder, cwd=tmp_path, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert job.wait(timeout=60) == 0
    answer = json.loads((tmp_path / "out.json").read_text())
    expected = model.predict(pd.DataFrame([GOOD])).to_dict("records")
    assert answer == {"predictions": expected}
