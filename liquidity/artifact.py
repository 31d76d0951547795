"""From a fitted pipeline to the files of the registered model, compared with the pipeline."""

import json
from dataclasses import dataclass

import numpy as np
import onnxruntime
import skops.io
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType

from liquidity.evaluation import COVERAGE, EPSILON
from liquidity.features import FEATURES, THRESHOLD

FORMAT = 1  # of metadata.json; a server refuses a number it does not know
# Leaf sums in single precision differ in the seventh digit; a wrong branch differs in the first.
TOLERANCE = 1e-5
THRESHOLD_POINTS = 20_000
EXAMPLES = 20


class ParityError(RuntimeError):
    """The compiled forest does not score as the pipeline does."""


@dataclass(frozen=True)
class Parity:
    """Largest |compiled - pipeline|, absolute and over max(1, |pipeline|)."""

    rows: float
    thresholds: float
    relative: float


def write_artifacts(folder, pipeline, train, *, quantile, data_digest):
    """Write pipeline.skops, forest.onnx and metadata.json; returns their paths by name."""
    paths = {
        "pipeline": folder / "pipeline.skops",
        "forest": folder / "forest.onnx",
        "metadata": folder / "metadata.json",
    }
    skops.io.dump(pipeline, paths["pipeline"])
    paths["forest"].write_bytes(compile_forest(pipeline))
    metadata = build_metadata(pipeline, train, quantile=quantile, data_digest=data_digest)
    paths["metadata"].write_text(json.dumps(metadata, indent=2) + "\n")
    return {name: str(path) for name, path in paths.items()}


def compile_forest(pipeline):
    """The pipeline's forest as ONNX bytes: input `X` float32 (rows, 4), already scaled.

    The scaler stays outside: ONNX would scale in single precision and take other branches.
    """
    shape = FloatTensorType([None, len(FEATURES)])
    return convert_sklearn(pipeline[-1], initial_types=[("X", shape)]).SerializeToString()


def check_parity(pipeline, onnx_bytes, X):
    """Compare the compiled forest with scikit-learn's on the rows of X and on 20,000 points
    at the forest's own thresholds and one float to either side of them.

    Returns the differences; raises ParityError above 1e-5 * max(1, |pipeline|).
    """
    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    scaled = pipeline[:-1].transform(X).astype(np.float32)
    differences = []
    for points in (scaled, _threshold_points(pipeline[-1], scaled)):
        expected = pipeline[-1].predict(points)
        difference = np.abs(session.run(None, {"X": points})[0][:, 0] - expected)
        differences.append((difference.max(), (difference / np.maximum(1, expected)).max()))
    (rows, rows_relative), (thresholds, thresholds_relative) = differences
    parity = Parity(float(rows), float(thresholds), float(max(rows_relative, thresholds_relative)))
    if not parity.relative <= TOLERANCE:
        raise ParityError(
            f"The compiled forest differs from the pipeline by {parity.rows:.3g} on the rows and "
            f"{parity.thresholds:.3g} at its thresholds, relatively {parity.relative:.3g}; "
            f"expected at most {TOLERANCE:g}. Nothing was registered."
        )
    return parity


def build_metadata(pipeline, train, *, quantile, data_digest):
    """All that the model knows beside its forest, as one JSON object."""
    scaler = pipeline[0]
    order = train["24h_volume"].rank(method="first", ascending=False)
    wanted = np.unique(np.linspace(1, len(train), EXAMPLES).round())
    examples = train[order.isin(wanted)].sort_values("24h_volume", ascending=False)
    return {
        "format": FORMAT,
        "features": FEATURES,
        "target": "liquidity = 24h_volume / mkt_cap of the same snapshot",
        "threshold": THRESHOLD,
        "scaler": {"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()},
        "interval": {"coverage": COVERAGE, "quantile": quantile, "epsilon": EPSILON},
        "training_ranges": {name: _usual_range(train[name].to_numpy()) for name in FEATURES},
        "training_rows": len(train),
        "data_digest": data_digest,
        "examples": [
            {"coin": row["coin"], "values": [row[name] for name in FEATURES]}
            for row in examples.to_dict("records")
        ],
    }


def _usual_range(values):
    """0.1 % to 99.9 % of the training rows, so that one absurd row does not widen it."""
    low = np.quantile(values, 0.001, method="lower")
    return [float(low), float(np.quantile(values, 0.999, method="higher"))]


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
