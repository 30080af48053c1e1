"""From a stage's options to op config: typed fields in the Launchpad, and run config back to options.

The stage's JSON schema is mapped to Dagster's config types, as far as these go:

| JSON schema                   | Dagster                                   |
| ----------------------------- | ----------------------------------------- |
| string, integer, boolean      | String, Int, Bool                         |
| number                        | Float, whole numbers too                  |
| enum of strings               | Enum                                      |
| array                         | Array                                     |
| object with properties        | Shape                                     |
| object of one kind of value   | Map                                       |
| X or null                     | Noneable(X)                               |
| anything else                 | Any, its type written in the description  |

Bounds, patterns and unions are checked by the stage's own model, before the first stage of the run. The options that
the file sets are the defaults of the job's own fields, so that config which sets some options never loses the others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import dagster
from dagster import Array, Enum, EnumValue, Field, Map, Noneable, Permissive, Shape

from crucible_core import Stage

__all__ = ["merge_options", "option_fields"]

Schema = Mapping[str, Any]
MAX_NESTING = 8

_SCALARS: Mapping[str, Any] = {
    "boolean": dagster.Bool,
    "integer": dagster.Int,
    "number": dagster.Float,
    "string": dagster.String,
}


def option_fields(stage: type[Stage], options: Mapping[str, Any]) -> dict[str, Field]:
    """The config fields of an op: the stage's options, with `options` of the experiment file as their defaults."""
    schema = _schema_of(stage)
    return _fields(schema, schema.get("$defs", {}), options, depth=0)


def merge_options(stage: type[Stage], options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The options with those that run config sets replaced; of nested options, only the ones it sets."""
    schema = _schema_of(stage)
    return _merge(schema, schema.get("$defs", {}), options, config)


@functools.cache
def _schema_of(stage: type[Stage]) -> Schema:
    return stage.model_json_schema()


def _merge(schema: Schema, defs: Schema, options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(options)
    for name, value in config.items():
        inner = _resolve(schema.get("properties", {}).get(name, {}), defs)
        if isinstance(value, Mapping) and "properties" in inner:
            current = merged.get(name)
            value = _merge(inner, defs, current if isinstance(current, Mapping) else {}, value)  # noqa: PLW2901
        merged[name] = value
    return merged


def _fields(schema: Schema, defs: Schema, options: Mapping[str, Any], depth: int) -> dict[str, Field]:
    required = set(schema.get("required", ()))
    fields = {}
    for name, one in schema.get("properties", {}).items():
        resolved = _resolve(one, defs)
        given = options.get(name, one.get("default"))
        kind = _config_type(resolved, defs, given if isinstance(given, Mapping) else {}, depth)
        settings: dict[str, Any] = {}
        if isinstance(kind, Shape):
            # Its fields carry the defaults, and Dagster fills it in from them unless one of them has none.
            complete = not any(field.is_required for field in kind.fields.values())
            settings = {} if complete or name in required else {"is_required": False}
        elif given is not None and not _is_hidden(resolved, given):
            settings = {"default_value": given}
        elif name not in required:
            # A field whose default is None is hidden in the Launchpad; one that is merely optional is offered.
            settings = {"is_required": False}
        fields[name] = Field(kind, description=_description(one, resolved), **settings)
    return fields


def _is_hidden(schema: Schema, default: Any) -> bool:
    # The stars that stand for a secret would replace it, and run config cannot say infinity.
    return bool(schema.get("writeOnly")) or (isinstance(default, float) and not math.isfinite(default))


def _config_type(schema: Schema, defs: Schema, options: Mapping[str, Any], depth: int) -> Any:
    schema = _resolve(schema, defs)
    some, nullable = _without_null(schema)
    if nullable:
        return Noneable(_config_type(some, defs, options, depth))
    if "enum" in schema and all(isinstance(value, str) for value in schema["enum"]):
        return _enum(tuple(schema["enum"]))
    kind = schema.get("type")
    if depth >= MAX_NESTING:
        return dagster.Any
    if kind == "object" and "properties" in schema:
        return Shape(_fields(schema, defs, options, depth + 1))
    if kind == "object":
        of = schema.get("additionalProperties")
        return Map(str, _config_type(of, defs, {}, depth + 1)) if isinstance(of, Mapping) and of else Permissive()
    if kind == "array":
        items = schema.get("items")
        return Array(_config_type(items, defs, {}, depth + 1) if isinstance(items, Mapping) and items else dagster.Any)
    return _SCALARS.get(kind, dagster.Any) if isinstance(kind, str) and "enum" not in schema else dagster.Any


def _resolve(schema: Schema, defs: Schema) -> Schema:
    if "$ref" in schema:
        return {
            **defs.get(str(schema["$ref"]).rpartition("/")[2], {}),
            **{k: v for k, v in schema.items() if k != "$ref"},
        }
    if len(schema.get("allOf", ())) == 1:
        return {**_resolve(schema["allOf"][0], defs), **{k: v for k, v in schema.items() if k != "allOf"}}
    return schema


def _without_null(schema: Schema) -> tuple[Schema, bool]:
    choices = schema.get("anyOf", ())
    some = [one for one in choices if one.get("type") != "null"]
    return (some[0], True) if len(some) == 1 and len(choices) == 2 else (schema, False)


@functools.cache
def _enum(values: tuple[str, ...]) -> Enum:
    # Within one job an enum's name stands for one object: its values are its name, and each is made once.
    name = "_or_".join("".join(char if char.isalnum() else f"_{ord(char)}_" for char in value) for value in values)
    return Enum(name, [EnumValue(value, value) for value in values])


def _description(own: Schema, resolved: Schema) -> str | None:
    said = [str(own.get("description") or resolved.get("description") or "")]
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
        "minLength": "length at least",
        "maxLength": "length at most",
        "minItems": "items at least",
        "maxItems": "items at most",
        "pattern": "matching",
    }
    inner, _ = _without_null(resolved)
    limits = [f"{words} {inner[key]}" for key, words in bounds.items() if key in inner]
    if limits:
        said.append(f"({', '.join(limits)})")
    return " ".join(part for part in said if part) or None
