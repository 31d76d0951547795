"""A file scored with polars and ONNX Runtime, as one would write it by hand; what a command that
checks its rows and says its errors has to keep up with.

    uv run --no-project --with-requirements benchmarks/requirements.txt \\
        benchmarks/polars_onnx.py IN OUT MODEL.json

`prepare` writes MODEL.json, and beside it the forest as an ONNX graph.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

ROWS = 8192  # per call: ONNX Runtime is fastest when they and their scores stay in the cache


def prepare(pipeline, path, *, interval, threshold):
    """Write what `main` reads: the pipeline's scaler and forest, interval and threshold."""
    from onnx import TensorProto, helper

    # With tensors the operator keeps thresholds in double precision; its sums are single ones.
    forest, arrays = pipeline[-1], {"values": [], "targets": []}
    lists = {name: [] for name in ("treeids", "nodeids", "featureids", "modes", "true", "false")}
    leaves = {"treeids": [], "nodeids": []}
    for number, fitted in enumerate(forest.estimators_):
        tree = fitted.tree_
        leaf = tree.children_left < 0
        lists["treeids"] += [number] * tree.node_count
        lists["nodeids"] += range(tree.node_count)
        lists["featureids"] += np.where(leaf, 0, tree.feature).tolist()
        lists["modes"] += np.where(leaf, "LEAF", "BRANCH_LEQ").tolist()
        lists["true"] += np.where(leaf, 0, tree.children_left).tolist()
        lists["false"] += np.where(leaf, 0, tree.children_right).tolist()
        leaves["treeids"] += [number] * int(leaf.sum())
        leaves["nodeids"] += np.flatnonzero(leaf).tolist()
        arrays["values"].append(np.where(leaf, 0, tree.threshold))
        arrays["targets"].append(tree.value[leaf, 0, 0] / len(forest.estimators_))

    def tensor(name):
        values = np.concatenate(arrays[name])
        return helper.make_tensor(name, TensorProto.DOUBLE, values.shape, values)

    node = helper.make_node(
        "TreeEnsembleRegressor", ["X"], ["y"], domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=lists["treeids"], nodes_nodeids=lists["nodeids"],
        nodes_featureids=lists["featureids"], nodes_modes=lists["modes"],
        nodes_truenodeids=lists["true"], nodes_falsenodeids=lists["false"],
        nodes_values_as_tensor=tensor("values"), target_weights_as_tensor=tensor("targets"),
        target_treeids=leaves["treeids"], target_nodeids=leaves["nodeids"],
        target_ids=[0] * len(leaves["nodeids"]),
    )  # fmt: skip
    X = helper.make_tensor_value_info("X", TensorProto.DOUBLE, [None, forest.n_features_in_])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    opsets = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 21)]
    graph = helper.make_graph([node], "forest", [X], [y])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path.with_suffix(".onnx").write_bytes(model.SerializeToString())
    scaler = {"mean": pipeline[0].mean_.tolist(), "scale": pipeline[0].scale_.tolist()}
    path.write_text(json.dumps(scaler | interval | {"threshold": threshold}))


def main(source, output, path):
    """Score the rows of `source` into `output`, CSV or Parquet by their names."""
    import onnxruntime
    import polars

    facts = json.loads(Path(path).read_text())
    session = onnxruntime.InferenceSession(Path(path).with_suffix(".onnx").read_bytes())
    csv = source.endswith(".csv")
    frame = polars.read_csv(source) if csv else polars.read_parquet(source)
    X = frame.select("24h_volume", "mkt_cap", "1h", "price").to_numpy()
    X = ((X - facts["mean"]) / facts["scale"]).astype(np.float32).astype(np.float64)
    # Like rows side by side take like ways through the trees: three times as fast.
    group = np.empty(len(X), int)
    group[np.argsort(X[:, 0])] = np.arange(len(X)) // math.isqrt(len(X))
    order = np.lexsort((X[:, 1], group))
    y = np.empty(len(X))
    for start in range(0, len(X), ROWS):
        at = order[start : start + ROWS]
        y[at] = session.run(None, {"X": X[at]})[0][:, 0]
    factor, epsilon = np.exp(facts["quantile"]), facts["epsilon"]
    frame = frame.with_columns(
        liquidity=y,
        level=np.where(y > facts["threshold"], "High", "Low"),
        lower=np.maximum((y + epsilon) / factor - epsilon, 0),
        upper=(y + epsilon) * factor - epsilon,
    )
    frame.write_csv(output) if csv else frame.write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
