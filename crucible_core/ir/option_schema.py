"""A stage's options as a small tree, made once per stage class from its JSON schema.

Op config, `--set`, variants and `crucible stages` read this tree. No other module reads the JSON schema of a stage:
what a reference, `anyOf` with null or a discriminator means is decided here. Each level of the tree is made when it is
first read, so that a type that refers to itself has a tree too.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

__all__ = [
    "MAX_NESTING",
    "NO_DEFAULT",
    "Bound",
    "Kind",
    "Option",
    "file_name",
    "merge_options",
    "option_tree",
    "schema_of",
    "takes_seed",
    "wrong_default",
]

Kind = Literal[
    "text",
    "integer",
    "number",
    "boolean",
    "null",
    "choice",
    "list",
    "mapping",
    "model",
    "union_by_tag",
    "scalar_or_more",
    "union",
    "anything",
]
"""The kind of values that an option takes.

`choice`: one of `choices`. `list`: see `item` and `items`. `mapping`: any names, each value an `item`. `model`: the
names of `children`. `union_by_tag`: one of several models, which their field `tag` distinguishes. `scalar_or_more`: two
`alternatives`, a scalar and a list, mapping or model. `union`: any other `alternatives`. `anything`: the schema does
not say.
"""

Bound = Literal[
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "pattern",
]
"""Constraints on a value besides its kind, by their names in JSON schema."""

MAX_NESTING: Final = 8
"""How many levels of a type that refers to itself are shown."""


class _NoDefault(enum.Enum):
    NO_DEFAULT = "NO_DEFAULT"


NO_DEFAULT: Final = _NoDefault.NO_DEFAULT
"""The default of a required option, and of one whose default is made by a function."""

_Schema = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Option:
    """One option of a stage, or a part of one: a field of a nested model, an item of a list, an alternative."""

    name: str
    """The name in the experiment file; empty for an item and an alternative."""
    kind: Kind
    description: str | None = None
    required: bool = False
    default: Any = NO_DEFAULT
    """The default as JSON types."""
    nullable: bool = False
    """Whether null is allowed too."""
    choices: tuple[Any, ...] = ()
    bounds: Mapping[Bound, Any] = field(default_factory=dict)
    format: str | None = None
    """The `format` in JSON schema: `date`, `path`, `password` and others."""
    tag: str | None = None
    """For a union by tag: the field that distinguishes its models."""
    only_with: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a field that only some models of a union by tag have: the tag, and its values in those models."""
    takes_others: bool = False
    """Whether names other than those of `children` are allowed."""
    text_keys: bool = True
    """For a mapping: whether its keys are texts. Other keys are written as numbers in YAML and as texts in JSON."""
    _schema: _Schema = field(default_factory=dict, repr=False)
    _defs: _Schema = field(default_factory=dict, repr=False)

    @functools.cached_property
    def children(self) -> Mapping[str, Option]:
        """The fields of a model, or of all the models of a union by tag, by name."""
        if self.tag is not None:
            return MappingProxyType(_fields_by_tag(self.tag, self._schema, self._defs))
        required = self._schema.get("required", ())
        return MappingProxyType(
            {
                name: _read(name, one, self._defs, required=name in required)
                for name, one in self._schema.get("properties", {}).items()
            }
        )

    @property
    def has_parts(self) -> bool:
        """Whether a value can be a mapping."""
        kinds = {self.kind, *(one.kind for one in self.alternatives)}
        return bool(kinds & _WITH_PARTS) or any(one.alternatives for one in self.alternatives)

    def part(self, name: str) -> Option:
        """The option under this name; of kind `anything` if the name is not known."""
        return self.children.get(name) or (self.kind == "mapping" and self.item) or _ANYTHING

    @functools.cached_property
    def item(self) -> Option | None:
        """The option of each item of a list, or each value of a mapping; None if they differ or can be anything."""
        if self.kind == "mapping":
            schema = self._schema.get("additionalProperties")
        else:
            first, *others = self._schema.get("prefixItems") or [self._schema.get("items")]
            schema = first if all(one == first for one in others) else None
        return _read("", schema, self._defs) if isinstance(schema, Mapping) and schema else None

    @functools.cached_property
    def items(self) -> tuple[Option, ...]:
        """The options of a list with a fixed number of items; otherwise empty."""
        return tuple(_read("", one, self._defs) for one in self._schema.get("prefixItems", ()))

    @functools.cached_property
    def alternatives(self) -> tuple[Option, ...]:
        """The alternatives of a `union` or of `scalar_or_more`."""
        return tuple(_read("", one, self._defs) for one in self._schema.get("anyOf", ()))

    @functools.cached_property
    def secret(self) -> bool:
        """Whether the option is a secret or contains one."""
        return _has_secret(self._schema, self._defs, set())


_ANYTHING = Option("", "anything")


@functools.lru_cache(maxsize=1024)
def option_tree(stage: type[BaseModel]) -> Option:
    """The options of a stage: an option of kind `model`, whose children they are."""
    schema = schema_of(stage)
    return _read("", schema, schema.get("$defs", {}))


def schema_of(stage: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a stage's options; a type that has none can be anything."""
    return stage.model_json_schema(schema_generator=_LenientSchema)


def merge_options(stage: type[BaseModel], options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with those in `changes` replaced.

    Of an option that is itself a model, only the given fields are replaced; any other option is replaced as a whole.
    """
    return _merge(option_tree(stage), options, changes)


def _merge(tree: Option, options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(options)
    for name, value in changes.items():
        option, current = tree.part(name), merged.get(name)
        if option.kind == "model" and isinstance(value, Mapping):
            merged[name] = _merge(option, current if isinstance(current, Mapping) else {}, value)
        else:
            merged[name] = value
    return merged


def file_name(name: str, field: FieldInfo) -> str:
    """The name of a field in an experiment file: its alias, if it has one."""
    return field.validation_alias if isinstance(field.validation_alias, str) else field.alias or name


@functools.lru_cache(maxsize=1024)
def takes_seed(stage: type[BaseModel]) -> bool:
    """Whether the stage has an option `seed`."""
    return any(file_name(name, one) == "seed" for name, one in stage.model_fields.items())


def wrong_default(stage: type[BaseModel]) -> str | None:
    """Why the default of an option is not valid, if one is not."""
    for name, one in stage.model_fields.items():
        if not one.is_required() and one.default_factory is None:
            kind: Any = Annotated[(one.annotation, *one.metadata)] if one.metadata else one.annotation
            try:
                TypeAdapter(kind).validate_python(one.default)
            except ValidationError as error:
                return f"the default of option {name} is not valid: {error.errors()[0]['msg'].removeprefix('Input ')}"
            except PydanticSchemaGenerationError:
                continue  # a class that pydantic cannot check (`arbitrary_types_allowed`)
    return None


class _LenientSchema(GenerateJsonSchema):
    """JSON schema in which a type that has no schema, such as a class that pydantic does not know, can be anything."""

    ignored_warning_kinds = {"non-serializable-default", "skipped-choice"}  # noqa: RUF012  # as pydantic declares it

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:  # noqa: ARG002
        return {}

    def dict_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        keys = schema.get("keys_schema", {}).get("type", "any")
        return made if keys in {"any", "str"} else {**made, "propertyNames": {"type": keys}}


_KINDS: Mapping[str, Kind] = {
    "array": "list",
    "boolean": "boolean",
    "integer": "integer",
    "null": "null",
    "number": "number",
    "object": "mapping",
    "string": "text",
}
_SCALARS = frozenset({"boolean", "integer", "number", "text"})
_MORE = frozenset({"list", "mapping", "model"})
_WITH_PARTS = frozenset({"anything", "mapping", "model", "union_by_tag"})
_ABOUT = frozenset({"default", "description", "examples", "title"})
"""Keys of a schema that do not change which values are valid."""


def _read(name: str, schema: _Schema, defs: _Schema, *, required: bool = False) -> Option:
    whole = _resolve(schema, defs)
    some, nullable = whole, False
    while (alternatives := _without_null(some)) is not None:
        some, nullable = _resolve(alternatives, defs), True
    if _is_secret(whole):
        some = {**some, "writeOnly": True}
    kind = _kind(some, defs)
    tag = _tag(some, defs) if kind == "union_by_tag" else None
    models = [some] if tag is None else _models(some, defs)
    return Option(
        name,
        kind,
        description=whole.get("description") or some.get("description"),
        required=required,
        default=whole.get("default", NO_DEFAULT),
        nullable=nullable,
        choices=_choices(some),
        bounds=MappingProxyType({key: some[key] for key in get_args(Bound) if key in some}),
        format=some.get("format"),
        tag=tag,
        takes_others=any(bool(one.get("additionalProperties")) for one in models),
        text_keys="propertyNames" not in some,
        _schema=some,
        _defs=defs,
    )


def _resolve(schema: _Schema, defs: _Schema) -> _Schema:
    """The schema with its reference, if it has one, looked up; keys beside the reference stay."""
    if "$ref" in schema:
        found = _resolve(defs.get(str(schema["$ref"]).rpartition("/")[2], {}), defs)
        return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
    if len(schema.get("allOf", ())) == 1:
        inner = _resolve(schema["allOf"][0], defs)
        return {**inner, **{key: value for key, value in schema.items() if key != "allOf"}}
    return schema


def _without_null(schema: _Schema) -> _Schema | None:
    """The schema of X for one of `X or null`; None for any other schema."""
    alternatives = schema.get("anyOf", ())
    some = [one for one in alternatives if one.get("type") != "null"]
    if len(some) == len(alternatives):
        return None
    return some[0] if len(some) == 1 else {**schema, "anyOf": some}


def _kind(schema: _Schema, defs: _Schema) -> Kind:
    if "properties" in schema:
        return "model"
    if _choices(schema):
        return "choice"
    if "oneOf" in schema:
        return "anything" if _tag(schema, defs) is None else "union_by_tag"
    if "anyOf" in schema:
        return "scalar_or_more" if _is_scalar_or_more(schema["anyOf"], defs) else "union"
    kind = schema.get("type")
    return _KINDS.get(kind, "anything") if isinstance(kind, str) else "anything"


def _choices(schema: _Schema) -> tuple[Any, ...]:
    return (schema["const"],) if "const" in schema else tuple(schema.get("enum", ()))


def _is_scalar_or_more(alternatives: Iterable[_Schema], defs: _Schema) -> bool:
    some = [_resolve(one, defs) for one in alternatives]
    kinds = ["union" if "anyOf" in one else _kind(one, defs) for one in some]
    scalars, more = ([one for one in kinds if one in group] for group in (_SCALARS, _MORE))
    return (len(some), len(scalars), len(more)) == (2, 1, 1)


def _tag(schema: _Schema, defs: _Schema) -> str | None:
    """The field that distinguishes the models of `oneOf`, if there is one and its values are texts."""
    tag: str | None = schema.get("discriminator", {}).get("propertyName")
    if tag is None or not all(tag in one.get("properties", {}) for one in _models(schema, defs)):
        return None
    tags = [_tags_of(one, tag, defs) for one in _models(schema, defs)]
    return tag if all(isinstance(one, str) for some in tags for one in some) and any(tags) else None


def _models(schema: _Schema, defs: _Schema) -> Sequence[_Schema]:
    return [_resolve(one, defs) for one in schema["oneOf"]]


def _tags_of(model: _Schema, tag: str, defs: _Schema) -> tuple[Any, ...]:
    return _choices(_resolve(model["properties"][tag], defs))


def _fields_by_tag(tag: str, schema: _Schema, defs: _Schema) -> dict[str, Option]:
    """The fields of all the models of a union by tag, the tag first."""
    tags: list[str] = []
    found: dict[str, list[tuple[tuple[str, ...], _Schema]]] = {}
    for model in _models(schema, defs):
        own = _tags_of(model, tag, defs)
        tags += own
        for name, one in model["properties"].items():
            found.setdefault(name, []).append((own, _resolve(one, defs)))
    described = found.pop(tag)[0][1].get("description")
    fields = {tag: Option(tag, "choice", description=described, required=True, choices=tuple(tags))}
    for name, having in found.items():
        kinds = [{key: value for key, value in one.items() if key not in _ABOUT} for _, one in having]
        same = all(one == kinds[0] for one in kinds)
        option = _read(name, having[0][1] if same else {"anyOf": kinds}, defs)
        owners = tuple(value for own, _ in having for value in own)
        only_with = {} if len(owners) == len(tags) else {tag: owners}
        # Which default holds depends on the tag.
        fields[name] = dataclasses.replace(option, default=NO_DEFAULT, only_with=only_with)
    return fields


def _is_secret(schema: _Schema) -> bool:
    return schema.get("writeOnly") is True


def _has_secret(schema: Any, defs: _Schema, seen: set[str]) -> bool:
    if isinstance(schema, list):
        return any(_has_secret(one, defs, seen) for one in schema)
    if not isinstance(schema, Mapping):
        return False
    if isinstance(reference := schema.get("$ref"), str) and reference not in seen:
        seen.add(reference)
        if _has_secret(_resolve({"$ref": reference}, defs), defs, seen):
            return True
    return _is_secret(schema) or any(_has_secret(one, defs, seen) for one in schema.values())
