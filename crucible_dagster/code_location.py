"""From experiment files to Dagster Definitions."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dagster import Definitions

from crucible_core import Experiment, InvalidExperimentError, Registry, builtin_registry, load_experiment
from crucible_core.errors import Location
from crucible_core.loading import MAX_BYTES
from crucible_core.output_root import output_root
from crucible_dagster.job import asset_for, job_for, schedule_for
from crucible_dagster.names import check_ids

__all__ = ["build_definitions", "experiment_files"]

PathLike = str | os.PathLike[str]
SUFFIXES = frozenset({".json", ".yaml", ".yml"})


def build_definitions(paths: PathLike | Iterable[PathLike], *, registry: Registry | None = None) -> Definitions:
    """A job, an asset and, where the file asks for one, a schedule for each experiment.

    `paths` are files, folders (every experiment in a .yaml, .yml or .json file below them) or glob patterns. Merge the
    result with your own by `Definitions.merge`.

    Raises InvalidExperimentError with every mistake of every file: a location that leaves experiments out would look
    as if they did not exist.
    """
    registry = builtin_registry() if registry is None else registry
    mistakes: list[InvalidExperimentError] = []
    experiments: list[Experiment] = []
    for file in experiment_files(paths):
        try:
            experiments.append(load_experiment(file))
        except InvalidExperimentError as error:
            mistakes.append(error)
    jobs, schedules = [], []
    for experiment in experiments:
        try:
            job = job_for(experiment, registry)
            jobs.append(job)
            schedules += [schedule] if (schedule := schedule_for(experiment, job)) else []
        except InvalidExperimentError as error:
            mistakes.append(error)
    try:
        check_ids(experiments)
    except InvalidExperimentError as error:
        mistakes.append(error)
    if mistakes:
        raise InvalidExperimentError.of(mistakes)
    return Definitions(assets=[asset_for(experiment) for experiment in experiments], jobs=jobs, schedules=schedules)


def experiment_files(paths: PathLike | Iterable[PathLike]) -> tuple[Path, ...]:
    """The experiment files that `paths` name, each once, in order.

    Raises InvalidExperimentError for a path where there is nothing.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: dict[Path, None] = {}
    for path in listed:
        files = list(_expand(Path(path)))
        if not files:
            raise InvalidExperimentError(
                "there is no experiment file (.yaml, .yml, .json) here", location=Location(str(Path(path).absolute()))
            )
        found.update(dict.fromkeys(file.absolute() for file in files))
    return tuple(found)


def _expand(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in _files_below(path) if _is_experiment(file))
    elif path.exists():
        yield path
    else:
        yield from sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207  # absolute patterns too


def _files_below(folder: Path) -> Iterator[Path]:
    """The files with a fitting suffix, but for hidden ones, reports, and those of virtual environments."""
    for inside in sorted(folder.iterdir()):
        if inside.name.startswith("."):
            continue
        if inside.is_dir():
            if inside.absolute() != output_root() and not (inside / "pyvenv.cfg").exists():
                yield from _files_below(inside)
        elif inside.suffix in SUFFIXES:
            yield inside


def _is_experiment(file: Path) -> bool:
    # A folder holds other files of these suffixes, such as dagster.yaml. One that says neither `id` nor `pipeline`,
    # which every experiment must, is no experiment with a mistake in it.
    text = file.read_text(encoding="utf-8", errors="replace")[:MAX_BYTES]
    return re.search(r'(?m)^[\s{]*"?(id|pipeline)"?\s*:', text) is not None
