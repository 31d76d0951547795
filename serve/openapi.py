"""What the doors take and answer, as an OpenAPI 3.1 document.

Where JSON Schema cannot say all that is taken (lists of equal length, any number in a string), the
schema says less and the description the rest.
"""

from liquidity.contract import (
    DATE,
    FORECAST_FEATURES,
    HIGH,
    INPUTS,
    LARGEST,
    LOW,
    MODEL_NAME,
    RATIO,
    percent,
)
from serve import limits
from serve.inputs import CSV, EXAMPLE, FORMS, JSON, MULTIPART, PARQUET

# Plain decimals above 0, which obey the rule of every column; any other notation is taken too.
POSITIVE = r"^[0-9]{0,12}[1-9](\.[0-9]{1,6})?$"
CELL = r"[1-9][0-9]{0,8}(\.[0-9]{1,3})?"
TEXT = {"type": "string"}
OPTIONAL_TEXT = {"type": ["string", "null"]}
PAGE = {"text/html": {"schema": TEXT}}
LEVEL = {"enum": [HIGH, LOW]}
NAMED = {"name": TEXT, "version": TEXT}
ERRORS = {
    400: "The request breaks a rule; the message names row, column, rule and value",
    401: "A key is set on the server and the request has another or none",
    404: "A coin by its name alone, where the server has no folder of snapshots",
    408: "The body did not arrive in time",
    413: f"More than {limits.BODY}, {limits.ROWS}, {limits.FIELDS} of a form or "
    f"{limits.FORM_TEXT} of its text",
    415: "A Content-Type that this door does not take, or none",
    503: "No model is loaded yet",
}


def document(facts, *, forecasts=True):
    """The document of a server whose model these are the facts of (serve.facts), with the address
    of forecasts where some are loaded.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": MODEL_NAME,
            "version": "1",
            "description": "Liquidity scores of coins by the champion in an MLflow registry, which "
            f"has learned: {facts['target']}. Every answer carries X-Request-ID, the request's own "
            "where it sends one.",
        },
        "security": [{}, {"bearer": []}, {"basic": []}],
        "paths": _paths(facts) | (_forecast_path() if forecasts else {}),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
            "schemas": _schemas(facts),
            "responses": {
                str(status): {"description": text, "content": _json(_ref("Error")) | PAGE}
                for status, text in ERRORS.items()
            },
        },
    }


def _schemas(facts):
    fields, scores = _fields(facts), _scores(facts)
    threshold = {
        "type": ["number", "null"],
        "default": facts["threshold"],
        "description": f"Liquidity above it is {HIGH}; null is the model's own threshold",
    }
    return {
        "Coin": _object(fields),
        "CoinWithThreshold": _object(fields | {"threshold": threshold}, list(fields)),
        "Payload": _payload(fields, threshold),
        "Scores": _object(scores),
        "ScoresAndModel": _object(scores | {"model": _object(NAMED)}),
        "Days": _object(
            {"coin": OPTIONAL_TEXT, "rows": {"type": "array", "items": _day(), "minItems": 1}},
            ["rows"],
        ),
        "Forecasts": _object(
            {
                "coin": OPTIONAL_TEXT,
                "date": TEXT,
                "days_used": {"type": "integer"},
                "forecasts": {"type": "array", "items": _ref("Forecast")},
            }
        ),
        "Forecast": _object(
            {
                "horizon": {"type": "integer", "description": "Days after the newest of the rows"},
                "date": {**TEXT, "description": "The day that the forecast is for"},
                **_range(),
                "p_high": {"type": "number", "description": f"Probability that it is {HIGH}"},
                "model": _object(NAMED),
            }
        ),
        "Error": _object({"error_code": TEXT, "message": TEXT}),
        "Model": _object(
            NAMED
            | {
                "alias": OPTIONAL_TEXT,
                "run_id": OPTIONAL_TEXT,
                "registered": TEXT,
                "metrics": {"type": "object"},
                "source": {"enum": ["registry", "cache"]},
                "target": TEXT,
                "target_is_ratio": {"type": "boolean"},
                "threshold": {"type": "number"},
            }
        ),
    }


def _fields(facts):
    """Each input of a coin: a number that obeys its rule, or a text that holds one."""
    fields = {}
    for name in facts["features"]:
        lowest, included = facts["rules"][name]
        limit = {"minimum" if included else "exclusiveMinimum": lowest}
        number = {"type": "number", "maximum": facts["largest"], **limit}
        column = INPUTS[name]
        fields[name] = {
            "anyOf": [number, {"type": "string", "pattern": POSITIVE}],
            "description": f"{column.label} in {column.unit}: {column.hint}",
        }
    return fields


def _range():
    """A forecast, whose model has a coverage of its own."""
    number = {"type": "number"}
    return {
        "liquidity": {**number, "minimum": 0, "description": "The median forecast"},
        "level": LEVEL,
        "lower": {**number, "minimum": 0, "description": "Lower end of its range"},
        "upper": {**number, "description": "Upper end of its range"},
        "in_range": {"type": "boolean", "description": "Whether the model has seen such values"},
    }


def _day():
    """A coin's day: what a forecast learns from."""
    numbers = {
        name: {
            "type": "number",
            "minimum" if INPUTS[name].rule.included else "exclusiveMinimum": INPUTS[
                name
            ].rule.lowest,
            "maximum": LARGEST,
        }
        for name in FORECAST_FEATURES
    }
    date = {"type": "string", "format": "date", "pattern": r"^20[1-9][0-9]-0[1-9]-[01][1-9]$"}
    return _object({DATE: date, **numbers})


def _day_example():
    return {name: float(EXAMPLE[name]) for name in FORECAST_FEATURES}


def _scores(facts):
    learned = RATIO if facts["target_is_ratio"] else facts["target"]
    share = percent(facts["interval"]["coverage"])
    number = {"type": "number"}
    return {
        "liquidity": {**number, "minimum": 0, "description": f"{learned}, estimated"},
        "level": LEVEL,
        "lower": {**number, "minimum": 0, "description": f"Lower end of the {share} interval"},
        "upper": {**number, "description": f"Upper end of the {share} interval"},
        "in_range": {"type": "boolean", "description": "Whether the model has seen such values"},
    }


def _payload(fields, threshold):
    """The four forms of MLflow's protocol."""
    rows = {"type": "array", "items": _ref("Coin"), "minItems": 1, "maxItems": limits.MAX_ROWS}
    one = {"type": "array", "minItems": 1, "maxItems": 1}
    columns = _object(
        {name: {"anyOf": [field, {**one, "items": field}]} for name, field in fields.items()},
        description="One row; longer lists are taken too, all of one length",
    )
    row = {"prefixItems": [*fields.values()], "minItems": len(fields), "maxItems": len(fields)}
    split = _object(
        {
            "columns": {"const": list(fields)},
            "data": {"type": "array", "items": {"type": "array", **row}, "minItems": 1},
        },
        description="Columns may be in any order, with others among them",
    )
    params = {"params": _object({"threshold": threshold}, []) | {"type": ["object", "null"]}}
    forms = {
        "dataframe_records": rows,
        "dataframe_split": split,
        "instances": rows,
        "inputs": {"oneOf": [columns, rows]},
    }
    return {"oneOf": [_object({key: form, **params}, [key]) for key, form in forms.items()]}


def _paths(facts):
    example = {name: float(EXAMPLE[name]) for name in facts["features"]}
    form = {"schema": _object({name: {**TEXT, "pattern": POSITIVE} for name in facts["features"]})}
    table = _table(facts["features"])
    health = _get("Whether a model is loaded", _json(_object({"status": {"const": "ok"}})), 503)
    health["get"]["security"] = []
    return {
        "/": _get("The page", PAGE, 401, 503),
        "/predict": _post(
            "Score one coin",
            _json(_ref("CoinWithThreshold"), example=example) | dict.fromkeys(FORMS, form),
            _json(_ref("ScoresAndModel")) | PAGE,
        ),
        "/invocations": _post(
            f"MLflow's scoring protocol; Parquet ({PARQUET}) is taken too",
            _json(_ref("Payload"), example={"dataframe_records": [example]}) | {CSV: table},
            _json(_object({"predictions": {"type": "array", "items": _ref("Scores")}})),
        ),
        "/batch": _post(
            "Score a CSV file: every row comes back in its order, with its scores or its error; to "
            "a form with an apostrophe before text that a spreadsheet would take for a formula",
            {MULTIPART: {"schema": _object({"file": table["schema"]})}, CSV: table},
            {CSV: {"schema": TEXT}},
        ),
        "/ping": health,
        "/health": health,
        "/version": _get("MLflow's version", {"text/plain": {"schema": TEXT}}, 401),
        "/model": _get("The served model and where it came from", _json(_ref("Model")), 401, 503),
        "/metrics": _get("Prometheus", {"text/plain": {"schema": TEXT}}, 401),
        "/openapi.json": _get("This document", _json({"type": "object"}), 401),
    }


def _forecast_path():
    return {
        "/forecast": _post(
            "Forecast one coin's liquidity after the newest of its days, at every horizon that has "
            "a champion",
            _json(_ref("Days"), example={"rows": [{DATE: "2026-01-31", **_day_example()}]}),
            _json(_ref("Forecasts")),
            404,
        ),
    }


def _table(features):
    """A CSV body with these columns."""
    header, row = ",".join(features), ",".join(CELL for _ in features)
    example = ",".join(f"{float(EXAMPLE[name]):.10g}" for name in features)
    return {
        "schema": {"type": "string", "pattern": rf"^{header}\n({row}\n){{1,5}}$"},
        "example": f"{header}\n{example}\n",
    }


def _object(properties, required=None, **rest):
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, **rest}


def _ref(name):
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema, **rest):
    return {JSON: {"schema": schema, **rest}}


def _answers(description, content, *errors):
    """Responses of a door: 200 and the errors that it knows."""
    return {"200": {"description": description, "content": content}} | {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in errors
    }


def _get(summary, content, *errors):
    return {"get": {"summary": summary, "responses": _answers(summary, content, *errors)}}


def _post(summary, body, content, *errors):
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": body},
            "responses": _answers(summary, content, 400, 401, 408, 413, 415, 503, *errors),
        }
    }
