"""How soon the monitor finds faults, and how often it is wrong: a panel's past, day by day.

    python -m benchmarks.monitor --start 2023-07-15 [--end DAY] [--data PANEL]
        [--false-alarms] [--stricter]

Champions come from the store of MLFLOW_TRACKING_URI and have to be trained on days before --start.
Every day all of them forecast, what has come is scored, and they are judged, as the job does it.
Faults begin on five days of that time each, in a copy of the ledger as it was then.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from liquidity.contract import COIN, DATE, FORECAST_FEATURES, KEYS, MARKET_CAP, PRICE, VOLUME
from liquidity.data.market import read_market
from liquidity.monitor import drift, market, outcomes
from liquidity.monitor.forecasts import load_forecaster, make_forecasts
from liquidity.monitor.ledger import FORECAST, OUTCOME, REFERENCE, as_date, as_day
from liquidity.monitor.reference import week
from liquidity.monitor.roles import find_roles
from liquidity.runs.store import quieten_mlflow

REAL_DATA = os.environ.get("LIQUIDITY_REAL_DATA", Path(__file__).parents[2] / "shared/data")
PANEL = f"{REAL_DATA}/panel/*.parquet"
STARTS = 5  # days on which each fault begins, spread over the time
DAYS = 8  # that are replayed after a fault has begun
BEFORE = max(drift.WEEKDAY_WINDOWS) + 2  # days of the market that a day is judged by
WARM = 31  # days of forecasts before the first day that counts


class Judge(NamedTuple):
    """A champion: its version, its model and its reference."""

    version: object
    model: object
    reference: dict


def main():
    """Print the false alarms, then a line per fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=PANEL)
    parser.add_argument("--start", required=True, type=pd.Timestamp, help="first day judged")
    parser.add_argument("--end", type=pd.Timestamp, help="the last one (that of the data)")
    parser.add_argument("--false-alarms", action="store_true", help="no faults")
    parser.add_argument("--stricter", action="store_true", help="rules compared in the docs")
    args = parser.parse_args()
    if args.stricter:
        drift.BAD, drift.BELOW, drift.STORM = 3, 0.10, float("inf")
    quieten_mlflow()
    frame, _ = read_market(args.data, required=FORECAST_FEATURES)
    frame = frame[frame[DATE] <= (args.end or frame[DATE].max())]
    start = as_day(args.start.date())
    with tempfile.TemporaryDirectory() as folder:
        judges = champions(Path(folder) / "ledger")
        whole, started = market.from_frame(frame), time.perf_counter()
        found = [
            (day, replay_day(judges, window(whole, day), today=day + 1))
            for day in range(start - WARM, whole.last + 1)
        ]
        print(f"{len(found)} days of {len(judges)} champions: "
              f"{(time.perf_counter() - started) / len(found):.2f} s a day")  # fmt: skip
        print_false_alarms([each for each in found if each[0] >= start])
        if not args.false_alarms:
            last = whole.last - DAYS
            print_faults(judges, frame, np.linspace(start, last, STARTS + 2)[1:-1].astype(int))


def champions(ledger):
    """The champions as Judges over a ledger."""
    roles = [role for role in find_roles(ledger, "crypto-liquidity") if role.alias == "champion"]
    return [Judge(role.version, *load_forecaster(role)) for role in roles]


def window(whole, day):
    """The market as it was on a day, as far back as anything looks."""
    rows = whole.rows(day - BEFORE, day)
    return market.Market(whole.frame.iloc[rows], whole.day[rows], whole.level[rows])


def replay_day(judges, now, *, today):
    """Forecast, score and judge; returns the pairs (who, Finding)."""
    newest = now.newest()
    found = [("data", finding) for finding in drift.judge_market(now, today)]
    for version, model, reference in judges:
        make_forecasts(version, model, reference, now, clock=today, newest=newest)
        due = [day for day in outcomes.pending(version) if day <= now.last]
        list(outcomes.settle(version, due, now))
        days = outcomes.last_figures(version, reference["threshold"], most=drift.MONTH)
        found += [
            (f"{version.horizon}d", finding)
            for finding in drift.judge_champion(
                version, days, reference, now, registered=today, today=today
            )
        ]
    return found


def print_false_alarms(found):
    """Print on how many weeks anything was said, and what."""
    weeks = {week(day) for day, _ in found}
    alarms = {week(day) for day, findings in found if findings}
    print(f"{len(found)} days, {len(weeks)} weeks: {len(alarms)} with an alarm "
          f"({len(alarms) / len(weeks):.1%})")  # fmt: skip
    for day, findings in found:
        for who, finding in findings:
            print(f"  {as_date(day)} {who} {finding.kind}: {finding.said}")


def print_faults(judges, frame, starts):
    """Print for each fault after how many days it was found, at each start, and by what."""
    print(f"faults begin on {', '.join(str(as_date(day)) for day in starts)}")
    for name, fault in FAULTS.items():
        days, kinds = [], Counter()
        for start in starts:
            after, by = until_found(judges, frame, start, fault)
            days.append(str(after) if after else f"> {DAYS}")
            kinds.update(by)
        told = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        print(f"| {name} | {', '.join(days)} | {told} |", flush=True)


def until_found(judges, frame, start, fault):
    """On which day since a fault began it was found, and by which kinds; (None, ()) for never."""
    first = pd.Timestamp(as_date(start))
    near = frame[frame[DATE] >= first - pd.Timedelta(days=BEFORE)]
    near = near[near[DATE] < first + pd.Timedelta(days=DAYS)].reset_index(drop=True)
    with tempfile.TemporaryDirectory() as folder:
        copies = [judge._replace(version=copy(judge.version, folder, start)) for judge in judges]
        for number in range(DAYS):
            day = first + pd.Timedelta(days=number)
            seen = fault(near[near[DATE] <= day].copy(), first)
            # As reading does it: of several rows of a coin and day the last one counts.
            seen = seen[~seen.duplicated(KEYS, keep="last")]
            found = replay_day(copies, market.from_frame(seen), today=start + number + 1)
            if found:
                return number + 1, {finding.kind for _, finding in found}
    return None, ()


def copy(version, folder, start):
    """A version's place in a new ledger, with what was there when `start` came."""
    other = version._replace(ledger=Path(folder))
    other.folder.mkdir(parents=True)
    shutil.copy(version.folder / REFERENCE, other.folder)
    for kind, back in ((FORECAST, WARM + drift.LAGS), (OUTCOME, drift.MONTH)):
        for day in version.days(kind):
            if start - back <= day < start:
                os.link(version.file(kind, day), other.file(kind, day))
    return other


def times(column, factor, *, half=False):
    """A fault: a column is `factor` times too large from a day on, of all coins or every other."""

    def fault(frame, first):
        rows = frame[DATE] >= first
        if half:
            coins = np.sort(frame[COIN].unique())[::2]
            rows &= frame[COIN].isin(coins)
        frame.loc[rows, column] *= factor
        return frame

    return fault


def dated(days, *, always=False):
    """A fault: dates are so many days later, from a day on or always."""

    def fault(frame, first):
        rows = (frame[DATE] >= first) | always
        frame.loc[rows, DATE] += pd.Timedelta(days=days)
        return frame

    return fault


FAULTS = {
    "volume doubled": times(VOLUME, 2),
    "volume halved": times(VOLUME, 0.5),
    "volume in percent (x 100)": times(VOLUME, 100),
    "capitalisation in percent": times(MARKET_CAP, 100),
    "price in percent": times(PRICE, 100),
    "caps of half of the coins x 1,000": times(MARKET_CAP, 1000, half=True),
    "caps of half of the coins / 1,000": times(MARKET_CAP, 1e-3, half=True),
    "dates a day later from then on": dated(1),
    "dates a day earlier from then on": dated(-1),
    "all dates a day later": dated(1, always=True),
    "all dates a day earlier": dated(-1, always=True),
}


if __name__ == "__main__":
    main()
