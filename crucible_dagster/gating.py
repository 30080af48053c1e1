"""Gates on Dagster: an op behind the stages that judges the run, and asset checks that judge it again.

| a gate                     | Dagster                                                                                 |
| -------------------------- | --------------------------------------------------------------------------------------- |
| the gate                   | an asset check of `crucible/<id>`; executed, it judges the newest run and runs no stage |
| its result in a run        | an evaluation of the check, with its numbers as metadata                                |
| undecided                  | not passed, as a warning                                                                |
| `blocking: true`           | the check blocks; a run that does not pass it fails, and materializes nothing           |
| the verdict over all gates | the run's tag `crucible/gates`                                                          |
"""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSpec,
    DagsterInstance,
    Failure,
    In,
    MetadataValue,
    OpDefinition,
    OpExecutionContext,
    Out,
    Output,
    multi_asset_check,
)

from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    Gate,
    GateFailedError,
    GateResult,
    Registry,
    builtin_registry,
    judge_gates,
    plan_experiment,
)
from crucible_core.jsonable import safe_text
from crucible_core.verdicts import judge_gate
from crucible_core.vocabulary import GateSeverity
from crucible_dagster.context_store import STORE_KEY, ContextIOManager, new_attempt, open_store
from crucible_dagster.dagster_internals import AssetCheckEvaluationTargetMaterializationData
from crucible_dagster.gate_results import GATES_TAG, SEVERITIES, evaluation_of, gate_metadata, verdict_of
from crucible_dagster.history import History
from crucible_dagster.metadata import asset_key, materialization
from crucible_dagster.names import check_names, last_step
from crucible_dagster.overlay import chart_of_runs
from crucible_dagster.past import EarlierRuns, newest_judged_run
from crucible_dagster.provenance import record_run
from crucible_dagster.replay import recorded_experiment, recorded_run
from crucible_dagster.settings import EXPERIMENT_KEY
from crucible_dagster.step import CompiledExperiment
from crucible_dagster.tracing import traced_step

__all__ = ["checks_for", "gates_op"]


@functools.cache
def gates_op() -> OpDefinition:
    """The op behind the stages: one object, however many experiments use it."""

    def compute(context: OpExecutionContext, inputs: Mapping[str, Any]) -> Iterator[Any]:
        compiled: CompiledExperiment = getattr(context.resources, EXPERIMENT_KEY)
        with traced_step(context, compiled):
            yield from _judge_run(context, inputs["upstream"], compiled)

    return OpDefinition(
        compute_fn=compute,
        name="crucible_gates",
        description="Judges the run by the experiment's gates, and tells its results.",
        ins={"upstream": In(Context)},
        outs={"result": Out(Context, io_manager_key=STORE_KEY)},
        required_resource_keys={STORE_KEY, EXPERIMENT_KEY},
    )


def _judge_run(context: OpExecutionContext, upstream: Context, compiled: CompiledExperiment) -> Iterator[Any]:
    experiment = upstream.experiment
    if experiment.source is None and compiled.experiment.source is not None:
        experiment = experiment.model_copy().read_from(compiled.experiment.source)
    planned = plan_experiment(experiment, compiled.registry)
    manager: ContextIOManager = getattr(context.resources, STORE_KEY)
    step = context.op_handle.name
    after = upstream
    if upstream.run_id != context.run_id:
        # A re-execution of this step alone: what another run's stages left is judged as a run of its own.
        after = replace(upstream, run_id=context.run_id)
        record = record_run(experiment, planned, compiled.op_names, context.run)
        manager.store.put_run_record(context.run_id, record.to_json())
    # Before the verdict, so that the Context of a run that a gate fails is that of a run too.
    after = manager.find_result(context.run_id, step) or manager.commit(
        after, context.run_id, step, attempt=new_attempt()
    )
    # As it is now: a run whose variant was typed has its tag since its first step.
    run = context.instance.get_run_by_id(context.run_id) or context.run
    past = EarlierRuns(context.instance, manager.store, run, step)
    results = judge_gates(after, planned, past)
    context.instance.add_run_tags(context.run_id, {GATES_TAG: verdict_of(results)})
    for one in results:
        say = context.log.info if one.status == "passed" else context.log.error if one.fails else context.log.warning
        say(f"gate {one.gate} {one.status}: {one.sentence}")
    blocked = any(one.blocks for one in results)
    shown = materialization(after, results, chart_of_runs(context.instance, after))
    if not blocked:
        yield shown
    target = {} if blocked else _target(context.instance, experiment, context.run_id)
    for one in results:
        yield evaluation_of(experiment, one, **target)
    if blocked:
        raise Failure(description=str(GateFailedError(after, results)), metadata=shown.metadata, allow_retries=False)
    yield Output(after, output_name="result")


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


def checks_for(experiment: Experiment, registry: Registry | None = None) -> Sequence[AssetChecksDefinition]:
    """One executable asset check per gate. Raises InvalidExperimentError if two gates would be one check."""
    registry = builtin_registry() if registry is None else registry
    names = check_names(experiment)
    return [
        _check_for(experiment, registry, gate, name) for gate, name in zip(experiment.gates or (), names, strict=True)
    ]


def _check_for(experiment: Experiment, registry: Registry, gate: Gate, name: str) -> AssetChecksDefinition:
    key = asset_key(experiment)
    # Dagster would join the names of asset and check, and two experiments could then have one op in common.
    identity = hashlib.sha256(f"{experiment.id} {gate.name}".encode()).hexdigest()[:8]

    @multi_asset_check(
        name=f"gate_{name}_{identity}",
        description=f"Judges the newest run of {experiment.id} again: {gate.words}",
        specs=[
            AssetCheckSpec(
                name,
                asset=key,
                description=safe_text(gate.words),
                blocking=gate.blocking,
                metadata={"experiment": experiment.id, "gate": MetadataValue.json(gate.to_dict())},
            )
        ],
    )
    def check(context: AssetCheckExecutionContext) -> Iterator[AssetCheckResult]:
        result = _judge_newest(context.instance, experiment, registry, gate)
        yield AssetCheckResult(
            passed=result.status == "passed",
            asset_key=key,
            check_name=name,
            severity=SEVERITIES[result.severity],
            description=safe_text(result.sentence),
            metadata=gate_metadata(result),
        )

    return check


def _judge_newest(instance: DagsterInstance, experiment: Experiment, registry: Registry, gate: Gate) -> GateResult:
    """The verdict of the gate as it is declared now on the newest run whose stages all succeeded."""
    run = newest_judged_run(instance, experiment.id)
    if run is None:
        return _undecided(gate, f"no run of experiment {experiment.id!r} has come to its end yet", "warn")
    store = open_store(instance)
    history = History(instance, store=store)
    try:
        context = history.context(run.run_id)
        planned = plan_experiment(recorded_experiment(recorded_run(history, run.run_id)), registry)
    except CrucibleError as error:
        severity = gate.severity if gate.undecided == "fail" else "warn"
        return _undecided(gate, f"the newest run, {run.run_id}, cannot be judged again: {error}", severity)
    past = EarlierRuns(instance, store, run, last_step(experiment))
    result = judge_gate(gate, context, planned, past)
    return replace(result, sentence=f"run {run.run_id}: {result.sentence}")


def _undecided(gate: Gate, why: str, severity: GateSeverity) -> GateResult:
    return GateResult(gate=gate.name, status="undecided", severity=severity, blocking=gate.blocking, sentence=why)
