"""One pasted row, of a market site's table or of a spreadsheet: which part of it is which field.

A header line tells that, and where there is none the signs of currency and percent, in the order in
which a site has its columns. What neither tells is left open, and said.
"""

import csv
import re

from liquidity.contract import CHANGE_1H, INPUTS, MARKET_CAP, PRICE, VOLUME
from liquidity.data.cells import number
from liquidity.data.headers import find_columns
from liquidity.errors import MarketDataError

LONGEST = 2000  # letters; a row of any site has fewer
PERCENT = re.compile(r"[-+\u2212▲△▴▼▽▾]?\s?(?<![\d.,])\d[\d.,]*[ \u00a0]?%")
TOKEN = re.compile(
    r"(?P<money>[-+\u2212]?\$ ?[\d.,\u2080-\u2089]*[\d\u2080-\u2089](?: ?[KMBT](?![A-Za-z]))?)"
    rf"|(?P<percent>{PERCENT.pattern})"
    r"|(?P<coins>(?<![\d.,])\d[\d.,]*\s?[KMBT]?\s[A-Z][A-Z\d]{1,9}\b)"
)
UP, DOWN = "+▲△▴", "-\u2212▼▽▾"
# Where a point parts decimals, a comma parts thousands.
POINT = re.compile(r"\d\.\d{1,2}(?!\d)")
GROUP = re.compile(r"(?<![\d,])(\d{1,3}),(\d{3})(?![\d,.])")
# By the kinds of what follows the name, which site it is, and which amount comes first there:
# CoinMarketCap ends with a number of coins, CoinGecko with the capitalisation.
SITES = {
    r"\$%{3,4}\$\$": ("CoinGecko", (VOLUME, MARKET_CAP)),
    r"\$%{3}\$\$c{1,2}": ("CoinMarketCap", (MARKET_CAP, VOLUME)),
}
WHICH = "the pasted row does not say which amount it is; paste its header line too, or type it"
UNTOLD = "not found in the pasted row; paste its header line too, or type it"
DIRECTION = "up or down? The pasted row does not say; put - before it if the price fell"


class Row(dict):
    """Texts by field; `untold` says of the other fields, and of doubtful ones, why; `note`, if
    there is something to say, how the row was read.
    """

    def __init__(self):
        super().__init__()
        self.untold, self.note = {}, ""


def read_row(text, features):
    """The Row of a pasted text. It holds the texts as they were pasted, all of them numbers."""
    row = Row()
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or len(text) > LONGEST:
        row.note = f"The pasted text is {'longer than a row' if lines else 'empty'}."
    elif delimiter := _header_delimiter(lines[0]):
        row.note = _by_header(row, lines, delimiter)
    else:
        row.note = _by_signs(row, text)
    for name in [name for name in row if name not in features]:
        del row[name]
    untold = {name: UNTOLD for name in features if name not in row} | row.untold
    # Where nothing was found the note says it all.
    row.untold = {name: untold[name] for name in features if name in untold and (row or row.untold)}
    return row


def _header_delimiter(line):
    """What parts the names of a header, which names two fields at least; None for another line."""
    for delimiter in "\t,;":
        try:
            found = find_columns(_cells(line, delimiter))
        except MarketDataError:  # two names of one column: a header all the same
            return delimiter
        if len(found.keys() & INPUTS.keys()) >= 2:
            return delimiter
    return None


def _by_header(row, lines, delimiter):
    """Take the one row below a header; a sentence where it cannot be told."""
    names = _cells(lines[0], delimiter)
    try:
        columns = find_columns(names)
    except MarketDataError as error:
        return f"The pasted header: {error}."
    rows = [_cells(line, delimiter) for line in lines[1:]]
    if len(rows) > 1 and delimiter == "\t" and all(len(cells) < len(names) for cells in rows):
        rows = ["\n".join(lines[1:]).split("\t")]  # a web page's cells may have several lines
    if len(rows) != 1:
        return f"Expected one row below the header, got {len(rows)}: paste one coin."
    if len(rows[0]) != len(names):
        return (
            f"The pasted header has {len(names)} cells and its row {len(rows[0])}: copy both from "
            "the same table."
        )
    cells = [next(filter(None, map(str.strip, cell.splitlines())), "") for cell in rows[0]]
    texts = {name: cells[at] for name, (at, _) in columns.items()}
    percents = {name for name, (_, percent) in columns.items() if percent}
    bare = [name for name in percents if texts[name] and "%" not in texts[name]]
    _take(row, (texts | {name: f"{texts[name]}%" for name in bare}).items())
    if texts.get(CHANGE_1H, "").endswith("%"):
        _ask_direction(row, [cell for cell in cells if PERCENT.fullmatch(cell)])
    return ""


def _cells(line, delimiter):
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]


def _take(row, texts):
    """Keep of `(field, text)` the texts that are numbers."""
    texts = list(texts)
    pointed = any(POINT.search(text) for _, text in texts)
    for name, text in texts:
        text = GROUP.sub(r"\1\2", text) if pointed else text
        if name not in INPUTS or not text:
            continue
        try:
            value = number(text)
        except ValueError as error:
            row.untold[name] = f"{error} in the pasted row"
        else:
            if value == value:  # not a mark of an unknown one
                row[name] = text


def _by_signs(row, text):
    """Take a row without a header, from the price on, as a name may hold anything; a sentence on
    how it was read, or why not.
    """
    tokens = [(found.lastgroup, found[0].strip()) for found in TOKEN.finditer(text)]
    first = next((at for at, (kind, _) in enumerate(tokens) if kind == "money"), len(tokens))
    tokens = tokens[first:]
    shape = "".join({"money": "$", "percent": "%", "coins": "c"}[kind] for kind, _ in tokens)
    if len(re.findall("%+", shape)) > 1:
        return "The pasted text seems to be more than one row: paste one coin."
    if not re.match(r"\$%{3,4}(?!%)", shape):
        return (
            "The pasted text is no row of a site that is known here (price, then changes over 1 h, "
            "24 h and 7 d): copy the table's header line too."
        )
    percents = [text for kind, text in tokens if kind == "percent"]
    found = [(PRICE, tokens[0][1]), (CHANGE_1H, _signed(percents[0]))]
    amounts = [text for kind, text in tokens[1:] if kind == "money"]
    site = next((site for pattern, site in SITES.items() if re.fullmatch(pattern, shape)), None)
    if site:
        found += zip(site[1], amounts, strict=True)
    _take(row, [*found, *((None, text) for text in percents)])
    _ask_direction(row, percents)
    if not site:
        row.untold |= dict.fromkeys((VOLUME, MARKET_CAP), WHICH)
        return ""
    return f"Read in {site[0]}'s order: {', then '.join(INPUTS[name].label for name in site[1])}."


def _signed(percent):
    """A change with a sign in place of an arrow."""
    if percent[0] not in UP + DOWN:
        return percent
    return ("-" if percent[0] in DOWN else "") + percent[1:].strip()


def _ask_direction(row, percents):
    """Where no change has a sign it may have been a colour or an arrow, which are not copied."""
    signed = any(each[0] in UP + DOWN for each in percents)
    if percents and not signed and number(row.get(CHANGE_1H, "0")):
        row.untold[CHANGE_1H] = DIRECTION
