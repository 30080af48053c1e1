"""Asset checks that judge a gate again, without a run."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSpec,
    DagsterInstance,
    MetadataValue,
    multi_asset_check,
)

from crucible_core import (
    CrucibleError,
    Experiment,
    Gate,
    GateResult,
    Registry,
    builtin_registry,
    plan_experiment,
)
from crucible_core.gates.judge import judge_gate
from crucible_core.ir.vocabulary import GateSeverity
from crucible_core.report.markdown import escape_markdown
from crucible_dagster.history.earlier_runs import EarlierRuns, newest_judged_run
from crucible_dagster.history.gate_results import SEVERITIES, gate_description, gate_metadata, is_judged_in
from crucible_dagster.history.history import History
from crucible_dagster.history.recorded import recorded_experiment, recorded_run
from crucible_dagster.names import asset_key, check_names, last_step
from crucible_dagster.store.io_manager import open_store


def checks_for(experiment: Experiment, registry: Registry | None = None) -> Sequence[AssetChecksDefinition]:
    """One executable asset check per gate. Raises InvalidExperimentError if two gates would be the same check."""
    registry = builtin_registry() if registry is None else registry
    names = check_names(experiment)
    return [
        _check_for(experiment, registry, gate, name) for gate, name in zip(experiment.gates or (), names, strict=True)
    ]


def _check_for(experiment: Experiment, registry: Registry, gate: Gate, name: str) -> AssetChecksDefinition:
    key = asset_key(experiment)
    # Dagster would join the names of asset and check, and two experiments could then share one op.
    identity = hashlib.sha256(f"{experiment.id} {gate.name}".encode()).hexdigest()[:8]

    @multi_asset_check(
        name=f"gate_{name}_{identity}",
        description=f"Judges the newest run of {experiment.id} again: {escape_markdown(gate.words)}",
        specs=[
            AssetCheckSpec(
                name,
                asset=key,
                description=escape_markdown(gate.words),
                blocking=gate.blocking,
                metadata={"experiment": experiment.id, "gate": MetadataValue.json(gate.to_dict())},
            )
        ],
        can_subset=True,  # only then may the check yield no result
    )
    def check(context: AssetCheckExecutionContext) -> Iterator[AssetCheckResult]:
        run = context.instance.get_run_by_id(context.op_execution_context.run_id)
        if run is not None and is_judged_in(run):
            return  # Materialize also selects the checks, but the run itself has judged its stages already
        result = _judge_newest(context.instance, experiment, registry, gate)
        yield AssetCheckResult(
            passed=result.status == "passed",
            asset_key=key,
            check_name=name,
            severity=SEVERITIES[result.severity],
            description=gate_description(result),
            metadata=gate_metadata(result),
        )

    return check


def _judge_newest(instance: DagsterInstance, experiment: Experiment, registry: Registry, gate: Gate) -> GateResult:
    """The result of the gate, as it is declared now, for the newest run whose stages all succeeded."""
    run = newest_judged_run(instance, experiment.id)
    if run is None:
        return _undecided(gate, f"no run of experiment {experiment.id!r} has finished yet", "warn")
    store = open_store(instance)
    history = History(instance, store=store)
    try:
        context = history.context(run.run_id)
        planned = plan_experiment(recorded_experiment(recorded_run(history, run.run_id)), registry)
    except CrucibleError as error:
        severity = gate.severity if gate.undecided == "fail" else "warn"
        return _undecided(gate, f"the newest run, {run.run_id}, cannot be judged again: {error}", severity)
    earlier_runs = EarlierRuns(instance, store, run, last_step(experiment))
    result = judge_gate(gate, context, planned, earlier_runs)
    return replace(result, sentence=f"run {run.run_id}: {result.sentence}")


def _undecided(gate: Gate, why: str, severity: GateSeverity) -> GateResult:
    return GateResult(gate=gate.name, status="undecided", severity=severity, blocking=gate.blocking, sentence=why)
