"""Fetching from a local server that plays CoinGecko, with its limits and its failures."""

import email.utils
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from support import PROJECT, coin
from vendor import Request, cut_off, hang_up

from liquidity import coingecko
from liquidity.data import coingecko as api
from liquidity.data.market import read_market

KEYS = (api.DEMO_KEY, api.PRO_KEY)


class Api(Request):
    """Plays the answers of `server.answers` in turn, the last one again and again."""

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        number = min(len(self.server.requests), len(self.server.answers)) - 1
        answer = self.server.answers[number]
        if callable(answer):
            answer = answer(self)
        if answer is None:
            return
        status, headers, body = answer if isinstance(answer, tuple) else (200, {}, answer)
        self.answer(status, headers, body)


@pytest.fixture
def play(monkeypatch):
    """Start the server with `answers`; it then is the one that is asked."""
    servers = []

    def start(*answers):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        server.answers, server.requests = answers, []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        monkeypatch.setenv(api.BASE_URL, f"http://127.0.0.1:{server.server_port}/api/v3/")
        return server

    for name in (*KEYS, api.BASE_URL):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(api, "FAILURE_WAIT", 0.01)
    monkeypatch.setattr(api, "LIMIT_WAIT", 0.02)
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def page(*numbers, **fields):
    return [coin(number, **fields) for number in numbers]


def fetch(tmp_path, pages=1):
    return coingecko.main(["--out", str(tmp_path), "--pages", str(pages)])


def error_of(capsys):
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_fetch_is_a_snapshot_in_our_columns(play, tmp_path, capsys):
    server = play(page(1, 2), page(3, 4, market_cap=None))
    assert fetch(tmp_path / "new/folder", pages=2) == 0
    (path,) = (tmp_path / "new/folder").iterdir()
    assert re.fullmatch(r"coingecko_20\d\d-\d\d-\d\dT\d{6}Z\.csv", path.name)
    header, first = path.read_text().splitlines()[:2]
    assert header == "date,id,coin,symbol,price,1h,24h,7d,24h_volume,mkt_cap"
    assert first == "2026-11-24,coin-1,Coin 1,c1,1.5,0.01,-0.02,0.03,2000000.0,10000000.0"
    frame, cleaning = read_market(path.parent)
    assert frame["coin"].tolist() == ["Coin 1", "Coin 2"]
    assert cleaning.dropped == {"unknown mkt_cap": 2}
    assert f"4 coins in {path} (0 came on two pages; 2 lack mkt_cap)" in capsys.readouterr().out
    queries = [parse_qs(urlsplit(address).query) for address, _ in server.requests]
    assert [query["page"] for query in queries] == [["1"], ["2"]]
    assert queries[0]["per_page"] == ["250"]
    assert queries[0]["price_change_percentage"] == ["1h,24h,7d"]
    assert server.requests[0][0].startswith("/api/v3/coins/markets?")


def test_a_coin_that_moves_to_the_next_page_is_there_once(play, tmp_path, capsys):
    play(page(1, 2), [*page(2, current_price=9), *page(3)])
    assert fetch(tmp_path, pages=2) == 0
    frame, _ = read_market(tmp_path)
    assert frame["coin"].tolist() == ["Coin 1", "Coin 2", "Coin 3"]
    assert frame["price"].tolist() == [1.5, 9, 1.5], "the later answer holds"
    assert "1 came on two pages" in capsys.readouterr().out


def read_file(tmp_path):
    """The snapshot as it is in its file, every cell as text."""
    (path,) = tmp_path.glob("*.csv")
    return pd.read_csv(path, dtype="str", keep_default_na=False)


def test_coins_of_one_name_and_odd_names_survive(play, tmp_path):
    names = ['a "b", c', "new\nline", "Coin 1", "=1+1", " é ₿ "]
    play([*page(1), *[coin(n, name=name) for n, name in enumerate(names, 2)]])
    assert fetch(tmp_path) == 0
    frame = read_file(tmp_path)
    assert frame["coin"].tolist() == ["Coin 1", 'a "b", c', "new line", "Coin 1", "=1+1", "é ₿"]
    assert frame["id"].tolist() == [f"coin-{number}" for number in range(1, 7)]
    read_market(tmp_path)


def test_what_no_history_has_is_kept(play, tmp_path):
    known = {"high_24h": 2, "low_24h": 1.25, "circulating_supply": 5e8, "total_supply": None}
    play([coin(1, **known, max_supply=None), coin(2, **known, max_supply="many"),
          coin(3, **dict.fromkeys(known, -1), max_supply=10**400), coin(4)])  # fmt: skip
    assert fetch(tmp_path) == 0
    frame = read_file(tmp_path).iloc[:, -5:]
    assert frame.columns.tolist() == [*known, "max_supply"]
    assert frame.iloc[0].tolist() == ["2.0", "1.25", "500000000.0", "", ""]
    assert frame["max_supply"].tolist() == [""] * 4
    assert frame["high_24h"].tolist() == ["2.0", "2.0", "", ""]
    assert len(read_market(tmp_path)[0]) == 4


@pytest.mark.parametrize(
    ("time", "day"),
    [("2026-11-25T00:00:00.000Z", 24), ("2026-11-25T00:00:00Z", 24), ("2026-11-25", 25),
     ("2026-11-25T00:00:00.001Z", 24), ("2026-11-25T12:00:00Z", 25), ("2026-11-25T11:59:59Z", 24)],
)  # fmt: skip
def test_a_snapshot_is_of_the_day_that_it_covers(play, tmp_path, time, day):
    play(page(1, last_updated=time))
    assert fetch(tmp_path) == 0
    assert read_file(tmp_path)["date"].tolist() == [f"2026-11-{day}"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"market_cap": -1}, r"page 1, row 3, column mkt_cap: expected a number >= 0.*, got -1"),
        ({"price_change_percentage_1h_in_currency": -150}, r"row 3, column 1h: .* -1.5"),
        ({"name": " "}, "coin-3 is left out: page 1, row 3, column coin: expected a name"),
        ({"name": None}, "coin-3 is left out: page 1, row 3, column coin: expected a name"),
        ({"name": 5}, "5 is left out: page 1: row 3, column coin: expected a name as text, got 5"),
        ({"id": None}, "Coin 3 is left out: page 1, row 3, column id: expected a name, got None"),
        ({"current_price": "dear"}, "Coin 3 is left out: page 1, row 3, column price: expected"),
        ({"current_price": "dear", "market_cap": -1}, r"Coin 3 is .*row 3.* \(and 1 more\)"),
        ({"last_updated": "yesterday"}, "Coin 3 is left out: page 1, row 3, column date: expected"),
        (
            {"last_updated": "2099-01-01T00:00:00Z"},
            r"page 1, row 3, column date: expected a day .*",
        ),
        (None, "Left out: page 1: row 3: expected a coin as an object, got None"),
    ],
)
def test_one_coin_that_cannot_be_used_does_not_cost_the_others(
    play, tmp_path, capsys, fields, said
):
    odd = fields if fields is None else coin(3, **fields)
    # A coin without a time and one without a field are no fault, also beside one.
    lean = coin(4, last_updated=None)
    del lean["symbol"]
    play([*page(1, 2), odd, lean, *page(5, 6, 7)])
    assert fetch(tmp_path) == 0
    assert re.search(said, capsys.readouterr().out)
    assert read_file(tmp_path)["id"].tolist() == [f"coin-{n}" for n in (1, 2, 4, 5, 6, 7)]
    assert len(read_market(tmp_path)[0]) == 6


def test_many_coins_that_cannot_be_used_are_counted(play, tmp_path, capsys):
    play([coin(n, market_cap=n - 12.5) for n in range(1, 17)])
    assert fetch(tmp_path) == 0
    out = capsys.readouterr().out
    assert out.count(" is left out: ") == 10
    assert "and 2 more.\n" in out
    assert len(read_file(tmp_path)) == 4


def test_pages_past_the_end_are_no_failure(play, tmp_path, capsys):
    server = play(page(1, 2), [], page(3))
    assert fetch(tmp_path, pages=9) == 0
    assert len(server.requests) == 2, "what comes after the end is not asked for"
    assert "Page 2 is past the end of the list." in capsys.readouterr().out
    assert read_file(tmp_path)["id"].tolist() == ["coin-1", "coin-2"]


@pytest.mark.parametrize("name", [None, *KEYS])
def test_a_key_goes_into_its_header_and_nowhere_else(play, tmp_path, capfd, monkeypatch, name):
    server = play((403, {}, {"error": "no"}))
    if name:
        monkeypatch.setenv(name, " CG-secret\n")
    assert fetch(tmp_path) == 1
    ((address, headers),) = server.requests
    sent = {k: v for k, v in headers.items() if k in api.KEY_HEADERS.values()}
    assert sent == ({api.KEY_HEADERS[name]: "CG-secret"} if name else {})
    assert "secret" not in address + "".join(capfd.readouterr())


def test_the_pro_key_asks_the_pro_server():
    servers = [api.find_server({name: "k"}).url for name in KEYS]
    assert servers == ["https://api.coingecko.com/api/v3", "https://pro-api.coingecko.com/api/v3"]
    assert api.find_server({}).url == servers[0]


def test_a_redirect_does_not_get_the_key(play, tmp_path, capsys, monkeypatch):
    other = play(page(1))
    server = play((302, {"Location": f"http://127.0.0.1:{other.server_port}/"}, b""))
    monkeypatch.setenv(api.DEMO_KEY, "CG-secret")
    assert fetch(tmp_path) == 1
    assert "answers with status 302, expected 200" in error_of(capsys)
    assert (len(server.requests), len(other.requests)) == (1, 0)


LIMIT = {"status": {"error_code": 429, "error_message": "You've exceeded the Rate Limit."}}


@pytest.mark.parametrize("status", [429, 200])
def test_a_rate_limit_is_waited_for_in_sight(play, tmp_path, capsys, status):
    server = play((status, {"Retry-After": "0.3"}, LIMIT), page(1))
    start = time.monotonic()
    assert fetch(tmp_path) == 0
    assert time.monotonic() - start >= 0.3
    assert len(server.requests) == 2
    out = capsys.readouterr().out
    assert (
        "page 1: the rate limit is reached (You've exceeded the Rate Limit.); waiting 0.3 s" in out
    )
    assert "before try 2 of 4" in out


def test_a_date_in_retry_after_is_waited_for(play, tmp_path, capsys):
    when = email.utils.formatdate(time.time() - 5, usegmt=True)
    play((503, {"Retry-After": when}, b"busy"), page(1))
    assert fetch(tmp_path) == 0
    assert "the server fails with status 503; waiting 0 s" in capsys.readouterr().out


@pytest.mark.parametrize("header", ["soon", "-5", "nan", "", "1e9"])
def test_a_strange_retry_after_is_our_own_wait(play, tmp_path, capsys, header):
    play((429, {"Retry-After": header}, b""), (429, {}, b""), page(1))
    assert fetch(tmp_path) == 0
    out = capsys.readouterr().out
    assert "waiting 0.02 s before try 2" in out
    assert "waiting 0.04 s before try 3" in out


def test_a_wait_of_an_hour_is_not_waited_for(play, tmp_path, capsys):
    server = play((429, {"Retry-After": "3600"}, LIMIT))
    assert fetch(tmp_path) == 1
    assert "asks to wait 3600 s: wait some minutes or fetch fewer --pages, or" in error_of(capsys)
    assert len(server.requests) == 1


HTML = (200, {"Content-Type": "text/html"}, b"<html>\n<h1>Please log in</h1>")


@pytest.mark.parametrize(
    ("answer", "tries", "message"),
    [
        ((429, {}, LIMIT), 4, r"page 1: the rate limit .*, 4 times: wait .* set COINGECKO_DEMO"),
        ((200, {}, LIMIT), 4, r"page 1: the rate limit is reached .*Limit\.\), 4 times: wait"),
        ((500, {}, b""), 4, r"page 1: the server fails with status 500, 4 times: try again later"),
        ((401, {}, {"status": {"error_code": 10002, "error_message": "API Key Missing"}}), 1,
         r"refuses to answer without a key \(status 401\) \(API Key Missing\): set COINGECKO"),
        ((404, {}, b"gone"), 1, "answers with status 404, expected 200: check COINGECKO_BASE_URL"),
        ((400, {}, {"error_code": 10011, "status": {"error_message": "pro key"}}), 1,
         r"answers with status 400 \(pro key\), expected 200"),
        (HTML, 1, "page 1: the answer is not JSON but starts with '<html> <h1>Please log in"),
        (b"", 1, "the answer is not JSON but starts with ''"),
        (b"[" * 100_000, 1, r"the answer is not JSON but starts with '\[\["),
        (b'["\xff"]', 1, "the answer is not JSON"),
        ({"coins": []}, 1, r"page 1: expected a list of coins .* got {\"coins\": \[\]}"),
        ([], 1, "page 1: the list of coins is empty: check COINGECKO_BASE_URL"),
        ([1], 1, "page 1: row 1: expected a coin as an object, got 1"),
        (page(1, current_price="dear"), 1, "page 1, row 1, column price: expected a number, got"),
        (page(1, 2, market_cap=-1), 1, r"row 1, column mkt_cap: .* -1.0 \(1 more such row\)"),
        (page(1, name=None), 1, "page 1, row 1, column coin: expected a name"),
        (page(1, id=5), 1, "page 1, row 1, column id: expected a name, got 5"),
        (page(1, last_updated="yesterday"), 1, "column date: expected a date"),
        ([{"id": "a", "name": "A"}], 1, "columns date, 24h_volume, .*: missing; the file has"),
        (cut_off, 4, "page 1: the answer breaks off, 4 times: try again later"),
        (hang_up, 4, r"page 1: no connection to http.*, 4 times: check the network"),
        (b" " * 20_000_001, 1, "answers with more than 20,000,000 bytes"),
    ],
)  # fmt: skip
def test_a_failure_is_one_line_with_its_cure(play, tmp_path, capsys, answer, tries, message):
    server = play(answer)
    assert fetch(tmp_path) == 1
    assert re.search(message, error_of(capsys))
    assert len(server.requests) == tries
    assert list(tmp_path.iterdir()) == [], "no file, not even half of one"


def drip(request):
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(b" ")
            time.sleep(0.05)
    except OSError:
        pass


def keep_silent(request):
    time.sleep(1)


@pytest.mark.parametrize("slow", [drip, keep_silent])
def test_a_server_that_never_finishes_does_not_hang_the_job(
    play, tmp_path, capsys, monkeypatch, slow
):
    monkeypatch.setattr(api, "TRY_SECONDS", 0.2)
    monkeypatch.setattr(api, "TRIES", 2)
    play(slow)
    start = time.monotonic()
    assert fetch(tmp_path) == 1
    assert time.monotonic() - start < 2
    assert re.search(r"no (complete )?answer within 0.2 s, 2 times", error_of(capsys))


def test_no_network_says_so(play, tmp_path, capsys, monkeypatch, free_port):
    play()
    monkeypatch.setenv(api.BASE_URL, f"http://127.0.0.1:{free_port}")
    assert fetch(tmp_path) == 1
    line = error_of(capsys)
    assert (
        f"no connection to http://127.0.0.1:{free_port}/coins/markets (Connection refused)" in line
    )
    assert "check the network" in line


def test_a_server_without_tls_says_so(play, tmp_path, capsys, monkeypatch):
    server = play(page(1))
    monkeypatch.setenv(api.BASE_URL, f"https://127.0.0.1:{server.server_port}")
    assert fetch(tmp_path) == 1
    assert "no secure connection to https://127.0.0.1" in error_of(capsys)


def test_pages_before_a_failure_are_kept_but_no_snapshot(play, tmp_path, capsys):
    play(page(1, 2), (403, {}, b""))
    assert fetch(tmp_path, pages=3) == 1
    (kept,) = tmp_path.iterdir()
    assert f"2 coins, is kept in {kept}: take .partial off its name" in error_of(capsys)
    kept.rename(kept.with_suffix(""))
    assert read_market(tmp_path)[0]["coin"].tolist() == ["Coin 1", "Coin 2"]


def test_coins_without_values_are_unknown_not_wrong(play, tmp_path):
    nothing = {name: None for name in coin(1) if name not in ("id", "symbol", "name")}
    play([*page(1), coin(2, **nothing), coin(3, symbol=None)])
    assert fetch(tmp_path) == 0
    frame, cleaning = read_market(tmp_path)
    assert frame["coin"].tolist() == ["Coin 1", "Coin 3"]
    assert cleaning.dropped == {"unknown 24h_volume": 1}


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--pages", "0"], {}, "argument --pages: expected a whole number >= 1, got '0'"),
        (["--pages", "x"], {}, "argument --pages: expected a whole number >= 1, got 'x'"),
        (["--out", "/proc/nothing"], {}, "--out: expected a folder that can be written to"),
        (["--out", __file__], {}, "--out: expected a folder that can be written to"),
        ([], {api.BASE_URL: "api.coingecko.com"}, "COINGECKO_BASE_URL: expected an address"),
        ([], {api.DEMO_KEY: "CG key"}, "COINGECKO_DEMO_API_KEY: expected a key of letters"),
    ],
)
def test_bad_settings_are_one_sentence_and_exit_code_2(
    tmp_path, capsys, monkeypatch, arguments, environment, message
):
    monkeypatch.chdir(tmp_path)
    for name in (*KEYS, api.BASE_URL):
        monkeypatch.setenv(name, environment.get(name, ""))
    try:
        code = coingecko.main(arguments)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    line = error_of(capsys)
    assert message in line
    assert "CG key" not in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_fetch_keeps_what_came(play, tmp_path, number):
    server = play(page(1), (429, {"Retry-After": "60"}, b""))
    command = [sys.executable, "-m", "liquidity.coingecko", "--out", str(tmp_path)]
    job = subprocess.Popen(
        command, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    for line in job.stdout:
        if "waiting 60 s" in line:
            break
    job.send_signal(number)
    _, err = job.communicate(timeout=60)
    (kept,) = tmp_path.iterdir()
    assert job.returncode == 130
    assert err.startswith("liquidity.coingecko: stopped. What came before, 1 coins, is kept in ")
    assert (kept.suffix, len(err.splitlines()), len(server.requests)) == (".partial", 1, 2)
