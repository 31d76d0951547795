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

    # Without the hint on model_input MLflow warns at every load.
    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Score a frame with the four columns; any rule broken is INVALID_PARAMETER_VALUE."""
        threshold = (params or {}).get("threshold")
        threshold = self.metadata["threshold"] if threshold is None else threshold
        if isinstance(threshold, bool) or not np.isreal(threshold) or not np.isfinite(threshold):
            raise _invalid(f"params, threshold: expected a finite number, got {threshold!r}")
        X = self._array(model_input)
        liquidity, lower, upper, in_range = self.score(X)
        return pd.DataFrame(
            {
                "liquidity": liquidity,
                "level": np.where(liquidity > threshold, "High", "Low"),
                "lower": lower,
                "upper": upper,
                "in_range": in_range,
            }
        )

    def _array(self, frame):
        missing = [name for name in self.features if name not in frame]
        if missing:
            raise _invalid(f"column {missing[0]}: missing; expected {', '.join(self.features)}")
        if frame.empty:
            raise _invalid("0 rows: expected at least one")
        columns = []
        for name in self.features:
            column = frame[name]
            values = pd.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan)
            boolean = column.map(lambda value: isinstance(value, (bool, np.bool_)))
            lowest, included = RULES[name]
            right = (values >= lowest if included else values > lowest) & (values <= LARGEST)
            wrong = np.flatnonzero(~right | boolean.to_numpy(bool))
            if wrong.size:
                sign = ">=" if included else ">"
                value = column.iloc[wrong[0]]
                value = value.item() if isinstance(value, np.generic) else value
                raise _invalid(
                    f"row {wrong[0]}, column {name}: expected a finite number {sign} {lowest} and "
                    f"<= {LARGEST:g}, got {value!r}"
                )
            columns.append(values)
        return np.column_stack(columns)


def _invalid(message):
    return MlflowException.invalid_parameter_value(f"{message}.")


set_model(LiquidityModel())
