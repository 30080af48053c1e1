"""An option of a stage in words: `whole number or list of texts`, `at least 1`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping

from crucible_core.ir.option_schema import MAX_NESTING, Bound, Kind, Option

__all__ = ["describe_option", "type_in_words"]


@functools.lru_cache(maxsize=8192)
def describe_option(option: Option) -> str | None:
    """The option's description, then its constraints in brackets; None if it has neither."""
    limits = [f"{words} {option.bounds[key]}" for key, words in _BOUNDS.items() if key in option.bounds]
    if _needs_words(option):
        limits.insert(0, type_in_words(option))
    said = [option.description, f"({', '.join(limits)})" if limits else None]
    said += [f"(with {tag}: {' or '.join(values)})" for tag, values in option.only_with.items()]
    return " ".join(part for part in said if part) or None


def type_in_words(option: Option, depth: int = 0) -> str:
    """The option's type, apart from null: `whole number or list of texts`."""
    if depth >= MAX_NESTING and option.kind != "choice":
        return "anything"
    made = _WORDS[option.kind]
    if not isinstance(made, str):
        return made(option, depth)
    return _FORMATS.get(option.format, option.format) if option.format else made


def _needs_words(option: Option, depth: int = 0) -> bool:
    """Whether the option's config type in Dagster says less than its type in words."""
    item = option.item if option.kind == "list" and depth < MAX_NESTING else None
    return bool(
        option.kind in {"union", "scalar_or_more"}
        or (option.kind == "mapping" and (option.item is None or not option.text_keys))
        or option.format
        or option.items
        or not all(isinstance(value, str) for value in option.choices)
        or (item is not None and (item.nullable or _needs_words(item, depth + 1)))
    )


def _with_null(option: Option, depth: int) -> str:
    words = type_in_words(option, depth)
    return f"{words} or null" if option.nullable else words


def _choice(option: Option, _: int) -> str:
    return " or ".join(json.dumps(value) for value in option.choices)


def _list(option: Option, depth: int) -> str:
    if option.items:
        return f"list of {', '.join(_with_null(one, depth + 1) for one in option.items)}"
    return "list" if option.item is None else f"list of {_plural(_with_null(option.item, depth + 1))}"


def _union(option: Option, depth: int) -> str:
    return " or ".join(dict.fromkeys(_with_null(one, depth + 1) for one in option.alternatives))


def _plural(words: str) -> str:
    return f"{words}s" if words in {"mapping", "number", "path", "text", "whole number"} else words


_WORDS: Mapping[Kind, str | Callable[[Option, int], str]] = {
    "text": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "choice": _choice,
    "list": _list,
    "mapping": "mapping",
    "model": "mapping",
    "union_by_tag": "mapping",
    "scalar_or_more": _union,
    "union": _union,
    "anything": "anything",
}
_FORMATS = {
    "date": "date such as 2026-01-31",
    "date-time": "time such as 2026-01-31T12:30:00Z",
    "directory-path": "path of a folder",
    "duration": "duration such as PT1H30M",
    "file-path": "path of a file",
    "password": "secret: everyone who can see a run can read it",
    "path": "path",
    "time": "time of day such as 12:30:00",
    "uri": "URL",
    "uuid": "UUID",
}
_BOUNDS: Mapping[Bound, str] = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "multipleOf": "a multiple of",
    "minLength": "length at least",
    "maxLength": "length at most",
    "minItems": "items at least",
    "maxItems": "items at most",
    "pattern": "matching",
}
