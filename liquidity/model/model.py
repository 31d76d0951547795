"""The registered model: input rules, history features, the forest and its intervals.

MLflow stores this file with the model and runs it at load ("models from code"), so it imports
nothing of this package; what differs from model to model, its rules, threshold and coverage too,
comes from the artifacts beside it. The metadata say which of two kinds it is: liquidity of the
same row (SameDay), or of the same coin some days later (Forecast).

The 14 features of a forecast depend on a row and on earlier days of the same coin, and have the
same bits however the rows arrive: as a panel, one coin at a time, as a request's last 90 days, or
as a stream in blocks of any size. Training takes them from here. Three rules keep it so:

- Sums run from the newest day to the oldest, one addition after the other (`np.add.accumulate`;
  `np.sum` adds in pairs, and which depends on the array's shape). An absent day adds 0, which
  changes no bit, so gaps, shorter histories and longer arrays all sum alike.
- A window ends 89 days back. Nothing is carried on from day to day, as a recursive average is.
- Logarithms are `np.log10` of contiguous float64: `math.log10`, and `np.log10` of an array that
  runs backwards through memory, differ from it in the last bit of some values.
"""

import contextlib
import ctypes
import functools
import hashlib
import json
import math
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

LONGEST = 80  # characters of a value in a message
COIN, DATE = "coin", "date"  # the optional columns of a forecast
# What a name that is not known looks like, as pandas and MLflow's CSV door have it.
UNKNOWN_NAMES = {
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
}
ISO_DATE = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII
)
LONGEST_DATE = len("2026-01-31T00:00:00.000000+00:00")
# From Bitcoin's first block to the end of the century, as UNIX time is read too.
FIRST_DAY, LAST_DAY = 14_245, 47_481
NOT_ALLOWED = -np.inf  # what stands in X for a coin or a date that is none

# The features of a forecast; l0, lag1 and the means are differences to ew7.
HISTORY_FEATURES = (
    "l0", "ew7", "lag1", "m3", "m7", "m30", "m90", "absd30", "s7", "dv1", "dp1", "dp7", "lcap",
    "dow",
)  # fmt: skip
DAYS = 90  # the day itself and the 89 before it
LARGEST_RATIO = 1e290  # of a cap next to nothing; with what a forecast adds it stays finite
EPSILON = 1e-3  # keeps the logarithm of a zero volume finite
LONG_HISTORY = 30  # days from which on absd30 is taken at its word
DECAY = 0.75  # a day's weight in ew7 is this to the power of its age
UNKNOWN_COIN = -1
UNKNOWN_DAY = np.iinfo(np.int64).min  # NaT as an integer

_AGES = np.arange(DAYS)
_MEANS = np.array([3, 7, 30, 90]) - 1  # the highest ages in m3, m7, m30 and m90
# Whole multiples of 2**-50 (off by 1e-15 at most): their sums, which are below 4, are exact, and so
# do not depend on the order in which a matrix product takes them.
_WEIGHTS = np.rint(DECAY**_AGES * 2.0**50) / 2.0**50
# One product of these with "is the day present" counts the days of each mean and adds the weights.
_COUNTS = np.column_stack([np.less_equal.outer(_AGES, _MEANS), _WEIGHTS])
_LAGS = np.array([1, 7])
# A sum divided by these is unknown where it has too few terms: absd30 takes at least 5 changes,
# s7 at least 3 days (it is the sample deviation, n - 1).
_CHANGES = np.array([np.nan] * 5 + list(range(5, 31)))
_FREEDOM = np.array([np.nan] * 3 + list(range(2, 7)))
# The windows of so many rows stay in a core's cache with all that is computed of them; no block
# spans more days than this, however far apart its rows are.
_ROWS, _SPAN = 1024, 2**18
L0, EW7, LAG1, ABSD30 = map(HISTORY_FEATURES.index, ("l0", "ew7", "lag1", "absd30"))


LANES = 64  # rows of one tree, or trees of one row, that walk side by side
FEW = 32  # rows up to which each is walked by itself
BLOCK = 4096  # rows that stay in a core's cache while all trees pass over them

# Forest's machine code, in LLVM's language (https://llvm.org/docs/LangRef.html); "N x" is LANES.
# Walking waits for memory most of the time, and so many walks at once wait together.
KERNEL = """
declare <N x i64> @llvm.masked.gather.vNi64.vNp0(<N x ptr>, i32, <N x i1>, <N x i64>)
declare <N x float> @llvm.masked.gather.vNf32.vNp0(<N x ptr>, i32, <N x i1>, <N x float>)
declare <N x double> @llvm.masked.gather.vNf64.vNp0(<N x ptr>, i32, <N x i1>, <N x double>)
declare i1 @llvm.vector.reduce.or.vNi1(<N x i1>)
declare double @llvm.vector.reduce.fadd.vNf64(double, <N x double>)

; The values of the leaves that are reached from %start; lane i's inputs begin at x[offset[i]].
define internal <N x double> @walk(ptr %nodes, ptr %values, ptr %x, <N x i32> %start,
                                   <N x i32> %offset) alwaysinline {
entry:
  br label %step
step:
  %at = phi <N x i32> [%start, %entry], [%next, %step]
  %node_at = getelementptr i64, ptr %nodes, <N x i32> %at
  %node = call <N x i64> @llvm.masked.gather.vNi64.vNp0(
    <N x ptr> %node_at, i32 8, <N x i1> splat (i1 true), <N x i64> poison)
  %low = trunc <N x i64> %node to <N x i32>
  %threshold = bitcast <N x i32> %low to <N x float>
  %node_high = lshr <N x i64> %node, splat (i64 32)
  %high = trunc <N x i64> %node_high to <N x i32>
  %input = and <N x i32> %high, splat (i32 15)
  %column = add <N x i32> %offset, %input
  %x_at = getelementptr float, ptr %x, <N x i32> %column
  %given = call <N x float> @llvm.masked.gather.vNf32.vNp0(
    <N x ptr> %x_at, i32 4, <N x i1> splat (i1 true), <N x float> poison)
  %bits = bitcast <N x float> %given to <N x i32>
  %negated = shl <N x i32> %high, splat (i32 27)
  %sign = and <N x i32> %negated, splat (i32 -2147483648)
  %signed = xor <N x i32> %bits, %sign
  %value = bitcast <N x i32> %signed to <N x float>
  %is_second = fcmp ogt <N x float> %value, %threshold
  %step_on = zext <N x i1> %is_second to <N x i32>
  %first = lshr <N x i32> %high, splat (i32 5)
  %next = add <N x i32> %first, %step_on
  %moved = icmp ne <N x i32> %next, %at
  %any = call i1 @llvm.vector.reduce.or.vNi1(<N x i1> %moved)
  br i1 %any, label %step, label %end
end:
  %value_at = getelementptr double, ptr %values, <N x i32> %at
  %leaf = call <N x double> @llvm.masked.gather.vNf64.vNp0(
    <N x ptr> %value_at, i32 8, <N x i1> splat (i1 true), <N x double> poison)
  ret <N x double> %leaf
}

; Adds each tree's answers to sums; a multiple of LANES rows.
define void @many(ptr %nodes, ptr %values, ptr %roots, i64 %trees, ptr %x, i32 %width, i64 %rows,
                  ptr %sums) {
entry:
  %w = insertelement <N x i32> poison, i32 %width, i32 0
  %widths = shufflevector <N x i32> %w, <N x i32> poison, <N x i32> zeroinitializer
  %offset = mul <N x i32> %widths, <NUMBERS>
  %stride = zext i32 %width to i64
  br label %tree
tree:
  %t = phi i64 [0, %entry], [%t_next, %tree_end]
  %root_at = getelementptr i32, ptr %roots, i64 %t
  %root = load i32, ptr %root_at
  %r = insertelement <N x i32> poison, i32 %root, i32 0
  %start = shufflevector <N x i32> %r, <N x i32> poison, <N x i32> zeroinitializer
  br label %group
group:
  %row = phi i64 [0, %tree], [%row_next, %group]
  %begin = mul i64 %row, %stride
  %x_row = getelementptr float, ptr %x, i64 %begin
  %leaf = call <N x double> @walk(ptr %nodes, ptr %values, ptr %x_row, <N x i32> %start,
                                  <N x i32> %offset)
  %sum_at = getelementptr double, ptr %sums, i64 %row
  %sum = load <N x double>, ptr %sum_at, align 8
  %added = fadd <N x double> %sum, %leaf
  store <N x double> %added, ptr %sum_at, align 8
  %row_next = add i64 %row, N
  %more_rows = icmp ult i64 %row_next, %rows
  br i1 %more_rows, label %group, label %tree_end
tree_end:
  %t_next = add i64 %t, 1
  %more_trees = icmp ult i64 %t_next, %trees
  br i1 %more_trees, label %tree, label %end
end:
  ret void
}

; The sum of all trees' answers to one row, in their order; a multiple of LANES trees.
define double @one(ptr %nodes, ptr %values, ptr %roots, i64 %trees, ptr %x) {
entry:
  br label %group
group:
  %t = phi i64 [0, %entry], [%t_next, %group]
  %sum = phi double [0.0, %entry], [%added, %group]
  %roots_at = getelementptr i32, ptr %roots, i64 %t
  %start = load <N x i32>, ptr %roots_at, align 4
  %leaf = call <N x double> @walk(ptr %nodes, ptr %values, ptr %x, <N x i32> %start,
                                  <N x i32> zeroinitializer)
  %added = call double @llvm.vector.reduce.fadd.vNf64(double %sum, <N x double> %leaf)
  %t_next = add i64 %t, N
  %more = icmp ult i64 %t_next, %trees
  br i1 %more, label %group, label %end
end:
  ret double %added
}
"""


class Forest:
    """A regression forest that answers with the bits of RandomForestRegressor.predict, n_jobs=1.

    A node is a uint64. Its low half is the threshold, a float32: inputs are float32 too, so that a
    double threshold rounded down parts them alike. Above it are the input's number (4 bits), one
    bit that says to negate the input, and the position of the first of the two children, which are
    neighbours (27 bits): the second one follows where input > threshold, so NaN leads to the first.
    `x <= t or NaN` is one such node, `x <= t and not NaN` is `-x > below -t` with its children
    exchanged. A leaf has the threshold infinity and is its own first child; its value, a double, is
    in `values`, which are added in the order of the trees and divided once by `divisor`, in a
    forest of scikit-learn's the number of trees. The last node is a leaf of value 0 and no tree's.
    """

    def __init__(self, nodes, values, roots, divisor):
        self.map = map  # that of a pool of threads, where one request may use several
        self.arrays = {"nodes": nodes, "values": values, "roots": roots, "divisor": divisor}
        self._divisor = float(divisor)
        self._trees = len(roots)
        idle = np.full(-len(roots) % LANES, len(nodes) - 1)
        # The code holds addresses, which the arrays have to outlive.
        self._kept = nodes, values, np.concatenate([roots, idle]).astype(np.int32)
        self._at = [array.ctypes.data for array in self._kept]
        self._many, self._one = _compiled()

    def __reduce__(self):
        # Machine code can be neither copied nor pickled, what it works on can.
        return Forest, tuple(self.arrays.values())

    def predict(self, X):
        """Float64 of shape (rows,) for X of shape (rows, inputs), which is cast to float32."""
        if len(X) <= FEW:
            return np.array([self.predict_row(row) for row in X.tolist()])
        x = np.zeros((-(-len(X) // LANES) * LANES, X.shape[1]), np.float32)
        x[: len(X)] = X
        sums = np.zeros(len(x))
        # Blocks of one size, an even number of them, for two threads to have as much to do.
        count = 2 * math.ceil(len(x) / BLOCK / 2) if len(x) > BLOCK else 1
        size = math.ceil(len(x) / count / LANES) * LANES

        def walk(start):
            some, added = x[start : start + size], sums[start : start + size]
            self._many(
                *self._at, self._trees, some.ctypes.data, x.shape[1], len(some), added.ctypes.data
            )

        list(self.map(walk, range(0, len(x), size)))
        return sums[: len(X)] / self._divisor

    def predict_row(self, row):
        """The same for one row, a list of numbers, as a float."""
        x = (ctypes.c_float * len(row))(*row)
        return self._one(*self._at, len(self._kept[2]), x) / self._divisor


@functools.cache
def _compiled():
    """KERNEL's functions `many` and `one` for this machine's processor; takes 30 ms."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    numbers = ", ".join(f"i32 {number}" for number in range(LANES))
    text = KERNEL.replace("NUMBERS", numbers).replace("<N x", f"<{LANES} x")
    module = llvm.parse_assembly(text.replace(".vN", f".v{LANES}").replace(", N\n", f", {LANES}\n"))
    module.verify()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
    )
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    arrays, number, rows = [ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_void_p
    many = ctypes.CFUNCTYPE(None, *arrays, number, rows, ctypes.c_int32, number, ctypes.c_void_p)
    # One row takes microseconds; to let go of the interpreter for them and wait for it takes more.
    one = ctypes.PYFUNCTYPE(ctypes.c_double, *arrays, number, rows)
    functions = [
        type_(engine.get_function_address(name)) for type_, name in ((many, "many"), (one, "one"))
    ]
    for function in functions:
        function.engine = engine  # which holds the code
    return functions


class LiquidityModel(PythonModel):
    """What MLflow loads; `scorer` is the SameDay or the Forecast model that answers."""

    def load_context(self, context):
        """Read the artifacts."""
        metadata = json.loads(Path(context.artifacts["metadata"]).read_text())
        path = Path(context.artifacts["forest"])
        if hashlib.sha256(path.read_bytes()).hexdigest() != metadata["forest_sha256"]:
            raise MlflowException(
                f"{path.name} is not the file that metadata.json was written for."
            )
        with np.load(path, allow_pickle=False) as arrays:
            forest = Forest(**arrays)
        self.scorer = (Forecast if metadata["horizon"] else SameDay)(metadata, forest)

    # Without the hint on model_input MLflow warns at every load.
    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Score a frame; whatever is wrong with it is INVALID_PARAMETER_VALUE."""
        return self.scorer.predict(context, model_input, params)


class Scorer:
    """What both kinds have in common: the metadata, the rules of the number columns, the forest.

    `features` names the number columns that a row has to have, `optional` those that it may have;
    X, as `parse` returns it, has a column for each, in that order.
    """

    optional = ()

    def __init__(self, metadata, forest):
        self.metadata = metadata
        self.features = metadata["features"]
        self.horizon = metadata["horizon"]
        # {column: [lowest value, whether the lowest itself is allowed]}; all are finite and at
        # most `largest`.
        self.rules, self.largest = metadata["rules"], metadata["largest"]
        # The rule "> lowest" is ">= the next number".
        self.lowest = np.array(
            [
                low if included else np.nextafter(low, np.inf)
                for low, included in (self.rules[name] for name in self.features)
            ]
        )
        self._low, self._high = np.array(
            [metadata["training_ranges"][name] for name in self.features]
        ).T
        self._mean = np.array(metadata["scaler"]["mean"])
        self._scale = np.array(metadata["scaler"]["scale"])
        self._epsilon = metadata["interval"]["epsilon"]
        self.forest = forest

    def parse(self, columns):
        """Float64 of shape (rows, features) from a frame or a mapping of names to sequences.

        A string that holds a number counts as one; what is no number (text, null, a boolean)
        becomes NaN, which `check` refuses. Raises INVALID_PARAMETER_VALUE for a column that is
        missing or given twice.
        """
        names = list(columns)
        for name in (*self.features, *self.optional):
            count = names.count(name)
            if count > 1 or (not count and name in self.features):
                found = "given more than once" if count else "missing"
                raise _invalid(f"column {name}: {found}; expected {', '.join(self.features)}")
        return np.column_stack([_numbers(columns[name]) for name in self.features])

    def predict(self, context, model_input, params=None):
        """The answer for a frame, with its index; whatever is wrong is INVALID_PARAMETER_VALUE."""
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

    def broken(self, X):
        """Which values break their rule, boolean of the shape of X."""
        return ~((self.lowest <= X) & (self.largest >= X))

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
            name = (*self.features, *self.optional)[column]
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

    def in_range(self, X):
        """Whether all number columns lie where 99.8 % of the training rows do, of shape (rows,)."""
        X = X[:, : len(self.features)]
        return np.logical_and.reduce((self._low <= X) & (self._high >= X), axis=1)

    def _vote(self, inputs):
        """The forest's mean for each row of its inputs, of shape (rows, forest's inputs)."""
        return self.forest.predict((inputs - self._mean) / self._scale)

    def _threshold(self, threshold):
        if threshold is None:
            return self.metadata["threshold"]
        if type(threshold) not in (float, int) or not abs(threshold) <= self.largest:
            raise _invalid(
                f"params, threshold: expected a finite number <= {self.largest:g}, "
                f"got {_shown(threshold)}"
            )
        return threshold


class SameDay(Scorer):
    """Four market values of a coin in, its liquidity, level and prediction interval out."""

    def __init__(self, metadata, forest):
        super().__init__(metadata, forest)
        vectors = (self.lowest, self._mean, self._scale, self._low, self._high)
        self._columns = list(zip(*(vector.tolist() for vector in vectors), strict=True))
        self._factor = math.exp(metadata["interval"]["quantile"])

    def score(self, X):
        """Score rows that obey the rules; X is float64 of shape (rows, 4), columns as `features`.

        Returns `(liquidity, lower, upper, in_range)`, each of shape (rows,).
        """
        liquidity = self._vote(X)
        shifted = liquidity + self._epsilon
        # Rounding may push an end past the score when the interval has no width.
        lower = np.minimum(np.maximum(shifted / self._factor - self._epsilon, 0), liquidity)
        upper = np.maximum(shifted * self._factor - self._epsilon, liquidity)
        return liquidity, lower, upper, self.in_range(X)

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
        liquidity = self.forest.predict_row(row)
        shifted = liquidity + self._epsilon
        return {
            "liquidity": liquidity,
            "level": "High" if liquidity > threshold else "Low",
            "lower": min(max(shifted / self._factor - self._epsilon, 0.0), liquidity),
            "upper": max(shifted * self._factor - self._epsilon, liquidity),
            "in_range": in_range,
        }


class Forecast(Scorer):
    """A coin's days in, its liquidity some days later out, with a range and P(High).

    Each row is answered from its own values and earlier days of the same coin among the rows; one
    without coin or date stands alone. In X the coin is a number, NaN where it is not known, and
    the date a day since 1970.
    """

    optional = (COIN, DATE)

    def __init__(self, metadata, forest):
        super().__init__(metadata, forest)
        interval = metadata["interval"]
        self._edges = np.array(interval["absd30_edges"])
        self._middle = interval["absd30_middle"]
        # Per group of volatility, on the scale of log10(liquidity + epsilon).
        self._ends = np.column_stack([interval["low"], interval["high"]])
        self._residuals = [np.array(quantiles) for quantiles in interval["residual_quantiles"]]
        # What forecast_row takes, most of it as Python's own numbers.
        self._shares = [np.linspace(0, 1, len(quantiles)) for quantiles in self._residuals]
        self._scaling = list(zip(self._mean.tolist(), self._scale.tolist(), strict=True))
        self._usual = list(zip(self._low.tolist(), self._high.tolist(), strict=True))
        self._steps, self._reaches = self._edges.tolist(), self._ends.tolist()

    def parse(self, columns, coins=None):
        """Float64 of shape (rows, features + 2): the numbers, then coin and date.

        `coins` numbers the names, `{name: number}`, and takes up new ones; who passes the same
        one for several blocks of a file has one number for a coin throughout.
        """
        numbers = super().parse(columns)
        X = np.full((len(numbers), len(self.features) + 2), np.nan)
        X[:, :-2] = numbers
        if COIN in columns:
            coins = {} if coins is None else coins
            X[:, -2] = [coin_number(value, coins) for value in columns[COIN]]
        if DATE in columns:
            X[:, -1] = [day_number(value) for value in columns[DATE]]
        return X

    def broken(self, X):
        """Which values break their rule, boolean of the shape of X."""
        broken = X == NOT_ALLOWED
        broken[:, :-2] = super().broken(X[:, :-2])
        return broken

    def problem(self, name, value):
        """What is wrong with a value that breaks the rule of column `name`, in one clause."""
        if name in self.features:
            return super().problem(name, value)
        expected = "a name as text" if name == COIN else "a day such as 2026-01-31"
        return f"column {name}: expected {expected}, got {_shown(value)}"

    def answer(self, X, threshold=None):
        """The seven output columns by name, each of shape (rows,), for rows that obey the rules."""
        coin, day = keys(X[:, len(self.features) :])
        history, days_used = history_features(coin, day, *X[:, : len(self.features)].T)
        return self.forecast(history, days_used, X, threshold)

    def score(self, X):
        """Score rows that stand alone; X is float64 of shape (rows, features).

        Returns `(liquidity, lower, upper, in_range)`, each of shape (rows,).
        """
        answer = self.answer(np.column_stack([X, np.full((len(X), 2), np.nan)]))
        return tuple(answer[name] for name in ("liquidity", "lower", "upper", "in_range"))

    def forecast(self, history, days_used, X, threshold=None):
        """The seven output columns from history features, for all horizons alike.

        `threshold` None is the model's own; raises INVALID_PARAMETER_VALUE for no finite number.
        """
        threshold = self._threshold(threshold)
        level = self._vote(history) + history[:, EW7]
        group = residual_group(
            history[:, ABSD30], days_used, edges=self._edges, middle=self._middle
        )
        ends = level[:, None] + self._ends[group]
        liquidity, lower, upper = (
            np.maximum(10.0**values - self._epsilon, 0.0) for values in (level, *ends.T)
        )
        shifted = threshold + self._epsilon
        needed = (np.log10(shifted) if shifted > 0 else -np.inf) - level
        return {
            "liquidity": liquidity,
            "level": np.where(liquidity > threshold, "High", "Low"),
            "lower": np.minimum(lower, liquidity),
            "upper": np.maximum(upper, liquidity),
            "in_range": self.in_range(X),
            "p_high": share_above(needed, group, self._residuals),
            "days_used": days_used,
        }

    def forecast_row(self, history, days_used, values, threshold=None):
        """What `forecast` says of one row, to the same bits, as SameDay.answer_row does.

        Lists of numbers: 14 history features, and the row's own numbers in the order of `features`.
        """
        threshold = self._threshold(threshold)
        inputs = zip(history, self._scaling, strict=True)
        vote = self.forest.predict_row([(v - mean) / scale for v, (mean, scale) in inputs])
        level, group = vote + history[EW7], self._group_of(history[ABSD30], days_used)
        low, high = self._reaches[group]
        # NumPy's power, whose last bit is not that of Python's.
        powers = (10.0 ** np.array([level, level + low, level + high])).tolist()
        liquidity, lower, upper = (max(power - self._epsilon, 0.0) for power in powers)
        shifted, usual = threshold + self._epsilon, zip(values, self._usual, strict=True)
        needed = (float(np.log10(shifted)) if shifted > 0 else -math.inf) - level
        return {
            "liquidity": liquidity,
            "level": "High" if liquidity > threshold else "Low",
            "lower": min(lower, liquidity),
            "upper": max(upper, liquidity),
            "in_range": all(low <= value <= high for value, (low, high) in usual),
            "p_high": 1 - float(np.interp(needed, self._residuals[group], self._shares[group])),
            "days_used": days_used,
        }

    def _group_of(self, absd30, days_used):
        """`residual_group` of one row."""
        if math.isnan(absd30):
            return len(self._reaches) - 1
        if days_used < LONG_HISTORY:
            return len(self._edges) + 1 + (absd30 > self._middle)
        return sum(edge <= absd30 for edge in self._steps)


def residual_group(absd30, days_used, *, edges, middle):
    """The group of each row by its volatility, of shape (rows,), for intervals and P(High).

    0 to len(edges) by absd30; then two for histories shorter than LONG_HISTORY, whose absd30 is an
    estimate from few days, below and above `middle`; then one for those too short to have any.
    """
    short = len(edges) + 1
    group = np.searchsorted(edges, absd30, side="right")  # NaN comes last, and is replaced below
    group = np.where(days_used < LONG_HISTORY, short + (absd30 > middle), group)
    return np.where(np.isnan(absd30), short + 2, group)


def share_above(needed, group, quantiles):
    """The share of its group's residuals that exceed what each row needs, of shape (rows,).

    `quantiles` has an ascending array per group, evenly spaced in probability; between them the
    distribution is linear.
    """
    share = np.empty(len(needed))
    for number in np.unique(group):
        rows, residuals = group == number, quantiles[number]
        share[rows] = 1 - np.interp(needed[rows], residuals, np.linspace(0, 1, len(residuals)))
    return share


def keys(columns):
    """The columns coin and date of X as the integers that `history_features` takes."""
    known = ~np.isnan(columns)
    coin = np.where(known[:, 0], columns[:, 0], UNKNOWN_COIN).astype(np.int64)
    day = np.full(len(columns), UNKNOWN_DAY)
    day[known[:, 1]] = columns[known[:, 1], 1]
    return coin, day


def coin_number(value, coins):
    """The number of a name, NaN for an unknown one, NOT_ALLOWED for what is no name."""
    if not isinstance(value, str):
        return np.nan if _is_missing(value) else NOT_ALLOWED
    name = value.strip()
    return np.nan if name in UNKNOWN_NAMES else coins.setdefault(name, len(coins))


def day_number(value):
    """Days since 1970 of a date, NaN for an unknown one, NOT_ALLOWED for what is no date.

    A time of day belongs to the day that it is the end of: the middle of the 24 hours before it
    decides, and a time of exactly 00:00 UTC is that day itself.
    """
    if not isinstance(value, str):
        return np.nan if _is_missing(value) else NOT_ALLOWED
    text = value if len(value) <= LONGEST_DATE else value.strip()
    return _day_number(text) if len(text) <= LONGEST_DATE else NOT_ALLOWED


# A panel repeats each date for every coin, and a server is asked about the same days all day.
@functools.lru_cache(2**14)
def _day_number(text):
    if (text := text.strip()) in UNKNOWN_NAMES:
        return np.nan
    if not ISO_DATE.fullmatch(text):
        return NOT_ALLOWED
    try:
        time = datetime.fromisoformat(text)
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        seconds = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    except (ValueError, OverflowError):
        return NOT_ALLOWED
    midnight = seconds % 86_400 == 0 and not time.microsecond
    day = (seconds if midnight else seconds - 43_200) // 86_400
    return float(day) if FIRST_DAY <= day <= LAST_DAY else NOT_ALLOWED


def _is_missing(value):
    return value is None or value is pd.NA or value is pd.NaT or value != value


def history_features(coin, day, volume, cap, price, *, days=None, answer=None):
    """Compute the features of rows in any order, and the number of days that they come from.

    Five arrays of shape (rows,): `coin` as integers, UNKNOWN_COIN where it is not known; `day` as
    days since 1970 in UTC, or UNKNOWN_DAY; volume of 24 hours, capitalisation and price in USD.
    A row is answered from its own values and earlier days of its coin; of several rows of a coin
    and day each is answered from its own values, and the last one counts for later days. A row
    without coin or day stands alone. A row whose volume is not a number >= 0, or whose cap is not
    a number > 0, is a gap: it counts for no other row and has no feature but the weekday.

    `answer` holds the positions of the rows to answer (None: all of them); `days` how far back each
    of them may look, itself included (None: DAYS), as one number or one per answered row.

    Returns X of shape (answered rows, 14), columns as HISTORY_FEATURES, float64 with NaN for what
    is not known, and `days_used` of shape (answered rows,): the days present in the window, 0 in a
    gap.
    """
    coin, day = np.asarray(coin, np.int64), np.asarray(day, np.int64)
    answer = np.arange(len(day)) if answer is None else np.asarray(answer, np.int64)
    return answer_rows(coin, day, logarithms(volume, cap, price), answer, days)


def last_features(day, volume, cap, price):
    """Answer the newest row of one coin, as `history_features` does but at a quarter of its cost.

    Days are all known; of several rows of the newest day it is the last one. Returns X of shape
    (1, 14), `days_used` of shape (1,) and the row's position.
    """
    day, logs = np.asarray(day, np.int64), logarithms(volume, cap, price)
    newest = len(day) - 1
    if day[newest] != day.max():
        newest -= int(day[::-1].argmax())
    own = logs[:, newest : newest + 1]
    if np.isnan(own[0, 0]):
        return *answer_rows(np.zeros(len(day), np.int64), day, logs, np.array([newest])), newest
    age = day[newest] - day
    # A gap must not take the place of another row of its day.
    seen = (age > 0) & (age < DAYS) & (logs[0] == logs[0])
    window = np.full((3, DAYS), np.nan)
    window[:, age[seen]] = logs[:3, seen]
    window[0, 0] = own[0, 0]
    X, used = _features(window[:1], window[1:, None, _LAGS], own, day[newest : newest + 1])
    return X, used, newest


def logarithms(volume, cap, price):
    """Log10 of liquidity + EPSILON, of volume + 1, of price and of cap, of shape (4, rows).

    All four are NaN where volume or cap break their rules, the price where it is no number > 0.
    """
    volume, cap, price = (np.asarray(values, np.float64) for values in (volume, cap, price))
    logs = np.empty((4, len(volume)))
    with np.errstate(all="ignore"):
        known = (volume >= 0) & (volume < np.inf) & (cap > 0) & (cap < np.inf)
        logs[0] = np.minimum(volume / cap, LARGEST_RATIO) + EPSILON
        logs[1] = volume + 1
        logs[2] = np.where((price > 0) & (price < np.inf), price, np.nan)
        logs[3] = cap
        logs[:, ~known] = np.nan
        return np.log10(logs)


def answer_rows(coin, day, logs, answer, days=None):
    """`history_features` from the logarithms of the rows."""
    # A row without coin or day is a coin of its own, with one day.
    alone = (coin < 0) | (day == UNKNOWN_DAY)
    coin = np.where(alone, coin.max(initial=-1) + 1 + np.arange(len(coin)), coin)
    when = np.where(alone, 0, day)
    rows = np.flatnonzero(logs[0] == logs[0])
    rows = rows[np.lexsort((when[rows], coin[rows]))]  # stable: a day's last row stays the last
    logs, place = logs[:, rows], _places(coin[rows], when[rows])
    position = np.full(len(coin), -1)
    position[rows] = np.arange(len(rows))
    position = position[answer]

    X = np.full((len(answer), len(HISTORY_FEATURES)), np.nan)
    X[:, -1] = _weekday(day[answer])
    used = np.zeros(len(answer), np.int64)
    days = None if days is None else np.broadcast_to(days, len(answer))
    order = np.argsort(position, kind="stable")
    start = np.searchsorted(position[order], 0)  # before it are the gaps
    while start < len(order):
        reach = place[position[order[start]]] + _SPAN
        some = order[start : start + _ROWS]
        some = some[place[position[some]] < reach]
        limit = None if days is None else days[some, None]
        X[some], used[some] = _block(place, logs, position[some], day[answer[some]], limit)
        start += len(some)
    return X, used


def _places(coin, day):
    """Days on one line, sorted by coin and day, none within DAYS of another coin's.

    Gaps of more than DAYS are DAYS long here: nothing looks across them.
    """
    step = np.minimum(np.diff(day, prepend=day[:1]), DAYS)
    step[1:][np.diff(coin) != 0] = DAYS
    return np.cumsum(step)


def _block(place, logs, rows, day, days):
    """Answer `rows`, ascending positions among the sorted rows, whose days are not far apart."""
    places = place[rows]
    top, low = places[-1], places[0] - DAYS
    first, last = np.searchsorted(place, low, side="right"), rows[-1] + 1
    # Newest first, so that a row's own day and the days before it follow one another.
    line = np.full((3, top - low), np.nan)
    # Of several rows of a day the last one stays: NumPy assigns them in their order.
    line[:, top - place[first:last]] = logs[:3, first:last]
    starts = top - places
    window = np.lib.stride_tricks.sliding_window_view(line[0], DAYS)[starts]
    lags = line[1:, starts[:, None] + _LAGS]
    own = logs[:, rows]
    window[:, 0] = own[0]
    if days is not None:
        window = np.where(days > _AGES, window, np.nan)
        lags = np.where(days > _LAGS, lags, np.nan)
    return _features(window, lags, own, day)


def _features(window, lags, own, day):
    """The 14 features and the days present.

    `window`: log10 liquidity of shape (rows, DAYS), newest first, NaN where there is no row;
    `lags`: log10 volume and price of shape (2, rows, 2), one and seven days earlier; `own`:
    logarithms of the rows.
    """
    present = (window == window).astype(np.float64)
    level = np.where(present, window, 0.0)
    count = present @ _COUNTS
    ew7 = np.add.accumulate(level * _WEIGHTS, axis=1)[:, -1] / count[:, 4]
    means = np.add.accumulate(level, axis=1)[:, _MEANS] / count[:, :4]
    changes = np.abs(window[:, :30] - window[:, 1:31])
    squares = np.square(window[:, :7] - means[:, 1:2])

    X = np.empty((len(window), len(HISTORY_FEATURES)))
    X[:, 0] = window[:, 0] - ew7
    X[:, 1] = ew7
    X[:, 2] = window[:, 1] - ew7
    X[:, 3:7] = means - ew7[:, None]
    # fmax takes the number where the other is NaN: an unknown term adds 0.
    X[:, 7] = np.add.accumulate(np.fmax(changes, 0.0), axis=1)[:, -1]
    X[:, 7] /= _CHANGES[np.count_nonzero(changes == changes, axis=1)]
    X[:, 8] = np.add.accumulate(np.fmax(squares, 0.0), axis=1)[:, -1]
    X[:, 8] = np.sqrt(X[:, 8] / _FREEDOM[count[:, 1].astype(np.int64)])
    X[:, 9] = own[1] - lags[0, :, 0]
    X[:, 10:12] = own[2][:, None] - lags[1]
    X[:, 12] = own[3]
    X[:, 13] = _weekday(day)
    return X, count[:, 3].astype(np.int64)


def _weekday(day):
    """Monday is 0, NaN where the day is not known; 1970-01-01 was a Thursday."""
    return np.where(day == UNKNOWN_DAY, np.nan, (day + 3) % 7)


def _numbers(values):
    """Float64 of shape (rows,), NaN for what is no number."""
    if type(values) is list and set(map(type, values)) <= {float, int}:
        with contextlib.suppress(OverflowError):  # of an integer that is too large for a float
            return np.array(values, float)
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
