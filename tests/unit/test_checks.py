"""What is refused when a model is loaded: graphs that are no forest of ours, damaged metadata."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from sklearn.ensemble import RandomForestRegressor
from support import add_loop

from liquidity.errors import ModelError
from liquidity.model.compile import compile_forest
from liquidity.model.graph import check_forest
from liquidity.model.loading import FORECAST, SAME_DAY, load_model
from liquidity.model.metadata import check_metadata


@pytest.fixture(scope="module")
def forest():
    X = np.random.default_rng(0).random((100, 4))
    X[:10, 1] = np.nan
    return compile_forest(RandomForestRegressor(5, random_state=0).fit(X, X[:, 0]))


def attribute(model, name):
    return next(each for each in model.graph.node[0].attribute if each.name == name)


def set_int(name, at, value):
    def edit(model):
        attribute(model, name).ints[at] = value

    return edit


def set_tensor(name, at, value):
    def edit(model):
        tensor = attribute(model, name).t
        values = numpy_helper.to_array(tensor).copy()
        values[at] = value
        tensor.CopyFrom(numpy_helper.from_array(values))

    return edit


def read_a_file(model):
    tensor = attribute(model, "leaf_weights").t
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


GRAPHS = {
    "a loop": add_loop,
    "external data": read_a_file,
    "another operator": lambda model: setattr(model.graph.node[0], "op_type", "Loop"),
    "another domain": lambda model: setattr(model.graph.node[0], "domain", "evil"),
    "a node less": lambda model: model.graph.ClearField("node"),
    "a function": lambda model: model.functions.add(name="f", domain="ai.onnx.ml"),
    "an initializer": lambda model: model.graph.initializer.add(name="X"),
    "another input": lambda model: setattr(model.graph.input[0], "name", "Y"),
    "an attribute twice": lambda model: model.graph.node[0].attribute.append(
        attribute(model, "tree_roots")
    ),
    "a branch that leads back": set_int("nodes_truenodeids", 0, 0),
    "a branch to nowhere": set_int("nodes_falsenodeids", 0, 10**9),
    "a negative branch": set_int("nodes_falsenodeids", 0, -1),
    "a column that is none": set_int("nodes_featureids", 0, 4),
    "a root that is none": set_int("tree_roots", 1, 10**9),
    "a target that is none": set_int("leaf_targetids", 0, 1),
    "a child that is neither": set_int("nodes_trueleafs", 0, 2),
    "a value less": lambda model: attribute(model, "nodes_truenodeids").ints.pop(),
    "a leaf that is no number": set_tensor("leaf_weights", 0, np.nan),
    "a leaf without end": set_tensor("leaf_weights", 0, np.inf),
    "a threshold that is no number": set_tensor("nodes_splits", 0, np.nan),
    "another comparison": set_tensor("nodes_modes", 0, 4),
    "another sum": lambda model: setattr(attribute(model, "aggregate_function"), "i", 0),
}


@pytest.mark.parametrize("damage", GRAPHS.values(), ids=GRAPHS.keys())
def test_a_graph_that_is_no_forest_of_ours_is_refused(forest, damage):
    model = onnx.ModelProto.FromString(forest)
    damage(model)
    with pytest.raises(ModelError, match=r"forest\.onnx"):
        check_forest(model.SerializeToString(), inputs=4)


@pytest.mark.parametrize("data", [b"", b"\x00", b"half", b"\x0a\xff\xff\xff\xff\x0f"])
def test_what_is_no_onnx_is_refused(data):
    with pytest.raises(ModelError):
        check_forest(data, inputs=4)


def test_a_forest_for_other_inputs_is_refused(forest):
    with pytest.raises(ModelError):
        check_forest(forest, inputs=5)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_forests_of_every_shape_are_accepted(rows):
    X = np.random.default_rng(1).random((rows, 3))
    for depth in (None, 1):
        fitted = RandomForestRegressor(4, max_depth=depth, random_state=0).fit(X, X[:, 0])
        check_forest(compile_forest(fitted), inputs=3)


@pytest.fixture(scope="module")
def metadata(model_folder):
    return (model_folder / "artifacts/metadata.json").read_text()


def put(*keys, value):
    def edit(metadata):
        for key in keys[:-1]:
            metadata = metadata[key]
        metadata[keys[-1]] = value

    return edit


def drop(*keys):
    def edit(metadata):
        for key in keys[:-1]:
            metadata = metadata[key]
        del metadata[keys[-1]]

    return edit


def swap_ranges(metadata):
    ranges = metadata["training_ranges"]
    ranges["price"], ranges["mkt_cap"] = ranges["mkt_cap"], ranges["price"]


METADATA = {
    **{
        f"no {key}": drop(key)
        for key in (
            "horizon", "features", "rules", "largest", "target", "target_is_ratio", "target_range",
            "threshold", "scaler", "interval", "training_ranges", "training_rows", "data_digest",
            "examples", "forest_sha256",
        )
    },
    "no mean": drop("scaler", "mean"),
    "no epsilon": drop("interval", "epsilon"),
    "no rule": drop("rules", "price"),
    "no range": drop("training_ranges", "price"),
    "a quantile that is no number": put("interval", "quantile", value=float("nan")),
    "a negative quantile": put("interval", "quantile", value=-0.5),
    "a quantile whose power has no end": put("interval", "quantile", value=700),
    "a coverage above one": put("interval", "coverage", value=90),
    "scale 0": put("scaler", "scale", value=[1.0, 1.0, 0, 1.0]),
    "a shorter mean": put("scaler", "mean", value=[1.0, 1.0, 1.0]),
    "a mean that is text": put("scaler", "mean", value=["1", "1", "1", "1"]),
    "reordered features": lambda metadata: metadata["features"].reverse(),
    "a range upside down": lambda metadata: metadata["training_ranges"]["price"].reverse(),
    "swapped ranges": swap_ranges,
    "a threshold that is text": put("threshold", value="0.5"),
    "an example with fewer values": lambda metadata: metadata["examples"][0]["values"].pop(),
    "an example without a name": lambda metadata: metadata["examples"][0].pop("coin"),
    "no examples": put("examples", value=[]),
    "another horizon": put("horizon", value=7),
    "a target that is a list": put("target", value=["x"]),
}  # fmt: skip


@pytest.mark.parametrize("damage", METADATA.values(), ids=METADATA.keys())
def test_damaged_metadata_are_refused_by_name(metadata, damage):
    damaged = json.loads(metadata)
    check_metadata(damaged, SAME_DAY)
    damage(damaged)
    with pytest.raises(ModelError, match=r"json is damaged: [\w.]+: expected .*, got"):
        check_metadata(damaged, SAME_DAY)


def test_metadata_that_are_no_object_are_refused(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model/artifacts/metadata.json").write_text("[1]")
    with pytest.raises(ModelError, match="format None"):
        load_model(str(tmp_path / "model"))


def test_metadata_without_a_bottom_are_refused(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model/artifacts/metadata.json").write_text("[" * 200_000)
    with pytest.raises(ModelError, match="it is not a model of this project"):
        load_model(str(tmp_path / "model"))


def unsorted(metadata):
    metadata["interval"]["residual_quantiles"][3].reverse()


FORECASTS = {
    "no edges": drop("interval", "absd30_edges"),
    "edges that fall": lambda metadata: metadata["interval"]["absd30_edges"].reverse(),
    "a group less": lambda metadata: metadata["interval"]["low"].pop(),
    "a low end above": put("interval", "low", 0, value=0.5),
    "a high end below": put("interval", "high", 0, value=-0.5),
    "quantiles that fall": unsorted,
    "a profile of six days": put("weekday_profile", value=[0.0] * 6),
    "no residuals": put("interval", "residual_quantiles", 2, value=[]),
    "horizon 0": put("horizon", value=0),
    "half a horizon": put("horizon", value=7.5),
    "a scale of another length": lambda metadata: metadata["scaler"]["scale"].pop(),
}


@pytest.mark.parametrize("damage", FORECASTS.values(), ids=FORECASTS.keys())
def test_damaged_metadata_of_a_forecast_are_refused(forecasts, damage):
    path = next(forecasts.glob("mlruns/**/artifacts/artifacts/metadata.json"))
    damaged = json.loads(path.read_text())
    check_metadata(damaged, FORECAST)
    damage(damaged)
    with pytest.raises(ModelError, match=r"its metadata\.json is damaged"):
        check_metadata(damaged, FORECAST)
