"""The history of a folder of snapshots: what is there already, and what a fetch adds to it.

A fetch writes one Parquet file when it ends, `coingecko-history_<UTC time>_<days>d.parquet`: its
coins are covered from `days` days before that time on, by this file or by earlier ones. Until then
a journal, a line of JSON per coin, has what came: a line is there or is not, whenever the process
is killed. Files per coin would need neither, but 2,500 of them take 20 times as long to read as
one CSV file and 200 times as long as one Parquet file.
"""

import fcntl
import json
import os
import re
from datetime import date, datetime, timedelta
from itertools import chain

import pyarrow as arrow
from pyarrow import parquet

from liquidity.contract import (
    CHANGE_1H,
    COIN,
    DATE,
    ID,
    MARKET_CAP,
    PRICE,
    SYMBOL,
    VOLUME,
)
from liquidity.errors import MarketDataError, first_line
from liquidity.output import replaced

JOURNAL = ".coingecko-history.jsonl"
# The hyphen sorts before the underscore of a snapshot's name: of a day that both have, the
# snapshot, which is read later and knows more, counts.
NAME = "coingecko-history_{started}_{days}d.parquet"
PATTERN = re.compile(r"coingecko-history_(\d{4}-\d\d-\d\d)T\d{6}Z_(\d+)d\.parquet")
TIME = "%Y-%m-%dT%H%M%SZ"
SCHEMA = arrow.schema(
    [
        (DATE, arrow.timestamp("us")),
        (ID, arrow.string()),
        (COIN, arrow.string()),
        (SYMBOL, arrow.string()),
        (PRICE, arrow.float64()),
        (CHANGE_1H, arrow.float64()),  # unknown: so that a file is read for every horizon
        (VOLUME, arrow.float64()),
        (MARKET_CAP, arrow.float64()),
    ]
)
GROUP = 100_000  # rows in memory while a file is written
# The point of yesterday's end is there half an hour after midnight, if nothing is late.
SETTLED = timedelta(days=2)


def covered(out):
    """`{id: (first, last)}`: the days from and to which the history in a folder has a coin.

    `first` is what was asked for: a coin may be younger. Raises MarketDataError for a file that
    cannot be read.
    """
    known = {}
    for path in sorted(out.iterdir()):
        if not (named := PATTERN.fullmatch(path.name)):
            continue
        try:
            start = date.fromisoformat(named[1]) - timedelta(days=int(named[2]))
            rows = parquet.read_table(path, columns=[ID, DATE])
            newest = rows.group_by(ID).aggregate([(DATE, "max")])
            pairs = zip(*(newest[name].to_pylist() for name in (ID, f"{DATE}_max")), strict=True)
            reached = {coin: last.date() for coin, last in pairs}
        except (OSError, ValueError, OverflowError, AttributeError, arrow.ArrowException) as error:
            raise MarketDataError(
                f"{path}: cannot be read as a history ({first_line(error)}): remove it, and its "
                "coins are asked for again."
            ) from error
        for coin, last in reached.items():
            first, before = known.get(coin, (None, None))
            # What is not known from the day after on is a gap, and what lies before it is no use.
            joined = before is not None and start <= before + timedelta(days=1)
            known[coin] = (
                min(first, start) if joined else start,
                max(before, last) if before else last,
            )
    return known


def days_missing(known, *, days, today):
    """How many days to ask for so that the history has the last `days` days of a coin; 0 for none.

    `known` is the coin's `(first, last)` of `covered`, or None. The last known day is asked for
    again: it may have been written before it was over.
    """
    wanted = today - timedelta(days=days)
    if known is None or known[0] > wanted or known[1] < wanted:
        return days
    return 0 if known[1] >= today - SETTLED else min(days, (today - known[1]).days + 1)


class Journal:
    """What a fetch of `days` days has brought so far, in the folder `out`.

    A context manager: nobody else can write in the folder's journal meanwhile. What a fetch of the
    same days left today is taken over; an older one's is made a file first. `ids` are the coins
    that it has, `rows` how many days of them. Raises MarketDataError where another process has it.
    """

    def __init__(self, out, *, days, now):
        self._out, self._path = out, out / JOURNAL
        self._days, self._now = days, now

    def __enter__(self):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._take_over()
        except BlockingIOError:
            os.close(self._file)
            raise MarketDataError(
                f"{self._out}: another process is fetching history into it; wait until it is done."
            ) from None
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *_):
        os.close(self._file)

    def add(self, coin, rows):
        """Keep a coin's rows; they are on the disk when this returns."""
        name, symbol = " ".join(coin["name"].split()), coin.get("symbol")
        symbol = symbol if isinstance(symbol, str) else None
        if self._header is None:
            self._begin()
        self._append({"id": coin["id"], "name": name, "symbol": symbol, "rows": rows})
        self.ids.add(coin["id"])
        self.rows += len(rows)

    def publish(self):
        """Make the coins a file of the folder; returns it, or None where there are no rows.

        Killed in the middle, it is done again by the next fetch.
        """
        header, path = self._header, None
        if header:
            path = self._out / NAME.format(started=header["started"], days=header["days"])
            path = path if self._write_parquet(path) else None
        os.ftruncate(self._file, 0)
        self._header, self.ids, self.rows = None, set(), 0
        return path

    def _take_over(self):
        """Cut off a line that is not whole, and go on with the rest or make it a file."""
        end, self._header, self.ids, self.rows = 0, None, set(), 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    entry = json.loads(line)
                    if number == 1:
                        datetime.strptime(entry["started"], TIME)
                        self._header = {"started": entry["started"], "days": int(entry["days"])}
                    else:
                        self.rows += _table(entry).num_rows
                        self.ids.add(entry["id"])
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise MarketDataError(
                        f"{self._path}, line {number}: expected what a fetch has written, got "
                        f"{line[:40]!r}: remove the file, and its coins are asked for again."
                    ) from error
                end += len(line)
        os.ftruncate(self._file, end)
        today = f"{self._now:%Y-%m-%d}"
        header = self._header
        if header and (header["days"] != self._days or header["started"][:10] != today):
            self.publish()

    def _append(self, entry):
        """Add a line, all of it or nothing."""
        line = json.dumps(entry).encode() + b"\n"
        end = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except BaseException:  # a full disk, Ctrl-C
            os.ftruncate(self._file, end)
            raise

    def _begin(self):
        started = self._now
        while (self._out / NAME.format(started=f"{started:{TIME}}", days=self._days)).exists():
            started += timedelta(seconds=1)
        header = {"started": f"{started:{TIME}}", "days": self._days}
        self._append(header)
        self._header = header

    def _write_parquet(self, path):
        """Write the journal's rows, by the group; returns whether there are any."""
        with self._path.open("rb") as lines:
            next(lines)
            entries = (entry for entry in map(json.loads, lines) if entry["rows"])
            if (first := next(entries, None)) is None:
                return False
            with (
                replaced(path, overwrite=True) as file,
                parquet.ParquetWriter(file, SCHEMA) as writer,
            ):
                tables, rows = [], 0
                for entry in chain([first], entries):
                    tables.append(_table(entry))
                    rows += len(entry["rows"])
                    if rows >= GROUP:
                        writer.write_table(arrow.concat_tables(tables))
                        tables, rows = [], 0
                if tables:
                    writer.write_table(arrow.concat_tables(tables))
        return True


def _table(entry):
    """A coin's rows in SCHEMA."""
    days, price, volume, cap = zip(*entry["rows"], strict=True) if entry["rows"] else [()] * 4
    count = len(days)
    columns = [
        [datetime.fromisoformat(day) for day in days],
        *([entry[name]] * count for name in ("id", "name", "symbol")),
        price,
        [None] * count,
        volume,
        cap,
    ]
    return arrow.table(columns, schema=SCHEMA)
