"""Numbers, times and other values as people write them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from crucible_bench.numbers import format_number
from crucible_core.values.jsonable import to_json_text, to_jsonable
from crucible_core.values.messages import shorten

__all__ = ["format_duration", "format_number", "format_value"]


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
    return shorten(text, limit)


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # of the sum; the mean is in range
        return math.fsum(value / len(values) for value in values)
