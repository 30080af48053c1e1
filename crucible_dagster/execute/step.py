"""What an op does: run one stage, on the Context that the store has for it, and report it to Dagster.

In this order: an event is written to the store, then sent to Dagster, whose event log drops messages while its database
is unavailable.
"""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from dagster import (
    AssetMaterialization,
    DagsterExecutionInterruptedError,
    MetadataValue,
    OpExecutionContext,
    Output,
)

from crucible_core import (
    Context,
    Event,
    Experiment,
    InvalidExperimentError,
    PlannedStage,
    RunInterrupted,
    Stage,
    StageFailedError,
    StageStarted,
    StageSucceeded,
    run_stage,
)
from crucible_core.ir.option_schema import merge_options
from crucible_core.observers import Audience, Observers
from crucible_core.plan import ask_again, plan_stage
from crucible_core.values.messages import listing
from crucible_dagster.dagster_internals import RESUME_RETRY_TAG
from crucible_dagster.execute.captured_logs import captured_logs
from crucible_dagster.execute.compiled import (
    CompiledExperiment,
    compiled_of,
    experiments_in,
    is_of_asset,
    op_config_in,
)
from crucible_dagster.execute.event_log import EventLogObserver
from crucible_dagster.execute.failures import StepFailure
from crucible_dagster.execute.launchpad import typed_options
from crucible_dagster.execute.metadata import failure_metadata, materialization, metric_metadata
from crucible_dagster.execute.orphan_watch import watch_for_orphan
from crucible_dagster.execute.run_chart import chart_of_runs
from crucible_dagster.execute.run_claims import claim_or_end
from crucible_dagster.execute.stage_cache import Hit, StageCache, StageKey, key_of, written_names
from crucible_dagster.execute.tracing import traced_step
from crucible_dagster.history.run_record import record_run
from crucible_dagster.history.source_identity import modules_of
from crucible_dagster.store import Reads, RefusedWriteError, tracked, untracked
from crucible_dagster.store.io_manager import STORE_KEY, ContextIOManager, new_attempt
from crucible_dagster.store.lazy import PARTS, StoredDict, StoredList
from crucible_dagster.tags import EXPERIMENT_TAG, FRESH_TAG, GATES_TAG, OTHER_JOB_TAG, PARTITION_TAG, VARIANT_TAG

__all__ = ["FRESH_TAG", "CompiledExperiment", "result_of", "run_step"]


INTERRUPTS = (KeyboardInterrupt, DagsterExecutionInterruptedError)


def run_step(context: OpExecutionContext, upstream: Context | None) -> Iterator[Any]:
    """The generator that an op's compute function is."""
    compiled = compiled_of(context)
    with traced_step(context, compiled) as traced:
        yield from _run_step(context, compiled, upstream, traced)


def _run_step(
    context: OpExecutionContext, compiled: CompiledExperiment, upstream: Context | None, traced: Observers
) -> Iterator[Any]:
    manager: ContextIOManager = getattr(context.resources, STORE_KEY)
    step = context.op_handle.name
    index = compiled.op_names.index(step)
    begins = upstream is None or upstream.run_id != context.run_id
    try:
        launched = _as_launched(compiled, context)
        plan = compiled.plan_of(launched)
        if begins:
            ask_again(plan)  # the job may have been compiled long ago
        # Read again for this step: a stage may change its own options in place, and the job may be run again.
        planned = plan_stage(launched, index, compiled.registry)
    except InvalidExperimentError as error:
        raise StepFailure(str(error)) from error
    if begins:
        _tag_with_experiment(context, launched)
        claim_or_end(context.run, manager.store, context.instance)
        _tag_with_variant(context, launched)
        if context.run.tags.get(GATES_TAG):  # that of the run which this one executes again
            context.instance.add_run_tags(context.run_id, {GATES_TAG: ""})
        record = record_run(launched, plan, compiled.op_names, context.run)
        manager.store.put_run_record(context.run_id, record.to_json())
        _close_what_is_run_again(manager, context, compiled.op_names[index:])
    after = manager.find_result(context.run_id, step)
    if after is not None:
        context.log.warning(f"another attempt at step {step} has a result already, which counts")
    else:
        before = _before(context, upstream, launched)
        one = _StepAttempt(context, manager, compiled, planned, step, traced)
        with plan.running():
            after = (one.adopt(before) if begins else None) or one.run(before)
    is_last = index == len(launched.pipeline) - 1 and not launched.gates
    shown_on_asset = materialization(after, chart=chart_of_runs(context.instance, after)) if is_last else None
    ending = after.trace.endings.get(planned.name)
    reused = ending.reused_from if isinstance(ending, StageSucceeded) else None
    shown = {"reused_from": MetadataValue.dagster_run(reused)} if reused else {}
    yield from result_of(context, after, shown_on_asset, {**metric_metadata(upstream, after), **shown})


def result_of(
    context: OpExecutionContext,
    after: Context,
    shown: AssetMaterialization | None,
    metadata: Mapping[str, MetadataValue[Any]] = {},  # is only read
) -> Iterator[Any]:
    """The step's result, and the materialization of the asset if it is the run's last step.

    In a run that the asset launched, Dagster makes the materialization of the output and its metadata.
    """
    if shown is None or not is_of_asset(context):
        if shown is not None:
            yield shown
        yield Output(after, output_name="result", metadata=metadata)
    else:
        yield Output(after, output_name="result", metadata=shown.metadata, tags=shown.tags)


class _StepAttempt:
    """One attempt at a step."""

    def __init__(
        self,
        context: OpExecutionContext,
        manager: ContextIOManager,
        compiled: CompiledExperiment,
        planned: PlannedStage,
        step: str,
        traced: Observers,
    ) -> None:
        self.dagster = context
        self.manager = manager
        self.planned = planned
        self.step = step
        self.attempt = new_attempt()
        self.raw: Context
        """What the stage returned, before it was stored."""
        self.settings = compiled.settings
        event_log = EventLogObserver(context, compiled.experiment, compiled.settings)
        self.audience = Audience.of((self._keep, event_log, *traced, *compiled.observers))

    def run(self, before: Context) -> Context:
        definition = self.planned.definition
        if not (definition.cache and definition.enabled and isinstance(before.assigns, StoredDict)):
            return self._run(self.planned, before, {})
        cache = StageCache(self.manager.store)
        key = key_of(self.planned, before.experiment_id)
        fresh = self.dagster.run.tags.get(FRESH_TAG) == "true"
        hit = None if fresh else cache.find(key, before)
        if hit is not None:
            return self._reuse(hit, before, key)
        if fresh:
            why: dict[str, Any] = {"fresh": True}
        else:
            run_id, parts = cache.compare_with_last(key, before)
            why = {"last": run_id, "parts": parts}
        return self._run_tracked(before, cache, key, why)

    def adopt(self, before: Context) -> Context | None:
        """The step's result in the run that this one resumes, if that run's process died before it reported it."""
        run = self.dagster.run
        if run.parent_run_id is None or run.tags.get(RESUME_RETRY_TAG) != "true":
            return None
        store = self.manager.store
        if not store.has_result(run.parent_run_id, self.step):
            return None
        found = store.load(run.parent_run_id, self.step)
        if self.planned.definition not in found.experiment.pipeline:
            return None  # its options were changed meanwhile
        if found.experiment.seed != before.experiment.seed:
            return None
        self.dagster.log.info(f"the result of stage {self.planned.name!r} is that of run {run.parent_run_id}")
        adopted = found._replace(experiment=before.experiment, run_id=run.run_id)
        return self._commit(adopted, {"adopted_from": run.parent_run_id})

    def _run(
        self, planned: PlannedStage, before: Context, notes: dict[str, Any], reads: Reads | None = None
    ) -> Context:
        """Run the stage and commit what it returns; `reads` are put among the notes."""
        run_id = self.dagster.run_id
        packages = {name.partition(".")[0] for name in modules_of(type(self.planned.stage))}
        with watch_for_orphan(self.dagster.instance, run_id) as orphan_watch:
            try:
                with captured_logs(self.dagster.log, packages, self.settings):
                    self.raw = run_stage(planned, before, self.audience, interrupts=INTERRUPTS)
            except StageFailedError as error:
                lost = self.manager.store.save_failure(error, run_id, self.step, attempt=self.attempt)
                said = f"{error}\n\nNot kept in the stored Context: {'; '.join(lost)}" if lost else str(error)
                shown = failure_metadata(self.planned, error.context)
                raise StepFailure(said, cause=error.__cause__, metadata=shown) from error.__cause__
            except RunInterrupted as interrupt:
                self.manager.store.save_failure(interrupt, run_id, self.step, attempt=self.attempt)
                raise (interrupt.__cause__ or interrupt) from None
            if orphan_watch.run_is_over:
                raise RefusedWriteError(
                    f"run {run_id} ended while step {self.step!r} was still running; its result is refused"
                )
            if reads is not None:
                notes["reuse"]["reads"] = [[list(read), digest] for read, digest in reads.seen.items()]
            return self._commit(self.raw, notes)

    def _run_tracked(self, before: Context, cache: StageCache, key: StageKey, why: dict[str, Any]) -> Context:
        reads = _reads_of(before)
        experiment = before.experiment.to_json()
        tracking = _TrackedStage(self.planned.stage, reads)
        notes: dict[str, Any] = {"reuse": {**why, "key": key.parts()}}
        kept = self._run(self.planned._replace(stage=cast("Stage", tracking)), before, notes, reads)
        unfit = (
            cache.remember(
                key, self.dagster.run_id, before, kept, reads=dict(reads.seen), written=written_names(before, self.raw)
            )
            if kept.experiment.to_json() == experiment
            else "it changed the experiment in place"
        )
        if unfit:
            self.dagster.log.warning(f"the result of stage {self.planned.name!r} cannot be reused: {unfit}")
        return kept

    def _reuse(self, hit: Hit, before: Context, key: StageKey) -> Context:
        name = self.planned.name
        events: list[Event] = [StageStarted(stage=name), *hit.context.trace.events]
        events.append(StageSucceeded(stage=name, seconds=0.0, reused_from=hit.run_id))
        trace = before.trace
        for event in events:
            self.audience.tell(event)
            trace = trace.append(event)
        self.dagster.log.info(f"stage {name!r}: reused from run {hit.run_id}")
        after = hit.context._replace(trace=trace)
        reads = [[list(read), digest] for read, digest in hit.reads.items()]
        return self._commit(after, {"reuse": {"from": hit.run_id, "key": key.parts(), "reads": reads}})

    def _commit(self, after: Context, notes: Mapping[str, Any]) -> Context:
        return self.manager.commit(untracked(after), self.dagster.run_id, self.step, attempt=self.attempt, notes=notes)

    def _keep(self, event: Event) -> None:
        self.manager.store.put_event(self.dagster.run_id, self.step, self.attempt, event)


class _TrackedStage:
    """Runs a stage on a Context that notes what the stage looks at."""

    def __init__(self, stage: Stage, reads: Reads) -> None:
        self._stage = stage
        self._reads = reads

    def run(self, ctx: Context) -> Context:
        self._reads.listening = True
        try:
            after: object = self._stage.run(tracked(ctx, self._reads))
        finally:
            self._reads.listening = False
        return untracked(after) if isinstance(after, Context) else cast("Context", after)


def _before(context: OpExecutionContext, upstream: Context | None, launched: Experiment) -> Context:
    if upstream is None:
        begun = Context.begin(launched, run_id=context.run_id)
        reads = Reads()
        parts: dict[str, Any] = {part: StoredDict({}, part, reads, None) for part in PARTS}
        return begun._replace(**parts, outputs=StoredList((), reads))
    if upstream.run_id != context.run_id:
        # A re-execution continues from another run's result, as a new run with its own options.
        return upstream._replace(experiment=launched.with_own_data(), run_id=context.run_id)
    return upstream


def _close_what_is_run_again(manager: ContextIOManager, context: OpExecutionContext, steps: Sequence[str]) -> None:
    """Refuse from now on what is still running of the run that this one replaces."""
    replaced = context.run.parent_run_id
    parent = context.instance.get_run_by_id(replaced) if replaced is not None else None
    if parent is not None and parent.is_finished:
        for step in steps:
            manager.store.close(parent.run_id, step, by=context.run_id)


def _reads_of(before: Context) -> Reads:
    assert isinstance(before.assigns, StoredDict)
    return before.assigns.reads


def _as_launched(compiled: CompiledExperiment, context: OpExecutionContext) -> Experiment:
    """The experiment of the file, changed by the variant that was chosen, then by what was typed for this run.

    What the Launchpad's editor is filled with at first does not count as typed: the file's options and defaults, and
    those of the variant if the run is of a variant's partition.
    """
    file, settings = compiled.experiment, compiled.settings
    experiment = file if settings.variant is None else file.with_variant(settings.variant, compiled.registry)
    if settings.seed is not None and settings.seed != experiment.seed:
        experiment = experiment.with_seed(settings.seed)
    filled_in = experiment if context.run.tags.get(PARTITION_TAG) == settings.variant else file
    ops = op_config_in(context)
    for index, name in enumerate(compiled.op_names):
        if config := (ops.get(name) or {}).get("config"):
            definition = experiment.pipeline[index]
            stage = compiled.registry.resolve(definition, folder=experiment.folder)
            typed = typed_options(stage, filled_in.pipeline[index].options or {}, config)
            merged = merge_options(stage, definition.options or {}, typed)
            if typed:
                experiment = experiment.with_options(definition.name, {option: merged[option] for option in typed})
    return experiment


def _tag_with_experiment(context: OpExecutionContext, launched: Experiment) -> None:
    """Tag a run that assets launched as one of its experiment, as a job does by itself.

    Raises StepFailure if it is of several experiments: a run has one record, one Context and one verdict.
    """
    if not is_of_asset(context):
        return
    others = [one for one in experiments_in(context) if one != launched.id]
    if others:
        raise StepFailure(
            f"a run is of one experiment, and this one is of several: {listing([launched.id, *others])}; "
            "materialize each of them by itself, from its own page"
        )
    context.instance.add_run_tags(context.run_id, {EXPERIMENT_TAG: launched.id, OTHER_JOB_TAG: launched.id})


def _tag_with_variant(context: OpExecutionContext, launched: Experiment) -> None:
    tagged, runs = context.run.tags.get(VARIANT_TAG, ""), launched.variant or ""
    # A run that executes another one again has that one's tags, also where another variant, or none, was chosen for it.
    if tagged != runs and (runs or tagged in (launched.variants or ())):
        context.instance.add_run_tags(context.run_id, {VARIANT_TAG: runs})
