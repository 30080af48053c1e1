"""What a run spends, such as money or tokens: the metric `spent`, which adds up, and the limits of `budget:`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from operator import index
from typing import Any, Final, TypeGuard

from crucible_core.errors import CrucibleError
from crucible_core.values.arguments import checked_name
from crucible_core.values.immutable import PersistentDict

__all__ = [
    "BY_STAGE",
    "SPENT",
    "BudgetExceededError",
    "carried",
    "check",
    "counted",
    "is_final",
    "is_spending",
    "joined",
    "over",
    "since",
    "spent_in",
    "stages_of",
]

SPENT: Final = "spent"
"""The metric: name -> how much; and below `by_stage`, stage -> name -> how much."""
BY_STAGE: Final = "by_stage"
ROUNDING: Final = 1e-9
"""The share of a limit that does not count: a hundred times 0.05, added up, is a little more than 5."""


class BudgetExceededError(CrucibleError):
    """A run has spent more than its `budget`: the cause of the StageFailedError that ends it.

    A stage that catches it from `ctx.spend` finds the Context with what was spent in `context`. There is none in an
    error that comes from another process, or from a store.
    """

    explains_itself = True

    def __init__(self, name: str, spent: float, limit: float, context: Any, where: str) -> None:
        super().__init__(
            f"the budget {name!r} is used up {where}: {spent:,.10g} of {limit:,.10g} spent; spend less, or raise it "
            "in `budget` of the experiment"
        )
        self.name = name
        self.spent = spent
        self.limit = limit
        self.context = context

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, (kind, args, state) = super().__reduce__()
        return rebuild, (kind, args, {**state, "context": None})


def counted(metrics: PersistentDict[Any], stage: str, amounts: Mapping[str, Any]) -> PersistentDict[Any]:
    """The metrics with that much more spent by the stage.

    Raises TypeError for a wrong type of name or amount, ValueError for an amount that is negative or not finite,
    and CrucibleError if `put_metric` has set the metric `spent` to something else.
    """
    before = metrics.get(SPENT)
    if before is not None and not is_spending(before):
        raise CrucibleError(
            f"the metric {SPENT!r} counts what is spent, and put_metric has set it to {before!r:.80}; give that "
            "another name"
        )
    total: dict[str, Any] = {**(before or {BY_STAGE: {}})}
    by_stage = total.pop(BY_STAGE)
    of_stage = {**by_stage.get(stage, {})}
    for name, given in amounts.items():
        amount = _amount(checked_name(name), given)
        total[name] = total.get(name, 0) + amount
        of_stage[name] = of_stage.get(name, 0) + amount
    return metrics.put(SPENT, {**total, BY_STAGE: {**by_stage, stage: of_stage}})


def _amount(name: str, given: Any) -> float:
    if name in ("", BY_STAGE):
        raise ValueError(f"{name!r} cannot be the name of what is spent")
    if isinstance(given, bool | str | bytes):
        raise TypeError(f"what is spent is a number; {name!r} has {given!r:.80}")
    try:
        amount: float = index(given)
    except TypeError:
        amount = float(given)
    if not math.isfinite(amount) or amount < 0:
        raise ValueError(f"what is spent is a number of at least 0; {name!r} has {given!r:.80}")
    return amount


def joined(before: Any, given: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What was spent `before`, plus what each of the others, which all began with that, has added."""
    earlier = before[BY_STAGE] if is_spending(before) else {}
    by_stage = {stage: {**of_stage} for stage, of_stage in earlier.items()}
    for one in given:
        for stage, of_stage in one[BY_STAGE].items():
            sums = by_stage.setdefault(stage, {})
            for name, amount in of_stage.items():
                sums[name] = sums.get(name, 0) + amount - earlier.get(stage, {}).get(name, 0)
    total: dict[str, Any] = {}
    for of_stage in by_stage.values():
        for name, amount in of_stage.items():
            total[name] = total.get(name, 0) + amount
    return {**total, BY_STAGE: by_stage}


def spent_in(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Name -> how much was spent, by all stages together."""
    found = metrics.get(SPENT)
    return {name: one for name, one in found.items() if name != BY_STAGE} if is_spending(found) else {}


def since(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """What was spent between the metrics `before` and `after`."""
    earlier = spent_in(before)
    return {name: one - earlier.get(name, 0) for name, one in spent_in(after).items() if one != earlier.get(name)}


def carried(after: Mapping[str, Any], before: PersistentDict[Any]) -> PersistentDict[Any]:
    """The metrics `before` an attempt, with what had been spent `after` it: it was paid, though the attempt failed."""
    found = after.get(SPENT)
    return before.put(SPENT, found) if is_spending(found) else before


def over(limits: Mapping[str, float] | None, spent: Mapping[str, float]) -> str | None:
    """The name of the first budget whose limit is exceeded."""
    passed = (name for name, limit in (limits or {}).items() if spent.get(name, 0) > limit * (1 + ROUNDING))
    return next(passed, None)


def check(context: Any, before: str | None = None) -> None:
    """Raises BudgetExceededError if the run has spent more than its budget, in the stage that runs or `before` one.

    A stage that runs `always`, such as a cleanup, is not stopped by it.
    """
    limits = context.experiment.budget
    if limits is None:
        return
    spent = spent_in(context.metrics)
    if (name := over(limits, spent)) is None:
        return
    stage = context.stage if before is None else before
    if not any(one.always for one in context.experiment.pipeline if one.name == stage):
        where = f"{'in' if before is None else 'before'} stage {stage!r}"
        raise BudgetExceededError(name, spent[name], limits[name], context, where)


def is_final(error: BaseException) -> bool:
    """Whether no other attempt may follow: the budget is used up, alone or among the errors of several tasks."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(BudgetExceededError) is not None
    return isinstance(error, BudgetExceededError)


def stages_of(metrics: Mapping[str, Any], name: str) -> dict[str, float]:
    """Stage -> how much it has spent of what `name` names."""
    found = metrics.get(SPENT)
    by_stage = found[BY_STAGE] if is_spending(found) else {}
    return {stage: one[name] for stage, one in by_stage.items() if name in one}


def is_spending(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether the value is what this module keeps as the metric `spent`."""
    return isinstance(value, Mapping) and isinstance(value.get(BY_STAGE), Mapping)
