"""What the job, the registered model, the server and their texts have to agree on.

Imports the standard library only: whoever needs a name or a limit should wait for nothing else.
A text that speaks of a registered model takes the model's own numbers, from its metadata.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """What a number in a column may be: from `lowest` on, which counts only if `included`."""

    lowest: float
    included: bool = True

    def __str__(self):
        return f"a number {'>=' if self.included else '>'} {self.lowest:g}"


@dataclass(frozen=True)
class Column:
    """A number column: its rule, and how people are told about it.

    `example` is its number in the coin that documents and messages show.
    """

    label: str
    unit: str
    hint: str
    rule: Rule
    example: str


# Columns of a snapshot file.
COIN, DATE, SYMBOL = "coin", "date", "symbol"
ID = "id"  # where a file has it, it and not the name tells which rows are one asset
PRICE, VOLUME, MARKET_CAP = "price", "24h_volume", "mkt_cap"
CHANGE_1H = "1h"
CHANGES = [CHANGE_1H, "24h", "7d"]
HIGH_24H, LOW_24H = "high_24h", "low_24h"  # of the price
TARGET, LEVEL = "liquidity", "liquidity_level"
KEYS = [COIN, DATE]
NUMBERS = [PRICE, HIGH_24H, LOW_24H, *CHANGES, VOLUME, MARKET_CAP, TARGET]
COLUMNS = [DATE, COIN, SYMBOL, *NUMBERS]
FRACTION = "fraction"
CHANGE_RULE = Rule(-1)

# The model's inputs. Their order counts: a forest draws its random numbers by column position.
INPUTS = {
    VOLUME: Column(
        "24 h volume", "USD", "traded in the last 24 hours, such as 8300000", Rule(0), "1e7"
    ),
    MARKET_CAP: Column(
        "Market cap",
        "USD",
        "all coins at today's price, such as 212000000",
        Rule(0, included=False),
        "1e8",
    ),
    CHANGE_1H: Column("1 h change", FRACTION, "of the price; 0.022 is 2.2 %", CHANGE_RULE, "0.01"),
    PRICE: Column("Price", "USD", "of one coin, such as 1.09", Rule(0), "1.0"),
}
FEATURES = list(INPUTS)
# Those of a forecast, beside the coin and the date that it may know; 1h says nothing of days.
FORECAST_FEATURES = [VOLUME, MARKET_CAP, PRICE]
# What says that a name is not known, as pandas and MLflow's CSV door have it.
UNKNOWN_NAMES = {
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
}
FIRST_YEAR, LAST_YEAR = 2009, 2099  # of a date: from Bitcoin's first block on
MOST_COLUMNS = 1000  # of a file: each takes memory, however little is in it
LARGEST = 1e18  # no price, volume or capitalisation in USD comes near it

# The target.
RATIO = f"{VOLUME} / {MARKET_CAP}"
THRESHOLD = 0.5  # above it a coin's liquidity is High
HIGH, LOW = "High", "Low"
# Liquidity below about a thousandth of the capitalisation is as good as none; the offset keeps
# the logarithm of a zero volume finite.
EPSILON = 1e-3
COVERAGE = 0.9  # of the prediction interval

# A forecast speaks of the same coin so many days later.
HORIZONS = [1, 7, 30]
LONGEST_HORIZON = 90

# The registry.
MODEL_NAME = "crypto-liquidity"
CHAMPION, CHALLENGER = "champion", "challenger"
CHAMPION_URI = f"models:/{MODEL_NAME}@{CHAMPION}"

CLEANED_DATA = "cleaned_data.csv"  # of every run, beside its model
FORECAST_DATA = "cleaned_data.parquet"  # of a forecast's run

# The ledger of forecasts, a row per coin; what came of them has one column more.
MADE_ON, TARGET_DATE, ACTUAL = "made_on", "target_date", "actual"
LEDGER_COLUMNS = [MADE_ON, TARGET_DATE, COIN, "horizon", "model", "version", TARGET, "lower"]
LEDGER_COLUMNS += ["upper", "p_high", "persistence", "har"]
# Metrics of the MLflow run of a version's live figures, with the target date as step. The version's
# tags are called alike, of the last days together, and so are those of what a check found.
LIVE_METRICS = ["live_skill", "live_har_skill", "live_coverage", "live_r2", "live_brier"]
LIVE_METRICS += ["live_rows"]
LIVE = "live_"  # how they all begin
FINE, STALE = "fine", "stale"


def registered_name(model_name, horizon):
    """The name in the registry of the models that look `horizon` days ahead."""
    return f"{model_name}-{horizon}d" if horizon else model_name


FORECAST_URIS = [f"models:/{registered_name(MODEL_NAME, each)}@{CHAMPION}" for each in HORIZONS]


def percent(share):
    """A share as a text has it: 0.9 is "90 %", 0.925 is "92.5 %"."""
    return f"{100 * share:.4g} %"
