"""Blocks of rows in, the same rows with their scores out.

A block is a pyarrow Table; what stands in its cells may be text, as in a CSV file.
"""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from liquidity.contract import COIN, DATE, ID, UNKNOWN_NAMES
from liquidity.data.cells import encoded, parse_names
from liquidity.data.content import in_memory
from liquidity.data.layout import lay_out
from liquidity.errors import MarketDataError
from liquidity.model.model import NOT_ALLOWED, coin_number

# What a spreadsheet may run when it opens a CSV file, and what begins alike and is harmless.
INVISIBLE = "[:space:][:cntrl:]\u00a0\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff"
SIGNS = "[-=+@\uff1d\uff0b\uff0d\uff20]"
FORMULA = f"^[{INVISIBLE}]*{SIGNS}"
# And where semicolons, tabs or line breaks part cells, whatever the file says.
CELL_WITHIN = f'([;\t\r\n][{INVISIBLE}"]*)({SIGNS})'
SIGNED_NUMBER = r"^[[:space:]]*[-+]*([0-9.,$%]+([eE][-+]?[0-9]+)?)?[[:space:]]*$"
SCORES = {
    "liquidity": pa.float64(),
    "level": pa.string(),
    "lower": pa.float64(),
    "upper": pa.float64(),
    "in_range": pa.bool_(),
    "error": pa.string(),
}
FORECAST_SCORES = {"p_high": pa.float64(), "days_used": pa.int64()}


def score_types(model):
    """The columns that scoring adds, with their types; `error` is the last one."""
    *scores, error = SCORES.items()
    return dict(scores) | (FORECAST_SCORES if model.optional else {}) | dict([error])


def score_rows(model, table, *, threshold=None):
    """Score every row of a block: the table with the columns of `score_types` behind its own.

    `model` is a scorer, as `load_model` returns it. A forecast answers each row from the earlier
    rows of its coin in the block. A row that breaks a rule has an `error` that names
    column, rule and value, and null scores; an own column of the name of a score is kept as
    `input_<name>`. Raises MarketDataError when a needed column is missing or given twice.
    """
    _, layout, _ = lay_out_inputs(lambda: in_memory(table), "the table", model)
    X, _ = parse_inputs(table, layout, model)
    return add_scores(model, table, X, layout, threshold=threshold)


def lay_out_inputs(opened, origin, model, needed=()):
    """`lay_out` of the columns that a model, or what stands in for it, takes, and of `needed`."""
    needed = [*model.features, *needed]
    keys = (*model.optional, ID) if model.optional else ()
    return lay_out(opened, origin, [*needed, *keys], needed)


def parse_inputs(table, layout, model, coins=None):
    """X, float64 with NaN for unknown and a column per input, and which cells are no number.

    `coins` are the numbers of the names that are known so far; see Forecast.parse.
    """
    columns = [layout.numbers(table, name) for name in model.features]
    X, wrong = (np.column_stack(parts) for parts in zip(*columns, strict=True))
    if model.optional:
        coins = {} if coins is None else coins
        X = np.column_stack([X, _coins(layout, table, coins), _days(layout, table)])
    return X, wrong


def _coins(layout, table, coins):
    """The number of each row's coin, as `Forecast.parse` has them, of shape (rows,)."""
    try:
        cells, _ = parse_names(layout.cells(table, COIN))
    except ValueError as error:
        raise MarketDataError(f"column {COIN}: {error}.") from error
    if layout.has(ID):  # then it tells the coins apart, whatever they are called
        ids, unknown = parse_names(layout.cells(table, ID).cast(pa.string()))
        cells = pc.if_else(pa.array(unknown), cells, ids)
    distinct, codes = encoded(cells)
    numbers = map(partial(coin_number, coins=coins), distinct.to_pylist())
    return np.array([*numbers, np.nan])[codes]


def _days(layout, table):
    """Days since 1970 as `Forecast.parse` has them, of shape (rows,)."""
    days, wrong = layout.days(table)
    cells = layout.cells(table, DATE)
    unknown = pc.is_null(cells).to_numpy(zero_copy_only=False)
    if pa.types.is_string(cells.type):
        names = pa.array([*UNKNOWN_NAMES], pa.string())
        unknown |= (
            pc.is_in(pc.utf8_trim_whitespace(cells), names)
            .fill_null(True)
            .to_numpy(zero_copy_only=False)
        )
    days = days.astype("datetime64[D]").astype(float)
    days[wrong] = NOT_ALLOWED
    days[unknown] = np.nan
    return days


def add_scores(model, table, X, layout, *, threshold=None, history=None):
    """The block with its scores, where X has been parsed by `layout`.

    `history` holds the history features and days used of the rows that obey the rules, where
    earlier blocks are a part of them.
    """
    broken = model.broken(X)
    good = ~broken.any(axis=1)
    scores = {}
    if good.any() and history:
        scores = model.forecast(*history, X[good], threshold)
    elif good.any():
        scores = model.answer(X[good], threshold)
    scores = {name: _spread(scores[name], good) for name in scores}
    scores["error"] = pa.array(_errors(model, table, broken, layout), pa.string())
    types = score_types(model)
    names = output_names(table.schema.names, types)
    for name, type_ in types.items():
        column = scores.get(name)
        table = table.append_column(name, pa.nulls(len(X), type_) if column is None else column)
    return table.rename_columns(names)


def unscored(scored):
    """How many rows of a scored block have no score."""
    return len(scored) - scored["error"].null_count


def output_names(names, scores):
    """The names of a scored block's columns; no score hides a column that the input has."""
    taken = {*names, *scores}
    renamed = {}
    for name in scores:
        renamed[name] = name
        while renamed[name] in taken:
            renamed[name] = f"input_{renamed[name]}"
    return [*(renamed.get(name, name) for name in names), *scores]


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
    if pc.any(risky).as_py():
        risky = pc.and_not(risky, pc.match_substring_regex(cells, SIGNED_NUMBER))
        cells = pc.if_else(risky, pc.binary_join_element_wise("'", cells, ""), cells)
    return pc.replace_substring_regex(cells, CELL_WITHIN, r"\1'\2")


def _csv_cells(column):
    cells = pc.fill_null(pc.cast(column, pa.string()), "")
    # The bytes of all cells at once first: a cell at a time takes as long as all else here.
    if not any(mark in text for text in map(_text, cells.chunks) for mark in b'",\r\n'):
        return cells
    special = pc.match_substring_regex(cells, '[",\r\n]')
    doubled = pc.replace_substring(cells, '"', '""')
    return pc.if_else(special, pc.binary_join_element_wise('"', doubled, '"', ""), cells)


def _text(cells):
    """All cells of an array of strings one after the other, as bytes."""
    if not len(cells):
        return b""
    _, offsets, text = cells.buffers()
    ends = np.frombuffer(offsets, np.int32)[cells.offset :]
    return text.slice(ends[0], ends[len(cells)] - ends[0]).to_pybytes() if text else b""


def _spread(values, good):
    """`values` at the rows that are `good`, null elsewhere."""
    full = np.zeros(len(good), values.dtype)
    full[good] = values
    return pa.array(full, mask=~good)


def _errors(model, table, broken, layout):
    """For each row what is wrong with it, or None, of shape (rows,)."""
    problems = {}
    inputs = (*model.features, *model.optional)
    for name, wrong in zip(inputs, broken.T, strict=True):
        rows = np.flatnonzero(wrong)
        if not rows.size:
            continue
        values = (
            layout.cells(table, name).take(rows).to_pylist()
        )  # a cell at a time takes thrice that
        for row, value in zip(rows.tolist(), values, strict=True):
            problem = model.problem(name, value)
            problems[row] = f"{problems[row]}; {problem}" if row in problems else problem
    errors = np.full(len(broken), None)
    errors[list(problems)] = list(problems.values())
    return errors
