"""Reading, checking and cleaning of snapshot files."""

import gzip

import pandas as pd
import pytest

from liquidity.market import MarketDataError, read_market, trim_outliers

HEADER = "date,coin,price,1h,24h_volume,mkt_cap\n"
GOOD = "2022-03-16,Bitcoin,BTC,40859.46,0.022,35390763321,770991461396"


def test_a_csv_file_becomes_typed_columns(write_csv):
    frame, cleaning = read_market(write_csv(GOOD))
    row = frame.iloc[0]
    assert (row["price"], row["1h"], row["mkt_cap"]) == (40859.46, 0.022, 770991461396.0)
    assert row["date"] == pd.Timestamp("2022-03-16")
    assert (cleaning.rows_read, cleaning.rows_used, cleaning.dropped) == (1, 1, {})


def test_padded_headers_the_alias_volume_and_printed_money_are_understood(write_csv):
    path = write_csv(
        '2022-03-16,Bitcoin,"$40,859.46", 0.022 ,"$1,603,768,865.00" , $5',
        header=" date ,coin, price,1h ,volume, mkt_cap",
    )
    row = read_market(path)[0].iloc[0]
    assert (row["price"], row["24h_volume"], row["mkt_cap"]) == (40859.46, 1603768865.0, 5.0)


@pytest.mark.parametrize("unknown", ["--", "", "NaN", "null", "N/A"])
def test_unknown_cells_drop_the_row_and_are_counted(write_csv, unknown):
    path = write_csv(GOOD, f"2022-03-16,Ether,ETH,2744,{unknown},1,2")
    frame, cleaning = read_market(path)
    assert list(frame["coin"]) == ["Bitcoin"]
    assert cleaning.dropped == {"unknown 1h": 1}


def test_every_reason_for_dropping_is_counted_once(write_csv):
    path = write_csv(
        "2022-03-16,a,A,1,0.1,--,--",  # two reasons: the first counts
        "2022-03-16,b,B,1,0.1,5,--",
        "2022-03-16,c,C,--,0.1,5,9",
        "2022-03-16,d,D,1,--,5,9",
        "2022-03-16,e,E,1,0.1,5,0",
        "2022-03-16,f,F,1,0.1,5,9",
        "2022-03-16,f,F,2,0.1,5,9",
        "2022-03-16,g,G,1,0.1,0,9",  # a zero volume is real
    )
    frame, cleaning = read_market(path)
    assert list(frame["coin"]) == ["f", "g"]
    assert frame["price"][0] == 2, "the last duplicate wins"
    assert cleaning.dropped == {
        "unknown 24h_volume": 1,
        "unknown mkt_cap": 1,
        "unknown price": 1,
        "unknown 1h": 1,
        "mkt_cap 0": 1,
        "duplicate coin and date": 1,
    }


def test_an_unusable_duplicate_does_not_push_out_a_usable_row(write_csv):
    frame, _ = read_market(write_csv(GOOD, "2022-03-16,Bitcoin,BTC,1,--,1,1"))
    assert frame["price"].tolist() == [40859.46]


def test_equal_symbols_are_different_coins(write_csv):
    frame, _ = read_market(write_csv(GOOD, "2022-03-16,Bitcoin Copy,BTC,1,0.1,1,1"))
    assert len(frame) == 2


def test_a_folder_and_a_glob_read_all_files_in_the_order_of_their_names(write_csv, tmp_path):
    (tmp_path / "notes.txt").write_text("not a snapshot")
    write_csv("2022-03-17,b,B,1,0.1,5,9", name="2.csv")
    first = write_csv("2022-03-16,a,A,1,0.1,5,9", name="1.csv")
    third = first.read_bytes().replace(b",a,A,", b",c,C,")
    (tmp_path / "3.csv.gz").write_bytes(gzip.compress(third))
    pd.read_csv(first).assign(coin="d").to_parquet(tmp_path / "4.parquet")
    for source in (tmp_path, tmp_path / "?.*"):
        frame, cleaning = read_market(source)
        assert list(frame["coin"]) == ["a", "b", "c", "d"]
        assert len(cleaning.files) == 4


def test_a_date_with_a_time_is_a_day(write_csv):
    path = write_csv(GOOD.replace("2022-03-16", "2022-03-16T23:59:00Z"))
    assert read_market(path)[0]["date"][0] == pd.Timestamp("2022-03-16")


@pytest.mark.parametrize(
    ("line", "column", "expected", "got"),
    [
        ("2022-03-16,a,A,1,0.1,5,-9", "mkt_cap", "a number >= 0", "-9.0"),
        ("2022-03-16,a,A,1,0.1,-5,9", "24h_volume", "a number >= 0", "-5.0"),
        ("2022-03-16,a,A,-1,0.1,5,9", "price", "a number >= 0", "-1.0"),
        ("2022-03-16,a,A,1,-1.5,5,9", "1h", "a number >= -1", "-1.5"),
        ("2022-03-16,a,A,inf,0.1,5,9", "price", "a finite number", "inf"),
        ("2022-03-16,a,A,1e400,0.1,5,9", "price", "a finite number", "inf"),
        ("2022-03-16,a,A,1e19,0.1,5,9", "price", "a finite number", "1e+19"),
        ("2022-03-16,a,A,cheap,0.1,5,9", "price", "a number", "'cheap'"),
        ('2022-03-16,a,A,"1,2",0.1,5,9', "price", "a number", "'1,2'"),
        ("2022-03-16,a,A,True,0.1,5,9", "price", "a number", "'True'"),
        ("16 March,a,A,1,0.1,5,9", "date", "a date", "'16 March'"),
        ("2022-03-16,,A,1,0.1,5,9", "coin", "a name", "''"),
    ],
)
def test_a_wrong_cell_is_named_with_file_row_column_and_value(
    write_csv, line, column, expected, got
):
    path = write_csv(GOOD, line)
    with pytest.raises(MarketDataError) as caught:
        read_market(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, row 3, column {column}: expected {expected}")
    assert message.endswith(f"got {got}.")


def test_all_problems_of_all_files_come_at_once(write_csv, tmp_path):
    write_csv("2022-03-16,a,A,1,0.1,5,-9", "2022-03-16,b,B,x,0.1,5,9", name="1.csv")
    write_csv("2022-03-16,a,A,1", name="2.csv")
    (tmp_path / "3.parquet").write_text("no parquet")
    with pytest.raises(MarketDataError) as caught:
        read_market(tmp_path)
    message = str(caught.value)
    assert "4 problems" in message
    for part in ("row 2, column mkt_cap", "row 3, column price", "2.csv", "3.parquet"):
        assert part in message


def test_a_thousand_problems_do_not_fill_the_screen(write_csv):
    path = write_csv(*["2022-03-16,a,A,1,0.1,5,-9"] * 1000)
    with pytest.raises(MarketDataError, match="and 980 more"):
        read_market(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as CSV"),
        (HEADER, "a header but no rows"),
        ("date,coin,price,1h,24h_volume\n2022-03-16,a,1,0,5\n", "column mkt_cap: missing"),
        (f"volume,{HEADER}5,2022-03-16,a,1,0,5,9\n", "column 24h_volume: stands there more than"),
        (f"{HEADER}2022-03-16,a,1,0,5\n", "Row #2: Expected 6 columns, got 5"),
        (f"{HEADER}2022-03-16,a,1,0,5,9,9\n", "Row #2: Expected 6 columns, got 7"),
        (f"{HEADER}2022-03-16,a,--,0,5,9\n", "1 unknown price"),
        ("\xff\xfe\x00", "cannot be read as CSV"),
    ],
)
def test_an_unusable_file_says_why(tmp_path, content, message):
    path = tmp_path / "market.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(MarketDataError, match=message) as caught:
        read_market(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_an_empty_folder_say_what_was_looked_for(tmp_path):
    with pytest.raises(MarketDataError, match="no such file, folder or glob"):
        read_market(tmp_path / "nothing.csv")
    with pytest.raises(MarketDataError, match="holds no snapshot"):
        read_market(tmp_path)


def test_the_real_seed_files_load_with_known_counts(real_data):
    frame, cleaning = read_market(real_data / "seed/coin_gecko_*.csv")
    assert (cleaning.rows_read, cleaning.rows_used) == (1000, 993)
    assert cleaning.dropped == {"unknown 24h_volume": 7}
    trimmed, counted = trim_outliers(frame, cleaning)
    assert counted.rows_used == len(trimmed) == 993 - counted.dropped["outlier"]
    assert trimmed["mkt_cap"].max() < 2e9, "Bitcoin is gone"


def test_the_real_panel_without_1h_is_an_error_that_names_it(real_data):
    with pytest.raises(MarketDataError, match="column 1h: missing"):
        read_market(real_data / "panel")
    with pytest.raises(MarketDataError, match="12400 unknown 1h"):
        read_market(real_data / "daily")


def test_the_real_panel_loads_where_1h_is_not_needed(real_data):
    _, cleaning = read_market(real_data / "panel", required=("24h_volume", "mkt_cap", "price"))
    assert (cleaning.rows_read, cleaning.dropped) == (705439, {"mkt_cap 0": 88049})
