"""Files of a few hundred kilobytes that are gigabytes once they are read, in the jobs."""

import gzip

import pytest
from support import COLUMNS, declared_as_gigabytes

from liquidity.data import readers
from liquidity.errors import MarketDataError
from liquidity.scoring.files import open_source


def write(path):
    """Something that takes a gigabyte or more to read, in the format of the name."""
    if path.suffix == ".parquet":
        path.write_bytes(declared_as_gigabytes(tuple(COLUMNS)))
        return
    block = b"{}," * 2**20 if ".json" in path.name else b"1,1,1\n" * 2**19
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        file.write(b"[" if ".json" in path.name else b"a,b,c\n")
        for _ in range(180 if path.suffix == ".gz" else 8):
            file.write(block)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz", "a.json.gz", "a.json"])
def test_a_training_file_that_memory_does_not_hold_is_a_sentence(tmp_path, monkeypatch, name):
    monkeypatch.setattr(readers, "READ_BYTES", 2**29)
    write(tmp_path / name)
    with pytest.raises(MarketDataError, match=f"{name}: takes more than 0.5 GiB of memory"):
        readers.read_cells(tmp_path / name)


def test_a_file_to_score_that_memory_does_not_hold_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "READ_BYTES", 2**29)
    write(tmp_path / "a.parquet")
    with pytest.raises(MarketDataError, match=r"a.parquet: takes more than 0.5 GiB of memory"):
        list(open_source(tmp_path / "a.parquet").blocks)
