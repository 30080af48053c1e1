"""What a stage had put before it raised is kept, and marked as of a stage that did not end."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from crucible_core import (
    Context,
    Experiment,
    RunInterrupted,
    StageFailed,
    StageFailedError,
    StageTimeoutError,
    Trace,
    run_experiment,
)
from crucible_core.report.run_report import summarize_run

UNFINISHED = ("metrics.loaded", "metrics.epoch", "artifacts.plot", "outputs[1:]")


def experiment(*stages: str | dict[str, Any], **more: Any) -> Experiment:
    entries = [{"name": one} if isinstance(one, str) else one for one in stages]
    pipeline = [{"module": f"timed_stages:{entry['name']}", **entry} for entry in entries]
    return Experiment.model_validate({"id": "half", "pipeline": pipeline, **more})


def failed(*stages: str | dict[str, Any]) -> StageFailedError:
    with pytest.raises(StageFailedError) as caught:
        run_experiment(experiment(*stages))
    return caught.value


def marked(ctx: Context) -> tuple[str, ...]:
    ending = ctx.trace.endings["half"]
    assert isinstance(ending, StageFailed)
    return ending.unfinished


def check(ctx: Context) -> None:
    assert ctx.metrics == {"loaded": 4, "kept": 0.5, "epoch": 7}
    assert ctx.outputs == ["zero", "one", "two"]
    assert ctx.artifacts == {"plot": "plot.svg"}
    assert [one.decision for one in ctx.trace.decisions] == ["go on"]
    assert "model" not in ctx.assigns
    assert marked(ctx) == UNFINISHED


TIMED = pytest.param(60.0, marks=pytest.mark.slow)


@pytest.mark.parametrize("timeout", [None, TIMED])
def test_what_a_stage_put_before_it_raised_is_in_the_context_of_the_failure(timeout: float | None) -> None:
    check(failed("load", {"name": "half", "timeout": timeout}).context)


@pytest.mark.slow
def test_also_if_its_time_was_over() -> None:
    error = failed("load", {"name": "half", "options": {"how": "sleeps"}, "timeout": 0.3})
    assert isinstance(error.__cause__, StageTimeoutError)
    check(error.context)


@pytest.mark.parametrize("timeout", [None, TIMED])
def test_also_if_it_was_interrupted(timeout: float | None) -> None:
    threading.Timer(3 if timeout else 0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(RunInterrupted) as caught:
        run_experiment(experiment("load", {"name": "half", "options": {"how": "sleeps"}, "timeout": timeout}))
    check(caught.value.context)


@pytest.mark.slow
def test_what_cannot_be_sent_does_not_hide_the_failure() -> None:
    error = failed("load", {"name": "half", "options": {"how": "lock"}, "timeout": 60})
    assert str(error.__cause__) == "no more"
    assert error.context.outputs == ["zero", "one", "two", "three"]
    assert "lock" not in error.context.metrics


def test_an_attempt_begins_without_it(tmp_path: Path) -> None:
    entry = {"name": "half", "options": {"file": str(tmp_path / "tried")}, "retry": {"max_retries": 1}}
    ctx = run_experiment(experiment("load", entry))
    assert ctx.outputs == ["zero", "one", "two"]
    assert ctx.metrics["epoch"] == 1


def test_a_stage_that_puts_nothing_marks_nothing() -> None:
    assert summarize_run(failed("load", "raises").context)["failure"] == {
        "stage": "raises",
        "error_type": "ValueError",
        "message": "too small",
    }


def test_the_marks_are_in_the_trace_and_in_what_is_kept_of_the_run() -> None:
    ctx = failed("load", "half").context
    assert summarize_run(ctx)["failure"]["unfinished"] == list(UNFINISHED)
    assert Trace.from_json(ctx.trace.to_json()) == ctx.trace
