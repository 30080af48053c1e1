"""What `package.module:Attribute` of an experiment file names: found under one rule, whatever it is for."""

from __future__ import annotations

from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

from crucible_core.beside.importing import import_module
from crucible_core.errors import InvalidExperimentError
from crucible_core.values.messages import closest, listing

__all__ = ["below", "referred", "remedy"]


def referred(
    reference: str,
    importable: Set[str] | None,
    folder: Path | None,
    what: str,
    is_one: Callable[[Any], bool],
) -> Any:
    """What the reference names; modules are also looked for in `folder`, the experiment file's.

    `importable` are the packages that may be imported (None: any). `what` names what `is_one` accepts: the error for an
    unknown name lists what the module has of that.

    Raises InvalidExperimentError if the reference is not allowed here, or cannot be imported.
    """
    module_name, _, attribute = reference.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise InvalidExperimentError(f"{reference!r} is not of the form package.module:Attribute")
    _check_importable(module_name, importable)
    module = import_module(module_name, folder, installed_first=importable is not None)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name, value in vars(module).items() if is_one(value)]
            raise InvalidExperimentError(
                f"{module_name!r} has no {attribute!r}{closest(attribute, names)}; its {what}: {listing(names)}"
            )
        found = getattr(found, part)
    return found


def remedy(module: str | None) -> str:
    """What to write in place of the `module` of a stage that was not found, or of a missing `module`."""
    if module is None:
        return "; or name its class with `module: package.module:Class`"
    if module.startswith("Elixir."):
        return f"; this is an Elixir module: register its Python successor as {module!r}, or change `module:`"
    if ":" not in module and "." in module:
        package, _, attribute = module.rpartition(".")
        return f"; a Python class is named with a colon: `module: {package}:{attribute}`"
    return ""


def below(module_name: str, importable: Set[str]) -> bool:
    """Whether the module is one of these packages, or in one."""
    parts = module_name.split(".")
    return any(".".join(parts[:length]) in importable for length in range(1, len(parts) + 1))


def _check_importable(module_name: str, importable: Set[str] | None) -> None:
    if importable is None:
        return
    if not below(module_name, importable):
        raise InvalidExperimentError(
            f"importing {module_name!r} is not allowed here; importable: {listing(importable)} "
            "(set by CRUCIBLE_IMPORTABLE or Registry(importable=...))"
        )
