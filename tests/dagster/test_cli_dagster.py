"""`crucible run --dagster`: the same result as without, on the right instance, and marked when it ends badly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import pytest
from dagster import DagsterInstance, DagsterRunStatus

CRUCIBLE = str(Path(sys.executable).with_name("crucible"))

STAGES = """
import time
from crucible_core import Context, stage

@stage
def measure(ctx: Context, *, value: float = 0.5, bad: bool = False) -> Context:
    print("a line of the stage's own")
    ctx = ctx.put_metric("value", value).put_metric("nan", float("nan")).decide("measured", "why not")
    if bad:
        raise RuntimeError("bad was asked for")
    return ctx

@stage
def wait(ctx: Context, *, seconds: float = 60.0) -> Context:
    time.sleep(seconds)
    return ctx
"""

EXPERIMENT = """
id: cli-run
pipeline:
  - name: measure
    module: cli_stages:measure
  - {name: again, module: cli_stages:measure, options: {value: 2}, enabled: false}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cli_stages.py").write_text(STAGES)
    (tmp_path / "cli.yaml").write_text(EXPERIMENT)
    return tmp_path


def crucible(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return commands.crucible(*arguments, cwd=folder, env={**os.environ, **environment})


def test_both_ways_print_the_same_metrics(folder: Path) -> None:
    options = ["run", "cli.yaml", "--json", "--set", "measure.value=0.25"]
    direct, dagster = crucible(*options, folder=folder), crucible(*options, "--dagster", folder=folder)
    assert direct.returncode == dagster.returncode == 0, dagster.stderr
    first, second = json.loads(direct.stdout), json.loads(dagster.stdout)
    assert first["metrics"] == second["metrics"] == {"value": 0.25, "nan": "NaN"}
    assert first["stages"] == second["stages"] == {"measure": "succeeded", "again": "skipped"}
    assert first["experiment"] == second["experiment"]
    assert first["run_id"] != second["run_id"]


def test_the_run_is_kept_on_the_embedded_instance(folder: Path) -> None:
    ran = crucible("run", "cli.yaml", "--dagster", "--json", folder=folder)
    with DagsterInstance.from_config(str(folder / ".crucible" / "dagster")) as instance:
        (run,) = instance.get_runs()
    assert run.run_id == json.loads(ran.stdout)["run_id"]
    assert run.job_name == "cli_run"
    assert run.tags["crucible/experiment"] == "cli-run"
    assert run.status is DagsterRunStatus.SUCCESS


def test_the_run_is_kept_on_the_instance_of_dagster_home(folder: Path) -> None:
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    ran = crucible("run", "cli.yaml", "--dagster", folder=folder, DAGSTER_HOME=str(home))
    assert ran.returncode == 0, ran.stderr
    assert not (folder / ".crucible").exists()
    with DagsterInstance.from_config(str(home)) as instance:
        assert len(instance.get_runs()) == 1


def test_a_failed_run_exits_with_one_and_is_marked(folder: Path) -> None:
    ran = crucible("run", "cli.yaml", "--dagster", "--set", "measure.bad=true", folder=folder)
    assert ran.returncode == 1
    assert "error: stage 'measure' failed: RuntimeError: bad was asked for" in ran.stderr
    assert "cli_stages.py" in ran.stderr
    with DagsterInstance.from_config(str(folder / ".crucible" / "dagster")) as instance:
        assert [run.status for run in instance.get_runs()] == [DagsterRunStatus.FAILURE]


def test_a_name_that_dagster_refuses_exits_with_two(folder: Path) -> None:
    (folder / "cli.yaml").write_text(EXPERIMENT.replace("cli-run", "type"))
    ran = crucible("run", "cli.yaml", "--dagster", folder=folder)
    assert ran.returncode == 2
    assert "cli.yaml:2:1: Dagster reserves the name 'type'" in ran.stderr
    assert crucible("run", "cli.yaml", folder=folder).returncode == 0


@pytest.mark.parametrize("way", [[], ["--dagster"]])
def test_ctrl_c_marks_the_run_keeps_what_there_is_and_exits_with_130(folder: Path, way: list[str]) -> None:
    (folder / "cli.yaml").write_text(EXPERIMENT + "  - {name: wait, module: cli_stages:wait}\n")
    running = subprocess.Popen(
        [CRUCIBLE, "run", "cli.yaml", *way], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    for line in running.stdout:
        if "… wait" in line:
            break
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "interrupted in stage 'wait'" in said
    (partial,) = folder.glob("reports/cli-run/*/partial.json")
    kept = json.loads(partial.read_text())
    assert kept["metrics"]["value"] == 0.5
    assert kept["failure"] == {"stage": "wait", "error_type": "KeyboardInterrupt", "message": "interrupted"}
    if way:
        with DagsterInstance.from_config(str(folder / ".crucible" / "dagster")) as instance:
            (run,) = instance.get_runs()
        assert run.is_finished
        assert run.status in {DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}


def test_two_first_runs_at_once_both_succeed(folder: Path) -> None:
    running = [
        subprocess.Popen(
            [CRUCIBLE, "run", "cli.yaml", "--dagster"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    ended = [(one.communicate(timeout=180), one.returncode) for one in running]
    assert [code for _, code in ended] == [0, 0, 0], ended
