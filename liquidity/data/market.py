"""Snapshot files in, one checked frame out: columns, rules, and what cannot be used."""

from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from liquidity.contract import (
    CHANGE_1H,
    CHANGE_RULE,
    CHANGES,
    COIN,
    COLUMNS,
    DATE,
    FEATURES,
    FIRST_YEAR,
    HIGH_24H,
    ID,
    INPUTS,
    KEYS,
    LARGEST,
    LAST_YEAR,
    LOW_24H,
    MARKET_CAP,
    NUMBERS,
    PRICE,
    SYMBOL,
    TARGET,
    VOLUME,
)
from liquidity.data import content
from liquidity.data.cells import parse_names, shown
from liquidity.data.layout import lay_out
from liquidity.data.namesakes import name_assets, probable_namesakes
from liquidity.data.readers import snapshot_files
from liquidity.errors import MarketDataError

# Without these a row has no target or no complete set of inputs.
REQUIRED = tuple(FEATURES)
RANGES = (HIGH_24H, LOW_24H)
OUTLIER_COLUMNS = [PRICE, VOLUME, MARKET_CAP]
PROBLEMS_SHOWN = 20
# The median of |1h| over a market, on quiet and on wild days: 0.0013 to 0.027 on 48 month starts.
USUAL_1H = (0.0005, 0.1)
# Of how many changes the median is telling: that it is large, and that it is small.
FEW_CHANGES, LEAST_CHANGES = 3, 20
# The lowest value of a column, and what may help one who has a lower one. A capitalisation of 0 is
# let in: it means unknown, and the row is left out and counted.
LOWEST = {name: (INPUTS[name].rule.lowest, "") for name in (PRICE, VOLUME, MARKET_CAP)}
LOWEST[TARGET] = 0, ""
LOWEST |= dict.fromkeys(CHANGES, (CHANGE_RULE.lowest, " (a fraction: 0.022 is 2.2 %)"))
A_DATE = f"a date from {FIRST_YEAR} to {LAST_YEAR} (2022-03-16)"


@dataclass(frozen=True)
class Cleaning:
    """What was read, what was left out, as row counts by reason, what looks doubtful, and how the
    files were understood where they do not use our own names and units.
    """

    files: list[str]
    rows_read: int
    rows_used: int
    dropped: dict[str, int]
    warnings: tuple[str, ...] = ()
    notes: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self):
        """What goes into cleaning.json."""
        return asdict(self)


def read_market(source, *, required=REQUIRED, day_shift=0):
    """Read, check and clean the snapshots at `source`: a file, a folder or a glob.

    Rows keep their order within a file, and files come in the order of their names: a forest
    depends on the order of its rows. `required` names the number columns that a row must know.
    `day_shift` days are added to every date.

    Returns `(frame, cleaning)`; the frame has the columns of COLUMNS that the files hold, changes
    as fractions, money in USD, `date` as a day, `coin` as the one name of an asset.
    Raises MarketDataError with every problem of every file.
    """
    paths = snapshot_files(source)
    frames, problems, warnings, notes = [], [], [], {}
    for path in paths:
        try:
            frame, said = read_file(path, required=required)
        except MarketDataError as error:
            problems += str(error).splitlines()
            continue
        frames.append(frame)
        warnings += [f"{path}, {doubt}" for doubt in _unusual_changes(frame)]
        notes |= {str(path): said} if said else {}
    if problems:
        raise MarketDataError(_report(problems))
    frame = pd.concat(frames, ignore_index=True)
    frame[DATE] += pd.Timedelta(days=day_shift)
    frame, said, doubts = name_assets(frame)
    notes |= {str(source): [*notes.get(str(source), []), *said]} if said else {}
    warnings += [f"{source}: {doubt}" for doubt in doubts]
    used, dropped, doubt = drop_unusable(frame, required)
    if used.empty:
        counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise MarketDataError(
            f"{source}: none of the {len(frame)} rows can be used ({counts}); expected at least "
            f"one row that knows {', '.join(required)}."
        )
    warnings += [f"{source}: {doubt}"] if doubt else []
    files = [str(path) for path in paths]
    return used, Cleaning(files, len(frame), len(used), dropped, tuple(warnings), notes)


def api_frame(records, *, origin):
    """The coins of CoinGecko's `/coins/markets`, a list of dicts, as a checked frame.

    It has the columns of COLUMNS, changes as fractions; null is NaN. `origin` is what an error
    names as the place. Raises MarketDataError for anything but coins of the documented form.
    """
    try:
        opened = partial(content.open_records, records, origin=origin)
        frame, _ = _read(opened, origin, REQUIRED)
    except MarketDataError as error:
        raise MarketDataError(_report(str(error).splitlines())) from error
    return name_assets(frame)[0]


def trim_outliers(frame, cleaning):
    """Drop rows outside Tukey's fences (quartiles -/+ 1.5 interquartile ranges) of price,
    24h_volume or mkt_cap; the fences come from all rows, once.

    Returns the trimmed frame and a Cleaning that counts what went.
    """
    low, high = frame[OUTLIER_COLUMNS].quantile(0.25), frame[OUTLIER_COLUMNS].quantile(0.75)
    reach = 1.5 * (high - low)
    inside = frame[OUTLIER_COLUMNS].ge(low - reach) & frame[OUTLIER_COLUMNS].le(high + reach)
    trimmed = frame[inside.all(axis=1)].reset_index(drop=True)
    dropped = cleaning.dropped | {"outlier": len(frame) - len(trimmed)}
    return trimmed, replace(cleaning, rows_used=len(trimmed), dropped=dropped)


def read_file(path, *, required):
    """One file as a frame of the columns of COLUMNS and ID that it holds, every row of it, and what
    was understood of its headers and cells, as clauses.

    Raises MarketDataError with a line for each kind of problem.
    """
    with content.within_memory(path):
        return _read(partial(content.open_file, path), path, required)


def _read(opened, origin, required):
    """The file that `opened()` opens as a frame of known columns, and what was understood of it.

    Raises MarketDataError with a line for each kind of problem.
    """
    source, layout, notes = lay_out(opened, origin, [*COLUMNS, ID], [*KEYS, *required])
    names = [name for name in (DATE, COIN, SYMBOL, ID, *NUMBERS) if layout.has(name)]
    parts = {name: [] for name in names}
    problems = {}
    rows = 0
    for block in source.blocks:
        for name in names:
            try:
                values, wrong, expected = _parse(layout, block, name)
            except ValueError as error:
                raise MarketDataError(f"{origin}, column {name}: {error}.") from error
            parts[name].append(values)
            at = np.flatnonzero(wrong)
            if at.size:
                count, *first = problems.get((name, expected), (0, None, None))
                if not count:
                    value = layout.cells(block, name)[int(at[0])].as_py()
                    first = source.first_row + rows + int(at[0]), shown(value)
                problems[name, expected] = count + at.size, *first
        rows += len(block)
    if not rows:
        raise MarketDataError(f"{origin}: has a header but no rows.")
    frame = pd.DataFrame({name: _joined(parts[name]) for name in names})
    found = [
        (row, name, _problem(origin, row, name, expected, value, count))
        for (name, expected), (count, row, value) in problems.items()
    ]
    found += _broken_rules(origin, frame, source.first_row)
    if found:
        raise MarketDataError("\n".join(sentence for *_, sentence in sorted(found)))
    return frame, notes


def _parse(layout, block, name):
    """A block's values of a column, which of them are wrong, and what was expected."""
    if name == DATE:
        return *layout.days(block), A_DATE
    if name in RANGES:  # no model reads them, so they stop nothing
        values, _ = layout.numbers(block, name)
        known = (values >= 0) & (values <= LARGEST)
        return np.where(known, values, np.nan), np.zeros(len(values), bool), "a number"
    if name in NUMBERS:
        return *layout.numbers(block, name), "a number"
    cells = layout.cells(block, name)
    if name == COIN:
        names, unknown = parse_names(cells)
        if layout.has(ID):
            ids, _ = parse_names(layout.cells(block, ID).cast(pa.string()))
            names = pc.if_else(pa.array(unknown), ids, names)
            _, unknown = parse_names(names)
        return names, unknown, "a name"
    names, _ = parse_names(cells.cast(pa.string()))
    return names, np.zeros(len(block), bool), "a name"


def _joined(parts):
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return pa.chunked_array(
        [chunk for part in parts for chunk in getattr(part, "chunks", [part])], pa.string()
    ).to_pandas()


def _broken_rules(origin, frame, first_row):
    """A (row, column, sentence) per rule of a column that is broken; nothing unknown breaks one."""
    for name, (lowest, hint) in LOWEST.items():
        if name not in frame:
            continue
        values = frame[name].to_numpy()
        for expected, broken in (
            (f"a number >= {lowest:g}{hint}", values < lowest),
            (f"a finite number <= {LARGEST:g}", values > LARGEST),
        ):
            if not broken.any():
                continue
            at = int(np.argmax(broken))
            sentence = _problem(
                origin, at + first_row, name, expected, shown(float(values[at])), broken.sum()
            )
            if name in CHANGES and (doubt := _looks_like_percent(frame[name])):
                sentence = f"{origin}, column {name}: {doubt}."
            yield at + first_row, name, sentence


def _problem(origin, row, column, expected, got, count):
    others = count - 1
    more = f" ({others:,} more such row{'s' if others > 1 else ''})" if others else ""
    return f"{origin}, row {row}, column {column}: expected {expected}, got {got}{more}."


def _unusual_changes(frame):
    """A clause for each column of changes that looks like percent, or twice divided by 100."""
    for name in CHANGES:
        if name not in frame:
            continue
        if doubt := _looks_like_percent(frame[name]):
            yield f"column {name}: {doubt}"
    known = frame[CHANGE_1H].dropna().abs() if CHANGE_1H in frame else []
    if len(known) >= LEAST_CHANGES and known.median() < USUAL_1H[0]:
        yield (
            f"column {CHANGE_1H}: half of the changes are below {known.median():.2g}, usual is "
            f"{USUAL_1H[0]} to {USUAL_1H[1]}; changes are fractions (0.022 is 2.2 %): were they "
            "divided by 100 twice?"
        )


def _looks_like_percent(values):
    """What to do about changes that look like percent, or None where they do not."""
    known = values.dropna().abs()
    median, most = known.median(), USUAL_1H[1] if values.name == CHANGE_1H else 1
    if len(known) < FEW_CHANGES or median <= most:
        return None
    return (
        f"half of the changes are beyond {median:.2g}, usual is less than {most}; changes are "
        f"fractions (0.022 is 2.2 %): are these percent? Then name the column {values.name} %"
    )


def _report(problems):
    if len(problems) == 1:
        return problems[0]
    shown = [f"  {problem}" for problem in problems[:PROBLEMS_SHOWN]]
    if len(problems) > PROBLEMS_SHOWN:
        shown.append(f"  and {len(problems) - PROBLEMS_SHOWN} more.")
    return "\n".join(
        [f"{len(problems)} problems in the market data; correct or remove them:", *shown]
    )


def drop_unusable(frame, required):
    """Usable rows in their order, how many went for which reason, of which the first counts, and
    a doubt about that, or None.
    """
    reasons = [(f"unknown {name}", frame[name].isna()) for name in required]
    reasons.append(("mkt_cap 0", frame[MARKET_CAP] == 0))
    keep = pd.Series(True, index=frame.index)
    dropped = {}
    for reason, unusable in reasons:
        dropped[reason] = int((keep & unusable).sum())
        keep &= ~unusable
    # Only among usable rows: an unusable later row must not push out a usable earlier one.
    used = frame[keep]
    doubt = probable_namesakes(used)
    repeated = used.duplicated(KEYS, keep="last")
    dropped["duplicate coin and date"] = int(repeated.sum())
    used = used[~repeated].reset_index(drop=True)
    return used, {reason: count for reason, count in dropped.items() if count}, doubt
