"""`async def run` and `@stage async def` are stages as any other."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from timed_stages import AsyncClass, raises_async, wait_async

from crucible_core import (
    Context,
    Experiment,
    Registry,
    RunInterrupted,
    Stage,
    StageFailed,
    StageFailedError,
    run_experiment,
    stage,
)

REGISTRY = Registry({"wait": wait_async, "answers": AsyncClass, "raises": raises_async})


def run(*entries: dict[str, Any], registry: Registry = REGISTRY) -> Context:
    return run_experiment(Experiment.model_validate({"id": "async", "pipeline": list(entries)}), registry=registry)


def test_a_coroutine_is_run_to_its_end() -> None:
    ctx = run({"name": "wait"}, {"name": "answers", "options": {"calls": 2}})
    assert ctx.metrics == {"waited": 0.01, "answers": [0, 1]}
    assert [one.decision for one in ctx.trace.decisions] == ["wait"]


def test_it_runs_where_a_loop_is_running_already_as_in_a_notebook() -> None:
    async def cell() -> Context:
        return run({"name": "wait"}, {"name": "answers"})

    ctx = asyncio.run(cell())
    assert ctx.metrics["answers"] == [0, 1, 2]
    assert [one.decision for one in ctx.trace.decisions] == ["wait"]


@pytest.mark.parametrize("in_a_loop", [False, True])
def test_what_it_raises_is_the_failure_with_its_own_traceback(in_a_loop: bool) -> None:
    async def cell() -> Context:
        return run({"name": "raises"})

    with pytest.raises(StageFailedError, match="ValueError: too small") as caught:
        asyncio.run(cell()) if in_a_loop else run({"name": "raises"})
    ending = caught.value.context.trace.endings["raises"]
    assert isinstance(ending, StageFailed)
    lines = [line for line in ending.traceback.splitlines() if line.startswith("  File")]
    assert len(lines) == 1
    assert "timed_stages.py" in lines[0]


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """As a program of a terminal: one in the background of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("in_a_loop", [False, True])
def test_ctrl_c_reaches_the_coroutine(in_a_loop: bool, tmp_path: Path) -> None:
    file = tmp_path / "cancelled"
    entry = {"name": "wait", "options": {"seconds": 60, "file": str(file)}}
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()

    def interrupted() -> RunInterrupted:
        with pytest.raises(RunInterrupted) as caught:
            run(entry)
        return caught.value

    async def cell() -> RunInterrupted:
        # Python's own handler, as a notebook has it: that of asyncio.run would cancel this task.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return interrupted()

    error = asyncio.run(cell()) if in_a_loop else interrupted()
    assert file.read_text() == "cancelled"
    assert [one.decision for one in error.context.trace.decisions] == ["wait"]


def test_a_coroutine_that_is_not_the_context_is_said() -> None:
    class Forgets(Stage):
        async def run(self, ctx: Context) -> Context:
            ctx.put_metric("lost", 1)
            return None  # type: ignore[return-value]

    with pytest.raises(StageFailedError, match=r"stage 'forgets' returned None; run\(\) must return the Context"):
        run({"name": "forgets"}, registry=Registry({"forgets": Forgets}))


def test_a_retry_runs_it_again() -> None:
    tried: list[int] = []

    @stage
    async def flaky(ctx: Context) -> Context:
        tried.append(1)
        await asyncio.sleep(0)
        if len(tried) < 3:
            raise ConnectionError
        return ctx

    ctx = run({"name": "flaky", "retry": {"max_retries": 2}}, registry=Registry({"flaky": flaky}))
    assert ctx.completed_stages == ("flaky",)
