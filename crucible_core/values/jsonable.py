r"""How any value becomes JSON when it leaves a Context: one rendering for reports, the command line and Dagster.

| value                                      | as JSON                                                               |
| ------------------------------------------ | --------------------------------------------------------------------- |
| None, bool, str, int within 64 bits        | itself; half surrogates and NUL in text become escapes (`\\udc80`)    |
| larger int                                 | its decimal digits as text, in hexadecimal above 4,000 digits         |
| float                                      | itself; "NaN", "Infinity", "-Infinity" as text                        |
| list, tuple, any other sequence            | array                                                                 |
| set, frozenset                             | array, sorted by rendering                                            |
| mapping                                    | object; keys become text, and a second one of that text gets ` (2)`   |
| dataclass, pydantic model                  | object of its fields (secrets of pydantic stay masked)                |
| numpy scalar                               | the same Python number or text                                        |
| numpy array up to 10,000 elements          | nested arrays                                                         |
| larger array, data frame, any other object | `{"type": "package.Class", ...}` with its shape, dtype or length      |
| datetime, date, time                       | ISO 8601 text                                                         |
| timedelta                                  | seconds                                                               |
| Path, UUID, Decimal, Fraction, complex     | text                                                                  |
| Enum                                       | its value                                                             |
| bytes                                      | `{"type": "bytes", "length": n}`                                      |
| contains itself, is 50 deep, or raises     | `{"type": ..., "omitted": "..."}`                                     |
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from crucible_core.values import MAX_DEPTH
from crucible_core.values.messages import as_written, cut, error_text

__all__ = [
    "MAX_DEPTH",
    "as_number",
    "key_text",
    "plain_number",
    "readable_text",
    "safe_text",
    "shown_text",
    "to_json_text",
    "to_jsonable",
    "type_name",
    "visible_text",
]

MAX_ELEMENTS = 10_000
MAX_TEXT = 20_000
_UNSAFE = re.compile("[\x00\ud800-\udfff]")
_OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LEFT_BY_JSON = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # of these, what JSON allows in a string


def to_jsonable(value: Any) -> Any:
    """The value as JSON types, by the table above. Never raises, whatever the value is."""
    return _render(value, ())


def to_json_text(value: Any, *, indent: int | None = 2) -> str:
    text = json.dumps(to_jsonable(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return _LEFT_BY_JSON.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


_INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}  # as JSON has them


def as_number(value: Any) -> float | int | None:
    """The value as a number that can be compared with a bound; None for what is not a number, including NaN.

    A boolean is one: it counts as 1 or 0. Decimal, Fraction, and numbers of numpy become int or float.
    """
    if isinstance(value, str):
        return None
    if isinstance(value, Decimal | Fraction):
        try:
            value = float(value)
        except (ValueError, OverflowError):  # a signalling NaN; a fraction beyond every float
            return None
    elif type(value) not in {int, float, bool}:
        rendered = to_jsonable(value)
        value = _INFINITIES.get(rendered) if isinstance(rendered, str) else rendered
    if not isinstance(value, int | float) or value != value:  # noqa: PLR0124  # NaN; an int may be too large for isnan
        return None
    return value


def plain_number(value: float | int) -> float | int:
    """The number as one that every database and JSON can hold."""
    if isinstance(value, float):
        return value
    if abs(value) < 2**63:
        return int(value)
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def safe_text(text: str) -> str:
    """The text with what databases and browsers refuse (NUL, half surrogates) written as escapes."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def shown_text(text: str) -> str:
    """As `safe_text`, without the secrets that are known everywhere, unlike those of a stage's options."""
    from crucible_core.values.redaction import scrub  # noqa: PLC0415  # few runs fail or log

    return safe_text(scrub(text))


def visible_text(text: str) -> str:
    """The text with what a terminal, a browser or a spreadsheet would obey instead of show written as escapes.

    That is control characters other than tab and line ends, those that change the direction of writing, and what
    `safe_text` replaces.
    """
    return _OBEYED.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def readable_text(text: str) -> str:
    """As `safe_text`; of a very long text, its beginning and its end."""
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT // 2]}\n… {len(text) - MAX_TEXT:,} characters left out …\n{text[-MAX_TEXT // 2 :]}"
    return safe_text(text)


def key_text(key: Any) -> str:
    """The key of a mapping as the name that it has in JSON."""
    return _key(key, ())


def type_name(value: object) -> str:
    cls = type(value)
    name = cls.__qualname__ if cls.__module__ == "builtins" else as_written(f"{cls.__module__}.{cls.__qualname__}")
    return safe_text(name)


def _render(value: Any, above: tuple[int, ...]) -> Any:
    """`above` are the ids of the containers around the value."""
    try:
        return _render_simple(value) if _is_simple(value) else _render_nested(value, above)
    except Exception as error:  # noqa: BLE001  # properties of strange objects may raise anything, and a report must not
        return {
            "type": type_name(value),
            "omitted": safe_text(cut(f"{type(error).__name__}: {error_text(error)}", 200)),
        }


def _is_simple(value: Any) -> bool:
    if isinstance(value, Enum):
        return False
    return value is None or isinstance(
        value,
        bool
        | int
        | float
        | str
        | bytes
        | bytearray
        | date
        | time
        | timedelta
        | PurePath
        | UUID
        | Decimal
        | Fraction
        | complex,
    )


def _render_simple(value: Any) -> Any:
    match value:
        case None | bool():
            return value
        case int():
            return _render_int(int(value))
        case float():
            if math.isfinite(value):
                return float(value)
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case str():
            return safe_text(str.__str__(value))
        case bytes() | bytearray():
            return {"type": type_name(value), "length": len(value)}
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case _:
            return safe_text(str(value))


def _render_int(value: int) -> int | str:
    if abs(value) < 2**63:
        return value
    return str(value) if value.bit_length() < 13_000 else hex(value)


def _render_nested(value: Any, above: tuple[int, ...]) -> Any:
    if id(value) in above:
        return {"type": type_name(value), "omitted": "contains itself"}
    if len(above) >= MAX_DEPTH:
        return {"type": type_name(value), "omitted": f"nested more than {MAX_DEPTH} deep"}
    above = (*above, id(value))
    if isinstance(value, Enum):
        return _render(value.value, above)
    if isinstance(value, BaseModel):
        return _render(value.model_dump(mode="json", warnings=False, fallback=to_jsonable), above)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _render(getattr(value, field.name), above) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return _render_mapping(value, above)
    if isinstance(value, Set):
        return sorted((_render(item, above) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, Sequence):
        return [_render(item, above) for item in value]
    return _render_object(value, above)


def _render_mapping(value: Mapping[Any, Any], above: tuple[int, ...]) -> dict[str, Any]:
    rendered: dict[str, Any] = {}
    for key, item in value.items():
        name = unique = _key(key, above)
        number = 1
        while unique in rendered:
            number += 1
            unique = f"{name} ({number})"
        rendered[unique] = _render(item, above)
    return rendered


def _key(key: Any, above: tuple[int, ...]) -> str:
    rendered = _render(key, above)
    return rendered if isinstance(rendered, str) else json.dumps(rendered, ensure_ascii=False)


def _render_object(value: Any, above: tuple[int, ...]) -> Any:
    described: dict[str, Any] = {"type": type_name(value)}
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple):
        if dtype is not None and hasattr(value, "tolist") and math.prod(shape) <= MAX_ELEMENTS:
            return _render(_elements(value, shape, dtype), above)
        return described | ({"shape": list(shape)} if dtype is None else {"dtype": str(dtype), "shape": list(shape)})
    if hasattr(value, "__len__"):
        described |= {"length": len(value)}
    return described


def _elements(value: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array as a list of its values, a numpy scalar as a Python value."""
    kind = getattr(dtype, "char", "")
    if kind not in {"M", "m", "g", "G"}:
        return value.tolist()
    if shape:
        return list(value)
    # For these, the result of tolist depends on their unit, or is the same scalar.
    match kind:
        case "M":
            return str(value)
        case "m":
            return value / dtype.type(1, "s")
        case "g":
            return float(value)
        case _:
            return complex(value)
