"""The market as the monitor asks for it: the day after the day, up to a last one."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from liquidity.contract import COIN, DATE, FORECAST_FEATURES
from liquidity.data.market import read_market
from liquidity.errors import MarketDataError
from liquidity.model.model import DAYS, EPSILON, history_features, logarithms
from liquidity.monitor.ledger import as_date


class Market(NamedTuple):
    """Checked rows in the order of their days, as arrays of shape (rows,), and their frame; L is
    log10(liquidity + EPSILON).
    """

    frame: pd.DataFrame
    day: np.ndarray
    level: np.ndarray

    @property
    def last(self):
        """The last day, since 1970."""
        return int(self.day[-1])

    def rows(self, first, last):
        """The positions of the days from `first` to `last`, both included, as a slice."""
        return slice(*np.searchsorted(self.day, [first, last + 1]))

    def liquidity(self, day):
        """The liquidity of each coin on a day, a Series by coin; empty where there is no row."""
        rows = self.rows(day, day)
        liquidity = np.maximum(10 ** self.level[rows] - EPSILON, 0)
        return pd.Series(liquidity, self.frame[COIN].iloc[rows])

    def newest(self):
        """The rows of the last day with what a forecast takes: `(coins, X, days_used, values)`.

        Only the last DAYS days are looked at, whatever the market holds.
        """
        frame = self.frame.iloc[self.rows(self.last - DAYS + 1, self.last)]
        day = self.day[len(self.day) - len(frame) :]
        columns = [frame[name].to_numpy(float) for name in FORECAST_FEATURES]
        answer = np.flatnonzero(day == self.last)
        X, days_used = history_features(pd.factorize(frame[COIN])[0], day, *columns, answer=answer)
        return frame[COIN].to_numpy()[answer], X, days_used, np.column_stack(columns)[answer]


def read(source, *, day_shift, today):
    """The Market of the snapshots at `source`; raises MarketDataError as `read_market` does, and
    where a day lies behind `today`, in days since 1970.
    """
    frame, _ = read_market(source, required=FORECAST_FEATURES, day_shift=day_shift)
    market = from_frame(frame)
    if market.last > today:
        raise MarketDataError(
            f"{source}: its last day, {as_date(market.last)}, is behind today, {as_date(today)}: "
            "correct the dates, or the clock; nothing was done."
        )
    return market


def from_frame(frame):
    """The Market of a frame as `read_market` returns it."""
    frame = frame.sort_values(DATE, kind="stable", ignore_index=True)
    values = (frame[name].to_numpy(float) for name in FORECAST_FEATURES)
    day = frame[DATE].to_numpy("datetime64[D]").astype(np.int64)
    return Market(frame, day, logarithms(*values)[0])
