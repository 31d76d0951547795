"""A file as blocks of cells, whatever it is: CSV of any kind, JSON, Parquet, a spreadsheet, packed
or not. What it is, its content says, and its name only where that may be several things.
"""

import codecs
import contextlib
import csv as lines
import io
import itertools
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from liquidity.contract import MOST_COLUMNS
from liquidity.data.headers import header_of
from liquidity.data.vendors import coin_records
from liquidity.errors import MarketDataError, first_line
from liquidity.processes import bounded_memory

# Of memory, by what is read of one file: more than any market's history takes.
READ_BYTES = 8 * 2**30
BLOCK_BYTES = 2**20  # of CSV; a row has to fit in
BLOCK_ROWS = 2**16  # of Parquet
HEAD_BYTES = 2**16  # that hold a header
MOST_PACKINGS = 3  # one in the other
SEPARATORS = ",;\t|"
PARQUET, GZIP, ZIP, OLD_OFFICE = b"PAR1", b"\x1f\x8b", b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UNREADABLE = (
    OSError, ValueError, EOFError, RecursionError, NotImplementedError, zlib.error,
    zipfile.BadZipFile, lines.Error, pa.ArrowException,
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """An opened file: its columns' names, its blocks of rows, how many of its bytes so many blocks
    with so many rows are, and what there is to say of how it was read.

    The cells of CSV, JSON and spreadsheets are text, as they stand there, so that a message can
    show them; those of Parquet have their own types. Row 1 of the file has the names, or, where
    `first_row` is 1, is the first row of data.
    """

    names: list[str]
    blocks: Iterator[pa.Table]
    position: Callable[[int, int], int]
    separator: str | None = None  # of CSV
    first_row: int = 2
    date: str | None = None  # of all rows, where the file has it once
    notes: tuple[str, ...] = ()


def open_file(path):
    """The file `path` as a Source; raises MarketDataError where it is not what its name says.

    It is closed by what refers to it last, never here: Arrow reads ahead in a thread of its own,
    which would take what it reads next out of the file that got the closed one's descriptor.
    """
    path = Path(path)
    return _open(lambda: pa.OSFile(str(path)), path.name, origin=path)


def open_bytes(content, *, origin, name=""):
    """The same of a file's bytes; `origin` is what an error names as the place. How much memory
    that takes, the caller bounds.
    """
    return _open(lambda: pa.BufferReader(content), name, origin=origin, bounded=False)


def open_records(records, *, origin):
    """The same of a list of dicts, one per coin, as a market site's API answers."""
    try:
        return _records(records)
    except ValueError as error:
        raise MarketDataError(f"{origin}: {error}.") from error


def is_packed(content):
    """Whether bytes may stand for many more."""
    return content.startswith((PARQUET, GZIP, ZIP, OLD_OFFICE))


def in_memory(table, **rest):
    """A table as a Source."""
    return Source(table.column_names, iter([table]), lambda blocks, rows: 0, **rest)


@contextlib.contextmanager
def within_memory(path):
    """Raise MarketDataError where to read the file takes more than memory holds."""
    try:
        with bounded_memory(READ_BYTES):
            yield
    except (MemoryError, SystemError) as error:
        raise MarketDataError(
            f"{path}: takes more than {READ_BYTES / 2**30:g} GiB of memory to read, or more than "
            "this machine has: split it, or leave out columns that are not needed."
        ) from error


def kind_of(name):
    """What a file's name says that it is."""
    name = name.lower()
    for packed in (".gz", ".zip"):
        name = name.removesuffix(packed)
    kinds = {".parquet": "Parquet", ".json": "JSON", ".jsonl": "JSON", ".ndjson": "JSON"}
    kinds |= {".xlsx": "a spreadsheet"}
    return kinds.get(Path(name).suffix, "CSV")


@contextlib.contextmanager
def _reading(origin, kind, *, bounded):
    """What cannot be read is a MarketDataError, unlike what cannot be written."""
    try:
        with within_memory(origin) if bounded else contextlib.nullcontext():
            yield
    except (MarketDataError, MemoryError):  # which Arrow's own are errors of Arrow too
        raise
    except UNREADABLE as error:
        reason = first_line(error) if str(error) else repr(error)
        raise MarketDataError(f"{origin}: cannot be read as {kind}: {reason}.") from error


def _open(opener, name, *, origin, bounded=True):
    kind = kind_of(name)
    with _reading(origin, kind, bounded=bounded):
        source = _source(opener, name, MOST_PACKINGS)

    def blocks():
        while True:
            with _reading(origin, kind, bounded=bounded):
                batch = next(source.blocks, None)
            if batch is None:
                return
            if batch.num_rows:
                yield batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])

    return replace(source, blocks=blocks())


def _source(opener, name, packings):
    """The Source of whatever `opener()` opens, each time from the start."""
    with opener() as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(PARQUET):
        return _parquet(opener)
    if head.startswith((GZIP, ZIP)) and not packings:
        raise ValueError(f"it is packed more than {MOST_PACKINGS} times")
    if head.startswith(GZIP):
        return _unpacked(opener, _gunzipped, _without_gz(name), packings)
    if head.startswith((ZIP, OLD_OFFICE)):
        return _archive(opener, head, packings)
    if kind_of(name) == "Parquet":
        raise ValueError("it does not start as one")
    if b"\0" in head and not head.startswith(UTF_16):
        raise ValueError(f"it is no text but starts with {head[:8]!r}")
    encoding, notes = _encoding(opener)
    text = _decoded_start(head, encoding)
    if kind_of(name) == "JSON" or text.lstrip()[:2] in ("[{", '{"', "{\n", "[\n", "[]"):
        return _json(opener, encoding, notes)
    return _csv(opener, text, encoding, notes)


def _unpacked(opener, unpack, name, packings):
    """The Source of what `unpack` makes of the file; where it is, is said of the packed file."""
    packed = None

    def unpacked():
        nonlocal packed
        packed = opener()
        return unpack(packed)

    size = 0
    with opener() as file:
        size = file.seek(0, 2) if file.seekable() else 0
    source = _source(unpacked, name, packings - 1)

    def position(blocks, rows):
        return size if packed.closed else packed.tell()  # it closes with its stream, at the end

    return replace(source, position=position)


def _gunzipped(file):
    return pa.CompressedInputStream(file, "gzip")


def _without_gz(name):
    return name[: -len(".gz")] if name.lower().endswith(".gz") else name


def _archive(opener, head, packings):
    """A spreadsheet, or the one file in a ZIP archive."""
    if head.startswith(OLD_OFFICE):
        return _spreadsheet(opener)
    with opener() as file, zipfile.ZipFile(file) as archive:
        inside = [each.filename for each in archive.infolist() if not each.is_dir()]
    if "xl/workbook.xml" in inside or "xl/workbook.bin" in inside:
        return _spreadsheet(opener)
    inside = [each for each in inside if not _hidden(each)]
    if len(inside) != 1:
        listed = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
        raise ValueError(
            f"it is a ZIP archive of {len(inside)} files ({listed or 'none'}), expected one: "
            "unpack it, and give the folder"
        )
    (member,) = inside

    def unzipped(file):
        try:
            return pa.PythonFile(zipfile.ZipFile(file).open(member), "r")
        except RuntimeError as error:  # a password
            raise ValueError(str(error)) from error

    return _unpacked(opener, unzipped, Path(member).name, packings)


def _hidden(name):
    return any(part.startswith((".", "__MACOSX")) for part in Path(name).parts)


def _encoding(opener):
    """How a text is encoded, and a note where that was a guess."""
    decoder, seen = codecs.getincrementaldecoder("utf-8")(), False
    with opener() as file:
        start = file.read(HEAD_BYTES)
        if start.startswith(UTF_16):
            return "utf-16", ()
        try:
            while start:
                decoder.decode(start)
                start = file.read(2**20)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            seen = True
    if not seen:
        return "utf-8", ()
    with opener() as file:
        try:
            while part := file.read(2**20):
                part.decode("cp1252")
        except UnicodeDecodeError:
            raise ValueError(
                "its text is neither UTF-8 nor Windows-1252: save it as CSV UTF-8"
            ) from None
    return "cp1252", ("read as Windows-1252, since it is not UTF-8",)


def _decoded_start(head, encoding):
    """The text of a file's first bytes, whose last letter may be cut."""
    return codecs.getincrementaldecoder(encoding)().decode(head).removeprefix("\ufeff")


def _csv(opener, text, encoding, notes):
    skipped = 0
    separator = None
    start = text.partition("\n")[0].strip().strip('"')
    if start.lower().startswith("sep=") and len(start) <= 5:  # Excel's own way to say so
        separator, skipped = start[4:] or ",", 1
        text = text.partition("\n")[2]
    separator = separator or _separator(text)
    names = _first_row(text, separator)
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"{len(names):,} columns: expected at most {MOST_COLUMNS:,}")
    # Every cell as text, so that a message can show it and it comes back as it stood. Arrow
    # refuses rows that are longer or shorter than the header, which pandas cuts and fills.
    # Without threads its errors name the row.
    read = csv.ReadOptions(
        use_threads=False, block_size=BLOCK_BYTES, skip_rows=skipped, encoding=encoding
    )
    parse = csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    as_text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    file = opener()
    batches = csv.open_csv(file, read_options=read, parse_options=parse, convert_options=as_text)
    size = file.size() if file.seekable() else 0  # of a packed one _unpacked says it

    def position(blocks, rows):
        # Arrow reads thirty blocks ahead, so where it is in the file says little.
        return min(blocks * BLOCK_BYTES, size)

    return Source(
        batches.schema.names, iter(batches), position, separator, 2 + skipped, notes=notes
    )


def _first_row(text, separator):
    rows = lines.reader(io.StringIO(text, newline=""), delimiter=separator)
    return next(filter(None, rows), [])


def _separator(text):
    """The separator under which most of the header's names are known; of several the one with
    most names.
    """

    def known(separator):
        names = _first_row(text, separator)
        return sum(header_of(name) is not None for name in names), len(names)

    return max(SEPARATORS, key=known)


def _json(opener, encoding, notes):
    with opener() as file:
        text = file.read().decode("utf-8-sig" if encoding == "utf-8" else encoding)
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        rows = [line for line in text.splitlines() if line.strip()]
        if len(rows) < 2 or not rows[0].lstrip().startswith("{"):
            raise
        answer = [json.loads(row) for row in rows]
    return _records(answer, notes)


def _records(answer, notes=()):
    records, date = coin_records(answer)
    names = list(dict.fromkeys(itertools.chain.from_iterable(records)))
    table = pa.table(
        {name: pa.array([_as_text(each.get(name)) for each in records], "string") for name in names}
    )
    return in_memory(table, first_row=1, date=date, notes=notes)


def _spreadsheet(opener):
    # Takes a twentieth of a second to import, and few need it.
    import python_calamine

    with opener() as file:
        content = file.read()
    try:
        book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
        sheets = book.sheet_names
        rows = book.get_sheet_by_index(0).to_python(skip_empty_area=False)
    except python_calamine.CalamineError as error:
        raise ValueError(str(error)) from error
    skipped = next((n for n, row in enumerate(rows) if any(cell != "" for cell in row)), 0)
    header, *rows = rows[skipped:] or [[]]
    columns = [n for n, name in enumerate(header) if name != ""]
    filled = rows
    while filled and not any(cell != "" for cell in filled[-1]):
        filled.pop()
    table = pa.table(
        [
            pa.array([None if row[n] == "" else _cell_text(row[n]) for row in filled], "string")
            for n in columns
        ],
        names=[str(header[n]) for n in columns],
    )
    others = f"of {len(sheets)} sheets only the first, {sheets[0]!r}, was read"
    return in_memory(table, first_row=2 + skipped, notes=(others,) if len(sheets) > 1 else ())


def _cell_text(value):
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def _as_text(value):
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _parquet(opener):
    file = opener()
    # Without reading ahead: a file may be one row group, larger than memory.
    parquet = pq.ParquetFile(file, pre_buffer=False)
    share = file.size() / max(1, parquet.metadata.num_rows)
    batches = parquet.iter_batches(BLOCK_ROWS)
    return Source(parquet.schema_arrow.names, batches, lambda blocks, rows: int(rows * share))
