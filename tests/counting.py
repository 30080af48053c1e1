"""How many functions something calls, and the pipelines of trivial stages that it is asked of."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from crucible_core import Context, Experiment, Registry, Stage, StageDef

__all__ = ["REGISTRY", "calls_per_stage", "pipeline"]


class AddMetric(Stage):
    """Adds one metric."""

    metric: str

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric(self.metric, 1.0)


REGISTRY = Registry({"add_metric": AddMetric})


def pipeline(stages: int, name: str = "stage") -> Experiment:
    return Experiment(
        id="trivial",
        pipeline=tuple(
            StageDef(name=f"{name}_{index}", module="add_metric", options={"metric": f"metric_{index}"})
            for index in range(stages)
        ),
    )


def calls_per_stage(work: Callable[[Experiment], Any], stages: int, within: tuple[str, ...] = ("",)) -> float:
    """Python functions called for one more stage, in this thread; `within` limits them to files below these folders.

    What is called once, for any number of stages, is left out.
    """
    few, many = pipeline(stages), pipeline(2 * stages)
    work(few)  # what is made once is made
    work(many)
    return (_calls(lambda: work(many), within) - _calls(lambda: work(few), within)) / stages


def _calls(function: Callable[[], Any], within: tuple[str, ...]) -> int:
    counted = 0

    def count(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event == "call" and frame.f_code.co_filename.startswith(within)

    gc.disable()  # what others do at a collection is none of ours
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return counted
