"""The names that files have for a column are taken wherever rows come in."""

import io
import re

import orjson
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from support import COLUMNS, GOOD, ROW

from liquidity.errors import MarketDataError
from serve.inputs import CSV, JSON, PARQUET, parse_days, parse_invocation, parse_record

OTHER = {"price": 1.0, " volume ": 1e7, "note": "x", "1h": 0.01, "mkt_cap": 1e8}


def body(form, row=OTHER):
    """One row in a form of MLflow's protocol, and its Content-Type."""
    if form in (CSV, PARQUET):
        frame, file = pd.DataFrame([row]), io.BytesIO()
        frame.to_csv(file, index=False) if form == CSV else frame.to_parquet(file)
        return {"data": file.getvalue(), "content_type": form}
    rows = {
        "dataframe_split": {"columns": [*row], "data": [[*row.values()]]},
        "inputs": {name: [value] for name, value in row.items()},
    }
    return {"json": {form: rows.get(form, [row])}}


FORMS = ["dataframe_records", "dataframe_split", "instances", "inputs", CSV, PARQUET]


@pytest.mark.parametrize("form", FORMS)
def test_a_column_under_another_name_is_answered_as_under_its_own(app, form):
    client = app.test_client()
    answer = client.post("/invocations", **body(form))
    assert answer.status_code == 200, answer.text
    assert answer.json == client.post("/invocations", json={"instances": [GOOD]}).json


def test_predict_and_batch_take_the_same_names(app):
    client = app.test_client()
    expected = client.post("/predict", json=GOOD).json
    assert client.post("/predict", json=OTHER).json == expected
    answer = client.post("/batch", **body(CSV))
    assert pd.read_csv(io.BytesIO(answer.data))["liquidity"][0] == expected["liquidity"]


def test_a_coins_days_may_have_such_names_too():
    rows = b'{"rows": [{"date": "2026-01-31", "volume": 1, "mkt_cap": 2, "price": 3}]}'
    columns, _ = parse_days(rows, JSON, ("24h_volume", "mkt_cap", "price", "coin", "date"))
    assert columns == {"24h_volume": [1], "mkt_cap": [2], "price": [3], "date": ["2026-01-31"]}


@pytest.mark.parametrize("form", FORMS)
def test_two_names_of_one_column_are_refused(app, form):
    twice = {"volume ": 3.0, **OTHER}
    answer = app.test_client().post("/invocations", **body(form, twice))
    assert answer.status_code == 400
    names = r"'(volume | volume )'"
    sentence = rf"column 24h_volume: given more than once, as {names} and {names}: keep one .*\."
    assert re.fullmatch(sentence, answer.json["message"])
    with pytest.raises(MarketDataError, match="more than once"):
        parse_record(b'{"volume": 1, "volume ": 2, "price": 1}', COLUMNS)


@pytest.mark.parametrize("form", FORMS)
def test_where_every_column_has_its_own_name_others_are_none(app, form):
    """As MLflow's server has it."""
    answer = app.test_client().post("/invocations", **body(form, GOOD | {"volume": 3.0}))
    assert answer.status_code == 200, answer.text


def test_a_change_that_says_percent_is_not_taken_for_a_fraction(app, inner):
    for name in ("% 1h", "1h %", "percent_change_1h"):
        row = dict(zip([*COLUMNS[:2], name, COLUMNS[3]], ROW, strict=True))
        answer = app.test_client().post("/predict", json=row)
        assert answer.status_code == 400
        assert answer.json["message"].startswith("column 1h: missing")
        columns, _ = parse_invocation(b'{"instances": [{"%s": 1}]}' % name.encode(), JSON, COLUMNS)
        with pytest.raises(MlflowException, match="missing"):
            inner.parse(columns)


def test_a_name_that_no_column_has_is_none_however_long():
    """Digits without end are no number of hours, and a million names are not looked through."""
    for name in (" " * 10**6 + "volume", "9" * 10**4 + "h", "\u00b2h"):
        columns, _ = parse_record(orjson.dumps({name: 1, "price": 2}), COLUMNS)
        assert columns == {"price": [2]}
    many = dict.fromkeys(map(str, range(10**5)), 1) | {"volume": 1}
    assert parse_record(orjson.dumps(many), COLUMNS)[0] == {}


@pytest.mark.parametrize(
    "names",
    [
        ("Volume(24h)", "Market Cap", "1h change", "Price"),
        ("total_volume", "market_cap", "1H", "current_price"),
    ],
)
def test_names_of_market_sites_are_taken(app, names):
    client = app.test_client()
    row = dict(zip(names, ROW, strict=True))
    assert client.post("/predict", json=row).json == client.post("/predict", json=GOOD).json
