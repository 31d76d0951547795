"""The OpenAPI document is what the doors do."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest
from support import GOOD

from liquidity.contract import FORECAST_FEATURES, RATIO
from serve.facts import facts
from serve.inputs import FORMS, JSON
from serve.openapi import document

DOCUMENT = document(facts())
# As the metadata of a forecast have it.
FORECAST = document(facts() | {"features": FORECAST_FEATURES, "horizon": 7})


def validator(name, document=DOCUMENT):
    """A validator of one of the document's components."""
    return jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", **document})


@pytest.mark.parametrize("examples", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_schemathesis_finds_no_difference_at_a_real_server(start_serve, examples):
    """All of its checks, over every door: what the document allows is answered as it says, what
    it forbids is refused, nothing is a 500.
    """
    server = start_serve()
    program = Path(sys.executable).with_name("schemathesis")
    options = ["--checks", "all", "--max-examples", str(examples), "--no-color", "--seed", "1"]
    found = subprocess.run(
        [program, "run", f"{server.url}/openapi.json", *options],
        capture_output=True, text=True, timeout=300, cwd=server.log.parent,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout
    (doors,) = re.findall(r"Operations: +(\d+) selected / \1 total", found.stdout)
    assert f"Tested: {doors}\n" in found.stdout
    assert "Traceback" not in server.log.read_text()


def test_its_numbers_and_target_are_those_of_the_served_model(inner):
    learned = {
        "threshold": 0.25, "interval": {"coverage": 0.8}, "largest": 1e12,
        "rules": {name: [2, True] for name in inner.features},
        "target": "column liquidity of the files, not the ratio", "target_is_ratio": False,
    }  # fmt: skip
    text = json.dumps(document(facts() | learned))
    assert text.count("80 % interval") == 4
    assert "90 %" not in text
    assert RATIO not in text
    assert learned["target"] in text
    schemas = json.loads(text)["components"]["schemas"]
    threshold = schemas["CoinWithThreshold"]["properties"]["threshold"]
    assert threshold["description"].endswith("by default 0.25")
    assert threshold["maximum"] == -threshold["minimum"] == 1e12
    (number,) = schemas["Coin"]["properties"]["price"]["anyOf"]  # of texts for it nothing is known
    assert number == {"type": "number", "maximum": 1e12, "minimum": 2}


def test_every_door_is_described(app):
    doors = {
        (rule.rule.replace("<path:coin>", "{coin}"), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.endpoint != "static"
        for method in rule.methods & {"GET", "POST"}
    }
    assert doors == {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/predict", JSON),
        ("/invocations", JSON),
        ("/invocations", "text/csv"),
        ("/batch", "text/csv"),
    ],
)
def test_the_documents_examples_work(app, path, kind):
    client = app.test_client()
    document = client.get("/openapi.json").json  # with the served model's own examples
    for each in (DOCUMENT, document):
        body = each["paths"][path]["post"]["requestBody"]["content"][kind]["example"]
        data = body if isinstance(body, str) else json.dumps(body)
        assert client.post(path, data=data, content_type=kind).status_code == 200


@pytest.mark.parametrize("document", [DOCUMENT, FORECAST], ids=["same day", "forecast"])
def test_generators_of_clients_find_what_they_need(document):
    operations = [each for item in document["paths"].values() for each in item.values()]
    names = [each["operationId"] for each in operations]
    assert len({*names}) == len(names)
    assert all(name.isidentifier() for name in names)
    tags = {tag["name"] for tag in document["tags"]}
    assert all({*each["tags"]} <= tags and each["tags"] for each in operations)
    for each in operations:
        kinds = {*each.get("requestBody", {}).get("content", {})}
        # A class for each of several bodies is more than openapi-python-client can import.
        assert len(kinds & {JSON, *FORMS, "application/octet-stream"}) == (1 if kinds else 0)
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
    text = json.dumps(document)
    assert '"const": [' not in text
    names = {*re.findall(r'"#/components/schemas/(\w+)"', text)}
    assert names <= document["components"]["schemas"].keys()


def test_its_server_is_the_one_that_was_asked(app):
    (server,) = app.test_client().get("/openapi.json").json["servers"]
    assert server["url"] == "http://localhost"


TEXTS = {
    "24h_volume": (["10000000", "0.01", "0", "0.0", "1e7", "2.5E-3", "9" * 18], ["-1", "", "x"]),
    "mkt_cap": (["1800000000000", "0.01", "1e8", "91234.5"], ["0", "0.00", "-1", "1e99"]),
    "1h": (["-0.03", "0.01", "-1", "-0", "12", "-1.00"], ["-1.1", "-12", "3 %"]),
    "price": (["0.00000615", "0", "1.09", "1e-9"], ["-0.5", "$1", "inf", "nan"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_its_pattern_of_a_number_in_a_text_takes_what_the_door_takes(app, name):
    client, coin = app.test_client(), validator("Coin")
    good, bad = TEXTS[name]
    for text in [*good, *bad]:
        row = GOOD | {name: text}
        assert coin.is_valid(row) == (text in good), text
        assert client.post("/predict", json=row).status_code == (200 if text in good else 400), text


def test_its_days_are_days_of_the_calendar():
    day = validator("Day")
    row = dict.fromkeys(FORECAST_FEATURES, 1)
    for date in ("2026-01-31", "2026-02-28", "2024-02-29", "2026-12-30", "2099-11-30"):
        assert day.is_valid(row | {"date": date}), date
    for date in ("2026-02-29", "2026-04-31", "2026-13-01", "2026-1-1", "26-01-01", "2026-00-10"):
        assert not day.is_valid(row | {"date": date}), date


def test_its_bounds_of_the_threshold_are_the_models(app):
    coin = validator("CoinWithThreshold")
    for threshold, known in (
        (0.5, True),
        (-1e18, True),
        (None, True),
        (1.1e18, False),
        ("1", False),
    ):
        row = GOOD | {"threshold": threshold}
        assert coin.is_valid(row) is known
        assert app.test_client().post("/predict", json=row).status_code == (200 if known else 400)


def test_a_forecast_as_the_model_has_its_columns_and_scores():
    coin, scores = validator("Coin", FORECAST), validator("Scores", FORECAST)
    row = {"24h_volume": 1, "mkt_cap": 2, "price": 3}
    assert coin.is_valid(row)
    assert coin.is_valid(row | {"coin": "x", "date": "2026-01-31"})
    assert not coin.is_valid(row | {"coin": 3})
    assert not coin.is_valid(row | {"date": "tomorrow"})
    assert {"p_high", "days_used"} <= {*FORECAST["components"]["schemas"]["Scores"]["required"]}
    assert not scores.is_valid({"liquidity": 0.1})
