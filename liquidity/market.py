"""Snapshot files in, one checked frame out; owns the column names and MarketDataError."""

import glob
import gzip
import json
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
from pandera.errors import SchemaErrors
from pyarrow import csv

KEYS = ["coin", "date"]
PRICE, CHANGE_1H, VOLUME, MARKET_CAP = "price", "1h", "24h_volume", "mkt_cap"
CHANGES = [CHANGE_1H, "24h", "7d"]
NUMBERS = [PRICE, *CHANGES, VOLUME, MARKET_CAP, "liquidity"]
COLUMNS = ["date", "coin", "symbol", *NUMBERS]
ALIASES = {"volume": VOLUME}
# What CoinGecko's /coins/markets calls our columns; its changes are percent.
API_CHANGES = {f"price_change_percentage_{change}_in_currency": change for change in CHANGES}
API_NAMES = {
    "last_updated": "date", "name": "coin", "current_price": PRICE, "total_volume": VOLUME,
    "market_cap": MARKET_CAP, **API_CHANGES,
}  # fmt: skip
SUFFIXES = (".csv", ".csv.gz", ".json", ".json.gz", ".parquet")
# Without these a row has no target or no complete set of inputs.
REQUIRED = (VOLUME, MARKET_CAP, PRICE, CHANGE_1H)
LARGEST = 1e18  # no price, volume or capitalisation in USD comes near it
UNKNOWN = {"", "-", "--", "?", "n/a", "na", "nan", "none", "null"}
# Groups of three never start with 0: that comma is a decimal one.
MONEY = r"-?\$?-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|-?\$-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
DECIMAL_COMMA = r"-?\$?\d+,\d+(?:[eE][+-]?\d+)?"
ISO_DAY = r"(?:\d{4}([-/. ])\d{1,2}\1\d{1,2}|\d{8})(?:[T ].*)?"
# UNIX time as seconds or milliseconds, from Bitcoin's first block to the end of the century.
UNIX_UNITS, UNIX_RANGE = {10: 1, 13: 1000}, (1230940800, 4102444800)
OUTLIER_COLUMNS = [PRICE, VOLUME, MARKET_CAP]
PROBLEMS_SHOWN = 20
# The median of |1h| over a market, on quiet and on wild days: 0.0013 to 0.027 on 48 month starts.
USUAL_1H = (0.0005, 0.1)
LEAST_CHANGES = 20


class MarketDataError(ValueError):
    """The market data cannot be used; the message names file, column, row and value."""


@dataclass(frozen=True)
class Cleaning:
    """What was read, what was left out, as row counts by reason, and what looks doubtful."""

    files: list[str]
    rows_read: int
    rows_used: int
    dropped: dict[str, int]
    warnings: tuple[str, ...] = ()

    def to_dict(self):
        """What goes into cleaning.json."""
        return asdict(self)


def read_market(source, *, required=REQUIRED):
    """Read, check and clean the snapshots at `source`: a file, a folder or a glob.

    Rows keep their order within a file, and files come in the order of their names: a forest
    depends on the order of its rows. `required` names the number columns that a row must know.

    Returns `(frame, cleaning)`; the frame has the columns of COLUMNS that the files hold, changes
    as fractions, money in USD, `date` as a day.
    Raises MarketDataError with every problem of every file.
    """
    paths = _snapshot_files(source)
    frames, problems = [], []
    for path in paths:
        frame, found = _read_file(path, required)
        frames.append(frame)
        problems += found
    if problems:
        raise MarketDataError(_report(problems))
    doubts = [_unusual_changes(path, frame) for path, frame in zip(paths, frames, strict=True)]
    frame = pd.concat(frames, ignore_index=True)
    used, dropped = _drop_unusable(frame, required)
    if used.empty:
        counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise MarketDataError(
            f"{source}: none of the {len(frame)} rows can be used ({counts}); expected at least "
            f"one row that knows {', '.join(required)}."
        )
    files, warnings = [str(path) for path in paths], tuple(filter(None, doubts))
    return used, Cleaning(files, len(frame), len(used), dropped, warnings)


def api_frame(records, *, origin):
    """The coins of CoinGecko's `/coins/markets`, a list of dicts, as a checked frame.

    It has the columns of COLUMNS, changes as fractions; null is NaN. `origin` is what an error
    names as the place. Raises MarketDataError for anything but coins of the documented form.
    """
    try:
        cells = _api_cells(records)
    except ValueError as error:
        raise MarketDataError(f"{origin}: {error}.") from error
    frame, problems = _check_cells(cells, origin, REQUIRED)
    if problems:
        raise MarketDataError(_report(problems))
    return frame


def trim_outliers(frame, cleaning):
    """Drop rows outside Tukey's fences (quartiles -/+ 1.5 interquartile ranges) of price,
    24h_volume or mkt_cap; the fences come from all rows, once.

    Returns the trimmed frame and a Cleaning that counts what went.
    """
    low, high = frame[OUTLIER_COLUMNS].quantile(0.25), frame[OUTLIER_COLUMNS].quantile(0.75)
    reach = 1.5 * (high - low)
    inside = frame[OUTLIER_COLUMNS].ge(low - reach) & frame[OUTLIER_COLUMNS].le(high + reach)
    trimmed = frame[inside.all(axis=1)].reset_index(drop=True)
    dropped = cleaning.dropped | {"outlier": len(frame) - len(trimmed)}
    return trimmed, replace(cleaning, rows_used=len(trimmed), dropped=dropped)


def _snapshot_files(source):
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES) and p.is_file())
        missing = f"holds no snapshot; expected files that end in {', '.join(SUFFIXES)}"
    elif path.exists():
        found, missing = [path], ""
    else:
        found = sorted(Path(p) for p in glob.glob(str(source)) if Path(p).is_file())
        missing = f"no such file, folder or glob (looked from {Path.cwd()})"
    if not found:
        raise MarketDataError(f"{source}: {missing}.")
    return found


class _Cells(NamedTuple):
    """A file's cells as they stand in it."""

    raw: pd.DataFrame
    first_row: int = 2  # as in a spreadsheet: the header is row 1
    percent: tuple[str, ...] = ()  # columns to divide by 100


def _read_file(path, required):
    """One file as a frame of known columns, and its problems as sentences."""
    try:
        cells = _parse(path)
    except (OSError, ValueError, EOFError, RecursionError, zlib.error,
            arrow.ArrowException) as error:  # fmt: skip
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error) else repr(error)
        return None, [f"{path}: cannot be read as {_kind(path)}: {reason}."]
    return _check_cells(cells, path, required)


def _check_cells(cells, path, required):
    raw = cells.raw
    raw.columns = [_column(name) for name in raw.columns]
    problems = []
    repeated = raw.columns[raw.columns.duplicated()].unique()
    problems += [f"{path}, column {name}: stands there more than once." for name in repeated]
    problems += [
        f"{path}, column {name}: missing; the file has {', '.join(raw.columns) or 'no columns'}."
        for name in (*KEYS, *required)
        if name not in raw.columns
    ]
    if problems:
        return None, problems
    if raw.empty:
        return None, [f"{path}: has a header but no rows."]
    frame = pd.DataFrame(index=raw.index)
    for name in [c for c in COLUMNS if c in raw.columns]:
        convert = parse_numbers if name in NUMBERS else _days if name == "date" else _names
        values, wrong, expected = convert(raw[name])
        frame[name] = values / 100 if name in cells.percent else values
        rows = np.flatnonzero(wrong)
        problems += [
            _cell_problem(path, name, row, expected, value)
            for row, value in zip(rows + cells.first_row, raw[name].iloc[rows], strict=True)
        ]
    return frame, problems + _broken_rules(path, frame, cells.first_row)


def _column(header):
    name = str(header).strip()
    return ALIASES.get(name, name)


def _parse(path):
    if path.name.endswith(".parquet"):
        return _Cells(pd.read_parquet(path))
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # a spreadsheet's "Unicode text"
        content = content.decode("utf-16").encode()
    return _api_cells(json.loads(content)) if _kind(path) == "JSON" else _csv_cells(content)


def _csv_cells(content):
    header = content.partition(b"\n")[0]
    separator = max(b",;\t".decode(), key=lambda character: header.count(character.encode()))
    # Every cell as text: so an error can show what stands in the file. Arrow refuses rows that are
    # longer or shorter than the header, which pandas cuts and fills.
    # Without threads its errors name the row.
    serial = csv.ReadOptions(use_threads=False)
    parse = csv.ParseOptions(delimiter=separator)
    with csv.open_csv(arrow.BufferReader(content), serial, parse) as head:
        as_text = csv.ConvertOptions(column_types=dict.fromkeys(head.schema.names, arrow.string()))
    raw = csv.read_csv(arrow.BufferReader(content), serial, parse, as_text).to_pandas()
    return _Cells(raw if separator == "," else _decimal_points(raw))


def _decimal_points(raw):
    """Where a file is separated by semicolons or tabs because its numbers hold decimal commas,
    the same cells with points.

    Raises ValueError where the only commas are like that of 1,234, which can be either.
    """
    names = [name for name in raw.columns if _column(name) in NUMBERS]
    numbers = pd.concat([raw[name] for name in names] or [pd.Series(dtype="str")]).dropna()
    commas = numbers[numbers.str.contains(",", regex=False)].str.strip()
    if commas.empty or numbers.str.contains(".", regex=False).any():
        return raw
    if commas.str.count(",").max() > 1:
        return raw
    if commas.str.fullmatch(MONEY).all():
        raise ValueError(
            f"the comma of {commas.iloc[0]!r} may part thousands or decimals; write a point for "
            "decimals and nothing for thousands"
        )
    decimal = {
        name: raw[name].where(
            ~raw[name].str.strip().str.fullmatch(DECIMAL_COMMA).fillna(False).astype(bool),
            raw[name].str.replace(",", "."),
        )
        for name in names
    }
    return raw.assign(**decimal)


def _api_cells(records):
    """The cells of a list of coins, as text; raises ValueError where it is no such list."""
    if not isinstance(records, list):
        got = json.dumps(records)
        got = got if len(got) <= 100 else got[:100] + "..."
        raise ValueError(f"expected a list of coins as /coins/markets answers, got {got}")
    if not records:
        raise ValueError("the list of coins is empty")
    odd = next((n for n, record in enumerate(records, 1) if not isinstance(record, dict)), None)
    if odd:
        raise ValueError(f"row {odd}: expected a coin as an object, got {records[odd - 1]!r}")
    names = dict.fromkeys(name for record in records for name in record)
    raw = pd.DataFrame(
        {name: pd.Series([_text(record.get(name)) for record in records], dtype="str")
         for name in names}
    )  # fmt: skip
    if "last_updated" in raw:
        # A coin that has no time of its own is as old as its page.
        raw["last_updated"] = raw["last_updated"].fillna(raw["last_updated"].max())
    if {"id", "name"} <= names.keys():
        # Names are not unique: the largest coin keeps its name, others add their id.
        namesake = raw["id"] != raw.groupby("name")["id"].transform("first")
        namesake &= raw["name"].notna() & raw["id"].notna()
        raw["name"] = raw["name"].mask(namesake, raw["name"] + " (" + raw["id"] + ")")
    percent = tuple(change for name, change in API_CHANGES.items() if name in names)
    return _Cells(raw.rename(columns=API_NAMES), first_row=1, percent=percent)


def _text(value):
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _kind(path):
    if path.name.endswith(".parquet"):
        return "Parquet"
    return "JSON" if path.name.endswith((".json", ".json.gz")) else "CSV"


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


def _days(cells):
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


def _names(cells):
    names = cells.astype("str").str.strip()
    wrong = (cells.isna() | (names == "")) if cells.name == "coin" else np.zeros(len(cells), bool)
    return names, np.asarray(wrong), "a name"


def _rule(lowest, *, hint=""):
    return pa.Column(
        float,
        [
            pa.Check.ge(lowest, error=f"a number >= {lowest:g}{hint}"),
            pa.Check.le(LARGEST, error=f"a finite number <= {LARGEST:g}"),
        ],
        nullable=True,
        required=False,
    )


SCHEMA = pa.DataFrameSchema(
    {
        PRICE: _rule(0),
        VOLUME: _rule(0),
        MARKET_CAP: _rule(0),
        "liquidity": _rule(0),
        **{change: _rule(-1, hint=" (a fraction: 0.022 is 2.2 %)") for change in CHANGES},
    }
)


def _broken_rules(path, frame, first_row):
    try:
        SCHEMA.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases.sort_values(["index", "column"], kind="stable")
        return [
            _cell_problem(
                path, case.column, int(case.index) + first_row, case.check, case.failure_case
            )
            for case in cases.itertuples(index=False)
        ]
    return []


def _cell_problem(path, column, row, expected, value):
    value = value if isinstance(value, str) else float(value) if np.isreal(value) else value
    return f"{path}, row {row}, column {column}: expected {expected}, got {value!r}."


def _unusual_changes(path, frame):
    """A sentence where 1h looks like percent, or like fractions taken for percent; else None."""
    known = frame[CHANGE_1H].dropna().abs() if CHANGE_1H in frame else []
    if len(known) < LEAST_CHANGES:
        return None
    median, (low, high) = known.median(), USUAL_1H
    if low <= median <= high:
        return None
    suspicion = "are these percent?" if median > high else "were they divided by 100 twice?"
    return (
        f"{path}, column {CHANGE_1H}: half of the changes are beyond {median:.2g}, usual is "
        f"{low} to {high}; changes are fractions (0.022 is 2.2 %): {suspicion}"
    )


def _report(problems):
    if len(problems) == 1:
        return problems[0]
    shown = [f"  {problem}" for problem in problems[:PROBLEMS_SHOWN]]
    if len(problems) > PROBLEMS_SHOWN:
        shown.append(f"  and {len(problems) - PROBLEMS_SHOWN} more.")
    return "\n".join([f"{len(problems)} problems in the market data; mend or remove:", *shown])


def _drop_unusable(frame, required):
    """Usable rows in their order, and how many went for which reason; the first reason counts."""
    reasons = [(f"unknown {name}", frame[name].isna()) for name in required]
    reasons.append(("mkt_cap 0", frame[MARKET_CAP] == 0))
    keep = pd.Series(True, index=frame.index)
    dropped = {}
    for reason, unusable in reasons:
        dropped[reason] = int((keep & unusable).sum())
        keep &= ~unusable
    # Only among usable rows: an unusable later row must not push out a usable earlier one.
    used = frame[keep]
    repeated = used.duplicated(KEYS, keep="last")
    dropped["duplicate coin and date"] = int(repeated.sum())
    used = used[~repeated].reset_index(drop=True)
    return used, {reason: count for reason, count in dropped.items() if count}
