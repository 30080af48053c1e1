"""Wording that several notes share."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """How many of what: 1 tie, 12 ties."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
