"""Experiments as Dagster jobs: compiled from the experiment file, run by Dagster, kept in its run storage."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from crucible_core.errors import MissingExtraError

if TYPE_CHECKING:
    from crucible_dagster.automation.alerts import Alert, failure_sensor
    from crucible_dagster.automation.schedules import schedule_for
    from crucible_dagster.automation.triggers import trigger_for
    from crucible_dagster.code_location import build_definitions, experiment_files
    from crucible_dagster.compile.assets import asset_for
    from crucible_dagster.compile.checks import checks_for
    from crucible_dagster.compile.job import job_for
    from crucible_dagster.components.experiment.component import ExperimentComponent
    from crucible_dagster.execution import execute_experiment, open_instance
    from crucible_dagster.history.history import History
    from crucible_dagster.store.io_manager import ContextIOManager, context_store

__all__ = [
    "Alert",
    "ContextIOManager",
    "ExperimentComponent",
    "History",
    "asset_for",
    "build_definitions",
    "checks_for",
    "context_store",
    "execute_experiment",
    "experiment_files",
    "failure_sensor",
    "job_for",
    "open_instance",
    "schedule_for",
    "trigger_for",
]

# Modules by the names they had before, until version 1.0.
__path__.append(f"{__path__[0]}/moved")

# Where each name is defined, relative to this package: a module is imported when one of its names is first used.
_HOMES = {
    "Alert": "automation.alerts",
    "ContextIOManager": "store.io_manager",
    "ExperimentComponent": "components.experiment.component",
    "History": "history.history",
    "asset_for": "compile.assets",
    "build_definitions": "code_location",
    "checks_for": "compile.checks",
    "context_store": "store.io_manager",
    "execute_experiment": "execution",
    "experiment_files": "code_location",
    "failure_sensor": "automation.alerts",
    "job_for": "compile.job",
    "open_instance": "execution",
    "schedule_for": "automation.schedules",
    "trigger_for": "automation.triggers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec("dagster") is None:
        raise MissingExtraError(f"{__name__}.{name}", "dagster")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
