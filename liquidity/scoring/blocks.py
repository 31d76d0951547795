"""Blocks of rows in, the same rows with their scores out.

A block is a pyarrow Table; what stands in its cells may be text, as in a CSV file.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from liquidity.contract import ALIASES
from liquidity.data.cells import parse_numbers
from liquidity.errors import MarketDataError

NAMES_SHOWN, NAME_SHOWN = 50, 100  # columns of a header in an error, and letters of each
# What a spreadsheet may run when it opens a CSV file, and what begins alike and is harmless.
FORMULA = "^[[:space:]]*[-=+@\uff1d\uff0b\uff0d\uff20]"
SIGNED_NUMBER = r"^[[:space:]]*[-+]*([0-9.,$%]+([eE][-+]?[0-9]+)?)?[[:space:]]*$"
SCORES = {
    "liquidity": pa.float64(),
    "level": pa.string(),
    "lower": pa.float64(),
    "upper": pa.float64(),
    "in_range": pa.bool_(),
    "error": pa.string(),
}


def score_rows(model, table, *, threshold=None):
    """Score every row of a block: the table with the columns of SCORES behind its own.

    `model` is the unwrapped LiquidityModel. A row that breaks a rule has an `error` that names
    column, rule and value, and null scores; an own column of the name of a score is kept as
    `input_<name>`. Raises MarketDataError when a needed column is missing or given twice.
    """
    positions = find_inputs(table.schema.names, model.features)
    X, _ = parse_inputs(table, positions)
    return add_scores(model, table, X, positions, threshold=threshold)


def find_inputs(names, features):
    """Positions of the columns `features` among `names`, which may be padded or aliases."""
    known = [ALIASES.get(name.strip(), name.strip()) for name in names]
    for feature in features:
        count = known.count(feature)
        if count != 1:
            found = "given more than once" if count else "missing"
            raise MarketDataError(
                f"column {feature}: {found}; expected {', '.join(features)} once each, "
                f"got {_listed(names)}"
            )
    return [known.index(feature) for feature in features]


def _listed(names):
    shown = [name[:NAME_SHOWN] for name in names[:NAMES_SHOWN]]
    if len(names) > NAMES_SHOWN:
        shown.append(f"and {len(names) - NAMES_SHOWN:,} more")
    return ", ".join(shown) or "no columns"


def parse_inputs(table, positions):
    """X, float64 of shape (rows, inputs) with NaN for unknown, and which cells are no number."""
    columns = [_numbers(table.column(position)) for position in positions]
    return tuple(np.column_stack(parts) for parts in zip(*columns, strict=True))


def add_scores(model, table, X, positions, *, threshold=None):
    """The block with its scores, where X has been parsed from the columns at `positions`."""
    broken = model.broken(X)
    good = ~broken.any(axis=1)
    scores = {}
    if good.any():
        scores = model.answer(X[good], threshold)
    scores = {name: _spread(scores[name], good) for name in scores}
    scores["error"] = pa.array(_errors(model, table, broken, positions), pa.string())
    names = output_names(table.schema.names)
    for name, type_ in SCORES.items():
        column = scores.get(name)
        table = table.append_column(name, pa.nulls(len(X), type_) if column is None else column)
    return table.rename_columns(names)


def unscored(scored):
    """How many rows of a scored block have no score."""
    return len(scored) - scored["error"].null_count


def output_names(names):
    """The names of a scored block's columns; no score hides a column that the input has."""
    taken = {*names, *SCORES}
    renamed = {}
    for name in SCORES:
        renamed[name] = name
        while renamed[name] in taken:
            renamed[name] = f"input_{renamed[name]}"
    return [*(renamed.get(name, name) for name in names), *SCORES]


def csv_lines(table):
    """The rows of a block as CSV bytes without a header; a cell is quoted where it must be."""
    *cells, last = [_csv_cells(column) for column in table.columns]
    lines = pc.binary_join_element_wise(*cells, pc.binary_join_element_wise(last, "\n", ""), ",")
    return b"".join(chunk.buffers()[2].to_pybytes() for chunk in lines.chunks if len(chunk))


def csv_header(names):
    """The line above `csv_lines` as bytes."""
    return csv_lines(pa.table([[name] for name in names], names=list(names)))


def without_formulas(table):
    """The block with an apostrophe before every name and text that a spreadsheet would take for a
    formula; numbers, marks for unknown and all other cells stay as they are.
    """
    columns = [
        _quote_formulas(column) if pa.types.is_string(column.type) else column
        for column in table.columns
    ]
    return pa.table(columns, _quote_formulas(pa.array(table.column_names)).to_pylist())


def _quote_formulas(cells):
    risky = pc.match_substring_regex(cells, FORMULA)
    if not pc.any(risky).as_py():
        return cells
    risky = pc.and_not(risky, pc.match_substring_regex(cells, SIGNED_NUMBER))
    return pc.if_else(risky, pc.binary_join_element_wise("'", cells, ""), cells)


def _numbers(column):
    """float64 values and which cells are no number, each of shape (rows,)."""
    type_ = column.type
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_string(type_):
        try:
            values = pc.cast(column, pa.float64(), safe=False)
        except pa.ArrowInvalid:
            pass  # money, padding, marks for unknown, or no number
        else:
            return values.to_numpy(), np.zeros(len(values), bool)
    values, wrong, _ = parse_numbers(column.to_pandas())
    return values.to_numpy(), wrong


def _csv_cells(column):
    cells = pc.fill_null(pc.cast(column, pa.string()), "")
    special = pc.match_substring_regex(cells, '[",\r\n]')
    if not pc.any(special).as_py():
        return cells
    doubled = pc.replace_substring(cells, '"', '""')
    return pc.if_else(special, pc.binary_join_element_wise('"', doubled, '"', ""), cells)


def _spread(values, good):
    """`values` at the rows that are `good`, null elsewhere."""
    full = np.zeros(len(good), values.dtype)
    full[good] = values
    return pa.array(full, mask=~good)


def _errors(model, table, broken, positions):
    """For each row what is wrong with it, or None."""
    problems = [[] for _ in broken]
    for name, position, wrong in zip(model.features, positions, broken.T, strict=True):
        rows = np.flatnonzero(wrong)
        values = table.column(position).take(rows).to_pylist()  # a cell at a time takes thrice that
        for row, value in zip(rows.tolist(), values, strict=True):
            problems[row].append(model.problem(name, value))
    return ["; ".join(found) or None for found in problems]
