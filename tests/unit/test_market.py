"""Reading, checking and cleaning of snapshot files."""

import datetime
import gzip
import json

import pandas as pd
import pytest
from support import coin

from liquidity.data.market import api_frame, read_market, trim_outliers
from liquidity.errors import MarketDataError

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


@pytest.mark.parametrize(
    ("cell", "price"),
    [('"$1,234.5"', 1234.5), ("$2.24e-05", 2.24e-05), ("$.5", 0.5), ('"1,234,567"', 1234567.0)],
)
def test_printed_money_is_a_number(write_csv, cell, price):
    assert read_market(write_csv(f"2022-03-16,a,A,{cell},0,5,9"))[0]["price"].tolist() == [price]


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


@pytest.mark.parametrize(
    "date",
    [
        "2022-03-16T23:59:00Z", "2022-03-17T02:30:00+02:00", "2022-03-16 12:00",
        "2022-03-17T11:59:59Z",
        "2022-03-16T00:00:00Z", "20220316",
        "2022/03/16", "16-Mar-22", "16-Mar-2022", "1647388800", "1647475199", "1647475199999",
        "1647388800.5", " 2022-03-16 ",
    ],
)  # fmt: skip
def test_a_date_of_any_form_is_a_day(write_csv, date):
    path = write_csv(GOOD.replace("2022-03-16", date), GOOD.replace("2022-03-16", "2021-12-31"))
    assert read_market(path)[0]["date"].tolist() == [
        pd.Timestamp("2022-03-16"), pd.Timestamp("2021-12-31")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "dates",
    [
        [20220316, 20220317],
        [1647388800, 1647475200],
        [1647388800000.0, 1647475200000.0],
        [datetime.date(2022, 3, 16), datetime.date(2022, 3, 17)],
        pd.to_datetime(["2022-03-16 23:00", "2022-03-18 01:00"]),
        pd.to_datetime(["2022-03-16 09:00", "2022-03-17 21:00"]).tz_localize("America/New_York"),
    ],
)
def test_a_parquet_files_own_dates_are_days(tmp_path, dates):
    frame = pd.DataFrame({"date": dates, "coin": ["a", "b"], "price": 1, "1h": 0.1})
    frame.assign(volume=5, mkt_cap=9).to_parquet(tmp_path / "market.parquet")
    days = read_market(tmp_path)[0]["date"]
    assert days.tolist() == [pd.Timestamp("2022-03-16"), pd.Timestamp("2022-03-17")]


@pytest.mark.parametrize(
    "date",
    ["2022", "2022-03", "03/04/2022", "32-Mar-22", "2022-02-30", "999", "164738880", "44636",
     "9999999999", "1647388800 1", "2022-03/16", "Bitcoin"],
)  # fmt: skip
def test_what_is_no_day_for_sure_is_an_error(write_csv, date):
    with pytest.raises(MarketDataError, match=r"row 2, column date: expected a date .*, got"):
        read_market(write_csv(GOOD.replace("2022-03-16", date)))


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_spreadsheets_own_csv_is_read(write_csv, separator, encoding):
    lines = "date,coin,price,1h,volume,mkt_cap\r\n2022-03-16,Bitcoin \u20bf,40859.46,-0.022,5,9\r\n"
    path = write_csv()
    path.write_bytes(lines.replace(",", separator).encode(encoding))
    row = read_market(path)[0].iloc[0]
    assert (row["coin"], row["price"], row["1h"]) == ("Bitcoin \u20bf", 40859.46, -0.022)


def test_decimal_commas_of_a_semicolon_file_are_points(write_csv):
    path = write_csv(
        "2022-03-16;a;1,5;0,022;1234567;9",
        "2022-03-16;b;--;0;5;9",
        "2022-03-16;c;0,1;-0,022;1,5e6;9",
        header=HEADER.strip().replace(",", ";"),
    )
    frame, cleaning = read_market(path)
    assert frame["price"].tolist() == [1.5, 0.1]
    assert frame["1h"].tolist() == [0.022, -0.022]
    assert frame["24h_volume"].tolist() == [1234567, 1.5e6]
    assert cleaning.dropped == {"unknown price": 1}


def test_commas_of_thousands_in_a_semicolon_file_stay_thousands(write_csv):
    header = HEADER.strip().replace(",", ";")
    for volume, price in (("1,234,567", "2"), ("1,234", "2.5")):
        path = write_csv(f"2022-03-16;a;{price};0;{volume};9", header=header)
        assert read_market(path)[0]["24h_volume"][0] == float(volume.replace(",", ""))


def test_commas_that_may_be_either_are_an_error(write_csv):
    path = write_csv("2022-03-16;a;2;0;1,234;9", header=HEADER.strip().replace(",", ";"))
    with pytest.raises(MarketDataError, match="the comma of '1,234' may part thousands or dec"):
        read_market(path)


@pytest.mark.parametrize(
    "cells",
    [
        '40859.460.022,35390763321,770991461396,1',  # two numbers run together
        '"1,234.56789,012",0.022,5,9',
        '"0,022",0.022,5,9',
        '1.234.567,0.022,5,9',
        '1,0.022,35390763321770991461396,9',  # beyond any capitalisation
    ],
)  # fmt: skip
def test_numbers_that_run_together_are_an_error(write_csv, cells):
    path = write_csv(f"2022-03-16,a,{cells}", header=HEADER.strip())
    with pytest.raises(MarketDataError, match="expected a"):
        read_market(path)


def test_shifted_columns_are_an_error(write_csv):
    with pytest.raises(MarketDataError, match="column price: expected a number, got 'BTC'"):
        read_market(write_csv("2022-03-16,Bitcoin,x,BTC,40859.46,0.022,5"))


@pytest.mark.parametrize("name", ["market.csv", "market.csv.gz", "market.json", "market.json.gz"])
def test_compressed_files_are_known_by_their_content(tmp_path, name):
    text = HEADER + "2022-03-16,a,1,0.1,5,9\n" if "csv" in name else json.dumps([coin(1)])
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert len(read_market(tmp_path)[0]) == 1


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_cut_archive_says_so(tmp_path, cut):
    path = tmp_path / "market.csv.gz"
    path.write_bytes(gzip.compress(HEADER.encode() * 50)[:-cut])
    with pytest.raises(MarketDataError, match=r"market\.csv\.gz: cannot be read as CSV: "):
        read_market(path)


def test_a_saved_api_page_is_read_with_percent_as_fractions(tmp_path):
    (tmp_path / "page.json").write_text(json.dumps([coin(1), coin(2, market_cap=None)]))
    frame, cleaning = read_market(tmp_path)
    assert cleaning.dropped == {"unknown mkt_cap": 1}
    row = frame.iloc[0]
    assert (row["coin"], row["symbol"], row["price"]) == ("Coin 1", "c1", 1.5)
    assert (row["1h"], row["24h"], row["7d"]) == (0.01, -0.02, 0.03)
    assert (row["24h_volume"], row["mkt_cap"]) == (2000000.0, 10000000.0)
    assert row["date"] == pd.Timestamp("2026-11-24")


def test_a_coin_without_a_time_is_as_old_as_its_page(tmp_path):
    (tmp_path / "page.json").write_text(json.dumps([coin(1), coin(2, last_updated=None)]))
    assert read_market(tmp_path)[0]["date"].nunique() == 1


def test_coins_of_one_name_stay_apart():
    frame = api_frame([coin(1), coin(2, name="Coin 1"), coin(1)], origin="page 1")
    assert frame["coin"].tolist() == ["Coin 1", "Coin 1 (coin-2)", "Coin 1"]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ({"status": {"error_code": 429}}, r"expected a list of coins .*got {\"status\": .*429"),
        ([], "the list of coins is empty"),
        ([coin(1), 5], "row 2: expected a coin as an object, got 5"),
        ([coin(1), coin(2, current_price=True)], "row 2, column price: expected a number, got 'tr"),
        ([coin(1, market_cap={"usd": 5})], "row 1, column mkt_cap: expected a number, got '{"),
        ([coin(1, market_cap=10**400)], "row 1, column mkt_cap: expected a finite number"),
        ([coin(1, name=None, id=None)], "row 1, column coin: expected a name"),
        ([coin(1, last_updated=7)], "row 1, column date: expected a date"),
        ([coin(1, price_change_percentage_1h_in_currency=-150)], "column 1h: expected a number >="),
    ],
)
def test_a_page_of_another_form_says_what_is_wrong(tmp_path, page, message):
    path = tmp_path / "page.json"
    path.write_text(json.dumps(page))
    with pytest.raises(MarketDataError, match=message) as caught:
        read_market(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["", "[", "<html>", "[" * 100_000, "\x00", '{"a": 1}x'])
def test_a_file_that_is_no_json_says_so(tmp_path, content):
    (tmp_path / "page.json").write_text(content)
    with pytest.raises(MarketDataError, match=r"page.json: cannot be read as JSON: .*\.$"):
        read_market(tmp_path)


@pytest.mark.parametrize(
    ("change", "suspicion"),
    [(0.8, "are these percent"), (0.00005, "divided by 100 twice"), (0.02, None), (0.002, None)],
)
def test_changes_of_an_unusual_size_are_a_warning(write_csv, change, suspicion):
    path = write_csv(*[f"2022-03-16,c{n},C,1,{change * (-1) ** n},5,9" for n in range(30)])
    warnings = read_market(path)[1].warnings
    assert [suspicion in warning for warning in warnings] == ([True] if suspicion else [])
    assert all(str(path) in warning for warning in warnings)


@pytest.mark.parametrize(("rows", "change"), [(2, 0.9), (19, 0.00005)])
def test_a_few_changes_warn_of_nothing(write_csv, rows, change):
    path = write_csv(*[f"2022-03-16,c{n},C,1,{change},5,9" for n in range(rows)])
    assert read_market(path)[1].warnings == ()


def test_three_changes_in_percent_are_told(write_csv):
    path = write_csv(*[f"2022-03-16,c{n},C,1,{n - 0.5},5,9" for n in range(3)])
    (warning,) = read_market(path)[1].warnings
    assert "are these percent? Then name the column 1h %" in warning


def test_a_file_wholly_in_percent_is_one_sentence(write_csv):
    path = write_csv(*[f"2022-03-16,c{n},C,1,{n - 20},5,9" for n in range(40)])
    with pytest.raises(MarketDataError) as caught:
        read_market(path)
    assert str(caught.value).startswith(f"{path}, column 1h: half of the changes are beyond 10,")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "column", "expected", "got"),
    [
        ("2022-03-16,a,A,1,0.1,5,-9", "mkt_cap", "a number >= 0", "-9.0"),
        ("2022-03-16,a,A,1,0.1,-5,9", "24h_volume", "a number >= 0", "-5.0"),
        ("2022-03-16,a,A,-1,0.1,5,9", "price", "a number >= 0", "-1.0"),
        ("2022-03-16,a,A,1,-1.5,5,9", "1h", "a number >= -1 (a fraction: 0.022 is 2.2 %)", "-1.5"),
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


def test_a_thousand_problems_of_a_kind_are_one_line(write_csv):
    path = write_csv(*["2022-03-16,a,A,1,0.1,5,-9", "2022-03-16,a,A,x,0.1,5,9"] * 1000)
    with pytest.raises(MarketDataError) as caught:
        read_market(path)
    assert str(caught.value).splitlines() == [
        "2 problems in the market data; correct or remove them:",
        f"  {path}, row 2, column mkt_cap: expected a number >= 0, got -9.0 (999 more such rows).",
        f"  {path}, row 3, column price: expected a number, got 'x' (999 more such rows).",
    ]


def test_problems_of_thirty_files_do_not_fill_the_screen(write_csv, tmp_path):
    for n in range(30):
        write_csv("2022-03-16,a,A,1,0.1,5,-9", name=f"{n}.csv")
    with pytest.raises(MarketDataError, match="and 10 more"):
        read_market(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as CSV"),
        (HEADER, "a header but no rows"),
        ("date,coin,price,1h,24h_volume\n2022-03-16,a,1,0,5\n", "column mkt_cap: missing"),
        (f"volume,{HEADER}5,2022-03-16,a,1,0,5,9\n", "column 24h_volume: given more than once"),
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


def test_no_real_file_is_doubtful(real_data):
    for source in ("seed/coin_gecko_*.csv", "seed/data_with_liquidity.csv", "monthly"):
        assert read_market(real_data / source)[1].warnings == (), source
