"""Which rows are one asset: by their id, over a whole source."""

from types import SimpleNamespace

import pandas as pd
import pytest

from liquidity.data.market import read_market
from liquidity.scoring.blocks import parse_inputs
from liquidity.scoring.files import open_inputs

HEADER = "date,id,coin,price,1h,24h_volume,mkt_cap"


def read(tmp_path, **files):
    for name, rows in files.items():
        (tmp_path / f"{name}.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    frame, cleaning = read_market(tmp_path)
    return frame[["date", "coin", "mkt_cap"]].values.tolist(), cleaning


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_largest_of_one_name_keeps_it_on_every_date(tmp_path, form):
    """On the first date the smaller one is alone, and on the second it is the larger."""
    days = {
        "day1": [("2026-01-02", "acorn-old", "Acorn", 5e6)],
        "day2": [("2026-01-03", "acorn-old", "Acorn", 6e6), ("2026-01-03", "acorn", "Acorn", 1e6)],
        "day3": [("2026-01-04", "acorn", "Acorn", 9e8), ("2026-01-04", "birch", "Birch", 1e6)],
    }
    for name, rows in days.items():
        frame = pd.DataFrame(rows, columns=["date", "id", "coin", "mkt_cap"])
        frame = frame.assign(price=1, volume=5, **{"1h": 0.01})
        path = tmp_path / f"{name}.{form}"
        frame.to_csv(path, index=False) if form == "csv" else frame.to_parquet(path)
    frame, cleaning = read_market(tmp_path)
    assert frame["coin"].tolist() == [
        "Acorn (acorn-old)", "Acorn (acorn-old)", "Acorn", "Acorn", "Birch"
    ]  # fmt: skip
    (note,) = cleaning.notes[str(tmp_path)]
    assert note.startswith("1 coin shares the name of a larger one and is told apart by id, such")
    assert cleaning.warnings == ()


def test_a_renamed_coin_is_one_asset_under_its_last_name(tmp_path):
    rows, _ = read(
        tmp_path,
        day1=["2026-01-02,matic,Polygon,1,0,5,9"],
        day2=["2026-01-03,matic,POL,1,0,5,9"],
    )
    assert [coin for _, coin, _ in rows] == ["POL", "POL"]


def test_files_with_and_without_ids_are_one_panel(tmp_path):
    (tmp_path / "day0.csv").write_text(
        "date,coin,price,1h,24h_volume,mkt_cap\n2026-01-01,Acorn,1,0,5,9\n"
    )
    rows, _ = read(tmp_path, day1=["2026-01-02,acorn,Acorn,1,0,5,9"])
    assert [coin for _, coin, _ in rows] == ["Acorn", "Acorn"]


def test_a_coin_whose_name_is_unknown_has_its_id_for_one(tmp_path):
    rows, _ = read(tmp_path, day1=["2026-01-02,null-coin,null,1,0,5,9", "2026-01-02,b,,1,0,5,9"])
    assert [coin for _, coin, _ in rows] == ["null-coin", "b"]


@pytest.mark.parametrize("restart", [False, True])
def test_ids_that_number_the_rows_are_no_ids(tmp_path, restart):
    """As databases export them: over all days, or from 1 on in each file."""
    coins = [f"c{n}" for n in range(9)]
    days = {}
    for day in range(3):
        order = coins[day:] + coins[:day]
        first = 0 if restart else 9 * day
        days[f"day{day}"] = [
            f"2026-01-0{day + 1},{first + n},{coin},1,0,5,9" for n, coin in enumerate(order)
        ]
    rows, cleaning = read(tmp_path, **days)
    assert sorted({coin for _, coin, _ in rows}) == coins
    assert "the column id numbers the rows" in cleaning.warnings[0]


def test_probable_namesakes_without_ids_are_told(write_csv):
    path = write_csv(
        "2026-01-02,Acorn,A,1,0,5,900000000",
        "2026-01-02,Acorn,A,1,0,5,5000000",
        "2026-01-02,Birch,B,1,0,5,100",  # a correction
        "2026-01-02,Birch,B,1.1,0,6,110",
    )
    frame, cleaning = read_market(path)
    assert cleaning.dropped == {"duplicate coin and date": 2}
    (warning,) = cleaning.warnings
    assert "1 time rows of one coin and date differ so much" in warning
    assert "'Acorn' on 2026-01-02 with capitalisations of 5e+06 and 9e+08" in warning
    assert len(frame) == 2


@pytest.mark.parametrize(
    ("ids", "coins"), [(["a", "b", "a"], [0, 1, 0]), (["1", "2", "3"], [0, 0, 0])]
)
def test_a_file_to_score_tells_coins_apart_by_their_ids(tmp_path, ids, coins):
    """As training does, ids that number the rows included."""
    model = SimpleNamespace(features=["24h_volume", "mkt_cap", "price"], optional=("coin", "date"))
    rows = [f"2026-01-0{n},{each},Acorn,1,0,5,9" for n, each in enumerate(ids, 1)]
    (tmp_path / "a.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    source, layout, _ = open_inputs(tmp_path / "a.csv", model)
    X, _ = parse_inputs(next(source.blocks), layout, model)
    assert X[:, 3].tolist() == coins
