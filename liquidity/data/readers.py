"""Snapshot files in, their cells as text out: which file, which format, which columns."""

import glob
import gzip
import json
import zlib
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as arrow
from pyarrow import csv

from liquidity.contract import ALIASES, CHANGES, COIN, DATE, MARKET_CAP, NUMBERS, PRICE, VOLUME
from liquidity.data.cells import DECIMAL_COMMA, MONEY
from liquidity.errors import MarketDataError, first_line
from liquidity.processes import bounded_memory

# What CoinGecko's /coins/markets calls our columns; its changes are percent.
API_CHANGES = {f"price_change_percentage_{change}_in_currency": change for change in CHANGES}
API_NAMES = {
    "last_updated": DATE,
    "name": COIN,
    "current_price": PRICE,
    "total_volume": VOLUME,
    "market_cap": MARKET_CAP,
    **API_CHANGES,
}
# Of memory, by what is read of one file: more than any market's history takes.
READ_BYTES = 8 * 2**30
SUFFIXES = (".csv", ".csv.gz", ".json", ".json.gz", ".parquet")


class Cells(NamedTuple):
    """A file's cells as they are in it."""

    raw: pd.DataFrame
    first_row: int = 2  # as in a spreadsheet: the header is row 1
    percent: tuple[str, ...] = ()  # columns to divide by 100


def snapshot_files(source):
    """The files of a source, which is a file, a folder or a glob, in the order of their names."""
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


def column_name(header):
    """The column that a header means."""
    name = str(header).strip()
    return ALIASES.get(name, name)


def read_cells(path):
    """The cells of one file; raises MarketDataError where it is not what its name says."""
    try:
        with bounded_memory(READ_BYTES):
            return _parse(path)
    except (MemoryError, SystemError) as error:
        raise MarketDataError(too_large(path)) from error
    except (
        OSError,
        ValueError,
        EOFError,
        RecursionError,
        zlib.error,
        arrow.ArrowException,
    ) as error:
        reason = first_line(error) if str(error) else repr(error)
        raise MarketDataError(f"{path}: cannot be read as {_kind(path)}: {reason}.") from error


def too_large(path):
    """The sentence for a file that is more than memory holds once it is read."""
    return (
        f"{path}: takes more than {READ_BYTES / 2**30:g} GiB of memory to read, or more than this "
        "machine has: split it, or leave out columns that are not needed."
    )


def _parse(path):
    if path.name.endswith(".parquet"):
        return Cells(pd.read_parquet(path))
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # a spreadsheet's "Unicode text"
        content = content.decode("utf-16").encode()
    return api_cells(json.loads(content)) if _kind(path) == "JSON" else _csv_cells(content)


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
    return Cells(raw if separator == "," else _decimal_points(raw))


def _decimal_points(raw):
    """Where a file is separated by semicolons or tabs because its numbers hold decimal commas,
    the same cells with points.

    Raises ValueError where the only commas are like that of 1,234, which can be either.
    """
    names = [name for name in raw.columns if column_name(name) in NUMBERS]
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


def api_cells(records):
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
        {
            name: pd.Series([_as_text(record.get(name)) for record in records], dtype="str")
            for name in names
        }
    )
    if "last_updated" in raw:
        # A coin that has no time of its own is as old as its page.
        raw["last_updated"] = raw["last_updated"].fillna(raw["last_updated"].max())
    if {"id", "name"} <= names.keys():
        # Names are not unique: the largest coin keeps its name, others add their id.
        namesake = raw["id"] != raw.groupby("name")["id"].transform("first")
        namesake &= raw["name"].notna() & raw["id"].notna()
        raw["name"] = raw["name"].mask(namesake, raw["name"] + " (" + raw["id"] + ")")
    percent = tuple(change for name, change in API_CHANGES.items() if name in names)
    return Cells(raw.rename(columns=API_NAMES), first_row=1, percent=percent)


def _as_text(value):
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _kind(path):
    if path.name.endswith(".parquet"):
        return "Parquet"
    return "JSON" if path.name.endswith((".json", ".json.gz")) else "CSV"
