"""Experiments as Dagster jobs: compiled from the experiment file, run by Dagster, kept in its run storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crucible_core import __version__
from crucible_core.errors import MissingExtraError

if TYPE_CHECKING:
    from crucible_dagster.components.experiment.component import ExperimentComponent

try:
    import dagster as _dagster  # noqa: F401
except ModuleNotFoundError:
    raise MissingExtraError("crucible_dagster", "dagster") from None

from dagster_shared.libraries import DagsterLibraryRegistry

from crucible_dagster.automation.alerts import Alert, failure_sensor
from crucible_dagster.automation.schedules import schedule_for
from crucible_dagster.automation.triggers import trigger_for
from crucible_dagster.code_location import build_definitions, experiment_files
from crucible_dagster.compile.assets import asset_for
from crucible_dagster.compile.checks import checks_for
from crucible_dagster.compile.job import job_for
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

DagsterLibraryRegistry.register("crucible-dagster", __version__, is_dagster_package=False)


def __getattr__(name: str) -> Any:
    # `dg` looks for it here; whoever runs experiments without components does not pay for it.
    if name == "ExperimentComponent":
        from crucible_dagster.components.experiment.component import ExperimentComponent  # noqa: PLC0415

        return ExperimentComponent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
