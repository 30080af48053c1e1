"""What judging a gate takes and gives: earlier runs, numbers by name, a status with its sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from crucible_core.context import Context
from crucible_core.errors import CrucibleError
from crucible_core.ir.gates import Baseline
from crucible_core.ir.vocabulary import GateStatus
from crucible_core.values.equality import same
from crucible_core.values.jsonable import as_number, to_jsonable
from crucible_core.values.messages import closest, error_text, printable

SHOWN = 8


class EarlierRun(NamedTuple):
    run_id: str
    read: Callable[[], Context]
    """Returns the run's Context after its last stage; raises if that can no longer be read."""


class Past(Protocol):
    """The earlier runs of the experiment that are kept."""

    def baseline(self, baseline: Baseline) -> Sequence[EarlierRun]:
        """The runs that the baseline selects, newest first; empty if there are none yet. Raises CrucibleError."""

    def since(self, run_id: str, *, any_options: bool = False) -> Sequence[EarlierRun]:
        """The runs between that one and the one being judged, oldest first. Raises CrucibleError.

        Runs with other options than the file's are included only with `any_options`.
        """


@dataclass(frozen=True, slots=True)
class Verdict:
    status: GateStatus
    sentence: str
    numbers: Mapping[str, float | int | None] = field(default_factory=dict)
    baseline_runs: tuple[str, ...] = ()
    needs_more_runs: bool = False
    """Undecided because there are too few earlier runs. If this run failed for that, there might never be enough."""


class NotComparedError(Exception):
    """The verdict on a gate whose rule could not be applied."""

    status: GateStatus

    def __init__(self, sentence: str, **facts: Any) -> None:
        super().__init__(sentence)
        self.verdict = Verdict(self.status, sentence, **facts)


class UndecidedError(NotComparedError):
    """Why a gate is undecided."""

    status = "undecided"


class UnknownNameError(NotComparedError):
    """The gate names something that the run does not have. It fails, because a later run would not decide it either."""

    status = "failed"


def reason_of(error: Exception) -> str:
    if isinstance(error, CrucibleError) and not hasattr(error, "reason"):
        return str(error)
    refused = getattr(error, "reason", None)  # of CannotTestError, whose module loads numpy
    return refused if isinstance(refused, str) else f"{type(error).__name__}: {error_text(error)}"


class RunNumbers:
    """The numbers of a run by the names that gates use."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._found: dict[str, list[Any]] | None = None
        """Name -> its different values: more than one if two metrics have that name."""

    def get(self, name: str) -> float | int:
        """The number of that name; a boolean stays a boolean.

        Raises UnknownNameError if no metric has the name, UndecidedError if it is not a number, or if several have it.
        """
        if self._found is None:
            from crucible_core.metrics import every_value  # noqa: PLC0415  # only where there are gates

            self._found = {}
            for one, value in every_value(self._ctx):
                others = [other for other in self._found.get(one, ()) if not _equal(value, other)]
                self._found[one] = [*others, value]
        values = self._found.get(name, [])
        if len(values) > 1:
            shown = " and ".join(printable(repr(to_jsonable(value))) for value in values)
            raise UndecidedError(f"several metrics have the name {name}, with the values {shown}: rename one of them")
        if not values:
            raise UnknownNameError(self._unknown(name))
        number = as_number(values[0])
        if number is None:
            raise UndecidedError(f"{name} is not a number: it is {printable(repr(to_jsonable(values[0])))}")
        return number

    def _unknown(self, name: str) -> str:
        assert self._found is not None
        known = [one for one, values in self._found.items() if any(as_number(value) is not None for value in values)]
        if inner := [one for one in known if one.startswith(f"{name}.")]:
            return f"{name} is not a number: it contains several: {_first(inner)}"
        if near := closest(name, known):
            return f"there is no metric {name!r}{near}"
        above = name
        while "." in above:
            above = above.rpartition(".")[0]
            if beside := [one for one in known if one.startswith(f"{above}.")]:
                return f"there is no metric {name!r}; numbers of {above}: {_first(beside)}"
        return f"there is no metric {name!r}; numbers: {_first(known) or 'none'}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _equal(left: Any, right: Any) -> bool:
    numbers = as_number(left), as_number(right)
    return same(left, right) if None in numbers else numbers[0] == numbers[1]


def number_text(value: float) -> str:
    from crucible_bench.numbers import format_number  # noqa: PLC0415

    return format_number(value)
