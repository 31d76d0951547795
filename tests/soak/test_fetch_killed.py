"""A fetch of the history that is killed again and again.

Slow, so `make soak` runs it.
"""

import os
import random
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
from support import PROJECT, SHORT
from vendor import Vendor

from liquidity.contract import FORECAST_FEATURES
from liquidity.data import coingecko as api
from liquidity.data.history import JOURNAL
from liquidity.data.market import read_market

pytestmark = pytest.mark.soak
COINS, KILLS = 120, 3 if SHORT else 10
CALLS = "1200"  # a minute: six seconds for all coins


@pytest.fixture
def vendor(monkeypatch):
    for name in (api.DEMO_KEY, api.PRO_KEY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(api.CALLS_PER_MINUTE, CALLS)
    with Vendor(COINS) as vendor:
        monkeypatch.setenv(api.BASE_URL, vendor.url)
        yield vendor


def start(out):
    command = [sys.executable, "-m", "liquidity.coingecko", "--out", str(out), "--pages", "1"]
    return subprocess.Popen(
        [*command, "--history", "365"], cwd=PROJECT, text=True, env=os.environ,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_until_idle():
    """Return when no thread of the vendor answers a request any more."""
    while any("process_request_thread" in thread.name for thread in threading.enumerate()):
        time.sleep(0.01)


def kept(out):
    """The ids of what is there: in files, and in whole lines of the journal."""
    files = [pd.read_parquet(path) for path in out.glob("*.parquet")]
    journal = out / JOURNAL
    lines = journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0
    return sum(frame["id"].nunique() for frame in files) + max(0, lines)


def test_kills_at_random_moments_lose_nothing_and_ask_no_coin_twice(vendor, tmp_path):
    moments = random.Random(11)
    in_flight = 0
    for _ in range(KILLS):
        job = start(tmp_path)
        answered = vendor.answered.total()
        while vendor.answered.total() == answered and job.poll() is None:
            time.sleep(0.005)  # until the first coin of this run: the start is not of interest
        time.sleep(moments.uniform(0, 0.5))  # a twelfth of what the whole fetch takes
        job.kill()
        output, _ = job.communicate(timeout=30)
        wait_until_idle()  # the vendor may be writing an answer that nobody reads
        lost = vendor.answered.total() - in_flight - kept(tmp_path)
        assert lost in (0, 1), output
        in_flight += lost  # answered, and killed before the line was written
    job = start(tmp_path)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
    # What was answered while it was killed is the only thing asked twice.
    assert vendor.answered.keys() == set(vendor.ids)
    assert vendor.answered.total() == COINS + in_flight
    panel, _ = read_market(tmp_path, required=tuple(FORECAST_FEATURES))
    assert panel.groupby("coin")["date"].nunique().ge(365).all()
    assert not panel.duplicated(["coin", "date"]).any()
    assert (tmp_path / JOURNAL).read_bytes() == b""
    print(f"{KILLS} kills, {in_flight} answers on the way when it was killed")
