"""The market's doors: a folder of snapshots in, rankings and coins with forecasts out."""

import csv
import io
import json
import os
import signal
import time
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
from support import HTML, standing_app, write_outcome

from liquidity.data.recent import DAYS, Recent
from serve import market
from serve.app import close_app, create_app
from serve.market import Days, Market, NoMarket, pack, unpack
from serve.outlook import Outlooks, UnknownCoin, outlook

ODD_NAMES = [
    "a/b",
    'say "hi"',
    "<b>bold</b>",
    "\U0001f680 moon",
    "x" * 300,
    "=1+1",
    "..",
    "a?b#c%2F",
]


def wait(found, seconds=60):
    """What `found()` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def rows_of(coin, days, *, cap=1e8, share=0.1, last="2026-06-30"):
    dates = pd.date_range(end=last, periods=days)
    volume = cap * share * (1 + 0.1 * np.sin(np.arange(days)))
    return pd.DataFrame(
        {"date": dates, "coin": coin, "price": 2.0, "24h_volume": volume, "mkt_cap": cap}
    )


def write_days(folder, frame):
    folder.mkdir(exist_ok=True)
    for date, rows in frame.groupby("date"):
        rows.to_csv(folder / f"day_{date:%Y-%m-%d}.csv", index=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 days of a small market: a coin of one day, one that is late, and odd names."""
    folder = tmp_path_factory.mktemp("snapshots")
    coins = [rows_of(f"Coin {n}", 40, share=0.02 * (n + 1)) for n in range(40)]
    coins += [rows_of(name, 40, cap=5e6) for name in ODD_NAMES]
    coins += [rows_of("Newcomer", 1), rows_of("Straggler", 40, last="2026-06-25")]
    write_days(folder, pd.concat(coins))
    return folder


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """The outcomes of 10 days of a week's forecast; of one of them the file is broken."""
    folder = tmp_path_factory.mktemp("ledger")
    last = pd.Timestamp("2026-06-30").to_numpy().astype("datetime64[D]").astype(int)
    for day in range(last - 10, last + 1):
        actual = 0.1 if day % 2 else 0.01
        path = write_outcome(
            folder, "crypto-liquidity-7d", "1", day, {"Coin 7": actual, "a/b": 1.0}
        )
    path.write_bytes(b"PAR1")
    return folder


@pytest.fixture(scope="module")
def app(forecasts, folder, ledger, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(forecasts)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{forecasts}/mlflow.db")
        cache = str(tmp_path_factory.mktemp("cache"))
        uri = "models:/crypto-liquidity-1d@champion"
        folders = {"CACHE_DIR": cache, "SNAPSHOTS": str(folder), "LEDGER": str(ledger)}
        app = create_app({"MODEL_URI": uri, **folders})
        client = app.test_client()
        wait(lambda: client.get("/coins").status_code == 200)
        wait(lambda: len(client.get("/coins").json["coins"][0]["forecasts"]) == 2)
        yield app
        close_app(app)


@pytest.fixture
def client(app):
    return app.test_client()


def test_coins_are_ranked_by_the_exact_ratio_of_their_newest_day(client):
    coins = client.get("/coins").json["coins"]
    assert len(coins) == 50
    by_rank = sorted(coins, key=lambda coin: coin["rank"])
    liquidity = [coin["liquidity"] for coin in by_rank]
    assert liquidity == sorted(liquidity, reverse=True)
    for coin in coins:
        assert coin["liquidity"] == coin["24h_volume"] / coin["mkt_cap"]
        assert coin["level"] == ("High" if coin["liquidity"] > 0.5 else "Low")
    found = {coin["coin"]: coin for coin in coins}
    assert found["Newcomer"]["days_used"] == 1
    assert found["Newcomer"]["rank_change"] is None
    assert (found["Straggler"]["date"], found["Straggler"]["days_late"]) == ("2026-06-25", 5)
    assert found["Coin 7"]["days_used"] == 40


def test_a_coins_forecasts_are_those_of_its_days_sent_to_forecast(client):
    """To the last bit, by its name too."""
    known = client.get("/coins/Coin 7").json
    days = [
        {name: day[name] for name in ("date", "price", "24h_volume", "mkt_cap")}
        for day in known["history"]
    ]
    sent = client.post("/forecast", json={"coin": "Coin 7", "rows": days}).json
    assert sent["forecasts"] == known["forecasts"]
    assert sent["days_used"] == known["days_used"]
    assert client.post("/forecast", json={"coin": "Coin 7"}).json == sent
    assert [each["date"] for each in sent["forecasts"]] == ["2026-07-01", "2026-07-07"]


def test_an_unknown_coin_has_near_names(client):
    for response in (
        client.get("/coins/Coin 71"),
        client.post("/forecast", json={"coin": "coim 7"}),
    ):
        assert response.status_code == 404
        assert "did you mean 'Coin 7" in response.json["message"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_coin_of_any_name_has_its_page(client, name):
    """Whose address is in the ranking."""
    page = client.get("/market", query_string={"q": name[:100]}, headers=HTML)
    (address,) = {
        part.partition('"')[0] for part in page.text.split('href="')[1:] if "/coins/" in part[:8]
    }
    coin = client.get(address.replace("&amp;", "&"), headers=HTML)
    assert coin.status_code == 200
    assert "<b>bold" not in page.text + coin.text
    assert client.get(address).json["coin"] == name


def test_the_ranking_is_searched_sorted_filtered_and_saved(client):
    def names(**query):
        sent = client.get("/market", query_string=query | {"as": "csv"})
        assert sent.mimetype == "text/csv"
        return [row["coin"] for row in csv.DictReader(io.StringIO(sent.text))]

    assert names(q="coin 1") == [f"Coin {n}" for n in (19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 1)]
    assert names(sort="coin", q="coin")[:3] == ["Coin 0", "Coin 1", "Coin 10"]
    assert set(names(min_cap="10M")) & set(ODD_NAMES) == set()
    assert all(int(name.split()[1]) > 20 for name in names(level="High"))
    saved = client.get("/market?as=csv").text
    assert "'=1+1" in saved
    row = next(csv.DictReader(io.StringIO(saved)))
    known = client.get(f"/coins/{row['coin']}").json
    assert float(row["p_high_7d"]) == known["forecasts"][1]["p_high"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("sort=x", "sort: expected one of rank, coin"),
        ("level=x", "level: expected High or Low"),
        ("min_cap=much", "min_cap: expected a number, got 'much'"),
        ("min_cap=-1", "min_cap: expected a number from 0"),
    ],
)
def test_a_wrong_choice_is_said(client, query, message):
    response = client.get(f"/market?{query}")
    assert response.status_code == 400
    assert message in response.json["message"]
    assert client.get(f"/market?{query}", headers=HTML).status_code == 400


@pytest.mark.parametrize("page", ["0", "-3", "999", "x", "1e9"])
def test_a_page_past_the_end_is_the_last(client, page):
    assert client.get(f"/market?page={page}").status_code == 200


def test_what_can_be_traded_comes_from_the_lower_end(client):
    known = client.get("/coins/Coin 7?share=10%25&position=1M").json
    for each, ahead in zip(known["tradeable"]["forecasts"], known["forecasts"], strict=True):
        assert each["lower"] == 0.1 * ahead["lower"] * known["mkt_cap"]
        assert each["days_needed"] == 1e6 / each["lower"]
    assert client.get("/coins/Coin 7?share=2").status_code == 400
    page = client.get("/coins/Coin 7?position=1M", headers=HTML).text
    assert "Days for 1M USD" in page


def test_what_a_trade_costs_is_told_where_the_days_tell(client):
    costs = client.get("/coins/Coin 7").json["costs"]
    assert costs == {"amihud_per_million": 0.0, "high_low_spread": None}
    page = client.get("/coins/Coin 7", headers=HTML).text
    assert "the snapshots have no high and low of consecutive days" in page


def test_how_earlier_forecasts_did_is_told_where_the_ledger_knows(client):
    (told,) = client.get("/coins/Coin 7").json["past"]
    assert (told["horizon"], told["days"], told["inside"]) == (7, 10, 10)
    last = told["forecasts"][-1]
    assert (last["date"], last["actual"]) == ("2026-06-29", last["liquidity"] * 2)
    assert 1 < told["typical_factor"] < told["persistence_typical_factor"]
    page = client.get("/coins/Coin 7", headers=HTML).text
    assert "<td>10 of 10</td>" in page
    assert page.count('class="past"') == 10
    assert client.get("/coins/Coin 8").json["past"] == []
    assert "How earlier forecasts did" not in client.get("/coins/Coin 8", headers=HTML).text
    # What is broken in it is counted, and is no fault of a snapshot.
    assert "liquidity_snapshots_failures_total 1.0" in client.get("/metrics").text
    assert "cannot be read" not in client.get("/market", headers=HTML).text


def test_highs_and_lows_come_from_the_snapshots(tmp_path):
    frame = rows_of("Coin", 5).assign(**{"High 24h": 2.2, "low_24h": 1.9})
    frame.to_csv(tmp_path / "a.csv", index=False)
    recent = Recent(tmp_path)
    recent.update()
    found = outlook(unpack(1, pack(recent.rows(), problems=[], read="now")), {})
    assert found.costs(0)["high_low_spread"] > 0.01


def test_without_a_folder_there_is_no_market(inner):
    with standing_app(inner, SNAPSHOTS="") as app:
        client = app.test_client()
        for door in ("/market", "/coins", "/coins/Bitcoin"):
            response = client.get(door)
            assert response.status_code == 404
            assert "LIQUIDITY_SNAPSHOTS" in response.json["message"]
        assert client.post("/forecast", json={"coin": "Bitcoin"}).status_code in (404, 503)


@pytest.fixture(scope="module")
def ranked(inner, folder):
    """An application without a forecast, and the rows that were drawn before anybody asked."""
    with standing_app(inner, SNAPSHOTS=str(folder), FORECASTS="") as app:
        outlooks = app.extensions["outlooks"]
        wait(lambda: outlooks._made)
        yield app, dict(outlooks._outlook.kept["rows"])


def test_without_a_forecast_there_is_a_ranking(ranked):
    client = ranked[0].test_client()
    page = client.get("/market", headers=HTML)
    assert "No forecast is loaded" in page.text
    assert client.get("/coins/Coin 7", headers=HTML).status_code == 200
    assert client.get("/coins/Coin 7").json["forecasts"] == []


def test_a_folder_without_a_market_stops_nothing(inner, tmp_path):
    """None, an empty one and a file."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with ExitStack() as stack:  # their readers start at a time
        for name in ("none", "empty", "file"):
            app = stack.enter_context(standing_app(inner, SNAPSHOTS=str(tmp_path / name)))
            stack.callback(expect_no_market, app.test_client())


def expect_no_market(client):
    answer = wait(lambda: (r := client.get("/coins")) and "log says why" in r.text and r)
    assert answer.status_code == 503
    assert client.get("/ping").status_code == 200
    assert "liquidity_snapshots_failures_total 1.0" in client.get("/metrics").text


def test_days_that_have_yet_to_come_make_no_coin_old(tmp_path):
    write_days(tmp_path, rows_of("Coin", 3))
    rows_of("Wrong", 1, last="2098-01-01").to_csv(tmp_path / "new.csv", index=False)
    recent = Recent(tmp_path)
    recent.update()
    assert recent.rows()["coin"].tolist() == ["Coin"] * 3
    (said,) = recent.problems
    assert "1 of 1 rows are dated after today, the first 2098-01-01" in said
    for path in tmp_path.glob("day_*"):
        path.unlink()
    recent.update()
    assert recent.rows().empty


def test_new_broken_and_lost_files_and_a_killed_reader(tmp_path, monkeypatch, caplog):
    """A file is seen within seconds; what a broken one held before stays, and is said once. That a
    reader has ended is said once too, not in every second until another is started.
    """
    monkeypatch.setattr(market, "LOOK_SECONDS", 0.02)
    folder = tmp_path / "snapshots"
    write_days(folder, rows_of("Coin", 3))
    failures = []
    shown = Market(str(folder), on_problem=lambda: failures.append(1))
    try:
        wait(lambda: days_of(shown, "Coin") == 3)
        rows_of("Coin", 1, last="2026-07-01").to_csv(folder / "new.csv", index=False)
        started = time.monotonic()
        wait(lambda: days_of(shown, "Coin") == 4)
        assert time.monotonic() - started < 15
        (folder / "new.csv").write_text("date,coin,price,24h_vo")
        wait(lambda: shown.current().problems)
        assert days_of(shown, "Coin") == 4
        (folder / "day_2026-06-28.csv").unlink()
        wait(lambda: days_of(shown, "Coin") == 3)
        assert len(failures) == 1
        assert [r.message for r in caplog.records if "new.csv" in r.message] != []

        monkeypatch.setattr(market, "AGAIN_SECONDS", 60)
        (reader,) = readers(tmp_path)
        os.kill(reader.pid, signal.SIGKILL)
        wait(lambda: len(failures) > 1)
        time.sleep(0.5)
        assert len(failures) == 2
        assert len([r for r in caplog.records if "the reader" in r.message]) == 1
        (folder / "new.csv").unlink()  # the next reader would say again what is wrong with it
        rows_of("Coin", 2, last="2026-07-02").to_csv(folder / "newer.csv", index=False)
        monkeypatch.setattr(market, "AGAIN_SECONDS", 0.2)
        wait(lambda: days_of(shown, "Coin") == 4)
        assert len(failures) == 2
    finally:
        shown.stop()
    assert not readers(tmp_path)


def days_of(shown, coin):
    try:
        days = shown.current()
    except NoMarket:
        return 0
    n = days.coins.index(coin)
    return days.starts[n + 1] - days.starts[n]


def readers(folder):
    return [p for p in psutil.Process().children() if str(folder) in " ".join(p.cmdline())]


def test_the_last_90_days_are_kept_of_whoever_was_seen_within_them(tmp_path):
    coins = [rows_of("Long", 300), rows_of("Gone", 50, last="2026-01-31")]
    coins += [rows_of("Late", 100, last="2026-05-01")]
    pd.concat(coins).to_csv(tmp_path / "all.csv", index=False)
    recent = Recent(tmp_path)
    assert recent.update()
    assert recent.rows()["coin"].value_counts().to_dict() == {"Long": DAYS, "Late": DAYS}
    assert not recent.update()


def test_of_years_of_files_only_what_can_be_shown_is_held(tmp_path, monkeypatch):
    """Which the last by its name tells, and that one is read first."""
    monkeypatch.setattr("liquidity.data.recent.KEPT_DAYS", 4)
    write_days(tmp_path / "snapshots", rows_of("Coin", 9))
    recent, read = Recent(tmp_path / "snapshots"), []
    recent.update(lambda done, total: read.append((done, total, held(recent))))
    assert read == [(n, 9, min(n, 4)) for n in range(9)]
    assert held(recent) == len(recent.rows()) == 4
    rows_of("Coin", 1, last="2026-07-03").to_csv(tmp_path / "snapshots/a.csv", index=False)
    recent.update()
    assert held(recent) == 2  # of which one came before


def held(recent):
    return sum(len(file.rows) for file in recent._files.values() if file.rows is not None)


def test_a_first_reading_says_how_far_it_is(tmp_path):
    shown = Market("")
    shown.folder = "snapshots"
    data = pack(Recent(tmp_path).rows(), problems=[], read="", reading="600 of 1,800 files")
    shown._days = unpack(1, data)
    with pytest.raises(NoMarket, match="being read, 600 of 1,800 files; try again") as raised:
        shown.current()
    assert raised.value.status == 503


def test_a_new_market_is_drawn_before_it_is_shown_and_nobody_waits_for_it():
    before, after = (unpack(n, pack(rows_of("A", n), problems=[], read="now")) for n in (1, 2))
    shown = SimpleNamespace(current=lambda: before)
    outlooks = Outlooks(shown, SimpleNamespace(current=lambda: {}))
    drawn = []
    outlooks.on_new = lambda new: drawn.append((new.days, outlooks.current().days))
    shown.on_look()
    shown.current = lambda: after
    assert outlooks.current().days is before
    shown.on_look()
    shown.on_look()
    assert outlooks.current().days is after
    assert drawn == [(before, before), (after, before)]


def test_a_row_is_drawn_once_whatever_it_is_sorted_by(ranked):
    app, rows = ranked
    outlooks, client = app.extensions["outlooks"], app.test_client()
    assert len(rows) == 50
    pages = [client.get(f"/market?sort={by}", headers=HTML).text for by in ("rank", "coin")]
    assert all(outlooks.current().kept["rows"][n] is row for n, row in rows.items())
    assert all(row in page for row in rows.values() for page in pages)


def test_a_state_survives_its_packing():
    frame = pd.concat([rows_of("A", 2), rows_of("B", 1).assign(symbol="b")], ignore_index=True)
    days = unpack(3, pack(frame, problems=["p"], read="now"))
    assert isinstance(days, Days)
    assert (days.coins, days.starts.tolist(), days.symbols) == (["A", "B"], [0, 2, 3], [None, "b"])
    assert (days.problems, days.read, days.number) == (("p",), "now", 3)
    assert days.cap.tolist() == frame["mkt_cap"].tolist()


def test_states_follow_each_other_in_shared_memory():
    memory = os.memfd_create("test")
    for size in (10, 1000, 5, 100_000, 3):
        data = json.dumps(list(range(size))).encode()
        before = market._read(memory)
        market._write(memory, data)
        number, found = market._read(memory)
        assert (number, found) == (before[0] + 1, data)
    os.close(memory)


def test_changes_of_rank_are_among_the_coins_of_both_days():
    frames = [rows_of(name, 2) for name in "ab"] + [rows_of("new", 1, share=9)]
    frame = pd.concat(frames, ignore_index=True)
    frame["24h_volume"] = [1, 5, 2, 4, 9]  # a: 1 then 5, b: 2 then 4
    found = outlook(unpack(1, pack(frame, problems=[], read="now")), {})
    assert found.rank.tolist() == [2, 3, 1]
    assert found.rank_change[:2].tolist() == [1, -1]
    assert np.isnan(found.rank_change[2])
    with pytest.raises(UnknownCoin, match="GET /coins lists them"):
        found.find("zzzz")
