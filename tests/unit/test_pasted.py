"""One pasted row of a table."""

import random
import time

import numpy as np
import pytest

from liquidity.contract import FEATURES, FORECAST_FEATURES
from liquidity.data.cells import number
from serve.pasted import LONGEST, read_row

AMOUNTS = {"price": "$91,234.50", "1h": "-0.2%", "24h_volume": "$38.1B", "mkt_cap": "$1.82T"}


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            "1\tBitcoin\nBTC\nBuy\n$91,234.50\t-0.2%\t1.3%\t5.4%\t$38.1B\t$1.82T",
            "Read in CoinGecko's order: 24 h volume, then Market cap.",
        ),
        (
            "1 Bitcoin BTC $91,234.50 ▼ 0.2% ▲ 1.3% ▲ 5.4% $38.1B $1.82T",
            "Read in CoinGecko's order: 24 h volume, then Market cap.",
        ),
        (
            '"Bitcoin","$91,234.50","-0.2%","1.3%","5.4%","$38.1B","$1.82T"',
            "Read in CoinGecko's order: 24 h volume, then Market cap.",
        ),
        (
            "95\t1INCH BTC\n$91,234.50\t-0.2%\t1.3%\t5.4%\n$1.82T\n$38.1B\n416.5K BTC\n19.95M BTC",
            "Read in CoinMarketCap's order: Market cap, then 24 h volume.",
        ),
        (
            "#\tCoin\tPrice\t1h\t24h\t7d\tMarket Cap\tVolume(24h)\n"
            "1\tBitcoin\nBTC\t$91,234.50\t-0.2%\t1.3%\t5.4%\t$1.82T\t$38.1B",
            "",
        ),
        (
            'Name;% 1h;Market Cap;current_price;total_volume\nX;-0.2;"$1.82T";"$91,234.50";$38.1B',
            "",
        ),
    ],
)
def test_a_row_of_a_site_or_a_spreadsheet_fills_all_fields(text, note):
    row = read_row(text, FEATURES)
    assert row == AMOUNTS
    assert (row.untold, row.note) == ({}, note)


@pytest.mark.parametrize(
    ("text", "told", "untold"),
    [
        # A third amount: neither site's order.
        ("X $1 -1% 2% 3% $5 $6 $7", {"price", "1h"}, {"24h_volume", "mkt_cap"}),
        # Colours are not copied.
        ("X $1 1% 2% 3% $5 $6", set(FEATURES), {"1h"}),
        ("Price\t1h\tVolume\tMkt Cap\n$1\t1%\t$5\t$6", set(FEATURES), {"1h"}),
        # A comma that may part thousands or decimals, and one that can only part thousands.
        ("X $1 -1% 2% 3% $5,000 $6", {"price", "1h", "mkt_cap"}, {"24h_volume"}),
        ("X $1.5 -1% 2% 3% $5,000 $6", set(FEATURES), set()),
        # Zeros that are counted in a small digit.
        ("X $0.0\u20851234 -1% 2% 3% $5 $6", {"1h", "24h_volume", "mkt_cap"}, {"price"}),
        ("price,mkt cap\n1,€5", {"price"}, {"1h", "24h_volume", "mkt_cap"}),
    ],
)
def test_what_a_row_does_not_tell_is_named(text, told, untold):
    row = read_row(text, FEATURES)
    assert (set(row), set(row.untold)) == (told, untold)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("", "is empty"),
        ("hello", "no row of a site"),
        ("$1 $2", "no row of a site"),
        (
            "2022-03-16,Coin 001,S1,0.408208,-0.002,0.049,0.077,546383802,204982006503",
            "header line",
        ),
        # A line in which a comma may be between cells or within a number.
        ("X,$91,234.5,0.2%,1%,2%,$38,000,000,$1,000,000,000", "no row of a site"),
        ("a $1 1% 2% 3% $5 $6\nb $1 1% 2% 3% $5 $6", "more than one row"),
        ("price,mkt cap\n1,2\n3,4", "Expected one row below the header, got 2"),
        ("price,mkt cap", "Expected one row below the header, got 0"),
        ("price,mkt cap\n1,2,3", "has 2 cells and its row 3"),
        (
            "price,volume,total_volume\n1,2,3",
            "The pasted header: column 24h_volume: given more than once",
        ),
        ("x" * (LONGEST + 1), "longer than a row"),
    ],
)
def test_what_is_no_row_fills_nothing_and_says_why(text, note):
    row = read_row(text, FEATURES)
    assert row == row.untold == {}
    assert note in row.note


def test_a_forecast_needs_no_change_over_an_hour():
    row = read_row("X $1 1% 2% 3% $5 $6", FORECAST_FEATURES)
    assert set(row) == set(FORECAST_FEATURES)
    assert not row.untold


def test_any_text_is_read_quickly():
    letters, draw = "$%,.\t\n ;12345KMBT abcBTC-+▲\u2085\"'", random.Random(0)
    texts = ["".join(draw.choices(letters, k=draw.randint(0, 80))) for _ in range(1000)]
    texts += [each * (LONGEST // len(each)) for each in ("1", "1 ", "1%", "$1K", "A1 ", "-", '"')]
    began = time.process_time()
    for text in texts:
        row = read_row(text, FEATURES)
        assert all(np.isfinite(number(row[name])) for name in row)
    assert time.process_time() - began < 3
