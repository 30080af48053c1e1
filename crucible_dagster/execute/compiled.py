"""What the ops of a job look up: the experiment, and the settings of one run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from crucible_core import Experiment, Plan, Registry, plan_experiment
from crucible_core.observers import Observers

EXPERIMENT_KEY = "experiment"


LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What was set for one run, beside the options of its stages."""

    variant: str | None = None
    seed: int | None = None
    tracing: bool = True
    log_level: LogLevel = "INFO"
    library_log_level: LogLevel = "WARNING"


DEFAULTS = RunSettings()


@dataclass(frozen=True, slots=True)
class CompiledExperiment:
    """What the ops of a job look up: it reaches them as the job's resource `experiment`."""

    plan: Plan
    observers: Observers
    op_names: tuple[str, ...]
    settings: RunSettings = DEFAULTS
    failed_observers: set[int] = field(default_factory=set)
    """Of one run: the observers whose first error is logged."""
    _plans: dict[str, Plan] = field(default_factory=dict)

    @property
    def experiment(self) -> Experiment:
        return self.plan.experiment

    @property
    def registry(self) -> Registry:
        return self.plan.registry

    def of_run(self, settings: RunSettings) -> CompiledExperiment:
        """The same with the settings of one run, whose steps in this process share its plan."""
        return replace(self, settings=settings, failed_observers=set(), _plans={})

    def plan_of(self, launched: Experiment) -> Plan:
        """The plan of the experiment as it was launched: the job's own, unless something was chosen for this run.

        Raises InvalidExperimentError.
        """
        if launched is self.plan.experiment:  # nothing was chosen: no need to compare
            return self.plan
        text = launched.to_json()
        if text == self.plan.experiment.to_json():
            return self.plan
        if text not in self._plans:
            self._plans[text] = plan_experiment(launched, self.registry)
        return self._plans[text]
