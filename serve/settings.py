"""The server's settings: LIQUIDITY_* of the environment, read and checked."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from liquidity.contract import CHAMPION_URI, FORECAST_URIS
from liquidity.errors import SettingsError

DEFAULTS = {
    "MODEL_URI": CHAMPION_URI,
    # A list with commas; those that are not trained yet are waited for. Empty: none.
    "FORECASTS": ",".join(FORECAST_URIS),
    "REFRESH_SECONDS": "10",
    "API_KEY": "",  # empty: no key is asked for
    "CACHE_DIR": "",  # empty: the user's cache folder
    "PREDICTION_LOG": "",  # empty: none
    "SNAPSHOTS": "",  # a folder; empty: no market
    "LEDGER": "",  # of the monitor; empty: nothing is said of earlier forecasts
}


@dataclass(frozen=True)
class Settings:
    """What read_settings has read."""

    model_uri: str
    forecasts: tuple[str, ...]
    refresh_seconds: float
    api_key: str
    cache_dir: str
    prediction_log: str
    snapshots: str
    ledger: str


def read_settings(overrides=None):
    """The Settings; `overrides`, named as in DEFAULTS, come before the environment.

    Raises SettingsError for what makes no sense.
    """
    read = {name: os.environ.get(f"LIQUIDITY_{name}", text) for name, text in DEFAULTS.items()}
    read |= overrides or {}
    parse_model_uri(read["MODEL_URI"])
    read["FORECASTS"] = _uris(read["FORECASTS"])
    read["REFRESH_SECONDS"] = _seconds(read["REFRESH_SECONDS"])
    _check_key(read["API_KEY"])
    return Settings(**{name.lower(): value for name, value in read.items()})


def _uris(text):
    uris = tuple(uri.strip() for uri in text.split(",") if uri.strip())
    for uri in uris:
        parse_model_uri(uri, setting="FORECASTS")
    return uris


def parse_model_uri(uri, *, setting="MODEL_URI"):
    """Name, alias and version out of `models:/name@alias` or `models:/name/version`; the one
    that the URI does not have is None. Raises SettingsError.
    """
    found = re.fullmatch(r"models:/([^/@:]+)(?:@([^/@:]+)|/([0-9]+))", uri)
    if not found:
        raise SettingsError(
            f"LIQUIDITY_{setting}: expected models:/<name>@<alias> or models:/<name>/<version>, "
            f"got {uri!r}."
        )
    return found.groups()


def check_prediction_log(path):
    """Make the prediction log's file where it is missing; raises SettingsError if that fails."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).open("a").close()
    except OSError as error:
        raise SettingsError(f"LIQUIDITY_PREDICTION_LOG cannot be written: {error}.") from error


def _seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e6:
        raise SettingsError(f"LIQUIDITY_REFRESH_SECONDS: expected a number > 0, got {text!r}.")
    return seconds


def _check_key(text):
    if not re.fullmatch("[!-~]*", text):
        raise SettingsError(
            "LIQUIDITY_API_KEY: expected printable ASCII without spaces, as a header carries it, "
            "got something else (a line break at its end, perhaps)."
        )
