"""From a fitted pipeline to a logged model: its files, its metadata, its signature."""

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version as installed
from pathlib import Path

import mlflow
import numpy as np

from liquidity.contract import COIN, INPUTS, LARGEST, THRESHOLD, VOLUME
from liquidity.model.compile import check_parity, compile_forest
from liquidity.model.loading import kind_of
from liquidity.scratch import scratch_folder

EXAMPLES = 20
# What scoring needs, and no more; the full mlflow would bring scikit-learn with it.
REQUIREMENTS = ("mlflow-skinny", "numpy", "pandas", "llvmlite")


def log_model(pipeline, train, X, *, horizon, target, interval, digest):
    """Compile, compare and log the fitted pipeline as the active run's model; returns its URI.

    `train` is the frame of the training rows, `X` the pipeline's inputs for them; `target` and
    `interval` are the task's own metadata. The largest differences become the run's metrics
    parity_*; raises ParityError before anything is logged.
    """
    kind = kind_of(horizon)
    metadata = build_metadata(
        pipeline, train, horizon=horizon, target=target, interval=interval, digest=digest
    )
    with scratch_folder() as folder:
        artifacts = write_artifacts(Path(folder), pipeline, metadata)
        parity = check_parity(pipeline, Path(artifacts["forest"]).read_bytes(), X)
        mlflow.log_metrics({f"parity_{name}": value for name, value in asdict(parity).items()})
        model = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("model.py")),
            artifacts=artifacts,
            signature=kind.signature(threshold=THRESHOLD),
            input_example=_input_example(train, kind),
            pip_requirements=[f"{package}=={installed(package)}" for package in REQUIREMENTS],
        )
    return model.model_uri


def write_artifacts(folder, pipeline, metadata):
    """Write pipeline.skops, forest.npz and metadata.json; returns their paths by name."""
    # It imports all of scikit-learn, for two seconds, which no earlier step has to wait for: a
    # wrong option or a missing file is said so much sooner.
    import skops.io

    paths = {
        "pipeline": folder / "pipeline.skops",
        "forest": folder / "forest.npz",
        "metadata": folder / "metadata.json",
    }
    skops.io.dump(pipeline, paths["pipeline"])
    forest = compile_forest(pipeline[-1])
    paths["forest"].write_bytes(forest)
    # A forest and a metadata file that do not belong together would score, and be wrong.
    metadata = metadata | {"forest_sha256": hashlib.sha256(forest).hexdigest()}
    paths["metadata"].write_text(json.dumps(metadata, indent=2, default=np.ndarray.tolist) + "\n")
    return {name: str(path) for name, path in paths.items()}


def build_metadata(pipeline, train, *, horizon, target, interval, digest):
    """All that the model knows beside its forest, as one JSON object."""
    scaler, kind = pipeline[0], kind_of(horizon)
    features = list(kind.inputs)
    order = train[VOLUME].rank(method="first", ascending=False)
    wanted = np.unique(np.linspace(1, len(train), EXAMPLES).round())
    examples = train[order.isin(wanted)].sort_values(VOLUME, ascending=False)
    return {
        "format": kind.newest_format,
        "horizon": horizon,
        "features": features,
        "rules": {
            name: [INPUTS[name].rule.lowest, INPUTS[name].rule.included] for name in features
        },
        "largest": LARGEST,
        **target,
        "threshold": THRESHOLD,
        "scaler": {"mean": scaler.mean_, "scale": scaler.scale_},
        "interval": interval,
        "training_ranges": {name: _usual_range(train[name].to_numpy()) for name in features},
        "training_rows": len(train),
        "data_digest": digest,
        "examples": [
            {"coin": row[COIN], "values": [row[name] for name in features]}
            for row in examples.to_dict("records")
        ],
    }


def _input_example(train, kind):
    optional = [name for name in kind.optional if name in train]
    example = train[[*kind.inputs, *optional]].head(3).reset_index(drop=True)
    return example.assign(**{name: example[name].astype(str) for name in optional})


def _usual_range(values):
    """0.1 % to 99.9 % of the training rows, so that one absurd row does not widen it."""
    low = np.quantile(values, 0.001, method="lower")
    return [float(low), float(np.quantile(values, 0.999, method="higher"))]
