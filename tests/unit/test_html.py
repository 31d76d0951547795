"""The pages as they are sent, without a browser."""

import pytest
from support import COLUMNS, GOOD, HTML, standing_app


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
