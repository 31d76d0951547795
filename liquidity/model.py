"""The registered model: input rules, the compiled forest and its prediction interval.

MLflow stores this file with the model and runs it at load ("models from code"), so it imports
nothing of this package; what differs from model to model comes from the artifacts beside it.
"""

import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

LARGEST = 1e18
# column: (lowest value, whether the lowest itself is allowed)
RULES = {"24h_volume": (0, True), "mkt_cap": (0, False), "1h": (-1, True), "price": (0, True)}


class LiquidityModel(PythonModel):
    """Four market values of a coin in, its liquidity, level and 90 % interval out."""

    def load_context(self, context):
        """Read the artifacts; `threads` in the model's config is for bulk scoring (1)."""
        config = context.model_config or {}
        self.metadata = json.loads(Path(context.artifacts["metadata"]).read_text())
        self.features = self.metadata["features"]
        self._mean = np.array(self.metadata["scaler"]["mean"])
        self._scale = np.array(self.metadata["scaler"]["scale"])
        self._low, self._high = np.array(
            [self.metadata["training_ranges"][name] for name in self.features]
        ).T
        # The rule "> lowest" is ">= the next number".
        self._lowest = np.array(
            [
                low if included else np.nextafter(low, np.inf)
                for low, included in (RULES[name] for name in self.features)
            ]
        )
        self._factor = math.exp(self.metadata["interval"]["quantile"])
        self._epsilon = self.metadata["interval"]["epsilon"]
        options = onnxruntime.SessionOptions()
        # One row needs no second thread.
        options.intra_op_num_threads = int(config.get("threads", 1))
        options.inter_op_num_threads = 1
        self._forest = onnxruntime.InferenceSession(
            context.artifacts["forest"], options, providers=["CPUExecutionProvider"]
        )

    def score(self, X):
        """Score rows that obey the rules; X is float64 of shape (rows, 4), columns as `features`.

        Returns `(liquidity, lower, upper, in_range)`, each of shape (rows,).
        """
        # StandardScaler's two operations and RandomForestRegressor's cast to single precision,
        # then back: thresholds are compared and leaves summed in double, as scikit-learn does.
        scaled = ((X - self._mean) / self._scale).astype(np.float32).astype(np.float64)
        liquidity = self._forest.run(None, {"X": scaled})[0][:, 0]
        shifted = liquidity + self._epsilon
        # Rounding may push an end past the score when the interval has no width.
        lower = np.clip(shifted / self._factor - self._epsilon, 0, liquidity)
        upper = np.maximum(shifted * self._factor - self._epsilon, liquidity)
        in_range = np.logical_and(self._low <= X, self._high >= X).all(axis=1)
        return liquidity, lower, upper, in_range

    def answer(self, X, threshold=None):
        """The five output columns by name, each of shape (rows,), for rows that obey the rules.

        `threshold` None is the model's own; raises INVALID_PARAMETER_VALUE for no finite number.
        """
        if threshold is None:
            threshold = self.metadata["threshold"]
        elif type(threshold) not in (float, int) or not math.isfinite(threshold):
            raise _invalid(f"params, threshold: expected a finite number, got {threshold!r}")
        liquidity, lower, upper, in_range = self.score(X)
        return {
            "liquidity": liquidity,
            "level": np.where(liquidity > threshold, "High", "Low"),
            "lower": lower,
            "upper": upper,
            "in_range": in_range,
        }

    # Without the hint on model_input MLflow warns at every load.
    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Score a frame with the four columns; any rule broken is INVALID_PARAMETER_VALUE."""
        threshold = (params or {}).get("threshold")
        threshold = threshold.item() if isinstance(threshold, np.generic) else threshold
        X = self.parse(model_input)
        self.check(X, model_input)
        return pd.DataFrame(self.answer(X, threshold))

    def parse(self, columns):
        """Float64 of shape (rows, 4) from a frame or a mapping of names to sequences.

        A string that holds a number counts as one; what is no number (text, null, a boolean)
        becomes NaN, which `check` refuses. Raises INVALID_PARAMETER_VALUE for a missing column.
        """
        missing = [name for name in self.features if name not in columns]
        if missing:
            raise _invalid(f"column {missing[0]}: missing; expected {', '.join(self.features)}")
        return np.column_stack([_numbers(columns[name]) for name in self.features])

    def broken(self, X):
        """Which values break their rule, boolean of the shape of X (rows, 4)."""
        return ~((self._lowest <= X) & (LARGEST >= X))

    def check(self, X, columns=None):
        """Raise INVALID_PARAMETER_VALUE with row, column, rule and value where X breaks a rule.

        The value named is that in `columns`, what X was parsed from, where it is given.
        """
        if not len(X):
            raise _invalid("0 rows: expected at least one")
        broken = self.broken(X)
        if broken.any():
            # Column by column: who got a unit wrong got it wrong from the first row on.
            column, row = np.argwhere(broken.T)[0]
            name = self.features[column]
            values = X[:, column] if columns is None else pd.Series(columns[name], dtype=object)
            raise _invalid(f"row {row}, {self.problem(name, list(values)[row])}")

    def problem(self, name, value):
        """What is wrong with a value that breaks the rule of column `name`, in one clause."""
        value = value.item() if isinstance(value, np.generic) else value
        lowest, included = RULES[name]
        return (
            f"column {name}: expected a finite number {'>=' if included else '>'} {lowest} and "
            f"<= {LARGEST:g}, got {value!r}"
        )


def _numbers(values):
    """Float64 of shape (rows,), NaN for what is no number."""
    # Not np.asarray: it would make numbers of a list's booleans.
    if isinstance(getattr(values, "dtype", None), np.dtype) and values.dtype.kind in "fiu":
        return np.asarray(values, float)
    values = pd.Series(values, dtype=object)
    scalar = values.map(_is_number_or_text).astype(bool)
    numbers = pd.to_numeric(values.where(scalar), errors="coerce")
    return numbers.to_numpy(float, na_value=np.nan)


def _is_number_or_text(value):
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, int):  # Python's own may be too large for a float
        return abs(value) <= LARGEST
    return isinstance(value, (float, str, np.integer, np.floating))


def _invalid(message):
    return MlflowException.invalid_parameter_value(f"{message}.")


set_model(LiquidityModel())
