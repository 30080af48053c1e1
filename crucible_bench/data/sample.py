"""Reading the groups: the caller's values become finite float64 vectors, or are refused with the reason."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from crucible_bench.errors import CannotTestError

Vector: TypeAlias = NDArray[np.float64]
Values: TypeAlias = Sequence[float] | NDArray[Any]

_ROUNDING = 8.0 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A named group: at least one finite number, as a read-only float64 vector."""

    name: str
    values: Vector

    @property
    def n(self) -> int:
        return int(self.values.size)

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(abs(float(self.values.min())), abs(float(self.values.max())))

    @property
    def is_constant(self) -> bool:
        """Whether the values differ by no more than the rounding error of numbers of their size."""
        low, high = float(self.values.min()), float(self.values.max())
        # Halved, because the difference of two doubles can overflow.
        return high / 2.0 - low / 2.0 <= _ROUNDING * (max(abs(low), abs(high)) / 2.0)


def read_groups(test: str, groups: Mapping[str, Values]) -> tuple[Sample, ...]:
    """The groups in the mapping's order.

    Groups are sequences or one-dimensional arrays of real numbers. Raises CannotTestError for names that are empty, not
    text, or differ only in surrounding blanks; for anything that is not one-dimensional; for empty groups, missing and
    infinite values, text and complex numbers; and for booleans, because they are outcomes and not measurements: use a
    test for proportions, or pass the numbers 0 and 1 to compare means.
    """
    if not isinstance(cast(object, groups), Mapping):
        raise CannotTestError(test, f"groups must be a mapping of name to numbers, not {type(groups).__name__}")
    seen: set[str] = set()
    for name in groups:
        if not isinstance(cast(object, name), str) or not name.strip():
            raise CannotTestError(test, f"every group needs a name; {name!r} is not one")
        if name.strip() in seen:
            raise CannotTestError(test, f"two groups are called {name.strip()!r}; rename one of them")
        seen.add(name.strip())
    return tuple(read_sample(test, name, values) for name, values in groups.items())


def check_count(name: str, samples: tuple[Sample, ...], pairwise: bool) -> None:
    """Refuse fewer than two groups, and more where the test is for two."""
    listed = ", ".join(repr(sample.name) for sample in samples) or "none"
    if len(samples) < 2:
        raise CannotTestError(name, f"a comparison needs at least two groups; given: {listed}")
    if pairwise and len(samples) > 2:
        raise CannotTestError(
            name,
            f"it compares two groups, but {len(samples)} were given ({listed}); choose two of them, or use anova or "
            "kruskal_wallis for all at once",
        )


def read_sample(test: str, name: str, values: Values) -> Sample:
    """One group's values, under the rules of `read_groups`."""
    array = _numbers(test, name, values)
    if array.size == 0:
        raise CannotTestError(test, f"group {name!r} is empty; it needs numbers")
    finite = np.isfinite(array)
    if not finite.all():
        where = int(np.argmin(finite))
        kind = "missing (NaN)" if math.isnan(array[where]) else "infinite"
        count = int(array.size - np.count_nonzero(finite))
        raise CannotTestError(
            test,
            f"group {name!r} has {count} of {array.size} values that are not finite; the first, at position "
            f"{where}, is {kind}; drop or impute them before testing",
        )
    return Sample(name, array)


def scale_exponent(samples: Iterable[Sample]) -> int:
    """An exponent e such that every value divided by 2**e lies in [-1, 1].

    Squares of numbers near 1e300 overflow and those near 1e-300 vanish. Dividing by a power of two is exact, so the
    tests compute on the scaled values and scale the estimates back.
    """
    largest = max(sample.largest for sample in samples)
    return math.frexp(largest)[1] if largest > 0.0 else 0


def scaled(values: Vector, exponent: int) -> Vector:
    """A new vector, the values divided by 2**exponent."""
    with np.errstate(under="ignore"):
        return cast(Vector, np.ldexp(values, -exponent))


def unscaled(test: str, value: float, exponent: int) -> float:
    """A number multiplied by 2**exponent; CannotTestError where that leaves the range of a double."""
    try:
        return math.ldexp(float(value), exponent)
    except OverflowError:
        raise CannotTestError(
            test, "the result is larger than the largest double (1.8e308); rescale the data"
        ) from None


def _numbers(test: str, name: str, values: Any) -> Vector:
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        count = int(np.ma.getmaskarray(values).sum())
        raise CannotTestError(test, f"group {name!r} has {count} masked (missing) values; drop or impute them")
    readable = hasattr(values, "__getitem__") or hasattr(values, "__array__")
    if isinstance(values, (str, bytes, Mapping)) or not readable:
        raise CannotTestError(test, f"group {name!r} must be a sequence of numbers, not {type(values).__name__}")
    if not hasattr(values, "__array__"):
        return _from_sequence(test, name, list(values))
    array = np.asarray(values)
    if array.ndim != 1:
        raise CannotTestError(
            test,
            f"group {name!r} has shape {array.shape}; a group is one row of numbers, so pass each row or column "
            "as a group of its own, or ravel() it",
        )
    if array.dtype.kind == "b":
        raise _booleans(test, name)
    if array.dtype.kind in "iuf":
        with np.errstate(over="ignore"):  # a long double too large for a double becomes inf and is refused as such
            return cast(Vector, np.asarray(array, dtype=np.float64))
    return _from_sequence(test, name, array.tolist())


def _from_sequence(test: str, name: str, values: list[Any]) -> Vector:
    # Types are checked one by one: numpy would turn True into 1.0 and, in a mixed list with "7", 1.0 into a string.
    for kind in {type(value) for value in values}:
        if issubclass(kind, (bool, np.bool_)):
            raise _booleans(test, name)
        if not issubclass(kind, numbers.Real):
            where = next(index for index, value in enumerate(values) if type(value) is kind)
            raise CannotTestError(test, _not_a_number(name, where, values[where]))
    try:
        return np.array([float(value) for value in values], dtype=np.float64)
    except OverflowError:
        raise CannotTestError(
            test, f"group {name!r} holds an integer beyond the range of a double (1.8e308); rescale the data"
        ) from None


def _not_a_number(name: str, where: int, value: Any) -> str:
    what = f"group {name!r} has {value!r} at position {where}"
    if value is None:
        return f"{what}, a missing value; drop or impute it before testing"
    if hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
        return f"{what}, so it is nested; a group is one row of numbers"
    return f"{what}, a {type(value).__name__}; a group holds real numbers only"


def _booleans(test: str, name: str) -> CannotTestError:
    return CannotTestError(
        test,
        f"group {name!r} holds booleans, but this is not a test for proportions; use one, or pass the numbers 0 and "
        "1 to compare their means",
    )
