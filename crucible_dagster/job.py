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
| `execution:`           | the job's executor, which the Launchpad can change                             |
| `schedule:`            | a schedule                                                                     |
"""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dagster import (
    AssetSpec,
    DefaultScheduleStatus,
    DependencyDefinition,
    Failure,
    GraphDefinition,
    In,
    JobDefinition,
    OpDefinition,
    OpExecutionContext,
    Out,
    Output,
    ScheduleDefinition,
)

from crucible_core import (
    Context,
    Event,
    Experiment,
    InvalidExperimentError,
    Observer,
    PlannedStage,
    Registry,
    RunInterrupted,
    StageFailedError,
    StageRetried,
    builtin_registry,
    plan_experiment,
    plan_stage,
    run_stage,
)
from crucible_core.trace import Decision
from crucible_core.vocabulary import ScheduleStatus
from crucible_dagster.context_store import STORE_KEY, StoredFailure, context_store
from crucible_dagster.executors import executor_for
from crucible_dagster.metadata import asset_key, failure_metadata, materialization, metric_metadata, observation
from crucible_dagster.names import dagster_name, op_names
from crucible_dagster.option_fields import merge_options, option_fields

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
    ops = [_op_for(experiment, registry, index, names, one, observers) for index, one in enumerate(planned)]
    dependencies: dict[str, Mapping[str, DependencyDefinition]] = {
        name: {"upstream": DependencyDefinition(before)} for before, name in itertools.pairwise(names)
    }
    graph = GraphDefinition(name=dagster_name(experiment.id), node_defs=ops, dependencies=dependencies)
    return graph.to_job(
        description=experiment.description,
        resource_defs={STORE_KEY: context_store},
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


def _op_for(
    experiment: Experiment,
    registry: Registry,
    index: int,
    names: tuple[str, ...],
    planned: PlannedStage,
    observers: Sequence[Observer],
) -> OpDefinition:
    def compute(context: OpExecutionContext, inputs: Mapping[str, Any]) -> Iterator[Any]:
        yield from _run_op(context, inputs.get("upstream"), experiment, registry, index, observers)

    stage = type(planned.stage)
    return OpDefinition(
        compute_fn=compute,
        name=names[index],
        description=stage.__doc__,
        ins={} if index == 0 else {"upstream": In(Context)},
        outs={"result": Out(Context, io_manager_key=STORE_KEY)},
        config_schema=option_fields(stage, planned.definition.options or {}),
        required_resource_keys={STORE_KEY},
    )


def _run_op(
    context: OpExecutionContext,
    upstream: Context | None,
    experiment: Experiment,
    registry: Registry,
    index: int,
    observers: Sequence[Observer],
) -> Iterator[Any]:
    launched = _as_launched(experiment, registry, context.run_config)
    try:
        # The whole pipeline before the first stage, and again where a re-execution changed the options.
        whole = upstream is None or upstream.experiment != launched
        planned = plan_experiment(launched, registry)[index] if whole else plan_stage(launched, index, registry)
    except InvalidExperimentError as error:
        raise Failure(description=str(error), allow_retries=False) from error
    before = (
        Context.begin(launched, run_id=context.run_id) if upstream is None else replace(upstream, experiment=launched)
    )
    after = _run_planned(context, planned, before, observers)
    if index == len(launched.pipeline) - 1:
        yield materialization(after)
    yield Output(after, output_name="result", metadata=metric_metadata(upstream, after))


def _run_planned(
    context: OpExecutionContext, planned: PlannedStage, before: Context, observers: Sequence[Observer]
) -> Context:
    store = getattr(context.resources, STORE_KEY)
    step = context.op_handle.name

    def tell(event: Event) -> None:
        if isinstance(event, Decision):
            context.log_event(observation(before.experiment, event))
        elif isinstance(event, StageRetried):
            context.log.warning(
                f"attempt {event.attempt} failed: {event.error_type}: {event.message}; again in {event.delay:.1f} s"
            )

    try:
        return run_stage(planned, before, [tell, *observers])
    except StageFailedError as error:
        store.put_failure(
            context.run_id, step, StoredFailure(error.context, error.stage, error.reason, error.__cause__)
        )
        raise Failure(
            description=str(error), metadata=failure_metadata(planned, error.context), allow_retries=False
        ) from error.__cause__
    except RunInterrupted as interrupt:
        store.put_failure(
            context.run_id, step, StoredFailure(interrupt.context, interrupt.stage, str(interrupt), interrupted=True)
        )
        raise (interrupt.__cause__ or interrupt) from None


def _as_launched(experiment: Experiment, registry: Registry, run_config: Mapping[str, Any]) -> Experiment:
    """The experiment with the options that this run's config replaces."""
    config = run_config.get("ops") or {}
    for index, name in enumerate(op_names(experiment)):
        changed = (config.get(name) or {}).get("config")
        if changed:
            definition = experiment.pipeline[index]
            stage = registry.resolve(definition, folder=experiment.folder)
            experiment = experiment.with_options(
                definition.name, merge_options(stage, definition.options or {}, changed)
            )
    return experiment
