"""Writing reports: only into one folder, and never half a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from crucible_core.errors import CrucibleError
from crucible_core.ir.vocabulary import ReportFormat
from crucible_core.plan import current_plan
from crucible_core.values.jsonable import safe_text
from crucible_core.values.messages import shorten
from crucible_core.values.places import report_folder

__all__ = ["SUFFIXES", "output_root", "path_problem", "write_atomically"]

SUFFIXES: Mapping[ReportFormat, str] = {
    "csv": ".csv",
    "html": ".html",
    "json": ".json",
    "latex": ".tex",
    "markdown": ".md",
}


def output_root(folder: Path | None = None) -> Path:
    """Where the reports of an experiment whose file is in `folder` are written: as it was when its run began."""
    plan = current_plan.get()
    return report_folder(folder) if plan is None else plan.output_root


def path_problem(relative: str) -> str | None:
    """Why `relative` is not a valid path under the output root, or None if it is."""
    path = Path(relative)
    if safe_text(relative) != relative:
        return f"the path {relative!r} holds a NUL or half of a surrogate pair"
    if not relative.strip() or path.is_absolute() or relative.startswith("~"):
        return f"the path {relative!r} is not relative to the output root ({output_root()})"
    if ".." in path.parts or "\\" in relative:
        return f"the path {relative!r} leaves the output root ({output_root()})"
    if relative.rpartition("/")[2] in {"", "."}:
        return f"the path {relative!r} names a folder, not a file"
    if any(len(part.encode()) > 200 for part in path.parts):
        return f"the path {shorten(relative, 60)!r} has a part of more than 200 bytes"
    return None


def write_atomically(relative: str, content: str | bytes, root: Path | None = None) -> Path:
    """Write a file below `root`, by default the output root: a reader sees the old content or the new, whole.

    A text is written as UTF-8.

    Raises CrucibleError if the path leaves the root (a symbolic link counts as where it points) or cannot be written.
    """
    problem = path_problem(relative)
    if problem:
        raise CrucibleError(problem)
    root = root or output_root()
    target = root / relative
    try:
        # Before any folder is made, or it would be made behind the link.
        if not target.parent.resolve().is_relative_to(root.resolve()):
            raise CrucibleError(f"the path {relative!r} leaves the output root ({root}) by a symbolic link")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content if isinstance(content, bytes) else content.encode())
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:  # Python before 3.13 raises RuntimeError for a link to itself
        raise CrucibleError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from error
    return target


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
