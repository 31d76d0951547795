"""The service behind the doors: columns in, scores out. It knows neither Flask nor HTTP.

Scores are columns by name, arrays of shape (rows,); those of a row that went the short way past
NumPy are its plain values.
"""

import numpy as np
import pyarrow.compute as pc

from liquidity.contract import HIGH
from liquidity.scoring.blocks import SCORES, add_scores, find_inputs, parse_inputs
from serve import inputs
from serve.request_log import ID, SCORED


def score(model, columns, threshold=None):
    """X of shape (rows, 4), as it was parsed, and its scores; raises what the rules raise."""
    values = [columns.get(name, ()) for name in model.features]
    if all(len(column) == 1 and type(column[0]) in (float, int) for column in values):
        row = [column[0] for column in values]
        return [row], model.answer_row(row, threshold)
    X = model.parse(columns)
    model.check(X, columns)
    return X, model.answer(X, threshold)


def score_invocation(served, body, content_type):
    """MLflow's protocol: X, its scores, and the answer as it goes out."""
    columns, threshold = inputs.parse_invocation(body, content_type, served.model.features)
    X, scores = score(served.model, columns, threshold)
    return X, scores, {"predictions": records(scores)}


def score_record(served, body, content_type):
    """One coin as a JSON object, likewise; its answer names the model."""
    columns, threshold = inputs.parse_record(body, served.model.features)
    X, scores = score(served.model, columns, threshold)
    return X, scores, records(scores)[0] | {"model": served.reference}


def score_table(served, table):
    """A table of texts: X and scores of the rows that obey the rules, and the table with all rows,
    their scores and their errors. Raises MarketDataError for columns that are missing.
    """
    model = served.model
    positions = find_inputs(table.schema.names, model.features)
    X, _ = parse_inputs(table, positions)
    scored = add_scores(model, table, X, positions)
    good = pc.is_null(scored["error"])
    scores = {n: scored[n].filter(good).to_numpy() for n in SCORES if n != "error"}
    return X[good.to_numpy()], scores, scored


def records(scores):
    """One object per row."""
    if type(scores["level"]) is str:
        return [scores]
    columns = [column.tolist() for column in scores.values()]
    return [
        # Written out, which for thousands of rows takes half of dict(zip(...)).
        {"liquidity": liquidity, "level": level, "lower": lower, "upper": upper, "in_range": inside}
        for liquidity, level, lower, upper, inside in zip(*columns, strict=True)
    ]


def count(scores):
    """How many rows were scored, High ones and those out of range among them."""
    level, in_range = scores["level"], scores["in_range"]
    if type(level) is str:
        return 1, int(level == HIGH), int(not in_range)
    high, inside = np.count_nonzero(level == HIGH), np.count_nonzero(in_range)
    return len(level), int(high), len(level) - int(inside)


def note(environ, served, X, scores, *, log):
    """Leave in the request's environment what is counted, and its rows in the prediction log."""
    environ[SCORED] = count(scores)
    if log:
        log.put(environ[ID], served.info["version"], X, scores)
