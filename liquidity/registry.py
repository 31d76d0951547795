"""The model registry: register versions, move aliases (python -m liquidity.registry)."""

import sys

import mlflow
from mlflow.exceptions import MlflowException

from liquidity.command import Parser, run
from liquidity.contract import CHAMPION, MODEL_NAME
from liquidity.errors import ModelError, first_line
from liquidity.model.gate import RULE
from liquidity.model.loading import champion_version
from liquidity.runs.store import check_store, quieten_mlflow


def register(model_uri, decision, *, name):
    """Create the version with its audit tags, then move the alias; returns the version.

    The tags go in with the version itself, so that no kill leaves one that cannot be explained.
    """
    client = mlflow.MlflowClient()
    tags = {
        "gate.decision": decision.role,
        "gate.reason": decision.reason,
        "gate.rule": RULE,
        **{f"gate.{key}": str(value) for key, value in decision.figures.items()},
    }
    version = mlflow.register_model(model_uri, name, tags=tags).version
    description = f"Registered as {decision.role}: {decision.reason}."
    client.update_model_version(name, version, description)
    client.set_registered_model_alias(name, decision.role, version)
    return version


def make_champion(name, version):
    """Point the champion alias at an existing version and record what it replaced.

    Returns the number of the version before, or "none"; raises ModelError for a version that the
    registry does not have.
    """
    client = mlflow.MlflowClient()
    before = champion_version(name)
    try:
        client.get_model_version(name, version)
    except MlflowException as error:
        raise ModelError(f"{name} version {version}: {first_line(error)}.") from error
    replaced = before.version if before else "none"
    client.set_model_version_tag(name, version, "champion.by_hand_in_place_of", replaced)
    client.set_registered_model_alias(name, CHAMPION, version)
    return replaced


def main(argv=None):
    """Move the champion alias by hand; returns the exit code."""
    parser = Parser(prog="liquidity.registry", description="Choose the served version by hand.")
    parser.add_argument("alias", choices=[CHAMPION])
    parser.add_argument("version", help="an existing version's number")
    parser.add_argument("--model-name", default=MODEL_NAME)
    args = parser.parse_args(argv)

    def choose():
        check_store()
        replaced = make_champion(args.model_name, args.version)
        print(f"{args.model_name} version {args.version} is champion (before: {replaced}).")

    quieten_mlflow()
    return run(parser.prog, choose, failures=(MlflowException,))


if __name__ == "__main__":
    sys.exit(main())
