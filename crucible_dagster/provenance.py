"""What is recorded of a run: what ran, of which code, in which surroundings, and who launched it.

Environment variables are never recorded. Options are, as they are in Dagster's run config already.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import importlib.metadata
import inspect
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from dagster import DagsterRun
from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, ValidationError

from crucible_core import CrucibleError, Experiment, PlannedStage, Stage
from crucible_core.jsonable import safe_text, to_jsonable
from crucible_core.stage import FunctionStage, state_of_source
from crucible_dagster.processes import worker_of_this_step

__all__ = [
    "LAUNCHED_BY_TAG",
    "USER_TAG",
    "GitState",
    "Launch",
    "RunRecord",
    "StageRecord",
    "git_state",
    "launch_of",
    "launch_tags",
    "modules_of",
    "read_run_record",
    "record_run",
    "stage_identity",
]

FORMAT_VERSION = 1

LAUNCHED_BY_TAG = "crucible/launched_by"
USER_TAG = "user"
"""Dagster's own tag for who launched a run, which its UI shows."""

LaunchedBy = Literal["cli", "python"]
How = Literal[LaunchedBy, "backfill", "dagster", "re-execution", "retry", "schedule", "sensor", "ui"]
"""`dagster`: by Dagster's command line, its API or its Python functions; `retry`: by its run retries."""

PACKAGES = ("crucible-dagster", "dagster", "numpy", "pandas", "pydantic", "scikit-learn", "scipy")
GIT_PATIENCE = 2.0
GIT_LASTS = 60.0


class _Recorded(BaseModel):
    # What a newer version adds is passed over; what it changes comes with another format version.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class StageRecord(_Recorded):
    """One entry of the pipeline, as it was run."""

    name: str
    """In the pipeline."""
    step: str
    """The key of its step in Dagster."""
    stage: str
    """The stage's class, as `module:name`."""
    source_hash: str | None = None
    """SHA-256 over the source of the modules that define the class; None where there is no source to be had."""
    options: dict[str, JsonValue] = {}
    """All of them, defaults included; secrets masked."""
    enabled: bool = True


class GitState(_Recorded):
    """The commit that was checked out where the experiment file lies."""

    commit: str
    branch: str | None = None
    """None where no branch is checked out."""
    dirty: bool | None = None
    """Whether files that git knows differ from the commit; None if git took too long to tell."""


class Launch(_Recorded):
    """Who launched a run, and how."""

    how: How
    by: str | None = None
    """The user, where known."""
    name: str | None = None
    """Of the schedule, sensor or backfill."""
    parent: str | None = None
    """The run that this one executes again."""


class RunRecord(_Recorded):
    """What is recorded of a run when its first stage begins."""

    format_version: int = FORMAT_VERSION
    run_id: str
    recorded: AwareDatetime
    experiment: dict[str, JsonValue]
    """The experiment as run, run config applied."""
    source: str | None = None
    """The experiment's file."""
    stages: tuple[StageRecord, ...]
    seeds: dict[str, JsonValue] = {}
    """Stage -> its option `seed`."""
    git: GitState | None = None
    packages: dict[str, str] = {}
    """Installed distribution -> version: those that the stages come from, and those that numbers may depend on."""
    python: str
    platform: str
    host: str
    """Where the first stage ran."""
    worker: str | None = None
    """The process that ran the run: host, process id, start."""
    launched: Launch

    def to_json(self) -> str:
        return self.model_dump_json(indent=2)

    def to_experiment(self) -> Experiment:
        """The experiment as run. Raises CrucibleError if this version of the package cannot read it."""
        try:
            return Experiment.model_validate(self.experiment)
        except ValidationError as error:
            raise CrucibleError(f"the experiment of run {self.run_id} cannot be read back: {error}") from error


def record_run(
    experiment: Experiment, planned: Sequence[PlannedStage], steps: Sequence[str], run: DagsterRun
) -> RunRecord:
    """The record of a run that is about to execute `planned`, each in the step of the same place in `steps`."""
    stages = tuple(_stage_record(one, step) for one, step in zip(planned, steps, strict=True))
    return RunRecord(
        run_id=run.run_id,
        recorded=datetime.now(UTC),
        experiment=experiment.to_dict(),
        source=experiment.source.path if experiment.source else None,
        stages=stages,
        seeds={one.name: one.options["seed"] for one in stages if "seed" in one.options},
        git=git_state(experiment.folder or Path.cwd()),
        packages=_packages({type(one.stage).__module__ for one in planned}),
        python=platform.python_version(),
        platform=platform.platform(),
        host=socket.gethostname(),
        worker=worker_of_this_step(),
        launched=launch_of(run),
    )


def read_run_record(text: str) -> RunRecord:
    """Raises CrucibleError if it is damaged, or of a format that this version does not know."""
    try:
        record = RunRecord.model_validate_json(text)
    except ValidationError as error:
        raise CrucibleError(f"the run record cannot be read: {error}") from error
    if record.format_version != FORMAT_VERSION:
        raise CrucibleError(
            f"the record of run {record.run_id} has format {record.format_version}, and this version of crucible reads "
            f"format {FORMAT_VERSION}; upgrade"
        )
    return record


def _stage_record(planned: PlannedStage, step: str) -> StageRecord:
    stage, source_hash = stage_identity(type(planned.stage))
    options = to_jsonable(planned.stage)
    return StageRecord(
        name=planned.name,
        step=step,
        stage=stage,
        source_hash=source_hash,
        options=options,
        enabled=planned.definition.enabled,
    )


# --- the code -----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def stage_identity(stage: type[Stage]) -> tuple[str, str | None]:
    """The qualified name of a stage's class, and a hash of the source of the modules that define it.

    Hashed are the modules of the class and of all it inherits from, down to `Stage`; what these import is not. None
    stands for a class of which the source does not tell what it does: typed at a prompt, made by a function that can
    make others of that name, or imported from a file that was changed since.
    """
    if not _is_what_its_source_says(stage):
        return _qualified(stage), None
    digest = hashlib.sha256()
    for name in dict.fromkeys(modules_of(stage)):
        source = _source_of(name)
        if source is None:
            return _qualified(stage), None
        digest.update(f"{name}\0{len(source)}\0".encode())
        digest.update(source.encode(errors="surrogatepass"))
    return _qualified(stage), digest.hexdigest()


def _is_what_its_source_says(stage: type[Stage]) -> bool:
    made = inspect.unwrap(stage.function) if issubclass(stage, FunctionStage) else stage
    if "<locals>" in made.__qualname__ or getattr(made, "__closure__", None):
        return False
    return all(
        cls.source_when_defined == state_of_source(cls.__module__)
        for cls in stage.__mro__
        if issubclass(cls, Stage) and cls not in FunctionStage.__mro__
    )


def _qualified(stage: type[Stage]) -> str:
    return safe_text(f"{stage.__module__}:{stage.__qualname__}")


def modules_of(stage: type[Stage]) -> Iterator[str]:
    """The modules of the class and of all that it inherits from, down to `Stage`."""
    for cls in stage.__mro__:
        if cls not in FunctionStage.__mro__:
            yield cls.__module__
    if issubclass(stage, FunctionStage):
        yield inspect.unwrap(stage.function).__module__


def _source_of(module: str) -> str | None:
    try:
        return inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError, SyntaxError, UnicodeDecodeError):
        return None


# --- the surroundings ---------------------------------------------------------------------------------------------


def git_state(folder: Path) -> GitState | None:
    """What git says of the folder; None if it is in no repository, has no commit yet, or there is no git.

    Asked at most once a minute per folder: what runs is what this process has imported before.
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
    # Inside a hook of git, these variables would lead to the repository of the hook. Nothing is locked, and no program
    # that a repository's own settings name is run.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(  # noqa: S603  # the arguments are those of this module
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


def _packages(modules: Iterable[str]) -> dict[str, str]:
    found = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    for top in {module.partition(".")[0] for module in modules}:
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
    """The installed distribution that a top-level module belongs to, with its version; nothing of a loose file."""
    if (version := _version(top)) is not None:
        return {top: version}
    origin = getattr(sys.modules.get(top), "__file__", None) or ""
    if not {"site-packages", "dist-packages"} & set(Path(origin).parts):
        return {}
    # It reads the files of every installed distribution, which takes half a second where there are many.
    names = importlib.metadata.packages_distributions().get(top, [])
    return {name: version for name in names if (version := _version(name)) is not None}


# --- the launch ---------------------------------------------------------------------------------------------------


def launch_tags(launched_by: LaunchedBy) -> dict[str, str]:
    """The tags of a run that is launched from this process."""
    try:
        user = {USER_TAG: getpass.getuser()}
    except (OSError, KeyError, ImportError):  # a user id without a name, as in some containers
        user = {}
    return {LAUNCHED_BY_TAG: launched_by, **user}


def launch_of(run: DagsterRun) -> Launch:
    """Who launched the run and how, as its tags tell.

    Dagster copies the tags of a run to the one that executes it again: what launched the first is not looked at then.
    A run that Dagster's command line or API launched has the tags of one from the UI, but for `dagster/from_ui`.
    """
    tags, parent = run.tags, run.parent_run_id
    own = tags.get(LAUNCHED_BY_TAG)
    if own in get_args(LaunchedBy) and run.remote_job_origin is None:
        return Launch(how=own, by=tags.get(USER_TAG), parent=parent)
    if parent is not None:
        return Launch(how="retry" if _RETRY_TAG in tags else "re-execution", parent=parent)
    by = tags.get(USER_TAG)
    for tag, how in _LAUNCHERS.items():
        if tag in tags:
            return Launch(how=how, by=by, name=tags[tag])
    return Launch(how="ui" if tags.get(_UI_TAG) == "true" else "dagster", by=by)


# Dagster's tags: of what launches runs by itself, of its automatic retries, and of its UI.
_LAUNCHERS: Mapping[str, How] = {
    "dagster/backfill": "backfill",
    "dagster/schedule_name": "schedule",
    "dagster/sensor_name": "sensor",
}
_RETRY_TAG = "dagster/retry_number"
_UI_TAG = "dagster/from_ui"
