"""Importing the module of a stage, or saying why it cannot be imported."""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from pathlib import Path
from types import ModuleType

from crucible_core.beside import find_module
from crucible_core.errors import InvalidExperimentError
from crucible_core.values.messages import as_written, closest, error_text

__all__ = ["ModuleError", "import_module"]


class ModuleError(InvalidExperimentError):
    """A module that cannot be imported, whichever of its stages is asked for."""

    def __init__(self, message: str, module: str) -> None:
        super().__init__(message)
        self.module = module


def import_module(name: str, folder: Path | None, *, installed_first: bool = False) -> ModuleType:
    """The module that an experiment file in `folder` names.

    Raises ModuleError if there is none, or if importing it fails: the message then names the failing line.
    """
    full = name if folder is None else find_module(name, folder, installed_first=installed_first)
    try:
        return importlib.import_module(full)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{full}.".startswith(f"{error.name}."):
            beside = "" if folder is None else f" (looked beside the experiment file in {folder} too)"
            near = "" if folder is None else closest(name, _modules_in(folder, name))
            raise ModuleError(f"there is no module {name!r} to import{beside}{near}", name) from error
        raise ModuleError(f"importing {name!r} failed: {_reason(error, folder)}", name) from error


def _modules_in(folder: Path, name: str) -> list[str]:
    """The modules of the folder, and of those below it that `name` goes through."""
    parents = name.split(".")[:-1]
    return [
        ".".join([*parents[:depth], found.name])
        for depth in range(len(parents) + 1)
        for found in pkgutil.iter_modules([str(folder.joinpath(*parents[:depth]))])
    ]


def _reason(error: BaseException, folder: Path | None) -> str:
    if isinstance(error, SystemExit):
        text = f"it calls sys.exit({error.code!r})"
    else:
        text = error.msg if isinstance(error, SyntaxError) else as_written(error_text(error))
    return f"{type(error).__name__}: {text}{_line_of(error, folder)}"


def _line_of(error: BaseException, folder: Path | None) -> str:
    """` (FILE, line N)`: where the module, or one beside it that it imports, went wrong."""
    if isinstance(error, SyntaxError):
        places = [(error.filename, error.lineno)] if error.filename else []
    else:
        frames = traceback.extract_tb(error.__traceback__)
        places = [(frame.filename, frame.lineno) for frame in frames if not _is_machinery(frame.filename)]
        ours = [place for place in places if folder is not None and folder.resolve() in Path(place[0]).parents]
        places = ours[-1:] or places[:1]
    return "".join(f" ({file}, line {line})" if line else f" ({file})" for file, line in places)


def _is_machinery(file: str) -> bool:
    """Whether it is a file of Python's import system, or of ours."""
    return file.startswith("<frozen ") or file in {importlib.__file__, __file__, find_module.__code__.co_filename}
