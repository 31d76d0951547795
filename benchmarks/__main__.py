"""Measure every figure of docs/performance.md, or some of them, and keep them in one JSON file.

    python -m benchmarks [PART ...] [--quick]    measure; parts that are not named keep theirs
    python -m benchmarks --publish               put them into the page and draw its picture

The exit code is 1 where a measurement failed; the others are kept all the same.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.measure import PROJECT, Bench
from liquidity.processes import stop_signals

# The function of each part; a new one gets a line here, and one in report.CURVES for a picture.
PARTS = {
    "search": "benchmarks.search:search",
    "tracking": "benchmarks.search:track",
    "model": "benchmarks.model:model",
    "files": "benchmarks.model:files",
    "serving": "benchmarks.serving:serving",
    "workers": "benchmarks.serving:workers",
    "forecasts": "benchmarks.forecasts:forecasts",
    "market": "benchmarks.forecasts:market",
    "cluster": "benchmarks.cluster:cluster",
    "coverage": "benchmarks.coverage:coverage",
}


def main(argv=None):
    """Measure, print and publish; returns the exit code, 1 where a measurement failed."""
    args = parse_arguments(argv)
    path = report.QUICK if args.quick else report.RESULTS
    try:
        if args.publish:
            report.publish(report.read(path))
            return 0
        results = report.read_own(path)
    except (OSError, ValueError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2
    console, parts = Console(), results["parts"]
    failed = False
    try:
        with stop_signals(), surroundings() as folder:
            for name in args.parts or PARTS:
                console.rule(name, align="left")
                bench = Bench(folder, quick=args.quick, console=console)
                parts[name] = measure(name, bench)
                results["parts"] = {name: parts[name] for name in PARTS if name in parts}
                report.write(path, results)
                failed = failed or bool(bench.failures)
    except KeyboardInterrupt:
        console.print("Stopped; what was measured before is kept.")
        failed = True
    if parts:
        print(*report.summary(results), "", f"All figures: {path}", sep="\n")
    return int(failed)


@contextmanager
def surroundings():
    """Work in a temporary folder, with a store of its own, for the time of a with block."""
    before, place = dict(os.environ), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "LIQUIDITY_CACHE_DIR": f"{folder}/cache",
            "PYTHONPATH": str(PROJECT),
            # MLflow starts its servers by their names.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        # Whether Python keeps what it has compiled would decide how long commands take to start.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(place)
            os.environ.clear()
            os.environ |= before


def measure(name, bench):
    """One part's results, as the JSON has them."""
    date, started, load = datetime.now(UTC), time.monotonic(), os.getloadavg()[0]
    with bench.attempt(name):
        module, _, function = PARTS[name].partition(":")
        getattr(import_module(module), function)(bench)
    return {
        "date": date.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started),
        "load_before": load,
        "quick": bench.quick,
        "figures": [
            {"subject": subject, "at": at, "measure": measure, "values": values}
            for (subject, at, measure), values in bench.figures.items()
        ],
        "ratios": bench.ratios,
        "notes": bench.notes,
        "failures": bench.failures,
    }


def parse_arguments(argv):
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks", None, __doc__, formatter_class=raw)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="all in small")
    parser.add_argument("--publish", action="store_true", help="write them into the page")
    args = parser.parse_args(argv)
    for part in args.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}; there are {', '.join(PARTS)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
