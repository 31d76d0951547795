"""The OpenAPI document is what the doors do."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from liquidity.contract import RATIO
from serve.facts import facts
from serve.openapi import document

DOCUMENT = document(facts())


def test_schemathesis_finds_no_difference_at_a_real_server(start_serve):
    """All of its checks, over every door: what the document allows is answered as it says, what
    it forbids is refused, nothing is a 500.
    """
    server = start_serve()
    program = Path(sys.executable).with_name("schemathesis")
    options = ["--checks", "all", "--max-examples", "50", "--no-color", "--seed", "1"]
    found = subprocess.run(
        [program, "run", f"{server.url}/openapi.json", *options],
        capture_output=True, text=True, timeout=120, cwd=server.log.parent,
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
    assert schemas["CoinWithThreshold"]["properties"]["threshold"]["default"] == 0.25
    number = schemas["Coin"]["properties"]["price"]["anyOf"][0]
    assert number == {"type": "number", "maximum": 1e12, "minimum": 2}


def test_every_door_is_described(app):
    doors = {
        (rule.rule, method.lower())
        for rule in app.url_map.iter_rules()
        if rule.endpoint != "static"
        for method in rule.methods & {"GET", "POST"}
    }
    assert doors == {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}


@pytest.mark.parametrize("path", ["/predict", "/invocations"])
def test_the_documents_examples_work(app, path):
    content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]
    body = content["application/json"]["example"]
    assert app.test_client().post(path, json=body).status_code == 200
