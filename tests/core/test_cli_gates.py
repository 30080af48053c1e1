"""Gates on the command line: `crucible run`, `runs` and `show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from crucible_core.cli import main

FILE = """id: gated
pipeline: [{name: measure, module: "stages_for_tests:measure", options: {value: 0.5}}]
gates:
  - {name: good, metric: accuracy, at_least: 0.9, blocking: BLOCKING}
  - {name: fair, metric: accuracy, at_least: 0.4}
  - {name: typo, metric: acuracy, at_least: 0.4, severity: warn}
  - name: steady
    no_regression: {metric: accuracy, baseline: {last_runs: 3}, margin: 0.1}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))


def crucible(*arguments: str) -> Result:
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done


def run(*options: str, blocking: bool = False) -> Result:
    Path("gated.yaml").write_text(FILE.replace("BLOCKING", str(blocking).lower()))
    return crucible("run", "gated.yaml", *options)


@pytest.mark.slow
@pytest.mark.parametrize("where", [[], ["--dagster"]])
def test_each_gate_is_printed_with_its_sentence(where: list[str]) -> None:
    done = run(*where)
    assert done.exit_code == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "✗ good failed (error) accuracy is 0.5, not at least 0.9",
        "✓ fair passed accuracy is 0.5, at least 0.4",
        "✗ typo failed (warn) there is no metric 'acuracy'; did you mean 'accuracy'?",
    ):
        assert line in lines
    want = "no earlier run of the experiment passed" if where else "it needs the history that Dagster keeps"
    assert any(line.startswith("? steady undecided (warn)") and want in line for line in lines)


def test_a_blocking_gate_that_fails_gives_the_exit_code_of_a_failed_run() -> None:
    done = run(blocking=True)
    assert done.exit_code == 1
    assert "✗ good  failed (blocking)" in done.stdout
    assert "error: a gate of experiment 'gated' did not pass: good: accuracy is 0.5, not at least 0.9" in done.stderr
    told = run("--json", blocking=True)
    assert told.exit_code == 1
    data = json.loads(told.stdout)
    assert (data["status"], data["failure"]["error_type"]) == ("failed", "GateFailedError")
    assert data["metrics"] == {"accuracy": 0.5}
    assert [(one["gate"], one["status"]) for one in data["gates"]] == [
        ("good", "failed"),
        ("fair", "passed"),
        ("typo", "failed"),
        ("steady", "undecided"),
    ]
    assert data["gates"][0]["numbers"] == {"value": 0.5, "bound": 0.9}


@pytest.mark.slow
def test_runs_and_show_tell_the_gates() -> None:
    assert run("--dagster").exit_code == 1
    blocked = run("--dagster", blocking=True)
    assert (blocked.exit_code, "crucible resume" in blocked.stderr) == (1, False)
    assert "did not pass: good: accuracy is 0.5, not at least 0.9" in blocked.stderr
    listed = json.loads(crucible("runs", "--json").stdout)
    assert [(one["status"], one["gates"]) for one in listed] == [("failed", "failed"), ("succeeded", "failed")]
    assert "gates" in crucible("runs").stdout.splitlines()[0]
    shown = crucible("show", listed[0]["run_id"])
    assert shown.exit_code == 0
    assert "✗ good  failed (blocking)  accuracy is 0.5, not at least 0.9" in shown.stdout
    assert "Failure (a gate)" in shown.stdout
    told: dict[str, Any] = json.loads(crucible("show", listed[0]["run_id"], "--json").stdout)
    assert [one["gate"] for one in told["gates"]] == ["good", "fair", "typo", "steady"]
    assert told["failure"]["reason"] == "gate good: accuracy is 0.5, not at least 0.9"


def test_a_mistake_in_a_gate_is_told_with_its_place() -> None:
    Path("wrong.yaml").write_text(FILE.replace("BLOCKING", "true").replace("{last_runs: 3}", "last_passing"))
    done = crucible("validate", "wrong.yaml")
    assert done.exit_code == 2
    assert "wrong.yaml:8:5: gates.3.no_regression: one number of this run" in done.stderr


def gated(*gates: str, metrics: str = "{value: 0.5}") -> None:
    lines = "".join(f"  - {{name: g{number}, {gate}}}\n" for number, gate in enumerate(gates))
    stage = f'{{name: measure, module: "stages_for_tests:measure", options: {metrics}}}'
    Path("gated.yaml").write_text(f"id: gated\npipeline: [{stage}]\ngates:\n{lines}")


GOOD = "metric: accuracy, at_least: 0.1"
FAILED = "metric: accuracy, at_least: 0.9"
UNDECIDED = "no_regression: {metric: accuracy, baseline: {last_runs: 3}, margin: 0.1}"


@pytest.mark.parametrize(
    ("gates", "codes"),
    [
        ([GOOD], (0, 0)),
        ([GOOD, FAILED], (1, 1)),
        ([FAILED + ", severity: warn"], (0, 0)),
        ([UNDECIDED], (0, 1)),
        ([UNDECIDED + ", severity: warn"], (0, 0)),
        (["metric: acuracy, at_least: 0.1"], (1, 1)),
        (["metric: accuracy, is: false"], (1, 1)),
    ],
)
@pytest.mark.parametrize("where", [[], pytest.param(["--dagster"], marks=pytest.mark.slow)])
def test_the_exit_code_tells_whether_the_gates_passed(
    gates: list[str], codes: tuple[int, int], where: list[str]
) -> None:
    gated(*gates)
    # One run on Dagster is enough for both codes there: they are made from the same results.
    for options, code in zip(([], ["--gates", "strict"]), codes, strict=True):
        done = crucible("run", "gated.yaml", *options, *where)
        assert done.exit_code == code, done.output
        assert ("did not pass" in done.stderr) == (code == 1)
        assert "crucible resume" not in done.stderr


def test_gates_that_did_not_pass_are_named_with_what_was_found() -> None:
    gated(FAILED, "metric: accurasy, at_least: 0.1", UNDECIDED)
    done = crucible("run", "gated.yaml")
    said = "g0: accuracy is 0.5, not at least 0.9; g1: there is no metric 'accurasy'; did you mean 'accuracy'?"
    assert f"error: 2 gates of experiment 'gated' did not pass: {said}\n" in done.stderr
    done = crucible("run", "gated.yaml", "--gates", "strict", "--json")
    assert "; g2: undecided: it needs the history that Dagster keeps" in done.stderr
    # The run itself is as good as its stages: only a blocking gate fails it.
    assert json.loads(done.stdout)["status"] == "succeeded"
    assert crucible("run", "gated.yaml", "--gates", "lax").exit_code == 2


@pytest.mark.slow
def test_a_resumed_run_has_the_same_exit_codes() -> None:
    gated(UNDECIDED, FAILED + ", blocking: true")
    crucible("run", "gated.yaml", "--dagster")
    first = json.loads(crucible("runs", "--json").stdout)[0]["run_id"]
    done = crucible("resume", first)
    assert (done.exit_code, "g0" in done.stderr) == (1, False)
    done = crucible("resume", first, "--gates", "strict")
    assert (done.exit_code, "2 gates of experiment" in done.stderr) == (1, True)
