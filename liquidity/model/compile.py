"""A fitted forest as the arrays of `model.py`, compared with scikit-learn's own answers."""

from copy import copy
from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

from liquidity.errors import ParityError
from liquidity.model import forest as layout
from liquidity.model.model import Forest

THRESHOLD_POINTS = 20_000


@dataclass(frozen=True)
class Parity:
    """Largest |compiled - pipeline|, absolute and over max(1, |pipeline|); all are 0 in a model
    that was registered.
    """

    rows: float
    thresholds: float
    relative: float


def compile_forest(forest):
    """A fitted RandomForestRegressor as the bytes of forest.npz; raises ModelError where a model
    cannot hold it.
    """
    return layout.write(_arrays(forest))


def _arrays(forest):
    trees = [tree.tree_ for tree in forest.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])

    def joined(name):
        return np.concatenate([getattr(tree, name) for tree in trees])

    def children(name):
        ways = ((getattr(tree, name), at) for tree, at in zip(trees, roots, strict=True))
        return np.concatenate([np.where(child < 0, -1, child + at) for child, at in ways])

    return layout.pack(
        feature=joined("feature"),
        threshold=joined("threshold"),
        missing_left=joined("missing_go_to_left").astype(bool),
        left=children("children_left"),
        right=children("children_right"),
        value=joined("value")[:, 0, 0],
        roots=roots,
        divisor=len(trees),
    )


class Compiled(RegressorMixin, BaseEstimator):
    """A fitted pipeline as scikit-learn's tools take it: the same bits, five times as fast."""

    def __init__(self, pipeline):
        self.pipeline = pipeline
        self.forest_ = Forest(**_arrays(pipeline[-1]))

    def fit(self, X, y):
        """Return it as it is: it was fitted before."""
        return self

    def predict(self, X):
        """Float64 of shape (rows,) for X of shape (rows, inputs)."""
        return self.forest_.predict(self.pipeline[:-1].transform(X))


def check_parity(pipeline, file, X):
    """Compare the compiled forest with scikit-learn's on the rows of X and on 20,000 points
    at the forest's own thresholds and one float to either side of them.

    `file` holds the bytes of forest.npz. Returns the differences; raises ParityError where an
    answer is not scikit-learn's to the last bit.
    """
    # Of several threads each adds its trees when it comes to it.
    theirs = copy(pipeline[-1]).set_params(n_jobs=1)
    ours = Forest(**layout.read(file, inputs=theirs.n_features_in_))
    scaled = pipeline[:-1].transform(X).astype(np.float32)
    differences = []
    for points in (scaled, threshold_points(theirs, scaled)):
        expected = theirs.predict(points)
        difference = np.abs(ours.predict(points) - expected)
        relative = difference / np.maximum(1, np.abs(expected))
        differences.append((difference.max(), relative.max()))
    (rows, rows_relative), (thresholds, thresholds_relative) = differences
    parity = Parity(float(rows), float(thresholds), float(max(rows_relative, thresholds_relative)))
    if parity.rows or parity.thresholds:
        raise ParityError(
            f"The compiled forest differs from the pipeline's by {parity.rows:.3g} on the rows and "
            f"{parity.thresholds:.3g} at its thresholds, relatively {parity.relative:.3g}; "
            "expected the same bits. Nothing was registered."
        )
    return parity


def threshold_points(forest, scaled):
    """Rows of `scaled` with one value moved to a threshold of the forest or next to it."""
    feature = np.concatenate([tree.tree_.feature for tree in forest.estimators_])
    threshold = np.concatenate([tree.tree_.threshold for tree in forest.estimators_])
    # A split of "missing against the rest" has the threshold infinity, which no row can hold.
    inner = np.flatnonzero((feature >= 0) & np.isfinite(threshold))
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
