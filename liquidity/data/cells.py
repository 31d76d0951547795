"""Cells of a column, as text or as a file's own types, to numbers, days and names."""

import datetime
import re
import unicodedata
from contextlib import suppress

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from liquidity.contract import FIRST_YEAR, LAST_YEAR, UNKNOWN_NAMES

UNKNOWN = {"", "-", "--", "?", "n/a", "na", "nan", "none", "null"}
# Groups of three never start with 0: that comma is a decimal one.
MONEY = r"-?\$?-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|-?\$-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
# Where a comma parts decimals, a point may part thousands.
DECIMAL_COMMA = r"-?\$?(?:[1-9]\d{0,2}(?:\.\d{3})+|\d+)(?:,\d*)?(?:[eE][+-]?\d+)?\s*%?"
POINT = r"\.\d"
# As people and market sites print one: $ 1.2B, 38M, +0.5 %, 1 234 567.8 USD.
MULTIPLES = {"": 1, "k": 1e3, "thousand": 1e3, "m": 1e6, "mn": 1e6, "mln": 1e6, "million": 1e6}
MULTIPLES |= dict.fromkeys(("b", "bn", "bln", "billion"), 1e9)
MULTIPLES |= dict.fromkeys(("t", "tn", "trillion"), 1e12)
PRINTED = re.compile(
    r"(?P<sign>[-+▲▼]?) ?(?:us)?\$? ?(?:usd )?(?P<minus>-?)"
    r"(?P<digits>[1-9]\d{0,2}(?P<part>[, '])\d{3}(?:(?P=part)\d{3})*(?:\.\d*)?"
    r"|\d+(?:\.\d*)?|\.\d+)(?P<power>e[+-]?\d{1,3})?"
    rf" ?(?P<multiple>{'|'.join(MULTIPLES)}) ?(?:(?P<percent>%)|\$|usd)?"
)
MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2019": "'", "\u202f": " ", "\xa0": " "})
# Market sites count the zeros of a tiny price in one: 0.0₅12 is not 0.0512.
SMALL_DIGIT = re.compile("[\u00b2\u00b3\u00b9\u2070-\u2089]")
SHOWN = 80  # letters of a cell in a message

ISO_DAY = r"(?:\d{4}([-/. ])\d{1,2}\1\d{1,2}|\d{8})(?:[T ].*)?"
# 11/25/2026 or 25.11.2026, with or without a time: the day may come first or second.
EITHER_DAY = r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4})(?:,?[T ]\s*(.*))?"
NAMED_DAYS = (
    "%d-%b-%y", "%d-%b-%Y", "%d-%B-%Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y",
    "%b %d %Y", "%B %d %Y",
)  # fmt: skip
# UNIX time as seconds or milliseconds.
UNIX_UNITS = {10: 1, 13: 1000}
EARLIEST, LATEST = np.datetime64(f"{FIRST_YEAR}-01-01"), np.datetime64(f"{LAST_YEAR}-12-31")


def number(text):
    """The number that a text says: 38M, $91,234.5, 0.2 % (which is 0.002); NaN for a mark of an
    unknown one. Raises ValueError with a clause for anything else.
    """
    value, certain = _printed(text)
    if np.isnan(value) and text.strip().lower() not in UNKNOWN:
        cure = "; the decimal sign is a point" if re.search(r"\d,\d", text) else ""
        raise ValueError(f"expected a number, got {text!r}{cure}")
    if not certain:
        whole, thousandth = text.replace(",", ""), text.replace(",", ".")
        raise ValueError(f"expected a number, got {text!r}: write {whole} or {thousandth}")
    return value


def _printed(text):
    """The number of a printed text, NaN where it is none, and whether its comma can be only one."""
    plain = " ".join(unicodedata.normalize("NFKC", text).translate(MINUS).lower().split())
    found = PRINTED.fullmatch(plain)
    if not found or SMALL_DIGIT.search(text):
        return np.nan, True
    digits, part = found["digits"], found["part"]
    certain = part != "," or digits.count(",") > 1 or "." in digits
    value = float(re.sub("[, ']", "", digits) + (found["power"] or ""))
    value *= MULTIPLES[found["multiple"]] / (100 if found["percent"] else 1)
    negative = (found["sign"] in ("-", "▼")) != bool(found["minus"])
    return -value if negative else value, certain


def parse_numbers(cells, *, percent=False, decimal_comma=False):
    """Values of shape (rows,), float64 with NaN for unknown, and which cells are no number.

    `cells` is an Arrow column. Where the column is in `percent`, or a cell says so itself, its
    value is the hundredth. Where the file writes decimal commas, its points part thousands.
    """
    type_ = cells.type
    if _is_number(type_):
        values = pc.cast(cells, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return values / 100 if percent else values, np.zeros(len(values), bool)
    if pa.types.is_null(type_):
        return np.full(len(cells), np.nan), np.zeros(len(cells), bool)
    if not _is_text(type_):
        return np.full(len(cells), np.nan), ~pc.is_null(cells).to_numpy(zero_copy_only=False)
    for plain in () if decimal_comma else (_plain_text, _without_unknown):
        try:
            values = pc.cast(plain(cells), pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            continue  # padding and marks for unknown, or then money or no number
        return values / 100 if percent else values, np.zeros(len(values), bool)
    text = pc.utf8_trim_whitespace(_plain_text(cells)).to_pandas().astype("str")
    if decimal_comma:
        comma = text.str.fullmatch(DECIMAL_COMMA).fillna(False).astype(bool)
        text = text.mask(comma, text.str.replace(".", "").str.replace(",", "."))
    values = pd.to_numeric(text, errors="coerce").astype("float64")
    unknown = text.isna() | text.str.lower().isin(UNKNOWN)
    values[unknown] = np.nan
    rest = values.isna() & ~unknown
    money = rest & text.str.fullmatch(MONEY)
    values[money] = text[money].str.replace(r"[$,]", "", regex=True).astype("float64")
    rest &= ~money
    if percent:
        values /= 100
    if rest.any():
        printed = text[rest]
        found = [_printed(each)[0] for each in printed]
        said = printed.str.contains("%", regex=False).to_numpy()
        values[rest] = np.where(percent & ~said, np.divide(found, 100), found)
    wrong = rest & values.isna()
    return values.to_numpy(), wrong.to_numpy()


def has_decimal_commas(columns, separator):
    """Whether a file's numbers, Arrow columns of text, hold decimal commas: True, False, or None
    where they do not tell. Raises ValueError where a comma may part thousands or decimals.
    """
    texts = [_plain_text(column) for column in columns if _is_text(column.type)]
    texts = [pc.utf8_trim_whitespace(each) for each in texts]
    commas = [each.filter(pc.match_substring(each, ",")) for each in texts]
    if separator == "," and not any(len(each) for each in commas):
        return False
    none = pd.Series(dtype="str")
    commas = pd.concat([none, *(each.to_pandas().astype("str") for each in commas)])
    decimal = commas.str.fullmatch(DECIMAL_COMMA) & ~commas.str.fullmatch(MONEY)
    if not decimal.any():
        points = any(pc.any(pc.match_substring_regex(each, POINT)).as_py() for each in texts)
        if points or separator == "," or (commas.str.count(",") > 1).any():
            return False
        money = commas[commas.str.fullmatch(MONEY)]
        if len(money):
            raise ValueError(
                f"the comma of {money.iloc[0]!r} may part thousands or decimals; write a point for "
                "decimals and nothing for thousands"
            )
        return None
    # One number with a decimal point, or with commas for thousands, and the commas are no decimal
    # ones: then the others are refused, not guessed.
    for each in texts:
        odd = each.filter(pc.match_substring_regex(each, POINT)).to_pandas().astype("str")
        if not odd.str.fullmatch(DECIMAL_COMMA).all():
            return False
    return True


def parse_days(cells, *, day_first=None):
    """UTC days of shape (rows,), datetime64[us] with NaT, and which cells are no date.

    `cells` is an Arrow column. A date is ISO 8601, 28-Apr-13, April 28, 2013, or UNIX seconds or
    milliseconds, from FIRST_YEAR to LAST_YEAR; 11/25/2026 is read by `day_first`, see
    `is_day_first`. A plain day, and any time of exactly 00:00:00 UTC, is that day. Any other time
    is the day of the time 12 hours before, the middle of the 24 hours that a volume covers: what a
    market site says at six in the morning is mostly of the day before.
    """
    if not (_is_text(cells.type) or _is_number(cells.type) or pa.types.is_temporal(cells.type)):
        return np.full(len(cells), "NaT", "datetime64[us]"), np.ones(len(cells), bool)
    distinct, codes = encoded(cells)
    days = np.append(_days(distinct, day_first), np.datetime64("NaT"))[codes]
    return days, np.isnat(days)


def encoded(cells):
    """The distinct values of an Arrow column, and the position of each row's among them, which is
    one behind the last for a null: a panel repeats its coins and dates.
    """
    cells = cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells
    if not pa.types.is_dictionary(cells.type):
        cells = pc.dictionary_encode(cells)
    codes = cells.indices.fill_null(len(cells.dictionary))
    return cells.dictionary, codes.to_numpy(zero_copy_only=False)


def is_day_first(cells):
    """Whether in dates such as 11/25/2026 of an Arrow column the day comes first: None where no
    value tells. Raises ValueError where one tells this and another that.
    """
    if not _is_text(cells.type):
        return None
    text = _distinct_text(cells).str.extract(f"^{EITHER_DAY}$")
    first, second = (pd.to_numeric(text[n]) for n in (0, 2))
    if (first > 12).any() and (second > 12).any():
        raise ValueError("some dates have the day first and some the month")
    return True if (first > 12).any() else False if (second > 12).any() else None


def has_either_day(cells):
    """Whether any date of an Arrow column has day and month as 11/25/2026 has them."""
    either = re.compile(EITHER_DAY)
    return _is_text(cells.type) and any(map(either.fullmatch, _distinct_text(cells).dropna()))


def _distinct_text(cells):
    return pc.unique(_plain_text(cells)).to_pandas().astype("str").str.strip()


def _days(distinct, day_first):
    """The day of each value of an Arrow array, datetime64[us] with NaT for what is no date."""
    if _is_text(distinct.type):
        with suppress(pa.ArrowInvalid):  # where all are as 2022-03-16, Arrow needs no time for it
            distinct = _plain_text(distinct).cast(pa.date32())
    type_ = distinct.type
    if pa.types.is_date(type_):
        days = distinct.cast(pa.timestamp("us"), safe=False).to_numpy(zero_copy_only=False)
        days = days.astype("datetime64[D]").astype("datetime64[us]")
    elif pa.types.is_timestamp(type_) or _is_text(type_) or _is_number(type_):
        days = _days_of(_times(distinct, day_first)).to_numpy("datetime64[us]")
    else:
        days = np.full(len(distinct), "NaT", "datetime64[us]")
    return np.where((days >= EARLIEST) & (days <= LATEST), days, np.datetime64("NaT", "us"))


def _days_of(times):
    """The days that times stand for, see `parse_days`."""
    times = times.dt.tz_convert(None).dt.as_unit("us")
    midnight = times.dt.normalize()
    return midnight.where(times == midnight, (times - pd.Timedelta(hours=12)).dt.normalize())


def _times(distinct, day_first):
    type_ = distinct.type
    if pa.types.is_timestamp(type_):
        cells = distinct.cast(pa.timestamp("us", type_.tz), safe=False)
        return pd.Series(pd.to_datetime(cells.to_pandas(), utc=True))
    text = distinct.cast(pa.string()) if not _is_text(type_) else _plain_text(distinct)
    if not pa.types.is_integer(type_) and _is_number(type_):
        text = pa.array([format(each, "f") for each in distinct.to_pylist()], pa.string())
    return _parse_times(text.to_pandas().astype("str").str.strip(), day_first)


def _parse_times(text, day_first):
    text = text.str.replace(r"\s*(?:UTC|GMT)$", "Z", regex=True)
    iso = text.where(text.str.fullmatch(ISO_DAY))
    parsed = pd.to_datetime(iso, errors="coerce", utc=True, format="ISO8601").dt.as_unit("us")
    if parsed.isna().any():
        named = text.str.replace(r"(?<=\d)(?:st|nd|rd|th)\b|\.(?=\s)|Z$", "", regex=True)
        named = named.str.replace(r"\bSept\b", "Sep", regex=True)
        for form in NAMED_DAYS:
            found = pd.to_datetime(named, errors="coerce", utc=True, format=form)
            parsed = parsed.fillna(found.dt.as_unit("us"))
        if day_first is not None:
            order = r"\4-\3-\1" if day_first else r"\4-\1-\3"
            either = text.where(text.str.fullmatch(EITHER_DAY))
            either = either.str.replace(f"^{EITHER_DAY}$", rf"{order} \5", regex=True).str.strip()
            found = pd.to_datetime(either, errors="coerce", utc=True, format="mixed")
            parsed = parsed.fillna(found.dt.as_unit("us"))
    if not parsed.isna().any():
        return parsed
    whole = text.str.extract(r"^(\d+)(?:\.\d*)?$")[0]
    seconds = pd.to_numeric(whole) / whole.str.len().map(UNIX_UNITS)
    return parsed.fillna(pd.to_datetime(seconds, unit="s", utc=True).dt.as_unit("us"))


def parse_names(cells):
    """Names without padding as an Arrow column of texts, and which of them are unknown.

    `cells` is an Arrow column. Raises ValueError where they are no texts.
    """
    if not (_is_text(cells.type) or pa.types.is_null(cells.type)):
        raise ValueError(f"expected names as text, got {cells.type}")
    names = pc.utf8_trim_whitespace(_plain_text(cells))
    unknown = pc.is_in(names, pa.array([*UNKNOWN_NAMES, None], pa.string()))
    return names, unknown.to_numpy(zero_copy_only=False)


def shown(value):
    """A cell in a message, as what it is."""
    if value is None or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return "nothing"
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _is_number(type_):
    return pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)


def _is_text(type_):
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(kind(type_) for kind in kinds)


def _without_unknown(cells):
    """The texts without padding, null where they say that a value is not known."""
    texts = pc.utf8_trim_whitespace(_plain_text(cells))
    return pc.if_else(pc.is_in(pc.utf8_lower(texts), pa.array(UNKNOWN)), None, texts)


def _plain_text(cells):
    return cells if pa.types.is_string(cells.type) else cells.cast(pa.string())
