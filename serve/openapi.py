"""What the doors take and answer, as an OpenAPI 3.1 document.

Where JSON Schema cannot say all that is taken (lists of equal length, any number in a string), the
schema says less and the description the rest.
"""

LARGEST = 1e18
# Plain decimals; any other notation of a number is taken too.
POSITIVE = r"^[0-9]{0,12}[1-9](\.[0-9]{1,6})?$"
CSV_PATTERN = (
    r"^24h_volume,mkt_cap,1h,price\n"
    r"([0-9]{1,9},[1-9][0-9]{0,9},0\.[0-9]{1,3},[0-9]{1,5}\.[0-9]{1,3}\n){1,5}$"
)
EXAMPLE = {"24h_volume": 1e7, "mkt_cap": 1e8, "1h": 0.01, "price": 1.0}
CSV_EXAMPLE = "24h_volume,mkt_cap,1h,price\n10000000,100000000,0.01,1.0\n"


def _number(text_pattern=POSITIVE, **limits):
    number = {"type": "number", "maximum": LARGEST, **limits}
    return {"anyOf": [number, {"type": "string", "pattern": text_pattern}]}


FIELDS = {
    "24h_volume": _number(minimum=0) | {"description": "USD traded in the last 24 hours"},
    "mkt_cap": _number(exclusiveMinimum=0) | {"description": "Market capitalisation in USD"},
    "1h": _number(minimum=-1) | {"description": "Change of the price in an hour, a fraction"},
    "price": _number(minimum=0) | {"description": "USD for one coin"},
}
THRESHOLD = {
    "type": ["number", "null"],
    "default": 0.5,
    "description": "Liquidity above it is High; null is the model's own threshold",
}
SCORES = {
    "liquidity": {"type": "number", "minimum": 0, "description": "24h_volume / mkt_cap, estimated"},
    "level": {"enum": ["High", "Low"]},
    "lower": {"type": "number", "minimum": 0, "description": "Lower end of the 90 % interval"},
    "upper": {"type": "number", "description": "Upper end of the 90 % interval"},
    "in_range": {"type": "boolean", "description": "Whether the model has seen such values"},
}
MODEL = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "version": {"type": "string"}},
    "required": ["name", "version"],
}


def _object(properties, required=None, **rest):
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, **rest}


def _ref(name):
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema, **rest):
    return {"application/json": {"schema": schema, **rest}}


def _answers(description, content, *errors):
    """Responses of a door: 200 and the errors that it knows."""
    return {"200": {"description": description, "content": content}} | {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in errors
    }


ERRORS = {
    400: "The request breaks a rule; the message names row, column, rule and value",
    401: "A key is set on the server and the request has another or none",
    408: "The body did not arrive in time",
    413: "More than 16 MiB, 100,000 rows, 1,000 fields of a form or 500 kB of its text",
    415: "A Content-Type that this door does not take, or none",
    503: "No model is loaded yet",
}
PAGE = {"text/html": {"schema": {"type": "string"}}}
CSV_BODY = {"schema": {"type": "string", "pattern": CSV_PATTERN}, "example": CSV_EXAMPLE}
FORM = {"schema": _object({name: {"type": "string", "pattern": POSITIVE} for name in FIELDS})}
ROWS = {"type": "array", "items": _ref("Coin"), "minItems": 1, "maxItems": 100_000}
COLUMNS = _object(
    {
        name: {"anyOf": [field, {"type": "array", "items": field, "minItems": 1, "maxItems": 1}]}
        for name, field in FIELDS.items()
    },
    description="One row; longer lists are taken too, all of one length",
)
SPLIT = _object(
    {
        "columns": {"const": list(FIELDS)},
        "data": {
            "type": "array",
            "items": {
                "type": "array",
                "prefixItems": list(FIELDS.values()),
                "minItems": 4,
                "maxItems": 4,
            },
            "minItems": 1,
        },
    },
    description="Columns may stand in any order and others beside them",
)
PARAMS = {"params": _object({"threshold": THRESHOLD}, []) | {"type": ["object", "null"]}}
PAYLOAD = {
    "oneOf": [
        _object({"dataframe_records": ROWS, **PARAMS}, ["dataframe_records"]),
        _object({"dataframe_split": SPLIT, **PARAMS}, ["dataframe_split"]),
        _object({"instances": ROWS, **PARAMS}, ["instances"]),
        _object({"inputs": COLUMNS, **PARAMS}, ["inputs"]),
    ]
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


HEALTH = _get("Whether a model is loaded", _json(_object({"status": {"const": "ok"}})), 503)
HEALTH["get"]["security"] = []
DOCUMENT = {
    "openapi": "3.1.0",
    "info": {
        "title": "crypto-liquidity",
        "version": "1",
        "description": "Liquidity scores of coins by the champion in an MLflow registry. "
        "Every answer carries X-Request-ID, the request's own where it sends one.",
    },
    "security": [{}, {"bearer": []}, {"basic": []}],
    "paths": {
        "/": _get("The page", PAGE, 401, 503),
        "/predict": _post(
            "Score one coin",
            _json(_ref("CoinWithThreshold"), example=EXAMPLE)
            | {"application/x-www-form-urlencoded": FORM, "multipart/form-data": FORM},
            _json(_object(SCORES | {"model": MODEL})) | PAGE,
        ),
        "/invocations": _post(
            "MLflow's scoring protocol; Parquet (application/vnd.apache.parquet) is taken too",
            _json(PAYLOAD, example={"dataframe_records": [EXAMPLE]}) | {"text/csv": CSV_BODY},
            _json(_object({"predictions": {"type": "array", "items": _ref("Scores")}})),
        ),
        "/batch": _post(
            "Score a CSV file: every row comes back in its order, with its scores or its error; to "
            "a form with an apostrophe before text that a spreadsheet would take for a formula",
            {
                "multipart/form-data": {"schema": _object({"file": CSV_BODY["schema"]})},
                "text/csv": CSV_BODY,
            },
            {"text/csv": {"schema": {"type": "string"}}},
        ),
        "/ping": HEALTH,
        "/health": HEALTH,
        "/version": _get("MLflow's version", {"text/plain": {"schema": {"type": "string"}}}, 401),
        "/model": _get("The served model and where it came from", _json(_ref("Model")), 401, 503),
        "/metrics": _get("Prometheus", {"text/plain": {"schema": {"type": "string"}}}, 401),
        "/openapi.json": _get("This document", _json({"type": "object"}), 401),
    },
    "components": {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "basic": {"type": "http", "scheme": "basic"},
        },
        "schemas": {
            "Coin": _object(FIELDS),
            "CoinWithThreshold": _object(FIELDS | {"threshold": THRESHOLD}, list(FIELDS)),
            "Scores": _object(SCORES),
            "Error": _object({"error_code": {"type": "string"}, "message": {"type": "string"}}),
            "Model": _object(
                MODEL["properties"]
                | {
                    "alias": {"type": ["string", "null"]},
                    "run_id": {"type": ["string", "null"]},
                    "registered": {"type": "string"},
                    "metrics": {"type": "object"},
                    "source": {"enum": ["registry", "cache"]},
                    "target": {"type": "string"},
                }
            ),
        },
        "responses": {
            str(status): {"description": text, "content": _json(_ref("Error")) | PAGE}
            for status, text in ERRORS.items()
        },
    },
}
