"""Very many of the seeded odd requests, whose traces would add up; `make soak` runs it."""

import time

import pytest
from fuzzer import check_after, fuzz
from support import SHORT, memory, workers_of

pytestmark = pytest.mark.soak
# The first of them show what memory the server needs, so they may not be much fewer.
FIRST, ALL = (4_000, 10_000) if SHORT else (40_000, 200_000)


def test_very_many_odd_requests_do_no_harm(start_serve, tmp_path):
    log = tmp_path / "predictions.jsonl"
    server = start_serve(workers=2, LIQUIDITY_PREDICTION_LOG=str(log))
    pids = workers_of(server)
    started = time.monotonic()
    statuses, found = fuzz(server, FIRST, seed=2)
    assert not found, found[0]
    before = memory(server)
    more, found = fuzz(server, ALL - FIRST, seed=3)
    assert not found, found[0]
    after = memory(server)
    statuses += more
    assert sum(statuses.values()) == ALL
    scored = check_after(server, pids, log)
    counts = ", ".join(f"{n:,} {status or 'closed'}" for status, n in statuses.most_common())
    took = time.monotonic() - started
    print(
        f"{sum(statuses.values()):,} odd requests in {took:.0f} s ({counts}); "
        f"{before:.0f} MB after {FIRST:,} of them, {after:.0f} MB after all; {scored:,} rows logged"
    )
    assert after < 1.1 * before
