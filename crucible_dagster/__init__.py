"""Experiments as Dagster jobs: compiled from the experiment file, run by Dagster, kept in its run storage."""

from crucible_core.errors import MissingExtraError

try:
    import dagster as _dagster  # noqa: F401
except ModuleNotFoundError:
    raise MissingExtraError("crucible_dagster", "dagster") from None

from crucible_dagster.code_location import build_definitions, experiment_files
from crucible_dagster.context_store import ContextIOManager, context_store
from crucible_dagster.execution import execute_experiment, open_instance
from crucible_dagster.history import History
from crucible_dagster.job import asset_for, job_for, schedule_for

__all__ = [
    "ContextIOManager",
    "History",
    "asset_for",
    "build_definitions",
    "context_store",
    "execute_experiment",
    "experiment_files",
    "job_for",
    "open_instance",
    "schedule_for",
]
