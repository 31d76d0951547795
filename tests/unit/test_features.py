"""The target and the table that is learned from."""

import pytest

from liquidity.contract import FEATURES
from liquidity.data.market import read_market
from liquidity.data.table import build_table, digest, inputs_and_target
from liquidity.errors import MarketDataError


def test_the_target_is_volume_over_cap_where_the_file_has_none(write_csv):
    table = build_table(read_market(write_csv("2022-03-16,a,A,1,0.1,6,8"))[0])
    assert table["liquidity"].tolist() == [0.75]
    assert table["liquidity_level"].tolist() == [1]
    assert list(table) == ["date", "coin", *FEATURES, "liquidity", "liquidity_level"]


def test_the_files_own_liquidity_counts_and_gaps_are_filled(write_csv):
    header = "date,coin,price,1h,24h_volume,mkt_cap,liquidity"
    path = write_csv("2022-03-16,a,1,0,6,8,0.5", "2022-03-16,b,1,0,6,8,", header=header)
    table = build_table(read_market(path)[0])
    assert table["liquidity"].tolist() == [0.5, 0.75]
    assert table["liquidity_level"].tolist() == [0, 1], "0.5 itself is Low"


def test_a_capitalisation_next_to_nothing_is_an_error(write_csv):
    path = write_csv("2022-03-16,a,A,1,0.1,6,1e-300")
    with pytest.raises(MarketDataError, match="a on 2022-03-16: 24h_volume / mkt_cap is 6"):
        build_table(read_market(path)[0])


def test_inputs_come_in_the_order_of_the_features(write_csv):
    X, y = inputs_and_target(build_table(read_market(write_csv("2022-03-16,a,A,1,0.1,6,8"))[0]))
    assert X.tolist() == [[6, 8, 0.1, 1]]
    assert y.tolist() == [0.75]


def test_the_digest_knows_every_row_and_their_order(sample_table):
    assert digest(sample_table) == digest(sample_table.copy())
    assert digest(sample_table) != digest(sample_table.iloc[::-1])
    changed = sample_table.copy()
    changed.loc[len(changed) - 1, "price"] += 1
    assert digest(sample_table) != digest(changed)
