"""The page for programs: what it shows runs, as it stands, at the server that shows it."""

import json
import re
import urllib.request

import pytest
from support import GOOD, HTML, commands_of, run_commands, standing_app

KEY = "a-key"


@pytest.fixture(scope="module")
def page(inner):
    with standing_app(inner) as app:
        return app.test_client().get("/programs").text


def test_every_command_runs_at_a_server_that_asks_for_a_key(start_serve, tmp_path):
    server = start_serve(LIQUIDITY_API_KEY=KEY, LIQUIDITY_FORECASTS="")
    request = urllib.request.Request(f"{server.url}/programs")
    request.add_header("Authorization", f"Bearer {KEY}")
    with urllib.request.urlopen(request) as response:
        page = response.read().decode()
    assert KEY not in page
    # Without forecasts that one is answered with an error, as the page says.
    page, said = re.subn(
        r'<section aria-labelledby="days">.*?</section>', "", page, flags=re.DOTALL
    )
    assert said == 1
    printed = run_commands(page, tmp_path, LIQUIDITY_API_KEY=KEY)
    score = json.loads(printed["one", "bash"])
    assert f"{score['liquidity']} {score['level']}\n" == printed["one", "python"]
    assert len(json.loads(printed["many", "bash"])["predictions"]) == 2
    for language in {language for _, language in printed}:
        assert len(printed["many", language].strip().splitlines()) == (
            1 if language == "bash" else 2
        )
        assert printed["file", language].strip() == printed["file", "bash"].strip()
        assert "24h_volume" in printed["wrong", language]
        assert "400" in printed["wrong", language]
    assert printed["file", "bash"].startswith("24h_volume,mkt_cap,1h,price,liquidity,level,")


def test_it_shows_every_way_in_every_language(page):
    shown = {(section, language) for section, language, _ in commands_of(page)}
    sections = ("one", "many", "file", "days", "wrong")
    languages = ("bash", "python", "javascript")
    assert shown == {(section, language) for section in sections for language in languages}


def test_it_speaks_of_a_key_only_where_one_is_asked_for(inner, page):
    assert "API_KEY" not in page
    with standing_app(inner, API_KEY=KEY) as app:
        client = app.test_client()
        assert client.get("/programs").status_code == 401
        locked = client.get("/programs", headers={"Authorization": f"Bearer {KEY}"}).text
    assert KEY not in locked
    assert all("LIQUIDITY_API_KEY" in text for _, _, text in commands_of(locked))


def test_its_address_is_the_one_that_it_was_asked_at(app):
    client = app.test_client()

    def shown(**headers):
        page = client.get("/programs", headers=headers).text
        document = client.get("/openapi.json", headers=headers).json
        (server,) = document["servers"]
        assert f"curl {server['url']}/predict" in page
        return server["url"]

    assert shown(Host="coins.example.org:8443") == "http://coins.example.org:8443"
    secure = {"Host": "coins.example.org", "X-Forwarded-Proto": "https"}
    assert shown(**secure) == "https://coins.example.org"
    assert shown(Host="[::1]:8000") == "http://[::1]:8000"


@pytest.mark.parametrize("host", ["x;reboot", "$(reboot)", "a'b", "<b>", "x y", "ä"])
def test_a_host_that_is_none_goes_into_no_command(app, host):
    page = app.test_client().get("/programs", headers={"Host": host})
    assert "reboot" not in page.text
    if page.status_code == 200:
        assert "curl http://localhost/predict" in page.text


def test_without_a_model_it_still_says_how_to_ask(inner):
    with standing_app(inner, served=False) as app:
        page = app.test_client().get("/programs")
    assert page.status_code == 200
    assert "24h_volume" in page.text
    assert "The answer:" not in page.text


def test_its_first_answer_is_the_servers_own(app, page):
    client = app.test_client()
    (text,) = [
        text
        for section, language, text in commands_of(page)
        if (section, language) == ("one", "bash")
    ]
    coin = json.loads(re.search(r"-d '(.*)'", text)[1])
    assert coin.keys() == GOOD.keys()
    (answer,) = re.findall(r'<code class="answer">(.*?)</code>', page, re.DOTALL)
    assert json.loads(answer.replace("&#34;", '"')) == client.post("/predict", json=coin).json


def test_nothing_of_it_is_inline_or_from_elsewhere(page):
    assert not re.search(r"<style|style=|onclick|<script>", page)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {
        "/", "/openapi.json", "/static/page.css", "/static/icon.svg", "/static/programs.css",
        "/static/programs.js",
    }  # fmt: skip


def test_the_page_for_people_leads_to_it(app):
    assert '<a href="/programs">For programs</a>' in app.test_client().get("/", headers=HTML).text
