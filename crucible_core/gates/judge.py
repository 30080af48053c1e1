"""Judging a run by its gates: pure functions of its Context, and of those of earlier runs if there are any.

A gate passes if the data show that its rule holds, and fails if they show that it does not. Otherwise it is undecided:
a metric is not a number, a baseline cannot be compared, or an interval allows both. A gate that names something that
the run does not have fails.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from crucible_core.context import Context
from crucible_core.gates.outcome import NotComparedError, Past, RunNumbers, Verdict, number_text, reason_of
from crucible_core.ir.gates import BOUNDS, BoundName, Gate, GateResult
from crucible_core.values.jsonable import plain_number

if TYPE_CHECKING:
    from crucible_core.plan import PlannedStage

__all__ = ["Past", "judge_gate", "judge_gates", "tell_stages"]

_log = logging.getLogger("crucible")

CLOSE = 1e-3  # closer numbers may look the same in four digits


def judge_gates(ctx: Context, planned: Sequence[PlannedStage], past: Past | None = None) -> tuple[GateResult, ...]:
    """The result of each gate of `ctx.experiment`, whose stages, `planned`, have run.

    Without `past`, regression gates are undecided. Never raises: a gate that cannot be judged is undecided, and its
    sentence says why.
    """
    gates = ctx.experiment.gates or ()
    numbers = RunNumbers(ctx)
    return tuple(judge_gate(gate, ctx, planned, past, numbers=numbers) for gate in gates)


def judge_gate(
    gate: Gate,
    ctx: Context,
    planned: Sequence[PlannedStage],
    past: Past | None = None,
    *,
    numbers: RunNumbers | None = None,
) -> GateResult:
    """The result of one gate, which need not be one of the experiment's. Never raises."""
    numbers = RunNumbers(ctx) if numbers is None else numbers
    try:
        if gate.no_regression is None:
            verdict = _hold_bound(gate, numbers)
        else:
            from crucible_core.gates.regression import Regression  # noqa: PLC0415  # only for such a gate

            verdict = Regression(gate.no_regression, ctx, planned, past, numbers).judge()
    except NotComparedError as error:
        verdict = error.verdict
    except Exception as error:  # noqa: BLE001  # a gate that cannot be judged must not fail a run that succeeded
        verdict = Verdict("undecided", f"it cannot be judged: {reason_of(error)}")
    lenient = verdict.status == "undecided" and (gate.undecided == "warn" or verdict.needs_more_runs)
    return GateResult(
        gate=gate.name,
        status=verdict.status,
        severity="warn" if lenient else gate.severity,
        blocking=gate.blocking,
        sentence=verdict.sentence,
        numbers={name: value for name, value in verdict.numbers.items() if value is not None},
        baseline_runs=verdict.baseline_runs,
    )


def tell_stages(ctx: Context, planned: Sequence[PlannedStage]) -> Context:
    """Call `after_gates` of each stage that succeeded. An error in one is logged: the run has its verdict."""
    succeeded = ctx.completed_stages
    for one in planned:
        if one.name in succeeded:
            try:
                told: object = one.stage.after_gates(ctx)
                if not isinstance(told, Context):
                    raise TypeError(f"its after_gates returned {type(told).__name__}, not the Context")
                ctx = told
            except Exception as error:  # noqa: BLE001  # as in a stage, anything
                _log.warning("what stage %r wrote does not show the gates: %s", one.name, reason_of(error))
    return ctx


# --- bounds -----------------------------------------------------------------------------------------------------------


HOLDS: Mapping[BoundName, Callable[[float, float], bool]] = {
    "above": lambda value, bound: value > bound,
    "at_least": lambda value, bound: value >= bound,
    "at_most": lambda value, bound: value <= bound,
    "below": lambda value, bound: value < bound,
    "is": lambda value, bound: value == bound,
}


def _hold_bound(gate: Gate, numbers: RunNumbers) -> Verdict:
    assert gate.metric is not None
    assert gate.bound is not None
    name, bound = gate.bound
    found = numbers.get(gate.metric)
    holds = HOLDS[name](found, bound)
    value = plain_number(found)
    shown = _boolean(found) if isinstance(found, bool) or (name == "is" and value in {0, 1}) else number_text(value)
    if value != bound and math.isfinite(value) and abs(value - bound) <= CLOSE * abs(bound):
        shown = repr(value)
    if name == "is":
        follows = "" if holds else f", not {_boolean(bound)}"
    else:
        follows = f", {'' if holds else 'not '}{BOUNDS[name]} {number_text(bound)}"
        shown += f" ({value})" if isinstance(found, bool) else ""
    numbers_of = {"value": value, "bound": plain_number(bound)}
    return Verdict("passed" if holds else "failed", f"{gate.metric} is {shown}{follows}", numbers_of)


def _boolean(value: float) -> str:
    return "true" if value else "false"
