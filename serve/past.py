"""How earlier forecasts turned out: the ledger's outcomes, read beside the snapshots."""

from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa

from liquidity.contract import ACTUAL, COIN, EPSILON, TARGET
from liquidity.errors import MarketDataError, first_line
from liquidity.monitor.ledger import OUTCOME, Version, horizon_of, read

DAYS = 30  # target days of a version that are kept
VERSIONS = 12  # that are kept, those with the newest outcomes
KEYS = ["model", COIN]
NUMBERS = [TARGET, "lower", "upper", "persistence", ACTUAL]


class Outcomes:
    """The last DAYS outcomes of the versions in the ledger's folder; an empty name: none.

    A file that cannot be read is left out, and a problem.
    """

    def __init__(self, folder):
        self._folder = Path(folder) if folder else None
        self._read = {}  # by a file's path and identity: its rows, or what is wrong with it
        self.problems = []

    def update(self):
        """Read what is new; returns whether anything has changed."""
        if self._folder is None:
            return False
        before = [*self._read], self.problems
        try:
            files = [*self._files()]
        except OSError as error:  # what was there before stays
            self.problems = [f"{self._folder}: cannot be read: {first_line(error)}"]
        else:
            self._read = {key: self._read.get(key) or _rows(*each) for key, each in files}
            self.problems = [said for _, said in self._read.values() if said]
        return before != ([*self._read], self.problems)

    def rows(self):
        """The rows of all files: `model` (NAME/VERSION), coin, `day` (since 1970) and NUMBERS."""
        frames = [rows for rows, _ in self._read.values() if rows is not None]
        return pd.concat(frames, ignore_index=True) if frames else None

    def _files(self):
        """A file's path and identity, and its version and day, of each that is to be shown."""
        if not self._folder.is_dir():
            raise OSError("there is no such folder")
        found = []
        for folder in self._folder.glob("*/v*"):
            name, number = folder.parent.name, folder.name[1:]
            horizon = horizon_of(name, name.rpartition("-")[0])
            if horizon and number.isdigit():
                version = Version(self._folder, name, number, horizon)
                if days := version.days(OUTCOME)[-DAYS:]:
                    found.append((days[-1], version, days))
        newest = sorted(found, key=lambda each: (-each[0], str(each[1])))[:VERSIONS]
        for _, version, days in newest:
            for day in days:
                path = version.file(OUTCOME, day)
                about = path.stat()
                yield (path, about.st_ino, about.st_size, about.st_mtime_ns), (version, day)


def _rows(version, day):
    """The rows of a file that have an actual value, and what is wrong with it: one is None."""
    try:
        table = read(version, OUTCOME, day)
        table = table[table[ACTUAL].notna()]
        numbers = {name: table[name].to_numpy(float) for name in NUMBERS}
    except (MarketDataError, ValueError, TypeError) as error:
        return None, first_line(error)
    model = f"{version.name}/{version.number}"
    return table[[COIN]].assign(model=model, day=day, **numbers), None


def pack_outcomes(rows, problems):
    """The rows of Outcomes as an Arrow table, sorted by the codes of model and coin, and by day."""
    if rows is None:
        rows = pd.DataFrame({name: [] for name in (*KEYS, "day", *NUMBERS)})
    model, coin = (
        pa.array(rows[name].to_numpy(object), pa.string()).dictionary_encode() for name in KEYS
    )
    numbers = {name: rows[name].to_numpy(float) for name in NUMBERS}
    table = pa.table({KEYS[0]: model, COIN: coin, "day": rows["day"].to_numpy(np.int64)} | numbers)
    table = table.take(np.lexsort((rows["day"], coin.indices, model.indices)))
    return table.replace_schema_metadata({"problems": orjson.dumps([*problems])})


class Past:
    """What `pack_outcomes` has packed, to look coins up in."""

    def __init__(self, table):
        model, coin = (table.column(name).combine_chunks() for name in KEYS)
        self._models = {text: n for n, text in enumerate(model.dictionary.to_pylist())}
        self._coins = {text: n for n, text in enumerate(coin.dictionary.to_pylist())}
        # Ascends with the rows, so that a model's days of a coin are found in it.
        self._key = model.indices.to_numpy() * np.int64(len(self._coins)) + coin.indices.to_numpy()
        self._day = table.column("day").to_numpy()
        self._numbers = {name: table.column(name).to_numpy() for name in NUMBERS}
        self.problems = tuple(orjson.loads(table.schema.metadata[b"problems"]))

    def of(self, name, version, coin):
        """The forecasts of a version for a coin whose day has come, by day: `day` and NUMBERS, of
        shape (days,). None where there are none.
        """
        model, n = self._models.get(f"{name}/{version}"), self._coins.get(coin)
        if model is None or n is None:
            return None
        key = model * len(self._coins) + n
        rows = slice(*np.searchsorted(self._key, [key, key + 1]).tolist())
        if rows.start == rows.stop:
            return None
        return {"day": self._day[rows], **{each: v[rows] for each, v in self._numbers.items()}}


def figures(found):
    """How they did: days, how many were inside of their range, and the typical error as a factor
    (1.3: half of the days were less than 30 % off, up or down), beside that of persistence. Errors
    are of L = log10(liquidity + EPSILON), as in liquidity.forecast.skill.
    """
    actual, expected, persistence = (
        np.log10(found[name] + EPSILON) for name in (ACTUAL, TARGET, "persistence")
    )
    inside = (found["lower"] <= found[ACTUAL]) & (found[ACTUAL] <= found["upper"])
    return {
        "days": len(actual),
        "inside": int(inside.sum()),
        "typical_factor": float(10 ** np.median(np.abs(expected - actual))),
        "persistence_typical_factor": float(10 ** np.median(np.abs(persistence - actual))),
    }
