"""What the ops of a job need to know: the experiment, and the settings of one run."""

# Not `from __future__ import annotations`: Dagster reads the annotation of a resource's context as a class.
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from dagster import GraphDefinition, OpExecutionContext

from crucible_core import Experiment, Plan, Registry, plan_experiment
from crucible_core.observers import Observers
from crucible_core.run_state.resources import ready_made

EXPERIMENT_KEY = "experiment"
"""The job's resource; its config has the settings of a run."""


RUN_KEY = "crucible_run"
"""The resource that the ops require. In a job it is the same as EXPERIMENT_KEY; all assets share another one, whose
config has the settings of a run."""


LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What was set for one run, besides the options of its stages."""

    variant: str | None = None
    seed: int | None = None
    tracing: bool = True
    log_level: LogLevel = "INFO"
    library_log_level: LogLevel = "WARNING"


DEFAULTS = RunSettings()


@dataclass(frozen=True, slots=True)
class CompiledExperiment:
    """What the ops of a job need to know; they get it through the job's resource `experiment`."""

    plan: Plan
    observers: Observers
    op_names: tuple[str, ...]
    settings: RunSettings = DEFAULTS
    resources: Mapping[str, Any] = field(default_factory=dict)
    """The resources that Dagster gives to the ops, in place of what the experiment declares."""
    failed_observers: set[int] = field(default_factory=set)
    """Of one run: the observers whose first error is logged."""
    _plans: dict[str, Plan] = field(default_factory=dict)

    @property
    def experiment(self) -> Experiment:
        return self.plan.experiment

    @property
    def registry(self) -> Registry:
        return self.plan.registry

    def of_run(self, settings: RunSettings) -> "CompiledExperiment":
        """The same with the settings of one run. The run's steps in this process share the plan."""
        return replace(self, settings=settings, failed_observers=set(), _plans={})

    def plan_of(self, launched: Experiment) -> Plan:
        """The plan of the experiment as it was launched: the job's own, unless something was chosen for this run.

        Raises InvalidExperimentError if that cannot be planned.
        """
        if launched is self.plan.experiment:  # nothing was chosen: no need to compare
            return self.plan
        text = launched.to_json()
        if text == self.plan.experiment.to_json():
            return self.plan
        if text not in self._plans:
            self._plans[text] = plan_experiment(launched, self.registry)
        return self._plans[text]


def plan_with_resources(plan: Plan, compiled: CompiledExperiment, context: OpExecutionContext) -> Plan:
    """The plan with the resources that Dagster has made for this step."""
    if not compiled.resources:
        return plan
    given = {name: getattr(context.resources, name) for name in compiled.resources}
    return replace(plan, resources={**plan.resources, **ready_made(given)})


class ExperimentGraph(GraphDefinition):
    """The ops of an experiment, shared by its job and its asset."""

    def __init__(self, compiled: CompiledExperiment, **definition: Any) -> None:
        super().__init__(**definition)
        self.compiled = compiled


def compiled_of(context: OpExecutionContext) -> CompiledExperiment:
    """The experiment of this step with the settings of its run."""
    found = getattr(context.resources, RUN_KEY)
    if isinstance(found, CompiledExperiment):
        return found
    of_graph: CompiledExperiment = found(_graph_of(context))
    return of_graph


def is_of_asset(context: OpExecutionContext) -> bool:
    """Whether the step materializes the experiment's asset; its ops are inside a node of the asset job."""
    return len(context.op_handle.path) > 1


def experiments_in(context: OpExecutionContext) -> list[str]:
    """The ids of the experiments in this run."""
    graphs = [node.definition for node in context.job_def.graph.nodes]
    return [one.compiled.experiment.id for one in graphs if isinstance(one, ExperimentGraph)]


def op_config_in(context: OpExecutionContext) -> Mapping[str, Any]:
    """The run's config of the experiment's ops, by the name of the step."""
    config: Mapping[str, Any] = context.run_config
    for name in context.op_handle.path[:-1]:
        config = (config.get("ops") or {}).get(name) or {}
    return config.get("ops") or {}


def _graph_of(context: OpExecutionContext) -> ExperimentGraph:
    graph = context.job_def.graph.node_named(context.op_handle.path[0]).definition
    assert isinstance(graph, ExperimentGraph)
    return graph
