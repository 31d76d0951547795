"""The page in a real browser: by keyboard, with errors, without JavaScript, on a phone."""

import threading
from contextlib import closing, contextmanager

import pandas as pd
import pytest
from playwright.sync_api import expect
from support import CHROMIUM, COLUMNS, GOOD, ROW, standing_app
from werkzeug.serving import make_server

HIGH = {"24h_volume": "57934969077", "mkt_cap": "79965155138", "1h": "-0.001", "price": "1"}


@contextmanager
def listening(app):
    """The address at which the application is served, during the with block."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def site(inner):
    with standing_app(inner) as app, listening(app) as url:
        yield url


@pytest.fixture
def open_page(browser, site):
    """Open the page; nothing may reach the console, and no request may leave the server."""
    complaints = []

    def open_page(**options):
        page = browser.new_context(**options).new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((site, "blob:")) or complaints.append(request.url)
            ),
        )
        page.goto(site)
        return page

    yield open_page
    # Chromium itself says so of every answer with an error's status.
    assert not [text for text in complaints if "Failed to load resource" not in text]


def test_a_prediction_by_keyboard_alone(open_page):
    page = open_page()
    for name, value in HIGH.items():
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == name
        page.keyboard.type(value)
    assert page.inner_text("output[for='1h']") == "-0.1 %"
    page.keyboard.press("Enter")
    page.wait_for_selector(".verdict")
    assert page.url.endswith("/")  # in place
    assert "liquidity" in page.inner_text(".level")
    assert "90 % interval: " in page.inner_text(".verdict")
    assert page.locator("svg.scale .threshold").count() == 1
    assert page.locator(".curves figure").count() == 4
    assert "0.7245" in page.inner_text("#result")  # the exact ratio
    assert page.input_value("[name='mkt_cap']") == HIGH["mkt_cap"]
    assert "version 3 (champion)" in page.inner_text("footer")
    assert "0.970" in page.inner_text("footer")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("24h_volume", "-2", "got '-2'"),
        ("mkt_cap", "0", "> 0 and <= 1e+18, got '0'"),
        ("1h", "abc", "got 'abc'"),
        ("price", "", "got nothing"),
    ],
)
@pytest.mark.parametrize("javascript", [True, False])
def test_an_error_stands_beside_its_field_and_inputs_stay(
    open_page, name, javascript, text, message
):
    page = open_page(java_script_enabled=javascript)
    for field, value in (HIGH | {name: text}).items():
        page.fill(f"[name='{field}']", value)
    page.click("#coin button")
    wrong = page.locator(f"#coin .field:has([name='{name}']) .wrong")
    wrong.wait_for()
    assert message in wrong.inner_text()
    assert page.locator(".wrong").count() == 1
    assert page.get_attribute(f"[name='{name}']", "aria-invalid") == "true"
    assert f"{name}-error" in page.get_attribute(f"[name='{name}']", "aria-describedby")
    for field, value in (HIGH | {name: text}).items():
        assert page.input_value(f"[name='{field}']") == value
    page.fill(f"[name='{name}']", HIGH[name])
    page.click("#coin button")
    page.wait_for_selector(".verdict")
    assert page.locator(".wrong").count() == 0


@pytest.mark.parametrize("javascript", [True, False])
def test_an_example_fills_the_form(open_page, javascript):
    page = open_page(java_script_enabled=javascript)
    chip = page.locator(".chips a").nth(2)
    chip.click()
    assert float(page.input_value("[name='mkt_cap']")) > 0
    assert not page.input_value("[name='24h_volume']").endswith(".0")
    if not javascript:
        page.click("#coin button")
    page.wait_for_selector(".verdict")


def test_values_outside_the_training_range_get_a_warning(open_page):
    page = open_page()
    for name, value in (HIGH | {"price": "1e12"}).items():
        page.fill(f"[name='{name}']", value)
    page.click("#coin button")
    page.wait_for_selector(".verdict")
    warning = page.inner_text("#result .alert")
    assert "Outside of what the model has seen" in warning
    assert "Price" in warning


def test_a_file_is_scored_and_saved(open_page, tmp_path):
    path = tmp_path / "market.csv"
    pd.DataFrame([["a", *ROW], ["b", *ROW[:3], "x"]], columns=["coin", *COLUMNS]).to_csv(
        path, index=False
    )
    page = open_page()
    page.set_input_files("#upload", path)
    page.click("#batch button")
    page.wait_for_selector("#batch-status a")
    assert "2 rows, 1 of them marked" in page.inner_text("#batch-status")
    with page.expect_download() as download:
        page.click("#batch-status a")
    scored = pd.read_csv(download.value.path())
    assert list(scored["coin"]) == ["a", "b"]
    assert scored["error"].notna().tolist() == [False, True]


def test_a_file_that_cannot_be_read_says_why(open_page, tmp_path):
    path = tmp_path / "market.csv"
    path.write_text("coin,price\nx,1\n")
    page = open_page()
    page.set_input_files("#upload", path)
    page.click("#batch button")
    expect(page.locator("#batch-status")).to_contain_text("column 24h_volume: missing")


def test_a_file_is_scored_without_javascript(open_page, tmp_path):
    path = tmp_path / "market.csv"
    pd.DataFrame([GOOD]).to_csv(path, index=False)
    page = open_page(java_script_enabled=False)
    page.set_input_files("#upload", path)
    with page.expect_download() as download:
        page.click("#batch button")
    assert download.value.suggested_filename == "scored.csv"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_cut_off_and_the_result_follows_the_form(open_page, scheme):
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.locator(".chips a").first.click()
    page.wait_for_selector(".verdict")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    top = "selector => document.querySelector(selector).getBoundingClientRect().top"
    assert page.evaluate(top, "#coin") < page.evaluate(top, "#result")
    assert page.evaluate(top, "#result") < page.evaluate(top, ".chips")
    paper, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (luminance(paper) > luminance(ink)) is (scheme == "light")
    ratio = contrast(paper, ink)
    assert ratio >= 7


def luminance(colour):
    """WCAG 2.2's relative luminance of `rgb(r, g, b)`."""
    channels = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_server_that_went_away_is_said_and_inputs_stay(open_page, site):
    page = open_page()
    for name, value in HIGH.items():
        page.fill(f"[name='{name}']", value)
    page.route("**/predict", lambda route: route.abort())
    page.click("#coin button")
    page.wait_for_selector("#message")
    assert "does not answer" in page.inner_text("#message")
    assert page.input_value("[name='price']") == "1"


def test_own_forms_are_taken_where_a_key_is_set_and_another_origins_are_not(browser, inner):
    """Over plain HTTP a browser says in Origin alone where a form is from."""
    rules = "--host-resolver-rules=MAP *.example 127.0.0.1"
    other = browser.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
    with standing_app(inner, API_KEY="0123") as app, listening(app) as site, closing(other):
        url = site.replace("127.0.0.1", "coins.example")
        credentials = {"username": "x", "password": "0123"}
        context = other.new_context(java_script_enabled=False, http_credentials=credentials)
        page = context.new_page()
        page.goto(url)
        for name, value in HIGH.items():
            page.fill(f"[name='{name}']", value)
        page.click("#coin button")
        page.wait_for_selector(".verdict")

        form = f"<form method=post action={url}/predict><input name=price><button>x</button></form>"
        context.route(
            "http://evil.example/", lambda route: route.fulfill(body=form, content_type="text/html")
        )
        page.goto("http://evil.example/")
        page.click("button")
        page.wait_for_selector("#message")
        assert "A form of another site" in page.inner_text("#message")
