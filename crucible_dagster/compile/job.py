"""From an experiment to a Dagster job: functions that turn the IR into definitions, without I/O.

| experiment             | Dagster                                                                        |
| ---------------------- | ------------------------------------------------------------------------------ |
| the experiment         | a job, and the asset `crucible/<id>` of the same graph: `compile.assets`       |
| a stage                | an op                                                                          |
| its options            | the op's config, typed; the file's values are its defaults                     |
| `seed:`, `variants:`   | config of the resource `experiment`; variants also as the partitions of a job   |
| the Context            | the ops' one output, kept by the context store                                 |
| a metric               | metadata of the op's output, and of the asset's materialization                |
| a decision             | an observation of `crucible/<id>/decisions`                                    |
| progress, log lines    | lines of the run's log: `crucible_dagster.execute.event_log`                   |
| an artifact            | a link, or a path, in the metadata of the asset's materialization              |
| a failure              | a `Failure` with the stage, its options, the traceback and the trace           |
| `retry:`               | done by `run_stage` inside the op, the same as without Dagster                 |
| `cache:`               | done by the op: it takes an earlier result from the store, if there is one     |
| `gates:`               | an op after the stages, and asset checks: `crucible_dagster.compile.checks`    |
| `execution:`           | the job's executor, which the Launchpad can change                             |
| `schedule:`            | a schedule: `crucible_dagster.automation.schedules`                            |
| `deps:`                | what the asset depends on                                                      |
| `trigger:`             | a sensor: `crucible_dagster.automation.triggers`                               |
"""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dagster import (
    DependencyDefinition,
    In,
    InitResourceContext,
    JobDefinition,
    MultiDependencyDefinition,
    NodeInvocation,
    Nothing,
    OpDefinition,
    OpExecutionContext,
    Out,
    OutputMapping,
    Permissive,
    ResourceDefinition,
)
from pydantic_core import to_json

from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    Plan,
    Registry,
    Stage,
)
from crucible_core.ir.secrets import has_secrets, hide
from crucible_core.ir.trials_stage import MODULE as TRIALS
from crucible_core.observers import Observers
from crucible_core.plan import PlannedStage, plan_of
from crucible_core.report.markdown import escape_markdown_lines
from crucible_dagster.compile.executors import executor_for
from crucible_dagster.compile.op_config import check_at_launch, option_fields, showable_options
from crucible_dagster.compile.run_settings import settings_fields, settings_of, variants_as_partitions
from crucible_dagster.execute.compiled import EXPERIMENT_KEY, RUN_KEY, CompiledExperiment, ExperimentGraph
from crucible_dagster.execute.gates_op import gates_op
from crucible_dagster.execute.step import run_step
from crucible_dagster.execute.trial_worker import worker_op
from crucible_dagster.names import check_names, dagster_name, gates_step, op_names, variants_job_name, worker_names
from crucible_dagster.store.io_manager import STORE_KEY, context_store
from crucible_dagster.tags import CELERY_QUEUE_TAG, EXPERIMENT_TAG, OTHER_JOB_TAG, VARIANT_TAG

__all__ = ["graph_for", "job_for", "job_of", "variants_job_of"]

_Dependency: TypeAlias = DependencyDefinition | MultiDependencyDefinition


def job_for(
    experiment: Experiment | Plan,
    registry: Registry | None = None,
    *,
    observers: Observers = (),
    resources: Mapping[str, Any] = {},  # is only read
) -> JobDefinition:
    """Compile the experiment into a job with one op per stage; `observers` get the events in this process.

    An Experiment is planned first, with the stages of `registry`, by default those of `builtin_registry()`. Each of
    `resources`, a Dagster resource or any object, replaces in `ctx.resources` what the experiment declares.

    Raises UnknownStageError, InvalidOptionsError or InvalidExperimentError as `run_experiment` does, and
    InvalidExperimentError for names that Dagster refuses.
    """
    plan = plan_of(experiment, registry)
    return job_of(graph_for(plan, observers=observers, resources=resources))


def graph_for(
    plan: Plan,
    *,
    observers: Observers = (),
    resources: Mapping[str, Any] = {},  # is only read
) -> ExperimentGraph:
    """The ops of the experiment, one after the other. Raises what `job_for` raises."""
    experiment = plan.experiment
    needed = _checked_resources(resources)
    names = op_names(experiment)
    dependencies: dict[NodeInvocation, Mapping[str, _Dependency]] = {}
    ops = []
    possible = _possible_options(plan)
    queue = experiment.execution and experiment.execution.queue
    tags = {CELERY_QUEUE_TAG: queue} if queue else {}
    for index, one in enumerate(plan.stages):
        upstream: dict[str, _Dependency] = {}
        if index > 0:
            upstream = {"upstream": DependencyDefinition(names[index - 1])}
        workers = _workers_of(one, names[index]) if one.definition.module == TRIALS else []
        if workers:
            ops.append(worker_op(first=index == 0, resources=needed))
            dependencies |= {NodeInvocation(name=ops[-1].name, alias=name, tags=tags): upstream for name in workers}
            done = [DependencyDefinition(name, "done") for name in workers]
            upstream = {**upstream, "workers": MultiDependencyDefinition(done)}
        at = {"first": index == 0, "shared": bool(workers)}
        op = _op_for(type(one.stage), one.name, possible[index], resources=needed, **at)
        ops.append(op)
        dependencies[NodeInvocation(name=op.name, alias=names[index], tags=tags)] = upstream
    judge = gates_step(experiment)
    if judge is not None:
        check_names(experiment)
        ops.append(gates_op())
        upstream = {"upstream": DependencyDefinition(names[-1])}
        dependencies[NodeInvocation(name=ops[-1].name, alias=judge, tags=tags)] = upstream
    return ExperimentGraph(
        CompiledExperiment(plan, tuple(observers), names, resources=resources),
        name=dagster_name(experiment.id),
        description=experiment.description and escape_markdown_lines(experiment.description),
        node_defs=list(dict.fromkeys(ops)),
        dependencies=dependencies,
        output_mappings=[_KeptOutput("result", judge or names[-1], "result")],
    )


def _workers_of(planned: PlannedStage, step: str) -> list[str]:
    """The names of the ops in which a sweep's trials run."""
    from crucible_core.stages.trials import RunTrials  # noqa: PLC0415  # few experiments have trials

    assert isinstance(planned.stage, RunTrials)
    return worker_names(step, planned.stage.workers)


def _checked_resources(resources: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the resources. Raises CrucibleError for a name that Dagster's ops cannot require."""
    for name in resources:
        if not name.isidentifier() or name in (STORE_KEY, RUN_KEY, EXPERIMENT_KEY, "io_manager"):
            taken = "has the name of a resource of the job" if name.isidentifier() else "needs a name like a variable's"
            raise CrucibleError(f"the Dagster resource {name!r} {taken}: rename it, here and in the experiment")
    return tuple(sorted(resources))


class _KeptOutput(OutputMapping):
    """The output of a graph, kept by the context store like the output of the op.

    Otherwise Dagster's definition names the default I/O manager. A run of the asset does not have that, so making its
    run config would fail: "requires io_manager_key io_manager, but no resource has been provided".
    """

    def get_definition(self, is_dynamic: bool) -> Any:
        made = super().get_definition(is_dynamic)
        return type(made)(name=made.name, dagster_type=made.dagster_type, io_manager_key=STORE_KEY)


def job_of(graph: ExperimentGraph) -> JobDefinition:
    """The job that runs the graph."""
    return _job(graph)


def variants_job_of(graph: ExperimentGraph) -> JobDefinition | None:
    """The same job with the variants as partitions, for a backfill over all of them; None if there are none.

    It is a separate job because in the Launchpad of a job with partitions, Dagster asks for one at every launch.
    """
    experiment, registry = graph.compiled.experiment, graph.compiled.registry
    options_of = functools.partial(_op_config, experiment, registry, graph.compiled.op_names)
    config = variants_as_partitions(experiment, options_of)
    if config is None:
        return None
    return _job(
        graph,
        name=variants_job_name(experiment),
        config=config,
        tags={OTHER_JOB_TAG: experiment.id},
        description=f"The variants of experiment {experiment.id} as partitions: a backfill runs each of them once.",
    )


def _job(graph: ExperimentGraph, *, tags: Mapping[str, str] = {}, **more: Any) -> JobDefinition:  # is only read
    compiled = graph.compiled
    experiment = compiled.experiment
    variant = {} if experiment.variant is None else {VARIANT_TAG: experiment.variant}
    return graph.to_job(
        resource_defs={
            STORE_KEY: context_store,
            EXPERIMENT_KEY: _experiment_resource(compiled),
            RUN_KEY: _RUN_OF_JOB,
            **compiled.resources,
        },
        executor_def=executor_for(experiment),
        tags={EXPERIMENT_TAG: experiment.id, **variant, **tags},
        **{"description": graph.description, **more},
    )


def _experiment_resource(compiled: CompiledExperiment) -> ResourceDefinition:
    """The experiment with the settings of one run, which Dagster checks before it creates the run."""

    def check(config: Mapping[str, Any]) -> Mapping[str, Any]:
        settings_of(compiled.experiment, config)
        return config

    def make(context: InitResourceContext) -> CompiledExperiment:
        return compiled.of_run(settings_of(compiled.experiment, context.resource_config))

    described = "The experiment that this job runs, and the settings of this run."
    checked = ResourceDefinition(make, config_schema=Permissive(), description=described)
    return checked.configured(check, config_schema=settings_fields(compiled.experiment), description=described)


def _of_job(context: InitResourceContext) -> CompiledExperiment:
    found: CompiledExperiment = getattr(context.resources, EXPERIMENT_KEY)
    return found


_RUN_OF_JOB = ResourceDefinition(
    _of_job, config_schema={}, required_resource_keys={EXPERIMENT_KEY}, description="What the ops look up."
)


def _op_config(
    experiment: Experiment, registry: Registry, names: Sequence[str], stage: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    index = experiment.index_of(stage)
    found = registry.resolve(experiment.pipeline[index], folder=experiment.folder)
    return {names[index]: {"config": showable_options(found, options)}}


@dataclass(frozen=True, slots=True)
class _Options:
    """Options of a stage, compared without their secrets: what an op is made of is shown and kept."""

    shown: str
    """As JSON, secrets masked."""
    options: Mapping[str, Any] = field(compare=False)


def _possible_options(plan: Plan) -> tuple[tuple[_Options, ...], ...]:
    """For each stage: its options in the file, then in each variant that changes them."""
    experiment = plan.experiment
    names = experiment.variants if experiment.variants and experiment.variant is None else ()
    all_of_them = [experiment, *(experiment.with_variant(name, plan.registry) for name in names)]
    return tuple(
        tuple(dict.fromkeys(map(functools.partial(_options_at, index, type(one.stage)), all_of_them)))
        for index, one in enumerate(plan.stages)
    )


def _options_at(index: int, stage: type[Stage], experiment: Experiment) -> _Options:
    options = experiment.pipeline[index].options or {}
    return _Options(to_json(hide(stage, options) if has_secrets(stage) else options).decode(), options)


@functools.cache
def _op_for(
    stage: type[Stage],
    name: str,
    possible: tuple[_Options, ...],
    *,
    first: bool,
    shared: bool,
    resources: tuple[str, ...],
) -> OpDefinition:
    """The op of a stage of this name; the first of the `possible` options are its defaults.

    Made only once, no matter how many experiments have such a stage: in a code location, definitions with the same name
    must be the same object. In a job, the op has the name of the pipeline entry.
    """

    def compute(context: OpExecutionContext, inputs: Mapping[str, Any]) -> Iterator[Any]:
        yield from run_step(context, inputs.get("upstream"))

    identity = f"{stage.__module__}:{stage.__qualname__} {name} {[one.shown for one in possible]} {first} {shared}"
    identity += f" {resources}" if resources else ""
    op_name = f"{stage.__name__}_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    options = [one.options for one in possible]
    described = inspect.getdoc(stage) if stage.__doc__ else None
    op = OpDefinition(
        compute_fn=compute,
        name=op_name,
        description=described,
        ins={**({} if first else {"upstream": In(Context)}), **({"workers": In(Nothing)} if shared else {})},
        outs={"result": Out(Context, io_manager_key=STORE_KEY)},
        config_schema=Permissive(),
        required_resource_keys={STORE_KEY, RUN_KEY, *resources},
    )
    check = check_at_launch(name, stage, options)
    return op.configured(check, op_name, option_fields(stage, options[0]), described)
