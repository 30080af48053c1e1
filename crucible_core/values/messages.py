"""How mistakes are worded: what was asked, what exists, what to do."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = [
    "BESIDE",
    "as_written",
    "closest",
    "cut",
    "describe_mistake",
    "error_text",
    "listing",
    "path_hint",
    "printable",
    "shorten",
    "without_echoes",
]

BESIDE = "crucible_core.beside."
"""What the names of modules beside experiment files begin with."""


UNUSED = (
    "stage %r returned the Context that it was given, although it made a new one from it: what it added is lost. Every "
    "method returns a new Context: `ctx = ctx.put_metric(...)`, then `return ctx`"
)

LOST = (
    "stage %r decided %s on a Context that it did not return: this is not in the trace. Every method returns a "
    "new Context: `ctx = ctx.decide(...)`, then `return ctx`"
)


def as_written(text: str) -> str:
    """The text with the modules beside an experiment file named as the file names them."""
    return _PACKAGE_BESIDE.sub("", text) if BESIDE in text else text


_PACKAGE_BESIDE = re.compile(rf"{re.escape(BESIDE)}\w+_[0-9a-f]{{12}}\.")


def closest(asked: str, known: Iterable[str]) -> str:
    """`; did you mean 'bench'?`, or nothing when no known name is near."""
    found = difflib.get_close_matches(str(asked), list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def closest_ignoring_case(asked: str, known: Iterable[str]) -> str:
    """As `closest`, for names that are often written in another case; a part behind a slash is enough."""
    by_name: dict[str, str] = {}
    for name in sorted(known):
        by_name.setdefault(name.rpartition("/")[2].casefold(), name)
    by_name |= {name.casefold(): name for name in known}
    found = difflib.get_close_matches(asked.casefold(), by_name, n=1)
    return f"; did you mean {by_name[found[0]]!r}?" if found else ""


def printable(text: str) -> str:
    """The text with control characters, which a terminal would obey, written as escapes; cut at 100 characters."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:100])
    return shown if len(text) <= 100 else f"{shown}…"


def cut(text: str, limit: int) -> str:
    """The text; if it is longer, its first `limit` characters and how many more there are."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def shorten(text: str, width: int) -> str:
    """The text in at most `width` characters, for a cell, a line or a tag that has room for no more."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def error_text(error: BaseException) -> str:
    """`str(error)` without secrets, even if the exception cannot give its text."""
    from crucible_core.values.redaction import scrub  # noqa: PLC0415  # for errors only

    try:
        return scrub(str(error))
    except Exception as broken:  # noqa: BLE001  # whatever a user's exception class does here
        return f"(its text cannot be read: {type(broken).__name__})"


def path_hint(error: BaseException) -> str:
    """For a relative path to a file that was not found: what the path is relative to; nothing for other errors."""
    if not isinstance(error, FileNotFoundError):
        return ""
    here = ""
    named = error.filename if isinstance(error.filename, str) else None
    if _ABSOLUTE.search(error_text(error) if named is None else named):
        return ""
    call = f"ctx.experiment.path({'...' if named is None else repr(named)})"
    with contextlib.suppress(OSError):  # a working directory that was removed
        here = f", {Path.cwd()}"
    return f" (relative to the working directory{here}; use {call} for a file beside the experiment file)"


_ABSOLUTE = re.compile(r"(^|[\s'\"(])(/|~|\w+://)")


def describe_mistake(mistake: Mapping[str, Any], model: type[BaseModel], *, secret: bool = False) -> str:
    """One pydantic error of `model` as a sentence. The value is left out if it is `secret`.

    Pydantic's own message is kept, without its subject "Input". The name of the field, the value as given and, for an
    unknown name, the closest known one are added.
    """
    where = ".".join(printable(str(part)) for part in mistake["loc"] if not str(part).startswith("function-"))
    if mistake["type"] == "extra_forbidden":
        known = _fields_at(model, tuple(mistake["loc"][:-1]))
        near = closest(str(mistake["loc"][-1]), known)
        return f"unknown key {where!r}{near}{'' if near and len(known) > _MOST_NAMES else f'; known: {listing(known)}'}"
    if mistake["type"] == "missing":
        return f"{where!r} is missing"
    message = str(mistake["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    given = mistake.get("input")
    message = _say_choices(mistake) if mistake["type"] in _CHOICES else _PLAIN_WORDS.get(mistake["type"], message)
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
    if secret or mistake["type"] in {"name", "cron", "timezone", "duplicate_name", "dep"} or len(shown) > 80:
        shown = ""
    return f"{where}: {message}{shown}" if where else f"{message}{shown}"


_MOST_NAMES = 15
"""A longer enumeration is cut, or left out where the closest name is known."""


def _say_choices(mistake: Mapping[str, Any]) -> str:
    """What a choice takes, and the closest to what was given."""
    known = re.findall(r"'((?:[^'\\]|\\.)*)'", str(mistake.get("ctx", {}).get(_CHOICES[mistake["type"]], "")))
    given = mistake.get("ctx", {}).get("tag", mistake.get("input"))
    near = closest(given, known) if isinstance(given, str) else ""
    if len(known) <= _MOST_NAMES:
        return f"{str(mistake['msg']).removeprefix('Input ')}{near}"
    some = "" if near else f"; among them: {', '.join(map(repr, known[:_MOST_NAMES]))}"
    return f"this is not one of the {len(known)} values that it takes{near}{some}"


_CHOICES = {"literal_error": "expected", "enum": "expected", "union_tag_invalid": "expected_tags"}

_PLAIN_WORDS = {
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "model_type": "should be a mapping",
    "model_attributes_type": "should be a mapping",
}


def without_echoes(mistakes: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Pydantic's errors without those of missing keys that were misspelt: the error of the unknown key covers them."""
    found = list(mistakes)
    unknown: dict[tuple[str | int, ...], list[str]] = {}  # by the place that they are in: there may be thousands
    for one in found:
        if one["type"] == "extra_forbidden":
            unknown.setdefault(tuple(one["loc"][:-1]), []).append(str(one["loc"][-1]))

    def misspelt(one: Mapping[str, Any]) -> bool:
        *above, name = one["loc"]
        return any(closest(asked, [str(name)]) for asked in unknown.get(tuple(above), ()))

    return [one for one in found if one["type"] != "missing" or not misspelt(one)]


def _fields_at(model: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    """The field names of the model at `place` below `model`."""
    for step in place:
        if isinstance(step, str) and step in model.model_fields:
            nested = _nested_model(model.model_fields[step].annotation)
            if nested is None:
                return []
            model = nested
    return [field.alias or name for name, field in model.model_fields.items()]


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    from pydantic import BaseModel  # noqa: PLC0415  # only for mistakes in a model

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in getattr(annotation, "__args__", ()) if (m := _nested_model(a)) is not None), None)
