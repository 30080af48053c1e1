"""Resuming a run where it stopped: the stages that finished are not run again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunsFilter,
)

from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    InvalidExperimentError,
    Registry,
    Stage,
    builtin_registry,
    plan_experiment,
)
from crucible_core.ir.secrets import check_known, restored, shown_experiment
from crucible_core.observers import Audience, Observers
from crucible_dagster.compile.op_config import showable_options
from crucible_dagster.dagster_internals import (
    RESUME_RETRY_TAG,
    ExecutionPlan,
    KnownExecutionState,
    PastExecutionState,
    ReconstructableJob,
    create_execution_plan,
)
from crucible_dagster.execute.compiled import EXPERIMENT_KEY, RUN_KEY
from crucible_dagster.execute.tracing import parent_tags, tracing_here
from crucible_dagster.execution import QUIET, database_in_words, job_in_processes, launch, outcome
from crucible_dagster.history.history import History
from crucible_dagster.history.recorded import recorded_experiment, recorded_run
from crucible_dagster.history.run_record import LaunchedBy, RunRecord, changed_since, kept_stages, launch_tags
from crucible_dagster.names import last_step, op_names, root_of, step_name
from crucible_dagster.origins import location_of
from crucible_dagster.processes import is_gone
from crucible_dagster.store import ContextStore, StoreError
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.tags import ASSIGNS_TAG, FRESH_TAG, LAUNCHED_FOR_TAGS, LOCATION_TAG

__all__ = ["Resumption", "plan_resumption", "resume_run"]

PARENT_TAG, ROOT_TAG = "dagster/parent_run_id", "dagster/root_run_id"
OVER = (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)


@dataclass(frozen=True, slots=True)
class Resumption:
    """A run that can be resumed, and what remains to be run."""

    instance: DagsterInstance
    parent: DagsterRun
    experiment: Experiment
    registry: Registry
    run_config: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    """What the user should know before resuming, one sentence each."""

    def execute(self, *, observers: Observers = (), fresh: bool = False, launched_by: LaunchedBy = "python") -> Context:
        """Run what is left, as a new run. Raises what `execute_experiment` raises."""
        tags = {
            **launch_tags(launched_by),
            **parent_tags(),
            RESUME_RETRY_TAG: "true",
            # The same tags as for re-executions in Dagster's UI, so that the runs can be found by them.
            PARENT_TAG: self.parent.run_id,
            ROOT_TAG: root_of(self.parent),
            **({FRESH_TAG: "true"} if fresh else {}),
            **self._kept_tags(),
        }
        apart = _executor_of(self.run_config, self.experiment) != "in_process"
        with (
            database_in_words(self.instance),
            job_in_processes(self.experiment, self.registry, observers) as job,
        ):
            run = launch(
                job,
                self.instance,
                run_config=self.run_config,
                tags=tags,
                execution_plan=self._rest(job),
                parent_run_id=self.parent.run_id,
                root_run_id=root_of(self.parent),
                apart=apart,
            )
            context, error = outcome(self.experiment, self.instance, run.run_id)
        if apart:
            Audience.of(tracing_here(observers)).retell(context, error)
        if error is not None:
            raise error
        return context

    def _kept_tags(self) -> dict[str, str]:
        """The tags that the new run takes over: for its assigns, its tick or its update."""
        kept = {tag: value for tag, value in self.parent.tags.items() if tag in {ASSIGNS_TAG, *LAUNCHED_FOR_TAGS}}
        location = location_of(self.parent)
        return {**kept, LOCATION_TAG: location} if location and kept.keys() - {ASSIGNS_TAG} else kept

    def _rest(self, job: ReconstructableJob) -> ExecutionPlan:
        """The steps that have no result in Dagster's event log, with the results of the others."""
        last = last_step(self.experiment)
        ended = self.instance.all_logs(self.parent.run_id, of_type=DagsterEventType.STEP_SUCCESS)
        if any(entry.step_key is not None and step_name(entry.step_key) == last for entry in ended):
            # It died after its last step, before reporting it. The step is executed again and takes over the result.
            steps: Sequence[str] = [last]
            known = KnownExecutionState.build_for_reexecution(self.instance, self.parent)
            known = known.update_for_step_selection(set(steps))
        else:
            steps, known = KnownExecutionState.build_resume_retry_reexecution(self.instance, self.parent)
        steps = [step_name(step) for step in steps if step_name(step) in job.get_definition().graph.node_dict]
        known = known._replace(parent_state=_as_of_job(known.parent_state))
        return create_execution_plan(job, self.run_config, step_keys_to_execute=steps, known_state=known)


def resume_run(
    instance: DagsterInstance,
    run: str,
    *,
    registry: Registry | None = None,
    override: Callable[[Experiment], Experiment] | None = None,
    force: bool = False,
    fresh: bool = False,
    observers: Observers = (),
) -> Context:
    """Run the stages of a failed, cancelled or killed run that have no result, as a new run, and return its Context.

    Raises what `plan_resumption` raises before anything is run, and then what `execute_experiment` raises.
    """
    planned = plan_resumption(instance, run, registry=registry, override=override, force=force)
    return planned.execute(observers=observers, fresh=fresh)


def plan_resumption(
    instance: DagsterInstance,
    run: str,
    *,
    registry: Registry | None = None,
    override: Callable[[Experiment], Experiment] | None = None,
    force: bool = False,
) -> Resumption:
    """Find out how to resume a run; a run whose process is gone is reported to Dagster as failed.

    What is run is the experiment as it was recorded, with the code as it is now. `override` may change options of
    stages that have no result yet. `force` resumes a run that Dagster believes to be running, if it is not known
    whether its process is alive.

    Raises CrucibleError if the run is unknown, succeeded, is still running, or left nothing to resume from, or if the
    database fails. Raises InvalidExperimentError for changed options of a stage that already has a result, for invalid
    options, and for secrets that are no longer known.
    """
    with database_in_words(instance):
        registry = builtin_registry() if registry is None else registry
        record = recorded_run(History(instance), run)
        parent = instance.get_run_by_id(record.run_id)
        assert parent is not None
        recorded = recorded_experiment(record)
        recorded = restored(recorded, _as_typed(recorded, parent.run_config))
        experiment = recorded if override is None else override(recorded)
        plan = plan_experiment(experiment, registry)
        steps = dict(zip((definition.name for definition in experiment.pipeline), op_names(experiment), strict=True))
        changed = _changed_options(recorded, experiment)
        store = open_store(instance)
        for stage in changed:
            owner = _owner_of_result(instance, store, parent, steps[stage])
            if owner is not None:
                raise InvalidExperimentError(
                    f"stage {stage!r} has a result in run {owner}, so its options cannot be changed any more: run the "
                    "experiment again instead (with `cache: true`, stages that do not depend on it are not run again)"
                )
        owners = {step: owner for step in steps.values() if (owner := _owner_of_result(instance, store, parent, step))}
        for one in plan:
            if one.definition.enabled and steps[one.name] not in owners:
                check_known(one.definition, type(one.stage))
        shown_experiment(experiment, [type(one.stage) for one in plan], plan.resources, first=len(plan))
        if owners:
            step, owner = list(owners.items())[-1]
            try:
                store.check(owner, step)
            except StoreError as error:
                raise CrucibleError(
                    f"run {parent.run_id} cannot be resumed; run the experiment again: {error}"
                ) from error
        kept = record.model_copy(update={"stages": tuple(kept_stages(record, steps.values() - owners.keys()).values())})
        warnings = [
            f"stage {name!r} keeps its result of run {owner}, although its code has changed since"
            for name, owner in changed_since(kept, plan)
        ]
        if before := _resumed_before(instance, parent):
            warnings.append(f"run {parent.run_id} was resumed before, by {before}; this starts one more run")
        parent = _give_up(instance, parent, record, force=force)
        config = _run_config(parent, steps, changed, {one.name: type(one.stage) for one in plan})
        return Resumption(instance, parent, experiment, registry, config, tuple(warnings))


def _as_typed(experiment: Experiment, config: Mapping[str, Any]) -> Experiment:
    """The experiment with only the options that were typed for its run, including secrets."""
    ops = config.get("ops") or {}
    pipeline = tuple(
        one.model_copy(update={"options": (ops.get(step) or {}).get("config")})
        for one, step in zip(experiment.pipeline, op_names(experiment), strict=True)
    )
    return experiment.model_copy(update={"pipeline": pipeline, "variants": None})


def _resumed_before(instance: DagsterInstance, run: DagsterRun) -> str:
    found = instance.get_runs(RunsFilter(tags={PARENT_TAG: run.run_id, RESUME_RETRY_TAG: "true"}))
    return ", ".join(f"run {one.run_id} ({one.status.value.lower()})" for one in reversed(found))


def _give_up(instance: DagsterInstance, run: DagsterRun, record: RunRecord, *, force: bool) -> DagsterRun:
    """Have Dagster record that the run is over; return it. Raises CrucibleError if it is not over, or may not be."""
    if run.status in OVER:
        return run
    if run.status is DagsterRunStatus.SUCCESS:
        raise CrucibleError(f"run {run.run_id} succeeded; there is nothing to resume")
    if record.worker is not None and is_gone(record.worker):
        why = "The process that ran it is gone; it is resumed in another run."
    elif force:
        why = "It was declared dead by --force; it is resumed in another run."
    else:
        raise CrucibleError(
            f"run {run.run_id} is {run.status.value.lower()} according to Dagster, and its process "
            f"({record.worker or 'not recorded'}) is not known to have ended: cancel the run first, or use --force "
            "if you know that it is dead"
        )
    instance.report_run_failed(run, why)
    given_up = instance.get_run_by_id(run.run_id)
    assert given_up is not None
    return given_up


def _changed_options(recorded: Experiment, experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Stage -> the options that differ from the recorded ones."""
    changed = {}
    for then, now in zip(recorded.pipeline, experiment.pipeline, strict=True):
        before, after = then.options or {}, now.options or {}
        differ = {name: value for name, value in after.items() if name not in before or before[name] != value}
        if differ:
            changed[now.name] = differ
    return changed


def _owner_of_result(instance: DagsterInstance, store: ContextStore, run: DagsterRun, step: str) -> str | None:
    """The run whose result of the step would be used: this one, or a run that it resumed."""
    one: DagsterRun | None = run
    while one is not None:
        if store.has_result(one.run_id, step):
            return one.run_id
        inherits = one.step_keys_to_execute is not None and step not in one.step_keys_to_execute
        one = instance.get_run_by_id(one.parent_run_id) if one.parent_run_id and inherits else None
    return None


def _run_config(
    parent: DagsterRun,
    names: Mapping[str, str],
    changed: Mapping[str, Mapping[str, Any]],
    stages: Mapping[str, type[Stage]],
) -> dict[str, Any]:
    """The config of the resumed run with the changed options in it, so that runs launched from it have them too.

    Without secrets: the experiment of its job has them.
    """
    config: Mapping[str, Any] = parent.run_config
    ops = {name: dict(one) for name, one in (config.get("ops") or {}).items()}
    if any("ops" in one for one in ops.values()):  # a run of the asset; it is resumed as a run of the job
        inside = [one.get("ops") or {} for one in ops.values()]
        ops = {name: dict(one) for nested in inside for name, one in nested.items()}
        settings = (config.get("resources") or {}).get(RUN_KEY)
        config = {"resources": {EXPERIMENT_KEY: settings}} if settings else {}
    for stage, options in changed.items():
        step = ops.setdefault(names[stage], {})
        kept = {name: value for name, value in (step.get("config") or {}).items() if name not in options}
        step["config"] = {**kept, **showable_options(stages[stage], options)}
    return {**QUIET, **config, **({"ops": ops} if ops else {})}


def _as_of_job(state: object) -> PastExecutionState | None:
    if not isinstance(state, PastExecutionState):
        return None
    outputs = {one._replace(step_key=step_name(one.step_key)) for one in state.produced_outputs}
    return state._replace(produced_outputs=outputs, parent_state=_as_of_job(state.parent_state))


def _executor_of(config: Mapping[str, Any], experiment: Experiment) -> str:
    with contextlib.suppress(LookupError, TypeError):
        ((name, _),) = config["execution"]["config"].items()
        return str(name)
    return experiment.execution.executor if experiment.execution else "in_process"
