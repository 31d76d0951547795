"""The pages as they are sent, without a browser."""

from support import COLUMNS, GOOD, HTML


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
