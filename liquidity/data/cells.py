"""Cells of a column, as text or as a file's own types, to numbers, days and names."""

import numpy as np
import pandas as pd

from liquidity.contract import COIN

UNKNOWN = {"", "-", "--", "?", "n/a", "na", "nan", "none", "null"}
# Groups of three never start with 0: that comma is a decimal one.
MONEY = r"-?\$?-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|-?\$-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
DECIMAL_COMMA = r"-?\$?\d+,\d+(?:[eE][+-]?\d+)?"
ISO_DAY = r"(?:\d{4}([-/. ])\d{1,2}\1\d{1,2}|\d{8})(?:[T ].*)?"
# UNIX time as seconds or milliseconds, from Bitcoin's first block to the end of the century.
UNIX_UNITS, UNIX_RANGE = {10: 1, 13: 1000}, (1230940800, 4102444800)


def parse_numbers(cells):
    """float64 values with NaN for unknown, and which cells are no number at all."""
    expected = "a number"
    if pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_bool_dtype(cells):
        return cells.astype("float64"), np.zeros(len(cells), bool), expected
    text = cells.astype("str").str.strip()
    values = pd.to_numeric(text, errors="coerce").astype("float64")
    unknown = cells.isna() | text.str.lower().isin(UNKNOWN)
    rest = values.isna() & ~unknown
    money = rest & text.str.fullmatch(MONEY)
    values[money] = text[money].str.replace(r"[$,]", "", regex=True).astype("float64")
    values[unknown] = np.nan
    return values, (rest & ~money).to_numpy(), expected


def parse_days(cells):
    """UTC days of dates as ISO 8601, 28-Apr-13 or UNIX seconds or milliseconds write them."""
    # Few distinct ones: a panel repeats each date for every coin.
    codes, distinct = pd.factorize(cells)
    if pd.api.types.is_datetime64_any_dtype(distinct):
        days = pd.to_datetime(pd.Series(distinct), utc=True)
    else:
        days = _parse_days(pd.Series(distinct).astype("str").str.strip())
    days = days.dt.tz_convert(None).dt.normalize().reindex(codes)  # code -1 is a missing cell
    days.index = cells.index
    return days, days.isna().to_numpy(), "a date (2022-03-16)"


def _parse_days(text):
    iso = text.where(text.str.fullmatch(ISO_DAY))
    parsed = pd.to_datetime(iso, errors="coerce", utc=True, format="ISO8601").dt.as_unit("us")
    for form in ("%d-%b-%y", "%d-%b-%Y"):
        named = pd.to_datetime(text, errors="coerce", utc=True, format=form)
        parsed = parsed.fillna(named.dt.as_unit("us"))
    whole = text.str.extract(r"^(\d+)(?:\.\d*)?$")[0]
    seconds = pd.to_numeric(whole) / whole.str.len().map(UNIX_UNITS)
    seconds = seconds.where(seconds.between(*UNIX_RANGE))
    return parsed.fillna(pd.to_datetime(seconds, unit="s", utc=True).dt.as_unit("us"))


def parse_names(cells):
    """Names without padding, and which of them are missing though a row needs one."""
    names = cells.astype("str").str.strip()
    wrong = (cells.isna() | (names == "")) if cells.name == COIN else np.zeros(len(cells), bool)
    return names, np.asarray(wrong), "a name"
