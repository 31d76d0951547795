"""How a served version's last forecasts turned out: from its tags to metrics, /model and pages."""

import math
import time

import pandas as pd
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import HTML, INFO, NAME, use_copy

from liquidity.contract import LIVE, LIVE_METRICS
from liquidity.monitor.live import live_tags
from liquidity.monitor.outcomes import DayFigures
from serve.app import close_app, create_app
from serve.champion import Followed, Served
from serve.live import FIGURES, read_live, told
from serve.metrics import Metrics
from serve.shared import shared_places

DAY = DayFigures(20000, 200, 1.0, 2.0, math.nan, 8.0, 182, 4.0)
MARKUP = "<script>alert(1)</script>\u202e\x1b[31m"
URI = f"models:/{NAME}-1d@champion"


def test_what_the_monitor_writes_is_read_as_it_is():
    assert {name.removeprefix(LIVE) for name in LIVE_METRICS} < {*FIGURES}
    live = read_live(live_tags([DAY, DAY], ["worse", "old"]) | {"by": "somebody"})
    assert live == {
        "r2": 0.875, "skill": 0.5, "coverage": 0.91, "brier": 0.02, "rows": 400, "days": 2,
        "until": "2024-10-04", "verdict": "stale", "reason": "worse; old",
    }  # fmt: skip
    assert told(live) == (
        "Stale: worse; old. All coins, the last 2 days scored, to 2024-10-04: squared error 50 % "
        "below that of “nothing changes”, 91 % of 400 forecasts within their range."
    )
    assert read_live({"gate.reason": "fine"}) is None
    fresh = read_live(live_tags([], []))
    assert fresh == {"verdict": "fine", "reason": ""}
    assert told(fresh) == "None of its forecasts has been scored yet."


NO_NUMBERS = ("nan", "1e999", "-1e300", "a", "")
NO_DAYS = ("2024-02-30", "20240201", "9999-01-01", "\u0662\u0660\u0662\u0664-01-01", MARKUP)


@pytest.mark.parametrize(
    "tag",
    [
        *({f"live_{name}": each} for name in FIGURES for each in NO_NUMBERS),
        {"live_coverage": "1.1"},
        {"live_skill": "1.1"},
        {"live_rows": "1.5"},
        {"live_rows": "1" * 5000},
        *({"live_until": each} for each in NO_DAYS),
        *({"live_verdict": each} for each in ("", "FINE", MARKUP)),
    ],
    ids=ascii,
)
def test_a_damaged_tag_is_left_out_and_the_others_are_read(tag):
    whole = live_tags([DAY], []) | {"live_har_skill": "0.1"}
    (name,) = tag
    gone = {name.removeprefix(LIVE)} | ({"reason"} if name == "live_verdict" else set())
    live = read_live(whole | tag)
    assert {*read_live(whole)} - {*live} == gone
    assert told(live)


def test_a_reason_is_shown_without_control_characters_and_bounded():
    live = read_live({"live_verdict": "stale", "live_reason": MARKUP + "x" * 5000})
    assert live["reason"].startswith(r"<script>alert(1)</script>\u202e\x1b[31mxxx")
    assert len(live["reason"]) == 500
    assert "report" in told(read_live({"live_verdict": "stale"}))


def gauges(metrics):
    """The gauges of the horizon of 7 days by name, of all workers."""
    return {
        sample.name.removeprefix("liquidity_forecast_live_"): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if sample.labels == {"horizon": "7"} and "_live_" in sample.name
    }


class Ahead:
    """A model of which only the horizon counts."""

    horizon = 7


def test_figures_are_gauges_and_end_with_the_version_that_they_are_of():
    served = Served(Ahead(), INFO)
    live = read_live(live_tags([DAY], []))
    with shared_places(2):
        one, two = Metrics(), Metrics()
        one.forecast_followed(Followed(served, "now", live))
        one.publish()
        assert gauges(two) == gauges(one) == {
            "r2": 0.875, "skill": 0.5, "coverage": 0.91, "brier": 0.02, "rows": 200, "days": 1,
            "until_timestamp_seconds": 20000 * 86400, "stale": 0,
        }  # fmt: skip
        two.forecast_followed(Followed(served, "later", {"verdict": "stale", "reason": ""}))
        two.publish()
        assert gauges(one) == gauges(two) == {"stale": 1}
        two.forecast_followed(Followed(served, "later", None))
        assert gauges(two) == {}


@pytest.fixture
def served(forecasts, tmp_path, monkeypatch):
    """A server of a small market and the forecasts' store in a copy: its client, and how a tag of
    the champion of a day ahead is set.
    """
    with use_copy(forecasts / "mlflow.db", tmp_path, monkeypatch) as store:
        days = pd.date_range("2026-06-20", "2026-06-30")
        rows = {"coin": "Coin", "price": 2.0, "24h_volume": 1e7, "mkt_cap": 1e8}
        (tmp_path / "snapshots").mkdir()
        pd.DataFrame({"date": days} | rows).to_csv(tmp_path / "snapshots/days.csv", index=False)
        app = create_app({
            "MODEL_URI": URI, "CACHE_DIR": f"{tmp_path}/cache", "REFRESH_SECONDS": "0.1",
            "SNAPSHOTS": f"{tmp_path}/snapshots",
        })  # fmt: skip

        def tag(**tags):
            for name, value in tags.items():
                store.set_model_version_tag(f"{NAME}-1d", "1", name, value)

        yield app.test_client(), tag
        close_app(app)


def wait(found):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def test_the_served_versions_figures_follow_its_tags(served):
    """The version stays the same, and so nothing is loaded again."""
    client, tag = served
    wait(lambda: client.get("/coins").status_code == 200)
    wait(lambda: client.get("/coins/Coin").json["forecasts"])

    def coin():
        return client.get("/coins/Coin").json["models"][0]["live"]

    loaded = client.get("/model").json["loaded"]
    assert coin() is None
    assert "scored" not in client.get("/coins/Coin", headers=HTML).text

    tag(**live_tags([DAY], []))
    expected = read_live(live_tags([DAY], []))
    wait(lambda: coin() == client.get("/model").json["live"] == expected)
    model = client.get("/model").json
    assert model["forecasts"][0]["live"] == expected
    assert model["loaded"] == loaded
    for page in ("/coins/Coin", "/"):
        assert "squared error 50 % below" in client.get(page, headers=HTML).text
    assert 'liquidity_forecast_live_skill{horizon="1"} 0.5' in client.get("/metrics").text

    tag(live_skill="nan", live_verdict="stale", live_reason=MARKUP, live_until="9" * 4000)
    wait(lambda: coin() == client.get("/model").json["live"] and "until" not in coin())
    for page in ("/coins/Coin", "/"):
        answer = client.get(page, headers=HTML)
        assert answer.status_code == 200
        assert "Stale: &lt;script&gt;" in answer.text
        assert "<script>alert" not in answer.text
    text = client.get("/metrics").text
    assert 'liquidity_forecast_live_stale{horizon="1"} 1.0' in text
    assert "liquidity_forecast_live_skill{" not in text
    assert client.get("/openapi.json").status_code == 200
