"""Large and packed bodies: within bounds of memory and time, in a process of their own."""

import gzip
import io
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import COLUMNS, GOOD, INFO, ROW, UNPACKER, declared_as_gigabytes

from serve import inputs
from serve.answers import score_table
from serve.champion import Served
from serve.inputs import PARQUET, InputError
from serve.limits import UNPACKED_BYTES, UNPACKING_SECONDS
from serve.unpacking import KEPT_BYTES, Unpacker


@pytest.fixture
def unpacker():
    return UNPACKER


def test_parquet_that_unpacks_to_gigabytes_is_refused(app):
    body = declared_as_gigabytes(tuple(COLUMNS))
    assert len(body) < 200_000
    assert pq.ParquetFile(io.BytesIO(body)).metadata.num_rows == 1
    response = app.test_client().post("/invocations", data=body, content_type=PARQUET)
    assert response.status_code == 413
    assert "takes more than 1 GiB" in response.json["message"]


def test_texts_that_unfold_to_gigabytes_are_refused(unpacker):
    coin = pa.DictionaryArray.from_arrays(np.zeros(50_000, np.int32), ["x" * 10**5])
    table = pa.table({**{name: np.ones(50_000) for name in COLUMNS}, "coin": coin})
    body = io.BytesIO()
    pq.write_table(table, body, store_schema=False)
    assert len(body.getvalue()) < 10**6
    with pytest.raises(InputError, match="takes more than") as caught:
        unpacker(inputs.parse_invocation, body.getvalue(), PARQUET, COLUMNS, ["coin"])
    assert caught.value.status == 413


def test_the_first_packed_body_does_not_take_what_a_body_may_take(inner, monkeypatch):
    """As Arrow's own pool of memory did."""
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)  # the helper sees to it itself
    body = io.BytesIO()
    pq.write_table(pa.table({name: [1.0] for name in COLUMNS}), body)
    packed = gzip.compress(f"{','.join(COLUMNS)}\n1,1,0,1\n".encode())
    data = "__import__('psutil').Process().memory_info().data"
    with closing(Unpacker()) as unpacker:
        before = unpacker(eval, data)
        score_table(Served(inner, INFO), packed, formulas=True, run=unpacker)
        columns, _ = unpacker(inputs.parse_invocation, body.getvalue(), PARQUET, COLUMNS)
        taken = unpacker(eval, data) - before
    assert columns == {name: [1.0] for name in COLUMNS}
    assert taken < UNPACKED_BYTES / 4


def test_what_ends_the_reading_process_ends_only_that(unpacker):
    with pytest.raises(InputError, match="or is damaged"):
        unpacker(os.abort)
    assert unpacker(len, b"12") == 2


def test_a_reading_process_that_is_killed_between_bodies_loses_no_answer():
    """Its helper is replaced by one that ends when it is closed; a worker's first is in
    test_server.py.
    """
    with closing(Unpacker()) as unpacker:
        helper, reader = unpacker(os.getppid), unpacker(os.getpid)
        os.kill(reader, signal.SIGKILL)
        os.waitid(os.P_PID, helper, os.WEXITED | os.WNOWAIT)
        assert [unpacker(len, b"1" * n) for n in range(9)] == [*range(9)]
        other = unpacker(os.getppid)
        assert other != helper
    assert not psutil.pid_exists(other)


def test_a_copy_that_cannot_go_on_says_why():
    program = """
from serve import unpacking
unpacking.main = lambda descriptor: descriptor / 0
unpacker = unpacking.Unpacker()
unpacker.fork()
print(unpacker._helper.wait())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "1\n"
    assert "ZeroDivisionError" in run.stderr


@pytest.mark.parametrize(
    "odd",
    [
        "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (10**9, 10**9))",
    ],
    ids=["SIGCHLD ignored", "less memory than a body may take"],
)
def test_what_the_server_was_started_with_is_no_matter(odd):
    program = f"""
{odd}
from serve.unpacking import Unpacker
unpacker = Unpacker()
unpacker.fork()
helper = unpacker._helper
for _ in range(2):
    try:
        unpacker(divmod, 1, 0)
    except ZeroDivisionError:
        print(unpacker(len, b"12"), unpacker._helper is helper)
helper.kill()
helper.wait()
print(unpacker(len, b"123"))
unpacker.close()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("2 True\n2 True\n3\n", "")


def test_one_process_reads_body_after_body_until_one_fails_or_takes_much(unpacker):
    first = unpacker(os.getpid)
    assert unpacker(len, b"12") == 2
    assert unpacker(os.getpid) == first
    with pytest.raises(ZeroDivisionError):
        unpacker(divmod, 1, 0)
    second = unpacker(os.getpid)
    assert second != first
    unpacker(bytearray, KEPT_BYTES)
    third = unpacker(os.getpid)
    assert third not in (first, second)
    assert not any(map(psutil.pid_exists, (first, second)))


def test_each_body_has_its_own_time(unpacker):
    reader = unpacker(os.getpid)
    unpacker(sum, range(2 * 10**7))
    spent = unpacker(time.process_time)
    until, _ = unpacker(resource.getrlimit, resource.RLIMIT_CPU)
    assert unpacker(os.getpid) == reader
    assert 0.1 < spent < until - UNPACKING_SECONDS < spent + 1.1


def test_errors_come_back_as_they_were_raised(unpacker):
    with pytest.raises(InputError, match="not valid JSON") as caught:
        unpacker(inputs.parse_record, b"{", COLUMNS)
    assert caught.value.status == 400
    with pytest.raises(ZeroDivisionError) as caught:
        unpacker(divmod, 1, 0)
    assert "in _answer" in caught.value.__notes__[0]  # for the log


@pytest.mark.parametrize("rows", [[ROW] * 2000, [[1, *ROW[1:]], *[ROW] * 2000], [[1e7, 1, 0, 1]]])
def test_a_large_body_is_answered_as_a_small_one_is(app, inner, rows):
    payload = {"dataframe_split": {"columns": COLUMNS, "data": rows}, "more": "x" * 40_000}
    response = app.test_client().post("/invocations", json=payload)
    expected = inner.answer(np.array(rows, float))["liquidity"].tolist()
    assert [row["liquidity"] for row in response.json["predictions"]] == expected


def test_a_broken_rule_in_a_large_body_is_named_as_it_was_sent(app):
    for value, said in ((-3, "got -3."), (-3.5, "got -3.5.")):
        rows = [GOOD] * 1000 + [GOOD | {"price": value}]
        response = app.test_client().post("/invocations", json={"instances": rows})
        assert "row 1000, column price" in response.json["message"]
        assert said in response.json["message"]


@pytest.mark.parametrize("formulas", [True, False])
def test_a_large_file_comes_back_as_a_small_one_does(unpacker, inner, formulas):
    body = b"24h_volume,mkt_cap,1h,price,note\n1e7,1e8,0.01,1,=A1\n-1,x,0,1,\n"
    served = Served(inner, INFO)
    here = score_table(served, body, formulas=formulas)
    away = score_table(served, body, formulas=formulas, run=unpacker)
    assert here[2:] == away[2:]
    assert (b"'=A1" in here[3]) is not formulas
    assert b"column mkt_cap: expected a finite number" in here[3]
