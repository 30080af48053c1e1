"""From a stage's options to op config: typed fields in the Launchpad, checked before a run is created.

The stage's JSON schema is mapped to Dagster's config types, as far as these go:

| JSON schema                              | Dagster                                                       |
| ---------------------------------------- | ------------------------------------------------------------- |
| string, integer, boolean                 | String, Int, Bool                                             |
| number                                   | Float, whole numbers too                                      |
| enum of strings, one constant string     | Enum                                                          |
| array of one kind of value               | Array                                                         |
| object with properties                   | Shape                                                         |
| object of one kind of value              | Map                                                           |
| X or null                                | Noneable(X)                                                   |
| a scalar, or an array or object          | ScalarUnion                                                   |
| objects told apart by one of their fields| Shape: that field an Enum, the others those of all the objects|
| anything else                            | Any, its type written in the description                      |

Dagster checks these types on screen. The rest (bounds, patterns, dates, what several options make together) the stage's
own model checks in `check_at_launch`, which Dagster calls with the config of each op before it creates a run, be it
launched by a person, a schedule or a program. The options that the file sets are the defaults of the job's own fields,
so that config which sets some options never loses the others.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster
from dagster import (
    Array,
    DagsterInvalidConfigError,
    Enum,
    EnumValue,
    Field,
    Map,
    Noneable,
    Permissive,
    ScalarUnion,
    Shape,
)
from pydantic import ValidationError

from crucible_core import Stage
from crucible_core.ir.option_schema import (
    Schema,
    merge_options,
    nested_model,
    resolve_schema,
    schema_of,
    without_null,
)
from crucible_core.plan import read_options
from crucible_core.values.messages import describe_mistake
from crucible_dagster.execute.launchpad import typed_options

__all__ = ["check_at_launch", "enum_of", "option_fields", "showable_options"]

MAX_NESTING = 8

_SCALARS: Mapping[str, Any] = {
    "boolean": dagster.Bool,
    "integer": dagster.Int,
    "number": dagster.Float,
    "string": dagster.String,
}


def option_fields(stage: type[Stage], options: Mapping[str, Any]) -> dict[str, Field]:
    """The config fields of an op: the stage's options, with `options` of the experiment file as their defaults."""
    schema = schema_of(stage)
    return _fields(schema, schema.get("$defs", {}), options, depth=0)


def showable_options(stage: type[Stage], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that run config may hold, which whoever sees the run can read: all but secrets."""
    schema = schema_of(stage)
    return _showable(schema, schema.get("$defs", {}), options)


def _showable(schema: Schema, defs: Schema, options: Mapping[str, Any]) -> dict[str, Any]:
    shown = {}
    for name, value in options.items():
        inner = nested_model(schema.get("properties", {}).get(name, {}), defs)
        if inner is not None and isinstance(value, Mapping):
            shown[name] = _showable(inner, defs, value)
        elif not _holds_secret(schema.get("properties", {}).get(name, {}), defs):
            shown[name] = value
    return shown


def _holds_secret(schema: Any, defs: Schema, depth: int = 0) -> bool:
    if isinstance(schema, Mapping):
        schema = resolve_schema(schema, defs)
        return schema.get("writeOnly") is True or (
            depth < MAX_NESTING and any(_holds_secret(one, defs, depth + 1) for one in schema.values())
        )
    return isinstance(schema, list) and any(_holds_secret(one, defs, depth + 1) for one in schema)


def check_at_launch(
    name: str, stage: type[Stage], possible: Sequence[Mapping[str, Any]]
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """What Dagster calls with an op's config, before it creates a run and again where the run is executed.

    `possible` are the options that the config may be meant to change: those of the file, then those of its variants, of
    which the op does not know which one is run. Config that fits none of them is refused with the words that
    `plan_experiment` has for it; of one that fits another than is run, the run's first step says so.
    """

    def check(config: Mapping[str, Any]) -> Mapping[str, Any]:
        refused: ValidationError | None = None
        typed = typed_options(stage, possible[0], config)
        for options in possible:
            try:
                read_options(stage, merge_options(stage, options, typed))
                return config
            except ValidationError as error:
                refused = refused or error
            except Exception:  # noqa: BLE001  # a validator that breaks: the run's first step tells of it in full
                return config
        assert refused is not None
        mistakes = refused.errors(include_url=False)
        said = "\n".join(f"stage {name!r}, option {describe_mistake(one, stage)}" for one in mistakes)
        raise DagsterInvalidConfigError(said, [], None) from None

    return check


def _fields(schema: Schema, defs: Schema, options: Mapping[str, Any], depth: int) -> dict[str, Field]:
    required = set(schema.get("required", ()))
    fields = {}
    for name, one in schema.get("properties", {}).items():
        resolved = resolve_schema(one, defs)
        given = options.get(name, one.get("default"))
        kind = _config_type(resolved, defs, given if isinstance(given, Mapping) else {}, depth)
        settings: dict[str, Any] = {}
        if isinstance(kind, Shape) and "properties" in resolved:
            # Its fields carry the defaults, and Dagster fills it in from them unless one of them has none.
            complete = not any(field.is_required for field in kind.fields.values())
            settings = {} if complete or name in required else {"is_required": False}
        elif given is not None and not _is_hidden(resolved, defs, given):
            settings = {"default_value": given}
        elif name not in required:
            # A field whose default is None is hidden in the Launchpad; one that is merely optional is offered.
            settings = {"is_required": False}
        fields[name] = Field(kind, description=_description(one, resolved, defs), **settings)
    return fields


def _is_hidden(schema: Schema, defs: Schema, default: Any) -> bool:
    # The stars that stand for a secret would replace it, and run config cannot say infinity.
    return _holds_secret(schema, defs) or (isinstance(default, float) and not math.isfinite(default))


def _config_type(schema: Schema, defs: Schema, options: Mapping[str, Any], depth: int) -> Any:
    schema = resolve_schema(schema, defs)
    some, nullable = without_null(schema)
    if nullable:
        return Noneable(_config_type(some, defs, options, depth))
    choices = _choices(schema)
    if choices and all(isinstance(value, str) for value in choices):
        return enum_of(choices)
    if depth >= MAX_NESTING:
        return dagster.Any
    if "oneOf" in schema:
        return _told_apart(schema, defs, depth)
    if "anyOf" in schema:
        return _scalar_or_more(schema, defs, depth)
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        return Shape(_fields(schema, defs, options, depth + 1))
    if kind == "object":
        of = schema.get("additionalProperties")
        return Map(str, _config_type(of, defs, {}, depth + 1)) if isinstance(of, Mapping) and of else Permissive()
    if kind == "array":
        return Array(_config_type(_items(schema), defs, {}, depth + 1))
    return _SCALARS.get(kind, dagster.Any) if isinstance(kind, str) else dagster.Any


def _items(schema: Schema) -> Schema:
    """The schema of each item of an array; of a tuple, where all are of one type."""
    items = schema.get("items") or {}
    first, *others = schema.get("prefixItems") or [items]
    return first if all(one == first for one in others) else {}


def _scalar_or_more(schema: Schema, defs: Schema, depth: int) -> Any:
    some = [resolve_schema(one, defs) for one in schema["anyOf"]]
    scalars = [one for one in some if one.get("type") in _SCALARS and not {"enum", "const"} & one.keys()]
    more = [one for one in some if one.get("type") in {"array", "object"}]
    if len(scalars) != 1 or len(more) != 1 or len(some) != 2:
        return dagster.Any
    return ScalarUnion(_SCALARS[scalars[0]["type"]], _config_type(more[0], defs, {}, depth + 1))


def _told_apart(schema: Schema, defs: Schema, depth: int) -> Any:
    """Models that one of their fields tells apart: that field is required, the fields of all of them are offered."""
    tag = schema.get("discriminator", {}).get("propertyName")
    kinds = [resolve_schema(one, defs) for one in schema["oneOf"]]
    if tag is None or not all(tag in one.get("properties", {}) for one in kinds):
        return dagster.Any
    having: dict[str, list[tuple[Sequence[Any], Schema]]] = {}
    for one in kinds:
        tags = _choices(resolve_schema(one["properties"][tag], defs))
        for name, inner in one["properties"].items():
            having.setdefault(name, []).append((tags, resolve_schema(inner, defs)))
    tags = [value for values, _ in having[tag] for value in values]
    if not tags or not all(isinstance(value, str) for value in tags):
        return dagster.Any
    fields = {tag: Field(enum_of(tuple(tags)), description=_description({}, having[tag][0][1], defs))}
    for name, found in having.items():
        if name == tag:
            continue
        types = [{key: value for key, value in one.items() if key not in _ABOUT} for _, one in found]
        same = all(one == types[0] for one in types)
        kind = _config_type(found[0][1], defs, {}, depth + 1) if same else dagster.Any
        of = [str(value) for values, _ in found for value in values]
        where = "" if len(of) == len(tags) else f"(with {tag}: {' or '.join(of)})"
        what = _description({}, found[0][1], defs) if same else " or ".join(_words(one, defs) for _, one in found)
        fields[name] = Field(kind, is_required=False, description=" ".join(filter(None, [what, where])) or None)
    return Shape(fields)


_ABOUT = frozenset({"default", "description", "examples", "title"})


def _choices(schema: Schema) -> Sequence[Any]:
    return (schema["const"],) if "const" in schema else tuple(schema.get("enum", ()))


@functools.cache
def enum_of(values: tuple[str, ...]) -> Enum:
    # Within one job an enum's name stands for one object: its values are its name, and each is made once.
    plain = all(re.fullmatch(r"[A-Za-z0-9_]+", value) and not _LOOKS_JOINED.search(value) for value in values)
    name = "_or_".join(value if plain else _escaped(value) for value in values)
    return Enum(name, [EnumValue(value, value) for value in values])


_LOOKS_JOINED = re.compile(r"(?:^|_)or(?:_|$)|_\d+_")
"""What a text holds that might be taken for two, or for one with an escaped letter in it."""


def _escaped(value: str) -> str:
    return "".join(char if char.isalnum() else f"_{ord(char)}_" for char in value)


_BOUNDS = {
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


def _description(own: Schema, resolved: Schema, defs: Schema) -> str | None:
    said = [str(own.get("description") or resolved.get("description") or "")]
    inner, _ = without_null(resolved)
    limits = [f"{words} {inner[key]}" for key, words in _BOUNDS.items() if key in inner]
    if _needs_words(inner):
        limits.insert(0, _words(inner, defs))
    if limits:
        said.append(f"({', '.join(limits)})")
    return " ".join(part for part in said if part) or None


def _needs_words(schema: Schema) -> bool:
    """Whether Dagster's type says less than the schema."""
    choices = _choices(schema)
    return bool(
        {"anyOf", "format", "prefixItems"} & schema.keys()
        or (choices and not all(isinstance(value, str) for value in choices))
        or (schema.get("type") == "array" and _needs_words(_items(schema)))
    )


_FORMATS = {
    "date": "date such as 2026-01-31",
    "date-time": "time such as 2026-01-31T12:30:00Z",
    "directory-path": "path of a folder",
    "duration": "duration such as PT1H30M",
    "file-path": "path of a file",
    "password": "secret, which run config is not",
    "path": "path",
    "time": "time of day such as 12:30:00",
    "uri": "URL",
    "uuid": "UUID",
}
_TYPES = {
    "boolean": "true or false",
    "integer": "whole number",
    "null": "null",
    "number": "number",
    "object": "mapping",
    "string": "text",
}


def _words(schema: Schema, defs: Schema, depth: int = 0) -> str:
    """The type in words: `whole number or list of texts`."""
    schema = resolve_schema(schema, defs)
    if choices := _choices(schema):
        return " or ".join(json.dumps(value) for value in choices)
    if depth >= MAX_NESTING:
        return "anything"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_words(one, defs, depth + 1) for one in schema["anyOf"]))
    if "prefixItems" in schema:
        return f"list of {', '.join(_words(one, defs, depth + 1) for one in schema['prefixItems'])}"
    if schema.get("type") == "array":
        return f"list of {_plural(_words(schema['items'], defs, depth + 1))}" if schema.get("items") else "list"
    shown = schema.get("format")
    return _FORMATS.get(shown, str(shown)) if shown else _TYPES.get(str(schema.get("type")), "anything")


def _plural(words: str) -> str:
    return f"{words}s" if words in {"mapping", "number", "path", "text", "whole number"} else words
