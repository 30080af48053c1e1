"""Checks of an experiment as a whole before its first stage, beyond each field and each stage by itself."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from crucible_core.errors import InvalidExperimentError
from crucible_core.ir.experiment import Experiment
from crucible_core.ir.schedule import number_out_of_range
from crucible_core.values.messages import closest, listing

__all__ = ["ComparesGroups", "check_crons", "check_gates", "why_not_elsewhere"]


def check_crons(experiment: Experiment) -> list[InvalidExperimentError]:
    """The mistakes in the crons of its schedule and its automation."""
    crons = {"schedule": experiment.schedule, "automation": experiment.automation}
    return [
        InvalidExperimentError(f"{name}.cron: {said}", location=experiment.location(name, "cron"))
        for name, one in crons.items()
        if one is not None and one.cron is not None and (said := number_out_of_range(one.cron)) is not None
    ]


def why_not_elsewhere(stage: type) -> str | None:
    """Why a stage of this class cannot have a `timeout`, or None if it can: another process must import the class."""
    found: Any = sys.modules.get(stage.__module__)
    for name in stage.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is stage and stage.__module__ != "__main__":
        return None
    return (
        f"a stage with a `timeout` runs in a process of its own, which cannot import {stage.__qualname__}: it is "
        "defined in a function, in a notebook or in the program that is run; define it at the top of a module"
    )


@runtime_checkable
class ComparesGroups(Protocol):
    """A stage that compares groups of numbers, as `bench` does, so that a gate can watch one of them.

    It may also have `groups`, the names of its groups if they are known before the run; a method `pairs(ctx)`, what
    each pair of values is called; and `quantile`, which it compares instead of the mean.
    """

    @property
    def metric(self) -> str:
        """The metric that gets its result."""

    def read_groups(self, ctx: Any, /) -> Mapping[str, Any]:
        """The numbers of this Context that it compares, by the name of their group."""


def check_gates(experiment: Experiment, stages: Iterable[object]) -> list[InvalidExperimentError]:
    """The mistakes in the gates that can be found before the first of these stages runs."""
    # Only if needed: a runtime-checkable Protocol is slow, and there may be thousands of stages.
    if not any(gate.no_regression is not None and gate.no_regression.group for gate in experiment.gates or ()):
        return []
    comparing = [stage for stage in stages if isinstance(stage, ComparesGroups)]
    return _check_groups(experiment, [(stage.metric, getattr(stage, "groups", None)) for stage in comparing])


def _check_groups(
    experiment: Experiment, comparing: Sequence[tuple[str, Collection[str] | None]]
) -> list[InvalidExperimentError]:
    """The mistakes in the gates that watch a group.

    `comparing` are the stages that compare groups: the metric that each puts, and its groups where it names them.
    """
    mistakes = []
    for index, gate in enumerate(experiment.gates or ()):
        rule = gate.no_regression
        if rule is None or rule.group is None:
            continue
        compared = [groups for metric, groups in comparing if metric == rule.bench]
        place = "group"
        if not compared:
            place = "bench" if "bench" in rule.model_fields_set else "group"
            known = [metric for metric, _ in comparing]
            said = (
                f"no stage of the pipeline compares groups and puts the metric {rule.bench!r}"
                f"{closest(rule.bench, known)}; the stages that compare groups put: {listing(known)}"
            )
        elif all(groups is not None and rule.group not in groups for groups in compared):
            names = [name for groups in compared for name in groups or ()]
            said = (
                f"{rule.bench!r} compares no group {rule.group!r}{closest(rule.group, names)}; it compares: "
                f"{listing(names)}"
            )
        else:
            continue
        location = experiment.location("gates", index, "no_regression", place)
        mistakes.append(InvalidExperimentError(f"gate {gate.name!r}: {said}", location=location))
    return mistakes
