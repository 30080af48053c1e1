"""Numbers in a picture: one precision for all that are to be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "all_finite",
    "finite",
    "interval_ends",
    "interval_text",
    "length_of",
    "numerals",
    "open_or_finite",
    "plain",
    "ratios",
    "superscript",
]

_LARGEST_FIXED = 1e12
_MOST_DIGITS = 12
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def finite(value: float, what: str) -> float:
    """The value as a plain float.

    Raises ValueError for NaN, an infinity, or anything that is not a number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what} is not a number that can be drawn: {value!r:.80}") from error
    if not math.isfinite(number):
        raise ValueError(f"{what} is {'NaN' if math.isnan(number) else 'infinite'}, which has no place in a picture")
    return number


def all_finite(values: Sequence[float], what: Callable[[int], str]) -> list[float]:
    """The values as plain floats; `what` names the one at an index.

    Raises ValueError as `finite` does.
    """
    try:
        numbers = list(map(float, values))
    except (TypeError, ValueError, OverflowError):
        numbers = [math.nan]
    if all(map(math.isfinite, numbers)):
        return numbers
    return [finite(value, what(index)) for index, value in enumerate(values)]


def open_or_finite(low: float | None, high: float | None, what: str) -> tuple[float | None, float | None]:
    """The ends of an interval: None for an open or infinite one.

    Raises ValueError for NaN, for an infinite end on the wrong side and for a low end above the high one.
    """
    low = None if low is None or low == -math.inf else finite(low, f"{what}: the low end")
    high = None if high is None or high == math.inf else finite(high, f"{what}: the high end")
    if low is not None and high is not None and low > high:
        raise ValueError(f"{what}: the low end {low:g} is above the high end {high:g}")
    return low, high


def interval_ends(interval: Sequence[float]) -> tuple[float | None, float | None]:
    """The ends of an interval, None for an infinite one."""
    low, high = interval
    return None if low == -math.inf else low, None if high == math.inf else high


def superscript(power: int) -> str:
    return str(power).translate(_SUPERSCRIPTS)


def numerals(values: Iterable[float], digits: int = 3, *, lengths: Iterable[float] = ()) -> Callable[[float], str]:
    """A way of writing these numbers with the same decimals: `digits` significant ones in their spread.

    Up to three more where the shortest of the intervals' `lengths` would otherwise show fewer than two.
    """
    shown = [value for value in values if math.isfinite(value)]
    largest = max(map(abs, shown), default=0.0)
    if shown and all(value == math.floor(value) for value in shown) and largest < _LARGEST_FIXED:
        return lambda value: _signed(f"{value:,.0f}" if value == math.floor(value) else f"{value:,.{digits - 1}f}")
    # Halved first: the difference of the largest and the smallest float overflows.
    half = max(shown, default=0.0) / 2 - min(shown, default=0.0) / 2
    size = math.floor(math.log10(half) + math.log10(2)) if half > 0 else _size(largest)
    shortest = min((length for length in lengths if length > 0), default=math.inf)
    if shortest < math.inf:
        size = min(size, max(_size(shortest) + digits - 2, size - 3))
    decimals = max(0, digits - 1 - size)
    before = max(1, _size(largest) + 1)
    if largest >= _LARGEST_FIXED or before + decimals > _MOST_DIGITS or (decimals > 7 and largest < 1e-3):
        significant = min(_MOST_DIGITS, max(digits, _size(largest) - size + digits))
        return lambda value: _signed(f"{value:.{significant - 1}e}") if value else "0"
    return lambda value: _signed(f"{value:,.{decimals}f}")


def ratios(value: float) -> str:
    """A number whose ratio to others matters: three significant digits, whatever its size."""
    return _signed(f"{value:,.{max(0, 2 - _size(value))}f}" if 1e-4 <= value < 1e7 else f"{value:.2e}")


def _size(value: float) -> int:
    return math.floor(math.log10(value)) if value > 0 else 0


def _signed(text: str) -> str:
    if "e" in text:
        mantissa, power = text.split("e")
        return f"{mantissa}e{int(power)}".replace("-", "−")
    # Rounded to zero, it has no sign.
    return (text.lstrip("-") if not text.strip("-0.,") else text).replace("-", "−")


def plain(value: float) -> str:
    """A declared number, as it was written."""
    return f"{value:.6g}".replace("-", "−")


def length_of(low: float | None, high: float | None) -> float:
    """Infinite where an end is open, and where the length is beyond the largest float."""
    return math.inf if low is None or high is None else high - low


def interval_text(low: float | None, high: float | None, write: Callable[[float], str]) -> str:
    return f"[{'−∞' if low is None else write(low)}, {'∞' if high is None else write(high)}]"
