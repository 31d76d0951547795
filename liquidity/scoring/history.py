"""The days before a row, where rows come in blocks: the last 90 days of every coin seen."""

import numpy as np

from liquidity.errors import MarketDataError
from liquidity.forecast.weekdays import DailyChanges
from liquidity.model.model import (
    DAYS,
    HISTORY_FEATURES,
    L0,
    LAG1,
    UNKNOWN_DAY,
    answer_rows,
    keys,
    logarithms,
)

_COINS = 1024  # whose stored days are in use at a time


class DatesFallError(ValueError):
    """A coin's dates fall within a stream; `row` is the position in its block."""

    def __init__(self, row, day, latest):
        self.row = row
        day, latest = (np.datetime64(int(value), "D") for value in (day, latest))
        self.day, self.latest = day, latest
        super().__init__(
            f"row {row + 1}: {day} comes after {latest} of the same coin, expected dates that do "
            "not fall: sort the rows by date."
        )


class Stream:
    """The last 90 days of every coin seen, so that rows can be answered block by block.

    About 2.2 kB per coin.
    """

    def __init__(self):
        self._latest = np.empty(0, np.int64)  # of shape (coins,)
        # log10 of liquidity, volume and price of the 90 days that end with the coin's latest one.
        self._logs = np.empty((0, 3, DAYS))

    def answer(self, coin, day, volume, cap, price):
        """Compute `history_features` of a block's rows, with the blocks before it as history.

        `coin` counts from 0: there is memory for every number up to the highest. Raises
        DatesFallError where a day of a coin comes after a later one, in this block or across
        blocks; nothing of the block has been taken up then.
        """
        coin, day = np.asarray(coin, np.int64), np.asarray(day, np.int64)
        logs = logarithms(volume, cap, price)
        alone = (coin < 0) | (day == UNKNOWN_DAY)
        rows = np.flatnonzero(~alone)
        rows = rows[np.argsort(coin[rows], kind="stable")]
        self._make_room(coin.max(initial=-1) + 1)
        self._check_order(rows, coin[rows], day[rows])

        X, used = np.empty((len(day), len(HISTORY_FEATURES))), np.empty(len(day), np.int64)
        alone = np.flatnonzero(alone)
        X[alone], used[alone] = answer_rows(
            coin[alone], day[alone], logs[:, alone], np.arange(len(alone))
        )
        # Some coins at a time, so that the stored days in use are bounded.
        starts = np.flatnonzero(np.diff(coin[rows], prepend=-1))
        for some in np.split(rows, starts[_COINS::_COINS]) if len(rows) else []:
            X[some], used[some] = self._take_up(coin[some], day[some], logs[:, some])
        return X, used

    def _make_room(self, coins):
        known = len(self._latest)
        if coins > known:
            room = max(coins, known + known // 4)
            # In place: a copy of all that is stored would double the memory for a moment.
            self._latest.resize(room, refcheck=False)
            self._logs.resize((room, 3, DAYS), refcheck=False)
            self._latest[known:], self._logs[known:] = UNKNOWN_DAY, np.nan

    def _check_order(self, rows, coin, day):
        """Raise for the first row, in the block's order, whose coin has a later day before it."""
        if not len(rows):
            return
        before = np.concatenate([[UNKNOWN_DAY], day[:-1]])
        first = np.diff(coin, prepend=-1) != 0
        before[first] = self._latest[coin[first]]
        falls = np.flatnonzero(day < before)
        if falls.size:
            worst = falls[np.argmin(rows[falls])]
            raise DatesFallError(int(rows[worst]), day[worst], before[worst])

    def _take_up(self, coin, day, logs):
        """Answer rows sorted by coin, each coin's in time order, and store them."""
        coins, ends = np.unique(coin[::-1], return_index=True)
        latest = day[len(day) - 1 - ends]
        which, column = np.nonzero(~np.isnan(self._logs[coins, 0]))
        stored = self._logs[coins[which], :, column].T
        coin = np.concatenate([coins[which], coin])
        day = np.concatenate([self._latest[coins[which]] - (DAYS - 1) + column, day])
        logs = np.concatenate([np.pad(stored, ((0, 1), (0, 0))), logs], axis=1)
        answered = answer_rows(coin, day, logs, np.arange(len(which), len(day)))

        row = np.searchsorted(coins, coin)
        column = day - latest[row] + DAYS - 1
        kept = np.flatnonzero((column >= 0) & ~np.isnan(logs[0]))
        fresh = np.full((len(coins), 3, DAYS), np.nan)
        # Of several rows of a day the last one stays: NumPy assigns them in their order.
        fresh[row[kept], :, column[kept]] = logs[:3, kept].T
        self._logs[coins], self._latest[coins] = fresh, latest
        return answered


class History:
    """What a scoring job knows of the days before a row: the stream, and the coins' numbers.

    Dates are taken to be `day_shift` days later than they say. `changes` tells whether that is so.
    """

    def __init__(self, *, day_shift=0):
        self.coins = {}
        self.changes = DailyChanges()
        self._day_shift = day_shift
        self._stream = Stream()

    def take(self, model, X, source, first_row):
        """The history features and days used of the rows of X that obey the rules.

        Raises MarketDataError where a coin's dates fall, within a file or from file to file.
        """
        good = np.flatnonzero(~model.broken(X).any(axis=1))
        numbers = len(model.features)
        coin, day = keys(X[good, numbers:] + (0, self._day_shift))
        try:
            features, days_used = self._stream.answer(coin, day, *X[good, :numbers].T)
        except DatesFallError as error:
            row = first_row + int(good[error.row])
            names = {number: name for name, number in self.coins.items()}
            raise MarketDataError(
                f"{source}, row {row}, column date: {error.day} of {names[int(coin[error.row])]!r} "
                f"comes after its {error.latest}; a forecast reads a coin's days in their order: "
                "sort the rows by date, and name the files so that later ones come later."
            ) from error
        self.changes.add(day, features[:, L0] - features[:, LAG1])
        return features, days_used
