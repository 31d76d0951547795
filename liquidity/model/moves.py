"""Who served when: every move of an alias, kept as tags of the registered model.

MLflow knows where an alias is, and not where it was. Of the model and not of a version: a version
that is deleted has served all the same.
"""

import json
import re
import time
from datetime import UTC, datetime

import mlflow

PREFIX = "alias."  # of the tags: alias.champion.<milliseconds>.<version>
LONGEST = 500  # characters of a reason


def move_alias(name, alias, version, *, before, by, reason="", figures=None):
    """Point an alias at a version, and record that: `before` is the version that had it or None,
    `by` is "gate" or "hand".

    The record comes first, and is marked as done afterwards: a kill in between leaves one that
    `moves` can judge by the next move; the other way about a move would be lost.
    """
    client = mlflow.MlflowClient()
    before = None if before is None else str(before)  # MLflow's stores have numbers and texts
    record = {"from": before, "to": str(version), "by": by, "reason": reason[:LONGEST]}
    record["figures"] = {key: round(value, 6) for key, value in (figures or {}).items()}
    key = f"{PREFIX}{alias}.{int(1000 * time.time())}.{version}"
    client.set_registered_model_tag(name, key, json.dumps(record))
    client.set_registered_model_alias(name, alias, str(version))
    client.set_registered_model_tag(name, key, json.dumps(record | {"done": True}))


def moves(name):
    """All moves recorded for a registered model, oldest first: dicts with `alias`, `at` (ms since
    1970), `from`, `to`, `by`, `reason`, `figures`, and `happened`, False for one that was killed
    before the alias moved, as the next move of that alias, or the alias itself, shows.
    """
    model = mlflow.MlflowClient().get_registered_model(name)
    found = []
    for key, text in model.tags.items():
        if key.startswith(PREFIX):
            alias, at, _ = key.removeprefix(PREFIX).rsplit(".", 2)
            found.append({"alias": alias, "at": int(at), **json.loads(text)})
    found.sort(key=lambda move: move["at"])
    following = {alias: str(version) for alias, version in model.aliases.items()}
    for move in reversed(found):
        move["happened"] = move.pop("done", False) or following.get(move["alias"]) == move["to"]
        following[move["alias"]] = move["from"]
    return found


def names_of(model_name):
    """The registered models of a name: its own and those of its horizons, sorted."""
    client, found, token = mlflow.MlflowClient(), [], None
    while True:
        page = client.search_registered_models(page_token=token)
        found += [model.name for model in page]
        if not (token := page.token):
            break
    of = re.compile(rf"{re.escape(model_name)}(-[1-9]\d?d)?")
    return sorted(name for name in found if of.fullmatch(name))


def history_lines(name, moved):
    """What `moves` has found, a line each for a terminal, and how each alias stands where something
    else has moved it.
    """
    lines = []
    for move in moved:
        at = datetime.fromtimestamp(move["at"] / 1000, UTC)
        figures = ", ".join(f"{key} {value:.4g}" for key, value in move["figures"].items())
        told = "; ".join(part for part in (move["reason"], figures) if part)
        lines.append(
            f"  {at:%Y-%m-%d %H:%M:%S} {move['alias']}: {move['from'] or 'none'} -> {move['to']}, "
            f"by {move['by']}"
            + (f" ({told})" if told else "")
            + ("" if move["happened"] else "; it was stopped before it moved")
        )
    last = {move["alias"]: move["to"] for move in moved}
    for alias, version in mlflow.MlflowClient().get_registered_model(name).aliases.items():
        if last.get(alias) != str(version):
            lines.append(f"  now {alias}: {version}, moved by other means than this project's")
    return lines
