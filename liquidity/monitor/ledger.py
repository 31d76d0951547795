"""The ledger: which forecasts a version has made, and what came of them, as files.

    LEDGER/crypto-liquidity-7d/v3/forecast-2026-06-30.parquet   made on that day, a row per coin
    LEDGER/crypto-liquidity-7d/v3/outcome-2026-07-07.parquet    for that day, with `actual`
    LEDGER/crypto-liquidity-7d/v3/reference.json                what the version is compared with

A file appears when it is complete, and is never written again: the outcome file is the truth about
what has been scored, and all figures come from it. So a kill at any moment leaves a day either
scored or not, and a day is scored once whatever arrives later.

Who wants to show forecasts (a server, a notebook) needs no lock: the newest file of a folder by its
name holds what the version says of every coin, in the columns of LEDGER_COLUMNS, and the version's
tags in the registry, which come with the version, how its forecasts have turned out.
"""

import json
import re
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from liquidity.contract import ACTUAL, LEDGER_COLUMNS, MADE_ON, TARGET_DATE
from liquidity.errors import MarketDataError, first_line
from liquidity.locks import locked_folder
from liquidity.output import replaced

FORECAST, OUTCOME = "forecast", "outcome"
CLOCK = b"clock"  # in a forecast file's metadata: the day on which it was made, by the clock
EPOCH = date(1970, 1, 1)
REFERENCE = "reference.json"


class Version(NamedTuple):
    """A version's place in the ledger."""

    ledger: Path
    name: str
    number: str
    horizon: int

    @property
    def folder(self):
        """The folder of its files."""
        return self.ledger / self.name / f"v{self.number}"

    def file(self, kind, day):
        """The FORECAST made on a day, or the OUTCOME for it; days since 1970."""
        return self.folder / f"{kind}-{as_date(day)}.parquet"

    def days(self, kind):
        """The days since 1970 of its files of a kind, ascending."""
        names = (
            re.fullmatch(rf"{kind}-(\d{{4}}-\d\d-\d\d)\.parquet", path.name)
            for path in (self.folder.iterdir() if self.folder.is_dir() else ())
        )
        return sorted(as_day(date.fromisoformat(name[1])) for name in names if name)

    def __str__(self):
        return f"{self.name} version {self.number}"


def as_date(day):
    """The date of a day since 1970."""
    return date.fromordinal(EPOCH.toordinal() + int(day))


def as_day(date_):
    """The day since 1970 of a date."""
    return date_.toordinal() - EPOCH.toordinal()


def horizon_of(name, model_name):
    """The horizon in the name of a forecast model, or None where it is none of `model_name`'s."""
    found = re.fullmatch(re.escape(model_name) + r"-([1-9]\d?)d", name)
    return int(found[1]) if found else None


def versions(ledger, model_name):
    """The Versions of `model_name` that have a folder in the ledger, by horizon and number.

    Raises MarketDataError where there is none.
    """
    found, others = [], set()
    for folder in sorted(ledger.glob("*/v*")):
        name, number = folder.parent.name, folder.name[1:]
        horizon = horizon_of(name, model_name)
        if horizon is None:
            others.add(name)
        elif number.isdigit():
            found.append(Version(ledger, name, number, horizon))
    if not found:
        instead = f" It holds those of {', '.join(sorted(others))}: name" if others else " Name"
        raise MarketDataError(
            f"{ledger}: holds no forecast of {model_name}-...d.{instead} another --ledger or "
            "--model-name, or make forecasts first (python -m liquidity.monitor forecast)."
        )
    return sorted(found, key=lambda each: (each.horizon, int(each.number)))


@contextmanager
def locked(ledger):
    """Hold the ledger for writing; makes its folder. Others wait, for up to a minute."""
    ledger.mkdir(parents=True, exist_ok=True)
    with locked_folder(ledger):
        yield


def write(path, table, *, clock=None):
    """Write a table under a new name, all of it or nothing; returns whether it was not there."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pa.Table.from_pandas(table, preserve_index=False)
    if clock is not None:
        rows = rows.replace_schema_metadata({**rows.schema.metadata, CLOCK: str(clock).encode()})
    with replaced(path) as file:
        pq.write_table(rows, file)
    return True


def read(version, kind, day):
    """The table of one file; raises MarketDataError where it is not what its place says."""
    path = version.file(kind, day)
    columns = LEDGER_COLUMNS + ([ACTUAL] if kind == OUTCOME else [])
    try:
        # Not pq.read_table: of one file that looks for a data set first, at twice the cost.
        table = pq.ParquetFile(path).read(columns).to_pandas()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise MarketDataError(
            f"{path}: cannot be read as a file of the ledger: {first_line(error)}. Move it away, "
            "and the day is done again."
        ) from error
    date_, of = pd.Timestamp(as_date(day)), MADE_ON if kind == FORECAST else TARGET_DATE
    for column, expected in (
        ("model", version.name),
        ("version", version.number),
        ("horizon", version.horizon),
        (of, date_),
    ):
        got = table[column].unique() if column in table else ["nothing"]
        unlike = [value for value in got if value != expected]
        if unlike:
            raise MarketDataError(
                f"{path}, column {column}: expected {expected} in every row, got {unlike[0]}: the "
                "file belongs elsewhere; move it away."
            )
    return table


def clocks(version, last):
    """How many days before the clock's the last `last` forecasts were made, oldest first; those
    that do not say are left out.
    """
    lags = []
    for day in version.days(FORECAST)[-last:]:
        try:
            found = (pq.read_schema(version.file(FORECAST, day)).metadata or {}).get(CLOCK)
        except (OSError, pa.ArrowException):
            continue
        if found:
            lags.append(int(found) - day)
    return lags


def read_reference(version):
    """The JSON object that `write_reference` has written, or None where there is none."""
    path = version.folder / REFERENCE
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise MarketDataError(
            f"{path}: cannot be read: {first_line(error)}. Remove it: it is made again."
        ) from error


def write_reference(version, reference):
    """Keep what a version is compared with, a JSON object."""
    version.folder.mkdir(parents=True, exist_ok=True)
    with replaced(version.folder / REFERENCE, overwrite=True) as file:
        file.write(json.dumps(reference, indent=1).encode())
