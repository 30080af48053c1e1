"""The house: which package imports which, and that no import runs in a circle. Lazy and type-checking imports count."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("crucible_bench", "crucible_core", "crucible_dagster", "crucible_adapters")
# What a package may import of the three: itself, and what stands before it.
FLOORS = {name: set(PACKAGES[: floor + 1]) for floor, name in enumerate(PACKAGES)}
# Old names, until version 1.0.
ALIASES = [ROOT / package / "moved" for package in ("crucible_core", "crucible_dagster")]
# The orchestration core: what a newcomer sees first.
THE_IDEA = ("context", "stage", "registry", "trace", "plan", "runner", "observers", "errors", "run_errors")


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if any(folder in path.parents and path != folder / "__init__.py" for folder in ALIASES):
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


# When they are asked for: every worker that runs tests imports this file.
@functools.cache
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in the source; of `from a import b`, `a.b` where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            assert node.module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


@functools.cache
def imports() -> dict[str, set[str]]:
    return {name: set(imported(tree)) for name, tree in trees().items()}


def room(module: str) -> str:
    """The folder of a package, or the module that stands at its top."""
    return ".".join(module.split(".")[:2])


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_import_runs_in_a_circle() -> None:
    assert circle({name: (found & MODULES.keys()) - {name} for name, found in imports().items()}) == []


def test_no_import_runs_in_a_circle_of_folders() -> None:
    rooms: dict[str, set[str]] = {}
    for name, found in imports().items():
        if "." in name:
            others = {room(other) for other in found if other in MODULES and "." in other}
            rooms.setdefault(room(name), set()).update(others - {room(name)})
    assert len(rooms) > 50
    assert circle(rooms) == []


def test_a_circle_would_be_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()})


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    for name, found in imports().items():
        if name.partition(".")[0] == package:
            ours = {other.partition(".")[0] for other in found} & set(PACKAGES)
            assert ours <= FLOORS[package], f"{name} imports {sorted(ours - FLOORS[package])}"


# What a result of the statistics is, and how it is shown: the rest of crucible_bench computes.
RESULTS = {"compared", "comparison", "errors", "finding", "numbers", "plots", "result", "vocabulary", "wording"}
INTERPRETATION = "crucible_bench.effect_sizes.interpretation"
"""How large an effect is, in words."""
COMPUTING = {"gates.regression", "stages.bench", "trials.until"}


def test_the_core_computes_statistics_in_three_modules() -> None:
    using = set()
    for name, found in imports().items():
        if name.startswith("crucible_core."):
            used = {other.split(".")[1] for other in found - {INTERPRETATION} if other.startswith("crucible_bench.")}
            if used - RESULTS:
                using.add(name.removeprefix("crucible_core."))
    assert using == COMPUTING


def texts(tree: ast.AST) -> Iterator[str]:
    """The string constants of a source that are not documentation."""
    documentation = set()
    for node in ast.walk(tree):  # an expression comes before what it consists of
        if isinstance(node, ast.Expr):
            documentation.add(id(node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_neither_the_core_nor_the_statistics_name_the_adapter_in_any_form() -> None:
    # As a module that could be imported by name; `pip install 'crucible-dagster[stats]'` is the name of the project.
    named = re.compile(r"(?<![-\w])(crucible_dagster|dagster)\b")
    for name, tree in trees().items():
        if name.partition(".")[0] in ("crucible_dagster", "crucible_adapters"):
            continue
        assert not {other for other in imports()[name] if named.match(other)}, name
        assert not [text for text in texts(tree) if named.search(text)], name


def test_the_statistics_know_nothing_of_the_core() -> None:
    for name, tree in trees().items():
        if name.partition(".")[0] == "crucible_bench":
            assert not [text for text in texts(tree) if "crucible_core" in text], name


def code_lines(path: Path) -> int:
    """Lines that are neither blank, nor comments, nor documentation."""
    source = path.read_text()
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return sum(
        1
        for number, line in enumerate(source.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#") and number not in skipped
    )


def test_the_orchestration_core_stays_small() -> None:
    lines = {name: code_lines(MODULES[f"crucible_core.{name}"]) for name in THE_IDEA}
    assert sum(lines.values()) <= 1_230, lines


def test_the_idea_stands_at_the_top_of_the_core() -> None:
    top = {path.stem for path in (ROOT / "crucible_core").glob("*.py")} - {"__init__"}
    assert top == {*THE_IDEA, "metrics", "progress"}
