"""The last days of every coin of a folder of snapshots, kept up to date file by file."""

from pathlib import Path

import pandas as pd

from liquidity.contract import (
    COIN,
    DATE,
    FORECAST_FEATURES,
    HIGH_24H,
    ID,
    LOW_24H,
    MARKET_CAP,
    PRICE,
    SYMBOL,
    VOLUME,
)
from liquidity.data.market import drop_unusable, read_file
from liquidity.data.namesakes import name_assets
from liquidity.data.readers import snapshot_files
from liquidity.errors import MarketDataError

DAYS = 90  # of a coin, its newest one included: what a forecast looks at
ROWS = [DATE, COIN, ID, SYMBOL, PRICE, HIGH_24H, LOW_24H, VOLUME, MARKET_CAP]
# Days behind the market's newest one that are kept of a file: a coin may be DAYS late itself.
KEPT_DAYS = 2 * DAYS
LONG_AGO = pd.Timestamp("1970-01-01")


class _File:
    def __init__(self, identity, rows, problem):
        self.identity = identity
        self.problem = problem
        self.rows = rows  # the last that could be read; None for none so far
        self.days = None if rows is None else (rows[DATE].min(), rows[DATE].max())

    def since(self, day):
        """The same file without its rows before a day."""
        if self.rows is None or self.days[0] >= day:
            return self
        kept = self.rows[self.rows[DATE] >= day].reset_index(drop=True)
        return _File(self.identity, kept if len(kept) else None, self.problem)


class Recent:
    """The last DAYS days of every coin in the folder `folder`.

    A file that cannot be read leaves the rows that it had before, and a problem.
    """

    def __init__(self, folder):
        self._folder = folder
        self._files = {}
        self._away = False  # the folder, or what it holds
        self.problems = []

    def update(self, on_read=lambda done, total: None):
        """Read what is new or has changed; returns whether anything has.

        `on_read(done, total)` is called before each file that is read.
        """
        try:
            paths = snapshot_files(self._folder)
        except (MarketDataError, OSError) as error:
            # A folder that is away for a moment takes nothing with it.
            self._away = True
            changed, self.problems = self.problems != [str(error)], [str(error)]
            return changed
        before = {path: file.identity for path, file in self._files.items()}
        now = {path: _identity(path) for path in paths}
        if now == before and not self._away:
            return False
        self._away = False
        if before.keys() - now.keys():  # what is newest may be older now
            before = {}
        new = [path for path, identity in now.items() if before.get(path) != identity]
        # The last by its name is mostly the newest: read first, it says what need not be kept of
        # the others, of which there may be years.
        for done, path in enumerate(reversed(new)):
            on_read(done, len(new))
            self._read(path, now[path])
        self._files = {path: self._files[path] for path in paths}
        self.problems = [file.problem for file in self._files.values() if file.problem]
        return True

    def rows(self):
        """The rows of all files, sorted by coin and date, one of a coin and date: the columns of
        ROWS without ID, as they are known, and DAYS days of a coin at most.
        """
        frames = [file.rows for file in self._files.values() if file.rows is not None]
        if not frames:
            return pd.DataFrame({name: [] for name in ROWS if name != ID})
        frame, *_ = name_assets(pd.concat(frames, ignore_index=True))
        frame, *_ = drop_unusable(frame, FORECAST_FEATURES)
        frame = frame.sort_values([COIN, DATE], kind="stable", ignore_index=True)
        latest = frame.groupby(COIN)[DATE].transform("max")
        alive = latest > frame[DATE].max() - pd.Timedelta(days=DAYS)
        recent = frame[DATE] > latest - pd.Timedelta(days=DAYS)
        return frame[alive & recent].reset_index(drop=True)

    def _read(self, path, identity):
        before = self._files.get(path)
        try:
            rows, _ = read_file(path, required=FORECAST_FEATURES)
        except (MarketDataError, OSError) as error:
            lost = None if before is None else before.rows
            self._files[path] = _File(identity, lost, str(error))
            return
        rows = rows[[name for name in ROWS if name in rows]]
        rows, problem = _without_the_future(path, rows)
        self._files[path] = _File(identity, rows if len(rows) else None, problem)
        newest = max((file.days[1] for file in self._files.values() if file.days), default=LONG_AGO)
        first = newest - pd.Timedelta(days=KEPT_DAYS - 1)
        self._files = {path: file.since(first) for path, file in self._files.items()}


def _without_the_future(path, rows):
    """The rows to today, and what is to say of others: one of next year would make all coins old
    that have none. Tomorrow has begun somewhere.
    """
    ahead = rows[DATE] > pd.Timestamp.now("UTC").tz_localize(None) + pd.Timedelta(days=1)
    if not ahead.any():
        return rows, None
    first = rows.loc[ahead, DATE].min()
    return rows[~ahead], (
        f"{path}: {ahead.sum():,} of {len(rows):,} rows are dated after today, the first "
        f"{first:%Y-%m-%d}, and are left out: correct their dates, or this machine's clock and "
        "write the file again."
    )


def _identity(path):
    """What tells a file that is written to, or replaced, from the one it was."""
    found = Path(path).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
