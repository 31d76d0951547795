"""The numbers of a market report, as tables by their titles."""

import numpy as np
import pandas as pd

from liquidity.contract import CHANGES, MARKET_CAP, PRICE, TARGET, THRESHOLD, VOLUME
from liquidity.data.layout import note_lines
from liquidity.report.ranking import both_ends
from liquidity.report.trading_costs import TITLE, agreement, cost_finding, costs_by_coin

VALUES = [PRICE, VOLUME, MARKET_CAP, TARGET]
EXTREMES, DECILES = 10, 10
ALIKE = 1.25  # two medians within this factor are told to be alike


def market_headline(frame, cleaning, tables):
    """Three or four sentences of findings, one on what was read, and one per warning.

    `tables` are those of `market_tables`.
    """
    first, last = frame["date"].min(), frame["date"].max()
    lines = [
        f"Half of the rows have a liquidity below {frame[TARGET].median():.3g}, and "
        f"{(frame[TARGET] > THRESHOLD).mean():.1%} are High (above {THRESHOLD}).",
        _size_finding(tables["Liquidity by capitalisation"]),
        _time_finding(tables.get("Persistence")),
        *([cost_finding(tables[TITLE])] if TITLE in tables else []),
        f"{cleaning.rows_used:,} of {cleaning.rows_read:,} rows of {len(cleaning.files)} file(s): "
        f"{frame['coin'].nunique():,} coins on {frame['date'].nunique():,} date(s), "
        f"{first:%Y-%m-%d} to {last:%Y-%m-%d}.",
    ]
    lines += note_lines(cleaning.notes)
    return lines + [f"Warning: {warning}" for warning in cleaning.warnings]


def _size_finding(deciles):
    """How liquidity goes with the capitalisation, by the first and the last of `cap_deciles`."""
    if len(deciles) < 2:
        return "One row says nothing of how liquidity goes with size."
    small, large = deciles["median"].iloc[0], deciles["median"].iloc[-1]
    how = "hardly depends on size"
    if max(small, large) > ALIKE * min(small, large):
        how = f"is {'higher' if large > small else 'lower'} for large coins"
    share = "tenth" if len(deciles) == DECILES else f"of {len(deciles)} groups"
    return (
        f"Liquidity {how}: its median is {small:.3g} in the smallest {share} of the rows by "
        f"capitalisation and {large:.3g} in the largest."
    )


def _time_finding(persistence):
    """How much of a coin's liquidity is known from the date before, by `persistence_summary`."""
    if persistence is None:
        return "No coin is on two successive dates, so nothing is known of how liquidity changes."
    values = persistence["value"]
    factor, stay = values["median factor between the dates"], values["High that stay High"]
    if pd.isna(factor):
        return "The coins that are on two successive dates are not traded on both."
    kept = "" if pd.isna(stay) else f", and {stay:.0%} of what is High stays High"
    return (
        f"From one date to the next a coin's liquidity changes by a factor of {factor:.3g} (the "
        f"median){kept}."
    )


def market_tables(frame, cleaning):
    """`({title: table}, pairs)`: every number of the report, and the pairs behind persistence.

    `frame` is a checked frame with its column liquidity. The tables about persistence are there
    where some coin is on two successive dates, that of costs where enough coins tell them.
    """
    by_date = levels_over(frame, frame["date"])
    pairs = successive_pairs(frame)
    tables = {
        "Rows": row_counts(frame, cleaning),
        "Values": value_quantiles(frame),
        "Liquidity by capitalisation": cap_deciles(frame),
        "Correlation of logarithms": log_correlation(frame),
        "High and Low by date": by_date,
        "Most and least liquid": most_and_least(frame),
    }
    if len(pairs):
        tables["Persistence"] = persistence_summary(pairs)
        tables["Persistence by date"] = persistence_by_date(pairs)
    if len(costs := agreement(costs_by_coin(frame))):
        tables[TITLE] = costs
    return tables, pairs


def row_counts(frame, cleaning):
    """Rows read, used, dropped by reason, and used ones that lack a change of the price."""
    counts = {"read": cleaning.rows_read, "used": cleaning.rows_used}
    counts |= {f"dropped: {reason}": count for reason, count in cleaning.dropped.items()}
    known = {name: frame[name].notna().sum() if name in frame else 0 for name in CHANGES}
    counts |= {f"used without {name}": len(frame) - count for name, count in known.items()}
    table = pd.DataFrame({"rows": counts})
    return table.assign(**{"share of read": table["rows"] / cleaning.rows_read})


def value_quantiles(frame):
    """Per column: how many are known and zero, and quantiles from the smallest to the largest."""
    names = [*VALUES, *[name for name in CHANGES if name in frame]]
    shares = {
        "min": 0,
        "1 %": 0.01,
        "25 %": 0.25,
        "median": 0.5,
        "75 %": 0.75,
        "99 %": 0.99,
        "max": 1,
    }
    table = frame[names].quantile(list(shares.values())).T.set_axis(list(shares), axis=1)
    table.insert(0, "known", frame[names].notna().sum())
    table.insert(1, "zero", (frame[names] == 0).sum())
    return table


def cap_deciles(frame):
    """Liquidity per tenth of the rows by mkt_cap, 1 the smallest; fewer where rows are few."""
    rank = frame[MARKET_CAP].rank(method="first")
    decile = np.ceil(rank / len(frame) * min(DECILES, len(frame))).astype(int).rename("decile")
    groups = frame.groupby(decile)
    shares = {"5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95}
    return pd.DataFrame(
        {
            "rows": groups.size(),
            "smallest cap": groups[MARKET_CAP].min(),
            "largest cap": groups[MARKET_CAP].max(),
            **{name: groups[TARGET].quantile(share) for name, share in shares.items()},
            "High share": (frame[TARGET] > THRESHOLD).groupby(decile).mean(),
        }
    )


def log_correlation(frame):
    """Pearson correlation of log10(value) and of log(1 + change); zeros have no logarithm."""
    logs = {name: np.log10(frame[name].where(frame[name] > 0)) for name in VALUES}
    logs |= {n: np.log1p(frame[n].where(frame[n] > -1)) for n in CHANGES if n in frame}
    return pd.DataFrame(logs).corr(min_periods=3)


def levels_over(frame, period):
    """Coins, High ones, their share and the median liquidity per value of `period`."""
    liquidity = frame[TARGET].groupby(period)
    high = (frame[TARGET] > THRESHOLD).groupby(period)
    return pd.DataFrame(
        {
            "rows": liquidity.size(),
            "High": high.sum(),
            "High share": high.mean(),
            "Low share": 1 - high.mean(),
            "median liquidity": liquidity.median(),
        }
    )


def most_and_least(frame):
    """The coins of the last date with the highest and the lowest liquidity, by their rank."""
    last = frame.loc[frame["date"] == frame["date"].max(), ["coin", "date", *VALUES]]
    return both_ends(last.assign(date=last["date"].dt.strftime("%Y-%m-%d")), EXTREMES)


def successive_pairs(frame):
    """Liquidity `before` and `after` of every coin that is on a date and the one before it.

    `date` is the later one. A coin that misses a date has no pair there.
    """
    rows = pd.DataFrame(
        {
            "coin": pd.factorize(frame["coin"])[0],
            "step": frame["date"].rank(method="dense").astype(int),
            "date": frame["date"],
            "after": frame[TARGET],
        }
    )
    before = rows.assign(step=rows["step"] + 1).rename(columns={"after": "before"})
    return rows.merge(before[["coin", "step", "before"]], on=["coin", "step"])


def persistence_summary(pairs):
    """How much of a coin's liquidity is known from the date before."""
    was_high, is_high = pairs["before"] > THRESHOLD, pairs["after"] > THRESHOLD
    logs = np.log10(pairs[["before", "after"]].where(lambda values: values > 0)).dropna()
    values = {
        "pairs of a coin and two successive dates": len(pairs),
        "correlation of log10(liquidity)": logs.corr(min_periods=3).loc["before", "after"],
        "median rank correlation over the dates": persistence_by_date(pairs)[
            "rank correlation"
        ].median(),
        "median factor between the dates": 10 ** (logs["after"] - logs["before"]).abs().median(),
        "High that stay High": is_high[was_high].mean(),
        "Low that stay Low": 1 - is_high[~was_high].mean(),
    }
    return pd.DataFrame({"value": values})


def persistence_by_date(pairs):
    """Per date: coins that were there the date before, and the rank correlation with it."""
    ranks = pairs.groupby("date")[["before", "after"]].rank()
    centred = ranks - ranks.groupby(pairs["date"]).transform("mean")
    moments = pd.DataFrame(
        {
            "both": centred["before"] * centred["after"],
            "before": centred["before"] ** 2,
            "after": centred["after"] ** 2,
        }
    )
    sums = moments.groupby(pairs["date"]).sum()
    scale = np.sqrt(sums["before"] * sums["after"])
    correlation = sums["both"] / scale.where(scale > 0)
    return pd.DataFrame({"coins": pairs.groupby("date").size(), "rank correlation": correlation})
