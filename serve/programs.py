"""The page behind "For programs": commands that run as they stand, and the rules around them."""

import json

from flask import Blueprint, current_app, render_template

from liquidity.contract import COIN, DATE, INPUTS, Rule
from serve import limits
from serve.answers import score_days, score_record
from serve.api import own_address, served
from serve.champion import NoModel
from serve.facts import facts
from serve.inputs import JSON
from serve.openapi import ERRORS, EXAMPLE_DATES, example_coins, example_csv, example_days

programs = Blueprint("programs", __name__)
# What the commands take the key from, where the server asks for one.
ASKS_FOR_KEY, KEY_VARIABLE = "ASKS_FOR_KEY", "LIQUIDITY_API_KEY"


@programs.get("/programs")
def guide():
    """Commands with this server's address, and the columns and examples of the model it serves."""
    found = _current(served)
    known = facts(found)
    return render_template(
        "programs.html",
        address=own_address(),
        key=KEY_VARIABLE if current_app.config.get(ASKS_FOR_KEY) else None,
        columns=_columns(known),
        limits=limits,
        errors=ERRORS,
        facts=known,
        **_examples(known, found, _current(current_app.extensions["forecasts"].current)),
    )


def _current(ask):
    """What answers this request; None as long as nothing is loaded."""
    try:
        return ask()
    except NoModel:
        return None


def _columns(known):
    """How people are told about each column, and its rule, by name."""
    return {name: (INPUTS[name], Rule(*known["rules"][name])) for name in known["features"]}


def _examples(known, found, forecasts):
    """The bodies that the commands send, as JSON, and what is answered to the first of each kind,
    None where nothing is loaded that answers.
    """
    coins = example_coins(known)
    if known["horizon"]:
        names = ({COIN: name, DATE: EXAMPLE_DATES[-1]} for name in "AB")
        coins = [name | coin for name, coin in zip(names, coins, strict=True)]
    days = example_days(known)
    one, rows = json.dumps(coins[0]), json.dumps({"rows": days})
    return {
        "coin": one,
        "coins": [json.dumps(each) for each in coins],
        "wrong": json.dumps(coins[0] | {known["features"][0]: -1}),
        "csv": example_csv(known),
        "days": [json.dumps(each) for each in days],
        "score": found and _pretty(json.loads(score_record(found, one.encode(), JSON)[2])),
        "forecast": forecasts
        and _pretty(score_days(forecasts, rows.encode(), JSON, current_app.extensions["outlooks"])),
    }


def _pretty(answer):
    return json.dumps(answer, indent=2)
