"""What texts say of a model: the served one's own numbers, or the contract's without one."""

from liquidity.contract import COVERAGE, FEATURES, INPUTS, LARGEST, RATIO, TARGET, THRESHOLD

# Under the names of a model's metadata; models of format 2 lack `rules`, `largest`,
# `horizon` and `target_is_ratio`.
CONTRACT = {
    "features": FEATURES,
    "horizon": 0,
    "rules": {name: [c.rule.lowest, c.rule.included] for name, c in INPUTS.items()},
    "largest": LARGEST,
    "target": f"{TARGET} = {RATIO}",
    "target_is_ratio": True,
    "threshold": THRESHOLD,
    "interval": {"coverage": COVERAGE},
}


def facts(served=None):
    """The metadata of the served model, complete; the contract's facts without one."""
    return CONTRACT if served is None else CONTRACT | served.model.metadata
