"""Which files a source is."""

import glob
from pathlib import Path

from liquidity.errors import MarketDataError

PLAIN = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
PACKED = tuple(each + packed for each in PLAIN for packed in (".gz", ".zip"))
SUFFIXES = (*PLAIN, *PACKED, ".zip", ".xlsx", ".parquet")
NAMED = ".csv, .tsv, .json, .jsonl (also .gz or .zip), .xlsx, .parquet"


def snapshot_files(source):
    """The files of a source, which is a file, a folder or a glob, in the order of their names.

    Of a folder: those of a known kind that are not hidden.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if is_snapshot(each))
        missing = f"holds no snapshot; expected files that end in {NAMED}"
    elif path.exists():
        found, missing = [path], ""
    else:
        found = sorted(Path(p) for p in glob.glob(str(source)) if Path(p).is_file())
        missing = f"no such file, folder or glob (looked from {Path.cwd()})"
    if not found:
        raise MarketDataError(f"{source}: {missing}.")
    return found


def is_snapshot(path):
    """Whether a file of a folder is read: it is of a known kind, and not hidden."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and path.is_file()
