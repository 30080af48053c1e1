"""How mistakes are worded: what was asked, what exists, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["closest", "cut", "describe_mistake", "error_text", "listing", "printable", "shorten"]


def closest(asked: str, known: Iterable[str]) -> str:
    """`; did you mean 'bench'?`, or nothing when no known name is near."""
    found = difflib.get_close_matches(asked, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def printable(text: str) -> str:
    """The text with control characters, which a terminal would obey, written as escapes; cut at 100 characters."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:100])
    return shown if len(text) <= 100 else f"{shown}…"


def cut(text: str, limit: int) -> str:
    """The text; of a longer one its first `limit` characters, and how many more there are."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def shorten(text: str, width: int) -> str:
    """The text in at most `width` characters, for a cell, a line or a tag that has room for no more."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def error_text(error: BaseException) -> str:
    """`str(error)`, also of an exception that has no text of its own."""
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001  # whatever a user's exception class does here
        return f"(its text cannot be read: {type(broken).__name__})"


def describe_mistake(mistake: Mapping[str, Any], model: type[BaseModel]) -> str:
    """One pydantic error of `model` as a sentence.

    Pydantic's own message is kept. The name of the field, the value as given and, for an unknown name, the closest
    known one are added.
    """
    where = ".".join(printable(str(part)) for part in mistake["loc"] if not str(part).startswith("function-"))
    if mistake["type"] == "extra_forbidden":
        known = _fields_at(model, tuple(mistake["loc"][:-1]))
        return f"unknown key {where!r}{closest(str(mistake['loc'][-1]), known)}; known: {listing(known)}"
    if mistake["type"] == "missing":
        return f"{where!r} is missing"
    message = str(mistake["msg"]).removeprefix("Value error, ")
    given = mistake.get("input")
    message = _PLAIN_WORDS.get(mistake["type"], message)
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
    field = model.model_fields.get(str(mistake["loc"][0])) if mistake["loc"] else None
    if field is not None and "Secret" in repr(field.annotation):
        shown = ""
    if mistake["type"] in {"name", "cron", "timezone", "duplicate_name", "dep"} or len(shown) > 80:
        shown = ""
    return f"{where}: {message}{shown}" if where else f"{message}{shown}"


_PLAIN_WORDS = {
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "model_type": "should be a mapping",
    "model_attributes_type": "should be a mapping",
}


def _fields_at(model: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    """The field names of the model at `place` below `model`."""
    for step in place:
        if isinstance(step, str) and step in model.model_fields:
            nested = _nested_model(model.model_fields[step].annotation)
            if nested is None:
                return []
            model = nested
    return list(model.model_fields)


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    from pydantic import BaseModel  # noqa: PLC0415  # who words no mistake of a model does not wait for it

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in getattr(annotation, "__args__", ()) if (m := _nested_model(a)) is not None), None)
