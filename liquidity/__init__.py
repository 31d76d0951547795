"""Liquidity scores for coins: data, search, evaluation, tracking and registry."""

from liquidity.contract import CHANGE_1H, HORIZONS, MARKET_CAP, PRICE, VOLUME

# What follows imports where it is used: a worker that unpickles anything of this package would
# wait for MLflow.


def load_champion(horizon=0):
    """The registered champion, to score many rows: `load_champion().score_frame(frame)`.

    `horizon` is 0 for a score of the same day, or how many days ahead a forecast looks. A call
    asks the registry, and loads only when the alias has moved: keep what it returns for one
    version, call it again to follow. It can be pickled; see liquidity.champion. Raises ModelError
    where there is no champion yet.
    """
    from liquidity.champion import load_horizon

    return load_horizon(horizon)


def predict_liquidity(volume, mkt_cap, h1, price):
    """Score one coin by the registered champion: `(liquidity, "High" or "Low")`.

    `volume` of 24 hours, `mkt_cap` and `price` in USD; `h1` is the change of the price within an
    hour as a fraction (0.01 is 1 %). Follows the champion alias. Raises MlflowException
    (INVALID_PARAMETER_VALUE) for values that break a rule of the model, ModelError where there
    is no champion yet.
    """
    from liquidity.champion import load_horizon, row_inputs

    model = load_horizon(0).model
    columns = row_inputs(model, {VOLUME: volume, MARKET_CAP: mkt_cap, CHANGE_1H: h1, PRICE: price})
    X = model.parse(columns)
    model.check(X, columns)
    answer = model.answer_row(X[0].tolist())
    return answer["liquidity"], answer["level"]


def forecast_liquidity(rows, *, horizons=HORIZONS):
    """Forecast one coin's liquidity after the newest of its days, by the registered champions.

    `rows` is a DataFrame, or a list of dicts, with a row per day: `date`, `24h_volume`, `mkt_cap`
    and `price`; up to 90 days before the newest one count. Follows the champion alias of every
    horizon, in days. Returns `{"date", "days_used", "forecasts"}`; a forecast has `horizon`, the
    `date` that it is for, `liquidity`, `level`, `lower`, `upper`, `in_range` and `p_high`. Raises
    MlflowException (INVALID_PARAMETER_VALUE) for values that break a rule of the models, ModelError
    where a horizon has no champion yet.
    """
    from liquidity.champion import day_inputs, load_horizons
    from liquidity.forecast.newest import forecast_newest

    models = load_horizons(horizons)
    # What goes in is the same for all horizons.
    return forecast_newest(models, day_inputs(next(iter(models.values())), rows))
