"""A folder of the run, and checkpoints that survive a kill, in runs in this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from checkpoint_stages import count
from click.testing import CliRunner
from stages_for_tests import experiment_of

from crucible_core import Context, Experiment, Registry, run_experiment, stage
from crucible_core.cli import main

REGISTRY = Registry({"count": count})
RUN = """
from crucible_core import Experiment, run_experiment
entry = {"name": "count", "module": "checkpoint_stages:count"}
experiment = Experiment.model_validate({"id": "tried", "pipeline": [entry]})
run_experiment(experiment, %s)
"""


def counting(**entry: Any) -> Experiment:
    return experiment_of({"name": "count", "module": "checkpoint_stages:count", **entry})


@pytest.mark.slow
@pytest.mark.parametrize("given", [{"run_id": "one"}, {"keep": "kept"}])
def test_a_run_goes_on_from_the_checkpoint_of_one_that_was_killed(given: dict[str, str]) -> None:
    (name, value), *_ = given.items()
    environment = {**os.environ, "DIE_AT": "4", "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", RUN % f"{name}={value!r}"], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    ctx = run_experiment(counting(), **given)  # type: ignore[arg-type]
    assert ctx.metrics == {"total": 21, "began_at": 4}
    path = Path(ctx.artifacts["checkpoint.count.state"])
    assert path.is_relative_to(
        Path("kept/folders/tried").absolute() if "keep" in given else Path("reports/folders/one").absolute()
    )
    assert not list(path.parent.glob(".*"))


def test_runs_that_have_nothing_to_do_with_each_other_begin_anew() -> None:
    run_experiment(counting(), run_id="one")
    assert run_experiment(counting(), run_id="two").metrics["began_at"] == 0
    assert run_experiment(counting(options={"epochs": 8}), run_id="one").metrics["began_at"] == 0
    assert run_experiment(counting(options={"epochs": 8}), run_id="one").metrics["began_at"] == 8


def test_a_run_begins_anew_if_a_stage_before_had_other_options_but_not_for_one_after() -> None:
    def began_at(*, before: int, after: int) -> int:
        first = {"name": "first", "module": "count", "options": {"epochs": before}}
        last = {"name": "last", "module": "show", "options": {"lines": after}}
        registry = REGISTRY | {"show": show}
        return int(
            run_experiment(experiment_of(first, "count", last), registry=registry, keep="kept").metrics["began_at"]
        )

    @stage
    def show(ctx: Context, *, lines: int) -> Context:
        """Shows nothing."""
        return ctx

    assert [began_at(before=1, after=1), began_at(before=1, after=2), began_at(before=2, after=2)] == [0, 6, 0]


@pytest.mark.parametrize("timeout", [{}, pytest.param({"timeout": 60}, marks=pytest.mark.slow)])
def test_the_next_attempt_goes_on(monkeypatch: pytest.MonkeyPatch, timeout: dict[str, Any]) -> None:
    if timeout:
        run_experiment(counting(), run_id="one")
        assert run_experiment(counting(**timeout), run_id="one").metrics["began_at"] == 6
    monkeypatch.setenv("FAIL_AT", "2")
    if not timeout:
        assert run_experiment(counting(retry={"max_retries": 1})).metrics == {"total": 21, "began_at": 2}


def test_the_order_of_the_options_does_not_matter() -> None:
    @stage
    def both(ctx: Context, *, first: int = 0, last: int = 0) -> Context:
        """Counts how often it has run."""
        times = ctx.restore("times", 0) + 1
        return ctx.checkpoint("times", times).put_metric("times", times)

    def times(**options: int) -> int:
        entry = {"name": "both", "options": options}
        return int(
            run_experiment(experiment_of(entry), registry=Registry({"both": both}), keep="kept").metrics["times"]
        )

    assert [times(first=1, last=2), times(last=2, first=1), times(first=2, last=1)] == [1, 2, 1]


def test_a_command_goes_on_from_what_an_earlier_one_has_kept(tmp_path: Path) -> None:
    (tmp_path / "counted.yaml").write_text("id: tried\npipeline: [{name: count, module: 'checkpoint_stages:count'}]\n")

    def began_at(*more: str) -> int:
        done = CliRunner().invoke(main, ["run", "counted.yaml", "--json", *more])
        assert done.exit_code == 0, done.output
        return int(json.loads(done.stdout)["metrics"]["began_at"])

    assert [began_at("--keep", "kept"), began_at("--keep", "kept"), began_at()] == [0, 6, 0]


def test_a_stage_has_checkpoints_of_its_own() -> None:
    experiment = experiment_of("count", {"name": "again", "module": "count"})
    ctx = run_experiment(experiment, registry=REGISTRY)
    assert ctx.metrics["began_at"] == 0
    assert {*ctx.artifacts} == {"checkpoint.count.state", "checkpoint.again.state"}


def test_trials_have_folders_of_their_own() -> None:
    swept = Experiment.model_validate(
        {
            "id": "swept",
            "pipeline": [{"name": "count", "module": "checkpoint_stages:count"}],
            "trials": {"measure": "total", "grid": {"count.epochs": [2, 3]}, "replicates": 2},
        }
    )
    assert [row["began_at"] for row in run_experiment(swept, run_id="one").outputs] == [0, 0, 0, 0]


def test_threads_of_a_stage_have_the_folder_of_the_run() -> None:
    found = []

    @stage
    def threads(ctx: Context) -> Context:
        """Asks for the folder in a thread."""
        thread = threading.Thread(target=lambda: found.append(ctx.folder))
        thread.start()
        thread.join()
        found.append(ctx.folder)
        return ctx

    run_experiment(experiment_of("threads"), registry=Registry({"threads": threads}), run_id="one")
    assert found == [Path("reports/folders/one").absolute()] * 2


def test_a_context_of_no_run_has_a_temporary_folder_and_nothing_is_made_unasked(tmp_path: Path) -> None:
    ctx = Context.begin(counting())
    assert ctx.folder.is_dir()
    assert not ctx.folder.is_relative_to(tmp_path)
    assert ctx.restore("state") is None
    assert ctx.checkpoint("state", [1]).restore("state") == [1]
    assert not (tmp_path / "reports").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before() -> None:
    ctx = Context.begin(counting()).checkpoint("state", 1)
    with pytest.raises(Exception, match="pickle"):
        ctx.checkpoint("state", lambda: None)
    assert ctx.restore("state") == 1
    assert len(list(ctx.folder.rglob("*.pickle"))) == 1
