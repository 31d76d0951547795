"""Snapshot files in, one checked frame out: columns, rules, and what cannot be used."""

from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from liquidity.contract import (
    CHANGE_1H,
    CHANGE_RULE,
    CHANGES,
    COLUMNS,
    DATE,
    FEATURES,
    INPUTS,
    KEYS,
    LARGEST,
    MARKET_CAP,
    NUMBERS,
    PRICE,
    TARGET,
    VOLUME,
    Rule,
)
from liquidity.data.cells import parse_days, parse_names, parse_numbers
from liquidity.data.readers import api_cells, column_name, read_cells, snapshot_files
from liquidity.errors import MarketDataError

# Without these a row has no target or no complete set of inputs.
REQUIRED = tuple(FEATURES)
OUTLIER_COLUMNS = [PRICE, VOLUME, MARKET_CAP]
PROBLEMS_SHOWN = 20
# The median of |1h| over a market, on quiet and on wild days: 0.0013 to 0.027 on 48 month starts.
USUAL_1H = (0.0005, 0.1)
LEAST_CHANGES = 20


@dataclass(frozen=True)
class Cleaning:
    """What was read, what was left out, as row counts by reason, and what looks doubtful."""

    files: list[str]
    rows_read: int
    rows_used: int
    dropped: dict[str, int]
    warnings: tuple[str, ...] = ()

    def to_dict(self):
        """What goes into cleaning.json."""
        return asdict(self)


def read_market(source, *, required=REQUIRED, day_shift=0):
    """Read, check and clean the snapshots at `source`: a file, a folder or a glob.

    Rows keep their order within a file, and files come in the order of their names: a forest
    depends on the order of its rows. `required` names the number columns that a row must know.
    `day_shift` days are added to every date.

    Returns `(frame, cleaning)`; the frame has the columns of COLUMNS that the files hold, changes
    as fractions, money in USD, `date` as a day.
    Raises MarketDataError with every problem of every file.
    """
    paths = snapshot_files(source)
    frames, problems = [], []
    for path in paths:
        frame, found = _read_file(path, required)
        frames.append(frame)
        problems += found
    if problems:
        raise MarketDataError(_report(problems))
    doubts = [_unusual_changes(path, frame) for path, frame in zip(paths, frames, strict=True)]
    frame = pd.concat(frames, ignore_index=True)
    frame[DATE] += pd.Timedelta(days=day_shift)
    used, dropped = _drop_unusable(frame, required)
    if used.empty:
        counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise MarketDataError(
            f"{source}: none of the {len(frame)} rows can be used ({counts}); expected at least "
            f"one row that knows {', '.join(required)}."
        )
    files, warnings = [str(path) for path in paths], tuple(filter(None, doubts))
    return used, Cleaning(files, len(frame), len(used), dropped, warnings)


def api_frame(records, *, origin):
    """The coins of CoinGecko's `/coins/markets`, a list of dicts, as a checked frame.

    It has the columns of COLUMNS, changes as fractions; null is NaN. `origin` is what an error
    names as the place. Raises MarketDataError for anything but coins of the documented form.
    """
    try:
        cells = api_cells(records)
    except ValueError as error:
        raise MarketDataError(f"{origin}: {error}.") from error
    frame, problems = _check_cells(cells, origin, REQUIRED)
    if problems:
        raise MarketDataError(_report(problems))
    return frame


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


def _read_file(path, required):
    """One file as a frame of known columns, and its problems as sentences."""
    try:
        cells = read_cells(path)
    except MarketDataError as error:
        return None, [str(error)]
    return _check_cells(cells, path, required)


def _check_cells(cells, path, required):
    raw = cells.raw
    raw.columns = [column_name(name) for name in raw.columns]
    problems = []
    repeated = raw.columns[raw.columns.duplicated()].unique()
    problems += [f"{path}, column {name}: given more than once." for name in repeated]
    problems += [
        f"{path}, column {name}: missing; the file has {', '.join(raw.columns) or 'no columns'}."
        for name in (*KEYS, *required)
        if name not in raw.columns
    ]
    if problems:
        return None, problems
    if raw.empty:
        return None, [f"{path}: has a header but no rows."]
    frame = pd.DataFrame(index=raw.index)
    for name in [c for c in COLUMNS if c in raw.columns]:
        convert = parse_numbers if name in NUMBERS else parse_days if name == DATE else parse_names
        values, wrong, expected = convert(raw[name])
        frame[name] = values / 100 if name in cells.percent else values
        rows = np.flatnonzero(wrong)
        problems += [
            _cell_problem(path, name, row, expected, value)
            for row, value in zip(rows + cells.first_row, raw[name].iloc[rows], strict=True)
        ]
    return frame, problems + _broken_rules(path, frame, cells.first_row)


def _column(rule, *, hint=""):
    # A capitalisation of 0 is let in here: it means unknown, and the row is left out and counted.
    return pa.Column(
        float,
        [
            pa.Check.ge(rule.lowest, error=f"a number >= {rule.lowest:g}{hint}"),
            pa.Check.le(LARGEST, error=f"a finite number <= {LARGEST:g}"),
        ],
        nullable=True,
        required=False,
    )


SCHEMA = pa.DataFrameSchema(
    {
        **{name: _column(INPUTS[name].rule) for name in (PRICE, VOLUME, MARKET_CAP)},
        TARGET: _column(Rule(0)),
        **{name: _column(CHANGE_RULE, hint=" (a fraction: 0.022 is 2.2 %)") for name in CHANGES},
    }
)


def _broken_rules(path, frame, first_row):
    try:
        SCHEMA.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases.sort_values(["index", "column"], kind="stable")
        return [
            _cell_problem(
                path, case.column, int(case.index) + first_row, case.check, case.failure_case
            )
            for case in cases.itertuples(index=False)
        ]
    return []


def _cell_problem(path, column, row, expected, value):
    value = value if isinstance(value, str) else float(value) if np.isreal(value) else value
    return f"{path}, row {row}, column {column}: expected {expected}, got {value!r}."


def _unusual_changes(path, frame):
    """A sentence where 1h looks like percent, or like fractions taken for percent; else None."""
    known = frame[CHANGE_1H].dropna().abs() if CHANGE_1H in frame else []
    if len(known) < LEAST_CHANGES:
        return None
    median, (low, high) = known.median(), USUAL_1H
    if low <= median <= high:
        return None
    suspicion = "are these percent?" if median > high else "were they divided by 100 twice?"
    return (
        f"{path}, column {CHANGE_1H}: half of the changes are beyond {median:.2g}, usual is "
        f"{low} to {high}; changes are fractions (0.022 is 2.2 %): {suspicion}"
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


def _drop_unusable(frame, required):
    """Usable rows in their order, and how many went for which reason; the first reason counts."""
    reasons = [(f"unknown {name}", frame[name].isna()) for name in required]
    reasons.append(("mkt_cap 0", frame[MARKET_CAP] == 0))
    keep = pd.Series(True, index=frame.index)
    dropped = {}
    for reason, unusable in reasons:
        dropped[reason] = int((keep & unusable).sum())
        keep &= ~unusable
    # Only among usable rows: an unusable later row must not push out a usable earlier one.
    used = frame[keep]
    repeated = used.duplicated(KEYS, keep="last")
    dropped["duplicate coin and date"] = int(repeated.sum())
    used = used[~repeated].reset_index(drop=True)
    return used, {reason: count for reason, count in dropped.items() if count}
