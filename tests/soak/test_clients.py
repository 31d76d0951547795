"""Clients that others' programs generate from the OpenAPI document: they make calls that work.

The programs are fetched, in the versions named here: `make clients` runs this, and nothing else
does.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.clients
PYTHON_CLIENT = "openapi-python-client==0.29.1"
NODE_CLIENT = ["openapi-typescript@7.13.0", "openapi-fetch@0.17.0", "typescript@5.9.3"]
URI = "models:/crypto-liquidity-7d@champion"

IN_PYTHON = """
import sys
from datetime import date

from client import Client
from client.api.operation import health, model
from client.api.scores import batch, invocations, predict
from client.models import BatchFilesBody, Coin, CoinWithThreshold, Error, Inputs, Records

url, header = sys.argv[1:]
values = {"24h_volume": 1e7, "mkt_cap": "100000000", "1h": -0.01, "price": 0.01}
values = {name: values[name] for name in header.split(",")}
client = Client(base_url=url, raise_on_unexpected_status=True)
coin = Coin.from_dict(values)
known = model.sync(client=client)
assert health.sync(client=client).status == "ok"

one = predict.sync(client=client, body=CoinWithThreshold.from_dict(values | {"threshold": 1e-9}))
assert one.level == "High"
assert one.model.version == known.version
for body in (Records(dataframe_records=[coin, coin]), Inputs(inputs=[coin, coin])):
    first, second = invocations.sync(client=client, body=body).predictions
    assert first.liquidity == second.liquidity == one.liquidity
wrong = Records(dataframe_records=[Coin.from_dict(values | {"mkt_cap": -1})])
error = invocations.sync(client=client, body=wrong)
assert isinstance(error, Error)
assert "mkt_cap" in error.message

text = f"{header}\\n{','.join(map(str, values.values()))}\\n"
scored = batch.sync(client=client, body=BatchFilesBody(file=text))
assert repr(one.liquidity) in scored

if known.forecasts:
    from client.api.forecasts import forecast
    from client.models import Day, Days

    days = [Day.from_dict(values | {"date": f"2026-01-{day}"}) for day in (30, 31)]
    answer = forecast.sync(client=client, body=Days(rows=days))
    assert answer.date == date(2026, 1, 31)
    assert [each.horizon for each in answer.forecasts] == [each.horizon for each in known.forecasts]
print(one.liquidity)
"""

IN_TYPESCRIPT = """
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { argv: string[] };

const client = createClient<paths>({ baseUrl: process.argv[2] });
const coin: components["schemas"]["Coin"] = COIN;
const { data: one } = await client.POST("/predict", { body: coin });
const { data: many } = await client.POST("/invocations", {
  body: { dataframe_records: [coin, coin], params: { threshold: 1e-9 } },
});
if (many?.predictions[1].liquidity !== one?.liquidity) throw new Error("not the same score");
if (many?.predictions[0].level !== "High") throw new Error("not that threshold");
const { error } = await client.POST("/predict", { body: { ...coin, mkt_cap: -1 } });
if (!error?.message.includes("mkt_cap")) throw new Error("not that error");
FORECAST
console.log(one?.liquidity);
"""
IN_TYPESCRIPT_FORECAST = """
const days = [{ date: "2026-01-31", "24h_volume": 1e7, mkt_cap: 1e8, price: 0.01 }];
const { data: answer } = await client.POST("/forecast", { body: { rows: days } });
if (answer?.forecasts[0].date !== "2026-02-01") throw new Error("not that day");
"""


@pytest.fixture(params=["same day", "forecast"])
def site(request, start_serve):
    """The address of a server, the columns of its model, and its document."""
    settings = {}
    if request.param == "forecast":
        folder = request.getfixturevalue("forecasts")
        settings = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        settings["LIQUIDITY_MODEL_URI"] = URI
    url = start_serve(**settings).url
    deadline = time.monotonic() + 60
    while settings and len(get_json(f"{url}/model")["forecasts"]) < 2:
        assert time.monotonic() < deadline, "the forecasts were not loaded"
        time.sleep(0.1)
    return url, get_json(f"{url}/model")["features"], get_json(f"{url}/openapi.json")


def get_json(url):
    with urllib.request.urlopen(url) as response:
        return json.load(response)


def run(*command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_openapi_python_client(site, tmp_path):
    url, features, document = site
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "call.py").write_text(IN_PYTHON)
    uv = Path(sys.executable).with_name("uv"), "tool", "run", "--from", PYTHON_CLIENT
    options = ["--path", "openapi.json", "--output-path", "client", "--meta", "none"]
    said = run(*uv, "openapi-python-client", "generate", *options, folder=tmp_path)
    # CSV as a whole body is all that it leaves out; there is a form for it, and JSON.
    left_out = re.findall(r"^(?:Unsupported|Invalid|ERROR|Missing).*", said, re.MULTILINE)
    assert set(left_out) <= {"Unsupported content type text/csv"}, said
    assert float(run(*uv, "python", "call.py", url, ",".join(features), folder=tmp_path)) > 0


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory):
    """The folder of that name with what generates and compiles the TypeScript client."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}")
    run("npm", "install", "--no-save", "--no-audit", "--no-fund", *NODE_CLIENT, folder=folder)
    return folder / "node_modules"


def test_openapi_typescript(site, node_modules, tmp_path):
    url, features, document = site
    values = {"24h_volume": 1e7, "mkt_cap": "100000000", "1h": -0.01, "price": 0.01}
    coin = json.dumps({name: values[name] for name in features})
    forecast = IN_TYPESCRIPT_FORECAST if "/forecast" in document["paths"] else ""
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    code = IN_TYPESCRIPT.replace("COIN", coin).replace("FORECAST", forecast)
    (tmp_path / "call.ts").write_text(code)
    (tmp_path / "node_modules").symlink_to(node_modules)
    run("npx", "openapi-typescript", "openapi.json", "-o", "schema.ts", folder=tmp_path)
    strict = ["--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext"]
    run("npx", "tsc", *strict, "call.ts", folder=tmp_path)
    assert float(run("node", "call.js", url, folder=tmp_path)) > 0


def test_schemathesis(site, tmp_path):
    program = Path(sys.executable).with_name("schemathesis")
    url = f"{site[0]}/openapi.json"
    seed = os.environ.get("LIQUIDITY_SEED", "1")
    options = ["--checks", "all", "--max-examples", "50", "--no-color", "--seed", seed]
    run(program, "run", url, *options, folder=tmp_path)
