"""Replacing options of a stage: by a variant of the experiment file, or by what was typed for one run.

The stage's own JSON schema says how: of an option that is itself a model, only the fields that are given are replaced;
any other value is replaced whole.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from crucible_core.stage import Stage

__all__ = ["Schema", "merge_options", "nested_model", "resolve_schema", "schema_of", "typed_options", "without_null"]

Schema = Mapping[str, Any]


@functools.cache
def schema_of(stage: type[Stage]) -> Schema:
    return stage.model_json_schema()


def merge_options(stage: type[Stage], options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The options with those that `changes` gives replaced."""
    schema = schema_of(stage)
    return _merge(schema, schema.get("$defs", {}), options, changes)


def typed_options(stage: type[Stage], options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What `config` says beyond `options` and the stage's defaults.

    Dagster's Launchpad writes every default out, so that a value that would be there anyway was not chosen by anyone.
    """
    schema = schema_of(stage)
    return _typed(schema, schema.get("$defs", {}), options, config)


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


def _typed(schema: Schema, defs: Schema, options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    typed = {}
    for name, value in config.items():
        one = schema.get("properties", {}).get(name, {})
        default = options[name] if name in options else resolve_schema(one, defs).get("default", _MISSING)
        inner = nested_model(one, defs)
        if isinstance(value, Mapping) and inner is not None and default is not None:
            given = default if isinstance(default, Mapping) else {}
            if changed := _typed(inner, defs, given, value):
                typed[name] = changed
        elif not _equal(_filled(one, defs, value), _filled(one, defs, default)):
            typed[name] = value
    return typed


_MISSING = object()


def _filled(schema: Schema, defs: Schema, value: Any) -> Any:
    """The value with the defaults of the models in it written out, as Dagster does."""
    schema = resolve_schema(without_null(resolve_schema(schema, defs))[0], defs)
    if isinstance(value, Mapping) and "properties" in schema:
        given = {name: one["default"] for name, one in schema["properties"].items() if "default" in one} | dict(value)
        return {name: _filled(schema["properties"].get(name, {}), defs, one) for name, one in given.items()}
    if isinstance(value, Mapping) and isinstance(schema.get("additionalProperties"), Mapping):
        return {name: _filled(schema["additionalProperties"], defs, one) for name, one in value.items()}
    if isinstance(value, list | tuple) and isinstance(schema.get("items"), Mapping):
        return [_filled(schema["items"], defs, one) for one in value]
    return value


def _equal(a: Any, b: Any) -> bool:
    # 1 and 1.0 are the same number, and true is none.
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(value, b[name]) for name, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)
