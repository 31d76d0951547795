"""How turnover agrees with what a trade costs: liquidity as traders use the word."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from liquidity.contract import (
    COIN,
    DATE,
    HIGH_24H,
    LOW_24H,
    MARKET_CAP,
    PRICE,
    RATIO,
    TARGET,
    VOLUME,
)
from liquidity.illiquidity import amihud, high_low_spread
from liquidity.report.style import BLUE

TURNOVER, AMIHUD, SPREAD = "turnover", "Amihud's illiquidity", "spread by high and low"
TITLE = "What a trade costs"
FEWEST = 10  # coins: of fewer a rank correlation says nothing
MOSTLY, PARTLY = -0.7, -0.3  # rank correlations of turnover and a cost


def costs_by_coin(frame):
    """Per coin: the median liquidity, Amihud's illiquidity per million USD, the spread as a share
    and the last capitalisation; NaN where the coin's days do not tell.
    """
    rows = frame.sort_values([COIN, DATE], kind="stable")
    day = rows[DATE].to_numpy("datetime64[D]").astype(np.int64)
    price, volume = rows[PRICE].to_numpy(float), rows[VOLUME].to_numpy(float)
    ranges = [rows[name].to_numpy(float) for name in (HIGH_24H, LOW_24H) if name in rows]
    starts = np.flatnonzero(rows[COIN] != rows[COIN].shift())
    stretches = [slice(*ends) for ends in zip(starts, [*starts[1:], len(rows)], strict=True)]
    found = {
        TURNOVER: [np.median(rows[TARGET].to_numpy()[at]) for at in stretches],
        AMIHUD: [amihud(day[at], price[at], volume[at]) for at in stretches],
        SPREAD: [
            high_low_spread(day[at], *(each[at] for each in ranges)) if len(ranges) == 2 else np.nan
            for at in stretches
        ],
        MARKET_CAP: [rows[MARKET_CAP].to_numpy()[at][-1] for at in stretches],
    }
    return pd.DataFrame(found, index=rows[COIN].to_numpy()[starts])


def agreement(costs):
    """Rank correlations over coins, for each pair of measures that enough of them have; empty where
    there is none.
    """
    pairs = [(TURNOVER, AMIHUD), (TURNOVER, SPREAD), (AMIHUD, SPREAD)]
    known = {pair: costs[[*pair]].dropna() for pair in pairs}
    return pd.DataFrame(
        {
            f"{' and '.join(pair)}": {
                "coins": len(both),
                "rank correlation": both.rank().corr().iloc[0, 1],
            }
            for pair, both in known.items()
            if len(both) >= FEWEST
        }
    ).T


def cost_finding(table):
    """What `agreement` means, as a sentence."""
    clauses = [
        f"{_how(value)} {cost} ({value:.2f})"
        for cost in (AMIHUD, SPREAD)
        if (name := f"{TURNOVER} and {cost}") in table.index
        and not pd.isna(value := table.loc[name, "rank correlation"])
    ]
    if not clauses:
        return "Too few coins tell what a trade costs to say whether turnover agrees."
    return (
        f"Turnover {' and '.join(clauses)}, by rank correlation over coins (-1: in full): it is a "
        "share of a coin's value, and what a trade costs depends on its dollars too."
    )


def _how(correlation):
    if correlation > PARTLY:
        return "says little of"
    return "mostly agrees with" if correlation <= MOSTLY else "agrees in part with"


def draw_costs(costs):
    """Turnover against each cost that coins have, on log axes; zeros have no place there."""
    shown = [name for name in (AMIHUD, SPREAD) if costs[name].notna().sum() >= FEWEST]
    figure = Figure(figsize=(6 * len(shown), 4.8), layout="constrained")
    size = np.log10(costs[MARKET_CAP])
    units = {AMIHUD: "share of the price, per million USD", SPREAD: "share of the price"}
    for name, axes in zip(shown, figure.subplots(1, len(shown), squeeze=False).flat, strict=True):
        known = (costs[name] > 0) & (costs[TURNOVER] > 0)
        axes.scatter(
            costs[TURNOVER][known],
            costs[name][known],
            s=4 + 10 * (size[known] - size.min()),
            alpha=0.5,
            color=BLUE,
            linewidths=0,
        )
        if known.any():
            axes.set(xscale="log", yscale="log")
        axes.set(
            xlabel=f"{TURNOVER}: median of {RATIO}",
            ylabel=f"{name}, {units[name]}",
            title=f"{known.sum():,} coins; larger dots: larger caps",
        )
        axes.spines[["top", "right"]].set_visible(False)
    return figure
