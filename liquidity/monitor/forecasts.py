"""The forecasts of a day, written down before anybody knows how it ends."""

import pandas as pd

from liquidity.contract import COIN, MADE_ON, TARGET_DATE
from liquidity.errors import ModelError
from liquidity.model.loading import load_model
from liquidity.monitor import ledger
from liquidity.monitor.ledger import FORECAST
from liquidity.monitor.reference import forecast_columns, reference_of


def load_forecaster(role):
    """The model of a Role and its reference; raises ModelError, and MarketDataError where the
    ledger is of another registry.
    """
    name, version = role.version.name, role.version
    model = load_model(f"models:/{name}/{version.number}")
    if getattr(model, "horizon", 0) != version.horizon:
        raise ModelError(
            f"{version}: looks {model.horizon} days ahead, and its name says {version.horizon}: "
            "register it under the name of its horizon."
        )
    return model, reference_of(version, model, role.registered.run_id)


def make_forecasts(version, model, reference, market, *, clock, newest=None):
    """Write what a version says on the market's last day of every coin that has a row then.

    `clock` is the day that it is, `newest` the market's `newest()` where it is known. Returns the
    number of rows, 0 where they were there already: they stay as they are.
    """
    if version.file(FORECAST, market.last).exists():
        return 0
    coins, X, days_used, values = newest or market.newest()
    columns = forecast_columns(model, X, days_used, values, reference["har"])
    table = new_table(version, market.last, coins, columns)
    written = ledger.write(version.file(FORECAST, market.last), table, clock=clock)
    return len(table) if written else 0


def new_table(version, made_on, coins, columns):
    """The ledger's table of forecasts made on a day, from the columns of numbers by name."""
    stamps = (pd.Timestamp(ledger.as_date(day)) for day in (made_on, made_on + version.horizon))
    table = pd.DataFrame({COIN: coins, **columns})
    table[MADE_ON], table[TARGET_DATE] = stamps
    return table.assign(horizon=version.horizon, model=version.name, version=version.number)
