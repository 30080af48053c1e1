"""Wording that several notes share."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 tie, 12 ties."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listing(names: Iterable[str]) -> str:
    """The names in order, with commas; "none" if there are none."""
    return ", ".join(sorted(names)) or "none"


def percentile(quantile: float) -> str:
    """The name of a quantile: median, 95th percentile, 99.9th percentile."""
    if quantile == 0.5:
        return "median"
    number = f"{100.0 * quantile:.10g}"
    irregular = next((one for one in ("1st", "2nd", "3rd") if one[0] == number[-1]), None)
    if irregular is None or "." in number or number[-2:-1] == "1":
        return f"{number}th percentile"
    return f"{number[:-1]}{irregular} percentile"
