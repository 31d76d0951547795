"""The most and the least liquid coins, of a market or of its scores."""

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from liquidity.contract import COIN, MARKET_CAP, TARGET, VOLUME, percent
from liquidity.report.formatting import short_numbers

SCORED = [COIN, TARGET, "level", "lower", "upper", "in_range", VOLUME, MARKET_CAP]


def both_ends(frame, count):
    """The `count` rows of highest liquidity, then the `count` of lowest, no row twice.

    The index is the rank, 1 for the most liquid; rows without a liquidity have none.
    """
    known = frame[frame[TARGET].notna()]
    ordered = known.sort_values(TARGET, ascending=False, kind="stable")
    ordered = ordered.set_axis(range(1, len(ordered) + 1)).rename_axis("rank")
    least = max(min(count, len(ordered)), len(ordered) - count)
    return ordered[(ordered.index <= count) | (ordered.index > least)]


def rank_scores(scored, *, top):
    """The `top` most and the `top` least liquid coins of a scored frame, columns of SCORED.

    Rows with an error have no score and are left out. Of a coin that is there more than once
    the last row counts, by its date where there is one.
    """
    ordered = scored.sort_values("date", kind="stable") if "date" in scored else scored
    known = ordered[ordered[TARGET].notna()]
    return both_ends(known.drop_duplicates(COIN, keep="last"), top)[SCORED]


def as_table(ranked, *, top, coverage=None):
    """What `rank_scores` returned, for a terminal; `coverage` is that of the interval, if known."""
    coins = len(ranked)
    table = Table(
        title=f"The {min(top, coins)} most and the {max(0, coins - top)} least liquid coins",
        title_justify="left",
        box=SIMPLE,
    )
    interval = f"{percent(coverage)} interval" if coverage else "interval"
    for name in ("rank", COIN, TARGET, "level", interval, "in range"):
        left = name in (COIN, "level")
        # What is too long ends in dots, so that a coin is a line on a terminal of 80 columns too.
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for rank, row in short_numbers(ranked).iterrows():
        in_range = "yes" if row["in_range"].lower() == "true" else "no"
        ends = f"{row['lower']} - {row['upper']}"
        cells = [row[COIN], row[TARGET], row["level"], ends, in_range]
        # Text: a coin's name may hold what looks like markup.
        table.add_row(f"{rank:,}", *map(Text, cells), end_section=rank == top)
    return table
