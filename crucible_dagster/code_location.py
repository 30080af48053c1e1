"""From experiment files to Dagster Definitions."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dagster import (
    AssetChecksDefinition,
    AssetSpec,
    Definitions,
    JobDefinition,
    ScheduleDefinition,
    SensorDefinition,
)
from dagster_shared.libraries import DagsterLibraryRegistry

from crucible_core import Experiment, InvalidExperimentError, Registry, __version__, builtin_registry, load_experiment
from crucible_core.errors import Location
from crucible_core.ir.loading import is_experiment
from crucible_core.values.places import report_folder
from crucible_dagster.automation.schedules import schedule_for
from crucible_dagster.automation.triggers import trigger_for
from crucible_dagster.compile.assets import asset_for, circle_of_deps
from crucible_dagster.compile.checks import checks_for
from crucible_dagster.compile.job import job_for
from crucible_dagster.names import same_names

__all__ = ["build_definitions", "definitions_of", "experiment_files", "load_experiments"]

# Dagster shows the libraries of a code location, and their versions.
DagsterLibraryRegistry.register("crucible-dagster", __version__, is_dagster_package=False)

PathLike = str | os.PathLike[str]
SUFFIXES = frozenset({".json", ".yaml", ".yml"})


def build_definitions(paths: PathLike | Iterable[PathLike], *, registry: Registry | None = None) -> Definitions:
    """A job, an asset with its checks and, where the file asks for them, a schedule and a trigger for each experiment.

    `paths` are files, folders (every experiment in a .yaml, .yml or .json file below them) or glob patterns. Merge the
    result with your own by `Definitions.merge`.

    Raises InvalidExperimentError with every mistake of every file: a location that leaves experiments out would look
    as if they did not exist.
    """
    experiments, mistakes = load_experiments(experiment_files(paths))
    return definitions_of(experiments, registry, mistakes=mistakes)


def load_experiments(files: Iterable[Path]) -> tuple[list[Experiment], list[InvalidExperimentError]]:
    """The experiments that can be read, and what is wrong with the other files."""
    experiments, mistakes = [], []
    for file in files:
        try:
            experiments.append(load_experiment(file))
        except InvalidExperimentError as error:
            mistakes.append(error)
    return experiments, mistakes


def definitions_of(
    experiments: Sequence[Experiment],
    registry: Registry | None = None,
    *,
    mistakes: Iterable[InvalidExperimentError] = (),
    beside: Iterable[Experiment] = (),
) -> Definitions:
    """The definitions of the experiments; those of `beside` are in the same location, in another component.

    Raises InvalidExperimentError with the `mistakes` made so far, those in these experiments, ids that become the same,
    and `deps` that form a circle.
    """
    registry = builtin_registry() if registry is None else registry
    found = list(mistakes)
    jobs: list[JobDefinition] = []
    assets: list[AssetSpec] = []
    checks: list[AssetChecksDefinition] = []
    schedules: list[ScheduleDefinition] = []
    sensors: list[SensorDefinition] = []
    for experiment in experiments:
        try:
            job = job_for(experiment, registry)
            jobs.append(job)
            assets.append(asset_for(experiment, registry))
            checks += checks_for(experiment, registry)
            if schedule := schedule_for(experiment, job):
                schedules.append(schedule)
            if trigger := trigger_for(experiment, job):
                sensors.append(trigger)
        except InvalidExperimentError as error:
            found.append(error)
    everything = [*beside, *experiments]
    found += [*same_names(everything), *circle_of_deps(everything)]
    if found:
        raise InvalidExperimentError.of(found)
    return Definitions(assets=assets, asset_checks=checks, jobs=jobs, schedules=schedules, sensors=sensors)


def experiment_files(paths: PathLike | Iterable[PathLike]) -> tuple[Path, ...]:
    """The experiment files that `paths` name, each once, in order.

    Raises InvalidExperimentError for a path where there is nothing.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: dict[Path, None] = {}
    for path in listed:
        files = list(_expand(Path(path).expanduser()))
        if not files:
            raise InvalidExperimentError(
                "there is no experiment file (.yaml, .yml, .json) here", location=Location(str(Path(path).absolute()))
            )
        found.update(dict.fromkeys(file.absolute() for file in files))
    return tuple(found)


def _expand(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in _files_below(path, report_folder(path)) if is_experiment(file))
    elif path.exists():
        yield path
    else:
        yield from sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207  # absolute patterns too


def _files_below(folder: Path, reports: Path) -> Iterator[Path]:
    """The files with a fitting suffix, except hidden ones, reports, and those of virtual environments."""
    for inside in sorted(folder.iterdir()):
        if inside.name.startswith("."):
            continue
        if inside.is_dir():
            if inside.absolute() != reports and not (inside / "pyvenv.cfg").exists():
                yield from _files_below(inside, reports)
        elif inside.suffix in SUFFIXES and inside.is_file():
            yield inside
