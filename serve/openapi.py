"""The doors, what each takes and answers, as an OpenAPI 3.1 document."""

from liquidity.contract import DATE, FORECAST_FEATURES, HIGH, LOW, MODEL_NAME
from serve import limits
from serve.inputs import CSV, EXAMPLE, JSON, MULTIPART, PARQUET
from serve.schemas import (
    TEXT,
    forecast_schemas,
    market_schemas,
    object_of,
    ref,
    schemas,
    text_pattern,
)

PAGE = {"text/html": {"schema": TEXT}}
PLAIN = {"text/plain": {"schema": TEXT}}
ERRORS = {
    400: "The request breaks a rule; the message names row, column, rule and value",
    401: "A key is set on the server and the request has another or none",
    404: "The market has no such coin, or the server no folder of snapshots",
    408: "The body did not arrive in time",
    413: f"More than {limits.BODY}, {limits.ROWS}, {limits.FIELDS} of a form or "
    f"{limits.FORM_TEXT} of its text",
    415: "A Content-Type that this door does not take, or none",
    503: "No model is loaded yet",
}
EXAMPLE_DATES = "2026-01-30", "2026-01-31"
SCORES, FORECASTS, MARKET = "scores", "forecasts", "market"
OPERATION, PAGES = "operation", "pages"
TAGS = {
    SCORES: "One coin, many, or a file of them",
    FORECASTS: "One coin in the days to come",
    MARKET: "The coins of the server's folder of snapshots",
    OPERATION: "What is served, and how it is doing",
    PAGES: "For people",
}


def document(facts, *, forecasts=True, server="/"):
    """The document of a server whose model these are the facts of (serve.facts), with the address
    of forecasts where some are loaded; `server` is its own address.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": MODEL_NAME,
            "version": "1",
            "description": "Liquidity scores of coins by the champion in an MLflow registry, which "
            f"has learned: {facts['target']}. Every answer carries X-Request-ID, the request's own "
            "where it sends one; errors are JSON, a page only for who prefers text/html.",
        },
        "servers": [{"url": server}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "security": [{}, {"bearer": []}, {"basic": []}],
        "paths": _paths(facts) | (_forecast_path(facts) if forecasts else {}),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
            "schemas": schemas(facts) | forecast_schemas() | market_schemas(),
            "responses": {
                str(status): {"description": text, "content": _json(ref("Error"))}
                for status, text in ERRORS.items()
            },
        },
    }


def example_coins(facts):
    """Two coins, with the columns of the served model, from its own examples if it has two."""
    values = [coin["values"] for coin in facts.get("examples", ())[:2]]
    if len(values) < 2:
        values = [[float(EXAMPLE[name]) for name in facts["features"]]] * 2
    return [dict(zip(facts["features"], map(_short, row), strict=True)) for row in values]


def example_days(facts):
    """Two days of the first of them, with the columns of a forecast."""
    coin = {name: _short(float(EXAMPLE[name])) for name in FORECAST_FEATURES}
    coin |= {name: v for name, v in example_coins(facts)[0].items() if name in coin}
    return [{DATE: date, **coin} for date in EXAMPLE_DATES]


def example_csv(facts):
    """The coins as a file."""
    coins = example_coins(facts)
    lines = [list(coins[0]), *([*coin.values()] for coin in coins)]
    return "".join(",".join(map(str, line)) + "\n" for line in lines)


def _short(value):
    return int(value) if value == int(value) and abs(value) < 1e15 else value


def _paths(facts):
    coins, table = example_coins(facts), _table(facts)
    operations = [
        _get("/", "index", PAGES, "The page for people", PAGE, 400, 401, 503),
        _get("/programs", "programs", PAGES, "The page for who writes programs", PAGE, 401),
        _post(
            "/predict",
            "predict",
            SCORES,
            # The form is the page's own, and a generated client with a class for each of several
            # bodies need not be one that runs.
            "Score one coin; the page's form comes here too, and gets the page",
            _json(ref("CoinWithThreshold"), example=coins[0]),
            _json(ref("ScoresAndModel")),
        ),
        _post(
            "/invocations",
            "invocations",
            SCORES,
            f"Score many coins by MLflow's protocol; Parquet ({PARQUET}) is taken too",
            _json(ref("Payload"), example={"dataframe_records": coins}) | {CSV: table},
            _json(ref("Predictions")),
        ),
        _post(
            "/batch",
            "batch",
            SCORES,
            "Score a CSV file, or any other that training reads: every row comes back as CSV in "
            "its order, with its scores or its error; to a form with an apostrophe before text a "
            "spreadsheet would take for a formula",
            {MULTIPART: {"schema": object_of({"file": table["schema"]})}, CSV: table},
            {CSV: {"schema": TEXT}},
        ),
        *_market(),
        *(
            _get(f"/{name}", name, OPERATION, "Whether a model is loaded", HEALTH, 503, open=True)
            for name in ("ping", "health")
        ),
        _get("/version", "version", OPERATION, "MLflow's version", PLAIN, 401),
        _get(
            "/model",
            "model",
            OPERATION,
            "The served model and where it came from",
            _json(ref("Model")),
            401,
            503,
        ),
        _get("/metrics", "metrics", OPERATION, "Figures for Prometheus", PLAIN, 401),
        _get("/openapi.json", "openapi", OPERATION, "This document", ANY, 401),
    ]
    return dict(operations)


def _market():
    """The doors of the folder of snapshots."""
    page = {name: {**TEXT, "maxLength": 40} for name in ("sort", "order", "min_cap")}
    page |= {"q": {**TEXT, "maxLength": 100}, "page": {"type": "integer", "minimum": 1}}
    page |= {"level": {**TEXT, "enum": ["", HIGH, LOW]}, "as": {**TEXT, "enum": [CSV[5:]]}}
    coin = {"name": "coin", "in": "path", "required": True, "schema": TEXT}
    trade = {"share": {**TEXT, "maxLength": 40}, "position": {**TEXT, "maxLength": 40}}
    refused = (401, 404, 503)
    both = PAGE | {CSV: {"schema": TEXT}}
    ranking = _get("/market", "market", MARKET, "The ranking", both, 400, *refused)
    today = _json(ref("Coins"))
    coins = _get(
        "/coins", "coins", MARKET, "Every coin's newest day, and forecasts", today, *refused
    )
    said = "A coin's days, its forecasts and what can be traded"
    known = _json(ref("CoinOutlook")) | PAGE
    one = _get("/coins/{coin}", "coin", MARKET, said, known, 400, *refused)
    ranking[1]["get"]["parameters"] = _query(page)
    one[1]["get"]["parameters"] = [coin, *_query(trade)]
    return ranking, coins, one


def _query(parameters):
    return [{"name": name, "in": "query", "schema": schema} for name, schema in parameters.items()]


def _forecast_path(facts):
    operation = _post(
        "/forecast",
        "forecast",
        FORECASTS,
        "Forecast one coin's liquidity after the newest of its days, at every horizon that has a "
        "champion",
        _json(ref("Days"), example={"rows": example_days(facts)}),
        _json(ref("Forecasts")),
        404,
    )
    return dict([operation])


def _table(facts):
    """A CSV body with the columns of the served model."""
    patterns = [text_pattern(facts["rules"][name], facts["largest"]) for name in facts["features"]]
    header = ",".join(facts["features"])
    lines = rf"^{header}\n({','.join(patterns)}\n){{1,5}}$" if all(patterns) else rf"^{header}\n"
    text = "Columns may be in any order, with others among them"
    return {
        "schema": {**TEXT, "pattern": lines, "description": text},
        "example": example_csv(facts),
    }


def _json(schema, **rest):
    return {JSON: {"schema": schema, **rest}}


HEALTH, ANY = _json(ref("Health")), _json({"type": "object"})


def _get(path, name, tag, summary, content, *errors, open=False):
    return path, {"get": _operation(name, tag, summary, content, errors) | _security(open)}


def _security(open):
    return {"security": []} if open else {}


def _post(path, name, tag, summary, body, content, *errors):
    operation = _operation(name, tag, summary, content, (400, 401, 408, 413, 415, 503, *errors))
    return path, {"post": operation | {"requestBody": {"required": True, "content": body}}}


def _operation(name, tag, summary, content, errors):
    """200 and the errors that the door knows."""
    answers = {"200": {"description": summary, "content": content}} | {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in errors
    }
    return {"operationId": name, "tags": [tag], "summary": summary, "responses": answers}
