"""From the names of an experiment file to the names that Dagster accepts.

Dagster allows letters, digits and underscores, and reserves some words; `-` and `.` become `_`. Two names that would
become the same are refused, and so are reserved words. Names are not changed in any other way, and the original name
can be read in tags and metadata.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator

from dagster import (
    AssetKey,
    DagsterRun,
)

from crucible_core import Experiment, InvalidExperimentError

__all__ = [
    "asset_key",
    "asset_path",
    "check_names",
    "dagster_name",
    "decisions_key",
    "gates_step",
    "last_step",
    "op_names",
    "root_of",
    "same_names",
    "sharing",
    "step_name",
    "variants_job_name",
    "worker_names",
]


GATES = "gates"

RESERVED = frozenset(keyword.kwlist) | {
    *("context", "conf", "config", "meta", "arg_dict", "dict", "input_arg_dict", "output_arg_dict"),
    *("int", "str", "float", "bool", "input", "output", "type"),
}


def dagster_name(name: str) -> str:
    return name.replace("-", "_").replace(".", "_")


def asset_path(experiment: Experiment) -> tuple[str, str]:
    return ("crucible", dagster_name(experiment.id))


def op_names(experiment: Experiment) -> tuple[str, ...]:
    """The name of each stage's op.

    Raises InvalidExperimentError if Dagster reserves one of the names, or two of them become the same.
    """
    if dagster_name(experiment.id) in RESERVED or experiment.id.startswith("__"):
        raise InvalidExperimentError(
            f"Dagster reserves the name {experiment.id!r}; give the experiment another id",
            location=experiment.location("id"),
        )
    taken: dict[str, str] = {}
    for index, definition in enumerate(experiment.pipeline):
        name = dagster_name(definition.name)
        location = experiment.location("pipeline", index, "name")
        if name in RESERVED:
            raise InvalidExperimentError(
                f"Dagster reserves the name {definition.name!r}; give the stage another name, and say with "
                "`module:` which stage it runs",
                location=location,
            )
        if name in taken:
            raise InvalidExperimentError(
                f"the stages {taken[name]!r} and {definition.name!r} would both be the op {name!r}; rename one",
                location=location,
            )
        taken[name] = definition.name
    return tuple(taken)


def gates_step(experiment: Experiment) -> str | None:
    """The name of the op after the stages that judges the run; None if there are no gates."""
    if not experiment.gates:
        return None
    name, taken = GATES, {dagster_name(definition.name) for definition in experiment.pipeline}
    while name in taken:
        name = f"{name}_"
    return name


def worker_names(step: str, workers: int) -> list[str]:
    """The names of the ops that share the trials of a step; none if the step runs them all itself."""
    return [f"{step}{_WORKER}{number}" for number in range(1, workers + 1)] if workers > 1 else []


def sharing(worker: str) -> tuple[str, int] | None:
    """The step whose trials the op of this name runs a share of, and the op's number from 1; None for other ops."""
    step, found, number = worker.rpartition(_WORKER)
    return (step, int(number)) if found and number.isdecimal() else None


_WORKER = "_worker_"


def variants_job_name(experiment: Experiment) -> str:
    """The job whose partitions are the variants of the experiment."""
    return f"{dagster_name(experiment.id)}_variants"


def last_step(experiment: Experiment) -> str:
    """The step whose result is the result of the run."""
    return gates_step(experiment) or op_names(experiment)[-1]


def check_names(experiment: Experiment) -> tuple[str, ...]:
    """The name of each gate's asset check. Raises InvalidExperimentError if two of them become the same."""
    taken: dict[str, str] = {}
    for index, gate in enumerate(experiment.gates or ()):
        name = dagster_name(gate.name)
        if name in taken:
            raise InvalidExperimentError(
                f"the gates {taken[name]!r} and {gate.name!r} would both be the asset check {name!r}; rename one",
                location=experiment.location("gates", index, "name"),
            )
        taken[name] = gate.name
    return tuple(taken)


def same_names(experiments: Iterable[Experiment]) -> Iterator[InvalidExperimentError]:
    """A mistake for each experiment that has the same name in Dagster as an earlier one."""
    taken: dict[str, Experiment] = {}
    for experiment in experiments:
        other = taken.setdefault(dagster_name(experiment.id), experiment)
        if other is experiment and experiment.variants:
            other = taken.setdefault(variants_job_name(experiment), experiment)
        if other is not experiment:
            where = f" ({other.location('id')})" if other.source else ""
            both = f": both are {dagster_name(experiment.id)!r} in Dagster" if experiment.id != other.id else ""
            yield InvalidExperimentError(
                f"the id {experiment.id!r} is taken by experiment {other.id!r}{where}{both}; change one of them",
                location=experiment.location("id"),
            )


def root_of(run: DagsterRun) -> str:
    """The id of the first run that this one re-executes, or its own id."""
    return run.root_run_id or run.run_id


def asset_key(experiment: Experiment) -> AssetKey:
    """The asset that shows the experiment's results over time."""
    return AssetKey(asset_path(experiment))


def decisions_key(experiment: Experiment) -> AssetKey:
    """The asset whose observations are the decisions of the experiment's stages."""
    return AssetKey([*asset_path(experiment), "decisions"])


def step_name(step_key: str) -> str:
    """The name of the op. In a run that materializes an asset, the step key has the experiment's name before it."""
    return step_key.rpartition(".")[2]
