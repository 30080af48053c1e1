"""What a stage was given, kept for its next attempt: an attempt that fails may have changed it in place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from crucible_core.values.immutable import PersistentDict, PersistentList

__all__ = ["AttemptInputs"]

S = TypeVar("S")
C = TypeVar("C")


class AttemptInputs(Generic[S]):
    """The stage with its options, and the values of a Context, as they are now.

    Values in memory are copied, which takes the same memory again; those from a store are read from it again, and only
    if there is another attempt. What cannot be copied, such as an open connection, is passed on as it is.
    """

    def __init__(self, stage: S, context: Any) -> None:
        memo: dict[int, Any] = {}  # two names of one object become two names of one copy
        (self.stage,) = _copies([stage], memo)
        self._experiment = context.experiment.with_own_data()
        self._parts: Mapping[str, Callable[[], Any]] = {
            name: _kept(getattr(context, name), memo) for name in ("assigns", "metrics", "artifacts", "outputs")
        }

    def restored(self, context: C) -> C:
        """The Context with what was kept; its trace stays, and what it has spent."""
        from crucible_core.run_state.spending import carried  # noqa: PLC0415  # for another attempt only

        parts = {name: restore() for name, restore in self._parts.items()}
        parts["metrics"] = carried(context.metrics, parts["metrics"])  # type: ignore[attr-defined]
        changed: C = context._replace(experiment=self._experiment, **parts)  # type: ignore[attr-defined]
        return changed


def _kept(part: Any, memo: dict[int, Any]) -> Callable[[], Any]:
    if hasattr(part, "read_again"):
        read_again: Callable[[], Any] = part.read_again
        return read_again
    if isinstance(part, PersistentDict):
        copied = PersistentDict(dict(zip(part, _copies(list(part.values()), memo), strict=True)))
        return lambda: copied
    items = PersistentList(_copies(list(part), memo))
    return lambda: items


def _copies(values: list[Any], memo: dict[int, Any]) -> list[Any]:
    known = dict(memo)
    try:
        return copy.deepcopy(values, memo)
    except Exception:  # noqa: BLE001  # whatever a user's class does here
        memo.clear()  # it may hold unfinished copies now
        memo.update(known)
        return values if len(values) == 1 else [_copies([value], memo)[0] for value in values]
