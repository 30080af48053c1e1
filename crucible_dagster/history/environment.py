"""Where a run ran: the git state and the versions of packages."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from crucible_core.values.messages import BESIDE

PACKAGES = ("crucible-dagster", "dagster", "numpy", "pandas", "pydantic", "scikit-learn", "scipy")


GIT_PATIENCE = 2.0


GIT_LASTS = 60.0


class Recorded(BaseModel):
    # Fields added by a newer version are ignored; other changes come with a new format version.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class GitState(Recorded):
    """The commit that was checked out in the folder of the experiment file."""

    commit: str
    branch: str | None = None
    """None if no branch is checked out."""
    dirty: bool | None = None
    """Whether tracked files differ from the commit; None if git took too long."""


def git_state(folder: Path) -> GitState | None:
    """What git says about the folder; None without a repository, a commit or git.

    Git is called at most once a minute per folder: the code that runs was imported earlier anyway.
    """
    return _git_state(folder, int(time.monotonic() / GIT_LASTS))


@functools.lru_cache(maxsize=32)
def _git_state(folder: Path, _minute: int) -> GitState | None:
    try:
        return _parse_status(_git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no"))
    except subprocess.TimeoutExpired:
        return _commit_alone(folder)
    except (OSError, subprocess.SubprocessError):
        return None


def _commit_alone(folder: Path) -> GitState | None:
    try:
        return GitState(commit=_git(folder, "rev-parse", "--verify", "HEAD").strip())
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    # Inside a git hook, these variables would point to the hook's repository. Git locks nothing and runs no program
    # that a repository's own settings name.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(  # noqa: S603  # the arguments come from this module
        ["git", "-c", "core.fsmonitor=false", *arguments],  # noqa: S607  # whichever git the user has
        cwd=folder,
        env={**environment, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=GIT_PATIENCE,
        check=True,
    )
    return done.stdout


def _parse_status(text: str) -> GitState | None:
    lines = text.splitlines()
    headers = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    commit, branch = headers.get("branch.oid", "(initial)"), headers.get("branch.head")
    if commit == "(initial)":
        return None
    dirty = any(not line.startswith("# ") for line in lines)
    return GitState(commit=commit, branch=None if branch == "(detached)" else branch, dirty=dirty)


def package_versions(modules: Iterable[str]) -> dict[str, str]:
    found = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    for top in {module.partition(".")[0] for module in modules if not module.startswith(BESIDE)}:
        found.update(_distribution_of(top))
    return dict(sorted(found.items()))


@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except (importlib.metadata.PackageNotFoundError, KeyError):
        return None


@functools.cache
def _distribution_of(top: str) -> Mapping[str, str]:
    """The installed distribution that a top-level module belongs to, with its version; empty for a loose file."""
    if (version := _version(top)) is not None:
        return {top: version}
    origin = getattr(sys.modules.get(top), "__file__", None) or ""
    if not {"site-packages", "dist-packages"} & set(Path(origin).parts):
        return {}
    # This reads the files of every installed distribution, which can take half a second.
    names = importlib.metadata.packages_distributions().get(top, [])
    return {name: version for name in names if (version := _version(name)) is not None}
