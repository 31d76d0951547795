"""The model registry: register versions, move aliases (python -m liquidity.registry)."""

import sys

import mlflow
from mlflow.exceptions import MlflowException

from liquidity.command import Parser, run
from liquidity.contract import CHAMPION, MODEL_NAME
from liquidity.errors import ModelError, first_line
from liquidity.model.gate import RULE, champion_number
from liquidity.model.loading import champion_version
from liquidity.model.moves import history_lines, move_alias, moves, names_of
from liquidity.runs.store import check_store, quieten_mlflow

HISTORY = "history"


def decide_and_register(model_uri, decide, *, name):
    """Register the version as `decide()` says; returns its Decision and the version.

    It takes a moment to make a version, in which another training may have moved the alias: then
    it is decided again, before the alias moves.
    """
    decision = decide()
    version = _create_version(model_uri, decision, name)
    while decision.promoted and champion_number(name) != decision.champion:
        decision = decide()
        for key, value in _tags(decision).items():
            mlflow.MlflowClient().set_model_version_tag(name, version, key, value)
    _move_alias(name, version, decision)
    return decision, version


def register(model_uri, decision, *, name):
    """Register the version by a Decision that stands; returns the version."""
    version = _create_version(model_uri, decision, name)
    _move_alias(name, version, decision)
    return version


def _create_version(model_uri, decision, name):
    # The tags go in with the version, so that no kill leaves one that cannot be explained.
    return mlflow.register_model(model_uri, name, tags=_tags(decision)).version


def _tags(decision):
    return {
        "gate.decision": decision.role,
        "gate.reason": decision.reason,
        "gate.rule": RULE,
        **{f"gate.{key}": str(value) for key, value in decision.figures.items()},
    }


def _move_alias(name, version, decision):
    client = mlflow.MlflowClient()
    move_alias(
        name,
        decision.role,
        version,
        before=client.get_registered_model(name).aliases.get(decision.role),
        by="gate",
        reason=decision.reason,
        figures=decision.figures,
    )
    description = f"Registered as {decision.role}: {decision.reason}."
    client.update_model_version(name, version, description)


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
    move_alias(name, CHAMPION, version, before=before and before.version, by="hand")
    return replaced


def print_history(model_name):
    """Print who served when: the recorded moves of the aliases of a model's name and its horizons.

    Raises ModelError where there is none.
    """
    found = {name: moves(name) for name in names_of(model_name)}
    if not any(found.values()):
        raise ModelError(
            f"No move of an alias is recorded for {model_name}: trainings and `liquidity.registry "
            f"{CHAMPION}` record them from now on; check --model-name."
        )
    for name, moved in found.items():
        if moved:
            print("\n".join([name, *history_lines(name, moved)]))


def main(argv=None):
    """Move the champion alias by hand, or print its moves; returns the exit code."""
    parser = Parser(prog="liquidity.registry", description="Choose the served version by hand.")
    parser.add_argument("alias", choices=[CHAMPION, HISTORY], help=f"{HISTORY}: who served when")
    parser.add_argument("version", nargs="?", help="an existing version's number")
    parser.add_argument("--model-name", default=MODEL_NAME)
    args = parser.parse_args(argv)

    if (args.alias == HISTORY) == (args.version is not None):
        parser.error(f"expected {CHAMPION} and a version's number, or {HISTORY} alone")

    def choose():
        check_store()
        if args.alias == HISTORY:
            print_history(args.model_name)
            return
        replaced = make_champion(args.model_name, args.version)
        print(f"{args.model_name} version {args.version} is champion (before: {replaced}).")

    quieten_mlflow()
    return run(parser.prog, choose, failures=(MlflowException,))


if __name__ == "__main__":
    sys.exit(main())
