"""The benchmarks' bookkeeping: what is measured in turn, reported and published. No timings."""

import io
import json
import math
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from support import PROJECT

from benchmarks import __main__ as benchmarks
from benchmarks import report
from benchmarks.measure import Bench, apart, each, process, python, run
from benchmarks.servers import check_wrk
from liquidity.report.formatting import short_number

PART = {
    "date": "2026-11-25T08:00:00+00:00",
    "seconds": 12,
    "load_before": 0.1,
    "quick": False,
    "figures": [
        {"subject": "ours", "at": "1,000 rows", "measure": "rows/s", "values": [20, 30, 25]},
        {"subject": "theirs", "at": "1,000 rows", "measure": "rows/s", "values": [10, 10, 10]},
        {"subject": "ours", "at": "start", "measure": "seconds", "values": [2.25]},
    ],
    "ratios": [[["ours", "1,000 rows", "rows/s"], ["theirs", "1,000 rows", "rows/s"]]],
    "notes": ["All is equal."],
    "failures": ["wrk: it is missing"],
}
RESULTS = {"machine": report.machine(), "parts": {"files": PART}}


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, quick=False, console=Console(file=io.StringIO()))


def test_the_page_has_what_the_results_hold():
    published = report.PAGE.read_text().partition(report.BEGIN)[2].partition(report.END)[0]
    assert published.strip() == report.markdown(report.read(report.RESULTS))


def test_readme_has_the_medians_of_three_ratios():
    """Whoever measures anew and publishes writes them into README by hand."""
    quoted = {
        "search": "GridSearchCV with mlflow autolog / this search, tracked: 27 trials, seconds",
        "serving": "python -m serve / mlflow models serve, this model: one row, requests/s",
        "files": "liquidity.scoring / mlflow models predict on the pipeline: "
        "1,000,000 rows, rows/s",
    }
    parts = report.read(report.RESULTS)["parts"]
    medians = [
        short_number(statistics.median(report.ratios(parts[name])[text]))
        for name, text in quoted.items()
    ]
    section = (PROJECT / "README.md").read_text().partition("## How fast")[2].partition("\n## ")[0]
    assert re.findall(r"^\|.*\| ([\d.,]+) \|$", section, re.MULTILINE) == medians


def test_the_table_has_ratios_within_rounds_and_the_figures_behind_them():
    lines = report.markdown(RESULTS).splitlines()
    assert "| files: ours / theirs: 1,000 rows, rows/s | 2.5 (2-3) | 3 |" in lines
    assert "| ours, 1,000 rows | 25 (20-30) |" in lines
    assert "| ours, start | 2.25 |" in lines
    assert "files: All is equal." in lines
    assert "files FAILED: wrk: it is missing" in lines


def test_of_a_growing_size_the_table_has_the_largest():
    sizes = ("1,000 rows", "10,000 rows")
    part = PART | {
        "figures": [
            {"subject": subject, "at": at, "measure": "rows/s", "values": [10]}
            for subject in ("ours", "theirs")
            for at in sizes
        ],
        "ratios": [[["ours", at, "rows/s"], ["theirs", at, "rows/s"]] for at in sizes],
    }
    lines = report.markdown(RESULTS | {"parts": {"files": part, "search": part}}).splitlines()
    compared = [line for line in lines if "ours / theirs" in line]
    assert [line.partition(":")[0] for line in compared] == ["| files", "| search", "| search"]
    assert "10,000 rows" in compared[0]


@pytest.mark.parametrize(
    ("over", "under", "text"),
    [
        (["a", "9 rows", "s"], ["b", "9 rows", "s"], "a / b: 9 rows, s"),
        (["a", "2 workers", "s"], ["a", "1 worker", "s"], "2 workers / 1 worker: a, s"),
        (["a", "row", "p99"], ["b", "row", "p50"], "a, p99 / b, p50: row"),
    ],
)
def test_a_ratio_says_what_differs_and_what_is_the_same(over, under, text):
    assert report.describe(over, under) == text


def test_every_curve_is_drawn_for_the_parts_that_there_are(tmp_path):
    assert report.CURVES.keys() <= benchmarks.PARTS.keys()
    results = report.read(report.RESULTS)
    assert report.CURVES.keys() <= results["parts"].keys()
    for some in (results, RESULTS):
        figure = report.draw(some)
        figure.savefig(tmp_path / "growth.png")
        assert len(figure.axes) == len(report.CURVES.keys() & some["parts"].keys())
        assert all(axes.lines for axes in figure.axes)


def test_publishing_replaces_what_stands_between_the_marks(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report, "PICTURE", tmp_path / "growth.png")
    report.publish(RESULTS)
    first = page.read_text()
    report.publish(RESULTS)
    assert page.read_text() == first
    assert first.startswith("before\n")
    assert first.endswith("\nafter\n")
    assert "old" not in first
    assert report.markdown(RESULTS) in first


def test_results_of_another_machine_are_not_mixed_with_this_ones(tmp_path, capsys):
    path = tmp_path / "results" / "bench.json"
    empty = {"machine": RESULTS["machine"], "parts": {}}
    assert report.read_own(path) == empty
    report.write(path, RESULTS)
    assert report.read_own(path) == RESULTS
    report.write(path, RESULTS | {"machine": RESULTS["machine"] | {"cores": 1000}})
    assert report.read_own(path) == empty
    assert capsys.readouterr().out.endswith(
        "bench.json is of another machine or other versions and is replaced\n"
    )


def test_ways_take_turns_and_one_that_fails_leaves_the_others_alone(bench):
    asked = []

    def way(name):
        asked.append(name)
        if name == "b" and len(asked) > 3:
            raise RuntimeError("it broke")
        return {"seconds": len(asked)}

    ways = {(name, "9 rows"): lambda name=name: way(name) for name in "abc"}
    bench.in_turn("Turns", ways, rounds=3)
    bench.ratio(("c", "9 rows"), ("a", "9 rows"), "seconds", "peak MB")
    bench.ratio(("c", "9 rows"), ("missing", "9 rows"), "seconds")
    assert asked == ["a", "b", "c", "c", "b", "a", "a", "c"]
    assert bench.failures == ["b 9 rows: it broke"]
    assert bench.figures["b", "9 rows", "seconds"] == [2]
    assert bench.ratios == [(("c", "9 rows", "seconds"), ("a", "9 rows", "seconds"))]


def test_a_part_that_fails_is_kept_as_failed_and_the_next_one_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "QUICK", tmp_path / "quick.json")
    monkeypatch.setattr(benchmarks, "PARTS", {"one": "benchmarks.none:f", "two": "builtins:id"})
    assert benchmarks.main(["--quick"]) == 1
    parts = json.loads((tmp_path / "quick.json").read_text())["parts"]
    assert parts["one"]["failures"] == ["one: No module named 'benchmarks.none'"]
    assert parts["two"]["failures"] == []
    assert "one FAILED: one: No module named" in capsys.readouterr().out


def test_an_unknown_part_is_one_sentence(capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmarks.main(["nonsense"])
    assert "there is no part 'nonsense'; there are search," in capsys.readouterr().err


def test_publishing_without_results_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "none.json")
    assert benchmarks.main(["--publish"]) == 2
    assert capsys.readouterr().err.endswith("none.json: run python -m benchmarks first\n")


def test_a_missing_wrk_is_said_with_its_cure(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="apt-get install wrk"):
        check_wrk()


def test_processes_of_their_own_give_a_value_or_their_last_words(tmp_path):
    assert apart(math.sqrt, 49) == 7
    with pytest.raises(RuntimeError, match="sqrt: exit code 1: ValueError"):
        apart(math.sqrt, -1)
    assert run(["sleep", "0.3"], tmp_path)["peak MB"] > 0
    with pytest.raises(RuntimeError, match="exit code 1: cat: none: No such file"):
        run(["cat", "none"], tmp_path)


def test_a_command_splits_texts_and_nothing_else():
    expected = [sys.executable, "-m", "serve", "--port", "80", "a b"]
    assert python("-m serve --port", 80, Path("a b")) == expected


def test_a_process_takes_all_that_it_started_with_it():
    with process(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE) as job:
        started = int(job.stdout.readline())
        assert each(job.pid, lambda process: process.pid) == [job.pid, started]
    before = time.monotonic()
    with job.stdout:
        assert job.stdout.read() == b""  # at the end of the last one that could write
    assert time.monotonic() - before < 30
