"""Arguments of a wrong type, refused in one sentence where they come in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from crucible_core.errors import CrucibleError

__all__ = [
    "WrongArgumentError",
    "check_callable",
    "check_experiment",
    "check_instance",
    "check_mapping",
    "check_several",
]


class WrongArgumentError(CrucibleError, TypeError):
    """An argument has another type than the function takes."""


def check_instance(where: str, value: object, kind: type | tuple[type, ...], what: str) -> None:
    """Raises WrongArgumentError if the value is not a `kind`."""
    if not isinstance(value, kind):
        raise WrongArgumentError(f"{where} takes {what}, not {_shown(value)}")


def check_experiment(value: object, *kinds: type) -> None:
    """Raises WrongArgumentError if the value is none of these: an Experiment, or a Plan."""
    if isinstance(value, kinds):
        return
    hint = ""
    if isinstance(value, str | os.PathLike):
        hint = f"; read the file first: load_experiment({os.fspath(value)!r})"
    elif isinstance(value, Mapping):
        hint = "; make one of it first: Experiment.model_validate(...)"
    raise WrongArgumentError(f"this takes an Experiment, not {_shown(value)}{hint}")


def check_mapping(where: str, value: object) -> None:
    """Raises WrongArgumentError if the value is not a mapping."""
    check_instance(where, value, Mapping, "a mapping of names to values")


def check_callable(where: str, value: object, what: str) -> None:
    """Raises WrongArgumentError if the value cannot be called."""
    if not callable(value):
        raise WrongArgumentError(f"{where} takes {what}, not {_shown(value)}")


def check_several(where: str, value: object, example: str) -> None:
    """Raises WrongArgumentError if the value is not a list, or something else with items."""
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise WrongArgumentError(f"{where} takes a list, not {_shown(value)}: write {example}")


def _shown(value: object) -> str:
    return f"{type(value).__name__} {value!r:.80}"
