"""What the gates of an experiment say of a run: pure functions of its Context, and of earlier ones where there are any.

A gate passes where the data show that it does, fails where they show that it does not, and is undecided where they
show neither: a number that is not there, a baseline that cannot be compared, an interval that allows both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from crucible_core.context import Context
from crucible_core.gates.outcome import Past, _number, _Numbers, _plain, _reason, _Said, _UndecidedError
from crucible_core.gates.regression import _Regression
from crucible_core.ir.gates import BOUNDS, BoundName, Gate, GateResult

if TYPE_CHECKING:
    from crucible_core.plan import PlannedStage

__all__ = ["Past", "judge_gate", "judge_gates"]

CLOSE = 1e-3  # four digits may read alike


def judge_gates(ctx: Context, planned: Sequence[PlannedStage], past: Past | None = None) -> tuple[GateResult, ...]:
    """The result of each gate of `ctx.experiment`, which has run the planned stages; without a past, for want of one,
    nothing is held against an earlier run.

    Never raises: what cannot be decided is undecided, and says why.
    """
    gates = ctx.experiment.gates or ()
    numbers = _Numbers(ctx)
    return tuple(judge_gate(gate, ctx, planned, past, numbers=numbers) for gate in gates)


def judge_gate(
    gate: Gate,
    ctx: Context,
    planned: Sequence[PlannedStage],
    past: Past | None = None,
    *,
    numbers: _Numbers | None = None,
) -> GateResult:
    """The result of one gate, which need not be one of the experiment that was run. Never raises."""
    numbers = _Numbers(ctx) if numbers is None else numbers
    try:
        if gate.no_regression is None:
            said = _hold_bound(gate, numbers)
        else:
            said = _Regression(gate.no_regression, ctx, planned, past, numbers).judge()
    except _UndecidedError as undecided:
        said = undecided.said
    except Exception as error:  # noqa: BLE001  # a gate that cannot be judged must not end a run that went well
        said = _Said("undecided", f"it cannot be judged: {_reason(error)}")
    lenient = said.status == "undecided" and (gate.undecided == "warn" or said.for_want_of_a_past)
    return GateResult(
        gate=gate.name,
        status=said.status,
        severity="warn" if lenient else gate.severity,
        blocking=gate.blocking,
        sentence=said.sentence,
        numbers={name: value for name, value in said.numbers.items() if value is not None},
        baseline_runs=said.baseline_runs,
    )


# --- bounds -----------------------------------------------------------------------------------------------------------


HOLDS: Mapping[BoundName, Callable[[float, float], bool]] = {
    "above": lambda value, bound: value > bound,
    "at_least": lambda value, bound: value >= bound,
    "at_most": lambda value, bound: value <= bound,
    "below": lambda value, bound: value < bound,
}


def _hold_bound(gate: Gate, numbers: _Numbers) -> _Said:
    assert gate.metric is not None
    assert gate.bound is not None
    name, bound = gate.bound
    value = numbers.get(gate.metric)
    holds = HOLDS[name](value, bound)
    value = _plain(value)
    shown = _number(value)
    if value != bound and math.isfinite(value) and abs(value - bound) <= CLOSE * abs(bound):
        shown = repr(value)
    sentence = f"{gate.metric} is {shown}, {'' if holds else 'not '}{BOUNDS[name]} {_number(bound)}"
    return _Said("passed" if holds else "failed", sentence, {"value": value, "bound": bound})


# --- no regression ----------------------------------------------------------------------------------------------------
