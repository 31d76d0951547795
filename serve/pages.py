"""The HTML doors: the form, its result with curves, and a file to be scored."""

from flask import Blueprint, Response, abort, current_app, render_template, request, url_for

from serve import charts, inputs
from serve.api import answer_json, count, records, score, score_record, served
from serve.champion import NoModel

pages = Blueprint("pages", __name__)
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
FIELDS = {
    "24h_volume": ("24 h volume", "USD", "traded in the last 24 hours, such as 8300000"),
    "mkt_cap": ("Market cap", "USD", "all coins at today's price, such as 212000000"),
    "1h": ("1 h change", "fraction", "of the price; 0.022 is 2.2 %"),
    "price": ("Price", "USD", "of one coin, such as 1.09"),
}


@pages.get("/")
def index():
    """The form; the query may fill it."""
    served()
    return _page(values=request.args)


@pages.post("/predict")
def predict():
    """A form gets the page with the result, a JSON object its scores."""
    if request.mimetype not in FORMS:
        inputs.check_content_type(request.content_type, (inputs.JSON, *FORMS))
        return answer_json(score_record)
    if request.mimetype == FORMS[0] and request.content_length > inputs.FORM_BYTES:
        abort(413)
    model = served()
    columns = inputs.parse_form(request.form, model.model.features)
    errors = field_errors(model.model, columns)
    if errors:
        return _page(values=request.form, errors=errors), 400
    return _page(values=request.form, result=_result(model, columns))


def field_errors(model, columns):
    """What is wrong with each field of one row, by name; an empty one is wrong too."""
    wrong = dict(zip(model.features, model.broken(model.parse(columns))[0], strict=True))
    texts = {name: columns[name][0] for name in model.features if wrong[name]}
    return {
        name: model.problem(name, text).removeprefix(f"column {name}: ")
        if text
        else "expected a number, got nothing"
        for name, text in texts.items()
    }


@pages.post("/batch")
def batch():
    """A CSV file in, the same rows with their scores or their errors out.

    Who sends a form opens the answer in a spreadsheet, which must not run what stands in it; who
    sends the file as the body, a program, gets every cell back as it was.
    """
    # Not at the top: reading market data takes half a second to import, and few servers get files.
    from liquidity.errors import MarketDataError
    from liquidity.scoring.blocks import csv_header, csv_lines, score_rows, without_formulas

    rows = inputs.read_csv(inputs.uploaded_csv(request))
    try:
        table = score_rows(Answering(served()), rows)
    except MarketDataError as error:
        raise inputs.InputError(f"{error}.") from None
    if request.mimetype == FORMS[1]:
        table = without_formulas(table)
    headers = {
        "Content-Disposition": 'attachment; filename="scored.csv"',
        "X-Rows": table.num_rows,
        "X-Rows-Refused": table.num_rows - table.column("error").null_count,
    }
    body = csv_header(table.column_names) + csv_lines(table)
    return Response(body, mimetype=inputs.CSV, headers=headers)


class Answering:
    """The served model; what it answers is counted and logged as at every other door."""

    def __init__(self, served):
        self._served = served

    def __getattr__(self, name):
        return getattr(self._served.model, name)

    def answer(self, X, threshold=None):  # noqa: D102
        scores = self._served.model.answer(X, threshold)
        log = current_app.extensions["prediction_log"]
        count(request.environ, self._served, X.tolist(), records(scores), log=log)
        return scores


def error_page(message):
    """The page with a message above its form."""
    return _page(message=message)


def _result(served, columns):
    model = served.model
    X, (scores,) = score(model, columns)
    count(request.environ, served, X, [scores], log=current_app.extensions["prediction_log"])
    (x,) = X
    threshold = model.metadata["threshold"]
    volume, cap = x[:2].tolist()
    ranges = model.metadata["training_ranges"]
    return scores | {
        "threshold": threshold,
        "coverage": model.metadata["interval"]["coverage"],
        "percent": f"{100 * x[2]:.6g} %",
        "ratio": volume / cap,
        "scale": charts.scale(scores["liquidity"], scores["lower"], scores["upper"], threshold),
        "curves": charts.curves(model, x, threshold),
        "outside": [
            name
            for name, value in zip(model.features, x, strict=True)
            if not ranges[name][0] <= value <= ranges[name][1]
        ],
    }


def _page(**context):
    try:
        model = served()
    except NoModel as error:
        model = None
        context.setdefault("message", str(error))
    return render_template(
        "index.html", fields=FIELDS, served=model, example_url=_example_url, **context
    )


def _example_url(coin):
    values = dict(zip(FIELDS, map(_text, coin["values"]), strict=True))
    return url_for("pages.index", **values)


def _text(value):
    """A float as a person would type it."""
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e15 else repr(value)
