"""The plugin of pytest: experiments as tests, their gates as tests, and fixtures."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner

from crucible_core.cli import main

pytest_plugins = ["pytester"]

STAGES = """
from crucible_core import Context, stage

@stage
def measure(ctx: Context, *, accuracy: float = 0.9) -> Context:
    '''Puts a number, and says that it ran.'''
    with open("ran.txt", "a") as file:
        file.write("x")
    return ctx.put_metric("accuracy", accuracy).put_metric("seed", ctx.experiment.seed)

@stage
def breaks(ctx: Context) -> Context:
    '''Fails.'''
    raise ValueError("the loss is NaN")
"""
GOOD = """
id: good
pipeline: [{name: measure, module: "plugin_stages:measure"}]
variants: {better: {measure: {accuracy: 0.95}}}
gates:
  - {name: high, metric: accuracy, at_least: 0.8}
  - {name: higher, metric: accuracy, at_least: 0.99}
  - {name: highest, metric: accuracy, at_least: 0.999, severity: warn}
  - {name: as-before, no_regression: {metric: accuracy, margin: 0.01, baseline: {last_runs: 5}}}
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    folder = pytester.mkdir("experiments")
    (folder / "plugin_stages.py").write_text(STAGES)
    (folder / "good.yaml").write_text(GOOD)
    (folder / "broken.yaml").write_text(
        "id: broken\npipeline: [{name: breaks, module: 'plugin_stages:breaks'}]\n"
        "gates: [{name: high, metric: accuracy, at_least: 0.8}]\n"
    )
    (folder / "data.yaml").write_text("colours: [red, green]\n")
    (folder / "data.json").write_bytes(b"\xff\xfe")
    return pytester


def test_experiments_are_tests_and_so_are_their_gates(project: pytest.Pytester) -> None:
    done = project.runpytest_subprocess("experiments", "--crucible", "-rA", "--junitxml=junit.xml")
    done.assert_outcomes(passed=2, failed=2, skipped=2, xfailed=1)
    done.stdout.fnmatch_lines(
        [
            "*ValueError: the loss is NaN",
            "*stage 'breaks' of experiment 'broken' failed: ValueError: the loss is NaN*",
            "*accuracy*0.99*",
            "SKIPPED*the run did not get to its gates: stage 'breaks'*",
            "XFAIL experiments/good.yaml::gate[[]highest[]]*",
            "FAILED experiments/broken.yaml::run*",
            "FAILED experiments/good.yaml::gate[[]higher[]]*",
        ]
    )
    assert "crucible_core/runner.py" not in done.stdout.str()  # no traceback of ours
    assert (project.path / "ran.txt").read_text() == "x"  # once, for five tests
    cases = {
        f"{one.get('classname')}.{one.get('name')}": one
        for one in ET.parse(project.path / "junit.xml").iter("testcase")
    }
    properties = {one.get("name"): one.get("value") for one in cases["experiments.good.yaml.run"].iter("property")}
    assert properties["accuracy"] == "0.9"
    assert properties["finding"]
    assert cases["experiments.good.yaml.gate[higher]"].find("failure") is not None


def test_one_gate_can_be_asked_for_and_an_ini_file_can_ask_for_all(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\ncrucible = true\n")
    project.runpytest_subprocess("experiments/good.yaml::gate[high]").assert_outcomes(passed=1)
    project.runpytest_subprocess("-k", "good and (run or high)").assert_outcomes(passed=2, failed=1, xfailed=1)


def test_a_file_that_cannot_be_run_is_an_error_of_the_collection(project: pytest.Pytester) -> None:
    (project.path / "experiments" / "wrong.yaml").write_text("id: wrong\npipeline: [{name: bnech}]\n")
    done = project.runpytest_subprocess("experiments/wrong.yaml", "--crucible")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*wrong.yaml:2:13: stage 'bnech': unknown stage 'bnech'; did you mean 'bench'?*"])
    assert "Traceback" not in done.stdout.str()


def test_several_processes_run_an_experiment_once(project: pytest.Pytester) -> None:
    done = project.runpytest_subprocess("experiments/good.yaml", "--crucible", "-n", "2", "--dist", "loadgroup")
    done.assert_outcomes(passed=2, failed=1, skipped=1, xfailed=1)
    assert (project.path / "ran.txt").read_text() == "x"


def test_the_fixtures_run_an_experiment_in_a_folder_of_the_test(project: pytest.Pytester) -> None:
    (project.path / "experiments" / "test_them.py").write_text(
        """
import os
from pathlib import Path

from crucible_core import Experiment, GateFailedError, load_experiment

def test_a_file(run_experiment, crucible_home, tmp_path):
    ctx = run_experiment("good.yaml", seed=3)
    assert ctx.metrics["accuracy"] == 0.9 and ctx.metrics["seed"] == 3
    assert run_experiment("good.yaml", variant="better").metrics["accuracy"] == 0.95
    assert run_experiment("good.yaml", options={"measure": {"accuracy": 0.5}}).metrics["accuracy"] == 0.5
    assert os.environ["DAGSTER_HOME"] == str(crucible_home) and tmp_path in crucible_home.parents

def test_a_value(run_experiment, crucible_home):
    made = Experiment.model_validate({"id": "e", "pipeline": [{"name": "report"}]})
    ctx = run_experiment(made, assigns={"a": 1})
    assert ctx.assigns["a"] == 1
    assert list((crucible_home / "reports").rglob("*.md"))

def test_it_is_left(monkeypatch):
    assert "CRUCIBLE_OUTPUT_ROOT" not in os.environ
"""
    )
    project.runpytest_subprocess("experiments/test_them.py").assert_outcomes(passed=3)


def test_a_project_that_does_not_ask_for_it_pays_nothing(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys

        def test_nothing_is_imported():
            ours = {name for name in sys.modules if name.startswith("crucible_")}
            assert ours == {"crucible_adapters", "crucible_adapters.pytest_plugin"}
            assert not {"pydantic", "ruamel.yaml", "numpy", "dagster"} & sys.modules.keys()
        """
    )
    done = project.runpytest_subprocess("-p", "no:hypothesispytest", "-p", "no:anyio")
    done.assert_outcomes(passed=1)  # and no experiment is collected


# --- the summary of a job on GitHub -----------------------------------------------------------------------------------


def test_the_head_of_the_report_is_added_to_the_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugin_stages.py").write_text(STAGES)
    (tmp_path / "good.yaml").write_text(GOOD)
    summary = tmp_path / "summary.md"
    summary.write_text("# Before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    for _ in range(2):
        assert CliRunner().invoke(main, ["run", "good.yaml", "--github-summary"]).exit_code == 1
    said = summary.read_text()
    assert said.startswith("# Before\n")
    assert said.count("# good\n") == 2
    assert "accuracy = 0.9" in said
    assert "| higher" in said
    assert "What ran" not in said


def test_without_a_job_the_option_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    (tmp_path / "e.yaml").write_text("id: e\npipeline: [{name: validate}]\n")
    done = CliRunner().invoke(main, ["run", "e.yaml", "--github-summary"])
    assert done.exit_code == 2
    assert done.output == (
        "error: --github-summary writes to the file that GITHUB_STEP_SUMMARY names, but that is not set\n"
    )


def test_the_plugin_is_not_imported_by_the_command() -> None:
    code = "import sys, crucible_core.cli; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
