"""The model registry: log, register, decide who is champion (python -m liquidity.registry)."""

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from sklearn.metrics import r2_score

from liquidity.artifact import check_parity, write_artifacts
from liquidity.evaluation import log_r2
from liquidity.features import FEATURES, TARGET, inputs_and_target
from liquidity.market import KEYS
from liquidity.store import CHAMPION, MODEL_NAME, SIGNATURE, champion_version, load_model

CHALLENGER = "challenger"
PROMOTE = ("auto", "always", "never")
CLEANED_DATA = "cleaned_data.csv"
LEAST_ROWS = 100
# What scoring needs, and no more; the full mlflow would bring scikit-learn with it.
REQUIREMENTS = ("mlflow-skinny", "numpy", "pandas", "onnxruntime")


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes champion, why, and the figures that decided."""

    promoted: bool
    reason: str
    figures: dict

    @property
    def role(self):
        """The alias that the version gets."""
        return CHAMPION if self.promoted else CHALLENGER


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
            signature=SIGNATURE,
            input_example=train[FEATURES].head(3).reset_index(drop=True),
            pip_requirements=[f"{package}=={installed(package)}" for package in REQUIREMENTS],
        )
    return model.model_uri


def decide(model_uri, table, *, name, promote, split):
    """Compare the candidate with the champion on rows of `table` that neither was trained on.

    `table` is the cleaned table with its column `set` (train or test). With split=coin a row is
    new to the champion only if its coin is.
    """
    if promote == "never":
        return Decision(False, "promote=never", {})
    while True:
        champion = champion_version(name)
        decision = _decide(model_uri, champion, table, promote=promote, split=split)
        # A comparison takes a second, in which another training may have moved the alias.
        if _number(champion_version(name)) == _number(champion):
            return decision


def _decide(model_uri, champion, table, *, promote, split):
    if champion is None:
        return Decision(True, "there was no champion", {})
    if promote == "always":
        return Decision(True, f"promote=always, in place of version {champion.version}", {})
    return _gate(model_uri, champion, table, by=["coin"] if split == "coin" else KEYS)


def _gate(model_uri, champion, table, *, by):
    against = f"champion version {champion.version}"
    cure = "use promote=always to replace it all the same"
    try:
        new = _rows_new_to(champion, table[table["set"] == "test"], by)
        if len(new) < LEAST_ROWS:
            return Decision(
                False,
                f"only {len(new)} rows are new to both it and {against}, and fewer than "
                f"{LEAST_ROWS} decide nothing; {cure}",
                {"rows": len(new)},
            )
        y_champion = _score(f"models:/{champion.name}/{champion.version}", new)
    except Exception as error:  # whatever was registered there, by whomever
        reason = str(error).partition("\n")[0]
        return Decision(False, f"{against} cannot be compared ({reason}); {cure}", {})
    figures = {"rows": len(new)}
    for role, y_pred in (("candidate", _score(model_uri, new)), ("champion", y_champion)):
        figures[f"{role}_r2"] = r2_score(new[TARGET], y_pred)
        figures[f"{role}_log_r2"] = log_r2(new[TARGET], y_pred)
    metrics = ("r2", "log_r2")
    worse = [m for m in metrics if figures[f"candidate_{m}"] < figures[f"champion_{m}"]]
    compared = " and ".join(
        f"{m} {figures[f'candidate_{m}']:.4f} against {figures[f'champion_{m}']:.4f}"
        for m in metrics
    )
    verdict = f"below {against} in {' and '.join(worse)}" if worse else f"not below {against}"
    return Decision(not worse, f"{verdict}: {compared}, on {len(new)} rows new to both", figures)


def _number(version):
    return version and version.version


def _score(model_uri, table):
    answer = load_model(model_uri).predict(None, table[FEATURES])
    return answer["liquidity"].to_numpy(float)


def _rows_new_to(champion, table, by):
    """The rows of `table` whose keys are not among those that the champion was trained on."""
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            run_id=champion.run_id, artifact_path=CLEANED_DATA, dst_path=folder
        )
        known = pd.read_csv(path, dtype=str, keep_default_na=False)
    seen = pd.MultiIndex.from_frame(known.loc[known["set"] == "train", by])
    return table[~pd.MultiIndex.from_frame(table[by].astype(str)).isin(seen)]


def register(model_uri, decision, *, name):
    """Create the version with its audit tags, then move the alias; returns the version.

    The tags go in with the version itself, so that no kill leaves one that cannot be explained.
    """
    client = mlflow.MlflowClient()
    tags = {
        "gate.decision": decision.role,
        "gate.reason": decision.reason,
        "gate.rule": f"auto: r2 and log_r2 not below the champion's on at least {LEAST_ROWS} rows "
        "that neither was trained on",
        **{f"gate.{key}": str(value) for key, value in decision.figures.items()},
    }
    version = mlflow.register_model(model_uri, name, tags=tags).version
    description = f"Registered as {decision.role}: {decision.reason}."
    client.update_model_version(name, version, description)
    client.set_registered_model_alias(name, decision.role, version)
    return version


def make_champion(name, version):
    """Point the champion alias at an existing version and record what it replaced."""
    client = mlflow.MlflowClient()
    before = champion_version(name)
    client.get_model_version(name, version)
    replaced = before.version if before else "none"
    client.set_model_version_tag(name, version, "champion.by_hand_in_place_of", replaced)
    client.set_registered_model_alias(name, CHAMPION, version)
    return replaced


def main(argv=None):
    """Move the champion alias by hand; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m liquidity.registry", description="Choose the served version by hand."
    )
    parser.add_argument("alias", choices=[CHAMPION])
    parser.add_argument("version", help="an existing version's number")
    parser.add_argument("--model-name", default=MODEL_NAME)
    args = parser.parse_args(argv)
    try:
        replaced = make_champion(args.model_name, args.version)
    except MlflowException as error:
        print(f"{args.model_name} version {args.version}: {error.message}", file=sys.stderr)
        return 2
    print(f"{args.model_name} version {args.version} is champion (before: {replaced}).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
