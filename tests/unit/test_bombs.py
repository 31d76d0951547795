"""Files of a few hundred kilobytes that are gigabytes once they are read, in the jobs."""

import gzip
import os
import subprocess
import sys

import pytest
from support import COLUMNS, declared_as_gigabytes

from liquidity.data import content
from liquidity.data.market import read_market
from liquidity.errors import MarketDataError


def write(path):
    """Something that takes a gigabyte or more to read, in the format of the name."""
    if path.suffix == ".parquet":
        path.write_bytes(declared_as_gigabytes(tuple(COLUMNS)))
        return
    block = b"{}," * 2**20 if ".json" in path.name else b"1,1,1,1,1,2022-01-01\n" * 2**17
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        file.write(b"[" if ".json" in path.name else b"price,1h,volume,mkt_cap,coin,date\n")
        for _ in range(40 if path.suffix == ".gz" else 8):
            file.write(block)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.json.gz", "a.json"])
def test_a_training_file_that_memory_does_not_hold_is_a_sentence(tmp_path, monkeypatch, name):
    monkeypatch.setattr(content, "READ_BYTES", 2**27)
    write(tmp_path / name)
    with pytest.raises(MarketDataError, match=f"{name}: takes more than 0.125 GiB of memory"):
        read_market(tmp_path / name)


def test_a_file_to_score_that_memory_does_not_hold_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "READ_BYTES", 2**27)
    write(tmp_path / "a.parquet")
    with pytest.raises(MarketDataError, match=r"a.parquet: takes more than 0.125 GiB of memory"):
        list(content.open_file(tmp_path / "a.parquet").blocks)


def test_a_packed_file_is_read_with_a_gigabyte_left(tmp_path):
    """All of which Arrow's own pool of memory took for the first few bytes of it."""
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"price,1h,volume,mkt_cap,coin,date\n1,0,1,1,a,2022-01-01\n"))
    program = f"""
from liquidity.processes import loading
with loading():
    from liquidity.data import content, market
content.READ_BYTES = 2**30 + 2**23
print(len(market.read_market({str(path)!r})[0]))
"""
    others = {k: v for k, v in os.environ.items() if not k.startswith("ARROW_")}
    command = [sys.executable, "-c", program]
    job = subprocess.run(command, env=others, capture_output=True, text=True)
    assert (job.stdout, job.stderr) == ("1\n", "")
