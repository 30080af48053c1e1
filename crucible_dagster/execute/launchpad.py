"""Which options were typed in the Launchpad, among the defaults that it writes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_core.ir.option_schema import Schema, nested_model, resolve_schema, schema_of, without_null
from crucible_core.stage import Stage


def typed_options(stage: type[Stage], options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What `config` says beyond `options` and the stage's defaults.

    Dagster's Launchpad writes every default out, so that a value that would be there anyway was not chosen by anyone.
    """
    schema = schema_of(stage)
    return _typed(schema, schema.get("$defs", {}), options, config)


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
