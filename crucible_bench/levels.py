"""Significance and confidence levels, checked."""

from __future__ import annotations

import math
from typing import Final

_LEAST_TAIL: Final = 1e-12


def share(name: str, value: float) -> float:
    """The value as a float; ValueError unless it lies strictly between 0 and 1."""
    if not (0.0 < value < 1.0 and math.isfinite(value)):
        raise ValueError(f"{name} must lie between 0 and 1, both excluded, but is {value!r}")
    return float(value)


def levels(alpha: float, confidence_level: float | None) -> tuple[float, float]:
    """Alpha and the confidence level, by default 1 - alpha; ValueError if one is out of range."""
    level = 1.0 - share("alpha", alpha) if confidence_level is None else share("confidence_level", confidence_level)
    if 1.0 - level < 2.0 * _LEAST_TAIL:
        raise ValueError(f"a confidence level of {level!r} leaves tails that double precision cannot resolve")
    return share("alpha", alpha), level
