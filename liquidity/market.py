"""Snapshot files in, one checked frame out; owns the column names and MarketDataError."""

import glob
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
from pandera.errors import SchemaErrors
from pyarrow import csv

KEYS = ["coin", "date"]
PRICE, CHANGE_1H, VOLUME, MARKET_CAP = "price", "1h", "24h_volume", "mkt_cap"
NUMBERS = [PRICE, CHANGE_1H, "24h", "7d", VOLUME, MARKET_CAP, "liquidity"]
COLUMNS = ["date", "coin", "symbol", *NUMBERS]
ALIASES = {"volume": VOLUME}
SUFFIXES = (".csv", ".csv.gz", ".parquet")
# Without these a row has no target or no complete set of inputs.
REQUIRED = (VOLUME, MARKET_CAP, PRICE, CHANGE_1H)
LARGEST = 1e18  # no price, volume or capitalisation in USD comes near it
UNKNOWN = {"", "-", "--", "?", "n/a", "na", "nan", "none", "null"}
MONEY = r"-?\$?-?\d{1,3}(?:,\d{3})+(?:\.\d*)?|-?\$-?(?:\d+(?:\.\d*)?|\.\d+)"
OUTLIER_COLUMNS = [PRICE, VOLUME, MARKET_CAP]
PROBLEMS_SHOWN = 20


class MarketDataError(ValueError):
    """The market data cannot be used; the message names file, column, row and value."""


@dataclass(frozen=True)
class Cleaning:
    """What was read and what was left out, row counts by reason."""

    files: list[str]
    rows_read: int
    rows_used: int
    dropped: dict[str, int]

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
    frame = pd.concat(frames, ignore_index=True)
    used, dropped = _drop_unusable(frame, required)
    if used.empty:
        counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise MarketDataError(
            f"{source}: none of the {len(frame)} rows can be used ({counts}); expected at least "
            f"one row that knows {', '.join(required)}."
        )
    return used, Cleaning([str(p) for p in paths], len(frame), len(used), dropped)


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
    return trimmed, Cleaning(cleaning.files, cleaning.rows_read, len(trimmed), dropped)


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


def _read_file(path, required):
    """One file as a frame of known columns, and its problems as sentences."""
    try:
        raw = _parse(path)
    except (OSError, ValueError, arrow.ArrowException) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error) else repr(error)
        return None, [f"{path}: cannot be read as {_kind(path)}: {reason}."]
    raw.columns = [ALIASES.get(name, name) for name in (str(c).strip() for c in raw.columns)]
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
        convert = _numbers if name in NUMBERS else _days if name == "date" else _names
        frame[name], wrong, expected = convert(raw[name])
        problems += [
            _cell_problem(path, name, row, expected, raw[name].iloc[row])
            for row in np.flatnonzero(wrong)
        ]
    return frame, problems + _broken_rules(path, frame)


def _parse(path):
    if path.name.endswith(".parquet"):
        return pd.read_parquet(path)
    # Every cell as text: so an error can show what stands in the file. Arrow refuses rows that are
    # longer or shorter than the header, which pandas cuts and fills.
    # Without threads its errors name the row.
    serial = csv.ReadOptions(use_threads=False)
    with csv.open_csv(path, read_options=serial) as head:
        as_text = csv.ConvertOptions(column_types=dict.fromkeys(head.schema.names, arrow.string()))
    return csv.read_csv(path, read_options=serial, convert_options=as_text).to_pandas()


def _kind(path):
    return "Parquet" if path.name.endswith(".parquet") else "CSV"


def _numbers(cells):
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
    days = pd.to_datetime(cells, errors="coerce", utc=True, format="ISO8601")
    return days.dt.tz_convert(None).dt.normalize(), days.isna().to_numpy(), "a date (2022-03-16)"


def _names(cells):
    names = cells.astype("str").str.strip()
    wrong = (cells.isna() | (names == "")) if cells.name == "coin" else np.zeros(len(cells), bool)
    return names, np.asarray(wrong), "a name"


def _rule(lowest, *, above=False, largest=LARGEST):
    lower = (
        pa.Check.gt(lowest, error=f"a number > {lowest:g}")
        if above
        else pa.Check.ge(lowest, error=f"a number >= {lowest:g}")
    )
    return pa.Column(
        float,
        [lower, pa.Check.le(largest, error=f"a finite number <= {largest:g}")],
        nullable=True,
        required=False,
    )


SCHEMA = pa.DataFrameSchema(
    {
        PRICE: _rule(0),
        VOLUME: _rule(0),
        MARKET_CAP: _rule(0),
        "liquidity": _rule(0),
        **{change: _rule(-1) for change in (CHANGE_1H, "24h", "7d")},
    }
)


def _broken_rules(path, frame):
    try:
        SCHEMA.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases.sort_values(["index", "column"], kind="stable")
        return [
            _cell_problem(path, case.column, int(case.index), case.check, case.failure_case)
            for case in cases.itertuples(index=False)
        ]
    return []


def _cell_problem(path, column, row, expected, value):
    """Rows count as a spreadsheet and Arrow count them: the header is row 1."""
    value = value if isinstance(value, str) else float(value) if np.isreal(value) else value
    return f"{path}, row {row + 2}, column {column}: expected {expected}, got {value!r}."


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
