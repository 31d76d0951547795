"""Are a model's metadata whole? Checked when it is loaded, before any code reads them.

A server that found out later would answer with nulls, with errors or, worse, with other numbers.
Keys that are not named here are left to newer versions of `model.py`.
"""

import math
import re

from liquidity.errors import ModelError

OLDEST_WITH_RULES = 3  # format 2 had rules, largest and horizon in its code
LONGEST = 80  # characters of a value in a message
# A residual of logarithms: liquidity is at most 1e18, and epsilon 1e-3 at least.
LARGEST_RESIDUAL = 100


def check_metadata(metadata, kind):
    """Raise ModelError, a clause without its end, where the JSON object `metadata` is not whole for
    models of this kind (see liquidity.model.loading).
    """
    try:
        _check(metadata, kind)
    except _Wrong as wrong:
        raise ModelError(f"its metadata.json is damaged: {wrong}") from None


class _Wrong(Exception):
    """The message is a clause: name, expected, got."""


def _check(metadata, kind):
    features, is_forecast = list(kind.inputs), bool(kind.optional)
    _demand(isinstance(metadata, dict), "it", "an object", metadata)
    _demand(metadata.get("features") == features, "features", features, metadata.get("features"))
    if metadata["format"] >= OLDEST_WITH_RULES:
        _check_rules(metadata, features)
        horizon = metadata.get("horizon")
        known = type(horizon) is int and (horizon > 0) == is_forecast and horizon >= 0
        _demand(known, "horizon", "a number of days" if is_forecast else 0, horizon)
        ratio = metadata.get("target_is_ratio")
        _demand(type(ratio) is bool, "target_is_ratio", "true or false", ratio)
        _check_range(_of(metadata, "target_range"), "target_range")
        if metadata.get("weekday_profile") is not None:  # the first forecasts lack it
            _numbers(metadata["weekday_profile"], "weekday_profile", 7)
    for name in ("target", "data_digest", "forest_sha256"):
        text = metadata.get(name)
        _demand(isinstance(text, str) and text, name, "a text", text)
    digest = metadata["forest_sha256"]
    _demand(re.fullmatch("[0-9a-f]{64}", digest), "forest_sha256", "a SHA-256", digest)
    _number(_of(metadata, "threshold"), "threshold")
    rows = metadata.get("training_rows")
    _demand(type(rows) is int and rows > 0, "training_rows", "a whole number > 0", rows)
    count = None if is_forecast else len(features)
    mean = _numbers(_of(metadata, "scaler", "mean"), "scaler.mean", count)
    scale = _of(metadata, "scaler", "scale")
    _numbers(scale, "scaler.scale", len(mean), over=0)
    _check_interval(_of(metadata, "interval"), is_forecast)
    ranges = _of(metadata, "training_ranges")
    _demand(isinstance(ranges, dict), "training_ranges", "an object", ranges)
    for name in features:
        _check_range(ranges.get(name), f"training_ranges.{name}")
    _check_examples(_of(metadata, "examples"), features, ranges)


def _check_rules(metadata, features):
    rules = _of(metadata, "rules")
    for name in features:
        rule = rules.get(name) if isinstance(rules, dict) else None
        known = isinstance(rule, list) and len(rule) == 2 and type(rule[1]) is bool
        _demand(known and _is_number(rule[0]), f"rules.{name}", "[lowest, true or false]", rule)
    _number(_of(metadata, "largest"), "largest", over=0)


def _check_interval(interval, is_forecast):
    coverage = _number(_of(interval, "coverage", within="interval"), "interval.coverage", over=0)
    _demand(coverage < 1, "interval.coverage", "a share", coverage)
    _number(_of(interval, "epsilon", within="interval"), "interval.epsilon", over=0)
    if not is_forecast:
        quantile = _number(_of(interval, "quantile", within="interval"), "interval.quantile")
        _residual(quantile, "quantile", least=0)
        return
    edges = _numbers(interval.get("absd30_edges"), "interval.absd30_edges")
    _demand(edges == sorted(edges), "interval.absd30_edges", "ascending numbers", edges)
    _number(interval.get("absd30_middle"), "interval.absd30_middle")
    # As many groups as residual_group of model.py numbers.
    groups = len(edges) + 4
    for low in _numbers(interval.get("low"), "interval.low", groups):
        _residual(-low, "low", least=0)
    for high in _numbers(interval.get("high"), "interval.high", groups):
        _residual(high, "high", least=0)
    quantiles = interval.get("residual_quantiles")
    known = isinstance(quantiles, list) and len(quantiles) == groups
    _demand(known, "interval.residual_quantiles", f"{groups} lists", quantiles)
    for each in quantiles:
        _numbers(each, "interval.residual_quantiles")
        _demand(each == sorted(each), "interval.residual_quantiles", "ascending numbers", each)


def _residual(value, name, *, least):
    known = least <= value <= LARGEST_RESIDUAL
    _demand(known, f"interval.{name}", f"at most {LARGEST_RESIDUAL} to its side", value)


def _check_range(ends, name):
    low, high = _numbers(ends, name, 2)
    _demand(low <= high, name, "[lowest, highest]", ends)


def _check_examples(examples, features, ranges):
    _demand(isinstance(examples, list) and examples, "examples", "a list", examples)
    for example in examples:
        known = isinstance(example, dict) and isinstance(example.get("coin"), str)
        _demand(known, "examples", "objects with coin and values", example)
        _numbers(example.get("values"), "examples.values", len(features))
    # They are training rows, nearly all of which are in range: a range of another column is not
    # theirs.
    for column, name in enumerate(features):
        low, high = ranges[name]
        inside = sum(low <= example["values"][column] <= high for example in examples)
        _demand(
            2 * inside >= len(examples), f"training_ranges.{name}", "most examples in it",
            ranges[name],
        )  # fmt: skip


def _of(value, *names, within=""):
    for name in names:
        found = value.get(name) if isinstance(value, dict) else None
        within = f"{within}.{name}".lstrip(".")
        _demand(found is not None, within, "something", found)
        value = found
    return value


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _number(value, name, *, over=-math.inf):
    wanted = "a finite number" if over == -math.inf else f"a finite number > {over:g}"
    _demand(_is_number(value) and value > over, name, wanted, value)
    return value


def _numbers(values, name, count=None, *, over=-math.inf):
    expected = f"{'a list of' if count is None else count} numbers"
    known = isinstance(values, list) and values and count in (None, len(values))
    _demand(known, name, expected, values)
    for value in values:
        _number(value, name, over=over)
    return values


def _demand(met, name, expected, got):
    if not met:
        got = repr(got)
        got = got if len(got) <= LONGEST else f"{got[:LONGEST]}..."
        raise _Wrong(f"{name}: expected {expected}, got {got}")
