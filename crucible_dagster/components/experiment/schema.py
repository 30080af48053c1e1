"""What is allowed under a component's `attributes:`, as the JSON schema that `dg check yaml` and editors use.

It is the schema of the experiment, changed in three ways. `files:` is allowed instead of an experiment. Where pydantic
says "any of these", the schema says "if it is a mapping, this; else that": for a mistake below "any of", a validator
only says "not valid under any of the given schemas", at the line where the whole value begins. Third, `dg` validates
the file as read by YAML 1.1, so numbers such as 1e-3 are allowed to be texts.
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
# Floats of YAML 1.2 that are texts in YAML 1.1: with an exponent, but without a point or a sign of the exponent.
_FLOAT_AS_TEXT = {"type": "string", "pattern": r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"}

_ANNOTATIONS = frozenset({"title", "description", "default"})


class ExperimentAttributes(RootModel[Any]):
    """Accepts anything, because the experiment is read from the file's text. The JSON schema is the real one."""

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
    """Change the schema and everything below it in place."""
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
    if choices:
        by_type = {_type_of(one, handler): one for one in choices}
        if len(by_type) == len(choices):  # otherwise a validator cannot know which of them was meant
            del schema["anyOf"]
            schema |= _told_apart(dict(sorted(by_type.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER)))))
    if schema.get("type") == "number":
        number = {key: schema.pop(key) for key in list(schema) if key not in _ANNOTATIONS}
        schema |= {"if": _FLOAT_AS_TEXT, "else": number}


# A value of none of these types is checked against the last schema: that of texts or numbers, if there is one.
_ORDER = {"null": 0, "object": 1, "array": 2}


def _type_of(schema: dict[str, Any], handler: GetJsonSchemaHandler) -> str:
    resolved = handler.resolve_ref_schema(schema)
    if "type" in resolved:
        return str(resolved["type"])
    if isinstance(resolved.get("const"), str):
        return "string"
    return "number" if resolved.get("if") == _FLOAT_AS_TEXT else repr(resolved)


def _told_apart(choices: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (name, schema), *others = choices.items()
    if not others:
        return dict(schema)
    return {"if": {"type": name}, "then": schema, "else": _told_apart(dict(others))}
