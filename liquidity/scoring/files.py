"""A file of any size, block by block: read it, score it, write it beside its name."""

import gzip
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from liquidity.data import content
from liquidity.data.cells import shown
from liquidity.errors import MarketDataError
from liquidity.output import replaced, unchanged
from liquidity.scoring.blocks import (
    add_scores,
    csv_header,
    csv_lines,
    lay_out_inputs,
    parse_inputs,
)

WRITTEN = (".csv", ".csv.gz", ".parquet")  # the kinds of file that scores are written as


def score_file(
    model, source, target, *, history=None, overwrite=False, threads=None, on_block=None
):
    """Write the rows of the file `source` with their scores to `target`, which is there when it
    is complete; on `threads` threads, by default one per core.

    A forecast takes the days before a row from `history`, a scoring.history.History that goes from
    file to file, and adds the file's own. `on_block` is called with the bytes done so far and each
    scored block. Raises MarketDataError for what is wrong in `source`.
    """
    blocks = rows = 0
    with ExitStack() as stack:
        file = stack.enter_context(replaced(target, overwrite=overwrite))
        stack.enter_context(unchanged(source))
        opened, layout, _ = open_inputs(source, model)

        def parse(first_row, block):
            X, wrong = parse_inputs(block, layout, model, history and history.coins)
            _refuse_text(source, block, wrong, layout, model, first_row)
            return X

        def with_history(numbered):
            for first_row, block in numbered:
                X = parse(first_row, block)
                yield block, X, history.take(model, X, source, first_row)

        def score_forecast(item):
            block, X, before = item
            return add_scores(model, block, X, layout, history=before)

        def score_block(item):
            first_row, block = item
            return add_scores(model, block, parse(first_row, block), layout)

        items, score = _numbered(opened), score_block
        if history:  # in the order of the rows, and one block after the other
            items, score = with_history(items), score_forecast

        write = None
        for scored in _in_threads(score, items, threads or joblib.cpu_count()):
            if write is None:
                write = stack.enter_context(_writer(target, file, scored.schema))
            write(scored)
            blocks += 1
            rows += len(scored)
            if on_block:
                on_block(opened.position(blocks, rows), scored)
        if not rows:
            raise MarketDataError(f"{source}: has a header but no rows.")


def _numbered(source):
    """The blocks, each with the number of its first row in the file."""
    rows = source.first_row
    for block in source.blocks:
        yield rows, block
        rows += len(block)


def _in_threads(function, items, threads):
    """`map` that takes only as many items in advance as it has threads, to save memory."""
    pending = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def read_history(model, source, history):
    """Take up the days of a file whose output is there already."""
    with unchanged(source):
        opened, layout, _ = open_inputs(source, model)
        for first_row, block in _numbered(opened):
            X, _ = parse_inputs(block, layout, model, history.coins)
            history.take(model, X, source, first_row)


def open_inputs(path, model, needed=()):
    """The file `path`, its layout and what was understood of it, as `lay_out` returns them; it
    has to have the columns `needed` too.
    """
    return lay_out_inputs(partial(content.open_file, path), path, model, needed)


def _refuse_text(source, block, wrong, layout, model, first_row):
    """Text where a number belongs means shifted columns or another file, not an unknown value."""
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        name = model.features[column]
        value = shown(layout.cells(block, name)[int(row)].as_py())
        raise MarketDataError(
            f"{source}, row {first_row + row}, column {name}: expected a number, got {value}: "
            "correct it, or empty the cell to have the row marked instead."
        )


@contextmanager
def _writer(target, file, schema):
    """Yields a function that writes a block to `file` in the format of the name `target`."""
    if target.name.endswith(".parquet"):
        with pq.ParquetWriter(file, schema) as writer:
            yield writer.write_table
        return
    for field in schema:
        try:
            pc.cast(pa.nulls(0, field.type), pa.string())
        except pa.ArrowNotImplementedError:
            raise MarketDataError(
                f"{target}: the input's column {field.name} is {field.type}, which CSV cannot "
                "hold; write to a name that ends in .parquet."
            ) from None
    with (
        # Without the time, the same rows are the same file.
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
        if target.suffix == ".gz"
        else nullcontext(file) as f
    ):
        f.write(csv_header(schema.names))
        yield lambda block: f.write(csv_lines(block))
