"""Training on hundreds of thousands of rows: peak memory and time of all processes together."""

from functools import partial

import pandas as pd

from benchmarks.measure import PROJECT, REAL_DATA, python, run

PANEL = REAL_DATA / "panel/coingecko_daily_2019-01-01_2024-07-14.parquet"
GRID = "--n-estimators 10,20 --max-depth 20 --min-samples-split 5 --cv 3"


def panel(bench):
    """train.py on the whole panel of real days, where it is at hand."""
    if not PANEL.exists():
        where = "the folder that LIQUIDITY_REAL_DATA names"
        bench.notes.append(f"Not measured: there is no panel/{PANEL.name} in {where}.")
        return
    data = bench.folder / "market.parquet"
    at = f"{prepare(PANEL, data):,} rows"
    # Under a name of its own, not in place of the model that other parts compare.
    command = python(PROJECT / "train.py", "--data", data, GRID, "--model-name panel")
    bench.notes.append(f"train.py with {GRID}.")
    share, whole = ("train.py --max-samples 0.1", at), ("train.py", at)
    ways = {
        share: partial(run, [*command, "--max-samples", "0.1"], bench.folder, quiet=False),
        whole: partial(run, command, bench.folder, quiet=False),
    }
    bench.in_turn("Panel", ways, rounds=1)
    bench.ratio(share, whole, "seconds", "peak MB")


def prepare(source, target):
    """Write the rows with a known cap; the change over a day stands in for `1h`, which the panel
    lacks, here and here only. Returns their number.
    """
    frame = pd.read_parquet(source).sort_values(["coin", "date"], ignore_index=True)
    frame["1h"] = frame.groupby("coin")["price"].pct_change().fillna(0).clip(-1, 10)
    frame = frame[frame["mkt_cap"] > 0].sort_values(["date", "coin"], ignore_index=True)
    frame.to_parquet(target)
    return len(frame)
