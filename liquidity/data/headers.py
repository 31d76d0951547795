"""What a file's headers mean: which column each is, and whether its numbers are percent.

Case, spaces, punctuation and units fold, so that `Market Cap`, `market_cap` and `marketCapUsd` are
one column. A market site's own names say their unit themselves: what they call a percentage is one.
"""

import difflib
import re
import unicodedata
from typing import NamedTuple

from liquidity.contract import (
    CHANGES,
    COIN,
    COLUMNS,
    DATE,
    HIGH_24H,
    ID,
    LOW_24H,
    MARKET_CAP,
    PRICE,
    SYMBOL,
    TARGET,
    VOLUME,
)
from liquidity.errors import MarketDataError

PERCENT, USD = "percent", "usd"
# Other spellings of a word; no word at all for what says nothing here.
WORDS = {
    "%": (PERCENT,),
    "pct": (PERCENT,),
    "perc": (PERCENT,),
    "percentage": (PERCENT,),
    "chg": ("change",),
    "vol": ("volume",),
    "mkt": ("market",),
    "mcap": ("market", "cap"),
    "marketcap": ("market", "cap"),
    "mktcap": ("market", "cap"),
    "capitalization": ("cap",),
    "capitalisation": ("cap",),
    "marketcapitalization": ("market", "cap"),
    "cryptocurrency": ("crypto",),
    "lastupdated": ("last", "updated"),
    "quotes": ("quote",),
    "$": (USD,),
    **dict.fromkeys(("us", "in", "utc"), ()),
}
HOURS, DAYS = ("h", "hr", "hrs", "hour", "hours"), ("d", "day", "days")
# By how sure they are: of a file's headers for one column the first of these counts, and two that
# are equally sure are an error.
SPELLINGS = {
    COIN: ("coin|coin name", "name", "crypto|asset|token"),
    ID: ("id|coin id",),
    SYMBOL: ("symbol", "ticker"),
    DATE: ("date|day|datetime|snapshot date", "timestamp|snapped at|last updated|time"),
    PRICE: ("price|current price|last price", "close|closing price|close price"),
    VOLUME: ("volume|volume 24h|total volume|trading volume|trading volume 24h",),
    MARKET_CAP: ("market cap",),
    TARGET: ("liquidity",),
    HIGH_24H: ("high 24h",),
    LOW_24H: ("low 24h",),
}
SPELLINGS |= {
    change: (
        f"{change}|{change} change|{change} percent|{change} change percent"
        f"|price {change} change percent currency",
        f"price {change} change percent",
    )
    for change in CHANGES
}
MEANINGS = {
    frozenset(words.split()): (name, rank)
    for name, ranks in SPELLINGS.items()
    for rank, group in enumerate(ranks)
    for words in group.split("|")
}
LIKE_ENOUGH = 0.75  # of difflib's ratio, for a header that may have been meant


class Header(NamedTuple):
    """The column that a header means, and whether its numbers are percent."""

    column: str
    percent: bool = False
    rank: tuple = ()  # lower is surer


def header_of(text):
    """The Header of a file's header, or None where it means none of our columns."""
    words = _words(text)
    found = MEANINGS.get(frozenset(words - {"quote", USD}))
    if not found:
        return None
    name, rank = found
    percent = PERCENT in words
    # A change in USD is no fraction, and the liquidity of a pool in USD is no target.
    if USD in words and (name == TARGET or (name in CHANGES and not percent)):
        return None
    return Header(name, percent, (rank, "quote" not in words))


def column_name(text):
    """The name of the column that a header means, or the header without padding."""
    found = header_of(text)
    return found.column if found else str(text).strip()


def find_columns(texts):
    """`{column: (position, percent)}` of a file's headers, for the columns that it has.

    Raises MarketDataError where two headers mean the same column.
    """
    found = {}
    for position, text in enumerate(texts):
        if header := header_of(text):
            found.setdefault(header.column, []).append((header.rank, position, header.percent))
    columns = {}
    for name, candidates in found.items():
        (rank, position, percent), *others = sorted(candidates)
        if others and others[0][0] == rank:
            raise MarketDataError(
                f"column {name}: given more than once, as {texts[position]!r} and "
                f"{texts[others[0][1]]!r}: keep one of them"
            )
        columns[name] = position, percent
    return columns


def suggestion(name, texts):
    """A question for whoever's file lacks the column `name`: "; did you mean ...?", or nothing."""
    if name == COIN and (symbols := [text for text in texts if column_name(text) == SYMBOL]):
        return f"; name {symbols[0]!r} {COIN} if it tells the coins apart"
    spellings = ["".join(s.split()) for group in SPELLINGS[name] for s in group.split("|")]
    spellings.append("".join(re.findall(r"\w", name.replace("_", ""))))
    others = {}
    for text in texts:
        if not header_of(text):
            words = _words(text)
            others["".join(re.findall("[a-z0-9]+", str(text).lower()))] = text
            # All of the column's words and more: price_eur, fully diluted market cap.
            if any(set(s.split()) <= words for g in SPELLINGS[name][:1] for s in g.split("|")):
                others[spellings[0]] = text
    for spelling in spellings:
        if like := difflib.get_close_matches(spelling, others, 1, LIKE_ENOUGH):
            unit = " as a fraction" if name in CHANGES else ""
            unit = " in USD" if name in (PRICE, VOLUME, MARKET_CAP) else unit
            return f"; did you mean {others[like[0]]!r}? Name it {name} if it is that{unit}"
    return ""


def renamed(texts, columns):
    """What was understood of the headers, as one clause, or nothing where they were our own."""
    said = [
        f"{texts[position]!r} is {name}{', in percent' if percent else ''}"
        for name, (position, percent) in columns.items()
        if name in COLUMNS and (percent or str(texts[position]).strip() != name)
    ]
    return ", ".join(said)


def _words(text):
    """The set of a header's words, those of units and of money left out."""
    text = unicodedata.normalize("NFKC", str(text))
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).lower()
    words, number = set(), None
    for word in re.findall(r"[^\W\d_]+|\d+|[%$]", text):
        if word.isdigit():
            number = word
        elif number and word in HOURS:
            words.add(f"{number}h")
        elif number and word in DAYS:
            words.add("24h" if number == "1" else f"{number}d")
        else:
            words |= {number} if number else set()
            words.update(WORDS.get(word, (word,)))
        number = word if word.isdigit() else None
    return words | ({number} if number else set())
