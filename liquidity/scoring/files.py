"""A file of any size, block by block: read it, score it, write it beside its name."""

import gzip
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from liquidity.data import readers
from liquidity.errors import MarketDataError
from liquidity.output import replaced, unchanged
from liquidity.processes import bounded_memory
from liquidity.scoring.blocks import add_scores, csv_header, csv_lines, find_inputs, parse_inputs

SUFFIXES = (".csv", ".csv.gz", ".parquet")  # what can be written too
BLOCK_BYTES = 2**20  # of CSV; a row has to fit in
BLOCK_ROWS = 2**16  # of Parquet


@dataclass(frozen=True)
class Source:
    """An opened input file: its columns' names, its blocks, and how many of its bytes so many
    blocks with so many rows are.
    """

    names: list[str]
    blocks: Iterator[pa.Table]
    position: Callable[[int, int], int]


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
        opened = open_source(source)
        positions = find_columns(opened.names, model.features, source, model.optional)

        def parse(first_row, block):
            X, wrong = parse_inputs(block, positions, model, history and history.coins)
            _refuse_text(source, block, wrong, positions, model, first_row)
            return X

        def with_history(numbered):
            for first_row, block in numbered:
                X = parse(first_row, block)
                yield block, X, history.take(model, X, source, first_row)

        def score_forecast(item):
            block, X, before = item
            return add_scores(model, block, X, positions, history=before)

        def score_block(item):
            first_row, block = item
            return add_scores(model, block, parse(first_row, block), positions)

        items, score = _numbered(opened.blocks), score_block
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


def _numbered(blocks):
    """The blocks, each with the number of rows before it."""
    rows = 0
    for block in blocks:
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
        opened = open_source(source)
        positions = find_columns(opened.names, model.features, source, model.optional)
        for first_row, block in _numbered(opened.blocks):
            X, _ = parse_inputs(block, positions, model, history.coins)
            history.take(model, X, source, first_row)


def find_columns(names, needed, source, optional=()):
    """Positions of the columns `needed` and `optional` of the file `source`, None for an optional
    one that is not there; raises MarketDataError.
    """
    try:
        return find_inputs(names, needed, optional)
    except MarketDataError as error:
        raise MarketDataError(f"{source}, {error}.") from None


def _refuse_text(source, block, wrong, positions, model, first_row):
    """Text where a number belongs means shifted columns or another file, not an unknown value."""
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        value = block.column(positions[column])[row].as_py()
        raise MarketDataError(
            f"{source}, row {first_row + row + 2}, column {model.features[column]}: expected a "
            f"number, got {value!r}: correct it, or empty the cell to have the row marked instead."
        )


def open_source(path):
    """The file as a Source.

    It is closed by what refers to it last, never here: Arrow reads ahead in a thread of its own,
    which would take what it reads next out of the file that got the closed one's descriptor.
    """
    with _reading(path):
        file = pa.OSFile(str(path))
        open_blocks = _open_parquet if path.name.endswith(".parquet") else _open_csv
        names, batches, position = open_blocks(file, path)
    return Source(names, _tables(path, batches), position)


def _open_csv(file, path):
    # Every cell as text, so that it comes back as it stood. Without threads errors name the row.
    read = csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
    parse = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, read_options=read, parse_options=parse) as head:
        names = head.schema.names
    text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    packed = path.suffix == ".gz"
    stream = pa.CompressedInputStream(file, "gzip") if packed else file
    batches = csv.open_csv(stream, read_options=read, parse_options=parse, convert_options=text)
    size = file.size()

    def position(blocks, rows):
        if packed:
            return size if file.closed else file.tell()  # it closes with its stream, at the end
        # Arrow reads thirty blocks ahead, so where it is in the file says little.
        return min(blocks * BLOCK_BYTES, size)

    return names, batches, position


def _open_parquet(file, path):
    # Without reading ahead: a file may be one row group, larger than memory.
    parquet = pq.ParquetFile(file, pre_buffer=False)
    share = file.size() / max(1, parquet.metadata.num_rows)
    batches = parquet.iter_batches(BLOCK_ROWS)
    return parquet.schema_arrow.names, batches, lambda blocks, rows: int(rows * share)


def _tables(path, batches):
    while True:
        with _reading(path):
            batch = next(batches, None)
        if batch is None:
            return
        if batch.num_rows:
            yield pa.Table.from_batches([batch])


@contextmanager
def _reading(path):
    """What cannot be read is a MarketDataError, unlike what cannot be written."""
    try:
        with bounded_memory(readers.READ_BYTES):
            yield
    except MemoryError as error:
        raise MarketDataError(readers.too_large(path)) from error
    except (OSError, pa.ArrowException) as error:
        kind = "Parquet" if path.name.endswith(".parquet") else "CSV"
        reason = str(error).strip().partition("\n")[0].rstrip(".") or repr(error)
        raise MarketDataError(f"{path}: cannot be read as {kind}: {reason}.") from error


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
