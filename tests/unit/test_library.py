"""What `from liquidity import ...` gives: scores of frames of any types, in any process."""

import copy
import os
import pickle
import subprocess
import sys
from datetime import date
from decimal import Decimal

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from support import CHAMPION, COLUMNS, NAME, PROJECT

from liquidity import forecast_liquidity, load_champion, predict_liquidity
from liquidity.champion import frame_inputs
from liquidity.errors import MarketDataError, ModelError

FRAME = pd.DataFrame(
    {"24h_volume": [10**7, 2 * 10**7], "mkt_cap": 10**8, "1h": 0, "price": [1, 2], "note": "x"},
    index=["a", "b"],
)
TYPES = {
    "integers": lambda frame: frame,
    "small integers": lambda frame: frame.astype(dict.fromkeys(COLUMNS, "int32")),
    "single precision": lambda frame: frame.astype(dict.fromkeys(COLUMNS, "float32")),
    "nullable": lambda frame: frame.convert_dtypes(),
    "arrow": lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"),
    "decimals": lambda frame: frame[COLUMNS].map(Decimal),
    "texts": lambda frame: frame.astype(str),
    "categories": lambda frame: frame.astype("category"),
    "names of files": lambda frame: frame.set_axis(
        ["Volume(24h)", "Market Cap", "1h", "current_price", "note"], axis=1
    ),
}


@pytest.mark.parametrize("types", TYPES)
def test_a_frame_of_any_types_is_scored_and_keeps_its_index(champion, types):
    frame = TYPES[types](FRAME)
    before = frame.copy()
    expected = mlflow.pyfunc.load_model(CHAMPION).predict(FRAME[COLUMNS].astype(float))
    scored = load_champion().score_frame(frame)
    pd.testing.assert_frame_equal(scored, expected, check_exact=True)
    pd.testing.assert_frame_equal(frame, before)


def test_a_threshold_of_ones_own(champion):
    found = load_champion()
    assert set(found.score_frame(FRAME, threshold=0)["level"]) == {"High"}
    assert set(found.score_frame(FRAME, threshold=np.float64(9))["level"]) == {"Low"}


WRONG = {
    "no frame": (lambda frame: [1, 2], "expected a pandas DataFrame, got list"),
    "no rows": (lambda frame: frame.head(0), "0 rows"),
    "no column": (lambda frame: frame.drop(columns="price"), "column price: missing"),
    "a boolean": (lambda frame: frame.assign(price=True), "row 0, column price: .* got True"),
    "unknown": (lambda frame: frame.assign(price=[1, None]), "row 1, column price"),
    "a list": (lambda frame: frame.assign(price=[[1], [2]]), r"got \[1\]"),
    "percent": (lambda frame: frame.rename(columns={"1h": "1h %"}), "column 1h: missing"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_frame_is_a_sentence(champion, wrong):
    change, sentence = WRONG[wrong]
    with pytest.raises(MlflowException, match=sentence):
        load_champion().score_frame(change(FRAME))


def test_two_columns_of_one_meaning_are_refused(champion):
    found = load_champion()
    twice = pd.concat([FRAME, FRAME["price"]], axis=1)
    with pytest.raises(MarketDataError, match=r"column price: given 2 times, expected once\.$"):
        found.score_frame(twice)
    two = FRAME.drop(columns="price").assign(Price=1, current_price=1)
    with pytest.raises(MarketDataError, match="column price: given more than once"):
        found.score_frame(two)


# In a process of its own, beside the pickle `model`: a store without it first, then its own.
ANOTHER_PROCESS = """
import os, pickle, sys
from pathlib import Path
own, other = os.environ["MLFLOW_TRACKING_URI"], sys.argv[1]
for uri in (other, own):
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        print(pickle.loads(Path("model").read_bytes()))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


def test_it_can_be_pickled_into_another_process(champion, tmp_path, empty_store):
    """It is the version that was pickled, not whichever is champion by then."""
    found = load_champion()
    champion.create_model_version(NAME, str(tmp_path / "another"))
    champion.set_registered_model_alias(NAME, "champion", "2")
    (tmp_path / "model").write_bytes(pickle.dumps(found))
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER_PROCESS, f"sqlite:///{empty_store}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    said, shown = done.stdout.splitlines()
    assert said.startswith("ModelError: models:/crypto-liquidity/1, which was ")
    assert said.endswith("set MLFLOW_TRACKING_URI to the store that it came from.")
    assert shown == f"<models:/{NAME}/1>"


def test_copies_are_the_champion_itself(champion):
    found = load_champion()
    assert copy.copy(found) is copy.deepcopy(found) is found
    pd.testing.assert_frame_equal(
        pickle.loads(pickle.dumps(found)).score_frame(FRAME), found.score_frame(FRAME)
    )


def test_one_coin_of_any_types(champion):
    expected = predict_liquidity(1e7, 1e8, 0.01, 1.0)
    assert predict_liquidity(Decimal("1e7"), 10**8, "0.01", np.int64(1)) == expected
    for value in (None, True, [1], float("nan")):
        with pytest.raises(MlflowException, match="column 24h_volume: expected"):
            predict_liquidity(value, 1e8, 0.01, 1.0)


def test_without_a_champion_a_sentence_says_so(store):
    with pytest.raises(ModelError, match=r"no champion of crypto-liquidity in .*: train one first"):
        load_champion()
    with pytest.raises(ModelError, match="no champion of crypto-liquidity-7d"):
        load_champion(7)


@pytest.mark.parametrize("horizons", [(), [], ["7"], [0], 1.5])
def test_horizons_are_numbers_of_days(store, horizons):
    with pytest.raises(MlflowException, match=r"horizons: expected numbers of days such as \[1"):
        forecast_liquidity([{"date": "2026-01-31"}], horizons=horizons)


class Known:
    """What is asked of a model before its columns are read."""

    features, optional = ("price",), ("coin", "date")


DATES = pd.Series(pd.to_datetime(["2026-01-30", "2026-01-31"]))
DAYS = {
    "dates and times": (DATES, "2026-01-31T00:00:00"),
    "days": (DATES.dt.date, "2026-01-31"),
    "in UTC": (DATES.dt.tz_localize("UTC"), "2026-01-31T00:00:00+00:00"),
    "with nanoseconds": (DATES + pd.Timedelta(1, "ns"), "2026-01-31T00:00:00"),
    "of arrow": (DATES.convert_dtypes(dtype_backend="pyarrow"), "2026-01-31T00:00:00"),
    "texts": (pd.Series(["", "2026-01-31"]), "2026-01-31"),
    "with gaps": (pd.Series([None, date(2026, 1, 31)]), "2026-01-31"),
}


@pytest.mark.parametrize("days", DAYS)
@pytest.mark.parametrize("in_index", [False, True], ids=["column", "index"])
def test_days_may_be_dates_and_keys_in_the_index(days, in_index):
    values, text = DAYS[days]
    frame = pd.DataFrame({"date": values, "coin": ["x", "y"], "price": [1, 2]})
    columns = frame_inputs(Known, frame.set_index(["coin", "date"]) if in_index else frame)
    assert list(columns["date"])[1] == text
    assert list(columns["coin"]) == ["x", "y"]
