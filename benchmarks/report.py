"""Results as JSON, as a table, as a section of docs/performance.md and its picture."""

import json
import os
import platform
import re
import statistics
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.measure import PROJECT
from liquidity.report.formatting import short_number
from liquidity.report.style import BLUE, GREY, ORANGE

RESULTS = PROJECT / "benchmarks/results/bench.json"
QUICK = PROJECT / "benchmarks/results/quick.json"
PAGE, PICTURE = PROJECT / "docs/performance.md", PROJECT / "docs/growth.png"
BEGIN, END = "<!-- from here: python -m benchmarks --publish -->", "<!-- to here -->"
PACKAGES = ("mlflow", "scikit-learn", "numpy", "pandas", "llvmlite", "flask", "granian", "uvloop")
MACHINE = ("cores", "cpu", "memory_gb", "python")  # what else `machine` names


@dataclass(frozen=True)
class Curve:
    """How a part's figures are drawn: `measure` over the number in `at` before the noun `over`."""

    title: str
    over: str
    measure: str
    scale: str = "log"


CURVES = {
    "files": Curve("Scoring a CSV file", "rows", "rows/s"),
    "model": Curve("One row in Python", "trees", "us per row"),
    "tracking": Curve("Writing a trial to MLflow", "trials", "ms per trial", scale="linear"),
}


def machine():
    """What the figures depend on besides the code."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count(),
        "cpu": cpu[1] if cpu else platform.machine(),
        "memory_gb": round(pages / 2**30),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def read(path):
    """The results at `path`; raises ValueError where there is nothing to read."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"there is no {path}: run python -m benchmarks first") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it and measure again") from error


def read_own(path):
    """The results at `path` where they are of this machine and these versions, else empty ones."""
    own = {"machine": machine(), "parts": {}}
    if not path.exists():
        return own
    results = read(path)
    if results["machine"] == own["machine"]:
        return results
    print(f"{path} is of another machine or other versions and is replaced")
    return own


def write(path, results):
    """Write the results whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(json.dumps(results, indent=1) + "\n")
    unfinished.replace(path)


def figures(part):
    """The values of a part by `(subject, at, measure)`."""
    return {(f["subject"], f["at"], f["measure"]): f["values"] for f in part["figures"]}


def ratios(part, *, largest=False):
    """The ratio of each round by what is compared; with `largest` only at the largest size."""
    values, pairs = figures(part), part["ratios"]
    if largest:
        pairs = {(o[0], u[0], o[2], u[2]): (o, u) for o, u in pairs}.values()
    return {
        describe(over, under): [
            a / b for a, b in zip(values[tuple(over)], values[tuple(under)], strict=False)
        ]
        for over, under in pairs
    }


def describe(over, under):
    """What a ratio compares: what differs, `A / B`, and after a colon what is the same."""
    parts = list(zip(over, under, strict=True))
    above = ", ".join(a for a, b in parts if a and a != b)
    below = ", ".join(b for a, b in parts if b and a != b)
    return f"{above} / {below}: {', '.join(a for a, b in parts if a and a == b)}"


def spread(values):
    """Median and range, or the one value."""
    if len(values) == 1:
        return short_number(values[0])
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{short_number(middle)} ({short_number(low)}-{short_number(high)})"


def markdown(results):
    """The page's tables: all ratios, and all figures behind them."""
    lines = [*summary(results), "", "<details><summary>The figures themselves, medians and ranges"]
    lines[-1] += "</summary>"
    for name, part in results["parts"].items():
        lines += figures_tables(name, part)
    return "\n".join([*lines, "", "</details>"])


def summary(results):
    """Markdown lines: the machine, all ratios, what is to be noted and what failed."""
    on, parts = results["machine"], results["parts"]
    dates = sorted(part["date"][:10] for part in parts.values())
    yield (
        f"{on['cores']} cores ({on['cpu']}), {on['memory_gb']} GB, Python {on['python']}, "
        f"{', '.join(f'{name} {on[name]}' for name in on if name not in MACHINE)}; "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
    )
    yield from (
        "",
        "| compared, within each round | ratio, median (range) | rounds |",
        "|---|---|---|",
    )
    for name, part in parts.items():
        # The picture and the figures have the smaller sizes.
        for text, values in ratios(part, largest=name in CURVES).items():
            yield f"| {name}: {text} | {spread(values)} | {len(values)} |"
    for name, part in parts.items():
        for line in part["notes"]:
            yield from ("", f"{name}: {line}")
        for line in part["failures"]:
            yield from ("", f"{name} FAILED: {line}")


def figures_tables(name, part):
    """Markdown lines: a row per subject and size; those of the same measures share a table."""
    values = figures(part)
    tables = {}
    for subject, at in dict.fromkeys((subject, at) for subject, at, _ in values):
        measures = tuple(m for s, a, m in values if (s, a) == (subject, at))
        tables.setdefault(measures, []).append((subject, at))
    for measures, rows in tables.items():
        yield from ("", f"| {name} | {' | '.join(measures)} |", "|---" * (len(measures) + 1) + "|")
        for subject, at in rows:
            cells = (spread(values[subject, at, measure]) for measure in measures)
            yield f"| {subject}, {at} | {' | '.join(cells)} |"


def publish(results):
    """Put the tables into the page and draw its picture."""
    text = PAGE.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no lines {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n\n{markdown(results)}\n\n{END}{after}")
    draw(results).savefig(PICTURE, dpi=110)


def draw(results):
    """A panel per curve: medians as a line, ranges as bars."""
    drawn = {}
    for name, curve in CURVES.items():
        if lines := curve_lines(curve, results["parts"].get(name, {"figures": []})):
            drawn[curve] = lines
    figure = Figure(figsize=(14, 3.9), layout="constrained")
    for number, (curve, lines) in enumerate(drawn.items(), 1):
        draw_curve(figure.add_subplot(1, len(drawn), number), curve, lines)
    return figure


def curve_lines(curve, part):
    """`{subject: {size: values by round}}` of what the part has of the curve."""
    lines = {}
    for (subject, at, measure), rounds in figures(part).items():
        if measure == curve.measure and (x := size(at, curve.over)):
            lines.setdefault(subject, {})[x] = rounds
    return lines


def draw_curve(axes, curve, lines):
    for (subject, points), colour in zip(lines.items(), (BLUE, ORANGE, GREY), strict=False):
        middle = [statistics.median(rounds) for rounds in points.values()]
        below = [m - min(r) for m, r in zip(middle, points.values(), strict=True)]
        above = [max(r) - m for m, r in zip(middle, points.values(), strict=True)]
        style = {"color": colour, "marker": "o", "markersize": 5, "capsize": 3, "linewidth": 1.8}
        axes.errorbar(list(points), middle, yerr=(below, above), label=subject, **style)
    sizes = sorted({x for points in lines.values() for x in points})
    axes.set_xscale("log")
    axes.set_yscale(curve.scale)
    axes.margins(x=0.08)
    if curve.scale == "linear":
        axes.set_ylim(bottom=0)
    axes.set_xticks(sizes, [f"{x:,}" for x in sizes])
    axes.xaxis.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.set(title=curve.title, xlabel=curve.over, ylabel=curve.measure.replace("us ", "µs "))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=9)


def size(at, noun):
    """The number in `1,000 rows` for the noun `rows`, in `1 worker` for `workers`, or None."""
    found = re.fullmatch(rf"([\d,]+) {noun.removesuffix('s')}s?", at)
    return int(found[1].replace(",", "")) if found else None
