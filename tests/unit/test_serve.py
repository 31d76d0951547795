"""The doors of the Flask application, over a real model and a hand-made champion."""

import base64
import csv
import gzip
import io
import json
import logging
import re
from contextlib import ExitStack

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.exceptions import MlflowException
from prometheus_client.parser import text_string_to_metric_families
from support import COLUMNS, GOOD, HTML, ROW, Standing, post_to_gateway, standing_app

from serve.app import close_app, create_app


@pytest.fixture
def make_client(inner):
    """A client of an application of its own, with a model or without."""
    with ExitStack() as apps:

        def make(**options):
            return apps.enter_context(standing_app(inner, **options)).test_client()

        yield make


@pytest.fixture
def client(make_client):
    return make_client()


def error(response, status):
    """The one error shape, and no more."""
    assert response.status_code == status
    assert response.mimetype == "application/json"
    assert set(response.json) == {"error_code", "message"}
    assert "Traceback" not in response.text
    return response.json["message"]


# Scores


def test_predict_answers_a_coin_with_its_scores_and_the_model(client, inner):
    response = client.post("/predict", json=GOOD)
    assert response.status_code == 200
    expected = inner.answer_row(ROW) | {"model": {"name": "crypto-liquidity", "version": "3"}}
    assert response.json == expected
    assert client.post("/predict", json=GOOD | {"threshold": 0.0001}).json["level"] == "High"


PAYLOADS = {
    "dataframe_records": [GOOD, GOOD | {"price": 2}],
    "dataframe_split": {"columns": ["x", *COLUMNS], "data": [[0, *ROW], [0, *ROW[:3], 2]]},
    "instances": [GOOD, GOOD | {"price": "2"}],
    "inputs": {name: [value, value] for name, value in GOOD.items()} | {"price": [1, 2]},
}


@pytest.mark.parametrize("key", PAYLOADS)
def test_invocations_takes_every_form_of_mlflows_protocol(client, inner, key):
    response = client.post("/invocations", json={key: PAYLOADS[key]})
    assert response.status_code == 200, response.text
    X = np.array([ROW, [*ROW[:3], 2.0]])
    expected = pd.DataFrame(inner.answer(X)).to_dict("records")
    assert response.json == {"predictions": expected}


@pytest.mark.parametrize("scalar", [True, False])
def test_inputs_may_be_one_row(client, scalar):
    values = GOOD if scalar else {name: [value] for name, value in GOOD.items()}
    assert len(client.post("/invocations", json={"inputs": values}).json["predictions"]) == 1


def test_inputs_may_be_a_list_of_rows(client):
    by_rows, records = (
        client.post("/invocations", json={key: PAYLOADS["instances"]})
        for key in ("inputs", "instances")
    )
    assert by_rows.status_code == 200
    assert by_rows.json == records.json


@pytest.mark.parametrize(
    "text",
    [
        "price,1h,mkt_cap,24h_volume,coin\n1.0,0.01,1e8,1e7,x\n",
        "\ufeff24h_volume,mkt_cap,1h,price\r\n1e7,1e8,0.01,1.0\r\n",
        '"24h_volume","mkt_cap","1h","price"\n"1e7","1e8","0.01","1.0"\n',
    ],
    ids=["order", "bom and crlf", "quotes"],
)
def test_invocations_takes_csv(client, inner, text):
    response = client.post("/invocations", data=text.encode(), content_type="text/csv")
    assert response.json == {"predictions": [inner.answer_row(ROW)]}


def test_invocations_takes_parquet(client, inner):
    body = pd.DataFrame([GOOD]).to_parquet()
    response = client.post("/invocations", data=body, content_type="application/vnd.apache.parquet")
    assert response.json == {"predictions": [inner.answer_row(ROW)]}


@pytest.mark.parametrize(
    ("columns", "status", "message"),
    [
        # 550 kB of which took a gigabyte before the rows were counted.
        ({name: np.zeros(3_000_000) for name in GOOD}, 413, "3,000,000 rows: expected at most"),
        ({name: ["1"] for name in GOOD}, 400, "column 24h_volume: expected numbers, got"),
        ({name: [[1.0]] for name in GOOD}, 400, "column 24h_volume: expected numbers, got"),
    ],
    ids=["many rows", "text", "lists"],
)
def test_parquet_that_may_unfold_to_gigabytes_is_refused_unread(client, columns, status, message):
    body = pd.DataFrame(columns).to_parquet()
    response = client.post("/invocations", data=body, content_type="application/vnd.apache.parquet")
    assert message in error(response, status)


def test_a_column_twice_is_refused_in_tables_too(client):
    header = "24h_volume,mkt_cap,1h,1h,price"
    table = pa.Table.from_arrays([pa.array([1.0])] * 5, header.split(","))
    parquet = io.BytesIO()
    pq.write_table(table, parquet)
    for body, content_type in (
        (f"{header}\n1,1,1,1,1\n", "text/csv"),
        (parquet.getvalue(), "application/vnd.apache.parquet"),
    ):
        response = client.post("/invocations", data=body, content_type=content_type)
        assert error(response, 400) == "column 1h: given 2 times, expected once."


def test_the_threshold_is_a_parameter(client):
    body = {"dataframe_records": [GOOD], "params": {"threshold": 0.0001}}
    assert client.post("/invocations", json=body).json["predictions"][0]["level"] == "High"
    for threshold in (None, 0.5, 1):
        body["params"] = {"threshold": threshold}
        assert client.post("/invocations", json=body).json["predictions"][0]["level"] == "Low"


def test_one_row_and_many_score_to_the_same_bits(inner, sample_table):
    X = sample_table[COLUMNS].to_numpy(float)[:300]
    many = pd.DataFrame(inner.answer(X)).to_dict("records")
    assert [inner.answer_row(row) for row in X.tolist()] == many


@pytest.mark.parametrize("door", ["/predict", "/invocations"])
@pytest.mark.parametrize(
    "payload",
    [
        GOOD,
        GOOD | {"threshold": 0.001},
        GOOD | {"price": "1"},
        GOOD | {"price": None},
        {"instances": [GOOD, GOOD]},
        {"inputs": GOOD, "params": {"threshold": 0.001}},
        {"inputs": GOOD, "params": 5},
        {"instances": []},
        [],
        {},
    ],
    ids=str,
)
def test_the_shortcut_around_flask_answers_as_flask_does(client, door, payload):
    data, headers = orjson.dumps(payload), {"X-Request-ID": "same"}
    quick = post_to_gateway(client.application, door, data, **headers)
    plain = client.post(door, data=data, content_type="application/json", headers=headers)
    assert (quick.status, quick.data) == (plain.status, plain.data)
    assert sorted(quick.headers) == sorted(plain.headers)


def metrics_of(client):
    """All that is counted, also of the last twentieth of a second."""
    client.application.extensions["recorder"].flush()
    return client.get("/metrics").text


def test_the_shortcut_is_counted_and_logged_alike(make_client, tmp_path, capsys):
    client = make_client(PREDICTION_LOG=str(tmp_path / "log"))
    data, headers = orjson.dumps({"instances": [GOOD]}), {"X-Request-ID": "same"}
    post_to_gateway(client.application, "/invocations", data, **headers)
    client.post("/invocations", data=data, content_type="application/json", headers=headers)
    metrics = metrics_of(client)
    assert 'liquidity_requests_total{door="/invocations",status="200"} 2.0' in metrics
    assert "liquidity_rows_scored_total 2.0" in metrics
    close_app(client.application)
    one, two = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert one | {"time": ""} == two | {"time": ""}
    lines = [line[24:] for line in capsys.readouterr().err.splitlines() if "/invoc" in line]
    assert len(lines) == 2
    assert re.sub(r"[\d.]+ ms", "", lines[0]) == re.sub(r"[\d.]+ ms", "", lines[1])


# Bad input: each value at each door

BAD_VALUES = {
    "null": None, "boolean": True, "text": "abc", "empty": "", "list": [1], "object": {"a": 1},
    "negative": -2, "too large": 1e19, "too large an integer": 10**19, "text too large": "1e400",
    "infinite text": "inf", "NaN text": "NaN",
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_a_bad_value_is_refused_with_row_column_and_rule(client, name, value):
    coin = GOOD | {name: value}
    message = error(client.post("/predict", json=coin), 400)
    assert message.startswith(f"row 0, column {name}: expected a finite number")
    assert error(client.post("/invocations", json={"dataframe_records": [GOOD, coin]}), 400) == (
        message.replace("row 0", "row 1")
    )


@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_column_is_named(client, name):
    coin = {key: value for key, value in GOOD.items() if key != name}
    for response in (
        client.post("/predict", json=coin),
        client.post("/invocations", json={"instances": [coin]}),
        client.post("/invocations", json={"inputs": coin}),
        client.post("/invocations", data=f"{','.join(coin)}\n1,2,3\n", content_type="text/csv"),
    ):
        assert error(response, 400).startswith(f"column {name}: missing; expected 24h_volume")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"price": 1e400}', "not valid JSON"),
        (b'{"price": NaN}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "expected a JSON object, got a list"),
        (b'"text"', "got a string"),
        (b"null", "got null"),
        (b"7", "got a number"),
        (b"true", "got a boolean"),
    ],
)
@pytest.mark.parametrize("door", ["/predict", "/invocations"])
def test_a_body_that_is_no_json_object_is_refused(client, door, body, message):
    response = client.post(door, data=body, content_type="application/json")
    assert message in error(response, 400)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, "exactly one of .*none of them"),
        ({"inputs": GOOD, "instances": [GOOD]}, "got instances, inputs"),
        ({"dataframe_records": []}, "0 rows: expected at least one"),
        ({"dataframe_records": GOOD}, "expected a list of objects .*got an object"),
        ({"dataframe_records": [GOOD, 5]}, "row 1: expected .*got a number"),
        ({"instances": [ROW]}, "instances, row 0: expected .*got a list"),
        ({"inputs": [ROW]}, "inputs, row 0: expected an object of lists, one per column, or a lis"),
        ({"inputs": 5}, "expected an object of lists, one per column, or a list of objects, got a"),
        ({"inputs": {**GOOD, "price": [1, 2]}}, "equal length, got .*price 2"),
        ({"dataframe_split": [1]}, "dataframe_split: expected"),
        ({"dataframe_split": {"columns": COLUMNS}}, "without a list `data`"),
        ({"dataframe_split": {"data": [ROW]}}, "columns: expected a list of names, got null"),
        ({"dataframe_split": {"columns": COLUMNS, "data": [ROW, ROW[:3]]}}, "row 1: .*got 3"),
        ({"dataframe_split": {"columns": COLUMNS, "data": [5]}}, "row 0: .*got a number"),
        ({"dataframe_split": {"columns": [*COLUMNS, "1h"], "data": [[*ROW, 1]]}}, "2 times"),
        ({"inputs": GOOD, "params": [1]}, "params: expected an object, got a list"),
        ({"inputs": GOOD, "params": {"threshold": "x"}}, "threshold: expected a finite number"),
        ({"inputs": GOOD, "params": {"threshold": True}}, "threshold: expected a finite number"),
    ],
)
def test_a_payload_of_another_form_is_refused(client, payload, message):
    found = error(client.post("/invocations", json=payload), 400)
    assert re.search(message, found), found


@pytest.mark.parametrize("door", ["/predict", "/invocations", "/batch"])
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/xml",
        "application/json; charset=utf-16",
        "text/csv; a=b",
    ],
)
def test_another_content_type_is_refused(client, door, content_type):
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = client.post(door, data=b"{}", headers=headers)
    assert "Content-Type: expected" in error(response, 415)


@pytest.mark.parametrize("door", ["/predict", "/invocations", "/batch"])
@pytest.mark.parametrize("shortcut", [True, False])
def test_a_packed_body_is_refused_and_not_unpacked(client, door, shortcut):
    body = orjson.dumps(GOOD)
    for data in (body, gzip.compress(body), gzip.compress(bytes(10**7))):
        headers = {"Content-Encoding": "gzip"}
        if shortcut:
            response = post_to_gateway(client.application, door, data, **headers)
        else:
            ask = {"content_type": "application/json", "headers": headers}
            response = client.post(door, data=data, **ask)
        assert "Content-Encoding" in error(response, 415)


def test_too_many_rows_are_refused(client):
    rows = [ROW] * 100_001
    for response in (
        client.post(
            "/invocations",
            data=orjson.dumps({"dataframe_split": {"columns": COLUMNS, "data": rows}}),
            content_type="application/json",
        ),
        client.post("/batch", data=csv_of([ROW]) + b"1,1,0,1\n" * 100_000, content_type="text/csv"),
    ):
        assert "100,001 rows: expected at most 100,000" in error(response, 413)


@pytest.mark.parametrize(
    ("door", "content_type"),
    [
        ("/predict", "application/json"),
        ("/predict", "application/x-www-form-urlencoded"),
        ("/invocations", "application/json"),
        ("/invocations", "text/csv"),
        ("/batch", "text/csv"),
        ("/batch", "multipart/form-data; boundary=x"),
    ],
)
def test_more_than_16_mib_are_refused(client, door, content_type):
    body = b" " * (16 * 2**20 + 1)
    message = error(client.post(door, data=body, content_type=content_type), 413)
    assert message.startswith("The body is larger than 16 MiB, or a form of more than 1,000 fields")


@pytest.mark.parametrize(
    ("door", "content_type", "body"),
    [
        # 16 MB of such took nine seconds and two gigabytes.
        ("/predict", "application/x-www-form-urlencoded", b"a&" * 250_001),
        (
            "/predict",
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n1\r\n' * 1001 + b"--x--\r\n",
        ),
    ],
    ids=["a large form", "many parts"],
)
def test_a_form_of_thousands_of_fields_is_refused(client, door, content_type, body):
    message = error(client.post(door, data=body, content_type=content_type), 413)
    assert "a form of more than 1,000 fields or 500 kB of text" in message


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
def test_another_method_is_refused_and_the_right_one_named(client, method):
    response = getattr(client, method)("/invocations")
    assert "method" in error(response, 405)
    assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/predict/", "/static/../__init__.py", "/static/%2e%2e/api.py",
     "/static//etc/passwd", "/..%2f..%2fetc/passwd", "/static/", "/\x00"],
)  # fmt: skip
def test_an_unknown_path_is_404(client, path):
    error(client.get(path), 404)


def test_a_part_of_a_file_that_is_not_there_is_an_error_like_others(client):
    response = client.get("/static/page.css", headers={"Range": "bytes=999999-"})
    assert error(response, 416)
    assert response.headers["Content-Range"].startswith("bytes */")


# Files


def csv_of(rows, header=COLUMNS):
    return "\n".join([",".join(header), *(",".join(map(str, row)) for row in rows), ""]).encode()


def test_batch_gives_every_row_back_in_order_with_scores_or_an_error(client, inner):
    rows = [["a,b", *ROW], ["c", *ROW[:3], "x"], ["d", 1e7, 0, 0.01, 1], ["e", *ROW]]
    frame = pd.DataFrame(rows, columns=["coin", *COLUMNS])
    body = frame.to_csv(index=False).encode()
    for response in (
        client.post("/batch", data=body, content_type="text/csv"),
        client.post("/batch", data={"file": (io.BytesIO(body), "market.csv")}),
    ):
        assert response.status_code == 200
        assert response.mimetype == "text/csv"
        assert response.headers["X-Rows"] == "4"
        assert response.headers["X-Rows-Refused"] == "2"
        scored = pd.read_csv(io.BytesIO(response.data))
        assert list(scored["coin"]) == ["a,b", "c", "d", "e"]
        assert list(scored) == ["coin", *COLUMNS, "liquidity", "level", "lower", "upper",
                                "in_range", "error"]  # fmt: skip
        assert scored["liquidity"].iloc[0] == inner.answer_row(ROW)["liquidity"]
        assert "column price" in scored["error"].iloc[1]
        assert "column mkt_cap" in scored["error"].iloc[2]
        assert scored["liquidity"].isna().tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "cannot be read as CSV"),
        (b"24h_volume;mkt_cap;1h;prize\n1;2;0;1\n", "did you mean 'prize'? Name it price"),
        (b"24h_volume,mkt_cap,1h\n1,2,0\n", "price: missing"),
        (csv_of([ROW]) + b"1,2\n", "Expected 4 columns, got 2"),
        (b"\xff\xfe\x00", "cannot be read as CSV"),
        (gzip.compress(csv_of([ROW]), mtime=0)[:-9], "cannot be read as CSV"),
        # Each of which took Arrow 20 kB.
        (csv_of([[*ROW, *"1" * 997]], [*COLUMNS, *"a" * 997]), "1,001 columns: expected at most"),
        (csv_of([[1] * 900], ["error"] * 900), "error, and 850 more"),
    ],
)
def test_a_file_that_cannot_be_scored_says_why(client, body, message):
    assert message in error(client.post("/batch", data=body, content_type="text/csv"), 400)


FORMULAS = ["=HYPERLINK(1)", "+1+cmd|x", "-2+3", "@SUM(A1)", " =1", "\uff1d1"]
FORMULAS += ["\ufeff=1", "\u200b=1", "\x01=1", "\ufeff \ufeff@A1"]
# Where the spreadsheet's language parts cells by semicolons, or an import by tabs.
WITHIN = {
    "\t=1": "'\t'=1",
    "\r=1": "'\r'=1",
    "a;=1": "a;'=1",
    "a; \ufeff+x;@b": "a; \ufeff'+x;'@b",
    'a;"=1"': 'a;"\'=1"',
    "a\t=1": "a\t'=1",
    "a\n=1": "a\n'=1",
}
HARMLESS = ["-0.5", "+1e-5", "-$1,234.5", "-5%", "-", "--", "a=b", "", "'=1", "a;b", "a; b=1"]


def test_a_form_gets_its_file_back_without_formulas_and_a_program_as_it_was(client):
    """Whoever uploads a file on the page opens the answer in a spreadsheet."""
    cells = [*FORMULAS, *WITHIN, *HARMLESS, "=x,y"]
    frame = pd.DataFrame([[cell, *ROW[:2], -0.5, 1] for cell in cells], columns=["=A1", *COLUMNS])
    body = frame.to_csv(index=False, quoting=csv.QUOTE_ALL).encode()
    verbatim = client.post("/batch", data=body, content_type="text/csv").data
    safe = client.post("/batch", data={"file": (io.BytesIO(body), "market.csv")}).data
    read = {"dtype": str, "keep_default_na": False}
    plain, quoted = (pd.read_csv(io.BytesIO(text), **read) for text in (verbatim, safe))
    assert list(plain["=A1"]) == cells
    guarded = [*(f"'{cell}" for cell in FORMULAS), *WITHIN.values(), *HARMLESS, "'=x,y"]
    assert list(quoted["'=A1"]) == guarded
    rest = plain.columns[1:]
    assert quoted[rest].equals(plain[rest])
    assert set(quoted["1h"]) == {"-0.5"}


def test_an_upload_without_a_file_says_so(client):
    response = client.post("/batch", data={"x": "y"}, content_type="multipart/form-data")
    assert "expected a CSV file, got none" in error(response, 400)


# Around every request


@pytest.mark.parametrize("path", ["/", "/ping", "/nothing", "/metrics", "/static/page.css"])
def test_every_answer_carries_the_security_headers(client, path):
    with client.get(path) as response:  # closes a file that is sent
        headers = response.headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize(
    ("sent", "honoured"),
    [
        ("abc-1.2_3", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("é", False),
        ("", False),
    ],
)
def test_a_request_id_is_honoured_when_it_is_harmless(client, sent, honoured):
    headers = {"X-Request-ID": sent.encode().decode("latin-1")}
    answered = client.get("/ping", headers=headers).headers["X-Request-ID"]
    assert (answered == sent) is honoured
    assert answered


def test_the_request_log_names_the_request_and_no_value_of_it(client, capsys):
    secret = "123454321"
    client.post("/predict", json=GOOD | {"price": secret}, headers={"X-Request-ID": "id-1"})
    client.post("/predict", json=GOOD | {"price": f"x{secret}"})
    client.post("/invocations", data=f'{{"{secret}', content_type="application/json")
    client.get(f"/?price={secret}")
    client.get("/a%0Ab")
    client.get("/a b 200 0.1 ms id=é")
    client.application.extensions["recorder"].flush()
    lines = capsys.readouterr().err
    assert secret not in lines
    assert " INFO serve.request: POST /predict 200 " in lines
    assert " ms id=id-1 version=3\n" in lines
    assert "GET /a%0Ab 404" in lines
    assert "GET /a%20b%20200%200.1%20ms%20id%3D%C3%A9 404" in lines


def test_the_request_log_cuts_what_is_endless(client, capsys):
    client.open("/" + "a" * 100_000, method="B" * 100_000)
    client.application.extensions["recorder"].flush()
    assert len(capsys.readouterr().err) < 600


def basic(password):
    return "Basic " + base64.b64encode(f"someone:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Bearer schlüssel".encode().decode("latin-1")}, 401),
        ({"Authorization": basic("wrong")}, 401),
        ({"Authorization": "Digest x"}, 401),
        ({"Authorization": "Basic not-base64"}, 401),
        ({"Authorization": "Basic"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"X-API-Key": "0123"}, 401),
        ({"Authorization": "Bearer 01234"}, 401),
        ({"Authorization": "Bearer 0123"}, 200),
        ({"Authorization": "bearer 0123"}, 200),
        ({"Authorization": basic("0123")}, 200),
    ],
)
def test_a_key_is_asked_for_where_one_is_set(make_client, headers, status):
    client = make_client(API_KEY="0123")
    for response in (
        client.post("/predict", json=GOOD, headers=headers),
        post_to_gateway(client.application, "/predict", orjson.dumps(GOOD), **headers),
        client.get("/model", headers=headers),
        client.get("/", headers=headers),
    ):  # fmt: skip
        assert response.status_code == status
        assert ("WWW-Authenticate" in response.headers) is (status == 401)
    assert client.get("/health").status_code == client.get("/ping").status_code == 200
    assert client.get("/nothing", headers=headers).status_code == (401 if status == 401 else 404)


@pytest.mark.parametrize("key", ["a=b", "=ab", "ab=", "ab==", "a,b", 'a="b"', "a:b", "Basic"])
def test_any_key_opens_every_door(make_client, key):
    client = make_client(API_KEY=key)
    for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": basic(key)}):
        around = post_to_gateway(client.application, "/predict", orjson.dumps(GOOD), **headers)
        through = client.post("/predict", json=GOOD, headers=headers)
        answers = [around, through, client.get("/model", headers=headers)]
        assert [answer.status_code for answer in answers] == [200] * 3


def test_who_brings_the_key_as_a_token_goes_around_flask(make_client, monkeypatch):
    client = make_client(API_KEY="0123")
    monkeypatch.delitem(client.application.view_functions, "pages.predict")
    key = {"Authorization": "Bearer 0123"}
    answer = post_to_gateway(client.application, "/predict", orjson.dumps(GOOD), **key)
    assert answer.json["level"]


def test_a_key_that_looks_like_a_number_stays_text(make_client, monkeypatch):
    monkeypatch.setenv("LIQUIDITY_API_KEY", "1e5")
    client = make_client()
    assert client.get("/model", headers={"Authorization": "Bearer 1e5"}).status_code == 200
    assert client.get("/model", headers={"Authorization": "Bearer 100000.0"}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),  # another port, or another name of the domain
        ({"Origin": "http://evil.example"}, True),  # a browser over plain HTTP
        ({"Origin": "null"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Origin": "http://localhost"}, False),
        ({}, False),
    ],
    ids=str,
)
def test_a_form_of_another_site_is_refused_where_a_key_is_set(make_client, headers, refused):
    """A browser sends a remembered Basic password with it."""
    client = make_client(API_KEY="0123")
    headers = headers | {"Authorization": basic("0123")}
    for door in ("/predict", "/batch", "/invocations"):
        response = client.post(door, data=GOOD, headers=headers)
        if refused:
            assert "another site" in error(response, 400)
        else:
            assert "another site" not in response.text


@pytest.mark.parametrize("key", ["schl\xfcssel", "two words", "key\n", "\udcff"])
def test_a_key_that_no_header_carries_is_refused_at_the_start(key):
    with pytest.raises(ValueError, match="LIQUIDITY_API_KEY: expected printable ASCII") as caught:
        create_app({"API_KEY": key}, Standing(None))
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "request_",
    [
        {"query_string": {"key": "0123", "api_key": "0123", "access_token": "0123"}},
        {"headers": {"Cookie": "key=0123; session=0123"}},
        {"data": {**GOOD, "key": "0123", "Authorization": "Bearer 0123"}},
        {"json": {**GOOD, "api_key": "0123"}},
        {"headers": {"X-API-Key": "0123", "Proxy-Authorization": "Bearer 0123", "Token": "0123"}},
        {"headers": {"Authorization": "0123"}},
        {"headers": {"Authorization": "Bearer 012"}},
        {"headers": {"Authorization": "Bearer 01234"}},
        {"headers": {"Authorization": "Bearer 0123, Bearer 0123"}},
        {"headers": {"Authorization": "Token 0123"}},
        {"headers": {"Authorization": "Basic " + base64.b64encode(b"0123").decode()}},
        {"headers": {"Authorization": "Basic " + base64.b64encode(b"0123:").decode()}},
    ],
    ids=str,
)
def test_a_key_in_another_place_is_refused_and_not_repeated(make_client, capsys, request_):
    client = make_client(API_KEY="0123")
    response = client.post("/predict", **request_)
    assert error(response, 401)
    assert "0123" not in response.text
    client.application.extensions["recorder"].flush()
    assert "0123" not in re.sub(r"id=\w+|\d\d:.*?INFO", "", capsys.readouterr().err)


def test_without_a_model_the_doors_say_so(make_client):
    client = make_client(served=False)
    for response in (
        client.get("/health"), client.get("/ping"), client.get("/model"),
        client.post("/predict", json=GOOD), client.post("/invocations", json={"inputs": GOOD}),
        client.post("/batch", data=csv_of([ROW]), content_type="text/csv"),
    ):  # fmt: skip
        assert "No model is loaded" in error(response, 503)
    page = client.get("/", headers=HTML)
    assert page.status_code == 503
    assert "There is no model here yet" in page.text
    assert "No model is loaded" not in page.text  # what an operator does about it is no visitor's
    assert "<form" not in page.text
    assert client.get("/metrics").status_code == client.get("/version").status_code == 200


@pytest.mark.parametrize("fastlane", [True, False])
@pytest.mark.parametrize(
    "bug", [ZeroDivisionError("a bug"), MlflowException("a bug"), ValueError("a bug")], ids=repr
)
def test_a_bug_is_one_sentence_and_its_trace_stays_in_the_log(
    make_client, monkeypatch, caplog, bug, fastlane
):
    """A fast lane that hides a bug would answer the same request by the slow way for ever."""
    asked = []

    def score(*args):
        asked.append(args)
        raise bug

    client = make_client(fastlane=fastlane)
    monkeypatch.setattr("serve.answers.score", score)
    data = orjson.dumps({"inputs": GOOD})
    with caplog.at_level(logging.ERROR):
        response = post_to_gateway(client.application, "/invocations", data)
    assert error(response, 500) == "The server failed; its log says how."
    assert caplog.text.count(f"{type(bug).__name__}: a bug") == 1
    assert len(asked) == 1


def test_what_the_fast_lane_finds_wrong_is_said_without_scoring_again(make_client, monkeypatch):
    client = make_client()
    monkeypatch.delitem(client.application.view_functions, "pages.predict")
    data = orjson.dumps(GOOD | {"price": None})
    response = post_to_gateway(client.application, "/predict", data)
    assert "row 0, column price" in error(response, 400)


def test_an_application_without_the_fast_lane_answers_through_flask(make_client, monkeypatch):
    client = make_client(fastlane=False)
    data = orjson.dumps(GOOD)
    assert post_to_gateway(client.application, "/predict", data).status_code == 200
    monkeypatch.delitem(client.application.view_functions, "pages.predict")
    # There is no view any more.
    assert post_to_gateway(client.application, "/predict", data).status_code == 500


# What operators ask


def test_the_model_is_described(client):
    found = client.get("/model").json
    assert (found["name"], found["version"], found["source"]) == (
        "crypto-liquidity",
        "3",
        "registry",
    )
    assert found["metrics"] == {"test_r2": 0.97}
    assert "24h_volume / mkt_cap" in found["target"]
    assert not {"folder", "source_uri"} & set(found)


def test_health_and_version_answer_as_mlflows_server_does(client):
    import mlflow

    assert client.get("/ping").status_code == client.get("/health").status_code == 200
    assert client.get("/version").text == mlflow.__version__


def test_the_metrics_count_requests_rows_and_levels(client):
    high = GOOD | {"24h_volume": 1e18}
    assert client.post("/predict", json=high).json["level"] == "High"
    client.post("/invocations", json={"instances": [GOOD, high]})
    client.post("/predict", json=GOOD)
    client.post("/predict", json={})
    client.get("/nothing")
    client.get("/another")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics_of(client))
        for sample in family.samples
    }
    assert samples["liquidity_requests_total", "/predict", "200"] == 2
    assert samples["liquidity_requests_total", "/predict", "400"] == 1
    assert samples["liquidity_requests_total", "none", "404"] == 2
    assert samples["liquidity_request_seconds_count", "/invocations"] == 1
    assert samples[("liquidity_rows_scored_total",)] == 4
    assert samples[("liquidity_rows_high_total",)] == 2
    assert samples[("liquidity_rows_out_of_range_total",)] == 2


def test_a_file_is_counted_and_logged_as_rows_at_any_other_door(make_client, tmp_path, inner):
    client = make_client(PREDICTION_LOG=str(tmp_path / "log"))
    coins = [GOOD, GOOD | {"mkt_cap": 1e-3}, GOOD | {"price": 1e17}]
    client.post("/invocations", json={"instances": coins})
    client.post(
        "/batch", data=csv_of([*map(dict.values, coins), ["x"] * 4]), content_type="text/csv"
    )
    metrics = metrics_of(client)
    scores = inner.answer(np.array([[*coin.values()] for coin in coins]))
    high, outside = (scores["level"] == "High").sum(), (~scores["in_range"]).sum()
    assert outside == 2
    assert "liquidity_rows_scored_total 6.0" in metrics
    assert f"liquidity_rows_high_total {2.0 * high}" in metrics
    assert f"liquidity_rows_out_of_range_total {2.0 * outside}" in metrics
    close_app(client.application)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    for line in lines:
        del line["time"], line["request_id"]
    assert lines[:3] == lines[3:]


def test_a_large_file_of_a_form_needs_no_disk(client, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="coins.csv"\r\n\r\n'
    data = head + csv_of([ROW] * 40_000) + b"\r\n--b--\r\n"
    response = client.post("/batch", data=data, content_type="multipart/form-data; boundary=b")
    assert response.status_code == 200
    assert response.headers["X-Rows"] == "40000"


def test_the_prediction_log_holds_inputs_scores_and_who_gave_them(make_client, tmp_path, inner):
    path = tmp_path / "logs" / "predictions.jsonl"
    client = make_client(PREDICTION_LOG=str(path))
    client.post("/predict", json=GOOD, headers={"X-Request-ID": "one"})
    client.post("/invocations", json={"instances": [GOOD, GOOD]})
    client.post("/batch", data=csv_of([ROW, ["x", 1, 1, 1]]), content_type="text/csv")
    close_app(client.application)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 4
    expected = GOOD | inner.answer_row(ROW) | {"request_id": "one", "version": "3"}
    assert {key: lines[0][key] for key in expected} == expected
    assert lines[0]["time"].startswith("20")
