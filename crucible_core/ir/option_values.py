"""A stage's options as data of an experiment file: what is in effect, and one part of it replaced.

For an option that is a model, an experiment file, a variant, `--set` and run config give the fields that they change.
The other fields keep the values of the option's own default, which need not be those of the model's class.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence, Set
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Final, NamedTuple, Union, cast, get_args, get_origin, get_type_hints

from pydantic import AliasChoices, BaseModel, RootModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from crucible_core.errors import InvalidExperimentError
from crucible_core.ir.option_mistakes import no_such_option
from crucible_core.ir.option_schema import Option, file_name, option_tree
from crucible_core.ir.secrets import SECRETS
from crucible_core.values.jsonable import key_text

__all__ = ["completed", "to_data", "with_part"]


def completed(model: type[BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options; a mapping that is given for a model gets the fields that it leaves out from the option's default.

    Raises pydantic_core.PydanticSerializationError for a default that is not data.
    """
    # Only a mapping can stand for a model with a default of its own; most options are not mappings.
    return _completed(model, options, _NOTHING) if dict in map(type, options.values()) else dict(options)


def with_part(
    model: type[BaseModel], options: Mapping[str, Any], path: Sequence[str], value: Any, *, stage: str
) -> Any:
    """The option `path[0]` with its part at `path[1:]` replaced; everything else in it stays as it is in effect.

    A part is a field of a model, a key of a mapping (which may contain dots) or an item of a list, by its index.

    Raises InvalidExperimentError if there is no such part.
    """
    name, *rest = path
    whole = _Part(stage, (), option_tree(model))
    whole.check_has(name)
    in_effect = completed(model, {name: options[name]} if name in options else {}).get(name, _NOTHING)
    if in_effect is _NOTHING:
        default = _fields(model)[name].default() if name in _fields(model) else _NOTHING
        in_effect = None if default is _NOTHING else to_data(default)
    return _replaced(whole.part(name), options.get(name), in_effect, rest, value)


def to_data(value: Any) -> Any:
    """The value of an option as an experiment file would give it, secrets in the clear.

    Raises pydantic_core.PydanticSerializationError for a value that is not data.
    """
    if isinstance(value, SECRETS):
        return to_data(value.get_secret_value())
    if isinstance(value, BaseModel) and not isinstance(value, RootModel):
        return {
            name: to_data(one)
            for name, field in _fields(type(value)).items()
            if (one := field.of(value)) is not _NOTHING
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_data(field.of(value)) for name, field in _fields(type(value)).items()}
    if isinstance(value, Mapping):
        return {key_text(key): to_data(one) for key, one in value.items()}
    if isinstance(value, Set | list | tuple):
        return [to_data(one) for one in value]
    return to_jsonable_python(value)


# --- what is in effect --------------------------------------------------------------------------------------------


_NOTHING: Final = object()


class _Field(NamedTuple):
    attribute: str
    names: frozenset[str]
    """All the names under which a file may give it."""
    model: type | None
    """The model, dataclass or typed dict that it holds, if it is one."""
    default: Callable[[], Any]

    def of(self, whole: Any) -> Any:
        """The value in a model, or nothing if it was not set there."""
        if isinstance(whole, Mapping):
            return next((whole[name] for name in self.names if name in whole), _NOTHING)
        if isinstance(whole, BaseModel) and self.attribute not in whole.model_fields_set:
            return _NOTHING
        return getattr(whole, self.attribute)


def _completed(model: type, given: Mapping[str, Any], whole: Any) -> dict[str, Any]:
    """`whole` is the value in effect, if there is one, of which `given` replaces some fields."""
    done = dict(given)
    for name, field in _fields(model).items():
        said = next((one for one in field.names if one in given), None)
        if said is None:
            if whole is not _NOTHING and (value := field.of(whole)) is not _NOTHING:
                done[name] = to_data(value)
        elif field.model is not None and isinstance(given[said], Mapping):
            value = field.default() if whole is _NOTHING or (value := field.of(whole)) is _NOTHING else value
            whole_part = value if isinstance(value, Mapping) or _is_a(value, field.model) else _NOTHING
            done[said] = _completed(field.model, given[said], whole_part)
    return done


def _is_a(value: Any, model: type) -> bool:
    return not _is_typed_dict(model) and isinstance(value, model)


def _is_typed_dict(kind: type) -> bool:
    # Of `typing` or of `typing_extensions`, whose classes differ.
    return hasattr(kind, "__required_keys__")


@functools.lru_cache(maxsize=1024)
def _fields(model: type) -> Mapping[str, _Field]:
    """The fields of a model, dataclass or typed dict, by their names in a file."""
    if issubclass(model, BaseModel):
        return _from_pydantic(model.model_fields)
    if (found := getattr(model, "__pydantic_fields__", None)) is not None:
        return _from_pydantic(found)
    types = get_type_hints(model, include_extras=True)
    if _is_typed_dict(model):
        plain = {name: _Field(name, frozenset({name}), _model_in(kind), _no_default) for name, kind in types.items()}
    else:
        plain = {
            one.name: _Field(one.name, frozenset({one.name}), _model_in(types[one.name]), _default_of(one))
            for one in dataclasses.fields(cast(Any, model))
            if one.init
        }
    return MappingProxyType(plain)


def _from_pydantic(fields: Mapping[str, FieldInfo]) -> Mapping[str, _Field]:
    found = {}
    for name, field in fields.items():
        alias = field.validation_alias
        others = [one for one in alias.choices if isinstance(one, str)] if isinstance(alias, AliasChoices) else []
        own = file_name(name, field)
        default = functools.partial(_pydantic_default, field)
        found[own] = _Field(name, frozenset({name, own, *others}), _model_in(field.annotation), default)
    return MappingProxyType(found)


def _pydantic_default(field: FieldInfo) -> Any:
    # A factory that needs the values of other options is left to pydantic.
    if field.is_required() or field.default_factory_takes_validated_data:
        return _NOTHING
    return field.get_default(call_default_factory=True)


def _default_of(field: dataclasses.Field[Any]) -> Callable[[], Any]:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory
    return _no_default if field.default is dataclasses.MISSING else lambda: field.default


def _no_default() -> Any:
    return _NOTHING


def _model_in(annotation: Any) -> type | None:
    """X for an annotation X, `X | None` or `Annotated[X, ...]`, if it is a model, a dataclass or a typed dict."""
    if get_origin(annotation) is Annotated:
        return _model_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        some = [one for one in get_args(annotation) if one is not type(None)]
        return _model_in(some[0]) if len(some) == 1 else None
    if (named := getattr(annotation, "__value__", None)) is not None:  # `type Alias = ...`
        return _model_in(named)
    if not isinstance(annotation, type):
        return None
    is_model = issubclass(annotation, BaseModel) and not issubclass(annotation, RootModel)
    return annotation if is_model or dataclasses.is_dataclass(annotation) or _is_typed_dict(annotation) else None


# --- one part replaced --------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """An option or a part of one, on the way to the part that is replaced."""

    stage: str
    path: tuple[str, ...]
    option: Option

    def part(self, name: str, option: Option | None = None) -> _Part:
        return _Part(self.stage, (*self.path, name), option or self.option.part(name))

    def check_has(self, name: str) -> None:
        """Raises InvalidExperimentError if the names are known, and this is not one of them."""
        known = self.option.children
        if known and not self.option.takes_others and name not in known:
            raise InvalidExperimentError(no_such_option(f"stage {self.stage!r}", self.path, name, known))

    def refuse(self, reason: str) -> InvalidExperimentError:
        option = f"option {'.'.join(self.path)!r} of " if self.path else ""
        return InvalidExperimentError(f"{option}stage {self.stage!r} {reason}")

    def refuse_parts(self, reason: str) -> InvalidExperimentError:
        return self.refuse(f"{reason}; set it as a whole: {'.'.join([self.stage, *self.path])}=VALUE")


def _replaced(at: _Part, given: Any, in_effect: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    if isinstance(in_effect, list):
        index = _index(at, in_effect, path[0])
        item = at.option.items[index] if index < len(at.option.items) else at.option.item
        at_item = at.part(path[0], item)
        return [
            *in_effect[:index],
            _replaced(at_item, in_effect[index], in_effect[index], path[1:], value),
            *in_effect[index + 1 :],
        ]
    known = in_effect if isinstance(in_effect, Mapping) else {}
    _check_parts(at, in_effect)
    # A key of a mapping may contain dots: the longest one that fits is meant.
    rest = ".".join(path)
    name = max((key for key in known if f"{rest}.".startswith(f"{key}.")), key=len, default=path[0])
    at.check_has(name)
    if at.option.kind == "model":
        # Only the fields that are given: the others keep their values, whatever these are when the options are read.
        inside = given if isinstance(given, Mapping) else {}
    else:
        # Another model of a union has other fields.
        inside = {} if name == at.option.tag and known.get(name) != value else known
    left = path[name.count(".") + 1 :]
    return {**inside, name: _replaced(at.part(name), inside.get(name), known.get(name), left, value)}


def _index(at: _Part, items: Sequence[Any], name: str) -> int:
    if name.isascii() and name.isdecimal() and int(name) < len(items):
        return int(name)
    if not items:
        raise at.refuse_parts("is an empty list")
    last = len(items) - 1
    indices = f"0 to {last}" if last else "0"
    raise at.refuse_parts(f"has no item {name!r}; it is a list, and the indices of its items are {indices}")


def _check_parts(at: _Part, in_effect: Any) -> None:
    if not at.option.has_parts:
        from crucible_core.ir.option_words import type_in_words  # noqa: PLC0415  # for this message only

        raise at.refuse_parts(f"has no parts, its type is: {type_in_words(at.option)}")
    if at.option.kind == "anything" and in_effect is not None and not isinstance(in_effect, Mapping):
        raise at.refuse_parts(f"is {in_effect!r:.80}, which has no parts")
