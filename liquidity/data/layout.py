"""Which column of a file is which, and how its cells are read: decided once, for every door."""

import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from liquidity.contract import COIN, DATE, ID, NUMBERS
from liquidity.data import cells
from liquidity.data.headers import column_name, find_columns, renamed, suggestion
from liquidity.data.namesakes import ROW_NUMBERS, are_row_numbers
from liquidity.errors import MarketDataError

NAMES_SHOWN, NAME_SHOWN = 50, 100  # columns of a header in an error, and letters of each
# CoinGecko's export of one coin, such as btc-usd-max.csv, names the coin in the file's name alone.
EXPORT = "snapped_at"
EXPORT_NAME = re.compile(r"(.+?)-usd-[a-z0-9]+(?:[ _(-].*)?")


@dataclass(frozen=True)
class Layout:
    """Where the columns of a file are, `{name: (position, in percent)}`, and how it writes numbers
    and dates. `coin` and `date` are those of all rows, where the file has them once.
    """

    columns: dict[str, tuple[int, bool]]
    decimal_comma: bool = False
    day_first: bool | None = None
    coin: str | None = None
    date: str | None = None

    def has(self, name):
        """Whether the rows know a column of this name."""
        return name in self.columns or getattr(self, name, None) is not None

    def cells(self, block, name):
        """The Arrow column of a block, null throughout where the file has none."""
        if name in self.columns:
            return block.column(self.columns[name][0])
        everywhere = {COIN: self.coin, DATE: self.date}.get(name)
        return pa.array(np.full(len(block), everywhere, object), pa.string())

    def numbers(self, block, name):
        """Values and which cells are no number, as `parse_numbers` returns them."""
        return cells.parse_numbers(
            self.cells(block, name),
            percent=self.columns[name][1],
            decimal_comma=self.decimal_comma,
        )

    def days(self, block):
        """Days and which cells are no date, as `parse_days` returns them."""
        return cells.parse_days(self.cells(block, DATE), day_first=self.day_first)


def lay_out(opened, origin, wanted, needed):
    """The file that `opened()` opens as a Source, its Layout of the columns `wanted`, and what
    was understood of its headers and cells, as clauses.

    It is opened once more, and read on, only where its first block does not tell how it writes
    numbers or dates. Raises MarketDataError where a column of `needed` is missing, or given twice.
    """
    source = opened()
    try:
        columns = {n: c for n, c in find_columns(source.names).items() if n in wanted}
    except MarketDataError as error:
        raise MarketDataError(f"{origin}, {error}.") from None
    layout = Layout(columns, coin=_export_coin(source.names, origin), date=source.date)
    check_needed(layout, source.names, needed, origin)
    first = next(source.blocks, None)
    notes = [*source.notes]
    if said := renamed(source.names, columns):
        notes.append(said)
    if first is None:
        return source, layout, notes
    if {ID, COIN, DATE} <= columns.keys() and _numbers_rows(layout, first):
        layout = replace(layout, columns={n: c for n, c in columns.items() if n != ID})
        notes.append(ROW_NUMBERS)

    def decided(ask):
        """What the first block says that does, the file being opened again only if it must be."""
        answers = map(ask, itertools.chain([first], _blocks_behind_first(opened)))
        return next((answer for answer in answers if answer is not None), None)

    numbers = [position for name, (position, _) in columns.items() if name in NUMBERS]

    def decimal_commas(block):
        return cells.has_decimal_commas([block.column(n) for n in numbers], source.separator)

    try:
        if source.separator:
            layout = replace(layout, decimal_comma=bool(decided(decimal_commas)))
        if DATE in columns and cells.has_either_day(layout.cells(first, DATE)):
            day_first = decided(lambda block: cells.is_day_first(layout.cells(block, DATE)))
            layout = replace(layout, day_first=day_first)
    except ValueError as error:
        raise MarketDataError(f"{origin}: {error}.") from error
    if layout.decimal_comma:
        notes.append("commas are decimal ones")
    if layout.day_first is not None:
        notes.append(f"dates have the {'day' if layout.day_first else 'month'} first")
    blocks = itertools.chain([first], source.blocks)
    return replace(source, blocks=blocks), layout, notes


def check_needed(layout, names, needed, origin):
    """Raise MarketDataError where the file with these headers lacks a column of `needed`."""
    missing = [name for name in dict.fromkeys(needed) if not layout.has(name)]
    if missing:
        meant = "".join(suggestion(name, names) for name in missing)
        raise MarketDataError(
            f"{origin}, column{'s' if missing[1:] else ''} {', '.join(missing)}: missing; the file "
            f"has {listed(names)}{meant}."
        )


def note_lines(notes):
    """`{file: what was understood of it}` as sentences, one for all files that are alike."""
    alike = {}
    for path, said in notes.items():
        alike.setdefault("; ".join(said), []).append(path)
    return [
        f"{paths[0]}{f' (and {len(paths) - 1:,} more files alike)' if paths[1:] else ''}: {said}."
        for said, paths in alike.items()
        if said
    ]


def listed(names):
    """A header in a message, cut where it is long."""
    shown = [str(name)[:NAME_SHOWN] for name in names[:NAMES_SHOWN]]
    if len(names) > NAMES_SHOWN:
        shown.append(f"and {len(names) - NAMES_SHOWN:,} more")
    return ", ".join(shown) or "no columns"


def _numbers_rows(layout, block):
    """Whether the ids of the first block number its rows."""
    ids, names = (
        cells.parse_names(layout.cells(block, name).cast(pa.string()))[0].to_pandas()
        for name in (ID, COIN)
    )
    return are_row_numbers(ids, names, pd.Series(layout.days(block)[0]))


def _blocks_behind_first(opened):
    yield from itertools.islice(opened().blocks, 1, None)


def _export_coin(names, origin):
    """The coin that CoinGecko's export of one coin has in its file's name, or None."""
    known = {column_name(name) for name in names}
    if EXPORT not in [str(name).strip().lower() for name in names] or COIN in known:
        return None
    found = EXPORT_NAME.fullmatch(Path(str(origin)).name.partition(".")[0])
    return found[1] if found else None
