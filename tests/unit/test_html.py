"""The pages as they are sent, without a browser."""

import json
import re
from html import unescape
from urllib.parse import unquote

import pytest
from support import COLUMNS, GOOD, HTML, ROW, standing_app

from serve.app import close_app, create_app
from serve.verdict import examples

BITCOIN = {"24h_volume": "$38,123,456,789", "mkt_cap": "1.82T", "1h": "0.2%", "price": "91,234.5"}


def texts_of(page, kind):
    """The texts of the elements of a class, without tags and line breaks."""
    found = re.findall(rf'<(\w+)[^>]* class="[^"]*\b{kind}\b[^>]*>(.*?)</\1>', page, re.DOTALL)
    return [" ".join(unescape(re.sub("<[^>]+>", "", inner)).split()) for _, inner in found]


def errors_of(page):
    return {
        unescape(name): unescape(text)
        for name, text in re.findall(r'class="wrong" id="(.*?)-error">(.*?)</p>', page)
    }


@pytest.fixture
def client(app):
    return app.test_client()


def test_the_exact_ratio_is_the_headline_and_no_interval_is_claimed_for_what_was_never_seen(client):
    page = client.post("/predict", data=BITCOIN).text
    assert texts_of(page, "score") == ["0.0209"]
    assert texts_of(page, "level") == ["Low liquidity"]
    assert "exact" in page
    (estimate,) = texts_of(page, "estimate")
    assert "forest's estimate" in estimate
    assert "interval: " not in page
    assert "90 %" not in page
    assert 'class="interval"' not in page
    assert "24 h volume, Market cap, Price" in texts_of(page, "alert")[0]
    seen = client.post("/predict", data=GOOD).text
    assert texts_of(seen, "score") == ["0.1000"]
    assert "90 % interval: " in texts_of(seen, "estimate")[0]
    assert 'class="interval"' in seen


def test_fields_take_what_a_cell_takes(client, inner):
    plain = {"24h_volume": 38123456789, "mkt_cap": 1.82e12, "1h": 0.002, "price": 91234.5}
    one, two = (client.post("/predict", data=data).text for data in (BITCOIN, plain))
    for kind in ("score", "estimate", "reading"):
        assert texts_of(one, kind) == texts_of(two, kind)
    assert "= 1,820,000,000,000</output>" in one  # as it was read
    assert "= 91,234.5</output>" in one
    assert "0.2 %</output>" in one
    assert ">= " not in two


def test_an_interval_with_the_threshold_in_it_is_called_uncertain(client, inner, monkeypatch):
    scores = inner.answer_row(ROW)
    inside = (scores["liquidity"] + scores["upper"]) / 2
    page = client.post("/predict", data=GOOD | {"threshold": inside}).text
    assert "Low, uncertain. 90 % interval" in texts_of(page, "estimate")[0]
    assert texts_of(page, "level") == ["Low liquidity"]  # the ratio is sure
    assert "uncertain" not in client.post("/predict", data=GOOD).text
    with_other_target = inner.metadata | {"target_is_ratio": False}
    monkeypatch.setattr(inner, "metadata", with_other_target)
    page = client.post("/predict", data=GOOD | {"threshold": inside}).text
    assert texts_of(page, "score") == [f"{scores['liquidity']:.4f}"]
    assert texts_of(page, "level") == ["Low liquidity, uncertain"]


def test_the_threshold_of_the_form_decides_what_is_high(client):
    page = client.post("/predict", data=GOOD | {"threshold": "5%"}).text
    assert texts_of(page, "level") == ["High liquidity"]
    assert "High is above 0.05." in page
    assert "threshold=5%25" in unescape(re.search('id="address" href="(.*?)"', page)[1])
    wrong = client.post("/predict", data=GOOD | {"threshold": "x"})
    assert wrong.status_code == 400
    assert errors_of(wrong.text) == {"threshold": "Threshold: expected a number, got 'x'."}


def test_the_ratio_is_a_line_where_it_depends_on_the_value(client):
    page = client.post("/predict", data=GOOD).text
    figures = re.findall("<figure>.*?</figure>", page, re.DOTALL)
    assert ['class="ratio"' in figure for figure in figures] == [True, True, False, False]
    readings = re.search('data-readings="(.*?)"', figures[0])[1].split("|")
    assert len(readings) == 61
    assert readings[30].startswith("10M: ")
    assert readings[30].endswith("ratio 0.1000")


def test_all_that_is_wrong_is_said_at_once_and_to_people(client):
    page = client.post(
        "/predict", data={"24h_volume": "-2", "mkt_cap": "0", "1h": "-150%", "price": "1e19"}
    )
    assert page.status_code == 400
    assert errors_of(page.text) == {
        "24h_volume": "24 h volume must be at least 0.",
        "mkt_cap": "Market cap must be more than 0.",
        "1h": "1 h change must be at least -1 (-100 %).",
        "price": "Price must be at most 1,000,000,000,000,000,000.",
    }
    page = client.post("/predict", data={"24h_volume": "abc", "mkt_cap": "0", "1h": "0,5"})
    assert errors_of(page.text) == {
        "24h_volume": "24 h volume: expected a number, got 'abc'.",
        "mkt_cap": "Market cap must be more than 0.",
        "1h": "1 h change: expected a number, got '0,5'; the decimal sign is a point.",
        "price": "Price: a number is missing.",
    }


def test_an_address_shows_its_result_and_leaves_no_trace(inner, tmp_path):
    with standing_app(inner, PREDICTION_LOG=str(tmp_path / "log")) as app:
        client = app.test_client()
        posted = client.post("/predict", data=BITCOIN | {"threshold": "0.01"})
        address = unescape(re.search('id="address" href="(.*?)"', posted.text)[1])
        opened = client.get(address)
        assert (opened.status_code, opened.text) == (200, posted.text)
        app.extensions["recorder"].flush()
        assert "liquidity_rows_scored_total 1.0" in client.get("/metrics").text
        close_app(app)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["mkt_cap"] == 1.82e12


def test_an_address_fills_the_form_or_says_what_is_wrong_in_it(client):
    part = client.get("/", query_string={"price": "1.5"})
    assert part.status_code == 200
    assert 'value="1.5"' in part.text
    assert not errors_of(part.text)
    assert not texts_of(part.text, "score")
    wrong = client.get("/", query_string=GOOD | {"price": "x", "mkt_cap": ""})
    assert wrong.status_code == 400
    assert set(errors_of(wrong.text)) == {"price", "mkt_cap"}


def test_a_pasted_row_is_scored_or_fills_what_it_tells(client):
    row = "1\tBitcoin\nBTC\t$91,234.50\t-0.2%\t1.3%\t5.4%\t$38,123,456,789\t$1.82T"
    page = client.post("/predict", data={"row": row, "fill": "row", "threshold": "0.01"})
    assert page.status_code == 200
    assert texts_of(page.text, "level") == ["High liquidity"]
    assert "Read in CoinGecko&#39;s order: 24 h volume, then Market cap." in page.text
    unsaid = client.post("/predict", data={"row": row.replace("-", ""), "fill": "row"})
    assert unsaid.status_code == 400
    assert list(errors_of(unsaid.text)) == ["1h"]
    assert 'value="0.2%"' in unsaid.text
    assert 'value="$1.82T"' in unsaid.text
    typed = client.post("/predict", data=GOOD | {"row": "hello", "fill": "row"})
    assert typed.status_code == 400
    assert "no row of a site" in typed.text
    assert f'value="{GOOD["mkt_cap"]}"' in typed.text
    # Whoever presses the other button means the fields.
    assert client.post("/predict", data=GOOD | {"row": row}).status_code == 200


def test_the_template_is_a_file_that_can_be_scored(client):
    address = unescape(
        re.search('href="data:text/csv;charset=utf-8,(.*?)"', client.get("/").text)[1]
    )
    scored = client.post("/batch", data=unquote(address), content_type="text/csv")
    assert scored.headers["X-Rows"] == "3"
    assert scored.headers["X-Rows-Refused"] == "0"


def test_examples_are_few_and_named_by_what_they_show(inner):
    cases = [("a", 1e9, 1e11), ("b", 4e8, 5e8), ("c", 1e6, 1e8), ("d", 9e10, 1e11), ("e", 1, 1e9)]
    known = inner.metadata | {
        "examples": [{"coin": c, "values": [volume, cap, 0, 1]} for c, volume, cap in cases]
    }
    assert {label: values[:2] for label, values in examples(inner, known).items()} == {
        "Huge and low": [1e9, 1e11],
        "Small and low": [1e6, 1e8],
        "Huge and high": [9e10, 1e11],
        "Small and high": [4e8, 5e8],
        "Hardly traded": [1, 1e9],
    }


def test_a_form_gets_the_page_whatever_is_typed(app):
    client = app.test_client()
    strange = [
        "<script>alert(1)</script>",
        "'\"><b>",
        "1e-320",
        "5e-324",
        "1e18",
        "0",
        "-0",
        "1e17",
    ]
    for name in COLUMNS:
        for text in strange:
            response = client.post("/predict", data=GOOD | {name: text}, headers=HTML)
            assert response.status_code in (200, 400), text
            assert response.mimetype == "text/html"
            assert "<script>alert" not in response.text
            assert "<b>" not in response.text
            assert "nan" not in response.text.lower().replace("finance", "")


@pytest.mark.parametrize("is_ratio", [True, False])
def test_the_page_says_what_was_learned_and_calls_exact_only_what_is(inner, monkeypatch, is_ratio):
    learned = {"target": "column liquidity of the files", "target_range": [0.5, 70.25]}
    monkeypatch.setattr(
        inner, "metadata", inner.metadata | {"target_is_ratio": is_ratio, **learned}
    )
    with standing_app(inner) as app:
        client = app.test_client()
        page = client.post("/predict", data=GOOD).text
        model = client.get("/model").json
    assert "Learned: column liquidity of the files, 0.5 to 70.2 in training" in page
    assert ("exact" in page) is is_ratio
    assert ("market cap that changes hands" in page) is is_ratio
    assert model.items() >= {**learned, "target_is_ratio": is_ratio}.items()


def test_limits_are_said_as_they_are(app):
    assert "At most 16 MiB and 100,000 rows." in app.test_client().get("/").text


def test_an_error_is_a_page_for_a_browser(app):
    response = app.test_client().get("/nothing", headers=HTML)
    assert response.status_code == 404
    assert response.mimetype == "text/html"
    assert "There is nothing at this address" in response.text


def test_no_page_has_anything_inline_or_from_elsewhere(app):
    page = app.test_client().post("/predict", data=GOOD, headers=HTML).text
    assert "<style" not in page
    assert "style=" not in page
    assert "onclick" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_without_a_model_the_log_tells_the_operator_once_what_to_do(store, tmp_path, caplog):
    app = create_app({"CACHE_DIR": str(tmp_path / "cache"), "FORECASTS": ""})
    try:
        for _ in range(3):
            assert app.test_client().get("/", headers=HTML).status_code == 503
        said = [each.message for each in caplog.records if "Train one" in each.message]
        assert len(said) == 1
        assert said[0].startswith("No model is loaded: ")
    finally:
        close_app(app)
