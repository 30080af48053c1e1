"""What is loaded, and what is not: the core knows nothing of Dagster, and heavy libraries wait until they are used."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import crucible_core
from crucible_core.values.entry_points import installed_entries

HEAVY = [
    "crucible_dagster",
    "dagster",
    "matplotlib",
    "numpy",
    "opentelemetry",
    "pandas",
    "plotly",
    "scipy",
    "sklearn",
]
CORE = Path(crucible_core.__file__).parent


def loaded(program: str) -> set[str]:
    """Which of the heavy modules a new interpreter has loaded after the program."""
    report = f"\nimport sys\nprint('loaded:', *(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program + report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("loaded:").split())


def command(*arguments: str) -> str:
    return (
        "from crucible_core.cli import main\n"
        "try:\n"
        f"    main({list(arguments)!r})\n"
        "except SystemExit as done:\n"
        "    assert not done.code, done.code\n"
    )


@pytest.fixture
def file() -> str:
    Path("experiment.yaml").write_text(
        "id: a\npipeline: [{name: data_checks}, {name: bench}, {name: report}, {name: validate}]\n"
        "outputs: [{name: r, formats: [markdown, html, json, latex, csv]}]\n"
    )
    return "experiment.yaml"


@pytest.mark.slow
def test_importing_the_core_loads_nothing_heavy() -> None:
    assert loaded("from crucible_core import *\nimport crucible_bench.plots") == set()


# What `crucible --help` shows of the adapter: its commands by name, without Dagster.
FACE = {"crucible_dagster"}


@pytest.mark.slow
def test_looking_around_loads_nothing_heavy() -> None:
    looks = [["--version"], ["stages"], ["stages", "bench"], ["schema"]]
    assert loaded("".join(command(*arguments) for arguments in looks)) == set()
    assert loaded(command("--help") + command("run", "--help")) == FACE


# What takes a quarter of a second or more to import, and what needs it.
WAIT = {"crucible_core.context", "crucible_core.ir.experiment", "numpy", "pydantic", "rich", "ruamel.yaml"}


def modules_after(program: str) -> set[str]:
    """Every module that a new interpreter has loaded after the program."""
    report = "\nimport sys\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program + report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("loaded:").split())


@pytest.mark.slow
def test_help_waits_for_nothing_that_only_a_command_needs() -> None:
    found = modules_after(command("--help"))
    assert found.isdisjoint(WAIT), found & WAIT
    assert sum(name.startswith(("crucible_core", "crucible_dagster")) for name in found) <= 14


@pytest.mark.slow
def test_validating_waits_for_no_renderer_no_chart_and_no_stage_that_the_experiment_does_not_have() -> None:
    Path("plain.yaml").write_text("id: a\npipeline: [{name: validate}, {name: report}]\n")
    found = modules_after(command("validate", "plain.yaml"))
    unwanted = {"crucible_core.report.render", "crucible_bench.plots", "crucible_core.stages.bench", "rich"}
    assert found.isdisjoint(unwanted), found & unwanted


def test_a_public_name_stays_what_it_is_when_a_module_of_that_name_is_imported() -> None:
    for name in ("progress", "stage"):
        importlib.import_module(f"crucible_core.{name}")
        assert inspect.isfunction(getattr(crucible_core, name))


def test_the_entry_points_are_those_that_python_finds() -> None:
    for group in ("crucible.stages", "crucible.commands", "console_scripts"):
        known = {(entry.name, entry.value) for entry in importlib.metadata.entry_points(group=group)}
        assert {(entry.name, entry.value) for entry in installed_entries(group)} == known


def test_what_is_installed_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Path("site").absolute()
    site.mkdir()
    os.utime(site, (0, 0))  # for file systems that tell times apart by milliseconds only
    monkeypatch.syspath_prepend(site)
    assert installed_entries("of.a.test") == []
    about = site / "later-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: later\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[of.a.test]\na = later:a\n")
    assert [entry.value for entry in installed_entries("of.a.test")] == ["later:a"]


@pytest.mark.slow
def test_validating_and_running_without_statistics_load_nothing_heavy(file: str) -> None:
    Path("plain.yaml").write_text("id: a\npipeline: [{name: validate}, {name: report}]\n")
    assert loaded(command("validate", file)) == set()
    assert loaded(command("run", "plain.yaml")) == FACE


@pytest.mark.slow
def test_comparing_loads_scipy_but_neither_dagster_nor_plots() -> None:
    Path("experiment.yaml").write_text("id: a\npipeline: [{name: g, module: 'g:groups'}, {name: bench}]\n")
    Path("g.py").write_text(
        "from crucible_core import Context, stage\n@stage\ndef groups(ctx: Context) -> Context:\n"
        "    return ctx.assign(bench_data={'a': [1, 2, 3, 4], 'b': [2, 3, 5, 6]})\n"
    )
    assert loaded(command("run", "experiment.yaml")) <= {"numpy", "scipy", "pandas", *FACE}


def test_every_public_name_exists_and_is_listed_in_order() -> None:
    names = crucible_core.__all__
    assert sorted(names) == list(names)
    assert len(set(names)) == len(names)
    for name in names:
        assert hasattr(crucible_core, name)
    assert set(names) <= set(dir(crucible_core))


def test_no_module_of_the_core_reads_pickles_or_evaluates_text() -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    # Trials begin with what this process has pickled for them, in its memory or in a temporary file of its own.
    # A stage goes on from a checkpoint that it has pickled itself, in the folder of its own run.
    own = {CORE / "trials" / "shared.py", CORE / "run_state" / "checkpoints.py"}
    assert all(one.exists() for one in own)
    for source in set(CORE.rglob("*.py")) - own:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                assert not forbidden & {alias.name.partition(".")[0] for alias in node.names}, source
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile", "__import__"}, source
