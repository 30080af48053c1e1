"""How a job's steps are distributed over processes.

A pipeline is a straight line: in one process its steps cost milliseconds, in a process each they cost seconds and gain
nothing. So one process is the default; `execution:` in the experiment file or in the Launchpad asks for more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import (
    Executor,
    ExecutorDefinition,
    Field,
    InitExecutorContext,
    Selector,
    in_process_executor,
    multiple_process_executor_requirements,
    multiprocess_executor,
)

from crucible_core import Experiment
from crucible_core.ir.vocabulary import ExecutorName
from crucible_dagster.compile.preload import announce_stage_modules
from crucible_dagster.dagster_internals import PRELOADED_MODULES

__all__ = ["EXECUTORS", "executor_for"]

EXECUTORS: Mapping[ExecutorName, ExecutorDefinition] = {
    "in_process": in_process_executor,
    "multiprocess": multiprocess_executor,
}


def executor_for(experiment: Experiment) -> ExecutorDefinition:
    """The executor that the experiment asks for, unless the Launchpad chooses another."""
    execution = experiment.execution
    chosen: ExecutorName = execution.executor if execution else "in_process"
    config: dict[str, Any] = {}
    if chosen == "multiprocess" and execution is not None and execution.max_concurrent is not None:
        config["max_concurrent"] = execution.max_concurrent
    return ExecutorDefinition(
        name="crucible",
        config_schema=Field(
            Selector({name: one.config_schema.as_field() for name, one in EXECUTORS.items()}),
            default_value={chosen: config},
        ),
        requirements=lambda config: multiple_process_executor_requirements() if "multiprocess" in config else [],
        executor_creation_fn=_create,
        description="One process for all stages, or one for each.",
    )


def _create(init: InitExecutorContext) -> Executor:
    ((name, config),) = init.executor_config.items()
    settings: dict[str, Any] = dict(config) if isinstance(config, Mapping) else {}
    if name == "multiprocess" and not settings.get("start_method"):
        # Dagster's own default, spawn, imports everything again for every step.
        announce_stage_modules()
        settings["start_method"] = {"forkserver": {"preload_modules": list(PRELOADED_MODULES)}}
    create = EXECUTORS[name].executor_creation_fn  # type: ignore[index]  # the selector admits these names only
    assert create is not None
    return create(init._replace(executor_config=settings))
