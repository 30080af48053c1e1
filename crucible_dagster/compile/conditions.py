"""The automation condition of an experiment's asset, made of Dagster's own conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dagster import AutomationCondition
from dagster_shared.check import CheckError

from crucible_core import Experiment, InvalidExperimentError
from crucible_core.ir.schedule import Automation
from crucible_core.ir.vocabulary import AutomationWhen

__all__ = ["AUTOMATION", "condition_of"]


def _on_cron(automation: Automation) -> AutomationCondition[Any]:
    assert automation.cron is not None
    return AutomationCondition.on_cron(automation.cron, automation.timezone)


AUTOMATION: Mapping[AutomationWhen, Callable[[Automation], AutomationCondition[Any]]] = {
    "eager": lambda _: AutomationCondition.eager(),
    "on_cron": _on_cron,
    "on_missing": lambda _: AutomationCondition.on_missing(),
}


def condition_of(experiment: Experiment) -> AutomationCondition[Any] | None:
    """The condition of the experiment's asset. Raises InvalidExperimentError for times that Dagster refuses."""
    automation = experiment.automation
    if automation is None:
        return None
    try:
        return AUTOMATION[automation.when](automation)
    except CheckError as error:
        raise InvalidExperimentError(
            f"Dagster refuses the automation: {error}", location=experiment.location("automation", "cron")
        ) from error
