"""From a fitted pipeline to a logged model: its files, its metadata, its signature."""

import hashlib
import json
import tempfile
from dataclasses import asdict
from importlib.metadata import version as installed
from pathlib import Path

import mlflow
import numpy as np
import skops.io

from liquidity.contract import COVERAGE, EPSILON, FEATURES, INPUTS, LARGEST, THRESHOLD, VOLUME
from liquidity.data.table import describe_target, inputs_and_target
from liquidity.model.compile import check_parity, compile_forest
from liquidity.model.loading import SAME_DAY

EXAMPLES = 20
# What scoring needs, and no more; the full mlflow would bring scikit-learn with it.
REQUIREMENTS = ("mlflow-skinny", "numpy", "pandas", "onnxruntime")


def log_model(pipeline, train, *, quantile, digest):
    """Compile, compare and log the fitted pipeline as the active run's model; returns its URI.

    The largest differences become the run's metrics parity_*; raises ParityError before
    anything is logged.
    """
    with tempfile.TemporaryDirectory() as folder:
        artifacts = write_artifacts(
            Path(folder), pipeline, train, quantile=quantile, data_digest=digest
        )
        X, _ = inputs_and_target(train)
        parity = check_parity(pipeline, Path(artifacts["forest"]).read_bytes(), X)
        mlflow.log_metrics({f"parity_{name}": value for name, value in asdict(parity).items()})
        model = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("model.py")),
            artifacts=artifacts,
            signature=SAME_DAY.signature(threshold=THRESHOLD),
            input_example=train[FEATURES].head(3).reset_index(drop=True),
            pip_requirements=[f"{package}=={installed(package)}" for package in REQUIREMENTS],
        )
    return model.model_uri


def write_artifacts(folder, pipeline, train, *, quantile, data_digest):
    """Write pipeline.skops, forest.onnx and metadata.json; returns their paths by name."""
    paths = {
        "pipeline": folder / "pipeline.skops",
        "forest": folder / "forest.onnx",
        "metadata": folder / "metadata.json",
    }
    skops.io.dump(pipeline, paths["pipeline"])
    forest = compile_forest(pipeline[-1])
    paths["forest"].write_bytes(forest)
    metadata = build_metadata(pipeline, train, quantile=quantile, data_digest=data_digest)
    # A forest and a metadata file that do not belong together would score, and be wrong.
    metadata["forest_sha256"] = hashlib.sha256(forest).hexdigest()
    paths["metadata"].write_text(json.dumps(metadata, indent=2) + "\n")
    return {name: str(path) for name, path in paths.items()}


def build_metadata(pipeline, train, *, quantile, data_digest):
    """All that the model knows beside its forest, as one JSON object."""
    scaler = pipeline[0]
    order = train[VOLUME].rank(method="first", ascending=False)
    wanted = np.unique(np.linspace(1, len(train), EXAMPLES).round())
    examples = train[order.isin(wanted)].sort_values(VOLUME, ascending=False)
    return {
        "format": SAME_DAY.newest_format,
        "features": FEATURES,
        "rules": {name: [c.rule.lowest, c.rule.included] for name, c in INPUTS.items()},
        "largest": LARGEST,
        **describe_target(train),
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
