"""The history of a market from a local server: what is asked, what is kept, what goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from support import PROJECT
from vendor import Vendor, break_off, cut_off, hang_up, series

from liquidity import backfill, coingecko
from liquidity.contract import FORECAST_FEATURES
from liquidity.data import coingecko as api
from liquidity.data.history import JOURNAL, Journal, covered
from liquidity.data.market import read_market
from liquidity.progress import duration
from liquidity.terminal import Terminal

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def vendor(monkeypatch):
    """A market of three coins, who is asked without much waiting."""
    for name in (api.DEMO_KEY, api.PRO_KEY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(api.CALLS_PER_MINUTE, "60000")
    for name in ("FAILURE_WAIT", "LIMIT_WAIT"):
        monkeypatch.setattr(api, name, 0.001)
    with Vendor() as vendor:
        monkeypatch.setenv(api.BASE_URL, vendor.url)
        yield vendor


def fetch(out, days=40, *options):
    return coingecko.main(["--out", str(out), "--pages", "1", "--history", str(days), *options])


def fetch_at(vendor, out, now, *, days=40):
    """The same on another day, without a snapshot."""
    vendor.now = now
    coins = vendor.page({"per_page": "250", "page": "1"})
    server = api.find_server(os.environ)
    backfill.fetch_history(server, out, coins, days=days, now=now, console=Terminal())


def files(out):
    """The history's files, in the order in which they are read."""
    return sorted(path for path in out.iterdir() if path.suffix == ".parquet")


def read(out):
    """The rows of the history's files, as they are."""
    return pd.concat([pd.read_parquet(path) for path in files(out)], ignore_index=True)


def day_number(day):
    return (pd.Timestamp(day) - pd.Timestamp(0)).days


def assert_true(frame):
    """Every row is what the vendor has for that coin and day; the live one, a percent more."""
    for row in frame.itertuples():
        expected = series(int(row.id[5:]), day_number(row.date))
        got = (row.price, row._7, row.mkt_cap)
        for number, value in zip(got, expected, strict=True):
            assert number / value == pytest.approx(1, abs=0.0101)


def error_of(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_history_is_a_file_beside_the_snapshot_and_one_panel_with_it(vendor, tmp_path, capsys):
    assert fetch(tmp_path) == 0
    (path,) = files(tmp_path)
    assert re.fullmatch(r"coingecko-history_20\d\d-\d\d-\d\dT\d{6}Z_40d\.parquet", path.name)
    frame = read(tmp_path)
    columns = ["date", "id", "coin", "symbol", "price", "1h", "24h_volume", "mkt_cap"]
    assert frame.columns.tolist() == columns
    assert frame["1h"].isna().all()
    assert_true(frame)
    assert frame.groupby("id")["date"].nunique().tolist() in ([40] * 3, [41] * 3)
    assert set(frame["coin"]) == {"Coin 1", "Coin 2", "Coin 3"}

    panel, _ = read_market(tmp_path, required=tuple(FORECAST_FEATURES))
    assert not panel.duplicated(["coin", "date"]).any()
    spans = panel.groupby("coin")["date"].agg(["min", "max", "count"])
    assert ((spans["max"] - spans["min"]).dt.days + 1 == spans["count"]).all(), "a day is missing"
    today = panel[panel["date"] == panel["date"].max()]
    assert today["1h"].notna().all(), "of a day that both have, the snapshot counts"
    # For the same day, which needs 1h, the snapshot alone is used.
    assert len(read_market(tmp_path)[0]) == 3

    out = capsys.readouterr().out
    assert "History: 3 of 3 coins to ask for. A call each, 60000 a minute (COINGECKO_CALLS" in out
    assert "History 2/3 Coin 2, 0 s left\nHistory 3/3 Coin 3\n" in out
    assert f"{len(frame)} days of 3 coins in {path}." in out
    paths = [(path, query.get("interval")) for path, query in vendor.calls]
    assert paths[1:] == [(f"/coins/coin-{n}/market_chart", "daily") for n in (1, 2, 3)]


def test_without_history_no_coin_is_asked_for(vendor, tmp_path):
    assert coingecko.main(["--out", str(tmp_path), "--pages", "1"]) == 0
    assert [path for path, _ in vendor.calls] == ["/coins/markets"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".csv"]


def test_what_is_there_is_not_asked_for_again(vendor, tmp_path, capsys):
    assert fetch(tmp_path) == 0
    assert fetch(tmp_path, 30) == 0
    assert "History: all of 3 coins are there; nothing to ask for." in capsys.readouterr().out
    assert vendor.answered == dict.fromkeys(vendor.ids, 1)
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("hourly", [False, True])
def test_a_week_later_the_missing_days_are_asked_for(vendor, tmp_path, hourly):
    now = datetime.now(UTC).replace(hour=15, minute=23)
    vendor.hourly = hourly
    fetch_at(vendor, tmp_path, now - timedelta(days=7))
    first = read(tmp_path)
    live = (now - timedelta(days=7)).date()
    assert first["date"].max().date() == live, "a day that is not over is there already"
    vendor.ids.append("coin-4")
    fetch_at(vendor, tmp_path, now)
    assert vendor.asked()[3:] == [("coin-1", 8), ("coin-2", 8), ("coin-3", 8), ("coin-4", 40)]
    second = pd.read_parquet(files(tmp_path)[-1])
    assert second[second["id"] == "coin-1"]["date"].dt.date.min() == live
    panel, _ = read_market(tmp_path, required=tuple(FORECAST_FEATURES))
    spans = panel.groupby("coin")["date"].agg(["min", "max", "count"])
    assert ((spans["max"] - spans["min"]).dt.days + 1 == spans["count"]).all()
    # What was live is now what the day came to.
    row = panel[(panel["coin"] == "Coin 1") & (panel["date"].dt.date == live)].iloc[0]
    assert row["price"] == pytest.approx(series(1, day_number(live))[0], rel=1e-9)
    fetch_at(vendor, tmp_path, now)
    assert len(vendor.asked()) == 7


def test_more_days_than_before_are_asked_for_whole_and_a_young_coin_once(vendor, tmp_path):
    vendor.listed[2] = 10
    assert fetch(tmp_path, 20) == 0
    assert fetch(tmp_path, 20) == 0
    assert vendor.asked() == [(id, 20) for id in vendor.ids]
    assert fetch(tmp_path, 40) == 0
    assert vendor.asked()[3:] == [(id, 40) for id in vendor.ids]
    assert fetch(tmp_path, 40) == 0
    assert len(vendor.asked()) == 6


def test_after_a_gap_the_whole_is_asked_for(vendor, tmp_path):
    now = datetime.now(UTC)
    fetch_at(vendor, tmp_path, now - timedelta(days=100), days=40)
    fetch_at(vendor, tmp_path, now, days=40)
    assert vendor.asked()[3:] == [(id, 40) for id in vendor.ids]
    first, last = covered(tmp_path)["coin-1"]
    assert (last - first).days in (39, 40), "what lies before the gap does not count"
    fetch_at(vendor, tmp_path, now, days=120)
    assert vendor.asked()[6:] == [(id, 120) for id in vendor.ids]


@pytest.mark.parametrize(("headers", "wait"), [({}, 0.001), ({"Retry-After": "0.2"}, 0.2)])
def test_no_coin_is_lost_to_the_rate_limit(vendor, tmp_path, capsys, headers, wait):
    vendor.ids = [f"coin-{number}" for number in range(1, 13)]
    vendor.limit = (5, 3, headers)
    start = time.monotonic()
    assert fetch(tmp_path) == 0
    assert time.monotonic() - start > 6 * wait
    assert vendor.answered == dict.fromkeys(vendor.ids, 1)
    assert set(read(tmp_path)["id"]) == set(vendor.ids)
    said = "Coin 5 (coin-5): the rate limit is reached (You've exceeded the Rate Limit.)"
    assert f"{said}; waiting {wait} s before try 2 of 8" in capsys.readouterr().out


FAULTS = [(500, {}, b""), (503, {"Retry-After": "0"}, b""), cut_off, break_off, hang_up]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_that_passes_loses_nothing(vendor, tmp_path, fault):
    vendor.faults["coin-2"] = [fault, fault, None]
    assert fetch(tmp_path) == 0
    assert vendor.answered == dict.fromkeys(vendor.ids, 1)
    assert_true(read(tmp_path))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((500, {}, b""), r"Coin 2 \(coin-2\): the server fails with status 500, 4 times"),
        (break_off, "the answer breaks off, 4 times"),
        ((200, {}, b"<html>"), "the answer is not JSON but starts with '<html>'"),
        ((200, {}, {"prices": []}), r"expected prices, total_volumes, market_caps as lists of \["),
        ((404, {}, b"gone"), "answers with status 404"),
    ],
)
def test_a_coin_that_fails_is_named_and_asked_for_again_alone(
    vendor, tmp_path, capsys, fault, said
):
    vendor.faults["coin-2"] = [fault]
    assert fetch(tmp_path) == 1
    assert re.search(rf"failed: 1 of 3 coins, which the same command .*{said}", error_of(capsys))
    assert set(read(tmp_path)["id"]) == {"coin-1", "coin-3"}
    vendor.faults.clear()
    assert fetch(tmp_path) == 0
    assert vendor.answered == dict.fromkeys(vendor.ids, 1)
    assert [len(pd.read_parquet(path)["id"].unique()) for path in files(tmp_path)] == [2, 1]


def test_a_coin_that_is_delisted_half_way_is_named_and_no_failure(vendor, tmp_path, capsys):
    vendor.faults["coin-2"] = [(404, {}, {"error": "coin not found"})]
    assert fetch(tmp_path) == 0
    assert "Coin 2 (coin-2): the server does not know it any more." in capsys.readouterr().out
    assert set(read(tmp_path)["id"]) == {"coin-1", "coin-3"}


@pytest.mark.parametrize(
    "fault", [(500, {}, b""), (404, {}, {"error": "not found"}), (302, {"Location": "/"}, b"")]
)
def test_a_server_that_fails_for_all_is_not_asked_for_all(vendor, tmp_path, capsys, fault):
    vendor.ids = [f"coin-{number}" for number in range(1, 30)]
    vendor.faults = {id: [fault] for id in vendor.ids[3:]}
    assert fetch(tmp_path) == 1
    line = error_of(capsys)
    assert "failed: 5 coins in a row, the last is " in line
    assert re.search(r"days of 3 coins in .*parquet\. The same command goes on from there", line)
    assert {id for id, _ in vendor.asked()} == set(vendor.ids[:8])


TOO_LONG = {"error": {"status": {"error_code": 10012, "error_message": "past 365 days"}}}


@pytest.mark.parametrize(
    ("fault", "said", "tries"),
    [
        ((401, {}, {"status": {"error_code": 10002}}), "refuses to answer without a key", 1),
        ((401, {}, TOO_LONG), r"refuses so many days \(past 365 days\): ask for --history 365", 1),
        ((429, {"Retry-After": "3600"}, b""), "asks to wait 3600 s", 1),
        ((429, {}, b""), "the rate limit is reached, 8 times", 8),
    ],
)
def test_a_refusal_ends_the_job_and_keeps_what_came(
    vendor, tmp_path, capsys, monkeypatch, fault, said, tries
):
    vendor.faults["coin-2"] = [fault]
    assert fetch(tmp_path) == 1
    assert re.search(f"{said}.* days of 1 coins in .*parquet", error_of(capsys))
    assert [id for id, _ in vendor.asked()] == ["coin-1"] + ["coin-2"] * tries


def test_odd_values_are_unknown_and_named_and_others_kept(vendor, tmp_path, capsys):
    now = vendor.moment()
    chart = vendor.chart("coin-2", {"days": "5"})
    chart["market_caps"][1][1] = -5
    chart["total_volumes"][2][1] = None
    chart["prices"].append([now, "dear"])
    vendor.charts["coin-2"] = chart
    assert fetch(tmp_path) == 0
    out = capsys.readouterr().out
    assert "2 values are left out as unknown, such as Coin 2 (coin-2), prices: " in out
    frame = read(tmp_path)
    frame = frame[frame["id"] == "coin-2"]
    assert len(frame) in (5, 6), "a live point has a row of its own after noon"
    assert frame[["24h_volume", "mkt_cap"]].isna().sum().tolist() == [1, 1]
    read_market(tmp_path, required=tuple(FORECAST_FEATURES))


def test_a_coin_without_any_points_is_no_failure(vendor, tmp_path, capsys):
    vendor.charts = {
        id: {"prices": [], "total_volumes": [], "market_caps": []} for id in vendor.ids
    }
    assert fetch(tmp_path) == 0
    assert "No history came." in capsys.readouterr().out
    assert files(tmp_path) == []


def test_a_renamed_coin_keeps_its_id(vendor, tmp_path):
    now = datetime.now(UTC)
    fetch_at(vendor, tmp_path, now - timedelta(days=7))
    vendor.fields["coin-2"] = {"name": "Coin\nTwo", "symbol": None}
    fetch_at(vendor, tmp_path, now)
    frame = read(tmp_path)
    assert frame[frame["id"] == "coin-2"]["coin"].unique().tolist() == ["Coin 2", "Coin Two"]


@pytest.mark.parametrize("id", ["../../up", "a/b?c=d#e", "ü \n", "x" * 300])
def test_an_odd_id_stays_within_its_address_and_its_file(vendor, tmp_path, id):
    vendor.ids[1] = id
    assert fetch(tmp_path) == 0
    assert vendor.answered[id] == 1
    assert id in set(read(tmp_path)["id"])
    assert len(list(tmp_path.iterdir())) == 3


def start(out, *options):
    command = [sys.executable, "-m", "liquidity.coingecko", "--out", str(out), "--pages", "1"]
    return subprocess.Popen(
        [*command, "--history", "40", *options], cwd=PROJECT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_or_stopped_fetch_goes_on_from_where_it_was(vendor, tmp_path, number, capsys):
    vendor.faults["coin-3"] = [(429, {"Retry-After": "60"}, b"")]
    job = start(tmp_path)
    for line in job.stdout:
        if "waiting 60 s" in line:
            break
    job.send_signal(number)
    _, err = job.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert job.returncode == 130
        assert re.search(r"stopped\. \d+ days of 2 coins in .*\. The same command goes on", err)
    assert len(files(tmp_path)) == (number == signal.SIGTERM)
    vendor.faults.clear()
    assert fetch(tmp_path) == 0
    assert vendor.answered == dict.fromkeys(vendor.ids, 1)
    assert read(tmp_path)["id"].nunique() == 3
    if number == signal.SIGKILL:
        said = "1 of 3 coins to ask for, 2 are there, 2 of them from a fetch that was cut off."
        assert said in capsys.readouterr().out
    assert (tmp_path / JOURNAL).read_bytes() == b""


def rows_of(count):
    first = datetime(2026, 11, 1)
    days = [first + timedelta(days=number) for number in range(count)]
    return [[f"{day:%Y-%m-%d}", 1.0, 10.0, None] for day in days]


def coin_of(number):
    return {"id": f"coin-{number}", "name": f"Coin {number}", "symbol": "c"}


NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def test_a_journal_that_breaks_off_anywhere_keeps_its_whole_lines(tmp_path):
    with Journal(tmp_path, days=40, now=NOW) as journal:
        for number in range(3):
            journal.add(coin_of(number), rows_of(2))
    whole = (tmp_path / JOURNAL).read_bytes()
    ends = {0, 1, len(whole) // 2, *range(3, len(whole), 23)}
    ends |= {n + 1 + step for n, byte in enumerate(whole) if byte == 10 for step in (-1, 0, 1)}
    for end in sorted(ends):
        (tmp_path / JOURNAL).write_bytes(whole[:end])
        with Journal(tmp_path, days=40, now=NOW) as journal:
            there = max(0, whole[:end].count(b"\n") - 1)
            assert journal.ids == {f"coin-{number}" for number in range(there)}
            assert journal.rows == 2 * there
            journal.add(coin_of(7), rows_of(1))
    with Journal(tmp_path, days=40, now=NOW) as journal:
        path = journal.publish()
    assert pd.read_parquet(path)["id"].tolist() == [
        *["coin-0"] * 2, *["coin-1"] * 2, *["coin-2"] * 2, "coin-7"
    ]  # fmt: skip


def test_a_journal_of_another_day_or_of_other_days_is_a_file_first(tmp_path):
    for days, now in ((40, NOW), (50, NOW), (50, NOW + timedelta(days=1))):
        with Journal(tmp_path, days=days, now=now) as journal:
            assert journal.ids == set()
            journal.add(coin_of(days), rows_of(1))
    assert [path.name[-11:] for path in files(tmp_path)] == ["40d.parquet", "50d.parquet"]


@pytest.mark.parametrize(("owner", "step"), [(Path, "replace"), (os, "ftruncate")])
def test_a_kill_while_the_file_is_made_makes_it_again(tmp_path, monkeypatch, owner, step):
    def killed(*_):
        raise KeyError("as if killed")

    with Journal(tmp_path, days=40, now=NOW) as journal:
        journal.add(coin_of(1), rows_of(3))
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, killed)
            with pytest.raises(KeyError):
                journal.publish()
    with Journal(tmp_path, days=40, now=NOW) as journal:
        assert journal.ids == {"coin-1"}
        journal.publish()
    assert read(tmp_path)["id"].tolist() == ["coin-1"] * 3
    assert len(files(tmp_path)) == 1


def test_two_files_of_one_second_have_two_names(tmp_path):
    for number in range(2):
        with Journal(tmp_path, days=40, now=NOW) as journal:
            journal.add(coin_of(number), rows_of(1))
            journal.publish()
    assert read(tmp_path)["id"].tolist() == ["coin-0", "coin-1"]


def test_two_fetches_at_once_are_one(vendor, tmp_path, capsys):
    with Journal(tmp_path, days=40, now=NOW):
        assert fetch(tmp_path) == 2
    assert "another process is fetching history into it; wait until it is" in error_of(capsys)


@pytest.mark.parametrize(
    "line",
    [b"x", b"{}", b"[]", b'{"started": "now", "days": 4}', b'{"started": 4, "days": 4}',
     b'{"started": "2026-11-26T000000Z", "days": null}'],
)  # fmt: skip
def test_a_journal_of_something_else_is_one_sentence(vendor, tmp_path, capsys, line):
    (tmp_path / JOURNAL).write_bytes(line + b"\n")
    assert fetch(tmp_path) == 2
    assert "line 1: expected what a fetch has written, got b" in error_of(capsys)


@pytest.mark.parametrize("rows", ["x", [1], [["2026-01-01"]], [["x", 1, 2, 3]], [[1, "a", {}, []]]])
def test_a_journal_with_other_rows_is_one_sentence(vendor, tmp_path, capsys, rows):
    header = {"started": f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}", "days": 40}
    entry = {"id": "a", "name": "a", "symbol": "a", "rows": rows}
    (tmp_path / JOURNAL).write_text(f"{json.dumps(header)}\n{json.dumps(entry)}\n")
    assert fetch(tmp_path) == 2
    assert "line 2: expected what a fetch has written, got b" in error_of(capsys)


@pytest.mark.parametrize("content", [b"", b"x" * 100, "frame"])
def test_a_history_that_cannot_be_read_is_one_sentence(vendor, tmp_path, capsys, content):
    path = tmp_path / "coingecko-history_2026-01-01T000000Z_40d.parquet"
    if content == "frame":
        pd.DataFrame({"a": [1]}).to_parquet(path)
    else:
        path.write_bytes(content)
    assert fetch(tmp_path) == 2
    assert f"{path}: cannot be read as a history (" in error_of(capsys)


def test_a_full_disk_is_one_sentence_and_nothing_half(vendor, make_disk, capsys):
    disk = make_disk("64k")
    assert fetch(disk, 400) == 1
    assert "No space left on device" in error_of(capsys)
    assert [path for path in files(disk) if not len(pd.read_parquet(path))] == []
    with Journal(disk, days=400, now=datetime.now(UTC)) as journal:
        assert journal.ids <= set(vendor.ids)


@pytest.mark.parametrize(
    ("options", "calls", "said"),
    [
        (["--history", "-1"], "", "argument --history: expected a whole number >= 0, got '-1'"),
        (["--history", "x"], "", "argument --history: expected a whole number >= 0, got 'x'"),
        (["--history", "20000"], "", "--history: expected at most 10000 days, got 20000"),
        ([], "0", "COINGECKO_CALLS_PER_MINUTE: expected a number above 0, got '0'"),
        ([], "many", "COINGECKO_CALLS_PER_MINUTE: expected a number above 0, got 'many'"),
    ],
)
def test_bad_settings_are_one_sentence(vendor, tmp_path, capsys, monkeypatch, options, calls, said):
    monkeypatch.setenv(api.CALLS_PER_MINUTE, calls)
    try:
        code = coingecko.main(["--out", str(tmp_path), *options])
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert said in error_of(capsys)
    assert vendor.calls == []


def test_the_pace_is_that_of_the_key():
    for name, calls in ((api.PRO_KEY, 250), (api.DEMO_KEY, 100), ("", 10)):
        assert api.find_server({name: "k"}).calls_per_minute == calls
    assert api.find_server({api.CALLS_PER_MINUTE: "33.5"}).calls_per_minute == 33.5


def test_calls_are_as_far_apart_as_the_rate_limit_wants(vendor, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(api.CALLS_PER_MINUTE, "600")
    start = datetime.now()
    assert fetch(tmp_path) == 0
    assert datetime.now() - start > timedelta(seconds=0.2)
    assert "A call each, 600 a minute (COINGECKO_CALLS_PER_MINUTE): about 0 s." in (
        capsys.readouterr().out
    )


def test_names_that_look_like_markup_do_not_break_the_bar(vendor, tmp_path, monkeypatch):
    vendor.fields = {"coin-1": {"name": "[/]"}, "coin-2": {"name": "[red" + "]" * 300}}
    monkeypatch.setattr(coingecko, "Terminal", lambda: Terminal(force_terminal=True))
    assert fetch(tmp_path) == 0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (1500, "25 min"), (5400, "1 h 30 min")],
)
def test_a_duration_is_said_as_people_do(seconds, said):
    assert duration(seconds) == said
