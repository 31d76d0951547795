"""The page in a real browser: by keyboard, with errors, without JavaScript, on a phone."""

import pandas as pd
import pytest
from playwright.sync_api import expect
from support import COLUMNS, GOOD, ROW, found_by, listening, standing_app

HIGH = {"24h_volume": "57934969077", "mkt_cap": "79965155138", "1h": "-0.001", "price": "1"}


# As a market site's page puts it into the clipboard.
PASTED = "1\tBitcoin\nBTC\nBuy\n$91,234.50\t-0.2%\t1.3%\t5.4%\t$38,123,456,789\t$1.82T"
INTO_CLIPBOARD = """text => {
    const data = new DataTransfer();
    data.setData("text", text);
    document.activeElement.dispatchEvent(
        new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
}"""


def type_in(page, values):
    for name, value in values.items():
        page.fill(f"[name='{name}']", value)


@pytest.fixture(scope="module")
def site(inner):
    with standing_app(inner) as app, listening(app) as url:
        yield url


@pytest.fixture
def open_page(kept_page, site):
    """Open the page; nothing may reach the console, and no request may leave the server."""
    complaints, opened = [], []
    said = {
        "console": lambda message: complaints.append(message.text),
        "pageerror": lambda error: complaints.append(str(error)),
        "request": lambda request: (
            request.url.startswith((site, "blob:")) or complaints.append(request.url)
        ),
    }

    def open_page(**options):
        page = kept_page(**options)
        if page not in opened:
            opened.append(page)
            for event, listener in said.items():
                page.on(event, listener)
        page.goto(site)
        return page

    yield open_page
    for page in opened:
        for event, listener in said.items():
            page.remove_listener(event, listener)
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
    assert page.evaluate("performance.getEntriesByType('navigation').length") == 1  # in place
    assert f"mkt_cap={HIGH['mkt_cap']}" in page.url
    assert page.inner_text(".score") == "0.7245"  # the exact ratio
    assert page.inner_text(".level") == "High liquidity"
    assert "The forest's estimate: " in page.inner_text(".estimate")
    assert page.locator("svg.scale .threshold").count() == 1
    assert page.locator(".curves figure").count() == 4
    assert page.input_value("[name='mkt_cap']") == HIGH["mkt_cap"]
    assert "version 3 (champion)" in page.inner_text("footer")
    assert "0.970" in page.inner_text("footer")


@pytest.mark.parametrize("javascript", [True, False])
def test_all_errors_stand_beside_their_fields_and_inputs_stay(open_page, javascript):
    page = open_page(java_script_enabled=javascript)
    typed = {"24h_volume": "-2", "mkt_cap": "0", "1h": "abc", "price": ""}
    messages = {
        "24h_volume": "24 h volume must be at least 0.",
        "mkt_cap": "Market cap must be more than 0.",
        "1h": "1 h change: expected a number, got 'abc'.",
        "price": "Price: a number is missing.",
    }
    type_in(page, typed)
    page.click("#coin button")
    page.locator(".wrong").first.wait_for()
    for name, message in messages.items():
        wrong = page.locator(f"#coin .field:has([name='{name}']) .wrong")
        assert wrong.inner_text() == message
        assert page.get_attribute(f"[name='{name}']", "aria-invalid") == "true"
        assert f"{name}-error" in page.get_attribute(f"[name='{name}']", "aria-describedby")
        assert page.input_value(f"[name='{name}']") == typed[name]
    if javascript:
        assert page.evaluate("document.activeElement.name") == "24h_volume"
    type_in(page, HIGH)
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
    page.wait_for_selector(".verdict")
    expect(page.locator(".score")).to_be_in_viewport()
    assert page.locator(".chips a").count() <= 5


def test_values_outside_the_training_range_get_a_warning(open_page):
    page = open_page()
    type_in(page, HIGH | {"price": "1e12"})
    page.click("#coin button")
    page.wait_for_selector(".verdict")
    warning = page.inner_text("#result .alert")
    assert "Outside of what the model has seen" in warning
    assert "Price" in warning


def market(tmp_path, rows):
    path = tmp_path / "market.csv"
    pd.DataFrame(rows, columns=["coin", *COLUMNS]).to_csv(path, index=False)
    return path


def test_a_file_is_summed_up_and_saved(open_page, tmp_path):
    coins = [[f"coin {n}", 1e6 * n, 1e8, 0.01, 1.0] for n in range(1, 25)]
    rows = [*coins, ["huge", 9e9, 1e10, 0.01, 1.0], ['a "b",\nc', *ROW[:3], "x"]]
    page = open_page()
    page.set_input_files("#upload", market(tmp_path, rows))
    page.click("#batch button")
    page.wait_for_selector("#batch-result table")
    assert "26 rows, 1 of them marked" in page.inner_text("#batch-status")
    with page.expect_download() as download:
        page.click("#batch-status a")
    scored = pd.read_csv(download.value.path())
    assert list(scored["coin"]) == [row[0] for row in rows]
    assert scored["error"].notna().tolist() == [False] * 25 + [True]

    good = scored[scored["error"].isna()].sort_values("liquidity", ascending=False)
    high, outside = (good["level"] == "High").sum(), (~good["in_range"].astype(bool)).sum()
    assert f"{high} High, {outside} out of the range" in page.inner_text("#batch-result")
    names = page.locator("#batch-result table").all()
    highest, lowest = (table.locator("th").all_inner_texts() for table in names)
    assert len(highest) == len(lowest) == 10
    assert highest[0] == good["coin"].iloc[0]
    by_name = good.set_index("coin")["liquidity"]
    assert sorted(by_name[highest]) == sorted(good["liquidity"].head(10))
    assert sorted(by_name[lowest]) == sorted(good["liquidity"].tail(10))
    (error,) = page.locator("#batch-result li").all_inner_texts()
    assert error.startswith('a "b", c (row 26): column price: expected a finite number')


def test_a_file_is_dropped_anywhere_and_the_template_scores(open_page):
    page = open_page()
    with page.expect_download() as download:
        page.click("a[download]")
    assert download.value.suggested_filename == "coins.csv"
    text = download.value.path().read_text()
    files = page.evaluate_handle(
        """text => {
            const data = new DataTransfer();
            data.items.add(new File([text], "coins.csv", { type: "text/csv" }));
            return data;
        }""",
        text,
    )
    page.dispatch_event("footer", "dragover", {"dataTransfer": files})
    assert "dragging" in page.get_attribute("body", "class")
    page.dispatch_event("footer", "drop", {"dataTransfer": files})
    expect(page.locator("#batch-status")).to_contain_text("3 rows scored.")
    assert "dragging" not in page.get_attribute("body", "class")


def test_a_file_that_cannot_be_read_says_why(open_page, tmp_path):
    path = tmp_path / "market.csv"
    path.write_text("coin,price\nx,1\n")
    page = open_page()
    page.set_input_files("#upload", path)
    page.click("#batch button")
    expect(page.locator("#batch-status")).to_contain_text("24h_volume, mkt_cap, 1h: missing")


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


@pytest.mark.parametrize("target", ["#row", "[name='price']"])
def test_a_pasted_row_fills_the_fields_and_is_scored(open_page, target):
    page = open_page()
    page.focus(target)
    page.evaluate(INTO_CLIPBOARD, PASTED)
    page.wait_for_selector(".verdict")
    assert page.input_value("[name='mkt_cap']") == "$1.82T"
    assert page.input_value("[name='1h']") == "-0.2%"
    assert "CoinGecko's order" in page.inner_text("#note")
    assert page.inner_text(".score") == "0.0209"
    assert "90 %" not in page.inner_text("#result")  # it has never seen such a coin
    page.focus("#row")
    page.evaluate(INTO_CLIPBOARD, PASTED.replace("-", ""))
    wrong = page.locator(".wrong")
    wrong.wait_for()
    assert "up or down?" in wrong.inner_text()
    assert page.input_value("[name='1h']") == "0.2%"
    page.keyboard.press("Enter")  # from the field that was asked about
    expect(wrong).to_have_count(0)


def test_a_pasted_row_needs_no_javascript(open_page):
    page = open_page(java_script_enabled=False)
    page.fill("#row", PASTED)
    page.click("text=Fill the fields")
    page.wait_for_selector(".verdict")
    assert page.input_value("[name='24h_volume']") == "$38,123,456,789"


def test_the_address_shows_the_result_and_back_shows_the_one_before(open_page):
    page = open_page()
    type_in(page, HIGH | {"threshold": "0.9"})
    page.click("#coin button")
    page.wait_for_selector(".verdict.low")
    address = page.url
    page.fill("[name='threshold']", "")
    page.click("#coin button")
    page.wait_for_selector(".verdict.high")
    page.go_back()
    page.wait_for_selector(".verdict.low")
    assert page.input_value("[name='threshold']") == "0.9"
    other = open_page(java_script_enabled=False)
    other.goto(address)
    assert other.inner_text(".verdict") == page.inner_text(".verdict")


def test_a_long_wait_is_said_and_the_result_before_stays_readable(open_page):
    page = open_page()
    page.locator(".chips a").first.click()
    page.wait_for_selector(".verdict")
    page.route("**/predict", lambda route: (page.wait_for_timeout(600), route.continue_()))
    page.keyboard.press("Escape")
    page.fill("[name='price']", "2")
    page.click("#coin button", no_wait_after=True)
    expect(page.locator("#progress")).to_have_text("Scoring…")
    assert "stale" in page.get_attribute("#result", "class")
    assert page.evaluate("getComputedStyle(document.getElementById('result')).opacity") == "1"
    expect(page.locator("#progress")).to_contain_text("liquidity")
    assert "stale" not in page.get_attribute("#result", "class")


def test_the_curves_are_read_under_the_pointer_and_by_keyboard(open_page):
    page = open_page()
    page.locator(".chips a").first.click()
    page.wait_for_selector(".verdict")
    figure = page.locator("figure").first
    reading, before = figure.locator(".reading"), figure.locator(".reading").inner_text()
    readings = figure.locator("svg").get_attribute("data-readings").split("|")
    figure.scroll_into_view_if_needed()
    box = figure.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 292 / 300, box["y"] + 50)
    assert reading.inner_text() == readings[-1]
    assert figure.locator(".cursor").count() == 1
    page.mouse.move(0, 0)
    assert reading.inner_text() == before
    figure.locator("svg").focus()
    page.keyboard.press("ArrowLeft")
    assert reading.inner_text() == readings[readings.index(before) - 1]


def test_buttons_have_an_outline_in_forced_colours(open_page):
    page = open_page(forced_colors="active")
    for button in page.locator("button").all():
        width, colour, behind = button.evaluate(
            "each => { const s = getComputedStyle(each);"
            " return [s.borderTopWidth, s.borderTopColor, getComputedStyle(document.body)"
            ".backgroundColor] }"
        )
        assert width == "1px"
        assert contrast(colour, behind) >= 3


def test_a_server_that_went_away_is_said_and_inputs_stay(open_page, site):
    page = open_page()
    type_in(page, HIGH)
    page.route("**/predict", lambda route: route.abort())
    page.click("#coin button")
    page.wait_for_selector("#message")
    assert "does not answer" in page.inner_text("#message")
    assert page.input_value("[name='price']") == "1"


def test_own_forms_are_taken_where_a_key_is_set_and_another_origins_are_not(browser, inner):
    """Over plain HTTP a browser says in Origin alone where a form is from."""
    with standing_app(inner, API_KEY="0123") as app, listening(app) as site:
        url = site.replace("127.0.0.1", "coins.example")
        credentials = {"username": "x", "password": "0123"}
        context = browser.new_context(java_script_enabled=False, http_credentials=credentials)
        page = context.new_page()
        page.goto(url)
        type_in(page, HIGH)
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


def scored(page):
    page.locator(".chips a").first.click()
    page.wait_for_selector(".verdict")


def never_seen(page):
    type_in(page, HIGH | {"price": "1e12"})
    page.click("#coin button")
    page.wait_for_selector("#result .alert")


def refused(page):
    scored(page)
    type_in(page, {"mkt_cap": "0", "1h": "abc"})
    page.click("#coin button")
    page.locator(".wrong").first.wait_for()  # beside the result of the values before


def asked(page):
    page.fill("#row", PASTED.replace("-", ""))
    page.click("text=Fill the fields")
    page.wait_for_selector(".wrong")


def under_the_pointer(page):
    scored(page)
    page.locator(".curve").first.focus()
    page.keyboard.press("ArrowRight")


def uploads(page, text):
    file = {"name": "market.csv", "mimeType": "text/csv", "buffer": text.encode()}
    page.set_input_files("#upload", file)
    page.click("#batch button")


def summed_up(page):
    rows = [f"coin {n},{n}e6,1e8,0.01,1" for n in range(12)] + ["x,1e6,0,0,1"]
    uploads(page, "\n".join([",".join(["coin", *COLUMNS]), *rows]))
    page.wait_for_selector("#batch-result table")


def file_refused(page):
    uploads(page, "price\n1\n")
    expect(page.locator("#batch-status")).to_contain_text("missing")


def unanswered(page):
    scored(page)
    page.route("**/predict", lambda route: route.abort())
    page.click("#coin button")
    page.wait_for_selector("#message")


def opened(page):
    page.goto(page.url + "?24h_volume=38B&mkt_cap=1.82T&1h=0.2%25&price=$91,234&threshold=0.01")


def not_there(page):
    page.goto(page.url + "nothing")


SCREENS = {
    "light": (
        {},
        [
            *(lambda page: None, opened, scored, never_seen, refused, asked, under_the_pointer),
            *(summed_up, file_refused, unanswered, not_there),
        ],
    ),
    "dark": ({"color_scheme": "dark"}, [refused, summed_up]),
    "phone": ({"viewport": {"width": 360, "height": 740}}, [refused]),
}


@pytest.mark.parametrize("screen", SCREENS)
def test_axe_finds_nothing_on_any_state_of_the_page(open_page, axe, screen):
    options, states = SCREENS[screen]
    for state in states:
        page = open_page(**options)
        state(page)
        assert not found_by(axe, page), state.__name__


@pytest.mark.parametrize("served", [True, False])
def test_axe_finds_nothing_without_a_model_or_with_another_target(
    kept_page, axe, inner, monkeypatch, served
):
    monkeypatch.setattr(inner, "metadata", inner.metadata | {"target_is_ratio": False})
    with standing_app(inner, served=served) as app, listening(app) as url:
        page = kept_page()
        page.goto(url)
        if served:
            scored(page)
        else:
            assert "There is no model here yet" in page.inner_text("#message")
        assert not found_by(axe, page)
