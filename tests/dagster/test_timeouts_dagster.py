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
from dagster import DagsterEventType, DagsterInstance

from crucible_core import Context, Experiment, StageFailed, StageFailedError, StageTimeoutError, run_experiment
from crucible_core.report import diff_traces
from crucible_dagster import History, execute_experiment

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
