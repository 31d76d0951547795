"""Some of the seeded odd requests, at every door of a real server."""

from fuzzer import check_after, fuzz
from support import workers_of


def test_a_thousand_odd_requests_do_no_harm(start_serve, tmp_path):
    log = tmp_path / "predictions.jsonl"
    server = start_serve(LIQUIDITY_PREDICTION_LOG=str(log))
    pids = workers_of(server)
    statuses, found = fuzz(server, 1_000, seed=1)
    assert not found, found[0]
    assert sum(statuses.values()) == 1_000
    assert len(statuses) > 6
    assert check_after(server, pids, log) > 100
