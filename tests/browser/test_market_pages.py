"""The market's pages in a real browser: by axe, on a phone, dark, without JavaScript."""

import re
import time

import numpy as np
import pandas as pd
import pytest
from support import found_by, listening, standing_app


@pytest.fixture(scope="module")
def site(inner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshots")
    coins = [
        pd.DataFrame(
            {
                "date": pd.date_range("2026-05-01", periods=60),
                "coin": f"Coin {n}", "symbol": f"c{n}", "price": 1.5,
                "24h_volume": 1e6 * n * (1.2 + np.sin(np.arange(60))), "mkt_cap": 1e8,
            }
        )
        for n in range(1, 130)
    ]  # fmt: skip
    pd.concat(coins).to_parquet(folder / "market.parquet")
    with standing_app(inner, SNAPSHOTS=str(folder), FORECASTS="") as app, listening(app) as url:
        for _ in range(600):
            if app.test_client().get("/coins").status_code == 200:
                break
            time.sleep(0.1)
        yield url


@pytest.mark.parametrize(
    "screen",
    [
        {"viewport": {"width": 1280, "height": 900}},
        {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
    ],
    ids=["desktop", "phone, dark"],
)
@pytest.mark.parametrize("path", ["/market", "/market?q=nothing", "/coins/Coin 7?position=1M", "/"])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(kept_page, axe, site, screen, path):
    page = kept_page(**screen)
    page.goto(site + path)
    assert not found_by(axe, page)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0


def test_a_coin_is_found_and_traded_without_javascript(kept_page, site):
    page = kept_page(java_script_enabled=False)
    page.goto(site)
    page.get_by_role("link", name="The market").click()
    page.get_by_label("Coin or symbol").fill("C99")
    page.get_by_label("Coin or symbol").press("Enter")
    page.get_by_role("link", name="Coin 99").click()
    page.get_by_label("Share of a day's volume").fill("10%")
    page.get_by_label("Share of a day's volume").press("Enter")
    assert "10 % of the volume of 2026-06-29" in page.content()
    page.get_by_role("link", name="The market").click()
    page.get_by_role("link", name="Price").click()
    page.get_by_role("link", name="Next 29").click()
    assert page.get_by_role("row").count() == 30


# Name, whether it shows the focus, and whether anything lies over its middle, of what has it.
FOCUSED = """() => {
  const e = document.activeElement, box = e.getBoundingClientRect();
  const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  const shown = parseFloat(getComputedStyle(e).outlineWidth) > 1;
  return [e === document.body ? null : e.name || e.innerText, shown, !!top && e.contains(top)];
}"""


def stops(page, key):
    """What has the focus after each press of a key, until the page is left."""
    while True:
        page.keyboard.press(key)
        name, shown, uncovered = page.evaluate(FOCUSED)
        if name is None:
            return
        yield name, shown and uncovered


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("path", ["/market?q=coin 1", "/coins/Coin 7"])
def test_every_stop_of_the_keyboard_can_be_seen_there_and_back(kept_page, site, path, width):
    page = kept_page(viewport={"width": width, "height": 700})
    page.goto(site + path)
    there, back = [*stops(page, "Tab")], [*stops(page, "Shift+Tab")]
    assert [name for name, seen in there + back if not seen] == []
    assert set(there) == set(back)
    assert len(there) > (40 if "market" in path else 4)


def test_a_market_is_searched_sorted_and_saved_by_keyboard_alone(kept_page, site):
    page = kept_page(viewport={"width": 1280, "height": 700})
    page.goto(site + "/market")

    def tab_to(name, key="Tab"):
        assert any(re.fullmatch(name, found.strip()) for found, _ in stops(page, key)), name

    tab_to("q")
    page.keyboard.type("coin 12")
    tab_to("level")
    page.keyboard.type("L")
    page.keyboard.press("Tab")
    page.keyboard.type("Coin")
    tab_to("Show")
    page.keyboard.press("Enter")
    page.wait_for_url("**sort=coin**")
    tab_to("Liquidity")
    page.keyboard.press("Enter")
    page.wait_for_url("**sort=liquidity**")
    assert page.get_by_role("columnheader", name="Liquidity").get_attribute("aria-sort")
    assert "q=coin+12" in page.url
    assert "level=Low" in page.url
    with page.expect_download() as saved:
        tab_to(r"All \d as CSV")
        page.keyboard.press("Enter")
    assert saved.value.suggested_filename == "market_2026-06-29.csv"
    tab_to("Coin 12")
    page.keyboard.press("Enter")
    page.wait_for_url("**/coins/Coin%2012")
