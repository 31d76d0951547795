"""What is shown of a market: each coin's newest day, its rank, and what is expected of it."""

import difflib
import threading
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from liquidity.contract import HIGH, LOW, MARKET_CAP, PRICE, VOLUME
from liquidity.illiquidity import amihud, high_low_spread
from liquidity.model.model import DAYS, history_features
from serve.champion import NoModel
from serve.facts import facts
from serve.market import NoMarket
from serve.past import figures

SHARE = 0.05  # of a day's volume that is taken to be tradeable without moving the price much
NEAR_NAMES = 5


class UnknownCoin(LookupError):
    """The market has no coin of this name; the message has near ones."""


@dataclass(frozen=True)
class Outlook:
    """A state of the market and the forecasts made of it, arrays of shape (coins,) by name.

    `served` is `{horizon: Served}`, empty where no forecast is loaded; `forecasts` has the columns
    of each one's answer.
    """

    days: object
    served: dict
    forecasts: dict
    liquidity: np.ndarray  # the exact ratio of the newest day
    rank: np.ndarray  # 1 for the most liquid
    rank_change: np.ndarray  # places gained since the day before, NaN where that is not known
    days_known: np.ndarray  # of the DAYS that end with the newest day
    late: np.ndarray  # days behind the market's newest day
    threshold: float
    coverage: float  # of the ranges
    kept: dict = field(default_factory=dict)  # what views have drawn of it, to draw it once

    @property
    def coins(self):
        """The names, in their order."""
        return self.days.coins

    @cached_property
    def newest_day(self):
        """The market's newest day, as days since 1970."""
        return int(self.days.day[self.days.newest].max())

    @cached_property
    def _positions(self):
        return {name: n for n, name in enumerate(self.coins)}

    @cached_property
    def _folded(self):
        return {name.casefold(): n for n, name in enumerate(self.coins)}

    def find(self, coin):
        """The position of a coin by its name; raises UnknownCoin."""
        name = coin.strip()
        if name in self._positions:
            return self._positions[name]
        if name.casefold() in self._folded:
            return self._folded[name.casefold()]
        folded = name.casefold()[:100]
        near = [
            self.coins[n]
            for n, symbol in enumerate(self.days.symbols)
            if symbol and symbol.casefold() == folded
        ]
        matches = difflib.get_close_matches(folded, self._folded, NEAR_NAMES, 0.6)
        near += [self.coins[self._folded[each]] for each in matches]
        near = list(dict.fromkeys(near))[:NEAR_NAMES]
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "GET /coins lists them."
        raise UnknownCoin(f"The market has no coin {name[:100]!r}; {hint}")

    def row(self, n):
        """What is known of the coin at position `n`, for JSON."""
        days, at = self.days, int(self.days.newest[n])
        day = int(days.day[at])
        change = self.rank_change[n]
        return {
            "coin": days.coins[n],
            "symbol": days.symbols[n],
            "date": iso(day),
            "days_used": int(self.days_known[n]),
            "days_late": int(self.late[n]),
            PRICE: _number(days.price[at]),
            VOLUME: _number(days.volume[at]),
            MARKET_CAP: _number(days.cap[at]),
            "liquidity": float(self.liquidity[n]),
            "level": HIGH if self.liquidity[n] > self.threshold else LOW,
            "rank": int(self.rank[n]),
            "rank_change": None if np.isnan(change) else int(change),
            "forecasts": [self.forecast(n, horizon) for horizon in self.forecasts],
        }

    def forecast(self, n, horizon):
        """One horizon's forecast for the coin at position `n`, as POST /forecast has it."""
        answer = self.forecasts[horizon]
        day = int(self.days.day[self.days.newest[n]])
        return {
            "horizon": horizon,
            "date": iso(day + horizon),
            "liquidity": float(answer["liquidity"][n]),
            "level": str(answer["level"][n]),
            "lower": float(answer["lower"][n]),
            "upper": float(answer["upper"][n]),
            "in_range": bool(answer["in_range"][n]),
            "p_high": float(answer["p_high"][n]),
            "model": self.served[horizon].reference,
        }

    def answer(self, coin):
        """The answer of POST /forecast for a coin by its name; raises UnknownCoin."""
        n = self.find(coin)
        return {
            "coin": self.coins[n],
            "date": iso(self.days.day[self.days.newest[n]]),
            "days_used": int(self.days_known[n]),
            "forecasts": [self.forecast(n, horizon) for horizon in self.forecasts],
        }

    def history(self, n):
        """The days of the coin at position `n`, oldest first, for JSON."""
        days = self.days
        rows = range(int(days.starts[n]), int(days.starts[n + 1]))
        return [
            {
                "date": iso(int(days.day[at])),
                "liquidity": float(days.volume[at] / days.cap[at]),
                PRICE: _number(days.price[at]),
                VOLUME: _number(days.volume[at]),
                MARKET_CAP: _number(days.cap[at]),
            }
            for at in rows
        ]

    def past(self, n):
        """How earlier forecasts of the served versions did for the coin at position `n`, by
        horizon, for JSON; none where the ledger knows nothing of it.
        """
        told = []
        for horizon, each in self.served.items():
            model = each.reference
            if found := self.days.past.of(model["name"], model["version"], self.coins[n]):
                days = found.pop("day")
                columns = {name: values.tolist() for name, values in found.items()}
                forecasts = [
                    {"date": iso(day), **dict(zip(columns, values, strict=True))}
                    for day, *values in zip(days, *columns.values(), strict=True)
                ]
                told.append({"horizon": horizon, **figures(found), "forecasts": forecasts})
        return told

    def costs(self, n):
        """What a trade of the coin at position `n` costs, by two estimates of its known days: see
        liquidity.illiquidity. None where its days do not tell.
        """
        days, rows = self.days, slice(*self.days.starts[n : n + 2].tolist())
        day = days.day[rows]
        return {
            "amihud_per_million": _number(amihud(day, days.price[rows], days.volume[rows])),
            "high_low_spread": _number(high_low_spread(day, days.high[rows], days.low[rows])),
        }

    def tradeable(self, n, *, share=SHARE):
        """How much of the coin a day takes, in USD: `share` of the volume of the newest day, and of
        what is expected at each horizon at today's capitalisation, the lower end first.
        """
        at = int(self.days.newest[n])
        cap = float(self.days.cap[at])
        return {
            "share": share,
            "today": share * float(self.days.volume[at]),
            "forecasts": [
                {
                    "horizon": each["horizon"],
                    "date": each["date"],
                    "lower": share * each["lower"] * cap,
                    "expected": share * each["liquidity"] * cap,
                }
                for each in (self.forecast(n, horizon) for horizon in self.forecasts)
            ],
        }


class Outlooks:
    """The newest Outlook, made once for each state of the market and each set of forecasts.

    Making one takes a fifth of a second, so the market's watching thread does; requests meanwhile
    are answered with the one before. `on_new(outlook)` is called before they get the new one.
    """

    def __init__(self, market, forecasts):
        self._market, self._forecasts = market, forecasts
        self.on_new = lambda outlook: None
        self._one = threading.Lock()
        self._made, self._outlook = None, None
        market.on_look = self._look

    def current(self):
        """The Outlook; raises NoMarket where there is no market."""
        days = self._market.current()
        with self._one:  # several requests of the first market wait for one of them
            if self._outlook is None:
                self._outlook = outlook(days, self._served())
            return self._outlook

    def _look(self):
        """Make a new one where anything has changed."""
        try:
            days = self._market.current()
        except NoMarket:
            return
        served = self._served()
        made = days, {horizon: each.model for horizon, each in served.items()}
        if self._made and self._made[0] is days and self._made[1] == made[1]:
            return
        new = outlook(days, served)
        try:
            self.on_new(new)
        finally:
            with self._one:
                self._made, self._outlook = made, new

    def _served(self):
        try:
            return self._forecasts.current()
        except NoModel:
            return {}


def outlook(days, served):
    """The Outlook of the Days and of `{horizon: Served}`."""
    newest, day = days.newest, days.day
    liquidity = days.volume / days.cap
    coin = np.repeat(np.arange(len(days.coins)), np.diff(days.starts))
    forecasts, known = {}, np.diff(days.starts)
    if served:
        X, known = history_features(coin, day, days.volume, days.cap, days.price, answer=newest)
        columns = {VOLUME: days.volume, MARKET_CAP: days.cap, PRICE: days.price}
        for horizon, each in served.items():
            own = np.column_stack([columns[name][newest] for name in each.model.features])
            forecasts[horizon] = each.model.forecast(X, known, own)
    known_facts = facts(next(iter(served.values()), None))
    rank = _ranks(liquidity[newest])
    return Outlook(
        days,
        served,
        forecasts,
        liquidity=liquidity[newest],
        rank=rank,
        rank_change=_rank_changes(days, liquidity),
        days_known=np.minimum(known, DAYS),
        late=day[newest].max() - day[newest],
        threshold=known_facts["threshold"],
        coverage=known_facts["interval"]["coverage"],
    )


def _ranks(values):
    """1 for the highest; equal ones keep their order."""
    ranks = np.empty(len(values), int)
    ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return ranks


def _rank_changes(days, liquidity):
    """Places gained from the day before the market's newest one, among the coins of both days."""
    newest = days.newest
    before = np.maximum(newest - 1, days.starts[:-1])
    today = days.day[newest].max()
    both = (days.day[newest] == today) & (days.day[before] == today - 1)
    changes = np.full(len(newest), np.nan)
    changes[both] = _ranks(liquidity[before[both]]) - _ranks(liquidity[newest[both]])
    return changes


def iso(day):
    """Days since 1970 as a date."""
    return str(np.datetime64(int(day), "D"))


def _number(value):
    return None if np.isnan(value) else float(value)
