"""The HTML doors: the form, its result with curves, and a file to be scored."""

import csv
import re
from io import StringIO
from urllib.parse import quote

from flask import Blueprint, Response, abort, current_app, render_template, request, url_for

from liquidity.contract import COIN, FRACTION, INPUTS, RATIO, percent
from liquidity.scoring.blocks import SCORES
from serve import inputs, limits, verdict
from serve.answers import score, score_table
from serve.api import note_scores, predict_json, reader, served
from serve.champion import NoModel
from serve.charts import amount
from serve.facts import facts
from serve.inputs import THRESHOLD_FIELD
from serve.live import told
from serve.pasted import read_row
from serve.records import records

pages = Blueprint("pages", __name__)
pages.add_app_template_filter(amount)
pages.add_app_template_filter(told)
# What every page says of its fields and limits.
CONSTANTS = {
    "fraction": FRACTION,
    "ratio": RATIO,
    "scores": [*SCORES],
    "limits": limits,
    "percent": percent,
    "threshold_field": THRESHOLD_FIELD,
}
PLAIN = re.compile(r"\d+(\.\d*)?")  # a number of which there is nothing to say
ROW, FILL = "row", "fill"  # of the form: a pasted row, and the button that reads it


@pages.get("/")
def index():
    """The form, which the query may fill; where it fills all fields, their result too.

    Who opens an address changes nothing that is counted or logged, unlike who scores.
    """
    found, given = served(), request.args
    if not all(name in given for name in found.model.features):
        return _page(values=given)
    return _scored(found, given, noted=False)


@pages.post("/predict")
def predict():
    """A form gets the page with the result, a JSON object its scores."""
    if request.mimetype not in inputs.FORMS:
        return predict_json()
    if request.mimetype == inputs.URL_ENCODED and request.content_length > limits.FORM_BYTES:
        abort(413)
    found = served()
    return (_filled if FILL in request.form else _scored)(found, request.form)


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


def error_page(message):
    """The page with a message above its form."""
    return _page(message=message)


def _filled(found, form):
    """The page with its fields filled from a pasted row, scored where that tells all of them."""
    row = read_row(form.get(ROW, ""), found.model.features)
    if not row and not row.untold:
        return _page(values=form, message=row.note), 400
    values = {name: form.get(name, "") for name in (THRESHOLD_FIELD, ROW)} | row
    if row.untold:
        return _page(values=values, errors=_sentences(row.untold), note=row.note), 400
    return _scored(found, values, note=row.note)


def _scored(found, form, *, noted=True, **context):
    """The page with the result of a form, or with all that is wrong in it; `noted` it counts."""
    model, known = found.model, facts(found)
    columns, threshold, wrong = inputs.parse_form(form, model.features)
    errors = _sentences(wrong) | verdict.problems(known, columns, threshold)
    if errors:
        return _page(values=form, errors=errors, **context), 400
    known = known | ({} if threshold is None else {"threshold": threshold})
    X, scores = score(model, columns, threshold)
    if noted:
        note_scores(found, X, scores)
    result = verdict.verdict(model, known, X, records(scores)[0])
    given = {name: form.get(name, "").strip() for name in (*model.features, THRESHOLD_FIELD)}
    result["address"] = url_for(
        "pages.index", **{name: given[name] for name in given if given[name]}
    )
    for name, text in given.items():
        if PLAIN.fullmatch(text) and name in columns and INPUTS[name].unit != FRACTION:
            result["readings"][name] = ""
    return _page(values=form, result=result, **context)


def _sentences(clauses):
    """What is wrong with fields, by name, with the fields' labels before it."""
    labels = {name: field.label for name, field in INPUTS.items()} | {THRESHOLD_FIELD: "Threshold"}
    return {name: f"{labels[name]}: {clause}" for name, clause in clauses.items()}


def _page(*, values=None, errors=None, **context):
    try:
        found = served()
    except NoModel:
        found = None
    known = facts(found)
    if found:
        context["examples"] = verdict.examples(found.model, known)
        context["template"] = _template(known)
        context["live"] = current_app.extensions["champion"].followed(found).live
    context["market"] = bool(current_app.extensions["market"].folder)
    fields = {name: INPUTS[name] for name in known["features"]}
    return render_template(
        "index.html",
        served=found,
        facts=known,
        fields=fields,
        values=values or {},
        errors=errors or {},
        **CONSTANTS,
        **context,
    )


def _template(known):
    """The address of a small CSV file with the columns that a file has to have."""
    text = StringIO()
    rows = [[each[COIN], *map(_text, each["values"])] for each in known["examples"][:3]]
    csv.writer(text).writerows([[COIN, *known["features"]], *rows])
    return f"data:{inputs.CSV};charset=utf-8,{quote(text.getvalue())}"


@pages.app_template_filter()
def example_url(values, features):
    """The page's address with the values of an example in its form."""
    return url_for("pages.index", **dict(zip(features, map(_text, values), strict=True)))


def _text(value):
    """A float as a person would type it."""
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e15 else repr(value)
