"""How numbers, p-values and intervals are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any


def format_number(value: Any, digits: int = 4) -> str:
    """Four significant digits; whole numbers with thousands separators; powers of ten only where needed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**15 else f"{value:.3e}" if abs(value) < 10**300 else "huge"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size >= 15:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    text = f"{value:,.{max(0, digits - 1 - size)}f}"
    # 0.05 stays 0.05 where that is all there is to it; 0.0500 says that it was rounded.
    if "." in text and float(text.replace(",", "")) == value:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−")


def format_p(value: float) -> str:
    """`= 0.032` or `< 0.001`: three digits say all there is to say."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def format_effect(value: float) -> str:
    """An effect size or a test's statistic: two decimals, or none of a large one."""
    if not math.isfinite(value) or abs(value) >= 1000:
        return format_number(value)
    text = f"{value:.2f}"
    return (text.lstrip("-") if not text.strip("-0.") else text).replace("-", "−")


def format_interval(interval: Sequence[float | None]) -> str:
    """`[0.1, 0.3]`; `none` for an interval that is open at both ends."""
    low, high = _ends(interval, format_number)
    if (low, high) == ("−∞", "∞"):
        return "none"
    return f"[{low}, {high}]"


def rounded(value: float, interval: Sequence[float | None], null_value: float = 0.0) -> tuple[str, str, str]:
    """A value and the two ends of its interval, with as many digits as the interval's length justifies.

    That is one digit of half the length, two if it begins with 1; of a ratio (`null_value` 1), two digits of each
    number. More are written where an end would otherwise be rounded to the null value.
    """
    ends = [end for end in interval if end is not None and math.isfinite(end)]
    half = (max(ends) - min(ends)) / 2 if len(ends) == 2 else abs(ends[0] - value) if ends else 0.0
    if null_value == 1.0 or not math.isfinite(value) or not 1e-5 < half < 1e12:
        least = 2 if null_value == 1.0 else 3
        digits = next(
            (
                more
                for more in range(least, 6)
                if not any(end != null_value and float(f"{end:.{more}g}") == null_value for end in ends)
            ),
            least,
        )
        return format_number(value, digits), *_ends(interval, lambda end: format_number(end, digits))
    size = math.floor(math.log10(half))
    least = max(0, -size + (half < 2 * 10.0**size))
    decimals = next(
        (
            more
            for more in range(least, least + 4)
            if not any(end != null_value and round(end - null_value, more) == 0 for end in ends)
        ),
        least,
    )

    def write(number: float) -> str:
        text = f"{number:,.{decimals}f}"
        return (text if text.strip("-0.,") else text.lstrip("-")).replace("-", "−")

    return write(value), *_ends(interval, write)


def _ends(interval: Sequence[float | None], write: Callable[[float], str]) -> tuple[str, str]:
    low, high = interval
    return (
        "−∞" if low is None or math.isinf(low) else write(low),
        "∞" if high is None or math.isinf(high) else write(high),
    )
