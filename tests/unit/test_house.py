"""The house: imports point one way, and facts come from one place."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from support import PROJECT

from liquidity import contract
from liquidity.model import model

PACKAGES = ("liquidity", "serve")


def modules():
    """`{module: path}` of the library and the server."""
    paths = [path for package in PACKAGES for path in (PROJECT / package).rglob("*.py")]
    names = (".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def imports_of(path, known):
    """The modules that a file imports, at its top or later."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_no_imports_go_in_a_circle():
    known = modules()
    graph = {name: imports_of(path, known) & known.keys() for name, path in known.items()}
    done = set()

    def visit(name, above):
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, [*above, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_the_library_knows_nothing_of_the_server():
    known = modules()
    for name, path in known.items():
        if name.startswith("liquidity"):
            assert not [other for other in imports_of(path, known) if other.startswith("serve")]


def test_the_contract_imports_the_standard_library_alone():
    code = "import sys; before = set(sys.modules); import liquidity.contract; "
    code += "print(*sorted(set(sys.modules) - before))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert loaded - {"liquidity"} <= sys.stdlib_module_names


def test_what_the_registered_code_repeats_is_what_the_contract_says():
    """It imports nothing of this project, so it cannot read it there."""
    for name in ("EPSILON", "COIN", "DATE"):
        assert getattr(model, name) == getattr(contract, name), name


def test_scikit_learns_estimators_are_those_of_the_pipeline():
    """Nothing but the pipeline, its search and what judges it knows scikit-learn."""
    known = modules()
    for name, path in known.items():
        estimators = {
            other
            for other in imports_of(path, known)
            if re.match(r"sklearn\.(ensemble|tree|pipeline|preprocessing)", other)
        }
        assert not estimators or name.startswith("liquidity.search."), name


def test_no_start_waits_for_what_writes_a_model():
    """To import skops takes two seconds, of every command that trains and of each bad option."""
    for name, path in {**modules(), "train": PROJECT / "train.py"}.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                assert not any(each.name.startswith("skops") for each in node.names), name
            elif isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("skops"), name


def test_imports_are_not_looked_through_for_garbage_nor_taken_apart_at_the_end():
    program = """
import atexit, gc
from liquidity.command import run
from liquidity.processes import loading
try:
    with loading():
        with loading():
            pass
        assert not gc.isenabled()
        loaded = [[] for _ in range(100)]
        1 / 0
except ZeroDivisionError:
    assert gc.isenabled() and gc.get_freeze_count() > 100
kept = gc.get_freeze_count()
atexit.register(lambda: print(gc.get_freeze_count() - kept > 1000))
more = [[] for _ in range(2000)]
run("program", lambda: None)
assert gc.get_freeze_count() == kept
"""
    job = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (job.stdout, job.stderr) == ("True\n", "")


def test_a_module_can_be_held_in_mind():
    """`model.py` is one file because MLflow keeps one with each model."""
    paths = {**modules(), "train": PROJECT / "train.py"}
    lines = {name: len(path.read_text().splitlines()) for name, path in paths.items()}
    assert lines.pop("liquidity.model.model") < 865
    assert max(lines.values()) < 400, max(lines, key=lines.get)


def test_no_test_module_imports_another():
    tests = {path.stem: path for path in (PROJECT / "tests").rglob("test_*.py")}
    for path in tests.values():
        assert not imports_of(path, {}) & tests.keys(), path


def test_no_two_test_modules_have_one_name():
    """Pytest takes the second for the first, and does not collect it where no caches are."""
    names = [path.name for path in (PROJECT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_no_constant_is_written_out_in_a_text():
    """A changed threshold, coverage or target would make such a text a lie."""
    for path in [
        *modules().values(),
        PROJECT / "train.py",
        *Path(PROJECT / "serve").rglob("*.html"),
    ]:
        if path.name == "contract.py":
            continue
        text = re.sub(r'"""(.*?)"""', "", path.read_text(), flags=re.DOTALL)
        text = re.sub(r"#.*", "", text)
        assert not re.search(r"90 %|above 0\.5|24h_volume / mkt_cap|log10\(liquidity \+ 0", text), (
            path
        )
