"""What judging a gate takes and gives: earlier runs, numbers by name, a status with its sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from crucible_core.context import Context
from crucible_core.errors import CrucibleError
from crucible_core.ir.gates import Baseline
from crucible_core.ir.vocabulary import GateStatus
from crucible_core.values.jsonable import to_jsonable
from crucible_core.values.messages import closest, error_text, printable

SHOWN = 8


MISSING = object()


class EarlierRun(NamedTuple):
    run_id: str
    read: Callable[[], Context]
    """Returns its Context after the last stage; raises if that can no longer be read."""


class Past(Protocol):
    """The earlier runs of the experiment that are kept."""

    def baseline(self, baseline: Baseline) -> Sequence[EarlierRun]:
        """The runs that the baseline selects, newest first; empty if there are none yet. Raises CrucibleError."""

    def since(self, run_id: str) -> Sequence[EarlierRun]:
        """The runs between that one and the one being judged, oldest first. Raises CrucibleError."""


@dataclass(frozen=True, slots=True)
class Verdict:
    status: GateStatus
    sentence: str
    numbers: Mapping[str, float | int | None] = field(default_factory=dict)
    baseline_runs: tuple[str, ...] = ()
    needs_more_runs: bool = False
    """Undecided because there are too few earlier runs: if this run failed for it, there might never be enough."""


class UndecidedError(Exception):
    """Why a gate is undecided."""

    def __init__(self, sentence: str, **facts: Any) -> None:
        super().__init__(sentence)
        self.verdict = Verdict("undecided", sentence, **facts)


def reason_of(error: Exception) -> str:
    if isinstance(error, CrucibleError) and not hasattr(error, "reason"):
        return str(error)
    refused = getattr(error, "reason", None)  # of CannotTestError, whose module loads numpy
    return refused if isinstance(refused, str) else f"{type(error).__name__}: {error_text(error)}"


class RunNumbers:
    """The numbers of a run by the names that gates use."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._found: dict[str, Any] | None = None

    def get(self, name: str) -> float | int:
        """Raises UndecidedError if there is no such number."""
        if self._found is None:
            from crucible_core.metrics import named_values  # noqa: PLC0415  # only where there are gates

            self._found = named_values(self._ctx)
        value = self._found.get(name, MISSING)
        number = _as_number(value)
        if number is not None:
            return number
        known = [one for one, found in self._found.items() if _as_number(found) is not None]
        there = ", ".join(known[:SHOWN]) + (f" and {len(known) - SHOWN} more" if len(known) > SHOWN else "")
        if value is MISSING:
            inner = [one for one in known if one.startswith(f"{name}.")]
            if inner:
                raise UndecidedError(f"{name} is not a number: it contains several: {', '.join(inner[:SHOWN])}")
            exists = closest(name, known) or f"; numbers: {there or 'none'}"
            raise UndecidedError(f"there is no metric {name!r}{exists}")
        raise UndecidedError(f"{name} is not a number: it is {printable(repr(to_jsonable(value)))}")


def _as_number(value: Any) -> float | int | None:
    if isinstance(value, str):
        return None
    if type(value) not in {int, float}:
        rendered = to_jsonable(value)
        # As JSON has them.
        value = {"Infinity": math.inf, "-Infinity": -math.inf}.get(rendered) if isinstance(rendered, str) else rendered
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if value != value else value  # noqa: PLR0124  # NaN; an int may be too large for math.isnan


def plain_number(value: float | int) -> float | int:
    """The number as one that every database and JSON can hold."""
    if isinstance(value, float) or abs(value) < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def number_text(value: float) -> str:
    from crucible_bench.numbers import format_number  # noqa: PLC0415

    return format_number(value)
