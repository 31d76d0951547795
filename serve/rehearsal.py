"""Before a version serves it answers once, in full: a row, the page, and what is said of it."""

import math

from liquidity.contract import DATE
from liquidity.errors import ModelError, first_line
from serve.champion import Followed, NoModel

SCORES = ("lower", "liquidity", "upper")
DAY = "2026-01-31"  # any


def rehearse(served, *, build):
    """Raise ModelError, a clause without its end, where a door would not answer as it should.

    `build(champion, forecasts)` makes an application that translates no exception.
    """
    try:
        _ask(build(Only(served), Only(served, by_horizon=True)).test_client(), served.model)
    except ModelError:
        raise
    except Exception as error:  # whatever a view makes of what the model says
        raise ModelError(
            f"it does not answer as a served model has to ({first_line(error)})"
        ) from error


class Only:
    """A champion that is what it is, or, `by_horizon`, the one forecast champion that there is."""

    def __init__(self, served, *, by_horizon=False):
        self._served, self._by_horizon = served, by_horizon

    def current(self):
        """As serve.champion.Champion and serve.forecasts.Forecasts have it."""
        if not self._by_horizon:
            return self._served
        horizon = self._served.model.horizon
        if not horizon:
            raise NoModel("No forecast is loaded.")
        return {horizon: self._served}

    def followed(self, served):
        """It has not been served yet."""
        return Followed(served)


def _ask(client, model):
    values = model.metadata["examples"][0]["values"]
    row = dict(zip(model.features, values, strict=True))
    _check(_answer(client.post("/predict", json=row)).get_json())
    _answer(client.post("/predict", data={name: repr(value) for name, value in row.items()}))
    for door in ("/", "/programs", "/model", "/openapi.json"):
        _answer(client.get(door))
    if model.horizon:
        answer = _answer(client.post("/forecast", json={"rows": [row | {DATE: DAY}]}))
        for each in answer.get_json()["forecasts"]:
            _check(each)


def _answer(response):
    if response.status_code != 200:
        raise ModelError(f"{response.request.path} answers {response.status_code} with it")
    return response


def _check(scores):
    values = [scores[name] for name in SCORES]
    if not all(isinstance(v, float) and math.isfinite(v) for v in values) or values != sorted(
        values
    ):
        raise ModelError(f"it scores one of its examples {dict(zip(SCORES, values, strict=True))}")
