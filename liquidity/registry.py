"""The model registry: register versions, list them, move aliases (python -m liquidity.registry)."""

import argparse
import re
import sys

from liquidity.processes import loading

with loading():
    import mlflow
    from mlflow.exceptions import MlflowException

    from liquidity.command import Parser, run
    from liquidity.contract import CHAMPION, MODEL_NAME, registered_name
    from liquidity.errors import ModelError, first_line
    from liquidity.model.gate import RULE, champion_number
    from liquidity.model.loading import champion_version
    from liquidity.model.moves import history_lines, move_alias, moves, names_of
    from liquidity.report.summary import print_lines
    from liquidity.report.versions import Listed, live_lines, versions_table
    from liquidity.runs.store import check_store, quieten_mlflow
    from liquidity.runs.tracking import source_name
    from liquidity.terminal import Terminal

PROG = "liquidity.registry"


def decide_and_register(model_uri, decide, *, name, about="", about_all=""):
    """Register the version as `decide()` says; returns its Decision and the version. Its
    description begins with `about`, and `about_all` is that of the name, if it has none.

    It takes a moment to make a version, in which another training may have moved the alias: then
    it is decided again, before the alias moves.
    """
    decision = decide()
    version = _create_version(model_uri, decision, name)
    while decision.promoted and champion_number(name) != decision.champion:
        decision = decide()
        for key, value in _tags(decision).items():
            mlflow.MlflowClient().set_model_version_tag(name, version, key, value)
    _move_alias(name, version, decision, about)
    client = mlflow.MlflowClient()
    if about_all and not client.get_registered_model(name).description:
        client.update_registered_model(name, about_all)
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


def _move_alias(name, version, decision, about=""):
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
    description = f"{about} Registered as {decision.role}: {decision.reason}."
    client.update_model_version(name, version, description.strip())


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


def list_versions(name):
    """`{name: [Listed, ...]}` of the models of this name at every horizon, the newest version
    first; raises ModelError where there are none.
    """
    client = mlflow.MlflowClient()
    models = _pages(client.search_registered_models)
    horizons = re.compile(rf"{re.escape(registered_name(name, 1)).removesuffix('1d')}\d+d")
    found = {}
    for model in models:
        if model.name == name or horizons.fullmatch(model.name):
            found[model.name] = [
                _listed(client, version, model.aliases)
                for version in _pages(client.search_model_versions, _named(model.name))
            ]
    found = {each: versions for each, versions in sorted(found.items()) if versions}
    if not found:
        others = ", ".join(sorted(model.name for model in models)) or "nothing"
        raise ModelError(
            f"No version is registered as {name} (there is {others}): train one (train.py), or "
            "give --model-name."
        )
    return found


def _listed(client, version, aliases):
    metrics, data = {}, ""
    try:
        run = client.get_run(version.run_id).data
    except MlflowException:  # deleted, or registered without one
        pass
    else:
        metrics, data = run.metrics, run.params.get("data", "")
    return Listed(
        int(version.version),
        sorted(alias for alias, number in aliases.items() if str(number) == str(version.version)),
        version.creation_timestamp,
        metrics,
        data and source_name(data),
        version.tags,
    )


def _named(name):
    quote = '"' if "'" in name else "'"
    return f"name = {quote}{name}{quote}"


def _pages(search, *conditions):
    found, token = [], None
    while True:
        page = search(*conditions, page_token=token)
        found += page
        if not (token := page.token):
            return found


def main(argv=None):
    """List versions or moves of aliases, or move the champion by hand; returns the exit code."""
    args = parse_arguments(argv)
    quieten_mlflow()
    return run(PROG, lambda: args.job(args), failures=(MlflowException,))


def parse_arguments(argv):
    """The command's settings; leaves with exit code 2 and one sentence where they make no sense."""
    parser = Parser(prog=PROG, description=__doc__)
    parser.add_argument("--model-name", default=MODEL_NAME)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(command, job, text):
        added = commands.add_parser(command, prog=PROG, help=text, description=text)
        # Before the command or behind it.
        added.add_argument("--model-name", default=argparse.SUPPRESS)
        added.set_defaults(job=job)
        return added

    add("list", print_versions, "show the versions, their roles and their figures")
    add("history", print_history, "show every move of the aliases: who served when")
    champion = add(CHAMPION, choose_champion, "choose the served version by hand")
    champion.add_argument("version", help="an existing version's number")
    return parser.parse_args(argv)


def print_versions(args):
    """The job of the command `list`."""
    check_store()
    console = Terminal()
    for name, versions in list_versions(args.model_name).items():
        console.print(versions_table(name, versions))
        print_lines(console, live_lines(versions))


def print_history(args):
    """The job of the command `history`: who served when. Raises ModelError where nobody is known to
    have.
    """
    check_store()
    found = {name: moves(name) for name in names_of(args.model_name)}
    if not any(found.values()):
        raise ModelError(
            f"No move of an alias is recorded for {args.model_name}: trainings and "
            f"`liquidity.registry {CHAMPION}` record them from now on; check --model-name."
        )
    for name, moved in found.items():
        if moved:
            print("\n".join([name, *history_lines(name, moved)]))


def choose_champion(args):
    """The job of the command `champion`."""
    check_store()
    replaced = make_champion(args.model_name, args.version)
    print(f"{args.model_name} version {args.version} is champion (before: {replaced}).")


if __name__ == "__main__":
    sys.exit(main())
