"""A market report: its tables and figures as files, as text, and as one page that holds both."""

import base64
import html

import pandas as pd

from liquidity.report import market_plots as plots
from liquidity.report.formatting import short_numbers
from liquidity.report.style import write_png
from liquidity.report.trading_costs import TITLE, costs_by_coin, draw_costs

REPORT = "report.html"
PERIODS = 36  # the most lines that a table by time has
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table.numbers { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
table.numbers th, table.numbers td { padding: 2px 10px; text-align: right }
table.numbers tbody tr:nth-child(odd) { background: #f2f5f8 }
section { margin-top: 2.5rem; overflow-x: auto } img { max-width: 100% }
"""


def write_report(folder, frame, tables, pairs, *, headline):
    """Write report.html, summary.txt, tables/*.csv and figures/*.png into `folder`."""
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    (folder / "summary.txt").write_text(as_text(headline, tables), encoding="utf-8")
    for title, table in tables.items():
        table.to_csv(folder / f"tables/{_file_name(title)}.csv")
    pictures = {}
    for title, figure in market_figures(frame, tables, pairs).items():
        path = folder / f"figures/{_file_name(title)}.png"
        write_png(figure, path, dpi=110)
        pictures[title] = path.read_bytes()
    page = as_page(headline, tables, pictures, frame)
    (folder / REPORT).write_text(page, encoding="utf-8")


def market_figures(frame, tables, pairs):
    """Figures by their titles; those of a table draw that table's numbers."""
    figures = {
        "Rows": plots.rows_by_reason(tables["Rows"]),
        "Values": plots.distributions(frame),
        "Volume against capitalisation": plots.volume_against_cap(frame),
        "Liquidity by capitalisation": plots.liquidity_by_cap(
            tables["Liquidity by capitalisation"]
        ),
        "Correlation of logarithms": plots.correlations(tables["Correlation of logarithms"]),
        "High and Low by date": plots.levels_by_date(tables["High and Low by date"]),
        "Most and least liquid": plots.ranking(
            tables["Most and least liquid"], "The most and the least liquid coins of the last date"
        ),
    }
    if len(pairs):
        figures["Persistence"] = plots.persistence(pairs, tables["Persistence by date"])
    if TITLE in tables:
        figures[TITLE] = draw_costs(costs_by_coin(frame))
    return figures


def as_text(headline, tables):
    """The report for a terminal: every table, those by date shortened to periods."""
    parts = ["\n".join(headline)]
    for title, table in tables.items():
        note, table = _shortened(table)
        parts.append(f"{title}{note}\n{short_numbers(table).to_string()}")
    return "\n\n".join(parts) + "\n"


def as_page(headline, tables, pictures, frame):
    """The report as one HTML page that needs no other file and no network.

    `pictures` are PNG files by their titles; a table stands under the picture of its title.
    """
    from skrub import TableReport  # takes seconds to import; a wrong file should not wait for it

    sections = []
    for title in dict.fromkeys([*pictures, *tables]):
        parts = [f"<h2>{html.escape(title)}</h2>"]
        if title in pictures:
            data = base64.b64encode(pictures[title]).decode()
            parts.append(f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">')
        if title in tables:
            note, table = _shortened(tables[title])
            parts.append(f"<p>{note}</p>" if note else "")
            parts.append(short_numbers(table).to_html(border=0, classes="numbers"))
        sections.append(f"<section>{''.join(parts)}</section>")
    columns = TableReport(frame, title="Columns", verbose=0).html_snippet()
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in headline)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Market report</title><style>{STYLE}</style></head><body>"
        f"<h1>Market report</h1>{lines}{''.join(sections)}"
        f"<section><h2>Every column</h2>{columns}</section></body></html>"
    )


def _shortened(table):
    """`(note, table)`: one by date has at most PERIODS lines, of days, or else of medians over
    months, quarters or years."""
    table = table.rename_axis(index=None)
    if not isinstance(table.index, pd.DatetimeIndex):
        return "", table
    for frequency in ("D", "M", "Q", "Y"):
        periods = table.index.to_period(frequency)
        if periods.nunique() <= PERIODS:
            break
    if len(table) == periods.nunique():
        return "", table.set_axis(periods)
    noun = {"M": "month", "Q": "quarter", "Y": "year"}[frequency]
    return f" (medians of every {noun})", table.groupby(periods).median().rename_axis(index=None)


def _file_name(title):
    return title.lower().replace(" ", "_")
