"""The registered pyfunc: its rules, its artifact, and what it answers."""

import copy
import json
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from sklearn.ensemble import RandomForestRegressor
from support import GOOD

from liquidity.contract import FEATURES
from liquidity.data.table import inputs_and_target
from liquidity.errors import ParityError
from liquidity.model.compile import Parity, check_parity, compile_forest
from liquidity.model.loading import SAME_DAY
from liquidity.search.pipeline import build_pipeline, with_forest_params


def frame(**changes):
    return pd.DataFrame([GOOD | changes])


def test_it_scores_as_the_pipeline_does(model, fitted, sample_table):
    X, _ = inputs_and_target(sample_table)
    answer = model.predict(sample_table[FEATURES])
    assert np.allclose(answer["liquidity"], fitted.predict(X), rtol=1e-12, atol=1e-12)
    assert list(answer) == ["liquidity", "level", "lower", "upper", "in_range"]
    liquidity, *_ = model.unwrap_python_model().scorer.score(X)
    assert np.array_equal(liquidity, answer["liquidity"])


def test_the_interval_holds_the_score_and_is_never_negative(model, sample_table):
    answer = model.predict(sample_table[FEATURES])
    assert (answer["lower"] <= answer["liquidity"]).all()
    assert (answer["liquidity"] <= answer["upper"]).all()
    assert (answer["lower"] >= 0).all()


def test_the_threshold_decides_the_level(model):
    score = model.predict(frame())["liquidity"][0]
    for threshold, level in ((score, "Low"), (np.nextafter(score, 0), "High"), (None, "Low")):
        params = {"threshold": threshold}
        assert model.predict(frame(), params=params)["level"][0] == level


def test_outside_the_training_range_is_said_and_no_error(model):
    assert model.predict(frame())["in_range"][0]
    assert not model.predict(frame(price=1e12))["in_range"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mkt_cap": 0.0}, "row 0, column mkt_cap: expected a finite number > 0 .*, got 0.0"),
        ({"24h_volume": -1.0}, "column 24h_volume: expected a finite number >= 0 .*, got -1.0"),
        ({"1h": -1.5}, "column 1h: expected a finite number >= -1"),
        ({"price": float("nan")}, "column price: .* got nan"),
        ({"price": float("inf")}, "column price: .* got inf"),
        ({"price": 1e19}, r"column price: .* got 1e\+19"),
    ],
)
def test_a_broken_rule_names_row_column_rule_and_value(model, changes, message):
    with pytest.raises(MlflowException, match=message) as caught:
        model.predict(frame(**changes))
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize(
    ("value", "message"), [(True, "got True"), ("text", "got 'text'"), (None, "got nan")]
)
def test_what_is_no_number_is_refused_behind_mlflows_schema_too(model, value, message):
    inner = model.unwrap_python_model().scorer
    rows = pd.DataFrame([GOOD, GOOD | {"price": value}]).astype({"price": object})
    with pytest.raises(MlflowException, match=f"row 1, column price: .*{message}"):
        inner.predict(None, rows)


def predict_or_error(inner, rows, **params):
    try:
        return inner.predict(None, rows, params=params)
    except MlflowException as error:
        return error


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(),
    st.sampled_from(["1e400", "0x1", "1_0", " 2 ", "True", "nan", "\ud800", "9" * 400, 10**400]),
)  # fmt: skip
anything = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3)
)
usual = st.floats(0, 1e18, exclude_min=True) | st.integers(1, 10**18).map(str)
cells = st.one_of(usual, usual, usual, usual, anything)
rows = st.lists(
    st.fixed_dictionaries(dict.fromkeys(FEATURES, cells), optional={"coin": anything}),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(rows=rows, threshold=st.none() | st.floats(-1, 1) | anything)
@example(rows=[GOOD], threshold=10**400)
@example(rows=[GOOD | {"price": int("9" * 4000) ** 2}], threshold=None)
def test_whatever_json_holds_is_scored_or_refused_with_that_one_error(model, rows, threshold):
    inner = model.unwrap_python_model().scorer
    frame = pd.DataFrame({name: pd.Series([r[name] for r in rows], dtype=object) for name in GOOD})
    answer = predict_or_error(inner, frame, threshold=threshold)
    if isinstance(answer, MlflowException):
        assert answer.error_code == "INVALID_PARAMETER_VALUE"
        assert len(answer.message) < 300
        return
    numbers = answer[["lower", "liquidity", "upper"]].to_numpy()
    assert np.isfinite(numbers).all()
    assert (np.diff(numbers) >= 0).all()
    assert set(answer["level"]) <= {"High", "Low"}


@pytest.mark.parametrize("rows", [None, 7, "text", [], [[1, 2, 3, 4]], {"price": 1}, object()])
def test_what_is_no_table_is_refused_with_that_error_too(model, rows):
    with pytest.raises(MlflowException) as caught:
        model.unwrap_python_model().predict(None, rows)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_a_column_that_is_given_twice_is_refused(model):
    twice = pd.concat([frame(), frame()[["price"]]], axis=1)
    with pytest.raises(MlflowException, match="column price: given more than once"):
        model.unwrap_python_model().predict(None, twice)


def test_an_endless_value_is_cut_in_the_message(model):
    with pytest.raises(MlflowException, match=r"got 'x+\.\.\.") as caught:
        model.unwrap_python_model().predict(None, frame().astype(object).assign(price="x" * 10**6))
    assert len(caught.value.message) < 300


def test_many_rows_have_the_bits_of_one(model, sample_table):
    """They take another way through the forest; nobody should see it."""
    X, _ = inputs_and_target(sample_table)
    inner = model.unwrap_python_model().scorer
    many = np.tile(X, (3, 1))[np.random.default_rng(0).permutation(3 * len(X))]
    one_by_one = [inner.score(row[None])[0][0] for row in many]
    assert np.array_equal(inner.score(many)[0], one_by_one)


def test_it_can_be_copied_and_pickled_within_its_process(model, sample_table):
    rows = sample_table[FEATURES].head(50)
    expected = model.predict(rows)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        pd.testing.assert_frame_equal(other.predict(rows), expected)


def test_a_score_is_scikit_learns_to_the_last_bit(fitted, model, sample_table):
    X, _ = inputs_and_target(sample_table)
    scores = model.predict(sample_table[FEATURES])["liquidity"]
    theirs = copy.copy(fitted[-1]).set_params(n_jobs=1).predict(fitted[:-1].transform(X))
    assert np.array_equal(scores, theirs)


def test_strings_that_hold_numbers_and_extra_columns_are_accepted(model):
    inner = model.unwrap_python_model().scorer
    rows = pd.DataFrame([GOOD | {"price": "1.0", "coin": "x"}])
    assert inner.predict(None, rows)["liquidity"][0] == model.predict(frame())["liquidity"][0]


def test_missing_columns_no_rows_and_odd_thresholds_are_refused(model):
    inner = model.unwrap_python_model().scorer
    with pytest.raises(MlflowException, match="column price: missing"):
        inner.predict(None, frame().drop(columns="price"))
    with pytest.raises(MlflowException, match="0 rows"):
        inner.predict(None, frame().head(0))
    for threshold in (float("nan"), float("inf"), True, "0.5"):
        with pytest.raises(MlflowException, match="threshold: expected a finite number"):
            inner.predict(None, frame(), params={"threshold": threshold})


def test_the_artifact_holds_no_pickle_and_a_short_list_of_packages(model_folder):
    names = {path.name for path in model_folder.rglob("*") if path.is_file()}
    assert {"forest.npz", "pipeline.skops", "metadata.json", "model.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]
    packages = (model_folder / "requirements.txt").read_text().split()
    names = [package.partition("==")[0] for package in packages]
    assert names == ["mlflow-skinny", "numpy", "pandas", "llvmlite"]


def test_the_metadata_says_what_the_model_knows(model_folder, sample_table):
    metadata = json.loads((model_folder / "artifacts/metadata.json").read_text())
    assert metadata["format"] == SAME_DAY.newest_format
    assert metadata["features"] == FEATURES
    assert metadata["interval"] == {"coverage": 0.9, "quantile": 0.5, "epsilon": 0.001}
    assert len(metadata["examples"]) == 20
    low, high = metadata["training_ranges"]["mkt_cap"]
    assert sample_table["mkt_cap"].min() <= low < high <= sample_table["mkt_cap"].max()


@pytest.mark.parametrize(
    "params",
    [{"max_depth": 1}, {"n_estimators": 1}, {"max_depth": 5}, {"n_estimators": 400}, {}],
    ids=str,
)
def test_the_compiled_forest_takes_the_branches_of_the_pipeline(sample_table, params):
    X, y = inputs_and_target(sample_table.head(400))
    pipeline = with_forest_params(build_pipeline(random_state=1), **params).fit(X, y)
    assert check_parity(pipeline, compile_forest(pipeline[-1]), X) == Parity(0, 0, 0)


@pytest.mark.parametrize("target", [np.zeros(50), np.full(50, 3.5), np.arange(50) * 1e5])
def test_constant_and_huge_targets_compile(target):
    X = np.random.default_rng(0).uniform(1, 100, (50, 4))
    pipeline = build_pipeline(random_state=0).fit(X, target)
    assert check_parity(pipeline, compile_forest(pipeline[-1]), X) == Parity(0, 0, 0)


def test_another_forest_fails_the_comparison_with_both_figures(sample_table, fitted):
    X, y = inputs_and_target(sample_table)
    other = RandomForestRegressor(5, random_state=9).fit(fitted[:-1].transform(X), y)
    with pytest.raises(ParityError, match=r"on the rows and .* at its thresholds"):
        check_parity(fitted, compile_forest(other), X)
