"""Text for a terminal."""

from __future__ import annotations

from crucible_core.values.jsonable import safe_text

__all__ = ["plain"]


def plain(text: str) -> str:
    """The text with its control characters, which the terminal would obey, written as escapes."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in safe_text(text).expandtabs(4)
    )
