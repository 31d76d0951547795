"""The forest in an ONNX file, which models of November 2026 and before have, and nothing else.

Neither ONNX Runtime nor the package onnx is needed to read it; protobuf is there, since MLflow
needs it. What is not declared here is not allowed: the file has to have the bytes that its declared
fields alone make.
"""

from functools import lru_cache

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from liquidity.errors import ModelError
from liquidity.model.forest import pack

DOUBLE, UINT8 = 11, 2  # ONNX's numbers of types
# The fields of onnx.proto that were filled: name, number, type, whether repeated.
INT, TEXT, BYTES = "int64", "string", "bytes"
MESSAGES = {
    "Dim": [("value", 1, INT, False), ("param", 2, TEXT, False)],
    "Shape": [("dim", 1, "Dim", True)],
    "TensorType": [("elem_type", 1, INT, False), ("shape", 2, "Shape", False)],
    "Type": [("tensor", 1, "TensorType", False)],
    "Value": [("name", 1, TEXT, False), ("type", 2, "Type", False)],
    "Tensor": [
        ("dims", 1, INT, True),
        ("data_type", 2, INT, False),
        ("raw", 9, BYTES, False),
    ],
    "Attribute": [
        ("name", 1, TEXT, False),
        ("i", 3, INT, False),
        ("t", 5, "Tensor", False),
        ("ints", 8, INT, True),
        ("type", 20, INT, False),
    ],
    "Node": [
        ("input", 1, TEXT, True),
        ("output", 2, TEXT, True),
        ("op_type", 4, TEXT, False),
        ("attribute", 5, "Attribute", True),
        ("domain", 7, TEXT, False),
    ],
    "Graph": [
        ("node", 1, "Node", True),
        ("name", 2, TEXT, False),
        ("input", 11, "Value", True),
        ("output", 12, "Value", True),
    ],
    "Opset": [("domain", 1, TEXT, False), ("version", 2, INT, False)],
    "Model": [
        ("ir_version", 1, INT, False),
        ("graph", 7, "Graph", False),
        ("opset", 8, "Opset", True),
    ],
}
# The attributes of TreeEnsemble: those that are a number for each inner node, and all others.
NODES = {
    "nodes_featureids", "nodes_truenodeids", "nodes_trueleafs", "nodes_falsenodeids",
    "nodes_falseleafs",
}  # fmt: skip
NODE_TENSORS = {"nodes_splits": (DOUBLE, float), "nodes_modes": (UINT8, np.uint8)}
OTHERS = {"n_targets", "aggregate_function", "tree_roots", "leaf_targetids", "leaf_weights"}
MISSING = "nodes_missing_value_tracks_true"  # models of format 2 lack it


def read_graph(data, *, inputs):
    """The arrays of a Forest from the bytes of an ONNX file; raises ModelError, a clause without
    its end, where they are not one TreeEnsemble over `inputs` numbers whose every branch leads on
    to a leaf.
    """
    try:
        model = _model_class().FromString(data)
        model.DiscardUnknownFields()
        # In the order of their numbers, as protobuf writes them everywhere.
        declared = model.SerializeToString() == data
    except DecodeError as error:
        raise ModelError("its forest.onnx is no ONNX file") from error
    if not declared or len(model.graph.node) != 1 or not _is_ensemble(model, inputs):
        raise ModelError(
            "its forest.onnx is more, or other, than the one TreeEnsemble that train.py wrote"
        )
    attributes = {each.name: each for each in model.graph.node[0].attribute}
    try:
        ints, thresholds, weights = _checked_trees(attributes, inputs)
    except (ValueError, IndexError, KeyError) as error:
        raise ModelError(f"the trees of its forest.onnx are broken ({error})") from error
    return _packed(ints, thresholds, weights)


def _packed(ints, thresholds, weights):
    """Leaves come behind the inner nodes; their weights were divided by the number of trees."""
    inner = len(thresholds)
    none, zeros = np.full(len(weights), -1), np.zeros(len(weights))
    left, right = (
        np.append(np.where(ints[f"nodes_{side}leafs"], child + inner, child), none)
        for side in ("true", "false")
        for child in (ints[f"nodes_{side}nodeids"],)
    )
    return pack(
        feature=np.append(ints["nodes_featureids"], none + 1),
        threshold=np.append(thresholds, zeros),
        missing_left=np.append(ints[MISSING] == 1, none == 0),
        left=left,
        right=right,
        value=np.append(np.zeros(inner), weights),
        roots=ints["tree_roots"],
        divisor=1,
    )


def _is_ensemble(model, inputs):
    node, graph = model.graph.node[0], model.graph
    names = [attribute.name for attribute in node.attribute]
    allowed = NODES | set(NODE_TENSORS) | OTHERS
    return (
        (node.op_type, node.domain) == ("TreeEnsemble", "ai.onnx.ml")
        and (list(node.input), list(node.output)) == (["X"], ["liquidity"])
        and len(set(names)) == len(names)
        and set(names) in (allowed, allowed | {MISSING})
        and [_described(each) for each in graph.input] == [("X", DOUBLE, [0, inputs])]
        and [_described(each) for each in graph.output] == [("liquidity", DOUBLE, [0, 1])]
    )


def _described(value):
    tensor = value.type.tensor
    return value.name, tensor.elem_type, [dim.value for dim in tensor.shape.dim]


def _checked_trees(attributes, inputs):
    """The numbers of nodes and roots by name, thresholds and leaves."""
    ints = {
        name: np.fromiter(attributes[name].ints, np.int64, len(attributes[name].ints))
        for name in (*NODES, "tree_roots", "leaf_targetids")
    }
    weights = _tensor(attributes["leaf_weights"].t, DOUBLE, float)
    count = len(ints["nodes_featureids"])
    _demand(count > 0, "there is no node")
    tensors = {name: _tensor(attributes[name].t, *kind) for name, kind in NODE_TENSORS.items()}
    per_node = [*(ints[name] for name in NODES), *tensors.values()]
    missing = attributes[MISSING].ints if MISSING in attributes else np.zeros(count)
    ints[MISSING] = np.asarray(missing, np.int64)
    per_node.append(missing)
    _demand(all(len(values) == count for values in per_node), "nodes lack a value")
    _demand(_within(ints["nodes_featureids"], inputs), "a node asks for no column")
    _demand(not tensors["nodes_modes"].any(), "a node compares in another way")
    _demand(not np.isnan(tensors["nodes_splits"]).any(), "a threshold is no number")
    _demand(np.isfinite(weights).all(), "a leaf is no number")
    _demand(_within(ints["tree_roots"], count), "a tree begins at no node")
    _demand(not ints["leaf_targetids"].any(), "a leaf is of no target")
    _demand(len(ints["leaf_targetids"]) == len(weights), "a leaf has no value")
    _demand(
        (attributes["n_targets"].i, attributes["aggregate_function"].i) == (1, 1),
        "its trees are not added up",
    )
    for side in ("true", "false"):
        child, is_leaf = ints[f"nodes_{side}nodeids"], ints[f"nodes_{side}leafs"]
        _demand(np.isin(is_leaf, (0, 1)).all(), "a child is neither node nor leaf")
        leaf = is_leaf == 1
        _demand(_within(child[leaf], len(weights)), "a branch leads to no leaf")
        # A branch that led back would never end.
        inner = child[~leaf]
        _demand((inner > np.flatnonzero(~leaf)).all() and _within(inner, count), "a branch ends")
    return ints, tensors["nodes_splits"], weights


def _within(values, count):
    return bool(((values >= 0) & (values < count)).all())


def _tensor(tensor, data_type, dtype):
    values = np.frombuffer(tensor.raw, dtype)
    _demand(
        tensor.data_type == data_type and list(tensor.dims) == [len(values)],
        "a tensor is not whole",
    )
    return values


def _demand(met, otherwise):
    if not met:
        raise ValueError(otherwise)


@lru_cache(maxsize=1)
def _model_class():
    """protobuf's class of a Model, in a pool of its own: onnx may have declared its own."""
    file = descriptor_pb2.FileDescriptorProto(name="forest.proto", package="forest")
    for message, fields in MESSAGES.items():
        declared = file.message_type.add(name=message)
        for name, number, type_, repeated in fields:
            field = declared.field.add(name=name, number=number, label=3 if repeated else 1)
            if type_ in MESSAGES:
                field.type, field.type_name = field.TYPE_MESSAGE, f".forest.{type_}"
            else:
                field.type = getattr(field, f"TYPE_{type_.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("forest.Model"))
