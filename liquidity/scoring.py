"""Rows of a table or a file in, the same rows with their scores out (python -m liquidity.scoring).

A block is a pyarrow Table; what stands in its cells may be text, as in a CSV file.
"""

import fcntl
import gzip
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from mlflow.exceptions import MlflowException
from pyarrow import csv
from rich.console import Console

from liquidity import cluster, store
from liquidity.arguments import Parser, whole_number
from liquidity.market import ALIASES, MarketDataError, parse_numbers
from liquidity.progress import rows_progress
from liquidity.store import ModelError, TrackingError

SUFFIXES = (".csv", ".csv.gz", ".parquet")  # what can be written too
BLOCK_BYTES = 2**20  # of CSV; a row has to fit in
BLOCK_ROWS = 2**16  # of Parquet
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
    `input_<name>`. Raises MarketDataError when a needed column is missing or stands there twice.
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
            found = "stands there more than once" if count else "missing"
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


@dataclass(frozen=True)
class Source:
    """An opened input file: its columns' names, its blocks, and how many of its bytes so many
    blocks with so many rows are.
    """

    names: list[str]
    blocks: Iterator[pa.Table]
    position: Callable[[int, int], int]


def main(argv=None):
    """Score files; returns the exit code: 0, 1 (failed), 2 (bad input) or 130 (stopped)."""
    args = parse_arguments(argv)
    store.quieten_mlflow()
    try:
        score(args, Console())
    except (MarketDataError, ModelError, TrackingError, cluster.ClusterError) as error:
        print(f"scoring: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("scoring: stopped; nothing half-written is left.", file=sys.stderr)
        return 130
    except cluster.ClusterLost as error:
        print(f"scoring: failed: {error}; the same command does what is missing.", file=sys.stderr)
        return 1
    except (MlflowException, OSError, MemoryError, pa.ArrowException) as error:
        print(f"scoring: failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def score(args, console):
    """The job from input to output files; all wiring is here."""
    jobs = plan(args.input, args.output, overwrite=args.overwrite)
    missing = [job for job in jobs if args.overwrite or not job[1].exists()]
    if len(missing) < len(jobs):
        console.print(
            f"{len(jobs) - len(missing)} of {len(jobs)} files are in {args.output} already and "
            "stay as they are; --overwrite scores them again.",
            highlight=False,
            soft_wrap=True,
        )
    if missing:
        store.check_store()
        with store.fetched_model(args.model_uri) as (model, folder):
            check_headers(missing, [*model.features, "coin"] if args.top else model.features)
            if args.scheduler == cluster.LOCAL:
                run = partial(score_here, model, overwrite=args.overwrite)
            else:
                run = partial(score_on_cluster, args.scheduler, folder, console=console)
            score_files(missing, run, console)
    if args.top:
        show_ranking([output for _, output in jobs], args.top, console)


def parse_arguments(argv):
    """The settings; leaves with exit code 2 and one sentence where they make no sense."""
    parser = Parser(prog="scoring", description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="a file or a folder of files")
    parser.add_argument(
        "--output", type=Path, required=True, help="a file, or an existing folder for their names"
    )
    default = f"models:/{store.MODEL_NAME}@{store.CHAMPION}"
    parser.add_argument("--model-uri", default=default, help=f"({default})")
    parser.add_argument(
        "--top", type=whole_number(0), default=0, help="show and draw so many of both ends (0)"
    )
    parser.add_argument(
        "--scheduler", default=cluster.LOCAL, help="a Dask scheduler's address, tcp://HOST:8786"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    return parser.parse_args(argv)


def plan(input, output, *, overwrite):
    """The pairs (input file, output file); raises MarketDataError where they make no sense."""
    if input.is_dir():
        sources = sorted(p for p in input.iterdir() if p.name.endswith(SUFFIXES) and p.is_file())
        if not sources:
            raise MarketDataError(f"{input}: holds no file that ends in {', '.join(SUFFIXES)}.")
        if not output.is_dir():
            raise MarketDataError(
                f"{output}: no such folder; the input is a folder, so the output has to be an "
                "existing one: make it first."
            )
    elif input.exists():
        sources = [input]
    else:
        raise MarketDataError(f"{input}: no such file or folder (looked from {Path.cwd()}).")
    jobs = [(s, output / s.name if output.is_dir() else output) for s in sources]
    for source, target in jobs:
        for path in (source, target):
            if not path.name.endswith(SUFFIXES):
                raise MarketDataError(
                    f"{path}: unknown kind of file; expected a name that ends in "
                    f"{', '.join(SUFFIXES)}."
                )
        if not target.parent.is_dir():
            raise MarketDataError(f"{target.parent}: no such folder: make it first.")
        if target.exists() and target.samefile(source):
            raise MarketDataError(f"{target}: is the input; write to another name.")
        if not input.is_dir():  # of a folder, what is missing is done
            _refuse_existing(target, overwrite)
    return jobs


def check_headers(jobs, needed):
    """Raise MarketDataError for the first input that lacks one of the columns `needed`."""
    for source, _ in jobs:
        _find(_opened(source).names, needed, source)


def score_files(jobs, run, console):
    """Score each (input file, output file) of `jobs` by `run(jobs, count)`, with progress.

    `run` calls `count` with bytes of input, rows and rows without a score that came to be done.
    """
    done = rows = errors = 0
    total = sum(source.stat().st_size for source, _ in jobs)
    with rows_progress(console, "Scoring", total) as reach:

        def count(new_bytes, new_rows, new_errors):
            nonlocal done, rows, errors
            done, rows, errors = done + new_bytes, rows + new_rows, errors + new_errors
            reach(done, rows)

        run(jobs, count)
    where = jobs[0][1] if len(jobs) == 1 else f"{len(jobs)} files in {jobs[0][1].parent}"
    unscored = f"; {errors:,} without a score, whose column error says why" if errors else ""
    console.print(f"{rows:,} rows written to {where}{unscored}.", highlight=False, soft_wrap=True)


def score_here(model, jobs, count, *, overwrite):
    """Score the files one after the other, each on all cores; an output appears when it is
    complete. Raises MarketDataError for what is wrong in an input.
    """
    for source, target in jobs:
        before = 0

        def on_block(position, scored):
            nonlocal before
            count(position - before, len(scored), _unscored(scored))
            before = position

        score_file(model, source, target, overwrite=overwrite, on_block=on_block)
        count(source.stat().st_size - before, 0, 0)


def score_on_cluster(address, folder, jobs, count, *, console):
    """`score_here` with a file per thread of a Dask cluster's workers, which have to see the
    files under the same paths; the model in `folder` is sent to them.
    """
    # Run as a program this module is __main__; the workers have it by its own name.
    from liquidity.scoring import score_sent

    jobs = [(source.resolve(), target.resolve()) for source, target in jobs]
    outputs = jobs[0][1].parent
    with (
        cluster.cluster_executor(
            address, module=score_sent.__module__, packages=cluster.SCORING, console=console
        ) as executor,
        # Whoever sees this file has the same folder; when the job ends, it ends what still runs.
        NamedTemporaryFile(prefix=".scoring-", dir=outputs) as marker,
    ):
        running = Path(marker.name)
        running.chmod(0o644)  # workers may be another user's
        executor.check_paths([running, *(source for source, _ in jobs)], [outputs])
        files = executor.send({name: Path(folder, name).read_bytes() for name in store.FILES})
        futures = {
            executor.submit(score_sent, files, source, target, running): source
            for source, target in jobs
        }
        for future in as_completed(futures):
            count(futures[future].stat().st_size, *future.result())


def score_sent(files, source, target, running):
    """On a cluster's worker: score a file by the model in `files`; the rows, and the unscored.

    An output that exists was asked to be replaced, or is by a worker that died before it said so.
    """
    rows = errors = 0

    def on_block(position, scored):
        nonlocal rows, errors
        if not running.exists():
            raise MarketDataError(f"{source}: its job has ended, or does not have {running} here.")
        rows, errors = rows + len(scored), errors + _unscored(scored)

    # A worker has as many of these at once as it has threads.
    score_file(_model_of(files), source, target, overwrite=True, threads=1, on_block=on_block)
    return rows, errors


def _model_of(files):
    """The model of these files, loaded once per process and kept until another one is asked for."""
    with _loading:
        if _loaded.get("files") != files:
            store.quieten_mlflow()
            with TemporaryDirectory() as folder:
                for name, content in files.items():
                    path = Path(folder, name)
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(content)
                _loaded.update(files=files, model=store.load_checked(folder))
        return _loaded["model"]


_loaded, _loading = {}, threading.Lock()


def _unscored(scored):
    return len(scored) - scored["error"].null_count


def show_ranking(outputs, top, console):
    """Print the most and the least liquid coins of scored files, and draw them beside the first."""
    # Not at the top: they take a second to import, and few ask for them.
    from liquidity.plots import ranking
    from liquidity.ranking import as_table, rank_scores

    ranked = rank_scores(pd.concat(map(_read_scored, outputs), ignore_index=True), top=top)
    console.print(as_table(ranked, top=top))
    picture = outputs[0].with_name(f"{outputs[0].name.partition('.')[0]}_top.png")
    ranking(ranked, f"The {top} most and least liquid coins").savefig(picture)
    console.print(f"Drawn in {picture}.", highlight=False, soft_wrap=True)


def _read_scored(path):
    frame = pd.read_parquet(path) if path.name.endswith(".parquet") else pd.read_csv(path)
    return frame.rename(columns=lambda name: ALIASES.get(name.strip(), name.strip()))


def score_file(model, source, target, *, overwrite=False, threads=None, on_block=None):
    """Write the rows of the file `source` with their scores to `target`, which is there when it
    is complete; on `threads` threads, by default one per core.

    `on_block` is called with the bytes done so far and each scored block. Raises MarketDataError
    for what is wrong in `source`.
    """
    blocks = rows = 0
    with ExitStack() as stack:
        opened = _opened(source)
        file = stack.enter_context(_replaced(target, overwrite))
        positions = _find(opened.names, model.features, source)

        def score(numbered):
            first_row, block = numbered
            X, wrong = parse_inputs(block, positions)
            _refuse_text(source, block, wrong, positions, model, first_row)
            return add_scores(model, block, X, positions)

        write = None
        for scored in _in_threads(score, _numbered(opened.blocks), threads or joblib.cpu_count()):
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


def _find(names, needed, source):
    try:
        return find_inputs(names, needed)
    except MarketDataError as error:
        raise MarketDataError(f"{source}, {error}.") from None


def _refuse_text(source, block, wrong, positions, model, first_row):
    """Text where a number belongs means shifted columns or another file, not an unknown value."""
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        value = block.column(positions[column])[row].as_py()
        raise MarketDataError(
            f"{source}, row {first_row + row + 2}, column {model.features[column]}: expected a "
            f"number, got {value!r}: mend it, or empty the cell to have the row marked instead."
        )


def _refuse_existing(target, overwrite):
    if target.exists() and not overwrite:
        raise MarketDataError(f"{target}: exists; use --overwrite to replace it.")


def _opened(path):
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
        yield
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


@contextmanager
def _replaced(target, overwrite):
    """A file beside `target` to write to, which takes its name when the block ends well.

    A kill leaves the file beside it, `.NAME.partial`; the next one to write `target` uses it up.
    """
    partial = target.with_name(f".{target.name}.partial")
    with _locked(partial, target) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _refuse_existing(target, overwrite)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _locked(partial, target):
    """`partial`, empty, opened for writing, and not by another process."""
    while True:
        file = os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise MarketDataError(f"{target}: another process is writing it.") from None
        # The other process may have finished, and what was opened here be its output.
        if partial.exists() and partial.stat().st_ino == os.fstat(file.fileno()).st_ino:
            file.truncate()
            return file
        file.close()


if __name__ == "__main__":
    # `mlflow run`, docker and batch systems end a job with SIGTERM: clean up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
