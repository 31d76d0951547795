"""The registered model: input rules, the compiled forest and its prediction interval.

MLflow stores this file with the model and runs it at load ("models from code"), so it imports
nothing of this package; what differs from model to model, its rules, threshold and coverage too,
comes from the artifacts beside it.
"""

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

MANY = 1000  # rows that are worth sorting
LONGEST = 80  # characters of a value in a message


class LiquidityModel(PythonModel):
    """Four market values of a coin in, its liquidity, level and prediction interval out."""

    def load_context(self, context):
        """Read the artifacts."""
        self.metadata = json.loads(Path(context.artifacts["metadata"]).read_text())
        self.features = self.metadata["features"]
        self._mean = np.array(self.metadata["scaler"]["mean"])
        self._scale = np.array(self.metadata["scaler"]["scale"])
        self._low, self._high = np.array(
            [self.metadata["training_ranges"][name] for name in self.features]
        ).T
        # {column: [lowest value, whether the lowest itself is allowed]}; all are finite and at
        # most `largest`.
        self.rules, self.largest = self.metadata["rules"], self.metadata["largest"]
        # The rule "> lowest" is ">= the next number".
        self._lowest = np.array(
            [
                low if included else np.nextafter(low, np.inf)
                for low, included in (self.rules[name] for name in self.features)
            ]
        )
        vectors = (self._lowest, self._mean, self._scale, self._low, self._high)
        self._columns = list(zip(*(vector.tolist() for vector in vectors), strict=True))
        self._factor = math.exp(self.metadata["interval"]["quantile"])
        self._epsilon = self.metadata["interval"]["epsilon"]
        options = onnxruntime.SessionOptions()
        # One row needs no second thread, and the last digits of a score depend on their number;
        # who scores many rows calls `score` from several threads.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        forest = Path(context.artifacts["forest"]).read_bytes()
        if hashlib.sha256(forest).hexdigest() != self.metadata["forest_sha256"]:
            raise MlflowException("forest.onnx is not the file that metadata.json was written for.")
        self._forest = onnxruntime.InferenceSession(
            forest, options, providers=["CPUExecutionProvider"]
        )

    def score(self, X):
        """Score rows that obey the rules; X is float64 of shape (rows, 4), columns as `features`.

        Returns `(liquidity, lower, upper, in_range)`, each of shape (rows,).
        """
        # StandardScaler's two operations and RandomForestRegressor's cast to single precision,
        # then back: thresholds are compared and leaves summed in double, as scikit-learn does.
        scaled = ((X - self._mean) / self._scale).astype(np.float32).astype(np.float64)
        liquidity = self._vote(scaled)
        shifted = liquidity + self._epsilon
        # Rounding may push an end past the score when the interval has no width.
        lower = np.minimum(np.maximum(shifted / self._factor - self._epsilon, 0), liquidity)
        upper = np.maximum(shifted * self._factor - self._epsilon, liquidity)
        in_range = np.logical_and.reduce((self._low <= X) & (self._high >= X), axis=1)
        return liquidity, lower, upper, in_range

    def _vote(self, scaled):
        """The forest's mean for each row."""
        if len(scaled) < MANY:
            return self._forest.run(None, {"X": scaled})[0][:, 0]
        # Similar rows take the same branches: one after the other they are scored three times
        # as fast, to the same bits. Groups of similar volume, within them by capitalisation.
        group = np.empty(len(scaled), int)
        group[np.argsort(scaled[:, 0])] = np.arange(len(scaled)) // math.isqrt(len(scaled))
        order = np.lexsort((scaled[:, 1], group))
        liquidity = np.empty(len(scaled))
        liquidity[order] = self._forest.run(None, {"X": scaled[order]})[0][:, 0]
        return liquidity

    def answer(self, X, threshold=None):
        """The five output columns by name, each of shape (rows,), for rows that obey the rules.

        `threshold` None is the model's own; raises INVALID_PARAMETER_VALUE for no finite number.
        """
        threshold = self._threshold(threshold)
        liquidity, lower, upper, in_range = self.score(X)
        return {
            "liquidity": liquidity,
            "level": np.where(liquidity > threshold, "High", "Low"),
            "lower": lower,
            "upper": upper,
            "in_range": in_range,
        }

    def answer_row(self, values, threshold=None):
        """What `answer` says of one row of four numbers, to the same bits, as Python's own values.

        Between requests a processor forgets NumPy, whose twenty small steps then cost more than
        the forest. Checks the rules.
        """
        threshold = self._threshold(threshold)
        row, in_range = [], True
        for value, (lowest, mean, scale, low, high) in zip(values, self._columns, strict=True):
            if not lowest <= value <= self.largest:
                columns = {name: [v] for name, v in zip(self.features, values, strict=True)}
                self.check(self.parse(columns), columns)
            row.append((value - mean) / scale)
            in_range = in_range and low <= value <= high
        scaled = np.array([row], np.float32).astype(np.float64)
        liquidity = self._forest.run(None, {"X": scaled})[0].item()
        shifted = liquidity + self._epsilon
        return {
            "liquidity": liquidity,
            "level": "High" if liquidity > threshold else "Low",
            "lower": min(max(shifted / self._factor - self._epsilon, 0.0), liquidity),
            "upper": max(shifted * self._factor - self._epsilon, liquidity),
            "in_range": in_range,
        }

    def _threshold(self, threshold):
        if threshold is None:
            return self.metadata["threshold"]
        if type(threshold) not in (float, int) or not abs(threshold) <= self.largest:
            raise _invalid(
                f"params, threshold: expected a finite number <= {self.largest:g}, "
                f"got {_shown(threshold)}"
            )
        return threshold

    # Without the hint on model_input MLflow warns at every load.
    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Score a frame with the four columns; whatever is wrong is INVALID_PARAMETER_VALUE."""
        threshold = (params or {}).get("threshold")
        threshold = threshold.item() if isinstance(threshold, np.generic) else threshold
        try:
            X = self.parse(model_input)
            self.check(X, model_input)
            # Whoever assigns the answer to the columns of a filtered frame relies on its index.
            return pd.DataFrame(self.answer(X, threshold), index=model_input.index)
        except MlflowException:
            raise
        except Exception as error:  # MLflow's server would answer with a stack trace
            raise _invalid(
                f"the rows cannot be scored: expected a table with {', '.join(self.features)}, got "
                f"{type(model_input).__name__} ({type(error).__name__}: {error})"
            ) from error

    def parse(self, columns):
        """Float64 of shape (rows, 4) from a frame or a mapping of names to sequences.

        A string that holds a number counts as one; what is no number (text, null, a boolean)
        becomes NaN, which `check` refuses. Raises INVALID_PARAMETER_VALUE for a column that is
        missing or stands there twice.
        """
        names = list(columns)
        for name in self.features:
            if (count := names.count(name)) != 1:
                found = "given more than once" if count else "missing"
                raise _invalid(f"column {name}: {found}; expected {', '.join(self.features)}")
        return np.column_stack([_numbers(columns[name]) for name in self.features])

    def broken(self, X):
        """Which values break their rule, boolean of the shape of X (rows, 4)."""
        return ~((self._lowest <= X) & (self.largest >= X))

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
        lowest, included = self.rules[name]
        return (
            f"column {name}: expected a finite number {'>=' if included else '>'} {lowest:g} and "
            f"<= {self.largest:g}, got {_shown(value)}"
        )


def _numbers(values):
    """Float64 of shape (rows,), NaN for what is no number."""
    if type(values) is list and set(map(type, values)) <= {float}:
        return np.array(values)
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
        return abs(value) <= sys.float_info.max
    return isinstance(value, (float, str, np.integer, np.floating))


def _shown(value):
    """The value as Python writes it, cut where it is endless."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "an integer of thousands of digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _invalid(message):
    return MlflowException.invalid_parameter_value(f"{message}.")


set_model(LiquidityModel())
