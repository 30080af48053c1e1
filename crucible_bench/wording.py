"""Wording that several notes share."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 tie, 12 ties."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listing(names: Iterable[str]) -> str:
    """The names in order, with commas; "none" if there are none."""
    return ", ".join(sorted(names)) or "none"
