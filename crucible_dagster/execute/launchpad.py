"""Finds the options that somebody typed in the Launchpad, which also fills in every default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from crucible_core.ir.option_schema import NO_DEFAULT, Option, option_tree
from crucible_core.ir.option_values import completed
from crucible_core.stage import Stage


def typed_options(stage: type[Stage], options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `config` that differs from `options` and the stage's defaults.

    Dagster's Launchpad fills in every default, so a value that is there in any case was not chosen by anyone.
    """
    # Keys that YAML reads as numbers become texts, as in an experiment file.
    return _typed(option_tree(stage), completed(stage, options), to_jsonable_python(config))


def _typed(tree: Option, options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    typed = {}
    for name, value in config.items():
        option = tree.part(name)
        default = options.get(name, option.default)
        if option.kind == "model" and isinstance(value, Mapping) and default is not None:
            if changed := _typed(option, default if isinstance(default, Mapping) else {}, value):
                typed[name] = changed
        elif not equal_options(_filled(option, value), _filled(option, default)):
            typed[name] = value
    return typed


def _filled(option: Option | None, value: Any) -> Any:
    """The value with the defaults of the models in it written out, as Dagster does."""
    if option is None:
        return value
    if option.kind == "model" and isinstance(value, Mapping):
        defaults = {name: one.default for name, one in option.children.items() if one.default is not NO_DEFAULT}
        return {name: _filled(option.part(name), one) for name, one in {**defaults, **value}.items()}
    if option.kind == "mapping" and isinstance(value, Mapping):
        return {name: _filled(option.item, one) for name, one in value.items()}
    if option.kind == "list" and isinstance(value, list | tuple):
        return [_filled(option.item, one) for one in value]
    return value


def equal_options(a: Any, b: Any) -> bool:
    """Whether two values of an option, as JSON types, are the same."""
    # 1 and 1.0 are the same number, but true and 1 differ.
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal_options(value, b[name]) for name, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal_options, a, b))
    return bool(a == b)
