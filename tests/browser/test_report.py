"""The report of a market in a real browser."""

from support import SAMPLE

from liquidity.data.market import read_market
from liquidity.data.table import target
from liquidity.eda import REQUIRED
from liquidity.report.market_report import write_report
from liquidity.report.market_tables import market_tables


def test_the_page_shows_every_figure_and_column_without_a_network(browser, tmp_path):
    frame, cleaning = read_market(SAMPLE, required=REQUIRED)
    frame = frame.assign(liquidity=target(frame)).dropna(axis=1, how="all")
    frame.loc[0, "coin"] = "<script>document.title='broken'</script>"
    frame.loc[frame.index[-1], ["coin", "liquidity"]] = "<b>$x$</b>", 99.0
    tables, pairs = market_tables(frame, cleaning)
    write_report(tmp_path, frame, tables, pairs, headline=["<i>one</i>", "Warning: two"])
    problems, asked = [], set()
    page = browser.new_context(offline=True).new_page()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.add(request.url.partition(":")[0]))
    page.goto((tmp_path / "report.html").as_uri())
    page.get_by_role("heading", name="Every column").wait_for()
    widths = page.eval_on_selector_all("section > img", "all => all.map(i => i.naturalWidth)")
    page.get_by_text("Click a table cell").wait_for()
    text = page.inner_text("body")
    assert problems == []
    assert asked <= {"file", "data"}, "the page needs the network"
    assert (page.title(), len(widths), min(widths) > 300) == ("Market report", 9, True)
    assert "<i>one</i>" in text
    assert "<b>$x$</b>" in text
