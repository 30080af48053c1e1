"""Arguments of a wrong type, and run ids that cannot be used, refused in one sentence where they come in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from crucible_core.errors import CrucibleError

__all__ = [
    "WrongArgumentError",
    "check_callable",
    "check_experiment",
    "check_instance",
    "check_mapping",
    "check_run_id",
    "check_several",
    "checked_name",
    "checked_names",
    "checked_share",
    "new_run_id",
    "not_a_name",
]

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


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


def checked_name(name: object) -> str:
    """The name of something in a Context. Raises TypeError if it is not a string."""
    if not isinstance(name, str):
        raise not_a_name(name)
    return name


def checked_names(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping. Raises TypeError if it is not one, or one of its names is not a string."""
    check_mapping("this", values)
    for name in values:
        checked_name(name)
    return values


def checked_share(confidence: Any) -> float:
    """The confidence of a decision as a plain float, for JSON. Raises ValueError if it is not from 0 to 1."""
    try:
        share = float(confidence)
    except (TypeError, ValueError, OverflowError):
        share = -1.0
    if 0 <= share <= 1:
        return share
    raise ValueError(f"the confidence of a decision is a number from 0 to 1, not {confidence!r}")


def not_a_name(name: object) -> TypeError:
    """The error for a name that is not a string."""
    return TypeError(f"a name in a Context is a string, not {name!r:.80}")


def check_run_id(run_id: str) -> None:
    """Raises CrucibleError for a run id that cannot be part of a file name."""
    if not _RUN_ID.fullmatch(run_id):
        raise CrucibleError(
            f"run id {run_id!r} cannot be used: it names files, so it must be 1 to 128 letters, digits, '.', '_' or "
            "'-', and begin with a letter or digit"
        )


def new_run_id() -> str:
    """A random run id, like `str(uuid.uuid4())` at a third of its cost, which matters to a run of a few stages."""
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


def _shown(value: object) -> str:
    return f"{type(value).__name__} {value!r:.80}"
