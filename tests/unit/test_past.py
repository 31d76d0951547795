"""How earlier forecasts did: the ledger's outcomes, read, handed over and summed up."""

import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support import write_outcome

from serve import past
from serve.past import DAYS, Outcomes, Past, figures, pack_outcomes

LAST = 20_000
WEEK = "crypto-liquidity-7d"


def handed_over(outcomes):
    """The Past of what a reader has read, by way of bytes."""
    table = pack_outcomes(outcomes.rows(), outcomes.problems)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Past(pa.ipc.open_stream(sink.getvalue()).read_all())


def test_a_coin_is_found_by_the_version_and_only_the_last_days_are_kept(tmp_path):
    for day in range(LAST - DAYS - 3, LAST + 1):
        write_outcome(tmp_path, WEEK, "2", day, {"Zed": 0.1, "A/b": 0.2, "Gone": None})
    write_outcome(tmp_path, WEEK, "10", LAST, {"Zed": 0.3})
    write_outcome(tmp_path, "crypto-liquidity-1d", "2", LAST, {"Zed": 0.4})
    outcomes = Outcomes(tmp_path)
    assert outcomes.update()
    assert not outcomes.update()
    known = handed_over(outcomes)
    found = known.of(WEEK, "2", "Zed")
    assert found["day"].tolist() == list(range(LAST - DAYS + 1, LAST + 1))
    assert set(found["actual"]) == {0.1}
    assert set(known.of(WEEK, "2", "A/b")["actual"]) == {0.2}
    assert known.of(WEEK, "10", "Zed")["actual"].tolist() == [0.3]
    assert known.of("crypto-liquidity-1d", "2", "Zed")["actual"].tolist() == [0.4]
    for unknown in [
        (WEEK, "2", "Gone"),
        (WEEK, "10", "A/b"),
        (WEEK, "3", "Zed"),
        ("x", "2", "Zed"),
    ]:
        assert known.of(*unknown) is None


def test_figures_are_those_of_the_days():
    found = {
        "actual": np.array([0.099, 0.199, 0.399]),
        "liquidity": np.array([0.199, 0.199, 0.199]),
        "persistence": np.array([0.399, 0.399, 0.399]),
        "lower": np.array([0.1, 0.1, 0.1]),
        "upper": np.array([0.3, 0.3, 0.3]),
    }
    told = figures(found)
    assert (told["days"], told["inside"]) == (3, 1)
    assert told["typical_factor"] == pytest.approx(2)  # 2, 1 and 2 times as much
    assert told["persistence_typical_factor"] == pytest.approx(2)


@pytest.mark.parametrize("content", [b"", b"PAR1", None, "other", "texts"])
def test_a_broken_file_is_said_and_leaves_the_others(tmp_path, content):
    path = write_outcome(tmp_path, WEEK, "1", LAST, {"Coin": 0.1})
    write_outcome(tmp_path, WEEK, "1", LAST - 1, {"Coin": 0.2})
    table = pd.read_parquet(path)
    if content is None:
        path.unlink()
        path.mkdir()
    elif content == "other":
        table.assign(version="2").to_parquet(path)
    elif content == "texts":
        table.assign(actual="much").to_parquet(path)
    else:
        path.write_bytes(content)
    outcomes = Outcomes(tmp_path)
    outcomes.update()
    known = handed_over(outcomes)
    assert known.of(WEEK, "1", "Coin")["actual"].tolist() == [0.2]
    (said,) = known.problems
    assert "\n" not in said
    assert not outcomes.update()  # and it is not read again


def test_a_folder_that_goes_away_takes_nothing_with_it(tmp_path):
    folder = tmp_path / "ledger"
    outcomes = Outcomes(folder)
    assert outcomes.update()
    assert "there is no such folder" in outcomes.problems[0]
    assert handed_over(outcomes).of(WEEK, "1", "Coin") is None
    write_outcome(folder, WEEK, "1", LAST, {"Coin": 0.1})
    (folder / "notes").mkdir()
    (folder / WEEK / "vx").mkdir()
    assert outcomes.update()
    assert not outcomes.problems
    os.rename(folder, tmp_path / "away")
    assert outcomes.update()
    assert outcomes.problems
    assert handed_over(outcomes).of(WEEK, "1", "Coin")["day"].tolist() == [LAST]


def test_of_many_versions_those_with_the_newest_outcomes_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(past, "VERSIONS", 2)
    for number in range(1, 5):
        write_outcome(tmp_path, WEEK, str(number), LAST - number, {"Coin": 0.1})
    outcomes = Outcomes(tmp_path)
    outcomes.update()
    assert set(outcomes.rows()["model"]) == {f"{WEEK}/1", f"{WEEK}/2"}


def test_without_a_folder_nothing_is_read():
    outcomes = Outcomes("")
    assert not outcomes.update()
    assert outcomes.rows() is None
