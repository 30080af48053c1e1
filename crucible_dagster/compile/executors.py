"""How a job's steps are distributed over processes.

A pipeline is a straight line. Steps in one process cost milliseconds; steps in a process each cost seconds and gain
nothing. So one process is the default; `execution:` in the experiment file or in the Launchpad asks for more. Celery
and Kubernetes are extras, imported for the experiments that ask for them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import forkserver
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

from crucible_core import Experiment, MissingExtraError, Stage
from crucible_core.ir.vocabulary import ExecutorName
from crucible_dagster.dagster_internals import PRELOADED_MODULES

__all__ = ["ALWAYS", "EXECUTORS", "PRELOAD", "executor_for", "without_token"]

PRELOAD = "CRUCIBLE_PRELOAD"
"""The environment variable with the search path and the modules for the server that steps are forked from.

Python passes only names of modules to the server, not even the search path of its parent; and some modules are in the
folder of an experiment file.
"""
# Variables that change but do not matter to stages: our own message, and the name of the test that pytest runs.
NOT_MEANT = frozenset({PRELOAD, "PYTEST_CURRENT_TEST"})

_environment_of_server: dict[str, str] = {}


def _celery() -> ExecutorDefinition:
    try:
        from crucible_dagster.execute.celery_executor import celery_executor  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("the executor celery", "celery") from error
    return celery_executor


def _k8s() -> ExecutorDefinition:
    try:
        from dagster_k8s import k8s_job_executor  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("the executor k8s", "k8s") from error
    return k8s_job_executor


EXECUTORS: Mapping[ExecutorName, Callable[[], ExecutorDefinition]] = {
    "in_process": lambda: in_process_executor,
    "multiprocess": lambda: multiprocess_executor,
    "celery": _celery,
    "k8s": _k8s,
}
ALWAYS: tuple[ExecutorName, ...] = ("in_process", "multiprocess")
"""The executors that every job offers; of the others, a job offers only the one that it asks for."""


def executor_for(experiment: Experiment) -> ExecutorDefinition:
    """The executor that the experiment asks for, unless the Launchpad chooses another.

    Raises MissingExtraError if the package of the executor is not installed.
    """
    execution = experiment.execution
    chosen: ExecutorName = execution.executor if execution else "in_process"
    config: dict[str, Any] = {}
    if chosen in {"multiprocess", "k8s"} and execution is not None and execution.max_concurrent is not None:
        config["max_concurrent"] = execution.max_concurrent
    offered = {name: EXECUTORS[name]() for name in dict.fromkeys((*ALWAYS, chosen))}
    return ExecutorDefinition(
        name="crucible",
        config_schema=Field(
            Selector({name: one.config_schema.as_field() for name, one in offered.items()}),
            default_value={chosen: config},
        ),
        requirements=lambda config: [] if "in_process" in config else multiple_process_executor_requirements(),
        executor_creation_fn=_create,
        description="One process for all stages, one for each, or the workers of a cluster.",
    )


def _create(init: InitExecutorContext) -> Executor:
    ((name, config),) = init.executor_config.items()
    settings: dict[str, Any] = dict(config) if isinstance(config, Mapping) else {}
    if name == "multiprocess" and not settings.get("start_method"):
        # Dagster's own default, spawn, imports everything again for every step.
        _announce_stage_modules()
        settings["start_method"] = {"forkserver": {"preload_modules": list(PRELOADED_MODULES)}}
    if name == "k8s":
        settings["step_k8s_config"] = without_token(settings.get("step_k8s_config") or {})
    create = EXECUTORS[name]().executor_creation_fn  # type: ignore[index]  # the selector admits these names only
    assert create is not None
    return create(init._replace(executor_config=settings))


def _announce_stage_modules() -> None:
    """Have a server that is started from now on import the modules of this process's stages.

    Step processes get the environment that the server was started with; if it has changed since, the server is stopped.
    """
    modules = {stage.__module__ for stage in _all_below(Stage)} - {"__main__"}
    os.environ[PRELOAD] = json.dumps({"path": sys.path, "modules": sorted(modules)})
    environment = {name: value for name, value in os.environ.items() if name not in NOT_MEANT}
    if _environment_of_server and environment != _environment_of_server:
        # There is no other way to end the server; if it stayed, the next steps would get the old environment.
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
    _environment_of_server.clear()
    _environment_of_server.update(environment)


def _all_below(cls: type[Any]) -> Iterable[type[Any]]:
    for below in cls.__subclasses__():
        yield below
        yield from _all_below(below)


def without_token(step: Mapping[str, Any]) -> dict[str, Any]:
    """The settings for the pods of steps; they get no token of the service account unless the settings ask for one.

    Only the run itself starts pods; a stage does not need access to the cluster.
    """
    spec = dict(step.get("pod_spec_config") or {})
    if not {"automount_service_account_token", "automountServiceAccountToken"} & spec.keys():
        spec["automount_service_account_token"] = False
    return {**step, "pod_spec_config": spec}
