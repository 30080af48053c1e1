"""From an experiment to a Dagster job: functions, IR in, definitions out, no I/O.

| experiment             | Dagster                                                                        |
| ---------------------- | ------------------------------------------------------------------------------ |
| the experiment         | a job, and the asset `crucible/<id>`                                           |
| a stage                | an op                                                                          |
| its options            | the op's config, typed; the file's values are its defaults                     |
| the Context            | the ops' one output, kept by the context store                                 |
| a metric               | metadata of the op's output, and of the asset's materialization                |
| a decision             | an observation of the asset                                                    |
| a failure              | a `Failure` with the stage, its options, the traceback and the trace           |
| `retry:`               | done by the stage's own runner, in the op, as it is without Dagster            |
| `cache:`               | done by the op: an earlier result from the store in place of running the stage |
| `execution:`           | the job's executor, which the Launchpad can change                             |
| `schedule:`            | a schedule                                                                     |
"""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
import functools
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dagster import (
    AssetSpec,
    DefaultScheduleStatus,
    DependencyDefinition,
    GraphDefinition,
    In,
    JobDefinition,
    NodeInvocation,
    OpDefinition,
    OpExecutionContext,
    Out,
    ResourceDefinition,
    ScheduleDefinition,
)
from pydantic_core import to_json

from crucible_core import (
    Context,
    Experiment,
    InvalidExperimentError,
    Observer,
    Registry,
    Stage,
    builtin_registry,
    plan_experiment,
)
from crucible_core.vocabulary import ScheduleStatus
from crucible_dagster.context_store import STORE_KEY, context_store
from crucible_dagster.executors import executor_for
from crucible_dagster.metadata import asset_key
from crucible_dagster.names import dagster_name, op_names
from crucible_dagster.option_fields import option_fields
from crucible_dagster.step import EXPERIMENT_KEY, CompiledExperiment, run_step

__all__ = ["EXPERIMENT_TAG", "asset_for", "job_for", "schedule_for"]

EXPERIMENT_TAG = "crucible/experiment"

SCHEDULE_STATUS: Mapping[ScheduleStatus, DefaultScheduleStatus] = {
    "running": DefaultScheduleStatus.RUNNING,
    "stopped": DefaultScheduleStatus.STOPPED,
}


def job_for(
    experiment: Experiment, registry: Registry | None = None, *, observers: Sequence[Observer] = ()
) -> JobDefinition:
    """Compile the experiment into a job with one op per stage; `observers` hear what happens in this process.

    Raises UnknownStageError, InvalidOptionsError or InvalidExperimentError as `run_experiment` would, and for names
    that Dagster refuses.
    """
    registry = builtin_registry() if registry is None else registry
    names = op_names(experiment)
    planned = plan_experiment(experiment, registry)
    dependencies: dict[NodeInvocation, Mapping[str, DependencyDefinition]] = {}
    ops = []
    for index, one in enumerate(planned):
        options = to_json(one.definition.options or {}).decode()
        op = _op_for(type(one.stage), options, first=index == 0)
        ops.append(op)
        upstream = {} if index == 0 else {"upstream": DependencyDefinition(names[index - 1])}
        dependencies[NodeInvocation(name=op.name, alias=names[index])] = upstream
    graph = GraphDefinition(
        name=dagster_name(experiment.id), node_defs=list(dict.fromkeys(ops)), dependencies=dependencies
    )
    compiled = CompiledExperiment(experiment, registry, tuple(observers), names)
    return graph.to_job(
        description=experiment.description,
        resource_defs={
            STORE_KEY: context_store,
            EXPERIMENT_KEY: ResourceDefinition.hardcoded_resource(compiled, "The experiment that this job runs."),
        },
        executor_def=executor_for(experiment),
        tags={EXPERIMENT_TAG: experiment.id},
    )


def asset_for(experiment: Experiment) -> AssetSpec:
    """The asset that the job's runs materialize."""
    return AssetSpec(
        key=asset_key(experiment),
        description=experiment.description,
        group_name="crucible",
        kinds={"crucible"},
        metadata={"experiment": experiment.id, **({"file": experiment.source.path} if experiment.source else {})},
    )


def schedule_for(experiment: Experiment, job: JobDefinition) -> ScheduleDefinition | None:
    """The schedule that the experiment asks for."""
    schedule = experiment.schedule
    if schedule is None:
        return None
    try:
        return ScheduleDefinition(
            name=f"{job.name}_schedule",
            job=job,
            cron_schedule=schedule.cron,
            execution_timezone=schedule.timezone,
            default_status=SCHEDULE_STATUS[schedule.default_status],
        )
    except Exception as error:
        raise InvalidExperimentError(
            f"Dagster refuses the schedule: {error}", location=experiment.location("schedule", "cron")
        ) from error


@functools.cache
def _op_for(stage: type[Stage], options: str, *, first: bool) -> OpDefinition:
    """The op of a stage with these options (JSON) as its defaults: made once, however many experiments use it.

    Its name in a job is that of the pipeline entry; within a code location, definitions of one name must be one object.
    """

    def compute(context: OpExecutionContext, inputs: Mapping[str, Any]) -> Iterator[Any]:
        yield from run_step(context, inputs.get("upstream"))

    identity = f"{stage.__module__}:{stage.__qualname__} {options} {first}"
    return OpDefinition(
        compute_fn=compute,
        name=f"{stage.__name__}_{hashlib.sha256(identity.encode()).hexdigest()[:12]}",
        description=inspect.getdoc(stage) if stage.__doc__ else None,
        ins={} if first else {"upstream": In(Context)},
        outs={"result": Out(Context, io_manager_key=STORE_KEY)},
        config_schema=option_fields(stage, json.loads(options)),
        required_resource_keys={STORE_KEY, EXPERIMENT_KEY},
    )
