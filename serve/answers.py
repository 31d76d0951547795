"""The service behind the doors: columns in, scores out. It knows neither Flask nor HTTP.

Scores are columns by name, arrays of shape (rows,); those of a row that went the short way past
NumPy are its plain values.
"""

from functools import partial

import numpy as np
import orjson

from liquidity.contract import COIN, DATE, HIGH
from liquidity.forecast.newest import forecast_alone, forecast_newest
from serve import inputs
from serve.facts import facts
from serve.records import predictions, records
from serve.request_log import ID, SCORED, VERSION
from serve.tables import Rules, read_rows, write_rows
from serve.unpacking import directly


def score(model, columns, threshold=None):
    """X of shape (rows, inputs), as it was parsed, and its scores; raises what the rules raise."""
    values = [columns.get(name, ()) for name in model.features]
    if all(len(column) == 1 and type(column[0]) in (float, int) for column in values):
        row = [column[0] for column in values]
        if not model.optional:
            return [row], model.answer_row(row, threshold)
        keys = (columns.get(name, [None])[0] for name in (COIN, DATE))
        if answer := forecast_alone(model, row, *keys, threshold):
            return [row], answer
    X = model.parse(columns)
    model.check(X, columns)
    return X, model.answer(X, threshold)


def score_invocation(served, body, content_type, run=directly):
    """MLflow's protocol: X, its scores, and the answer's bytes.

    What reads and writes many rows is called by `run(function, *arguments)`, here or elsewhere.
    """
    model = served.model
    columns, threshold = run(
        inputs.parse_invocation, body, content_type, model.features, model.optional
    )
    X, scores = score(model, columns, threshold)
    return X, scores, run(predictions, scores)


def score_record(served, body, content_type, run=directly):
    """One coin as a JSON object, likewise; its answer names the model."""
    names = (*served.model.features, *served.model.optional)
    columns, threshold = run(inputs.parse_record, body, names)
    X, scores = score(served.model, columns, threshold)
    return X, scores, orjson.dumps(records(scores)[0] | {"model": served.reference})


def score_table(served, body, *, formulas, run=directly):
    """A CSV file: X and scores of the rows that obey the rules, how many rows it has, and the
    file's bytes with all rows, their scores and their errors, without `formulas` none of those.
    Raises MarketDataError for columns that are missing.
    """
    model = served.model
    rules = Rules(model, facts(served))
    X = run(read_rows, body, rules)
    broken = model.broken(X)
    good = ~broken.any(axis=1)
    scores = model.answer(X[good]) if good.any() else {"level": X[:0, 0], "in_range": X[:0, 0]}
    lines = run(partial(write_rows, formulas=formulas), body, rules, X, broken, scores)
    return X[good], scores, len(X), lines


def score_days(served, body, content_type, outlooks, run=directly):
    """What `served`, `{horizon: Served}`, say of the newest of one coin's days; of a coin that is
    only named, what `outlooks` know. Raises NoMarket and UnknownCoin.
    """
    models = {horizon: each.model for horizon, each in served.items()}
    model = next(iter(models.values()))
    names = (*model.features, *model.optional)
    columns, coin = run(inputs.parse_days, body, content_type, names)
    if columns is None:
        return outlooks.current().answer(coin)
    answer = forecast_newest(models, columns)
    for each in answer["forecasts"]:
        each["model"] = served[each["horizon"]].reference
    return {"coin": coin, **answer}


def count(scores):
    """How many rows were scored, High ones and those out of range among them."""
    level, in_range = scores["level"], scores["in_range"]
    if type(level) is str:
        return 1, int(level == HIGH), int(not in_range)
    high, inside = np.count_nonzero(level == HIGH), np.count_nonzero(in_range)
    return len(level), int(high), len(level) - int(inside)


def count_forecasts(answer):
    """Which versions answered, and the same counts."""
    forecasts = answer["forecasts"]
    versions = ",".join(f"{each['horizon']}d:{each['model']['version']}" for each in forecasts)
    high = sum(each["level"] == HIGH for each in forecasts)
    return versions, (len(forecasts), high, sum(not each["in_range"] for each in forecasts))


def log_rows(log, request_id, served, X, scores):
    """Leave the rows of a request to the prediction log."""
    features = served.model.features
    values = X if type(X) is list else X[:, : len(features)]
    log.put(request_id, served.info["version"], features, values, scores)


def note(environ, served, X, scores, *, log):
    """Leave in the request's environment what is counted, and its rows in the prediction log."""
    environ[SCORED] = count(scores)
    if log:
        log_rows(log, environ[ID], served, X, scores)


def note_forecasts(environ, answer):
    """Leave in the request's environment which versions answered, and what is counted."""
    environ[VERSION], environ[SCORED] = count_forecasts(answer)
