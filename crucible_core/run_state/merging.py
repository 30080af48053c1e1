"""Merges the Contexts that threads or tasks of a stage have made from one Context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crucible_core.errors import CrucibleError
from crucible_core.run_state.spending import SPENT, check, is_spending, joined
from crucible_core.values.arguments import check_instance
from crucible_core.values.decisions import made_readable
from crucible_core.values.equality import same
from crucible_core.values.series import Series

__all__ = ["changed_entries", "merged"]

PARTS = ("metrics", "artifacts", "assigns")


def merged(base: Any, others: Sequence[Any], attempt: Any) -> Any:
    """The Context with what each of the others has added, in their order; `attempt` hears what it has not heard.

    Raises CrucibleError for a Context that was not made from this one, and for a name that two of them have set to
    different values; BudgetExceededError if they have spent too much together.
    """
    # By `vars`, and not by attributes: where the reads of a stage are recorded, none of this counts as one.
    was, each = vars(base), [_checked(base, number, other) for number, other in enumerate(others, 1)]
    if attempt is not None and attempt.run_id != was["run_id"]:
        attempt = None
    updates = None if attempt is None else attempt.updates
    if updates is not None and updates.run_id != was["run_id"]:
        updates = None
    # The last Context that the attempt has seen being made is one of these: it has heard of what they put. A thread
    # that does not know the attempt has told it nothing.
    seen = attempt is not None and any(attempt.derived is other for other in others)
    after, spent = base, False
    for part in PARTS:
        if found := _found(part, was[part], [one[part] for one in each]):
            after = after._with(part, was[part].merge(found))
            spent = spent or (part == "metrics" and SPENT in found)
            if part == "metrics" and updates is not None and not seen:
                _tell(updates, was[part], found)
    if added := [item for one in each for item in _added(was["outputs"], one["outputs"])]:
        after = after._with("outputs", was["outputs"].extend(added))
    heard = {id(event) for event in attempt.heard} if attempt is not None else set()
    for event in (event for one in each for event in one["trace"].since(was["trace"])):
        if attempt is None or id(event) in heard:
            after = after._record(event)
        else:
            if hasattr(event, "reasoning"):  # it may have been made where the stage's secrets are not known
                event = made_readable(event, attempt.readable)  # noqa: PLW2901
            attempt.hear(event)
            after = after._record(event)
    if spent:
        check(after)
    return after


def changed_entries(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a part of a Context that are new, or are other objects. Nothing in a store is read."""
    earlier, missing = _entries(before), object()
    return {name: value for name, value in _entries(after).items() if earlier.get(name, missing) is not value}


def _entries(part: Any) -> Mapping[str, Any]:
    """The values; in place of those in a store, whatever stands for them."""
    return part.entries() if hasattr(part, "entries") else part  # type: ignore[no-any-return]


def _checked(base: Any, number: int, other: Any) -> dict[str, Any]:
    """The fields of one of the others."""
    # The class Context, also where one of its subclasses records what is read.
    check_instance("merge", other, type(base).__mro__[-2], "Contexts")
    was, now = vars(base), dict[str, Any](vars(other))
    is_later = (
        now["run_id"] == was["run_id"]
        and now["trace"].extends(was["trace"])
        and now["outputs"].extends(was["outputs"])
        and all(_entries(was[part]).keys() <= _entries(now[part]).keys() for part in PARTS)
    )
    if not is_later:
        raise CrucibleError(
            f"merge takes Contexts that were made from the one it is called on, but number {number} was not: merge "
            "all of them at once, `ctx.merge(*parts)`, on the Context that each of the parts began with"
        )
    return now


def _added(before: Any, after: Any) -> list[Any]:
    # One that comes from another process has all outputs in memory.
    return after.since(before) if type(after) is type(before) else after[len(before) :]  # type: ignore[no-any-return]


def _found(part: str, before: Any, parts: Sequence[Any]) -> dict[str, Any]:
    """Name -> value, for what any of them has set."""
    given: dict[str, list[tuple[int, Any]]] = {}
    for number, one in enumerate(parts, 1):
        for name, value in changed_entries(before, one).items():
            given.setdefault(name, []).append((number, value))
    return {name: _value(part, name, before, values) for name, values in given.items()}


def _value(part: str, name: str, before: Any, given: Sequence[tuple[int, Any]]) -> Any:
    values = [value for _, value in given]
    if len(values) == 1:
        return values[0]
    was = before[name] if name in _entries(before) else None
    if all(isinstance(one, Series) for one in values) and (was is None or isinstance(was, Series)):
        return _joined(was, values)
    if part == "metrics" and name == SPENT and all(map(is_spending, values)):
        return joined(was, values)
    # A copy from another process is another object, but not a change.
    changed = [(number, value) for number, value in given if was is None or not same(value, was)] or given[:1]
    (first, value), *rest = changed
    for number, other in rest:
        if not same(value, other):
            raise CrucibleError(
                f"{part}[{name!r}] is {value!r:.80} in Context {first} of those to merge, and {other!r:.80} in Context "
                f"{number}: let each set a name of its own"
            )
    return value


def _joined(was: Series | None, given: Sequence[Series]) -> Series:
    """The series with the points that each has added, those of the first one first."""
    points = [] if was is None else was.points
    return Series([*points, *(point for one in given for point in one.points[len(points) :])])


def _tell(updates: Any, before: Any, found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        if isinstance(value, Series):
            was = before[name] if name in _entries(before) else None
            for step, number in value.points[len(was.points) if isinstance(was, Series) else 0 :]:
                updates.point(name, step, number)
        elif name != SPENT:  # as by `ctx.spend`
            updates.metric(name, value)
