"""The most and the least liquid coins of a scored frame."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from liquidity.report.formatting import short_number
from liquidity.report.market_plots import ranking
from liquidity.report.ranking import as_table, both_ends, rank_scores


def scored(liquidity, **columns):
    liquidity = np.asarray(liquidity, float)
    known = ~np.isnan(liquidity)
    frame = pd.DataFrame(
        {
            "coin": [f"Coin {n}" for n in range(len(liquidity))], "24h_volume": 5e6,
            "mkt_cap": 1e8, "1h": 0.01, "price": 1.0, "liquidity": liquidity,
            "level": np.where(liquidity > 0.5, "High", "Low"), "lower": liquidity / 2,
            "upper": liquidity * 2, "in_range": True, "error": np.where(known, "", "no price"),
        }
    )  # fmt: skip
    frame["level"] = frame["level"].where(known, None)
    frame["in_range"] = frame["in_range"].astype(object).where(known, None)
    return frame.assign(**columns)


def text_of(table):
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    return console.file.getvalue()


def test_the_first_and_the_last_coins_come_with_their_ranks():
    ranked = rank_scores(scored([0.1, 0.9, 0.0, 0.3, np.nan, 0.2]), top=2)
    assert ranked["coin"].to_dict() == {1: "Coin 1", 2: "Coin 3", 4: "Coin 0", 5: "Coin 2"}
    assert list(ranked) == [
        "coin", "liquidity", "level", "lower", "upper", "in_range", "24h_volume", "mkt_cap"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("top", "ranks"), [(1, [1, 3]), (2, [1, 2, 3]), (3, [1, 2, 3]), (9, [1, 2, 3])]
)
def test_no_coin_is_at_both_ends(top, ranks):
    assert rank_scores(scored([3, 2, 1]), top=top).index.tolist() == ranks


def test_equal_scores_keep_their_order():
    assert both_ends(scored([1, 1, 1, 1]), 1)["coin"].tolist() == ["Coin 0", "Coin 3"]


def test_of_a_coins_dates_the_last_counts():
    frame = scored([5, 1, 2], coin=["a", "b", "a"], date=["2022-03-17", "2022-03-17", "2022-03-16"])
    assert rank_scores(frame, top=5)["liquidity"].tolist() == [5, 1]
    assert rank_scores(frame.drop(columns="date"), top=5)["liquidity"].tolist() == [2, 1]


def test_a_last_date_without_a_score_leaves_the_one_before():
    frame = scored([5, np.nan], coin=["a", "a"], date=["2022-03-16", "2022-03-17"])
    assert rank_scores(frame, top=5)["liquidity"].tolist() == [5]


def test_the_table_shows_level_interval_and_range():
    frame = scored([0.9, 0.3, 0.0313, 1e-7], in_range=[True, True, True, False])
    frame.loc[0, "coin"] = "[bold]odd[/nothing]"
    text = text_of(as_table(rank_scores(frame, top=1), top=1))
    assert "The 1 most and the 1 least liquid coins" in text
    lines = [line.split() for line in text.splitlines()]
    first = next(line for line in lines if "[bold]odd[/nothing]" in line)
    for cell in ("1", "0.9", "High", "0.45", "1.8", "yes"):
        assert cell in first
    last = next(line for line in lines if "4" in line)
    for cell in ("1e-07", "Low", "no"):
        assert cell in last


@pytest.mark.parametrize("liquidity", [[0.9, 0.3, 0.1, 0.0], [0.0], [0.0, 0.0], [1e17, 1e-17], []])
@pytest.mark.parametrize("interval", [True, False])
def test_every_ranking_is_drawn(liquidity, interval):
    ranked = rank_scores(scored(liquidity), top=2)
    ranked = ranked if interval else ranked.drop(columns=["lower", "upper", "level"])
    figure = ranking(ranked, "The coins")
    figure.savefig(io.BytesIO(), format="png")
    assert len(figure.axes[0].get_yticks()) == len(liquidity)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.03384, "0.0338"), (1, "1"), (1234567, "1,234,567"), (1234.5, "1,234"), (0.0, "0"),
        (1234567.0, "1.23M"), (999.6e6, "1B"), (4.3e10, "43B"), (2.1e12, "2.1T"), (-5e6, "-5M"),
        (1e-9, "1e-09"), (np.nan, "-"), (None, "-"), ("a", "a"), (np.True_, "True"),
        (1e16, "1e+16"), (np.int64(1000), "1,000"), (999_999.9, "1M"), (0.5e6, "500,000"),
        (999.7, "1,000"), (999.4, "999"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert short_number(value) == text
