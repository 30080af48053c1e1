"""Scripts that run experiments in step processes, with no `if __name__ == "__main__":` around it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = """\
from pathlib import Path
from crucible_core import Context, stage

class Thing:
    n = 3

@stage
def go(ctx: Context) -> Context:
    return ctx.assign(thing=Thing())

@stage
def more(ctx: Context) -> Context:
    if not Path("mended").exists():
        raise ValueError("not yet")
    return ctx.put_metric("n", ctx.assigns["thing"].n)
"""
RUN = """\
from crucible_core import StageFailedError, load_experiment
from crucible_dagster import execute_experiment
print("loaded", __file__ is not None)
try:
    print(execute_experiment(load_experiment("e.yaml"), executor="multiprocess").metrics["n"])
except StageFailedError as error:
    print(error.stage, "failed")
"""
RESUME = """\
from crucible_dagster import History, open_instance
from crucible_dagster.rerun.resume import resume_run
print("loaded")
with open_instance() as instance:
    run = next(iter(History(instance).runs("e"))).run_id
    print(resume_run(instance, run).metrics["n"])
"""


def printed(program: str, *arguments: str) -> list[str]:
    Path("script.py").write_text(program)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("arguments", [("script.py",), ("-m", "script")])
def test_a_script_runs_once_and_a_failed_run_is_resumed(arguments: tuple[str, ...]) -> None:
    Path("s.py").write_text(STAGES)
    Path("e.yaml").write_text(
        "id: e\npipeline: [{name: go, module: 's:go'}, {name: more, module: 's:more'}]\n"
        "execution: {executor: multiprocess}\n"
    )
    assert printed(RUN, *arguments) == ["loaded True", "more failed"]
    Path("mended").touch()
    assert printed(RESUME, *arguments) == ["loaded", "3"]
