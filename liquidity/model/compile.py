"""A fitted forest as an ONNX graph, compared with scikit-learn's own answers."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from liquidity.errors import ParityError

# Sums in another order differ in the fifteenth digit; a wrong branch differs in the first.
TOLERANCE = 1e-9
THRESHOLD_POINTS = 20_000


@dataclass(frozen=True)
class Parity:
    """Largest |compiled - pipeline|, absolute and over max(1, |pipeline|)."""

    rows: float
    thresholds: float
    relative: float


def compile_forest(forest):
    """A fitted RandomForestRegressor as ONNX bytes: input `X`, float64 of shape (rows, features),
    output of shape (rows, 1).

    Operator TreeEnsemble of ai.onnx.ml 5, in double precision, as scikit-learn keeps thresholds
    and leaves; https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html. Converters write
    single precision, which moves thresholds and costs eight digits of the score, and are twenty
    times slower. The scaler stays outside, where it is two NumPy operations.
    """
    nodes, leaves, roots = _tree_arrays([tree.tree_ for tree in forest.estimators_])
    values = leaves / len(forest.estimators_)
    operator = helper.make_node(
        "TreeEnsemble",
        ["X"],
        ["liquidity"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function=1,  # sum
        tree_roots=roots,
        nodes_featureids=nodes["feature"].tolist(),
        nodes_splits=numpy_helper.from_array(nodes["threshold"]),
        nodes_modes=numpy_helper.from_array(np.zeros(len(nodes), np.uint8)),  # value <= threshold
        nodes_truenodeids=nodes["left"].tolist(),
        nodes_trueleafs=nodes["left_is_leaf"].tolist(),
        nodes_falsenodeids=nodes["right"].tolist(),
        nodes_falseleafs=nodes["right_is_leaf"].tolist(),
        leaf_targetids=[0] * len(values),
        leaf_weights=numpy_helper.from_array(values),
    )
    rows = helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, forest.n_features_in_])
    scores = helper.make_tensor_value_info("liquidity", TensorProto.DOUBLE, [None, 1])
    opsets = [helper.make_opsetid("ai.onnx.ml", 5), helper.make_opsetid("", 21)]
    graph = helper.make_graph([operator], "forest", [rows], [scores])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _tree_arrays(trees):
    """All inner nodes in one structured array, all leaf values in another, the roots' positions.

    `left` and `right` count among the leaves where the child is one, else among the inner nodes.
    """
    fields = [
        ("feature", int),
        ("threshold", float),
        ("left", int),
        ("right", int),
        ("left_is_leaf", int),
        ("right_is_leaf", int),
    ]
    blocks, leaves, roots = [], [], []
    first_node = first_leaf = 0
    for tree in trees:
        leaf = tree.feature < 0
        position = np.where(leaf, first_leaf + leaf.cumsum(), first_node + (~leaf).cumsum()) - 1
        # A tree that is one leaf needs a node all the same: both of its ways lead to that leaf.
        inner = np.flatnonzero(~leaf) if len(leaf) > 1 else np.array([0])
        left, right = (tree.children_left[inner], tree.children_right[inner])
        if len(leaf) == 1:
            left = right = inner
        block = np.empty(len(inner), fields)
        block["feature"] = np.maximum(tree.feature[inner], 0)
        block["threshold"] = tree.threshold[inner]
        block["left"], block["right"] = position[left], position[right]
        block["left_is_leaf"], block["right_is_leaf"] = leaf[left], leaf[right]
        blocks.append(block)
        leaves.append(tree.value[leaf, 0, 0])
        roots.append(first_node)
        first_node += len(inner)
        first_leaf += int(leaf.sum())
    return np.concatenate(blocks), np.concatenate(leaves), roots


def check_parity(pipeline, onnx_bytes, X):
    """Compare the compiled forest with scikit-learn's on the rows of X and on 20,000 points
    at the forest's own thresholds and one float to either side of them.

    Returns the differences; raises ParityError above 1e-9 * max(1, |pipeline|).
    """
    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    scaled = pipeline[:-1].transform(X).astype(np.float32)
    differences = []
    for points in (scaled, _threshold_points(pipeline[-1], scaled)):
        expected = pipeline[-1].predict(points)
        compiled = session.run(None, {"X": points.astype(np.float64)})[0][:, 0]
        difference = np.abs(compiled - expected)
        differences.append((difference.max(), (difference / np.maximum(1, expected)).max()))
    (rows, rows_relative), (thresholds, thresholds_relative) = differences
    parity = Parity(float(rows), float(thresholds), float(max(rows_relative, thresholds_relative)))
    if not parity.relative <= TOLERANCE:
        raise ParityError(
            f"The compiled forest differs from the pipeline's by {parity.rows:.3g} on the rows and "
            f"{parity.thresholds:.3g} at its thresholds, relatively {parity.relative:.3g}; "
            f"expected at most {TOLERANCE:g}. Nothing was registered."
        )
    return parity


def _threshold_points(forest, scaled):
    """Rows of `scaled` with one value moved to a threshold of the forest or next to it."""
    feature = np.concatenate([tree.tree_.feature for tree in forest.estimators_])
    threshold = np.concatenate([tree.tree_.threshold for tree in forest.estimators_])
    inner = np.flatnonzero(feature >= 0)
    if not inner.size:
        return scaled
    random = np.random.default_rng(0)
    chosen = random.choice(inner, THRESHOLD_POINTS)
    points = scaled[random.integers(len(scaled), size=THRESHOLD_POINTS)].copy()
    at = threshold[chosen].astype(np.float32)
    side = np.arange(THRESHOLD_POINTS) % 3
    at[side == 1] = np.nextafter(at[side == 1], np.float32(np.inf))
    at[side == 2] = np.nextafter(at[side == 2], np.float32(-np.inf))
    points[np.arange(THRESHOLD_POINTS), feature[chosen]] = at
    return points
