"""A number of a run step by step, such as a loss over epochs: what `ctx.log_metric` makes of a metric."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

from crucible_core.errors import CrucibleError
from crucible_core.values.arguments import not_a_name
from crucible_core.values.immutable import PersistentDict

__all__ = ["SUMMARY", "Columns", "Series", "with_point"]

SUMMARY = ("last", "min", "max", "mean")
LARGEST_STEP = 2**63


class Columns(NamedTuple):
    """A series as two columns of little-endian numbers of 64 bits each: 16 bytes a point, or 8."""

    steps: tuple[int, int] | memoryview
    """The integers; or the first one and the difference of each from the one before, if that is always the same."""
    values: memoryview


class Series(Mapping[str, float]):
    """The points of a metric in the order in which they were logged. A value: nothing changes it.

    As a mapping it has four numbers, so that gates, tables and charts find them by name, such as `loss.last`: `last`,
    `min`, `max` and `mean`. NaN among the points makes the mean NaN; `min` and `max` are those of the other points.
    """

    __slots__ = ("_buffer", "_size")

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        """From pairs of a step and a value. Raises ValueError if there are none."""
        if not points:
            raise ValueError("a series has at least one point")
        # Shared with the versions that it came from, as by PersistentList: each sees its own first `_size` points.
        self._buffer = list(points)
        self._size = len(self._buffer)

    @property
    def points(self) -> list[tuple[int, float]]:
        """The pairs of a step and a value."""
        return self._buffer[: self._size]

    @property
    def steps(self) -> list[int]:
        return [step for step, _ in self.points]

    @property
    def numbers(self) -> list[float]:
        """The value at each step."""
        return [value for _, value in self.points]

    def extended(self, step: int, value: float) -> Series:
        """The series with one more point."""
        buffer, size = self._buffer, self._size
        point = (step, value)
        if len(buffer) == size:
            buffer.append(point)
        if buffer[size] is not point:
            buffer = [*buffer[:size], point]
        one = _new(Series)
        one._buffer = buffer
        one._size = size + 1
        return one

    def __getitem__(self, name: str) -> float:
        if name == "last":
            return self._buffer[self._size - 1][1]
        if name == "mean":
            return sum(self.numbers) / self._size
        if name not in {"min", "max"}:
            raise KeyError(name)
        numbers = [value for value in self.numbers if value == value]  # noqa: PLR0124  # NaN is not
        return (min if name == "min" else max)(numbers, default=float("nan"))

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARY)

    def __len__(self) -> int:
        return len(SUMMARY)

    def equals(self, other: Series) -> bool:
        """Whether the points are the same, NaN like NaN."""
        return self.columns() == other.columns()

    def __eq__(self, other: object) -> bool:
        return self.equals(other) if isinstance(other, Series) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as any mapping

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {self[name]:.4g}" for name in SUMMARY)
        return f"Series({self._size:,} points: {shown})"

    def columns(self) -> Columns:
        """The points as they are stored."""
        steps, values = array("q", self.steps), array("d", self.numbers)
        stride = steps[1] - steps[0] if len(steps) > 1 else 1
        if stride and steps == array("q", range(steps[0], steps[0] + stride * len(steps), stride)):
            return Columns((steps[0], stride), memoryview(_swapped(values)).cast("B"))
        return Columns(memoryview(_swapped(steps)).cast("B"), memoryview(_swapped(values)).cast("B"))

    @classmethod
    def of_columns(cls, steps: tuple[int, int] | memoryview, values: memoryview) -> Series:
        numbers = array("d")
        numbers.frombytes(values)
        if isinstance(steps, tuple):
            first, stride = steps
            return cls(list(zip(range(first, first + stride * len(numbers), stride), _swapped(numbers), strict=True)))
        integers = array("q")
        integers.frombytes(steps)
        return cls(list(zip(_swapped(integers), _swapped(numbers), strict=True)))

    def __reduce__(self) -> tuple[Any, ...]:
        steps, values = self.columns()
        return _unpickled, (steps if isinstance(steps, tuple) else bytes(steps), bytes(values))

    def __deepcopy__(self, memo: dict[int, Any]) -> Series:
        return self


_new = object.__new__


def _unpickled(steps: tuple[int, int] | bytes, values: bytes) -> Series:
    return Series.of_columns(steps if isinstance(steps, tuple) else memoryview(steps), memoryview(values))


def _swapped(numbers: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def with_point(
    metrics: PersistentDict[Any], name: str, value: Any, step: Any, hear: Callable[[str, int, float], None] | None
) -> PersistentDict[Any]:
    """The metrics with a point more in that series; `hear` is called with its name, step and value.

    Raises TypeError for a wrong type of name, value or step, and CrucibleError for a metric that is not a series.
    """
    if type(value) is not float:
        if isinstance(value, str | bytes):
            raise TypeError(f"a point of a series is a number; {name!r} has {value!r:.80}")
        value = float(value)
    changed = metrics._copy()  # at a third of the cost of `metrics.get` and `metrics.put`, for every point
    before = changed.get(name)
    if type(before) is not Series:
        before = metrics.get(name)
    if step is None:
        step = 0 if before is None else before._buffer[before._size - 1][0] + 1 if type(before) is Series else None
    elif type(step) is not int or not -LARGEST_STEP <= step < LARGEST_STEP:
        step = _checked_step(step)
    if type(before) is Series:
        series = before.extended(step, value)
    elif before is None and isinstance(name, str):
        series = Series(((step, value),))
    else:
        raise _refused(name, before)
    if hear is not None:
        hear(name, step, value)
    changed[name] = series
    return metrics._view(changed, len(changed))


def _checked_step(step: Any) -> int:
    checked: int = index(step)
    if not -LARGEST_STEP <= checked < LARGEST_STEP:
        raise CrucibleError(f"step {checked} is too large: a step is an integer of at most 64 bits")
    return checked


def _refused(name: object, before: object) -> Exception:
    if not isinstance(name, str):
        return not_a_name(name)
    return CrucibleError(
        f"metric {name!r} is not a series: put_metric has set it to {before!r:.80}; log its points under another name"
    )
