"""How numbers, p-values and intervals are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def format_interval(interval: Sequence[float | None]) -> str:
    """`[0.1, 0.3]`; `none` for an interval that is open at both ends."""
    low, high = interval
    if (low is None or low == -math.inf) and (high is None or high == math.inf):
        return "none"
    return f"[{'−∞' if low is None else format_number(low)}, {'∞' if high is None else format_number(high)}]"
