"""What is refused when a model is loaded: what is no forest of ours, damaged metadata."""

import gc
import hashlib
import io
import json
import shutil
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestRegressor

from liquidity.errors import ModelError
from liquidity.model import forest as layout
from liquidity.model.compile import compile_forest
from liquidity.model.graph import read_graph
from liquidity.model.loading import FORECAST, SAME_DAY, load_model
from liquidity.model.metadata import check_metadata


@pytest.fixture(scope="module")
def file():
    X = np.random.default_rng(0).random((100, 4))
    X[:10, 1] = np.nan
    return compile_forest(RandomForestRegressor(5, random_state=0).fit(X, X[:, 0]))


def node(*, threshold=0.0, column=0, child):
    bits = int(np.float32(threshold).view(np.uint32))
    return np.uint64(child << 37 | column << 32 | bits)


def put_node(at, **fields):
    def edit(arrays):
        arrays["nodes"][at] = node(**fields)

    return edit


def put_value(name, at, value):
    def edit(arrays):
        arrays[name][at] = value

    return edit


def replace(name, change):
    def edit(arrays):
        arrays[name] = change(arrays[name])

    return edit


FORESTS = {
    "a way that leads back": put_node(1, child=0),
    "a way that stays": put_node(0, child=0),
    "a way to nowhere": put_node(0, child=2**27 - 1),
    "a way to the idle leaf": lambda arrays: put_node(0, child=len(arrays["nodes"]) - 2)(arrays),
    "a column that is none": put_node(0, column=4, child=1),
    "a threshold that is no number": put_node(0, threshold=np.nan, child=1),
    "a leaf that is no number": put_value("values", 1, np.nan),
    "a leaf without end": put_value("values", 1, np.inf),
    "a root that is none": put_value("roots", 1, 2**30),
    "a negative root": put_value("roots", 1, -1),
    "a root that is the idle leaf": lambda a: put_value("roots", 0, len(a["nodes"]) - 1)(a),
    "no trees": replace("roots", lambda roots: roots[:0]),
    "no nodes": lambda arrays: arrays.update(nodes=arrays["nodes"][:0], values=np.zeros(0)),
    "a value less": replace("values", lambda values: values[:-1]),
    "an idle leaf that counts": put_value("values", -1, 1.0),
    "a division by zero": replace("divisor", lambda _: np.float64(0)),
    "a division by no number": replace("divisor", lambda _: np.float64(np.nan)),
}


@pytest.mark.parametrize("damage", FORESTS.values(), ids=FORESTS.keys())
def test_arrays_that_are_no_forest_are_refused(file, damage):
    arrays = {name: array.copy() for name, array in layout.read(file, inputs=4).items()}
    damage(arrays)
    with pytest.raises(ModelError, match="trees of its forest are broken"):
        layout.read(layout.write(arrays), inputs=4)


def saved(**arrays):
    target = io.BytesIO()
    np.savez(target, **arrays)
    return target.getvalue()


def declared(shape):
    """A file of nothing whose header says that it holds so much."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in layout.NAMES:
            with archive.open(f"{name}.npy", "w") as member:
                header = {"descr": layout.TYPES[name], "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
    return target.getvalue()


def squeezed(file):
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(file)) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    return target.getvalue()


FILES = {
    "nothing": lambda file: b"",
    "half": lambda file: file[: len(file) // 2],
    "text": lambda file: b"half",
    "a flipped bit": lambda file: file[:1000] + bytes([file[1000] ^ 1]) + file[1001:],
    "objects": lambda file: saved(**dict.fromkeys(layout.NAMES, np.array([{}, []], object))),
    "other names": lambda file: saved(a=np.zeros(3)),
    "other types": lambda file: saved(**dict.fromkeys(layout.NAMES, np.zeros(3, np.float32))),
    "a terabyte": lambda file: declared((2**37,)),
    "a negative size": lambda file: declared((-1,)),
    "a bomb": squeezed,
}


@pytest.mark.parametrize("damage", FILES.values(), ids=FILES.keys())
def test_a_file_that_is_not_whole_is_refused(file, damage):
    with pytest.raises(ModelError, match=r"its forest\.npz is not whole"):
        layout.read(damage(file), inputs=4)


class Garbage:
    """What runs Python's code when it is collected, between any two steps of a thread."""

    def __init__(self):
        self.me = self

    def __del__(self):
        sum(range(50))


def test_files_are_read_in_threads(file):
    """Python 3.11's `ast`, by which NumPy reads a header, fails now and then where threads that
    are in calls of different depths use it at a time: a server loads several models at its start.
    """

    def read(depth):
        Garbage()
        return read(depth - 1) if depth else layout.read(file, inputs=4)

    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(read, [number % 40 for number in range(1000)]))
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
    assert {len(arrays) for arrays in found} == {len(layout.NAMES)}


def test_a_forest_for_fewer_inputs_is_refused(file):
    with pytest.raises(ModelError, match="asks for no column"):
        layout.read(file, inputs=2)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_forests_of_every_shape_are_accepted(rows):
    X = np.random.default_rng(1).random((rows, 3))
    for depth in (None, 1):
        fitted = RandomForestRegressor(4, max_depth=depth, random_state=0).fit(X, X[:, 0])
        layout.read(compile_forest(fitted), inputs=3)


# Models of November 2026, whose forests were ONNX graphs


@pytest.fixture(scope="module")
def old_models(tmp_path_factory):
    """A folder with a model of each kind, of metadata format 3, and what they answered to rows."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(Path(__file__).with_name("models_of_2026_11.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder / "models"


@pytest.mark.parametrize("name", ["crypto-liquidity", "crypto-liquidity-7d"])
def test_a_model_with_a_graph_answers_as_it_did(old_models, name):
    known = json.loads((old_models / "answers.json").read_text())[name]
    model = load_model(str(old_models / name))
    answers = model.answer(model.parse(known["rows"]))
    assert {name: np.asarray(v).tolist() for name, v in answers.items()} == known["answers"]


@pytest.fixture(scope="module")
def graph(old_models):
    return (old_models / "crypto-liquidity/artifacts/forest.onnx").read_bytes()


def add_loop(model):
    """Let an ONNX forest add to its answer what a loop without an end gives."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.DOUBLE, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.DOUBLE, [1]),
        ],
    )
    values = {"t": np.array(True), "zero": np.zeros(1)}
    model.graph.node[0].output[0] = "scores"
    for name, value in values.items():
        tensor = numpy_helper.from_array(value)
        model.graph.node.append(helper.make_node("Constant", [], [name], value=tensor))
    model.graph.node.append(helper.make_node("Loop", ["", "t", "zero"], ["end"], body=body))
    model.graph.node.append(helper.make_node("Add", ["scores", "end"], ["liquidity"]))


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


def share_nodes(model):
    """Both children are the next node: each level has twice as many ways as the one before."""
    count = len(attribute(model, "nodes_splits").t.raw_data) // 8
    for side in ("true", "false"):
        attribute(model, f"nodes_{side}nodeids").ints[:] = [*range(1, count), 0]
        attribute(model, f"nodes_{side}leafs").ints[:] = [0] * (count - 1) + [1]


GRAPHS["nodes that are shared"] = share_nodes


@pytest.mark.parametrize("damage", GRAPHS.values(), ids=GRAPHS.keys())
def test_a_graph_that_is_no_forest_of_ours_is_refused(graph, damage):
    model = onnx.ModelProto.FromString(graph)
    damage(model)
    with pytest.raises(ModelError, match=r"forest\.onnx|share nodes"):
        read_graph(model.SerializeToString(), inputs=4)


@pytest.mark.parametrize("data", [b"", b"\x00", b"half", b"\x0a\xff\xff\xff\xff\x0f"])
def test_what_is_no_onnx_is_refused(data):
    with pytest.raises(ModelError):
        read_graph(data, inputs=4)


def test_a_graph_for_other_inputs_is_refused(graph):
    with pytest.raises(ModelError):
        read_graph(graph, inputs=5)


def test_a_graph_that_is_not_the_one_of_its_metadata_is_refused(old_models, tmp_path):
    folder = shutil.copytree(old_models / "crypto-liquidity", tmp_path / "model")
    path = folder / "artifacts/metadata.json"
    metadata = json.loads(path.read_text())
    metadata["forest_sha256"] = hashlib.sha256(b"another").hexdigest()
    path.write_text(json.dumps(metadata))
    with pytest.raises(ModelError, match=r"forest\.onnx is not the file"):
        load_model(str(folder))


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


FORECAST_METADATA = {
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


@pytest.mark.parametrize("damage", FORECAST_METADATA.values(), ids=FORECAST_METADATA.keys())
def test_damaged_metadata_of_a_forecast_are_refused(forecasts, damage):
    path = next(forecasts.glob("mlruns/**/artifacts/artifacts/metadata.json"))
    damaged = json.loads(path.read_text())
    check_metadata(damaged, FORECAST)
    damage(damaged)
    with pytest.raises(ModelError, match=r"its metadata\.json is damaged"):
        check_metadata(damaged, FORECAST)
