"""The base of the models of an experiment file: frozen and strict, with data that JSON can hold."""

from __future__ import annotations

import ast
import functools
import inspect
import math
import re
import textwrap
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError

__all__ = ["Data", "Name", "Node", "Options", "Text"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def _check_name(value: str) -> str:
    if _NAME.fullmatch(value):
        return value
    raise PydanticCustomError(
        "name",
        "{shown} cannot be a name{foreign}: use 1 to 128 letters (a to z, A to Z), digits, '_', '-' or '.', and "
        "do not begin with '-' or '.'",
        {"shown": repr(value[:140]), "foreign": _foreign(value)},
    )


def _foreign(value: str) -> str:
    """The first character that is not ASCII, by name: it may look like one that is."""
    from unicodedata import name  # noqa: PLC0415  # most names are valid

    foreign = next((char for char in value if not char.isascii()), None)
    return f" (it holds {name(foreign, hex(ord(foreign)))})" if foreign else ""


def _check_text(value: str) -> str:
    # PostgreSQL and browsers refuse these: a run that holds one could not be shown.
    if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise PydanticCustomError("text", "the text holds a NUL or half of a surrogate pair")
    return value


def _check_data(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return _check_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("finite", "numbers in an experiment are finite, not {value}", {"value": value})
    if isinstance(value, int) and abs(value) >= 2**63:
        raise PydanticCustomError("int64", "whole numbers in an experiment fit 64 bits")
    if isinstance(value, list):
        for item in value:
            _check_data(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check_data(item)
    return value


Name = Annotated[str, AfterValidator(_check_name), Field(json_schema_extra={"pattern": f"^{_NAME.pattern}$"})]
Text = Annotated[str, AfterValidator(_check_text)]
Data = Annotated[JsonValue, AfterValidator(_check_data)]
Options = dict[Text, Data]


def _describe_fields(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Put the text below each field into the JSON schema.

    Pydantic's `use_attribute_docstrings` would read this file once per class whenever the package is imported.
    """
    for name, text in _texts_below_fields(model).items():
        schema["properties"][model.model_fields[name].alias or name]["description"] = text


@functools.cache
def _texts_below_fields(model: type[BaseModel]) -> Mapping[str, str]:
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(found, ast.ClassDef)
    texts = {}
    for statement, below in pairwise(found.body):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(str(text))):
                texts[name] = inspect.cleandoc(text)
    return texts


class Node(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), json_schema_extra=_describe_fields, defer_build=True
    )

    def __eq__(self, other: object) -> bool:
        # Where an experiment was read from is not part of its content.
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # options are dicts

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        # A pickle of an older version lacks the fields that are newer.
        for name, field in type(self).model_fields.items():
            if name not in self.__dict__:
                self.__dict__[name] = field.get_default(call_default_factory=True)

    def to_dict(self) -> dict[str, Any]:
        """The data as JSON types; fields that were not set are left out, so that reading it again gives the same."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)

    def to_json(self, *, indent: int | None = 2) -> str:
        return self.model_dump_json(exclude_unset=True, by_alias=True, indent=indent)
