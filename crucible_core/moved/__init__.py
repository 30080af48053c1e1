"""Modules under the names they had before the packages were split, for code and stored values that name them.

`crucible_core/__init__.py` puts this folder on the package's path. Each module here is two lines; all of them go with
version 1.0.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["moved", "moved_names", "moved_package"]


def moved(old: str, new: str) -> None:
    """Make the module `new` importable as `old` too, so that its classes are the same ones by either name."""
    _warn(old, new)
    sys.modules[old] = importlib.import_module(new)


def moved_package(old: str, new: str, renamed: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose modules moved one by one: names that are not its modules come from `new`.

    `renamed` is old name -> new name, for names that have changed.
    """
    _warn(old, new)
    names = renamed or {}
    return lambda name: getattr(importlib.import_module(new), names.get(name, name))


def moved_names(old: str, homes: dict[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module of which some names moved: name -> module."""

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        _warn(f"{old}.{name}", f"{homes[name]}.{name}")
        return getattr(importlib.import_module(homes[name]), name)

    return find


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes with version 1.0", DeprecationWarning, stacklevel=4)
