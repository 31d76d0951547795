"""A CSV file in, its rows with their scores or their errors out: what is done without the model.

Of a large file serve.unpacking does it.
"""

from functools import partial

import pyarrow as pa

from liquidity.data.content import open_bytes
from liquidity.model.model import Forecast, Scorer
from liquidity.scoring.blocks import (
    add_scores,
    csv_header,
    csv_lines,
    lay_out_inputs,
    parse_inputs,
    without_formulas,
)
from serve.inputs import check_count


class Rules:
    """What a file's cells are read and judged by; a model would not get through a pipe.

    With the model's answer, `broken` of shape (rows, inputs) and `scores` of the rows that obey
    the rules, it stands in for the model.
    """

    def __init__(self, model, known):
        self.features, self.optional = list(model.features), tuple(model.optional)
        self.rules, self.largest = known["rules"], known["largest"]

    def problem(self, name, value):
        """As the model says it."""
        return (Scorer if name in self.features else Forecast).problem(self, name, value)

    def broken(self, X):  # noqa: D102
        return self.judged

    def answer(self, X, threshold=None):  # noqa: D102
        return self.scores


def read_rows(body, rules):
    """X of shape (rows, inputs); raises MarketDataError for columns that are missing."""
    table, layout = _read(body, rules)
    return parse_inputs(table, layout, rules)[0]


def write_rows(body, rules, X, broken, scores, *, formulas):
    """The file as bytes, each row with its scores or its error; without `formulas` no cell that a
    spreadsheet would run.
    """
    rules.judged, rules.scores = broken, scores
    table, layout = _read(body, rules)
    scored = add_scores(rules, table, X, layout)
    if not formulas:
        scored = without_formulas(scored)
    return csv_header(scored.column_names) + csv_lines(scored)


def _read(body, rules):
    """The file's rows as a table, and its layout."""
    source, layout, _ = lay_out_inputs(
        partial(open_bytes, body, origin="The file"), "The file", rules
    )
    blocks, rows = [], 0
    for block in source.blocks:
        rows = check_count(rows + len(block))
        blocks.append(block)
    if not blocks:
        blocks = [pa.table([[]] * len(source.names), source.names)]
    return pa.concat_tables(blocks), layout
