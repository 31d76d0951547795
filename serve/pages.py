"""The HTML doors: the form, its result with curves, and a file to be scored."""

import numpy as np
from flask import Blueprint, Response, abort, render_template, request, url_for

from liquidity.contract import FRACTION, INPUTS, MARKET_CAP, RATIO, VOLUME, percent
from liquidity.scoring.blocks import SCORES
from serve import charts, inputs, limits
from serve.answers import score, score_table
from serve.api import note_scores, predict_json, reader, served
from serve.champion import NoModel
from serve.facts import facts
from serve.records import records

pages = Blueprint("pages", __name__)
# What every page says of its fields and limits.
CONSTANTS = {
    "fraction": FRACTION,
    "ratio": RATIO,
    "scores": [*SCORES],
    "limits": limits,
    "percent": percent,
}


@pages.get("/")
def index():
    """The form; the query may fill it."""
    served()
    return _page(values=request.args)


@pages.post("/predict")
def predict():
    """A form gets the page with the result, a JSON object its scores."""
    if request.mimetype not in inputs.FORMS:
        return predict_json()
    if request.mimetype == inputs.URL_ENCODED and request.content_length > limits.FORM_BYTES:
        abort(413)
    found = served()
    columns = inputs.parse_form(request.form, found.model.features)
    if errors := field_errors(found.model, columns):
        return _page(values=request.form, errors=errors), 400
    return _page(values=request.form, result=_result(found, columns))


@pages.post("/batch")
def batch():
    """A CSV file in, the same rows with their scores or their errors out.

    Who sends a form opens the answer in a spreadsheet, which must not run what is in it; who
    sends the file as the body, a program, gets every cell back as it was.
    """
    found, body = served(), inputs.uploaded_file(request)
    formulas = request.mimetype != inputs.MULTIPART
    run = reader(body, inputs.CSV)
    X, scores, rows, lines = score_table(found, body, formulas=formulas, run=run)
    note_scores(found, X, scores)
    headers = {
        "Content-Disposition": 'attachment; filename="scored.csv"',
        "X-Rows": rows,
        "X-Rows-Refused": rows - len(X),
    }
    return Response(lines, mimetype=inputs.CSV, headers=headers)


def field_errors(model, columns):
    """What is wrong with each field of one row, by name; an empty one is wrong too."""
    broken = model.broken(model.parse(columns))[0]
    wrong = dict(zip(model.features, broken[: len(model.features)], strict=True))
    texts = {name: columns[name][0] for name in model.features if wrong[name]}
    return {
        name: model.problem(name, text).removeprefix(f"column {name}: ")
        if text
        else "expected a number, got nothing"
        for name, text in texts.items()
    }


def error_page(message):
    """The page with a message above its form."""
    return _page(message=message)


def _result(served, columns):
    """What the page shows of one row's score."""
    model, known = served.model, facts(served)
    X, scores = score(model, columns)
    note_scores(served, X, scores)
    (scores,) = records(scores)
    row = np.array(X[0][: len(model.features)])
    x = dict(zip(model.features, row.tolist(), strict=True))
    ranges = known["training_ranges"]
    return scores | {
        "percents": {n: f"{100 * x[n]:.6g} %" for n in x if INPUTS[n].unit == FRACTION},
        "ratio": x[VOLUME] / x[MARKET_CAP],
        "scale": charts.scale(
            scores["liquidity"], scores["lower"], scores["upper"], known["threshold"]
        ),
        "curves": charts.curves(model, row, known),
        "outside": [name for name in x if not ranges[name][0] <= x[name] <= ranges[name][1]],
    }


def _page(**context):
    try:
        found = served()
    except NoModel as error:
        found = None
        context.setdefault("message", str(error))
    known = facts(found)
    fields = {name: INPUTS[name] for name in known["features"]}
    return render_template(
        "index.html", served=found, facts=known, fields=fields, **CONSTANTS, **context
    )


@pages.app_template_filter()
def example_url(coin, features):
    """The page's address with the values of an example in its form."""
    values = dict(zip(features, map(_text, coin["values"]), strict=True))
    return url_for("pages.index", **values)


def _text(value):
    """A float as a person would type it."""
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e15 else repr(value)
