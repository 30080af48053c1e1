"""The `validate` stage."""

from __future__ import annotations

from typing import Self

from pydantic import PrivateAttr, ValidationInfo, model_validator

from crucible_core.context import Context
from crucible_core.plan import advice, current_plan, plan_experiment
from crucible_core.registry import Registry, builtin_registry
from crucible_core.stage import Stage
from crucible_core.values.messages import as_written

__all__ = ["Validate"]


class Validate(Stage):
    """Checks the whole experiment: every stage is found, every option is valid, no stage is certain to fail.

    A run makes the same checks before its first stage; this stage records what was checked. `metrics["validate"]` gets
    `stages` (the class behind each name), `skipped` (names) and `warnings` about an experiment that can be run, such as
    too few replicates to see the effect of interest.
    """

    _registry: Registry | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _remember_registry(self, info: ValidationInfo) -> Self:
        if info.context:
            self._registry = info.context.get("registry")
        return self

    def run(self, ctx: Context) -> Context:
        plan = current_plan.get()
        if plan is None:  # by `run_stage` alone, outside of a run
            plan = plan_experiment(ctx.experiment, builtin_registry() if self._registry is None else self._registry)
        warnings = advice(plan)
        for warning in warnings:
            ctx = ctx.decide("go on", f"nothing is wrong, but {warning}", alternatives=["change the experiment"])
        return ctx.put_metric(
            "validate",
            {
                "stages": {one.name: _class_name(type(one.stage)) for one in plan},
                "skipped": [one.name for one in plan if not one.definition.enabled],
                "warnings": warnings,
            },
        )


def _class_name(stage: type[Stage]) -> str:
    return as_written(f"{stage.__module__}:{stage.__qualname__}")
