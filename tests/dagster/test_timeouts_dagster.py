"""Stages with a time limit, and asynchronous ones, are on Dagster what they are without."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dagster import DagsterEventType, DagsterInstance

from crucible_core import Context, Experiment, StageFailed, StageFailedError, StageTimeoutError, run_experiment
from crucible_core.cli import main
from crucible_core.report import diff_traces
from crucible_dagster import History, execute_experiment
from crucible_dagster.rerun.resume import resume_run

Run = Callable[[Experiment], Context]


@pytest.fixture(scope="module")
def instance(open_instance: Callable[[], AbstractContextManager[DagsterInstance]]) -> Iterator[DagsterInstance]:
    with open_instance() as opened:
        yield opened


@pytest.fixture(params=["in_process", "multiprocess"])
def run(request: pytest.FixtureRequest, instance: DagsterInstance) -> Run:
    return lambda experiment: execute_experiment(experiment, instance=instance, executor=request.param)


def experiment(*stages: str | dict[str, Any], **more: Any) -> Experiment:
    entries = [{"name": one} if isinstance(one, str) else one for one in stages]
    pipeline = [{"module": f"timed_stages:{entry['name']}", **entry} for entry in entries]
    return Experiment.model_validate({"id": "timed", "pipeline": pipeline, **more})


def test_a_stage_with_a_time_limit_gives_the_same_and_what_it_logs_is_in_the_log_of_the_run(
    run: Run, instance: DagsterInstance
) -> None:
    described = experiment(
        "load", {"name": "quick", "timeout": 60}, "AsyncClass", {"name": "wait_async", "timeout": 60}
    )
    direct, dagster = run_experiment(described), run(described)
    assert direct.differences(dagster) == ()
    assert diff_traces(direct.trace, dagster.trace) == ()
    assert dagster.assigns["data"] == [1, 2, 3, 4]
    assert dagster.metrics["answers"] == [0, 1, 2]
    said = [entry.user_message for entry in instance.all_logs(dagster.run_id)]
    assert any("this is quick" in line for line in said)
    assert any("counting" in line for line in said)


def test_a_stage_that_takes_too_long_fails_in_both(run: Run, instance: DagsterInstance) -> None:
    described = experiment("load", {"name": "in_c", "timeout": 0.5})
    failures = []
    for one in (run_experiment, run):
        with pytest.raises(StageFailedError) as caught:
            one(described)
        failures.append(caught.value)
    direct, dagster = failures
    assert str(direct) == str(dagster)
    assert direct.context.differences(dagster.context) == ()
    assert isinstance(dagster.__cause__, StageTimeoutError)
    assert dagster.__cause__.seconds == 0.5
    (failed,) = instance.all_logs(dagster.context.run_id, of_type=DagsterEventType.STEP_FAILURE)
    assert "took longer than its `timeout` of 0.5 s" in str(failed.dagster_event)


@pytest.mark.parametrize(("timeout", "cache"), [(None, False), (60, False), (None, True)])
def test_what_a_stage_had_put_when_it_failed_is_kept_and_a_resumed_one_begins_without_it(
    run: Run, instance: DagsterInstance, tmp_path: Path, timeout: float | None, cache: bool
) -> None:
    def described(file: str | None) -> Experiment:
        options = {"options": {"file": file}} if file else {}
        return experiment("load", {"name": "half", "timeout": timeout, "cache": cache, **options})

    failures = []
    for one, file in ((run_experiment, None), (run, None), (run, str(tmp_path / "tried"))):
        with pytest.raises(StageFailedError) as caught:
            one(described(file))
        failures.append(caught.value.context)
    direct, dagster, resumable = failures
    assert direct.differences(dagster) == ()
    assert dagster.metrics == {"loaded": 4, "kept": 0.5, "epoch": 7}
    history = History(instance)
    found = history.run(dagster.run_id)
    assert found.metrics == {"loaded": 4, "kept": 0.5, "epoch": 7}
    assert found.failure is not None
    assert found.failure.unfinished == ("metrics.loaded", "metrics.epoch", "artifacts.plot", "outputs[1:]")
    home = {"DAGSTER_HOME": instance.root_directory, "COLUMNS": "120"}
    shown = CliRunner().invoke(main, ["show", dagster.run_id], env=home).output
    assert "epoch (unfinished)" in shown
    assert "plot (unfinished)" in shown
    assert "kept (unfinished)" not in shown
    ctx = resume_run(instance, resumable.run_id)
    assert list(ctx.outputs) == ["zero", "one", "two"]
    assert ctx.metrics["epoch"] == 1


@pytest.mark.parametrize(("how", "attempts"), [("late", 2), ("wrong", 1)])
def test_it_is_tried_again_after_the_same_errors(run: Run, tmp_path: Path, how: str, attempts: int) -> None:
    contexts = []
    for number, one in enumerate((run_experiment, run)):
        options = {"file": str(tmp_path / str(number)), "how": how}
        retry = {"max_retries": 1, "on": ["TimeoutError"], "delay": 5, "max_delay": 0.01}
        try:
            contexts.append(one(experiment({"name": "flaky", "retry": retry, "options": options})))
        except StageFailedError as error:
            contexts.append(error.context)
    direct, dagster = contexts
    assert direct.differences(dagster) == ()
    assert dagster.trace.endings["flaky"].attempts == attempts  # type: ignore[union-attr]


def test_stages_that_run_always_run_after_a_failure_in_both_and_again_when_the_run_is_resumed(
    run: Run, instance: DagsterInstance, tmp_path: Path
) -> None:
    def described(file: str | None) -> Experiment:
        options = {"options": {"file": file}} if file else {}
        return experiment(
            "load",
            {"name": "half", **options},
            {"name": "between", "module": "timed_stages:quick"},
            {"name": "raises", "always": True},
            {"name": "clean", "always": True},
        )

    failures = []
    for one in (run_experiment, run):
        with pytest.raises(StageFailedError) as caught:
            one(described(None))
        failures.append(caught.value)
    direct, dagster = failures
    assert str(direct) == str(dagster)
    assert str(dagster.__cause__) == "no more"
    assert direct.context.differences(dagster.context) == ()
    assert diff_traces(direct.context.trace, dagster.context.trace) == ()
    assert dagster.context.metrics["cleaned_after"] == ["half", "raises"]
    assert dagster.context.metrics["seen"]["epoch"] == 7
    run_id = dagster.context.run_id
    found = History(instance).run(run_id)
    assert found.failure is not None
    assert found.failure.stage == "half"
    assert found.metrics["cleaned_after"] == ["half", "raises"]
    assert any("cleaning" in entry.user_message for entry in instance.all_logs(run_id))

    without = described(str(tmp_path / "tried")).to_dict()
    del without["pipeline"][3]
    with pytest.raises(StageFailedError) as caught:
        run(Experiment.model_validate(without))
    ctx = resume_run(instance, caught.value.context.run_id)
    assert ctx.metrics["cleaned_after"] == []
    assert list(ctx.completed_stages) == ["load", "half", "between", "clean"]


def test_a_trial_that_takes_too_long_is_a_failed_row(instance: DagsterInstance) -> None:
    described = experiment(
        {"name": "sleeps", "timeout": 0.5, "options": {"seconds": 0}},
        {"name": "wait_async"},
        trials={"grid": {"sleeps.seconds": [0, 60]}, "max_failures": 1},
    )
    ctx = execute_experiment(described, instance=instance)
    rows = History(instance).trials(ctx.run_id)
    assert [row["status"] for row in rows] == ["succeeded", "failed"]
    assert "StageTimeoutError" in rows[1]["error"]
    assert rows[0]["waited"] == 0.01


@pytest.mark.parametrize("timeout", [None, 60])
def test_cancelling_the_run_reaches_the_coroutine(
    instance: DagsterInstance, tmp_path: Path, timeout: float | None
) -> None:
    file = tmp_path / "cancelled"
    entry = {"name": "wait_async", "timeout": timeout, "options": {"seconds": 60, "file": str(file)}}
    threading.Timer(8 if timeout else 4, os.kill, [os.getpid(), signal.SIGINT]).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        execute_experiment(experiment(entry), instance=instance)
    assert time.monotonic() - started < 30
    assert file.read_text() == "cancelled"


def test_a_failed_asynchronous_stage_fails_in_both(run: Run) -> None:
    for one in (run_experiment, run):
        with pytest.raises(StageFailedError, match="ValueError: too small") as caught:
            one(experiment("raises_async"))
        ending = caught.value.context.trace.endings["raises_async"]
        assert isinstance(ending, StageFailed)
        assert "asyncio" not in ending.traceback
        assert 'raise ValueError("too small")' in ending.traceback
