"""The description of a stage and its options as data."""

from __future__ import annotations

import inspect
import json
import re
from types import UnionType
from typing import Annotated, Any, Literal, TypedDict, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from crucible_core.ir.option_schema import file_name, schema_of
from crucible_core.values.jsonable import to_jsonable

__all__ = ["StageDescription", "description_of"]


class StageDescription(TypedDict):
    """The description of a stage and its options, derived from its class; every value is JSON-able."""

    name: str
    description: str
    required: list[str]
    optional: list[str]
    types: dict[str, str]
    defaults: dict[str, Any]
    schema: dict[str, Any]


def description_of(stage: type[BaseModel]) -> StageDescription:
    """Name, description, required and optional options, their types, defaults and JSON schema."""
    # The alias of an option is its name in the file.
    fields = {file_name(name, field): field for name, field in stage.model_fields.items()}
    return StageDescription(
        name=_snake_case(stage.__name__),
        description=inspect.getdoc(stage) or "" if stage.__doc__ else "",
        required=[name for name, field in fields.items() if field.is_required()],
        optional=[name for name, field in fields.items() if not field.is_required()],
        types={name: _type_name(field.annotation) for name, field in fields.items()},
        defaults={name: to_jsonable(_default(field)) for name, field in fields.items() if not field.is_required()},
        schema=to_jsonable(schema_of(stage)),
    )


def _default(field: FieldInfo) -> Any:
    if field.default_factory is None:
        return field.default
    try:
        return field.get_default(call_default_factory=True, validated_data={})
    except Exception:  # noqa: BLE001  # a factory that needs the other options
        return None


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _type_name(annotation: Any) -> str:
    """`list[int] | None`, `"a" | "b"`: the annotation as one would write it, without module names."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "None"
    if origin is Literal:
        return " | ".join(json.dumps(value) if isinstance(value, str) else repr(value) for value in arguments)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(map(_type_name, arguments))
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join('...' if one is ... else _type_name(one) for one in arguments)}]" if arguments else name
