"""The `validate` stage."""

from __future__ import annotations

from typing import Self

from pydantic import PrivateAttr, ValidationInfo, model_validator

from crucible_core.context import Context
from crucible_core.plan import advice, plan_experiment
from crucible_core.registry import Registry, builtin_registry
from crucible_core.stage import Stage

__all__ = ["Validate"]


class Validate(Stage):
    """Checks the whole experiment: every stage resolves, every option is valid, no stage knows itself to be impossible.

    A run makes the same checks before its first stage; this stage puts on record that and what was checked, as
    `metrics["validate"]` with `stages` (the class behind each name), `skipped` (names) and `warnings`: what speaks
    against the experiment though it can be run, such as too few replicates to see the effect of interest.
    """

    _registry: Registry | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _remember_registry(self, info: ValidationInfo) -> Self:
        if info.context:
            self._registry = info.context.get("registry")
        return self

    def run(self, ctx: Context) -> Context:
        planned = plan_experiment(ctx.experiment, builtin_registry() if self._registry is None else self._registry)
        warnings = advice(ctx.experiment, planned)
        for warning in warnings:
            ctx = ctx.decide("go on", f"nothing is wrong, but {warning}", alternatives=["change the experiment"])
        return ctx.put_metric(
            "validate",
            {
                "stages": {one.name: f"{type(one.stage).__module__}:{type(one.stage).__qualname__}" for one in planned},
                "skipped": [one.name for one in planned if not one.definition.enabled],
                "warnings": warnings,
            },
        )
