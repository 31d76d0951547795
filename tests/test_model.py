"""The registered pyfunc: its rules, its artifact, and what it answers."""

import json
import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from sklearn.ensemble import RandomForestRegressor

from liquidity import artifact, registry
from liquidity.features import FEATURES, inputs_and_target
from liquidity.pipeline import build_pipeline, with_forest_params

GOOD = {"24h_volume": 1e7, "mkt_cap": 1e8, "1h": 0.01, "price": 1.0}


@pytest.fixture(scope="module")
def fitted(sample_table):
    pipeline = with_forest_params(build_pipeline(random_state=0), n_estimators=20)
    return pipeline.fit(*inputs_and_target(sample_table))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, fitted, sample_table, empty_store):
    """The model as MLflow stores it."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        with mlflow.start_run():
            uri = registry.log_model(fitted, sample_table, quantile=0.5, digest="d")
        path = mlflow.artifacts.download_artifacts(uri, dst_path=folder / "downloaded")
    return folder / path


@pytest.fixture(scope="module")
def model(model_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        return mlflow.pyfunc.load_model(str(model_folder))


def frame(**changes):
    return pd.DataFrame([GOOD | changes])


def test_it_scores_as_the_pipeline_does(model, fitted, sample_table):
    X, _ = inputs_and_target(sample_table)
    answer = model.predict(sample_table[FEATURES])
    assert np.allclose(answer["liquidity"], fitted.predict(X), rtol=1e-12, atol=1e-12)
    assert list(answer) == ["liquidity", "level", "lower", "upper", "in_range"]
    liquidity, *_ = model.unwrap_python_model().score(X)
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
    inner = model.unwrap_python_model()
    rows = pd.DataFrame([GOOD, GOOD | {"price": value}]).astype({"price": object})
    with pytest.raises(MlflowException, match=f"row 1, column price: .*{message}"):
        inner.predict(None, rows)


def test_strings_that_hold_numbers_and_extra_columns_are_accepted(model):
    inner = model.unwrap_python_model()
    rows = pd.DataFrame([GOOD | {"price": "1.0", "coin": "x"}])
    assert inner.predict(None, rows)["liquidity"][0] == model.predict(frame())["liquidity"][0]


def test_missing_columns_no_rows_and_odd_thresholds_are_refused(model):
    inner = model.unwrap_python_model()
    with pytest.raises(MlflowException, match="column price: missing"):
        inner.predict(None, frame().drop(columns="price"))
    with pytest.raises(MlflowException, match="0 rows"):
        inner.predict(None, frame().head(0))
    for threshold in (float("nan"), float("inf"), True, "0.5"):
        with pytest.raises(MlflowException, match="threshold: expected a finite number"):
            inner.predict(None, frame(), params={"threshold": threshold})


def test_the_artifact_holds_no_pickle_and_a_short_list_of_packages(model_folder):
    names = {path.name for path in model_folder.rglob("*") if path.is_file()}
    assert {"forest.onnx", "pipeline.skops", "metadata.json", "model.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]
    packages = (model_folder / "requirements.txt").read_text().split()
    names = [package.partition("==")[0] for package in packages]
    assert names == ["mlflow-skinny", "numpy", "pandas", "onnxruntime"]


def test_the_metadata_says_what_the_model_knows(model_folder, sample_table):
    metadata = json.loads((model_folder / "artifacts/metadata.json").read_text())
    assert metadata["format"] == artifact.FORMAT
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
    parity = artifact.check_parity(pipeline, artifact.compile_forest(pipeline[-1]), X)
    assert parity.relative <= 1e-12


@pytest.mark.parametrize("target", [np.zeros(50), np.full(50, 3.5), np.arange(50) * 1e5])
def test_constant_and_huge_targets_compile(target):
    X = np.random.default_rng(0).uniform(1, 100, (50, 4))
    pipeline = build_pipeline(random_state=0).fit(X, target)
    assert (
        artifact.check_parity(pipeline, artifact.compile_forest(pipeline[-1]), X).relative <= 1e-12
    )


def test_another_forest_fails_the_comparison_with_both_figures(sample_table, fitted):
    X, y = inputs_and_target(sample_table)
    other = RandomForestRegressor(5, random_state=9).fit(fitted[:-1].transform(X), y)
    with pytest.raises(artifact.ParityError, match=r"on the rows and .* at its thresholds"):
        artifact.check_parity(fitted, artifact.compile_forest(other), X)
