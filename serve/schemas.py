"""What the doors take and answer, as JSON Schema: the components of the OpenAPI document.

Where JSON Schema cannot say all that is taken (lists of equal length, columns in another order, any
notation of a number in a text), the schema says less and the description the rest.
"""

import math

from liquidity.contract import (
    COIN,
    DATE,
    FINE,
    FORECAST_FEATURES,
    HIGH,
    INPUTS,
    LARGEST,
    LOW,
    MARKET_CAP,
    PRICE,
    RATIO,
    STALE,
    VOLUME,
    percent,
)
from serve import limits
from serve.live import FIGURES

TEXT, NUMBER, BOOLEAN = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
OPTIONAL_TEXT = {"type": ["string", "null"]}
LIVE_OR_NOT = {"anyOf": [{"$ref": "#/components/schemas/Live"}, {"type": "null"}]}
LEVEL = {**TEXT, "enum": [HIGH, LOW]}
# The days from 2010 to 2099; a time of day is taken too.
YEAR = "20[1-9][0-9]"
DAY = (
    f"({YEAR}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|{YEAR}-(0[13-9]|1[0-2])-(29|30)"
    f"|{YEAR}-(0[13578]|1[02])-31|20([2468][048]|[13579][26])-02-29)"
)


def schemas(facts):
    """The components, by name, of a server whose model these are the facts of (serve.facts)."""
    row, scores = coin_fields(facts), _scores(facts)
    threshold = {
        "type": ["number", "null"],
        "minimum": -facts["largest"],
        "maximum": facts["largest"],
        # Not as `default`, which clients in TypeScript take for a field that has to be sent.
        "description": f"Liquidity above it is {HIGH}; by default {facts['threshold']:g}",
    }
    names = object_of({"name": TEXT, "version": TEXT})
    return {
        "Coin": object_of(row, facts["features"]),
        "CoinWithThreshold": object_of(row | {"threshold": threshold}, facts["features"]),
        **_payloads(facts, row, threshold),
        "Scores": object_of(scores),
        "ScoresAndModel": object_of(scores | {"model": ref("ServedModel")}),
        "Predictions": object_of({"predictions": {"type": "array", "items": ref("Scores")}}),
        "ServedModel": names,
        "Model": _model(names["properties"]),
        "Live": _live(),
        "Health": object_of({"status": {**TEXT, "const": "ok"}}),
        "Error": object_of({"error_code": TEXT, "message": TEXT}),
    }


def forecast_schemas():
    """Those of the address of forecasts, whose models may differ in coverage and threshold."""
    numbers = {name: _number(name, _rule(name), LARGEST) for name in FORECAST_FEATURES}
    date = {**TEXT, "format": "date", "pattern": f"^{DAY}$", "description": "The day in UTC"}
    forecast = {
        "horizon": {"type": "integer", "description": "Days after the newest of the rows"},
        "date": {**TEXT, "format": "date", "description": "The day that the forecast is for"},
        **_range("The median forecast", "range"),
        "p_high": _p_high(),
        "model": ref("ServedModel"),
    }
    days = {"type": "array", "items": ref("Day"), "minItems": 1, "maxItems": limits.MAX_ROWS}
    return {
        "Day": object_of({DATE: date, **numbers}),
        "Days": object_of(
            {
                "coin": {**OPTIONAL_TEXT, "description": "Its name, which the answer repeats"},
                "rows": {**days, "description": "One coin's days, in any order"},
            },
            ["rows"],
        ),
        "Forecast": object_of(forecast),
        "Forecasts": object_of(
            {
                "coin": OPTIONAL_TEXT,
                "date": {**TEXT, "format": "date", "description": "The newest of the days"},
                "days_used": _days_used(),
                "forecasts": {"type": "array", "items": ref("Forecast")},
            }
        ),
    }


def market_schemas():
    """Those of the market's doors."""
    number = {"type": ["number", "null"]}
    date = {**TEXT, "format": "date"}
    day = {
        "date": date,
        "liquidity": {**NUMBER, "description": "The exact ratio of the day"},
        **dict.fromkeys((PRICE, VOLUME, MARKET_CAP), number),
    }
    coin = day | {
        "coin": TEXT,
        "symbol": OPTIONAL_TEXT,
        "level": LEVEL,
        "days_used": _days_used(),
        "days_late": {"type": "integer", "description": "Days behind the market's newest day"},
        "rank": {"type": "integer", "description": "1 for the most liquid"},
        "rank_change": {
            "type": ["integer", "null"],
            "description": "Places gained since the day before",
        },
        "forecasts": {"type": "array", "items": ref("Forecast")},
    }
    sums = {"horizon": {"type": "integer"}, "date": date, "lower": NUMBER, "expected": NUMBER}
    traded = object_of(sums | {"days_needed": number}, [*sums])
    tradeable = {
        "share": {**NUMBER, "description": "Of a day's volume"},
        "today": {**NUMBER, "description": "USD"},
        "forecasts": {"type": "array", "items": traded},
    }
    outlook = coin | {
        "history": {"type": "array", "items": object_of(day)},
        "tradeable": object_of(tradeable | {"position": NUMBER}, [*tradeable]),
        "costs": object_of({"amihud_per_million": number, "high_low_spread": number}),
        "past": {
            "type": "array",
            "items": _past(),
            "description": "How earlier forecasts of these models did, where the ledger knows",
        },
        "models": {"type": "array", "items": object_of({"live": LIVE_OR_NOT})},
    }
    coins = {"type": "array", "items": ref("CoinToday")}
    return {
        "CoinToday": object_of(coin),
        "Coins": object_of({"date": date, "read": TEXT, "coins": coins}),
        "CoinOutlook": object_of(outlook),
    }


def _past():
    integer = {"type": "integer"}
    came = dict.fromkeys(("liquidity", "lower", "upper", "persistence", "actual"), NUMBER)
    forecast = object_of({"date": {**TEXT, "format": "date"}, **came})
    factor = {**NUMBER, "minimum": 1, "description": "Half of the days were closer: 1.3 is 30 %"}
    return object_of(
        {
            "horizon": integer,
            "days": {**integer, "description": "Target days that have come, the last 30 at most"},
            "inside": {**integer, "description": "Days on which the range held the actual value"},
            "typical_factor": factor,
            "persistence_typical_factor": factor,
            "forecasts": {"type": "array", "items": forecast},
        }
    )


def coin_fields(facts):
    """The inputs of a coin: numbers, or texts that hold one; of a forecast name and day too."""
    fields = {
        name: _number(name, facts["rules"][name], facts["largest"]) for name in facts["features"]
    }
    if facts["horizon"]:
        fields[COIN] = {**OPTIONAL_TEXT, "description": "Rows of one name are days of one coin"}
        fields[DATE] = {
            **OPTIONAL_TEXT,
            "pattern": f"^({DAY})?$",
            "description": "The day in UTC, such as 2026-01-31",
        }
    return fields


def text_pattern(rule, largest):
    """A pattern, without its anchors, of texts that hold a number which obeys the rule
    `[lowest, whether it counts]`; None for a rule that no pattern is known of.

    Plain decimals of any size up to `largest`, and short ones with an exponent; any other notation
    is taken too.
    """
    digits = int(math.log10(largest))
    half = min(9, digits // 2)  # so many before the point, and at most so large an exponent
    power = f"([eE][+-]?[0-{half}])?"
    above_zero = (
        rf"[1-9][0-9]{{0,{half - 1}}}(\.[0-9]{{1,9}})?{power}|0\.[0-9]{{0,8}}[1-9]{power}"
        rf"|[1-9][0-9]{{{half},{digits - 1}}}(\.[0-9]{{1,9}})?"
    )
    below = {
        (0, False): "",
        (0, True): r"|0(\.0{1,9})?",
        (-1, True): r"|-?0(\.[0-9]{1,9})?|-1(\.0{1,9})?",
    }
    lowest = below.get(tuple(rule))
    return None if lowest is None else f"({above_zero}{lowest})"


def object_of(properties, required=None, **rest):
    """An object; all of its properties are required unless told otherwise."""
    required = list(properties if required is None else required)
    return {"type": "object", "properties": properties, "required": required, **rest}


def ref(name):
    """A reference to the component of this name."""
    return {"$ref": f"#/components/schemas/{name}"}


def _rule(name):
    rule = INPUTS[name].rule
    return [rule.lowest, rule.included]


def _number(name, rule, largest):
    lowest, included = rule
    limit = {"minimum" if included else "exclusiveMinimum": lowest}
    forms = [{**NUMBER, "maximum": largest, **limit}]
    if pattern := text_pattern(rule, largest):
        forms.append({**TEXT, "pattern": f"^{pattern}$"})
    column = INPUTS[name]
    return {"anyOf": forms, "description": f"{column.label} in {column.unit}: {column.hint}"}


def _scores(facts):
    learned = RATIO if facts["target_is_ratio"] else facts["target"]
    share = percent(facts["interval"]["coverage"])
    scores = _range(f"{learned}, estimated", f"{share} interval")
    if facts["horizon"]:
        scores |= {"p_high": _p_high(), "days_used": _days_used()}
    return scores


def _range(liquidity, interval):
    inside = "Whether the model has seen such values"
    return {
        "liquidity": {**NUMBER, "minimum": 0, "description": liquidity},
        "level": LEVEL,
        "lower": {**NUMBER, "minimum": 0, "description": f"Lower end of the {interval}"},
        "upper": {**NUMBER, "minimum": 0, "description": f"Upper end of the {interval}"},
        "in_range": {**BOOLEAN, "description": inside},
    }


def _p_high():
    text = f"Probability that it is {HIGH}"
    return {**NUMBER, "minimum": 0, "maximum": 1, "description": text}


def _days_used():
    return {"type": "integer", "minimum": 0, "description": "Days of the last 90 that were there"}


def _payloads(facts, row, threshold):
    """The four forms of MLflow's protocol, and Payload, which is one of them."""
    rows = {"type": "array", "items": ref("Coin"), "minItems": 1, "maxItems": limits.MAX_ROWS}
    one = {"type": "array", "minItems": 1, "maxItems": 1}
    columns = object_of(
        {name: {"anyOf": [field, {**one, "items": field}]} for name, field in row.items()},
        facts["features"],
        description="One row; longer lists are taken too, all of one length",
    )
    needed = {name: row[name] for name in facts["features"]}
    split = object_of(
        {
            "columns": _tuple([{**TEXT, "const": name} for name in needed]),
            "data": {
                "type": "array",
                "items": _tuple([*needed.values()]),
                "minItems": 1,
                "maxItems": limits.MAX_ROWS,
            },
        },
        description="Columns may be in any order, with others among them",
    )
    params = object_of({"threshold": threshold}, []) | {"type": ["object", "null"]}
    forms = {
        "Records": object_of({"dataframe_records": rows, "params": params}, ["dataframe_records"]),
        "Split": object_of({"dataframe_split": split, "params": params}, ["dataframe_split"]),
        "Instances": object_of({"instances": rows, "params": params}, ["instances"]),
        "Inputs": object_of(
            {"inputs": {"oneOf": [columns, rows]}, "params": params},
            ["inputs"],
        ),
    }
    return forms | {"Payload": {"oneOf": [ref(name) for name in forms]}}


def _tuple(items):
    return {
        "type": "array",
        "prefixItems": items,
        "minItems": len(items),
        "maxItems": len(items),
    }


def _model(names):
    return object_of(
        names
        | {
            "alias": OPTIONAL_TEXT,
            "run_id": OPTIONAL_TEXT,
            "registered": {**TEXT, "format": "date-time"},
            "metrics": {"type": "object", "additionalProperties": NUMBER},
            "source": {**TEXT, "enum": ["registry", "cache"]},
            "target": TEXT,
            "target_is_ratio": BOOLEAN,
            "threshold": NUMBER,
            "live": LIVE_OR_NOT,
            "forecasts": {
                "type": "array",
                "description": "The forecast champions that are loaded",
                "items": object_of(
                    {"horizon": {"type": "integer"}, **names, "target": TEXT, "live": LIVE_OR_NOT}
                ),
            },
        }
    )


def _live():
    figures = {
        name: {
            "type": "integer" if each.whole else "number",
            "minimum": each.lowest,
            "maximum": each.highest,
            "description": each.said,
        }
        for name, each in FIGURES.items()
    }
    until = {**TEXT, "format": "date", "description": "The last day scored"}
    verdict = {**TEXT, "enum": [FINE, STALE], "description": "Of the last check"}
    return object_of(
        figures | {"until": until, "verdict": verdict, "reason": TEXT},
        [],
        description="How its forecasts of the last days scored turned out; what is not known is "
        "left out",
    )
