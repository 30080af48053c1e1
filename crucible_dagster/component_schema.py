"""What may stand under a component's `attributes:`, as the JSON schema that `dg check yaml` and editors use.

It is the schema of the experiment, changed in three ways. `files:` may stand instead of an experiment. Where pydantic
says "one of" for a value that may be null, the schema says "unless null", because a validator reports a mistake below
"one of" as "not valid under any of the given schemas", at the line where the whole value begins. And `dg` validates
what YAML 1.1 makes of the file: numbers such as 1e-3 come as texts there, and are no mistake.
"""

from __future__ import annotations

from typing import Any

from pydantic import GetJsonSchemaHandler, RootModel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from crucible_core import Experiment

__all__ = ["FILES", "ExperimentAttributes"]

FILES = "files"
_FILES_SCHEMA = {
    "description": "Instead of one experiment: files, folders or glob patterns, relative to this file.",
    "type": "array",
    "items": {"type": "string"},
    "minItems": 1,
}
# YAML 1.2's floats that YAML 1.1 takes for texts: those with an exponent, and without a point or the exponent's sign.
_FLOAT_TEXT = r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"

_ANNOTATIONS = frozenset({"title", "description", "default"})


class ExperimentAttributes(RootModel[Any]):
    """Takes anything: the file's own text is what is read. Its JSON schema is the real one."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        Experiment.model_rebuild()
        experiment = handler.resolve_ref_schema(handler(Experiment.__pydantic_core_schema__))
        _sharpen(experiment, handler, set())
        required = experiment.get("required", [])
        return {
            **{key: value for key, value in experiment.items() if key != "required"},
            "title": "An experiment, or files",
            "properties": {**experiment["properties"], FILES: _FILES_SCHEMA},
            "if": {"required": [FILES]},
            "then": {"propertyNames": {"enum": [FILES]}},
            "else": {"required": required},
        }


def _sharpen(schema: Any, handler: GetJsonSchemaHandler, seen: set[int]) -> None:
    """Change the schema and all below it in place."""
    if isinstance(schema, list):
        for one in schema:
            _sharpen(one, handler, seen)
    if not isinstance(schema, dict) or id(schema) in seen:
        return
    seen.add(id(schema))
    if "$ref" in schema:
        _sharpen(handler.resolve_ref_schema(schema), handler, seen)
    for value in list(schema.values()):
        _sharpen(value, handler, seen)
    choices = schema.get("anyOf")
    if choices and {"type": "null"} in choices:
        others = [one for one in choices if one != {"type": "null"}]
        del schema["anyOf"]
        schema |= {"if": {"type": "null"}, "else": others[0] if len(others) == 1 else {"anyOf": others}}
    if schema.get("type") == "number":
        number = {key: schema.pop(key) for key in list(schema) if key not in _ANNOTATIONS}
        schema |= {"if": {"type": "string", "pattern": _FLOAT_TEXT}, "else": number}
