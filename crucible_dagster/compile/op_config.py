"""From a stage's options to op config: typed fields in the Launchpad, checked before a run is created.

Each kind of option has a config type in Dagster:

| option                             | Dagster                                                             |
| ---------------------------------- | ------------------------------------------------------------------- |
| text, integer, boolean             | String, Int, Bool                                                   |
| number                             | Float, whole numbers too                                            |
| choice of texts                    | Enum                                                                |
| choice of numbers, or of booleans  | Int or Float, or Bool; the choices are in the description           |
| list                               | Array                                                               |
| mapping of texts to one type       | Map                                                                 |
| model                              | Shape                                                               |
| union by tag                       | Shape: the tag is an Enum, the other fields are those of all models |
| a scalar, or a list or model       | ScalarUnion                                                         |
| any of these, or null              | Noneable                                                            |
| anything else                      | Any, with its type in the description                               |

Dagster checks these types on screen. The rest (bounds, patterns, dates, options that depend on each other) is checked
by the stage's own model in `check_at_launch`. Dagster calls it with the config of each op before it creates a run, no
matter who or what launches the run. The options that the file sets are the defaults of the job's fields, so that config
that sets only some options keeps the others.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster
from dagster import (
    Array,
    Enum,
    EnumValue,
    Field,
    Map,
    Noneable,
    ScalarUnion,
    Shape,
)
from pydantic import ValidationError

from crucible_core import Stage
from crucible_core.ir.option_mistakes import describe_options
from crucible_core.ir.option_schema import MAX_NESTING, NO_DEFAULT, Kind, Option, merge_options, option_tree
from crucible_core.ir.option_values import completed
from crucible_core.ir.option_words import describe_option
from crucible_core.plan import read_options
from crucible_dagster.execute.failures import RefusedConfigError
from crucible_dagster.execute.launchpad import equal_options, typed_options

__all__ = ["check_at_launch", "enum_of", "option_fields", "showable_options"]


def option_fields(stage: type[Stage], options: Mapping[str, Any]) -> dict[str, Field]:
    """The config fields of an op: the stage's options, with `options` of the experiment file as their defaults."""
    return _fields(option_tree(stage), completed(stage, options), depth=0)


def showable_options(stage: type[Stage], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without secrets: everyone who sees a run can read its config."""
    return _showable(option_tree(stage), options)


def _showable(tree: Option, options: Mapping[str, Any]) -> dict[str, Any]:
    shown = {}
    for name, value in options.items():
        option = tree.part(name)
        if option.kind == "model" and isinstance(value, Mapping):
            shown[name] = _showable(option, value)
        elif not option.secret:
            shown[name] = value
    return shown


def check_at_launch(
    name: str, stage: type[Stage], possible: Sequence[Mapping[str, Any]]
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """A check of an op's config. Dagster calls it before it creates a run, and again where the run is executed.

    `possible` are the options that the config may change: those of the file, then those of its variants, since the op
    does not know which variant is run. The check raises RefusedConfigError, with the same message as
    `plan_experiment`, for config that fits none of them. Config that fits only a variant other than the one that is
    run is refused by the run's first step.
    """

    def check(config: Mapping[str, Any]) -> Mapping[str, Any]:
        refused: list[tuple[str, Any]] = []
        typed = typed_options(stage, possible[0], config)
        # Such as the modules to import: somebody who may launch a run is not always allowed to write files.
        fixed = sorted(typed.keys() & getattr(stage, "only_in_file", ()))
        if fixed and not any(equal_options(typed[fixed[0]], options.get(fixed[0])) for options in possible):
            raise RefusedConfigError(f"stage {name!r}: {fixed[0]!r} is set in the experiment file, not for one run")
        for options in possible:
            try:
                read_options(stage, merge_options(stage, options, typed))
                return config
            except ValidationError as error:
                refused = refused or describe_options(name, stage, merge_options(stage, options, typed), error)
            except Exception:  # noqa: BLE001  # the validator has a bug: the run's first step reports it in full
                return config
        raise RefusedConfigError("\n".join(said for said, _ in refused)) from None

    return check


def _fields(tree: Option, options: Mapping[str, Any], depth: int) -> dict[str, Field]:
    return {name: _field(option, options.get(name, option.default), depth) for name, option in tree.children.items()}


def _field(option: Option, given: Any, depth: int) -> Field:
    kind = _config_type(option, given if isinstance(given, Mapping) else {}, depth)
    settings: dict[str, Any] = {}
    if option.kind == "model" and isinstance(kind, Shape):
        # Its fields carry the defaults, and Dagster fills it in from them unless one of them has none.
        complete = not any(field.is_required for field in kind.fields.values())
        settings = {} if complete or option.required else {"is_required": False}
    elif given is not None and given is not NO_DEFAULT and not _is_hidden(option, given):
        settings = {"default_value": given}
    elif not option.required or given is not NO_DEFAULT:
        # The file sets a value that is not shown: it counts unless something is typed.
        # A field whose default is None is hidden in the Launchpad; one that is merely optional is offered.
        settings = {"is_required": False}
    return Field(kind, description=describe_option(option), **settings)


def _is_hidden(option: Option, default: Any) -> bool:
    # The stars that mask a secret would be taken for its value, and run config cannot express infinity.
    return option.secret or (isinstance(default, float) and not math.isfinite(default))


def _config_type(option: Option, options: Mapping[str, Any], depth: int) -> Any:
    # An Enum contains nothing, so it is allowed at any depth.
    made = _CONFIG_TYPES[option.kind](option, options, depth) if depth < MAX_NESTING or option.choices else dagster.Any
    return Noneable(made) if option.nullable else made


def _always(kind: Any) -> Callable[[Option, Mapping[str, Any], int], Any]:
    return lambda *_: kind


def _choice(option: Option, _: Mapping[str, Any], __: int) -> Any:
    kinds = {type(value) for value in option.choices}
    if kinds == {str}:
        return enum_of(option.choices)
    return _OF_CHOICES.get(kinds.pop(), dagster.Any) if len(kinds) == 1 else dagster.Any


def _list(option: Option, _: Mapping[str, Any], depth: int) -> Any:
    return Array(dagster.Any if option.item is None else _config_type(option.item, {}, depth + 1))


def _mapping(option: Option, _: Mapping[str, Any], depth: int) -> Any:
    # Dagster's Map and Permissive refuse keys that are numbers, such as `0: 1.5` in the Launchpad's YAML.
    if option.item is None or not option.text_keys:
        return dagster.Any
    return Map(str, _config_type(option.item, {}, depth + 1))


def _model(option: Option, options: Mapping[str, Any], depth: int) -> Any:
    return Shape(_fields(option, options, depth + 1))


def _union_by_tag(option: Option, _: Mapping[str, Any], depth: int) -> Any:
    # No field has a default: Dagster would fill it in for models that do not have it.
    fields = {
        name: Field(_config_type(one, {}, depth + 1), description=describe_option(one), is_required=one.required)
        for name, one in option.children.items()
    }
    return Shape(fields)


def _scalar_or_more(option: Option, _: Mapping[str, Any], depth: int) -> Any:
    scalar, more = sorted(option.alternatives, key=lambda one: one.kind in {"list", "mapping", "model"})
    kind = _config_type(more, {}, depth + 1)
    # Dagster refuses a Map in a ScalarUnion.
    return ScalarUnion(_config_type(scalar, {}, depth), kind) if isinstance(kind, Array | Shape) else dagster.Any


_OF_CHOICES: Mapping[type, Any] = {bool: dagster.Bool, int: dagster.Int, float: dagster.Float}
_CONFIG_TYPES: Mapping[Kind, Callable[[Option, Mapping[str, Any], int], Any]] = {
    "text": _always(dagster.String),
    "integer": _always(dagster.Int),
    "number": _always(dagster.Float),
    "boolean": _always(dagster.Bool),
    "null": _always(dagster.Any),
    "choice": _choice,
    "list": _list,
    "mapping": _mapping,
    "model": _model,
    "union_by_tag": _union_by_tag,
    "scalar_or_more": _scalar_or_more,
    "union": _always(dagster.Any),
    "anything": _always(dagster.Any),
}


@functools.cache
def enum_of(values: tuple[str, ...]) -> Enum:
    # In a job, enums with the same name must be the same object, so the name has the values and each is made once.
    plain = all(re.fullmatch(r"[A-Za-z0-9_]+", value) and not _LOOKS_JOINED.search(value) for value in values)
    name = "_or_".join(value if plain else _escaped(value) for value in values)
    return Enum(name, [EnumValue(value, value) for value in values])


_LOOKS_JOINED = re.compile(r"(?:^|_)or(?:_|$)|_\d+_")
"""Parts of a text that make it look like two texts, or like a text with an escaped letter."""


def _escaped(value: str) -> str:
    return "".join(char if char.isalnum() else f"_{ord(char)}_" for char in value)
