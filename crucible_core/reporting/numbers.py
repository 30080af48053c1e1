"""Numbers, times and other values as people write them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from crucible_core.jsonable import to_json_text, to_jsonable

__all__ = ["format_duration", "format_interval", "format_number", "format_p", "format_value"]


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
    low, high = interval
    return f"[{'−∞' if low is None else format_number(low)}, {'∞' if high is None else format_number(high)}]"


def format_duration(seconds: float) -> str:
    if not abs(seconds) < 1e12:
        return f"{format_number(seconds)} s"
    # Rounded first: there are no 1000 ms and no 60.0 s.
    if round(seconds * 1000) < 1000:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "< 1 ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def format_value(value: Any, limit: int = 200) -> str:
    """Any value in one line."""
    if isinstance(value, float | int):
        return format_number(value)
    rendered = to_jsonable(value)
    if isinstance(rendered, str):
        text = rendered
    elif isinstance(rendered, int | float):
        text = format_number(rendered)
    elif isinstance(rendered, list) and rendered and all(type(item) in {int, float} for item in rendered):
        if len(rendered) <= 3:
            return f"[{', '.join(map(format_number, rendered))}]"
        span = f"from {format_number(min(rendered))} to {format_number(max(rendered))}"
        text = f"{len(rendered)} values {span}, mean {format_number(_mean(rendered))}"
    elif isinstance(rendered, Mapping) and set(rendered) > {"type"} and isinstance(rendered["type"], str):
        text = f"{rendered['type']} " + ", ".join(f"{key} {item}" for key, item in rendered.items() if key != "type")
    else:
        text = to_json_text(rendered, indent=None)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # of the sum; the mean is in range
        return math.fsum(value / len(values) for value in values)
