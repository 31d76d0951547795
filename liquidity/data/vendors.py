"""The JSON of market sites, as one plain record per coin.

CoinGecko's /coins/markets is a list of coins. CoinMarketCap's listings and CoinPaprika's tickers
have the figures of a coin one level down, by currency (https://coinmarketcap.com/api/documentation,
https://api.coinpaprika.com). What their names and percent mean, liquidity.data.headers says.
"""

import json

from liquidity.contract import COIN
from liquidity.data.headers import column_name

QUOTES = ("quote", "quotes")  # CoinMarketCap's and CoinPaprika's figures by currency
USD = "USD"
SHOWN = 100  # letters of an answer in a message


def coin_records(answer):
    """The coins of a parsed JSON document as a list of dicts, and the date of all of them, where
    the document has one, or None; raises ValueError where it is no such document.
    """
    date = None
    if isinstance(answer, dict) and (coins := _data(answer)) is not None:
        status = answer.get("status")
        date = status.get("timestamp") if isinstance(status, dict) else None
        answer = coins
    if not isinstance(answer, list):
        got = json.dumps(answer)
        got = got if len(got) <= SHOWN else got[:SHOWN] + "..."
        raise ValueError(f"expected a list of coins as /coins/markets answers, got {got}")
    if not answer:
        raise ValueError("the list of coins is empty")
    odd = next((n for n, record in enumerate(answer, 1) if not isinstance(record, dict)), None)
    if odd:
        raise ValueError(f"row {odd}: expected a coin as an object, got {answer[odd - 1]!r}")
    records = [_flat(record) for record in answer]
    for row, record in enumerate(records, 1):
        for name, value in record.items():
            if value is not None and not isinstance(value, str) and column_name(name) == COIN:
                raise ValueError(
                    f"row {row}, column {COIN}: expected a name as text, got {json.dumps(value)}"
                )
    if any("last_updated" in record for record in records):
        # A coin that has no time of its own is as old as its page.
        times = [record.get("last_updated") for record in records]
        latest = max((time for time in times if isinstance(time, str)), default=None)
        for record in records:
            if record.get("last_updated") is None:
                record["last_updated"] = latest
    return records, date if isinstance(date, str) else None


def _data(answer):
    """The coins in an answer's `data`: a list, or an object of them by id."""
    data = answer.get("data")
    if isinstance(data, dict) and data and all(isinstance(each, dict) for each in data.values()):
        return list(data.values())
    return data if isinstance(data, list) else None


def _flat(record):
    """The record with the figures of its quote in USD beside its own, those of other currencies
    under their currency's name.
    """
    flat = {name: value for name, value in record.items() if name not in QUOTES}
    for key in QUOTES:
        quotes = record.get(key)
        if isinstance(quotes, list):  # as CoinMarketCap's version 3 has them
            quotes = {q.get("symbol", n): q for n, q in enumerate(quotes) if isinstance(q, dict)}
        if not isinstance(quotes, dict):
            continue
        for currency, quote in quotes.items():
            if not isinstance(quote, dict):
                flat[f"{key}.{currency}"] = quote
            elif currency == USD:
                flat |= quote
            else:
                flat |= {f"{key}.{currency}.{name}": value for name, value in quote.items()}
    return flat
