"""What an op does: run one stage on the Context that the store has for it, and report to Dagster.

Each event is first written to the store and then sent to Dagster, because Dagster's event log drops messages while its
database is unavailable.
"""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
import copy
import functools
import logging
import pickle
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from dagster import (
    AssetMaterialization,
    DagsterExecutionInterruptedError,
    DagsterRun,
    MetadataValue,
    OpExecutionContext,
    Output,
)

from crucible_core import (
    Context,
    CrucibleError,
    Event,
    Experiment,
    InvalidExperimentError,
    Plan,
    PlannedStage,
    Registry,
    RunInterrupted,
    Stage,
    StageFailedError,
    StageStarted,
    StageSucceeded,
    run_stage,
)
from crucible_core.attempts.coroutines import finished
from crucible_core.ir.option_schema import merge_options
from crucible_core.ir.secrets import secrets_of, shown_experiment
from crucible_core.ir.trials_stage import MODULE as TRIALS
from crucible_core.observers import Audience, Observers
from crucible_core.plan import check_again, plan_stage
from crucible_core.run_state.attempt import current_attempt
from crucible_core.run_state.checkpoints import Kept, kept_in
from crucible_core.runner import run_always
from crucible_core.trials.log import TrialSettings
from crucible_core.values.messages import listing
from crucible_core.values.redaction import scrub, secrets_of_environment
from crucible_dagster.dagster_internals import RESUME_RETRY_TAG
from crucible_dagster.execute.captured_logs import captured_logs
from crucible_dagster.execute.compiled import (
    CompiledExperiment,
    compiled_of,
    experiments_in,
    is_of_asset,
    op_config_in,
    plan_with_resources,
)
from crucible_dagster.execute.event_log import EventLogObserver
from crucible_dagster.execute.failures import StepFailure
from crucible_dagster.execute.given import given_to
from crucible_dagster.execute.launchpad import typed_options
from crucible_dagster.execute.metadata import failure_metadata, materialization, metric_metadata
from crucible_dagster.execute.observed_step import observed_step
from crucible_dagster.execute.orphan_watch import watch_for_orphan
from crucible_dagster.execute.run_chart import chart_of_runs
from crucible_dagster.execute.run_claims import claim_or_end
from crucible_dagster.execute.stage_cache import Hit, StageCache, StageKey, key_of, written_names
from crucible_dagster.history.gate_results import forget_verdict
from crucible_dagster.history.reachable_code import code_hash
from crucible_dagster.history.run_record import (
    RETRY_TAG,
    StageRecord,
    changed_since,
    kept_stages,
    read_run_record,
    record_run,
)
from crucible_dagster.history.source_identity import packages_of
from crucible_dagster.store import Reads, RefusedWriteError, tracked, untracked
from crucible_dagster.store.io_manager import STORE_KEY, ContextIOManager, new_attempt
from crucible_dagster.store.lazy import PARTS, Read, StoredDict, StoredList
from crucible_dagster.store.retention import remember_instance
from crucible_dagster.tags import EXPERIMENT_TAG, FRESH_TAG, OPTIONS_TAG, OTHER_JOB_TAG, PARTITION_TAG, VARIANT_TAG

__all__ = ["FRESH_TAG", "CompiledExperiment", "begun", "result_of", "run_step", "trials_of"]


_log = logging.getLogger("crucible")

MANY_OUTPUTS = 100_000
INTERRUPTS = (KeyboardInterrupt, DagsterExecutionInterruptedError)


def run_step(context: OpExecutionContext, upstream: Context | None) -> Iterator[Any]:
    """The generator that serves as an op's compute function."""
    compiled = compiled_of(context)
    with observed_step(context, compiled) as traced:
        yield from _run_step(context, compiled, upstream, traced)


def _run_step(
    context: OpExecutionContext, compiled: CompiledExperiment, upstream: Context | None, traced: Observers
) -> Iterator[Any]:
    manager: ContextIOManager = getattr(context.resources, STORE_KEY)
    step = context.op_handle.name
    index = compiled.op_names.index(step)
    begins = upstream is None or upstream.run_id != context.run_id
    adopted: Context | None = None
    try:
        launched = as_launched(compiled, context)
        plan = compiled.plan_of(launched)
        shown = launched
        if begins:
            shown = shown_experiment(launched, [type(one.stage) for one in plan.stages], plan.resources, first=index)
        if begins and plan is compiled.plan:  # any other plan was made just now
            check_again(plan)  # the job may have been compiled long ago
        # Read again for this step: a stage may change its own options in place, and the job may be run again.
        planned = plan_stage(launched, index, compiled.registry)
    except InvalidExperimentError as error:
        raise StepFailure(str(error)) from error
    if begins:
        _tag_with_experiment(context, launched)
        claim_or_end(context.run, manager.store, context.instance)
        _tag_with_variant(context, launched)
        _tag_with_options(context, launched)
        forget_verdict(context.instance, context.run)
        adopted = _adoptable(manager, context.run, step, planned.name, shown)
        kept = _kept_stages(manager, context.run, adopted=step if adopted is not None else None)
        record = record_run(shown, plan, compiled.op_names, context.run, manager.store.digest_of_secret, kept=kept)
        for name, run_id in changed_since(record, plan):
            context.log.warning(f"stage {name!r} keeps its result of run {run_id}, although its code has changed since")
        manager.store.put_run_record(context.run_id, record.to_json())
        remember_instance(manager.store, context.instance)
        _close_what_is_run_again(manager, context, compiled.op_names[index:])
    after = manager.find_result(context.run_id, step)
    if after is not None:
        context.log.warning(f"another attempt at step {step} already has a result, and that result counts")
    else:
        before = begun(context, upstream, shown)
        later = functools.partial(_always_after, launched, index, compiled.registry)
        one = _StepAttempt(context, manager, compiled, planned, step, traced, later)
        folder = kept_in(context.run_id, _kept_of(manager, context))
        plan = trials_of(plan, manager, context.run) if planned.definition.module == TRIALS else plan
        with plan_with_resources(plan, compiled, context).running(context.run_id), folder:
            after = one.run(before) if adopted is None else one.adopt(adopted, before)
    audience = Audience((*traced, *compiled.observers), compiled.failed_observers)
    if audience.wants_contexts:
        audience.show(after)
    is_last = index == len(launched.pipeline) - 1 and not launched.gates
    shown_on_asset = materialization(after, chart_of_runs(context.instance, after)) if is_last else None
    ending = after.trace.endings.get(planned.name)
    reused = ending.reused_from if isinstance(ending, StageSucceeded) else None
    origin = {"reused_from": MetadataValue.dagster_run(reused)} if reused else {}
    yield from result_of(context, after, shown_on_asset, {**metric_metadata(upstream, after), **origin})


def result_of(
    context: OpExecutionContext,
    after: Context,
    shown: AssetMaterialization | None,
    metadata: Mapping[str, MetadataValue[Any]] = {},  # is only read
) -> Iterator[Any]:
    """The step's result, and the materialization of the asset if it is the run's last step.

    In a run that was launched from the asset, Dagster makes the materialization from the output and its metadata.
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
        later: Callable[[], list[PlannedStage]],
    ) -> None:
        self.later = later
        """The later stages that run even if this one fails."""
        self.dagster = context
        self.manager = manager
        self.planned = planned
        self.step = step
        self.attempt = new_attempt()
        self.raw: Context
        """What the stage returned, before it was stored."""
        self.settings = compiled.settings
        event_log = EventLogObserver(context, compiled.experiment, compiled.settings)
        observers = (self._keep, event_log, *traced, *compiled.observers)
        self.audience = Audience(observers, compiled.failed_observers)

    def run(self, before: Context) -> Context:
        definition = self.planned.definition
        if not (definition.cache and definition.enabled and isinstance(before.assigns, StoredDict)):
            return self._run(self.planned, before, {})
        cache = StageCache(self.manager.store)
        key = key_of(self.planned, before.experiment_id, self.manager.store.digest_of_secret)
        fresh = self.dagster.run.tags.get(FRESH_TAG) == "true"
        hit = None if fresh else cache.find(key, before)
        if hit is not None:
            return self._reuse(hit, before, key, cache.shown(key, before, hit.reads))
        if fresh:
            why: dict[str, Any] = {"fresh": True}
        else:
            run_id, parts = cache.compare_with_last(key, before)
            why = {"last": run_id, "parts": parts}
        return self._run_tracked(before, cache, key, why)

    def adopt(self, found: Context, before: Context) -> Context:
        """Take over the result that the step has in the run which this run resumes."""
        parent = found.run_id
        self.dagster.log.info(f"the result of stage {self.planned.name!r} is taken from run {parent}")
        return self._commit(found._replace(experiment=before.experiment, run_id=self.dagster.run_id), {})

    def _run(
        self,
        planned: PlannedStage,
        before: Context,
        notes: dict[str, Any],
        seen: Callable[[], Mapping[str, Any]] | None = None,
    ) -> Context:
        """Run the stage and commit what it returns; what it has `seen` is added to the notes."""
        run_id = self.dagster.run_id
        packages = packages_of(type(self.planned.stage))
        secrets = secrets_of(self.planned.stage, self.planned.definition.options)
        with watch_for_orphan(self.dagster.instance, run_id) as orphan_watch:
            try:
                with captured_logs(self.dagster.log, packages, self.settings, secrets):
                    self.raw = self._run_stage(planned, before)
            except StageFailedError as error:
                if _reveals(error.__cause__, secrets):
                    error.__cause__ = None  # its text, without the secrets, is in the trace
                if self.audience.wants_contexts:
                    self.audience.show(untracked(error.context))
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
            if seen is not None:
                notes["reuse"] |= seen()
            return self._commit(self.raw, notes)

    def _run_stage(self, planned: PlannedStage, before: Context) -> Context:
        """Run it; if it fails, also run the later `always` stages: after a failed step, Dagster runs no other."""
        try:
            return run_stage(planned, before, self.audience, interrupts=INTERRUPTS)
        except StageFailedError as error:
            self._run_always(error)
            raise

    def _run_always(self, error: StageFailedError) -> None:
        for planned in self.later():
            self.dagster.log.info(f"stage {planned.name!r} also runs after a failure, here in step {self.step!r}")
            packages = packages_of(type(planned.stage))
            secrets = secrets_of(planned.stage, planned.definition.options)
            with captured_logs(self.dagster.log, packages, self.settings, secrets):
                run_always([planned], error, self.audience, interrupts=INTERRUPTS)

    def _run_tracked(self, before: Context, cache: StageCache, key: StageKey, why: dict[str, Any]) -> Context:
        reads = _reads_of(before)
        experiment = before.experiment.to_json()
        inputs = cache.inputs(key, before)
        depended: dict[Read, str] = {}

        def seen() -> dict[str, Any]:
            depended.update(cache.seen(before, reads.seen, inputs))
            listed = [[list(read), digest] for read, digest in depended.items()]
            return {"reads": listed, "shown": cache.shown(key, before, depended)}

        tracking = _TrackedStage(self.planned.stage, reads)
        notes: dict[str, Any] = {"reuse": {**why, "key": key.parts(), "unknown": key.unknown}}
        kept = self._run(self.planned._replace(stage=cast("Stage", tracking)), before, notes, seen)
        unfit = (
            cache.remember(
                key, self.dagster.run_id, before, kept, reads=depended, written=written_names(before, self.raw)
            )
            if kept.experiment.to_json() == experiment
            else "it changed the experiment in place"
        )
        if unfit:
            self.dagster.log.warning(f"the result of stage {self.planned.name!r} cannot be reused: {unfit}")
        return kept

    def _reuse(self, hit: Hit, before: Context, key: StageKey, shown: Mapping[str, str]) -> Context:
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
        return self._commit(after, {"reuse": {"from": hit.run_id, "key": key.parts(), "reads": reads, "shown": shown}})

    def _commit(self, after: Context, notes: Mapping[str, Any]) -> Context:
        added = len(after.outputs.added()) if isinstance(after.outputs, StoredList) else len(after.outputs)
        if added >= MANY_OUTPUTS:
            said = (
                f"storing {added:,} outputs of stage {self.planned.name!r}; this can take a while. An array or a "
                "data frame in the assigns is stored much faster"
            )
            self.dagster.log.info(said)
            _log.warning(said)
        kept = self.manager.commit(untracked(after), self.dagster.run_id, self.step, attempt=self.attempt, notes=notes)
        for repaired in self.manager.store.objects.repaired():
            self.dagster.log.warning(repaired)
            _log.warning(repaired)
        return kept

    def _keep(self, event: Event) -> None:
        self.manager.store.put_event(self.dagster.run_id, self.step, self.attempt, event)


def _always_after(launched: Experiment, index: int, registry: Registry) -> list[PlannedStage]:
    """The stages after the one at `index` that run even if it fails."""
    places = range(index + 1, len(launched.pipeline))
    always = [one for one in places if launched.pipeline[one].always and launched.pipeline[one].enabled]
    return [plan_stage(launched, one, registry) for one in always]


def _adoptable(manager: ContextIOManager, run: DagsterRun, step: str, stage: str, shown: Experiment) -> Context | None:
    """The step's result in the run that this one resumes, if that run's process died before reporting it."""
    if run.parent_run_id is None or run.tags.get(RESUME_RETRY_TAG) != "true":
        return None
    if not manager.store.has_result(run.parent_run_id, step):
        return None
    found = manager.store.load(run.parent_run_id, step)
    # If not, its options were changed meanwhile.
    same = shown.pipeline[shown.index_of(stage)] in found.experiment.pipeline
    return found if same and found.experiment.seed == shown.seed else None


def _kept_stages(manager: ContextIOManager, run: DagsterRun, *, adopted: str | None) -> dict[str, StageRecord]:
    """Step -> its record in the run that this one continues, for the steps that are not executed again."""
    if run.parent_run_id is None or run.step_keys_to_execute is None:
        return {}
    try:
        text = manager.store.run_record(run.parent_run_id)
        executed = {key for key in run.step_keys_to_execute if key != adopted}
        return {} if text is None else kept_stages(read_run_record(text), executed)
    except CrucibleError:  # the record is damaged; only the current code is known
        return {}


class _TrackedStage:
    """Runs a stage on a Context that notes what the stage looks at."""

    def __init__(self, stage: Stage, reads: Reads) -> None:
        self.__wrapped__ = stage
        self._reads = reads

    def __deepcopy__(self, memo: dict[int, Any]) -> "_TrackedStage":
        """For another attempt: copy the stage, but keep collecting the reads of the same step."""
        return _TrackedStage(copy.deepcopy(self.__wrapped__, memo), self._reads)

    def run(self, ctx: Context) -> Context:
        self._reads.listening = True
        try:
            given = tracked(ctx, self._reads)
            if (attempt := current_attempt.get()) is not None:
                attempt.derived = None  # the stage itself has derived nothing yet
            after: object = self.__wrapped__.run(given)
            if isinstance(after, Awaitable):
                after = finished(after)
        finally:
            self._reads.listening = False
        if after is given:
            return ctx
        return untracked(after) if isinstance(after, Context) else cast("Context", after)


def _kept_of(manager: ContextIOManager, context: OpExecutionContext) -> Kept:
    """The folder of the first run in the chain of runs that this one resumes or retries."""
    first, instance = context.run, context.instance

    def find() -> Any:
        run = first
        while run.parent_run_id and (run.tags.get(RESUME_RETRY_TAG) == "true" or RETRY_TAG in run.tags):
            if (parent := instance.get_run_by_id(run.parent_run_id)) is None:
                return manager.store.folder(run.parent_run_id)
            run = parent
        return manager.store.folder(run.run_id)

    return Kept(find, manager.store.objects.allow_pickle)


def trials_of(plan: Plan, manager: ContextIOManager, run: DagsterRun) -> Plan:
    """The plan of a run whose trials are kept in the store."""
    fresh = run.tags.get(FRESH_TAG) == "true"
    return replace(plan, trials=TrialSettings(files=manager.store.files, identify=code_hash, fresh=fresh))


def begun(context: OpExecutionContext, upstream: Context | None, shown: Experiment) -> Context:
    if upstream is None:
        given = given_to(getattr(context.resources, STORE_KEY).store, context.run)
        if given is not None:
            return given._replace(experiment=shown.with_own_data(), run_id=context.run_id)
        made = Context.begin(shown, run_id=context.run_id)
        reads = Reads()
        parts: dict[str, Any] = {part: StoredDict({}, part, reads, None) for part in PARTS}
        return made._replace(**parts, outputs=StoredList((), reads))
    if upstream.run_id != context.run_id:
        # A re-execution continues from another run's result, as a new run with its own options.
        return upstream._replace(experiment=shown.with_own_data(), run_id=context.run_id)
    return upstream


def _close_what_is_run_again(manager: ContextIOManager, context: OpExecutionContext, steps: Sequence[str]) -> None:
    """From now on, refuse results of steps that are still running in the run that this one replaces."""
    replaced = context.run.parent_run_id
    parent = context.instance.get_run_by_id(replaced) if replaced is not None else None
    if parent is not None and parent.is_finished:
        for step in steps:
            manager.store.close(parent.run_id, step, by=context.run_id)


def _reveals(error: BaseException | None, secrets: Sequence[str]) -> bool:
    """Whether a secret is in the text of the exception or of its causes, or in the data it holds."""
    if error is None:
        return False
    said = "".join(traceback.format_exception(error))
    try:
        held = pickle.dumps(error)
    except Exception:  # noqa: BLE001  # a user's exception class may raise anything; then it is not kept
        held = b""
    known = (*secrets, *secrets_of_environment())
    return scrub(said, secrets) != said or any(one.encode("utf-8", "surrogateescape") in held for one in known)


def _reads_of(before: Context) -> Reads:
    assert isinstance(before.assigns, StoredDict)
    return before.assigns.reads


def as_launched(compiled: CompiledExperiment, context: OpExecutionContext) -> Experiment:
    """The experiment in the file, changed by the chosen variant, then by the options typed for this run.

    Values that the Launchpad fills in at first do not count as typed: the file's options and defaults, and the
    variant's if the run belongs to a variant's partition.
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
    """Tag a run that was launched from an asset with its experiment; a job does that by itself.

    Raises StepFailure if there are several experiments: a run has one record, one Context and one verdict.
    """
    if not is_of_asset(context):
        return
    others = [one for one in experiments_in(context) if one != launched.id]
    if others:
        raise StepFailure(
            f"a run must be of one experiment, but this one is of several: {listing([launched.id, *others])}; "
            "materialize each of them by itself, from its own page"
        )
    context.instance.add_run_tags(context.run_id, {EXPERIMENT_TAG: launched.id, OTHER_JOB_TAG: launched.id})


def _tag_with_variant(context: OpExecutionContext, launched: Experiment) -> None:
    tagged, runs = context.run.tags.get(VARIANT_TAG, ""), launched.variant or ""
    # A re-execution has the tags of the original run, even if another variant, or none, was chosen for it.
    if tagged != runs and (runs or tagged in (launched.variants or ())):
        context.instance.add_run_tags(context.run_id, {VARIANT_TAG: runs})


def _tag_with_options(context: OpExecutionContext, launched: Experiment) -> None:
    """Mark a run whose options differ from its file and variant: by default it is not a baseline for later runs."""
    tagged = bool(context.run.tags.get(OPTIONS_TAG))
    # A re-execution continues from the results of the original run.
    changed = launched.options_changed or (tagged and context.run.parent_run_id is not None)
    if changed != tagged:
        context.instance.add_run_tags(context.run_id, {OPTIONS_TAG: "changed" if changed else ""})
