"""Reading successes and failures: counts of n, or one outcome per observation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from crucible_bench.data.sample import Sample, Values, read_groups
from crucible_bench.errors import CannotTestError

_MOST_OPENED = 10**7
_LARGEST = 2**53  # beyond it a double no longer holds every whole number


@dataclass(frozen=True, slots=True)
class Successes:
    """A named group of n outcomes with its number of successes."""

    name: str
    n: int
    successes: int

    @property
    def share(self) -> float:
        return self.successes / self.n


def read_outcomes(test: str, groups: Mapping[str, Values]) -> tuple[Sample, ...]:
    """Groups of outcomes, shape (n,) each: booleans, or the numbers 0 and 1.

    Raises CannotTestError for any other number, and for what `read_groups` refuses, including missing outcomes.
    """
    if not isinstance(cast(object, groups), Mapping):
        raise CannotTestError(test, f"groups must be a mapping of name to outcomes, not {type(groups).__name__}")
    samples = read_groups(test, {name: as_numbers(values) for name, values in groups.items()})
    for sample in samples:
        binary = (sample.values == 0.0) | (sample.values == 1.0)
        if not binary.all():
            where = int(np.argmin(binary))
            raise CannotTestError(
                test,
                f"group {sample.name!r} has {float(sample.values[where])!r} at position {where}; an outcome is True or "
                "False, or 1 or 0; score each answer as right or wrong first, or compare means",
            )
    return samples


def read_successes(test: str, name: str, successes: int, n: int) -> Successes:
    """Successes of n, checked. Raises CannotTestError unless they are whole numbers with 0 <= k <= n and n >= 1."""
    k, total = read_count(test, f"successes of {name!r}", successes), read_count(test, f"n of {name!r}", n)
    if total == 0:
        raise CannotTestError(test, f"{name!r} has n = 0: without observations there is no proportion")
    if k > total:
        raise CannotTestError(test, f"{name!r} has {k} successes of {total}; successes cannot exceed n")
    return Successes(name, total, k)


def read_count(test: str, what: str, value: Any) -> int:
    """A count: a whole number from 0 to 2**53, of any numeric type but bool. Raises CannotTestError otherwise."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise CannotTestError(test, f"{what} must be a count, a whole number, not {value!r}")
    if not isinstance(value, (int, np.integer)) and not (math.isfinite(value) and float(value).is_integer()):
        raise CannotTestError(test, f"{what} must be a whole number, not {value!r}")
    if value < 0:
        raise CannotTestError(test, f"{what} must be at least 0, not {value!r}")
    if value > _LARGEST:
        raise CannotTestError(test, f"{what} is larger than 2**53, beyond which doubles cannot count")
    return int(value)


def open_counts(name: str, values: Any) -> Any:
    """A group given as `{"successes": k, "n": n}` opened into n outcomes; every other group as it is."""
    if not isinstance(values, Mapping):
        return values
    if set(values) != {"n", "successes"}:
        raise CannotTestError(
            "groups", f"group {name!r} is a mapping of {sorted(map(str, values))}; counts are {{successes: k, n: n}}"
        )
    counts = read_successes("groups", name, values["successes"], values["n"])
    if counts.n > _MOST_OPENED:
        raise CannotTestError(
            "groups",
            f"group {name!r} has n = {counts.n:,}, more than the {_MOST_OPENED:,} that are listed one by one; call "
            "crucible_bench.compare_proportions with the counts",
        )
    return np.arange(counts.n) < counts.successes


def are_booleans(values: Any) -> bool:
    """Whether there are values and each is True or False."""
    dtype = getattr(values, "dtype", None)
    if dtype is not None:
        return str(dtype) in {"bool", "boolean"} and len(values) > 0
    return (
        isinstance(values, (list, tuple))
        and len(values) > 0
        and all(isinstance(value, (bool, np.bool_)) for value in values)
    )


def are_zero_or_one(values: Any) -> bool:
    """Whether there are values and each is the number 0 or 1."""
    if are_booleans(values) or isinstance(values, (str, bytes, Mapping)):
        return False
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return False  # the test says what is wrong with them
    return array.ndim == 1 and array.size > 0 and bool(((array == 0.0) | (array == 1.0)).all())


def refuse_tuples_of_counts(groups: Mapping[str, Any]) -> None:
    """Refuse groups that are all tuples (k, n): nobody can tell whether they are two values or k successes of n."""
    pairs = {name: values for name, values in groups.items() if type(values) is tuple and len(values) == 2}
    if not groups or len(pairs) < len(groups):
        return
    if all(type(one) is int for pair in pairs.values() for one in pair) and all(0 <= k <= n for k, n in pairs.values()):
        name, (k, n) = next(iter(pairs.items()))
        raise CannotTestError(
            "groups",
            f"group {name!r} is the tuple ({k}, {n}): for {k} successes of {n} pass {{'successes': {k}, 'n': {n}}}, "
            f"for two values a list, [{k}, {n}]",
        )


def outcome_table(test: str, groups: Mapping[str, Values]) -> dict[str, tuple[int, int]]:
    """Name -> (successes, failures) of groups of outcomes."""
    counted = {sample.name: (int(sample.values.sum()), sample.n) for sample in read_outcomes(test, groups)}
    return {name: (successes, n - successes) for name, (successes, n) in counted.items()}


def booleans_as_numbers(groups: Mapping[str, Any]) -> Mapping[str, Any]:
    """The groups, those of booleans alone as the numbers 0 and 1; other groups, and any non-mapping, unchanged."""
    if not isinstance(cast(object, groups), Mapping):
        return groups
    return {name: as_numbers(values) if are_booleans(values) else values for name, values in groups.items()}


def as_numbers(values: Any) -> Any:
    """Booleans as the numbers 0 and 1; everything else as it is."""
    if hasattr(values, "__array__") and not isinstance(values, np.ma.MaskedArray):
        array = np.asarray(values)
        return array.astype(np.float64) if array.dtype.kind == "b" else values
    if isinstance(values, (list, tuple)):
        return [float(value) if isinstance(value, (bool, np.bool_)) else value for value in values]
    return values
