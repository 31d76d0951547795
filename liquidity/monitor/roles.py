"""Which versions forecast: the champion and the challenger of every horizon in the registry."""

from typing import NamedTuple

import mlflow
from mlflow.entities.model_registry import ModelVersion

from liquidity.contract import CHALLENGER, CHAMPION
from liquidity.errors import ModelError
from liquidity.model.moves import names_of
from liquidity.monitor.ledger import Version, horizon_of


class Role(NamedTuple):
    """A version that has an alias, with its place in the ledger and what the registry knows."""

    alias: str
    version: Version
    registered: ModelVersion


def find_roles(ledger, model_name):
    """The Roles of all forecast models of a name, champions before challengers, by horizon.

    Raises ModelError where there is no champion.
    """
    client, roles = mlflow.MlflowClient(), []
    models = [name for name in names_of(model_name) if horizon_of(name, model_name)]
    for alias in (CHAMPION, CHALLENGER):
        for name in sorted(models, key=lambda name: horizon_of(name, model_name)):
            # Of a search they come without their aliases from some stores.
            number = client.get_registered_model(name).aliases.get(alias)
            if number is None:
                continue
            registered = client.get_model_version(name, number)
            version = Version(ledger, name, str(number), horizon_of(name, model_name))
            if version not in [role.version for role in roles]:
                roles.append(Role(alias, version, registered))
    if not any(role.alias == CHAMPION for role in roles):
        raise ModelError(
            f"There is no {CHAMPION} of {model_name}-...d in {mlflow.get_registry_uri()}: train "
            "one first (python train.py --horizon 1,7,30), or set MLFLOW_TRACKING_URI to the store "
            "it is in."
        )
    return roles
