"""Gates on Dagster: an op after the stages that judges the run, and asset checks that judge it again.

| a gate                     | Dagster                                                                                 |
| -------------------------- | --------------------------------------------------------------------------------------- |
| the gate                   | an asset check of `crucible/<id>`; executed, it judges the newest run and runs no stage |
| its result in a run        | an evaluation of the check, with its numbers as metadata                                |
| undecided                  | not passed, as a warning                                                                |
| `blocking: true`           | a blocking check: a run that does not pass it fails, and materializes nothing           |
| the verdict over all gates | the run's tag `crucible/gates`                                                          |
"""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from dagster import (
    DagsterInstance,
    In,
    OpDefinition,
    OpExecutionContext,
    Out,
)

from crucible_core import (
    Context,
    Experiment,
    GateFailedError,
)
from crucible_core.ir.secrets import MASK, restored
from crucible_core.observers import Audience, Observers
from crucible_core.runner import run_gates
from crucible_dagster.dagster_internals import AssetCheckEvaluationTargetMaterializationData
from crucible_dagster.execute.compiled import RUN_KEY, CompiledExperiment, compiled_of
from crucible_dagster.execute.failures import StepFailure
from crucible_dagster.execute.metadata import materialization
from crucible_dagster.execute.observed_step import observed_step
from crucible_dagster.execute.run_chart import chart_of_runs
from crucible_dagster.execute.step import as_launched, result_of
from crucible_dagster.history.earlier_runs import EarlierRuns
from crucible_dagster.history.gate_results import evaluation_of, forget_verdict, verdict_of
from crucible_dagster.history.run_record import record_run
from crucible_dagster.names import asset_key
from crucible_dagster.store.io_manager import STORE_KEY, ContextIOManager, new_attempt
from crucible_dagster.tags import GATES_TAG

__all__ = ["gates_op"]


@functools.cache
def gates_op() -> OpDefinition:
    """The op after the stages. It is one object, no matter how many experiments use it."""

    def compute(context: OpExecutionContext, inputs: Mapping[str, Any]) -> Iterator[Any]:
        compiled = compiled_of(context)
        with observed_step(context, compiled) as traced:
            yield from _judge_run(context, inputs["upstream"], compiled, traced)

    return OpDefinition(
        compute_fn=compute,
        name="crucible_gates",
        description="Judges the run by the experiment's gates and reports the results.",
        ins={"upstream": In(Context)},
        outs={"result": Out(Context, io_manager_key=STORE_KEY)},
        required_resource_keys={STORE_KEY, RUN_KEY},
    )


def _judge_run(
    context: OpExecutionContext, upstream: Context, compiled: CompiledExperiment, traced: Observers
) -> Iterator[Any]:
    experiment = upstream.experiment
    if experiment.source is None and compiled.experiment.source is not None:
        experiment = experiment.model_copy().read_from(compiled.experiment.source)
    whole = restored(experiment, as_launched(compiled, context)) if MASK in experiment.to_json() else experiment
    plan = compiled.plan_of(whole)
    manager: ContextIOManager = getattr(context.resources, STORE_KEY)
    step = context.op_handle.name
    before = upstream
    if upstream.run_id != context.run_id:
        # Only this step is executed again: the results of another run's stages are judged as a new run.
        before = upstream._replace(run_id=context.run_id)
        record = record_run(experiment, plan, compiled.op_names, context.run, manager.store.digest_of_secret)
        manager.store.put_run_record(context.run_id, record.to_json())
    forget_verdict(context.instance, context.run)
    after = manager.find_result(context.run_id, step)
    # A result without gates comes from an earlier version, which kept them only in the event log.
    if after is None or not after.trace.gates:
        # Read again: if the variant was chosen in the run config, the first step has added its tag.
        run = context.instance.get_run_by_id(context.run_id) or context.run
        earlier_runs = EarlierRuns(context.instance, manager.store, run, step)
        audience = Audience((*traced, *compiled.observers), compiled.failed_observers)
        judged = run_gates(plan, after or before, audience, earlier_runs)
        # Before the verdict, so that a run that fails a gate also has a Context.
        after = judged if after else manager.commit(judged, context.run_id, step, attempt=new_attempt())
        if audience.wants_contexts:
            audience.show(after)
    results = after.trace.gates
    context.instance.add_run_tags(context.run_id, {GATES_TAG: verdict_of(results)})
    for one in results:
        say = context.log.info if one.status == "passed" else context.log.error if one.fails else context.log.warning
        say(f"gate {one.gate} {one.status}: {one.sentence}")
    blocked = any(one.blocks for one in results)
    shown = materialization(after, chart_of_runs(context.instance, after))
    if not blocked:  # before the evaluations, which refer to this materialization
        yield from result_of(context, after, shown)
    target = {} if blocked else _target(context.instance, experiment, context.run_id)
    for one in results:
        yield evaluation_of(experiment, one, **target)
    if blocked:
        raise StepFailure(str(GateFailedError(after, results)), metadata=shown.metadata)


def _target(instance: DagsterInstance, experiment: Experiment, run_id: str) -> dict[str, Any]:
    """The materialization that the evaluations are about: the one that this run has just made."""
    newest = next(iter(instance.fetch_materializations(asset_key(experiment), limit=1).records), None)
    if newest is None or newest.run_id != run_id:
        return {}
    return {
        "target_materialization_data": AssetCheckEvaluationTargetMaterializationData(
            storage_id=newest.storage_id, run_id=newest.run_id, timestamp=newest.timestamp
        )
    }
