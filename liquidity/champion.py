"""The registered champion in Python: frames of any types in, scores out, in any process."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from numbers import Integral

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from liquidity.contract import HORIZONS, MODEL_NAME, registered_name
from liquidity.errors import ModelError
from liquidity.model.loading import find_champion, load_version
from liquidity.names import given_once

READABLE = {float, int, str, type(None)}  # values that a model reads as they are


class Champion:
    """One version of a registered model, loaded and checked; what it scores with never changes.

    It can be pickled: another process loads the same version from the registry, by its URI.
    """

    def __init__(self, version):
        self._version, self.model = version, load_version(version)
        self.name, self.version = version.name, str(version.version)

    def __repr__(self):
        return f"<models:/{self.name}/{self.version}>"

    def score_frame(self, frame, *, threshold=None):
        """Score every row of a DataFrame: a DataFrame with the frame's index and, per row,
        `liquidity`, `level`, `lower`, `upper` and `in_range`; of a forecast `p_high` and
        `days_used` too.

        Numbers may be of any type that holds one, integers and texts too, and dates be dates;
        columns may have the names that files have for them, or be levels of the index. Further
        columns are ignored, and the frame stays as it is. `threshold` None is the model's own.
        Raises MlflowException (INVALID_PARAMETER_VALUE) for values that break a rule, and
        MarketDataError for a column that is given twice.
        """
        if not isinstance(frame, pd.DataFrame):
            raise _invalid(f"expected a pandas DataFrame, got {type(frame).__name__}")
        columns = frame_inputs(self.model, frame)
        X = self.model.parse(columns)
        self.model.check(X, columns)
        threshold = threshold.item() if isinstance(threshold, np.generic) else threshold
        return pd.DataFrame(self.model.answer(X, threshold), index=frame.index)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return _load_again, (self.name, self.version, self._version.source)


def load_horizon(horizon):
    """The Champion that looks so many days ahead; raises ModelError where there is none."""
    return Champion(find_champion(registered_name(MODEL_NAME, horizon)))


def load_horizons(horizons):
    """The models of the champions by horizon; raises INVALID_PARAMETER_VALUE for no horizons."""
    days = [*horizons] if isinstance(horizons, Iterable) else [horizons]
    if not days or not all(isinstance(day, Integral) and day > 0 for day in days):
        raise _invalid(f"horizons: expected numbers of days such as {HORIZONS}, got {horizons!r}")
    return {int(day): load_horizon(int(day)).model for day in days}


def _load_again(name, version, source):
    """What a pickled Champion was; raises ModelError where this process has another registry."""
    found, registry = None, mlflow.get_registry_uri()
    try:
        found = mlflow.MlflowClient().get_model_version(name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    if found is None or found.source != source:
        raise ModelError(
            f"models:/{name}/{version}, which was pickled in another process, is not in "
            f"{registry}: set MLFLOW_TRACKING_URI to the store that it came from."
        )
    return Champion(found)


def frame_inputs(model, frame):
    """The columns, and named levels of the index, of a DataFrame that the model takes."""
    levels = [name for name in frame.index.names if name is not None and name not in frame.columns]
    names = [*frame.columns, *levels]

    def values_at(place):
        if place < len(frame.columns):
            return frame.iloc[:, place]
        return frame.index.get_level_values(names[place])

    return _inputs(model, names, values_at)


def day_inputs(model, rows):
    """Likewise of one coin's days: a DataFrame, or a dict for each."""
    if isinstance(rows, pd.DataFrame):
        return frame_inputs(model, rows)
    if not isinstance(rows, Sequence) or not rows or not all(isinstance(r, Mapping) for r in rows):
        raise _invalid(
            f"rows: expected a DataFrame, or a list of dicts, with a row per day, got {rows!r:.80}"
        )
    names = [*dict.fromkeys(name for row in rows for name in row)]
    return _inputs(model, names, lambda place: [row.get(names[place]) for row in rows])


def row_inputs(model, row):
    """Likewise of one row, a dict."""
    return _inputs(model, [*row], lambda place: [[*row.values()][place]])


def _inputs(model, names, values_at):
    """What the model takes by its own names, with values that it can read."""
    given = given_once(names, (*model.features, *model.optional))
    return {column: _plain(values_at(names.index(name))) for column, name in given.items()}


def _plain(values):
    """Decimals as floats, and dates as the texts that a model takes them as."""
    if isinstance(values, list):
        return values if READABLE.issuperset(map(type, values)) else [*map(_plain_value, values)]
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "fiub":
        return values
    return [*map(_plain_value, values)]


def _plain_value(value):
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date) and value == value:
        # A model knows no time as short as a nanosecond.
        return (value.floor("us") if getattr(value, "nanosecond", 0) else value).isoformat()
    return value


def _invalid(message):
    return MlflowException.invalid_parameter_value(f"{message}.")
