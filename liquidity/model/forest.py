"""A forest's arrays as `model.py` walks them: packed from trees, written, read and checked."""

import io
import math
import re
import zipfile

import numpy as np

from liquidity.errors import ModelError

# Of a node's bits, from the lowest: threshold 32, input 4, negate 1, first child 27.
MOST_INPUTS, MOST_NODES = 2**4, 2**27
NEGATE = MOST_INPUTS  # added to the number of an input
NAMES = ("nodes", "values", "roots", "divisor")
# An array as np.savez writes it: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
MAGIC = b"\x93NUMPY\x01\x00"
HEADER = re.compile(
    rb"\{'descr': '(<\w\d)', 'fortran_order': False, 'shape': \((\d{0,12}),?\), \} *\n"
)
TYPES = {"nodes": "<u8", "values": "<f8", "roots": "<i4", "divisor": "<f8"}


def pack(*, feature, threshold, missing_left, left, right, value, roots, divisor):
    """The arrays of a `model.py` Forest, from those of all trees one after the other.

    Arrays of shape (nodes,), as scikit-learn's `tree_` has them, but with children counted through
    all trees; a node whose `left` is negative is a leaf. Rows with feature <= threshold go left,
    and where `missing_left` is true, those where the feature is missing.

    Each tree's nodes are laid out level by level, the two children of a node side by side.
    """
    leaf = left < 0
    below = threshold.astype(np.float32)
    above = below > threshold
    below[above] = np.nextafter(below[above], np.float32(-np.inf))
    # The kernel lets NaN go to the first child; who wants it right is asked about -feature.
    negated = ~leaf & ~missing_left
    first, second = np.where(negated, right, left), np.where(negated, left, right)
    below[negated] = np.nextafter(-below[negated], np.float32(-np.inf))
    below[leaf] = np.inf
    source, child, tree = _by_level(roots, leaf, first, second)
    # Level by level through the forest became level by level through each tree.
    order = np.argsort(tree, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    source, child = source[order], place[child[order]]
    if len(source) >= MOST_NODES or feature.max(initial=0) >= MOST_INPUTS:
        raise ModelError(
            f"The forest has {len(source):,} nodes over {feature.max() + 1} inputs; a model holds "
            f"fewer than {MOST_NODES:,} over at most {MOST_INPUTS}: train fewer or smaller trees "
            "(--n-estimators, --min-samples-leaf)."
        )
    inputs = np.where(leaf, 0, feature + NEGATE * negated)[source]
    nodes = _node(below[source], inputs, child)
    return {
        "nodes": np.append(nodes, _node(np.float32([np.inf]), np.array([0]), len(nodes))),
        "values": np.append(np.where(leaf, value, 0.0)[source], 0.0),
        "roots": np.searchsorted(tree[order], np.arange(len(roots))).astype(np.int32),
        "divisor": np.float64(divisor),
    }


def _by_level(roots, leaf, first, second):
    """For each place, level by level: which node comes there, where its first child is (itself for
    a leaf), and which tree it is of.
    """
    source, child, tree = [], [], []
    nodes, trees, start = np.asarray(roots), np.arange(len(roots)), 0
    while len(nodes):
        source.append(nodes)
        tree.append(trees)
        inner = ~leaf[nodes]
        next_start = start + len(nodes)
        if next_start > 2 * len(leaf):  # doubled at each level, they would fill the memory
            raise ModelError("its trees share nodes")
        child.append(
            np.where(inner, next_start + 2 * (inner.cumsum() - 1), start + np.arange(len(nodes)))
        )
        nodes, trees = nodes[inner], np.repeat(trees[inner], 2)
        nodes, start = np.column_stack([first[nodes], second[nodes]]).ravel(), next_start
    return np.concatenate(source), np.concatenate(child), np.concatenate(tree)


def _node(threshold, inputs, child):
    bits = np.asarray(threshold, np.float32).view(np.uint32).astype(np.uint64)
    high = (np.asarray(child, np.uint64) << np.uint64(5)) | inputs.astype(np.uint64)
    return bits | (high << np.uint64(32))


def write(arrays):
    """The arrays as the bytes of a file of NumPy's (.npz), uncompressed."""
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(arrays[name], TYPES[name]) for name in NAMES})
    return file.getvalue()


def read(data, *, inputs):
    """The arrays in the bytes of such a file; raises ModelError, a clause without its end, where
    they are not a forest over `inputs` numbers in which every way ends at a leaf.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            stored = all(i.compress_type == zipfile.ZIP_STORED for i in archive.infolist())
            if not stored or archive.namelist() != [f"{name}.npy" for name in NAMES]:
                raise ValueError("other arrays than train.py writes")
            arrays = {name: _array(name, archive.read(f"{name}.npy")) for name in NAMES}
    except Exception as error:  # zipfile and NumPy raise what a damaged file makes of them
        raise ModelError(f"its forest.npz is not whole ({error})") from error
    check(arrays, inputs=inputs)
    return arrays


def _array(name, data):
    """Not by np.load: it makes room for as much as a header claims, and reads the header by `ast`,
    which fails now and then where two threads of Python 3.11 do that at a time.
    """
    start = len(MAGIC) + 2
    end = start + int.from_bytes(data[len(MAGIC) : start], "little")
    header = HEADER.fullmatch(data[start:end]) if data.startswith(MAGIC) else None
    if not header or header[1] != TYPES[name].encode() or (header[2] == b"") != (name == "divisor"):
        raise ValueError(f"{name} is another kind of array")
    shape = (int(header[2]),) if header[2] else ()
    found = np.frombuffer(data, TYPES[name], offset=end)
    if len(found) != math.prod(shape):
        raise ValueError(f"{name} has {len(found)} numbers, expected {math.prod(shape)}")
    return found.reshape(shape)


def check(arrays, *, inputs):
    """Raise ModelError, a clause without its end, where walking the arrays could leave them, could
    not end, or would give no number.
    """
    nodes, values, roots, divisor = (arrays[name] for name in NAMES)
    place, high = np.arange(len(nodes)), nodes >> np.uint64(32)
    child = (high >> np.uint64(5)).astype(np.int64)
    threshold = (nodes & np.uint64(2**32 - 1)).astype(np.uint32).view(np.float32)
    leaf = child == place
    for met, otherwise in (
        (len(nodes) > 1 and len(nodes) == len(values) and len(roots) > 0, "nodes lack a value"),
        (((high & np.uint64(MOST_INPUTS - 1)) < inputs).all(), "a node asks for no column"),
        (not np.isnan(threshold).any(), "a threshold is no number"),
        # A way that led back would never end.
        ((leaf | (child > place)).all(), "a way leads back"),
        ((leaf | (child + 1 < len(nodes) - 1)).all(), "a way leads to no node"),
        (np.isposinf(threshold[leaf]).all(), "a leaf is none"),
        (np.isfinite(values).all(), "a leaf is no number"),
        (((roots >= 0) & (roots < len(nodes) - 1)).all(), "a tree begins at no node"),
        (len(nodes) and leaf[-1] and values[-1] == 0, "the last node is not the idle leaf"),
        (divisor > 0 and np.isfinite(divisor), "its sum is divided by no number"),
    ):
        if not met:
            raise ModelError(f"the trees of its forest are broken ({otherwise})")
