"""Scores as JSON. It imports neither the model nor MLflow, for serve.unpacking's sake."""

import orjson

SAME_DAY = ("liquidity", "level", "lower", "upper", "in_range")


def predictions(scores):
    """The answer of MLflow's protocol, as bytes."""
    return orjson.dumps({"predictions": records(scores)})


def records(scores):
    """One object per row."""
    if type(scores["level"]) is str:
        return [scores]
    columns = [column.tolist() for column in scores.values()]
    if tuple(scores) != SAME_DAY:
        return [dict(zip(scores, row, strict=True)) for row in zip(*columns, strict=True)]
    return [
        # Written out, which for thousands of rows takes half of dict(zip(...)).
        {"liquidity": liquidity, "level": level, "lower": lower, "upper": upper, "in_range": inside}
        for liquidity, level, lower, upper, inside in zip(*columns, strict=True)
    ]
