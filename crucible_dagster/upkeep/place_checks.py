"""Checks of places: disks, modes of files, experiment files, code servers."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from crucible_core import CrucibleError, InvalidExperimentError, builtin_registry, load_experiment, plan_experiment
from crucible_dagster.code_location import experiment_files
from crucible_dagster.dagster_internals import code_servers_of
from crucible_dagster.service.code_servers import state_of_code_server
from crucible_dagster.store.files import LocalFiles
from crucible_dagster.upkeep.findings import Finding, Severity, Subject

__all__ = ["code_servers", "disk", "experiments", "modes", "places_of"]

GB = 1_000_000_000
LITTLE, TOO_LITTLE = 2 * GB, GB // 5
"""Free bytes below which there is a warning, and an error."""
FEW_FILES = 0.02
"""The share of free inodes of a disk below which there is a warning."""


def places_of(subject: Subject) -> dict[str, Path]:
    """What it is -> folder, for the folders on this machine that runs write to."""
    found = {"home": subject.home}
    if subject.store is not None and isinstance(subject.store.files, LocalFiles):
        found["store"] = Path(str(subject.store.base))
    return {name: path for name, path in found.items() if path.exists()}


def disk(subject: Subject) -> Iterator[Finding]:
    """Whether there is room for what runs write."""
    seen: set[int] = set()
    for name, path in places_of(subject).items():
        device = path.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(path).free
        if free < LITTLE:
            severity: Severity = "error" if free < TOO_LITTLE else "warning"
            said = f"the disk of the {name}, {path}, has {free / GB:.1f} GB left"
            do = "make room: `crucible prune` and `crucible store gc` remove what is old"
            yield Finding(severity, "disk", said, do)
        files = os.statvfs(path)
        if files.f_files and files.f_favail / files.f_files < FEW_FILES:
            said = f"the disk of the {name}, {path}, has room for {files.f_favail:,} more files"
            yield Finding("warning", "disk", said, "remove small files, or use a file system with more inodes")


def modes(subject: Subject) -> Iterator[Finding]:
    """Whether other users of this machine can read or change what runs have stored."""
    for name, path in places_of(subject).items():
        mode = stat.S_IMODE(path.stat().st_mode)
        # A user who cannot enter a parent folder cannot reach this one either.
        reaches = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)
        if not reaches or not mode & stat.S_IRWXO:
            continue
        if mode & stat.S_IWOTH:
            said = f"anyone on this machine can write to the {name}, {path} (mode {mode:04o})"
            what = "anyone who can write there can run code where it is read"
            yield Finding("error", "modes", f"{said}: {what}", f"chmod o-rwx {path}")
        else:
            said = f"anyone on this machine can read the {name}, {path} (mode {mode:04o})"
            do = f"if others use this machine, chmod o-rwx {path}; CRUCIBLE_FILE_MODE sets that of the store's files"
            yield Finding("note" if subject.is_embedded else "warning", "modes", said, do)


def experiments(subject: Subject) -> Iterator[Finding]:
    """Experiment files that do not load, which Dagster would leave out. This imports the modules of their stages."""
    if subject.experiments is None:
        return
    try:
        files = experiment_files(subject.experiments)
    except InvalidExperimentError as error:
        yield Finding("note", "experiments", str(error))
        return
    for file in files:
        try:
            plan_experiment(load_experiment(file), builtin_registry())
        except CrucibleError as error:
            yield Finding("error", "experiments", str(error), f"see `crucible validate {file}`")


def code_servers(subject: Subject) -> Iterator[Finding]:
    """Whether the code servers of the workspace answer with definitions."""
    if subject.workspace is None:
        return
    for name, host, port in code_servers_of(subject.workspace):
        state = state_of_code_server(host, port)
        if state.problem is not None:
            said = f"code location {name!r} on {host}:{port} has no definitions: {' '.join(state.problem.split())}"
            yield Finding("error", "code location", said, "start the code server, or see its log")
