"""The look at a market: its numbers, its figures and its page, from one coin to a panel."""

import html
import io
import os
import re
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import SAMPLE, parents

from liquidity import eda
from liquidity.data.market import Cleaning, read_market
from liquidity.data.table import target
from liquidity.illiquidity import high_low_spread
from liquidity.report.market_report import as_text, market_figures
from liquidity.report.market_tables import (
    cap_deciles,
    log_correlation,
    market_headline,
    market_tables,
    persistence_by_date,
    persistence_summary,
    row_counts,
    successive_pairs,
)
from liquidity.report.style import write_png
from liquidity.report.trading_costs import cost_finding, costs_by_coin
from liquidity.runs.addresses import artifact_path

TABLES = ["Rows", "Values", "Liquidity by capitalisation", "Correlation of logarithms",
          "High and Low by date", "Most and least liquid"]  # fmt: skip


def read(source):
    frame, cleaning = read_market(source, required=eda.REQUIRED)
    return frame.assign(liquidity=target(frame)).dropna(axis=1, how="all"), cleaning


def days(*rows):
    """A frame from (date, coin, liquidity), every cap 100."""
    frame = pd.DataFrame(rows, columns=["date", "coin", "liquidity"])
    frame["date"] = pd.to_datetime(frame["date"])
    return frame.assign(**{"mkt_cap": 100.0, "24h_volume": frame["liquidity"] * 100, "price": 1.0})


def test_a_look_is_one_finished_run_with_everything_in_it(store, capsys):
    assert eda.main(["--data", str(SAMPLE)]) == 0
    (run,) = parents(store)
    assert (run.info.status, run.data.params) == ("FINISHED", {"data": str(SAMPLE)})
    metrics = run.data.metrics
    assert (metrics["rows_read"], metrics["rows_used"]) == (1200, 1192)
    assert (metrics["coins"], metrics["dates"]) == (300, 4)
    assert store.get_experiment(run.info.experiment_id).name == "crypto-liquidity-eda"
    folder = Path(store.download_artifacts(run.info.run_id, ""))
    assert {p.name for p in folder.iterdir()} == {
        "report.html", "summary.txt", "cleaning.json", "tables", "figures"
    }  # fmt: skip
    assert len(list(folder.glob("figures/*.png"))) == 9
    out, summary = capsys.readouterr().out, (folder / "summary.txt").read_text()
    assert summary in out
    lines = summary.splitlines()
    assert (
        lines[0] == "Half of the rows have a liquidity below 0.0296, and 4.8% are High (above 0.5)."
    )
    assert lines[1].startswith("Liquidity is higher for large coins: its median is 0.0119 in the ")
    assert lines[2].startswith(
        "From one date to the next a coin's liquidity changes by a factor of 1"
    )
    assert lines[3].startswith("Turnover mostly agrees with Amihud's illiquidity (-0.83), by")
    assert lines[4].startswith("1,192 of 1,200 rows of 1 file(s): 300 coins on 4 date(s)")
    assert run.info.run_name == "sample.csv"
    assert run.data.tags["mlflow.note.content"].startswith(lines[0])
    report = Path(re.search("^Report: (.*)$", out, re.MULTILINE)[1])
    assert report.read_text() == (folder / "report.html").read_text()
    path = artifact_path(run, "report.html")
    assert f"http://127.0.0.1:5001/{path}\n" in out
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") == 9
    for number in ("1,192", "0.0296"):
        assert number in page
        assert number in summary
    quantiles = pd.read_csv(folder / "tables/values.csv", index_col=0)
    frame, _ = read(SAMPLE)
    assert quantiles.loc["liquidity", "median"] == frame["liquidity"].median()


def test_the_deciles_hold_all_rows_and_are_ordered(sample_table):
    frame, _ = read(SAMPLE)
    deciles = cap_deciles(frame)
    assert (len(deciles), deciles["rows"].sum()) == (10, len(frame))
    assert deciles["smallest cap"].is_monotonic_increasing
    assert (deciles["largest cap"][:-1].to_numpy() <= deciles["smallest cap"][1:].to_numpy()).all()
    share = (deciles["High share"] * deciles["rows"]).sum() / len(frame)
    assert share == pytest.approx((frame["liquidity"] > 0.5).mean())


def test_correlations_are_those_of_the_logarithms():
    frame = days(*[("2022-03-16", f"c{n}", 10.0**n) for n in range(-6, 6)])
    frame = frame.assign(price=frame["liquidity"] ** -2, **{"1h": 0.0, "24h": -1.0})
    matrix = log_correlation(frame)
    assert matrix.loc["liquidity", "price"] == pytest.approx(-1)
    assert np.isnan(matrix.loc["liquidity", "1h"]), "a constant correlates with nothing"


def test_pairs_are_of_successive_dates_only():
    pairs = successive_pairs(
        days(
            ("2022-03-18", "a", 0.3), ("2022-03-16", "a", 0.1), ("2022-03-17", "b", 0.5),
            ("2022-03-18", "b", 0.7), ("2022-03-20", "b", 0.9),
        )
    )  # fmt: skip
    # The 20th follows the 18th in this data; `a` was not there on the 17th.
    assert pairs[["before", "after"]].to_numpy().tolist() == [[0.5, 0.7], [0.7, 0.9]]
    assert pairs["date"].dt.day.tolist() == [18, 20]


def test_persistence_is_one_where_ranks_hold_and_minus_one_where_they_turn():
    rows = [("2022-03-16", f"c{n}", 0.1 + n / 5) for n in range(5)]
    rows += [("2022-03-17", f"c{n}", 0.2 + n / 5) for n in range(5)]
    rows += [("2022-03-18", f"c{n}", 2.0 - n / 5) for n in range(5)]
    pairs = successive_pairs(days(*rows))
    by_date = persistence_by_date(pairs)
    assert by_date["rank correlation"].tolist() == [pytest.approx(1), pytest.approx(-1)]
    summary = persistence_summary(pairs)["value"]
    assert summary["pairs of a coin and two successive dates"] == 10
    assert summary["High that stay High"] == 1.0
    assert summary["Low that stay Low"] == pytest.approx(2 / 5)


def costly(coins, dates, *, sign=-1, ranges=True):
    """Coins of one cap whose daily moves fall (or rise) with their turnover, seen on each date."""
    rows = []
    for n in range(1, coins + 1):
        move = 0.001 * n ** (0.5 * sign)
        for at in range(dates):
            price = 100 * (1 + move) ** (at % 2)
            rows.append(
                {
                    "date": pd.Timestamp("2026-01-01") + pd.Timedelta(days=at), "coin": f"c{n:02d}",
                    "price": price, "24h_volume": 1e6 * n, "mkt_cap": 1e8, "liquidity": 0.01 * n,
                    "high_24h": price * (1 + 9 * move), "low_24h": price / (1 + 9 * move),
                }
            )  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame if ranges else frame.drop(columns=["high_24h", "low_24h"])


def test_turnover_is_compared_with_what_a_trade_costs():
    frame = costly(12, 4)
    tables, pairs = market_tables(frame, Cleaning(["a.csv"], len(frame), len(frame), {}))
    table = tables["What a trade costs"]
    assert table["coins"].tolist() == [12, 12, 12]
    assert table["rank correlation"].tolist() == pytest.approx([-1, -1, 1])
    assert cost_finding(table).startswith(
        "Turnover mostly agrees with Amihud's illiquidity (-1.00) and mostly agrees with spread by"
    )
    assert costs_by_coin(frame).loc["c05", "spread by high and low"] == high_low_spread(
        np.arange(4), *(frame.loc[frame["coin"] == "c05", name] for name in ("high_24h", "low_24h"))
    )
    assert len(market_figures(frame, tables, pairs)["What a trade costs"].axes) == 2


@pytest.mark.parametrize(
    ("frame", "pairs"),
    [
        (costly(9, 4), 0),  # too few coins
        (costly(12, 1), 0),  # one date
        (costly(12, 4, ranges=False), 1),
        (costly(12, 4).assign(**{"24h_volume": 0.0, "liquidity": 0.0}), 1),
    ],
    ids=["few coins", "one date", "no highs and lows", "no volume"],
)
def test_costs_are_compared_where_the_columns_tell_them(frame, pairs):
    tables, moves = market_tables(frame, Cleaning(["a.csv"], len(frame), len(frame), {}))
    assert len(tables.get("What a trade costs", ())) == pairs
    figures = market_figures(frame, tables, moves)
    assert ("What a trade costs" in figures) == (pairs > 0)
    for figure in figures.values():
        write_png(figure, io.BytesIO(), dpi=40)
    lines = market_headline(frame, Cleaning(["a.csv"], 1, 1, {}), tables)
    assert not any("nan" in line for line in lines)


@pytest.mark.parametrize(
    ("correlation", "said"),
    [(-0.8, "mostly agrees with"), (-0.5, "agrees in part with"), (0.1, "says little of")],
)
def test_the_finding_follows_the_correlation(correlation, said):
    name = "turnover and Amihud's illiquidity"
    table = pd.DataFrame({"coins": [20], "rank correlation": [correlation]}, index=[name])
    assert f"Turnover {said} Amihud's illiquidity ({correlation:.2f}), by" in cost_finding(table)


def test_many_dates_are_medians_of_months_in_the_text_and_all_in_the_file():
    rows = [(date, "a", 0.1) for date in pd.date_range("2022-01-01", "2022-03-31")]
    frame = days(*rows)
    tables, _ = market_tables(frame, Cleaning(["a.csv"], 90, 90, {}))
    text = as_text([], tables)
    assert "High and Low by date (medians of every month)" in text
    assert len(tables["High and Low by date"]) == 90
    assert "2022-02-03" not in text


@pytest.mark.parametrize(
    "rows",
    [
        [("2022-03-16", "a", 0.1)],
        [("2022-03-16", "a", 0.0), ("2022-03-17", "a", 0.0)],
        [("2022-03-16", "a", 1e17), ("2022-03-17", "a", 1e-17), ("2022-03-17", "$_{", 0.0)],
        [(f"20{y}-01-01", f"c{n}", 0.3) for y in range(10, 55) for n in range(3)],
    ],
)
def test_markets_of_every_shape_are_drawn(rows):
    frame = days(*rows).assign(**{"1h": 0.0})
    tables, pairs = market_tables(frame, Cleaning(["a.csv"], len(rows), len(rows), {}))
    assert list(tables)[:6] == TABLES
    for figure in market_figures(frame, tables, pairs).values():
        write_png(figure, io.BytesIO(), dpi=40)
    assert as_text(["x"], tables).startswith("x\n\nRows")


def test_what_is_missing_and_dropped_is_counted_by_reason(write_csv):
    lines = ["2022-03-16,a,A,1,0.1,5,9", "2022-03-16,b,B,--,0.1,5,9", "2022-03-16,c,C,1,--,5,9",
             "2022-03-16,d,D,1,0.1,5,0"]  # fmt: skip
    frame, cleaning = read(write_csv(*lines))
    rows = row_counts(frame, cleaning)["rows"]
    assert rows.to_dict() == {
        "read": 4, "used": 2, "dropped: unknown price": 1, "dropped: mkt_cap 0": 1,
        "used without 1h": 1, "used without 24h": 2, "used without 7d": 2,
    }  # fmt: skip


def test_a_warning_is_in_the_report(write_csv):
    frame, cleaning = read(write_csv(*[f"2022-03-16,c{n},C,1,2.5,5,9" for n in range(30)]))
    said = "\n".join(market_headline(frame, cleaning, market_tables(frame, cleaning)[0]))
    assert "Warning: " in said
    assert "are these percent?" in html.unescape(said)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("2026-01-01", "a", 0.1)], ["One row says nothing", "No coin is on two successive"]),
        ([("2026-01-01", "a", 0.1), ("2026-01-02", "a", 0.2)],
         ["its median is 0.1 in the smallest of 2 groups", "changes by a factor of 2 (the median"]),
        ([("2026-01-01", "a", 0.0), ("2026-01-02", "a", 0.0)],
         ["Liquidity hardly depends on size", "are not traded on both"]),
        ([("2026-01-01", "a", 0.9), ("2026-01-02", "a", 0.6)],
         ["Liquidity is lower for large coins", "and 100% of what is High stays High."]),
    ],
)  # fmt: skip
def test_findings_of_few_rows_say_what_is_not_known(rows, said):
    frame = days(*rows)
    cleaning = Cleaning(["f"], len(frame), len(frame), {})
    lines = market_headline(frame, cleaning, market_tables(frame, cleaning)[0])
    assert said[0] in lines[1]
    assert said[1] in lines[2]
    assert not any("nan" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nothing.csv"], "nothing.csv: no such file, folder or glob"),
        (["--date", "x"], "unrecognized arguments: --date x"),
    ],
)
def test_bad_input_is_one_sentence_and_no_run(store, capsys, arguments, message):
    try:
        code = eda.main(arguments)
    except SystemExit as exit:
        code = exit.code
    err = capsys.readouterr().err
    assert (code, len(err.splitlines()), message in err) == (2, 1, True)
    assert parents(store) == []


def test_a_store_that_cannot_be_used_is_one_sentence(store, capsys, monkeypatch, tmp_path):
    (tmp_path / "other.db").write_text("no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert eda.main(["--data", str(SAMPLE)]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "cannot be used" in err


def test_a_stopped_look_leaves_no_running_run(store, capsys, monkeypatch):
    def stop(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(eda, "write_report", stop)
    assert eda.main(["--data", str(SAMPLE)]) == 130
    assert capsys.readouterr().err == "liquidity.eda: stopped.\n"
    (run,) = parents(store)
    assert run.info.status == "KILLED"


def test_the_real_panel_is_looked_at_without_1h(real_data):
    frame, cleaning = read(real_data / "panel")
    tables, pairs = market_tables(frame, cleaning)
    rows = tables["Rows"]["rows"]
    assert (rows["read"], rows["used"], rows["dropped: mkt_cap 0"]) == (705439, 617390, 88049)
    assert rows["used without 1h"] == 617390
    assert len(tables["High and Low by date"]) == 2022
    assert tables["Persistence by date"]["rank correlation"].median() > 0.9
    assert len(pairs) > 600_000
