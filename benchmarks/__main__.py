"""Measure every figure of docs/performance.md, or some of them, and keep them in one JSON file.

    python -m benchmarks [PART ...] [--quick]    measure; parts that are not named keep theirs
    python -m benchmarks --table                 print the page's tables out of the JSON
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
    "cluster": "benchmarks.cluster:cluster",
    "coverage": "benchmarks.coverage:coverage",
    "panel": "benchmarks.memory:panel",
}
SLOW = ("panel",)  # left out of --quick unless named


def main(argv=None):
    """Measure, print and publish; returns the exit code, 1 where a measurement failed."""
    args = parse_arguments(argv)
    path = report.QUICK if args.quick else report.RESULTS
    if args.table or args.publish:
        return show(args, path)
    console = Console()
    results = report.read(path, report.machine())
    if path.exists() and not results["parts"]:
        console.print(f"{path} is of another machine or other versions and is replaced")
    chosen = args.parts or [name for name in PARTS if not (args.quick and name in SLOW)]
    failed = False
    try:
        with (
            stop_signals(),
            tempfile.TemporaryDirectory() as folder,
            surroundings(Path(folder)),
        ):
            for name in chosen:
                console.rule(name, align="left")
                bench = Bench(Path(folder), quick=args.quick, console=console)
                part = results["parts"][name] = measure(name, bench)
                results["parts"] = {n: results["parts"][n] for n in PARTS if n in results["parts"]}
                report.write(path, results)
                failed = failed or bool(part["failures"])
    except KeyboardInterrupt:
        console.print("Stopped; what was measured before is kept.")
        failed = True
    report.show(console, results)
    console.print(f"All figures: {path}", soft_wrap=True)
    return int(failed)


def show(args, path):
    """The page's tables, on paper or in place."""
    try:
        results = report.read(path)
        if args.table:
            print(report.markdown(results))
        if args.publish:
            report.publish(results)
    except (OSError, ValueError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def surroundings(folder):
    """Work in the folder, with a store of its own, for the time of a with block."""
    before, place = dict(os.environ), os.getcwd()
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
        yield
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
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="all in small")
    parser.add_argument("--table", action="store_true", help="print the page's tables")
    parser.add_argument("--publish", action="store_true", help="write them into the page")
    args = parser.parse_args(argv)
    for part in args.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}; there are {', '.join(PARTS)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
