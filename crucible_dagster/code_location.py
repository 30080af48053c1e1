"""From experiment files to Dagster Definitions."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dagster import (
    AssetChecksDefinition,
    AssetsDefinition,
    AssetSpec,
    Definitions,
    JobDefinition,
    ScheduleDefinition,
    SensorDefinition,
    get_dagster_logger,
)
from dagster_shared.libraries import DagsterLibraryRegistry

from crucible_core import Experiment, InvalidExperimentError, Registry, __version__, builtin_registry, load_experiment
from crucible_core.errors import Location
from crucible_core.ir.loading import LOCK, is_experiment
from crucible_core.plan import plan_of
from crucible_core.values.places import report_folder
from crucible_dagster.automation.schedules import schedule_for
from crucible_dagster.automation.sensors import automation_for
from crucible_dagster.automation.triggers import trigger_for
from crucible_dagster.compile.assets import asset_for, circle_of_deps, decisions_of, materializable
from crucible_dagster.compile.broken import broken_jobs
from crucible_dagster.compile.checks import checks_for
from crucible_dagster.compile.job import graph_for, job_of, variants_job_of
from crucible_dagster.dagster_internals import notice_killed_runs
from crucible_dagster.execute.run_claims import begin_run_of_this_process
from crucible_dagster.names import same_names

__all__ = ["build_definitions", "definitions_of", "experiment_files", "load_experiments"]

# Dagster shows the libraries of a code location, and their versions.
DagsterLibraryRegistry.register("crucible-dagster", __version__, is_dagster_package=False)

_log = get_dagster_logger("crucible")

PathLike = str | os.PathLike[str]
VALIDATION_VARIABLE = "DAGSTER_IS_DEFS_VALIDATION_CLI"
"""Set by `dg check defs` and `dagster definitions validate`."""
SUFFIXES = frozenset({".json", ".yaml", ".yml"})


def build_definitions(
    paths: PathLike | Iterable[PathLike],
    *,
    registry: Registry | None = None,
    strict: bool = False,
    resources: Mapping[str, Any] = {},  # is only read
) -> Definitions:
    """For each experiment: a job, an asset with its checks and, if the file asks for them, schedules and sensors.

    `paths` are files, folders (every experiment in a .yaml, .yml or .json file below them) or glob patterns. Merge the
    result with your own by `Definitions.merge`. Each of `resources` is a Dagster resource and replaces the one that
    the experiments declare under its name.

    A file with a mistake does not hide the others: a job `broken_<file>` says what is wrong and fails with that
    message, and the code location logs a warning. With `strict`, and in `dg check defs` and
    `dagster definitions validate`, InvalidExperimentError is raised instead, with every mistake of every file.

    Raises InvalidExperimentError for a path without an experiment.
    """
    experiments, mistakes = load_experiments(experiment_files(paths))
    return definitions_of(experiments, registry, mistakes=mistakes, strict=strict, resources=resources)


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
    strict: bool = True,
    resources: Mapping[str, Any] = {},  # is only read
) -> Definitions:
    """The definitions of the experiments; those in `beside` belong to other components of the same location.

    Mistakes are those in `mistakes`, those in these experiments, ids that become the same name, and `deps` that form
    a circle. With `strict`, InvalidExperimentError is raised with all of them; otherwise see `build_definitions`.
    """
    begin_run_of_this_process()
    notice_killed_runs()
    registry = builtin_registry() if registry is None else registry
    beside = list(beside)
    found, compiled = list(mistakes), list[_Compiled]()
    for experiment in experiments:
        try:
            compiled.append(_compile(experiment, registry, resources))
        except InvalidExperimentError as error:
            found.append(error)
    clashes = _clashes([*beside, *(one.experiment for one in compiled)])
    if (found or clashes) and (strict or os.environ.get(VALIDATION_VARIABLE)):
        raise InvalidExperimentError.of([*found, *clashes])
    if clashes:
        compiled, clashes = _without_clashes(beside, compiled)
        found += clashes
    for mistake in found:
        _log.warning("this file is left out: %s", mistake)
    jobs = [job for one in compiled for job in one.jobs]
    return Definitions(
        assets=[asset for one in compiled for asset in one.assets],
        asset_checks=[check for one in compiled for check in one.checks],
        jobs=[*jobs, *broken_jobs(found, (job.name for job in jobs))],
        schedules=[one.schedule for one in compiled if one.schedule],
        sensors=[sensor for one in compiled for sensor in one.sensors],
        resources=dict(resources) or None,
    )


class _Compiled(NamedTuple):
    """The definitions of one experiment."""

    experiment: Experiment
    jobs: Sequence[JobDefinition]
    assets: Sequence[AssetsDefinition | AssetSpec]
    checks: Sequence[AssetChecksDefinition]
    schedule: ScheduleDefinition | None
    sensors: Sequence[SensorDefinition]


def _compile(experiment: Experiment, registry: Registry, resources: Mapping[str, Any]) -> _Compiled:
    declared = {name: resources[name] for name in experiment.resources or () if name in resources}
    graph = graph_for(plan_of(experiment, registry), resources=declared)
    job, variants = job_of(graph), variants_job_of(graph)
    sensors = (trigger_for(experiment, job), automation_for(experiment))
    return _Compiled(
        experiment,
        [job, variants] if variants else [job],
        [materializable(asset_for(experiment, registry), graph), decisions_of(experiment)],
        checks_for(experiment, registry),
        schedule_for(experiment, job),
        [one for one in sensors if one],
    )


def _clashes(experiments: Sequence[Experiment]) -> list[InvalidExperimentError]:
    return [*same_names(experiments), *circle_of_deps(experiments)]


def _without_clashes(
    beside: Sequence[Experiment], compiled: Iterable[_Compiled]
) -> tuple[list[_Compiled], list[InvalidExperimentError]]:
    """Those that do not clash with the ones before them, and the mistakes of the others."""
    kept, found = list[_Compiled](), list[InvalidExperimentError]()
    for one in compiled:
        clashes = _clashes([*beside, *(other.experiment for other in kept), one.experiment])
        found += clashes
        kept += [] if clashes else [one]
    return kept, found


def experiment_files(paths: PathLike | Iterable[PathLike]) -> tuple[Path, ...]:
    """The experiment files that `paths` name, each once, in order.

    Raises InvalidExperimentError for a path where no file is found.
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
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207  # absolute patterns too
        yield from (file for file in found if not file.name.endswith(LOCK))


def _files_below(folder: Path, reports: Path) -> Iterator[Path]:
    """The files with a matching suffix, except hidden ones, reports, and those of virtual environments."""
    for inside in sorted(folder.iterdir()):
        if inside.name.startswith("."):
            continue
        if inside.is_dir():
            if inside.absolute() != reports and not (inside / "pyvenv.cfg").exists():
                yield from _files_below(inside, reports)
        elif inside.suffix in SUFFIXES and not inside.name.endswith(LOCK) and inside.is_file():
            yield inside
