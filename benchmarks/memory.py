"""Peak memory and time of `train.py` on many rows, all its processes together.

    python benchmarks/memory.py PANEL.parquet [--rows N] [-- further options of train.py]

The panel is a Parquet file of coins day by day without `1h`; the day's change stands in for it
here, and here only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).parents[1]


def prepare(panel, rows, target):
    frame = pd.read_parquet(panel).sort_values(["coin", "date"], ignore_index=True)
    frame["1h"] = frame.groupby("coin")["price"].pct_change().fillna(0).clip(-1, 10)
    frame = frame[frame["mkt_cap"] > 0].sort_values(["date", "coin"], ignore_index=True)
    frame.tail(rows).to_parquet(target)


def memory_of_tree(root):
    """Proportional set size in MB of `root` and all its descendants (shared pages once)."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for pid in family:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(text.partition("\nPss:")[2].split()[0])
    return total / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("panel")
    parser.add_argument("--rows", type=int, default=100_000)
    args, options = parser.parse_known_args()
    options = [option for option in options if option != "--"]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "market.parquet")
        prepare(args.panel, args.rows, data)
        environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        command = [sys.executable, PROJECT / "train.py", "--data", data, *options]
        started, peak = time.perf_counter(), 0.0
        job = subprocess.Popen(command, cwd=folder, env=environment)
        while job.poll() is None:
            peak = max(peak, memory_of_tree(job.pid))
            time.sleep(0.2)
        seconds = time.perf_counter() - started
    print(f"{args.rows} rows: peak {peak:.0f} MB, {seconds:.0f} s, exit code {job.returncode}")


if __name__ == "__main__":
    main()
