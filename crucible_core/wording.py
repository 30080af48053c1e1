"""How mistakes are worded: what was asked, what exists, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = ["closest", "describe_mistake", "listing", "printable"]


def closest(asked: str, known: Iterable[str]) -> str:
    """`; did you mean 'bench'?`, or nothing when no known name is near."""
    found = difflib.get_close_matches(asked, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def printable(text: str) -> str:
    """The text with control characters, which would speak to a terminal, written as escapes; cut at 100 characters."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:100])
    return shown if len(text) <= 100 else f"{shown}…"


def listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def describe_mistake(mistake: dict[str, Any], known: Iterable[str]) -> str:
    """One pydantic error as a sentence; `known` are the field names that exist where it was found.

    Pydantic's own message stands; added are the name of the field, the value as given, and for an unknown name the
    closest known one.
    """
    where = ".".join(printable(str(part)) for part in mistake["loc"] if not str(part).startswith("function-"))
    if mistake["type"] == "extra_forbidden":
        name = str(mistake["loc"][-1])
        return f"unknown key {where!r}{closest(name, known)}; known: {listing(known)}"
    if mistake["type"] == "missing":
        return f"{where!r} is missing"
    message = str(mistake["msg"]).removeprefix("Value error, ")
    given = mistake.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
    if mistake["type"] in {"name", "cron", "timezone", "duplicate_name"} or len(shown) > 80:
        shown = ""
    return f"{where}: {message}{shown}" if where else f"{message}{shown}"
