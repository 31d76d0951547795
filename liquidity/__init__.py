"""Liquidity scores for coins: data, search, evaluation, tracking and registry."""

from liquidity.contract import (
    CHANGE_1H,
    HORIZONS,
    MARKET_CAP,
    MODEL_NAME,
    PRICE,
    VOLUME,
    registered_name,
)


def predict_liquidity(volume, mkt_cap, h1, price):
    """Score one coin by the registered champion: `(liquidity, "High" or "Low")`.

    `volume` of 24 hours, `mkt_cap` and `price` in USD; `h1` is the change of the price within an
    hour as a fraction (0.01 is 1 %). Follows the champion alias. Raises MlflowException
    (INVALID_PARAMETER_VALUE) for values that break a rule of the model, ModelError where there
    is no champion yet.
    """
    # Not at the top: a worker that unpickles anything of this package would wait for MLflow.
    from liquidity.model.loading import load_champion

    model = load_champion()
    columns = {VOLUME: [volume], MARKET_CAP: [mkt_cap], CHANGE_1H: [h1], PRICE: [price]}
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
    from liquidity.forecast.newest import forecast_newest
    from liquidity.model.loading import load_champion

    models = {
        horizon: load_champion(name=registered_name(MODEL_NAME, horizon)) for horizon in horizons
    }
    if not hasattr(rows, "columns"):
        rows = {
            name: [row.get(name) for row in rows]
            for name in dict.fromkeys(n for r in rows for n in r)
        }
    return forecast_newest(models, rows)
