"""The sensor that evaluates the automation of an experiment."""

from __future__ import annotations

from dagster import AssetSelection, AutomationConditionSensorDefinition

from crucible_core import Experiment
from crucible_dagster.automation.ticks import check_times
from crucible_dagster.automation.triggers import SENSOR_STATUS
from crucible_dagster.names import asset_key, dagster_name

__all__ = ["automation_for"]


def automation_for(experiment: Experiment) -> AutomationConditionSensorDefinition | None:
    """The sensor that evaluates the condition of this asset alone.

    A sensor for several assets would launch them in one run, but a run belongs to one experiment.

    Raises InvalidExperimentError for times that Dagster refuses, or that it would run more often than the file says.
    """
    automation = experiment.automation
    if automation is None:
        return None
    check_times(experiment)
    return AutomationConditionSensorDefinition(
        f"{dagster_name(experiment.id)}_automation",
        target=AssetSelection.assets(asset_key(experiment)),
        default_status=SENSOR_STATUS[automation.default_status],
        description=f"Materializes the asset of experiment {experiment.id}: `automation: {automation.when}`.",
    )
