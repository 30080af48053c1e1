"""Replacing options of a stage: by a variant of the experiment file, or by what was typed for one run.

The stage's own JSON schema says how: of an option that is itself a model, only the fields that are given are replaced;
any other value is replaced whole.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

__all__ = ["Schema", "merge_options", "nested_model", "resolve_schema", "schema_of", "without_null"]

Schema = Mapping[str, Any]


@functools.cache
def schema_of(stage: type[BaseModel]) -> Schema:
    return stage.model_json_schema()


def merge_options(stage: type[BaseModel], options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The options with those that `changes` gives replaced."""
    schema = schema_of(stage)
    return _merge(schema, schema.get("$defs", {}), options, changes)


def resolve_schema(schema: Schema, defs: Schema) -> Schema:
    """The schema with its reference, if it is one, looked up; what stands beside the reference stays."""
    if "$ref" in schema:
        found = resolve_schema(defs.get(str(schema["$ref"]).rpartition("/")[2], {}), defs)
        return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
    if len(schema.get("allOf", ())) == 1:
        inner = resolve_schema(schema["allOf"][0], defs)
        return {**inner, **{key: value for key, value in schema.items() if key != "allOf"}}
    return schema


def without_null(schema: Schema) -> tuple[Schema, bool]:
    """The schema of X for one of `X or null`, and whether it was one."""
    choices = schema.get("anyOf", ())
    some = [one for one in choices if one.get("type") != "null"]
    if len(some) == len(choices):
        return schema, False
    return (some[0] if len(some) == 1 else {**schema, "anyOf": some}), True


def nested_model(schema: Schema, defs: Schema) -> Schema | None:
    """The schema of a nested model, be it optional."""
    some = resolve_schema(without_null(resolve_schema(schema, defs))[0], defs)
    return some if "properties" in some else None


def _merge(schema: Schema, defs: Schema, options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(options)
    for name, value in changes.items():
        inner = nested_model(schema.get("properties", {}).get(name, {}), defs)
        current = merged.get(name)
        if isinstance(value, Mapping) and inner is not None:
            value = _merge(inner, defs, current if isinstance(current, Mapping) else {}, value)  # noqa: PLW2901
        merged[name] = value
    return merged
