"""Where things are kept by default: in the folder of the project."""

from __future__ import annotations

import os
from pathlib import Path

from crucible_core.errors import CrucibleError

__all__ = ["OUTPUT_ROOT_VARIABLE", "ReportFolder", "absolute", "project_folder", "report_folder"]

OUTPUT_ROOT_VARIABLE = "CRUCIBLE_OUTPUT_ROOT"
MARKERS = (".crucible", "pyproject.toml", ".git")


def project_folder(start: Path | None = None, *, here: str | None = None) -> Path:
    """The nearest folder with `.crucible`, `pyproject.toml` or `.git`, from `start` upward; else the working directory.

    `start` is the folder of an experiment file; by default the working directory. `here` replaces the
    current working directory.
    """
    here = here or os.getcwd()  # noqa: PTH109  # as texts: with paths it takes as long as several stages
    folder = os.path.normpath(os.path.join(here, start or ""))  # noqa: PTH118  # `..` is resolved, links are not
    while not any(os.path.exists(f"{folder}/{marker}") for marker in MARKERS):  # noqa: PTH110
        folder, below = os.path.dirname(folder), folder  # noqa: PTH120
        if folder == below:
            return Path(here)
    return Path(folder)


def report_folder(start: Path | None = None) -> Path:
    """The folder that CRUCIBLE_OUTPUT_ROOT names, or `reports` in that of the project. No experiment file can set it.

    Raises CrucibleError as `absolute` does.
    """
    return ReportFolder(start).path


class ReportFolder:
    """`report_folder` as of now. The project's folder is searched for only when it is first needed: most runs never do.

    Raises CrucibleError as `absolute` does.
    """

    __slots__ = ("_found", "_here", "_start")

    def __init__(self, start: Path | None = None) -> None:
        configured = os.environ.get(OUTPUT_ROOT_VARIABLE)
        self._found = absolute(configured, OUTPUT_ROOT_VARIABLE) if configured else None
        self._start = start
        self._here = os.getcwd()  # noqa: PTH109

    @property
    def path(self) -> Path:
        if self._found is None:
            self._found = project_folder(self._start, here=self._here) / "reports"
        return self._found


def absolute(path: str, variable: str, base: Path | None = None) -> Path:
    """The path in an environment variable, with `~` expanded; a relative one is below `base`, or the working directory.

    Raises CrucibleError for `~user` of a user that does not exist.
    """
    try:
        return (base or Path.cwd()) / Path(path).expanduser()
    except RuntimeError as error:
        raise CrucibleError(f"{variable}={path}: {error}") from error
