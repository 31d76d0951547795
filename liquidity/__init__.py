"""Liquidity scores for coins: data, search, evaluation, tracking and registry."""

from liquidity.contract import CHANGE_1H, MARKET_CAP, PRICE, VOLUME


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
