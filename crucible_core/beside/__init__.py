"""Modules beside an experiment file, under names of their own.

`module: stages:train` of `coins/a.yaml` is `coins/stages.py`, imported as `crucible_core.beside.coins_<digest>.stages`:
each folder is a package below this one, named after the folder and a digest of its path. So two folders can each have a
`stages.py`, a `helpers.py` or a `lib/`, and nothing is added to `sys.path`. The name is the same in every process, and
child processes can import it: they inherit the environment variable that says where the folder is.

In these modules, `import helpers` looks beside the experiment file first, as a script looks in its own folder. A folder
without `__init__.py`, which may hold data, comes after what is installed. A module that the program finds under its
plain name too, in that very file, is imported by that name: there is only one of it.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from crucible_core.values.messages import BESIDE

__all__ = ["VARIABLE", "find_module", "name_of_stored", "package_of"]

VARIABLE = "CRUCIBLE_BESIDE_"

_folders: dict[str, str] = {}
"""Package -> folder."""


def package_of(folder: Path) -> str:
    """The package of that folder's modules, which this process and its children can import from now on."""
    return _package_at(folder.absolute())


@functools.lru_cache(maxsize=1024)
def _package_at(folder: Path) -> str:
    place = folder.resolve()
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()[:12]
    name = f"{re.sub('[^A-Za-z0-9]+', '_', place.name)[:40]}_{digest}"
    _folders[name] = os.environ[VARIABLE + name] = str(place)
    return BESIDE + name


def find_module(name: str, folder: Path, *, installed_first: bool = False) -> str:
    """The name by which to import what an experiment file in the folder, or a module beside it, calls `name`.

    With `installed_first`, what is installed under that name is preferred to what is beside the file.
    """
    package, top = package_of(folder), name.partition(".")[0]
    return f"{package}.{name}" if _is_beside(package, top, installed_first=installed_first) else name


def name_of_stored(module: str, folder: Path | None) -> str:
    """The name by which to import the module of a stored value; `folder` is that of the experiment it was stored for.

    The value may have been stored when the module had its plain name, or when the folder was elsewhere.
    """
    if module.startswith(BESIDE):
        package, _, module = module.removeprefix(BESIDE).partition(".")
        known = _folder(package)
        if known is not None and Path(known).is_dir():
            folder = Path(known)
    return module if folder is None else find_module(module, folder)


# Top-level modules that were found beside the file: asked for often, and fixed as long as the process runs.
_beside: set[tuple[str, str, bool]] = set()


def _is_beside(package: str, top: str, *, installed_first: bool) -> bool:
    asked = package, top, installed_first
    if asked not in _beside:
        here = PathFinder.find_spec(f"{package}.{top}", importlib.import_module(package).__path__)
        if here is None or not _comes_first(here, _elsewhere(top), installed_first=installed_first):
            return False
        _beside.add(asked)
    return True


def _comes_first(here: ModuleSpec, there: ModuleSpec | None, *, installed_first: bool) -> bool:
    if there is None:
        return True
    if _place(here) == _place(there):
        return False
    is_plain_folder = here.origin is None
    return not installed_first and not (is_plain_folder and there.origin is not None)


def _elsewhere(top: str) -> ModuleSpec | None:
    """What the program imports by that name."""
    with contextlib.suppress(ImportError, ValueError, AttributeError):  # a module without a spec, such as __main__
        return importlib.util.find_spec(top)
    return None


def _place(spec: ModuleSpec) -> list[Path]:
    # Links to modules are not followed: what such a module imports is looked for beside the link.
    files = [spec.origin] if spec.origin is not None else list(spec.submodule_search_locations or ())
    return [Path(file).parent.resolve() / Path(file).name for file in files]


def _folder(package: str) -> str | None:
    return _folders.get(package) or os.environ.get(VARIABLE + package)


class _Finder:
    """Finds the packages of folders, and gives their modules a loader that lets them import each other."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(BESIDE):
            return None
        package, _, inner = name.removeprefix(BESIDE).partition(".")
        if not inner:
            if (folder := _folder(package)) is None:
                return None
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [folder]
            return spec
        found = PathFinder.find_spec(name, path, target)
        if found is not None and type(found.loader) is SourceFileLoader:
            found.loader = _Loader(found.loader.name, found.loader.path)
        return found


class _Loader(SourceFileLoader):
    """Executes a module whose `import` statements look beside the experiment file first."""

    def exec_module(self, module: ModuleType) -> None:
        package = BESIDE + module.__name__.removeprefix(BESIDE).partition(".")[0]
        # The interpreter takes `__import__` from the builtins of the module that has the statement.
        module.__dict__["__builtins__"] = _builtins(package)
        super().exec_module(module)


@functools.cache
def _builtins(package: str) -> dict[str, Any]:
    """Python's builtins for the modules of one folder."""
    elsewhere: set[str] = set()

    def import_beside(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002  # the names that Python's own has
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level == 0 and top not in elsewhere and _is_beside(package, top, installed_first=False):
            if fromlist:
                return builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
            importlib.import_module(f"{package}.{name}")
            return sys.modules[f"{package}.{top}"]
        module = builtins.__import__(name, globals, locals, fromlist or (), level)
        if level == 0:
            elsewhere.add(top)
        return module

    return {**vars(builtins), "__import__": import_beside}


if _Finder not in sys.meta_path:
    sys.meta_path.insert(0, _Finder)
