"""Running an experiment: plan it, then fold one function, `run_stage`, over its stages.

Dagster's ops call the same `run_stage`, so that both worlds give the same result by construction.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import to_json

from crucible_core.context import Context
from crucible_core.errors import (
    GateFailedError,
    InvalidExperimentError,
    InvalidOptionsError,
    RunInterrupted,
    StageFailedError,
    UnknownStageError,
)
from crucible_core.experiment import Experiment, StageDef
from crucible_core.jsonable import safe_text, type_name
from crucible_core.progress import Watch, Watcher, current_watch, watchers_among
from crucible_core.registry import Registry, builtin_registry
from crucible_core.stage import Stage, takes_seed, wrong_default
from crucible_core.trace import (
    Event,
    Observer,
    RunObserver,
    StageFailed,
    StageRetried,
    StageSkipped,
    StageStarted,
    StageSucceeded,
    current_listener,
)
from crucible_core.verdicts import check_gates, judge_gates
from crucible_core.wording import describe_mistake, error_text

__all__ = [
    "PlannedStage",
    "advice",
    "announce",
    "plan_experiment",
    "plan_stage",
    "read_options",
    "replay",
    "run_experiment",
    "run_stage",
]

_log = logging.getLogger("crucible")

MAX_TEXT = 20_000


class PlannedStage(NamedTuple):
    """A pipeline entry with its stage found and its options checked."""

    definition: StageDef
    stage: Stage

    @property
    def name(self) -> str:
        return self.definition.name


def run_experiment(
    experiment: Experiment,
    *,
    registry: Registry | None = None,
    assigns: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    observers: Sequence[Observer] = (),
) -> Context:
    """Run the experiment's stages one after another in this process and return the last Context.

    `registry` defaults to `builtin_registry()`; `assigns` are what the first stage finds in `ctx.assigns`; each of
    `observers` is called with every event of the trace as it happens.

    Raises, before the first stage, UnknownStageError, InvalidOptionsError or InvalidExperimentError if the pipeline
    cannot be run as it is written; then StageFailedError (with the Context as it stood) if a stage raises,
    RunInterrupted, a KeyboardInterrupt, on Ctrl-C, and after the last stage GateFailedError if a blocking gate does
    not pass. Gates against a regression are undecided here: nothing is kept of earlier runs.
    """
    planned = plan_experiment(experiment, builtin_registry() if registry is None else registry)
    context = Context.begin(experiment, run_id=run_id, assigns=assigns)
    with _watched_run(context, observers):
        for stage in planned:
            context = run_stage(stage, context, observers)
        gates = judge_gates(context, planned)
        if any(one.blocks for one in gates):
            raise GateFailedError(context, gates)
    return context


def plan_experiment(experiment: Experiment, registry: Registry) -> tuple[PlannedStage, ...]:
    """Find every stage, check every option, ask every stage what it knows to be wrong; run nothing.

    Every variant of the experiment is checked too, unless this is one of them. Every stage that has an option `seed`
    which is not given gets the experiment's.

    Raises UnknownStageError, InvalidOptionsError or InvalidExperimentError for the first mistake, with the further
    ones as its `others`.
    """
    mistakes: list[InvalidExperimentError] = []
    planned = _plan_each(experiment, range(len(experiment.pipeline)), registry, mistakes)
    if not mistakes:
        mistakes += check_gates(experiment, [one.stage for one in planned if one.definition.enabled])
    if experiment.variants and experiment.variant is None and not mistakes:
        for name, changes in experiment.variants.items():
            try:
                variant = experiment.with_variant(name, registry)
            except InvalidExperimentError as error:
                mistakes.append(error)
                continue
            found: list[InvalidExperimentError] = []
            _plan_each(variant, [variant.index_of(stage) for stage in changes], registry, found)
            mistakes += [error.within(f"variant {name!r}: ") for error in found]
    if mistakes:
        raise InvalidExperimentError.of(mistakes)
    return planned


def _plan_each(
    experiment: Experiment, indices: Iterable[int], registry: Registry, mistakes: list[InvalidExperimentError]
) -> tuple[PlannedStage, ...]:
    planned = []
    folder = experiment.folder
    for index in indices:
        try:
            one = _plan(experiment, index, registry, folder)
            if one.definition.enabled:
                _ask(one.stage, experiment, index)
            planned.append(one)
        except InvalidExperimentError as error:
            mistakes.append(error)
    return tuple(planned)


def plan_stage(experiment: Experiment, index: int, registry: Registry) -> PlannedStage:
    """The stage at `index` of the pipeline (from 0), found and its options checked; its own `check` is not asked.

    Raises as `plan_experiment`.
    """
    return _plan(experiment, index, registry, experiment.folder)


def _plan(experiment: Experiment, index: int, registry: Registry, folder: Path | None) -> PlannedStage:
    definition = experiment.pipeline[index]
    try:
        found = registry.resolve(definition, folder=folder)
    except UnknownStageError as error:
        error.location = experiment.location("pipeline", index, "module" if definition.module else "name")
        raise
    options = definition.options or {}
    seeded = experiment.seed is not None and definition.enabled and "seed" not in options and takes_seed(found)
    if seeded:
        options = {**options, "seed": experiment.seed}
    try:
        stage = read_options(found, options, registry)
    except ValidationError as error:
        described = [
            (f"option {describe_mistake(one, found)}", one["loc"], seeded and one["loc"][:1] == ("seed",))
            for one in error.errors(include_url=False)
        ]
        raise InvalidExperimentError.of(
            _refuse_seed(experiment, index, said) if of_seed else _refuse(experiment, index, said, *place)
            for said, place, of_seed in described
        ) from None
    except Exception as error:
        reason = f"its options cannot be checked: {type_name(error)}: {error_text(error)}"
        raise _refuse(experiment, index, reason) from error
    if (wrong := wrong_default(found)) is not None:
        raise _refuse(experiment, index, wrong)
    return PlannedStage(definition, stage)


def read_options(stage: type[Stage], options: Mapping[str, Any], registry: Registry | None) -> Stage:
    """The stage with these options. Raises pydantic.ValidationError, or whatever a validator of the stage raises."""
    # As JSON, because JSON's strict rules are the ones wanted: "0.1" is no number, but a list is a fine tuple.
    return stage.model_validate_json(to_json(options), strict=True, context={"registry": registry})


def _ask(stage: Stage, experiment: Experiment, index: int) -> None:
    """Raises InvalidOptionsError if the stage knows itself to be impossible."""
    try:
        problems = stage.check(experiment) or ()
        said = "; ".join([problems] if isinstance(problems, str) else problems)
    except Exception as error:
        raise _refuse(experiment, index, f"its check failed: {type_name(error)}: {error_text(error)}") from error
    if said:
        raise _refuse(experiment, index, said)


def advice(experiment: Experiment, planned: Sequence[PlannedStage]) -> list[str]:
    """What the enabled stages have to say against the experiment as it is planned, though it can be run."""
    return [
        f"stage {one.name!r}: {said}"
        for one in planned
        if one.definition.enabled
        for said in one.stage.advise(experiment)
    ]


def _refuse(experiment: Experiment, index: int, reason: str, *place: str | int) -> InvalidOptionsError:
    name = experiment.pipeline[index].name
    location = experiment.location("pipeline", index, "options", *place)
    separator = "," if reason.startswith("option ") else ":"
    return InvalidOptionsError(f"stage {name!r}{separator} {reason}", stage=name, location=location)


def _refuse_seed(experiment: Experiment, index: int, reason: str) -> InvalidOptionsError:
    name = experiment.pipeline[index].name
    return InvalidOptionsError(
        f"stage {name!r}, {reason}: the `seed` of the experiment goes to every stage with an option of that name that "
        "is not given; give this stage its own",
        stage=name,
        location=experiment.location("seed"),
    )


def run_stage(
    planned: PlannedStage,
    context: Context,
    observers: Sequence[Observer] = (),
    *,
    interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
) -> Context:
    """Run one stage on `context`, with its retries, and return the Context with the stage's record in its trace.

    Raises StageFailedError if its last attempt raised (or called sys.exit), RunInterrupted if one of `interrupts`
    came: the Context of either holds the decisions that were taken before.
    """
    definition = planned.definition
    name = definition.name
    if not definition.enabled:
        return _record(context, StageSkipped.of(name, reason="enabled: false"), observers)
    started = time.perf_counter()
    attempt = 1
    heard: list[Event] = []
    try:
        context = _record(context, StageStarted.of(name), observers)
        while True:
            try:
                result = _attempt(planned, context, observers, heard)
                break
            except interrupts:
                raise
            except BaseException as error:
                context = _keep(context, heard)
                policy = definition.retry
                if policy is None or attempt > policy.max_retries or not isinstance(error, Exception):
                    failed = _failure(name, error, attempt, time.perf_counter() - started)
                    raise StageFailedError(name, _record(context, failed, observers), failed.reason) from error
                delay = policy.delay_after(attempt)
                context = _record(context, _retried(name, attempt, delay, error), observers)
            time.sleep(delay)
            attempt += 1
        succeeded = StageSucceeded.of(name, seconds=time.perf_counter() - started, attempts=attempt)
        return _record(result, succeeded, observers)
    except interrupts as interrupt:
        # Whatever interrupts a run where it runs, its record is the same everywhere.
        failed = _failure(name, KeyboardInterrupt("interrupted"), attempt, time.perf_counter() - started)
        raise RunInterrupted(name, _record(_keep(context, heard), failed, observers)) from interrupt


def _attempt(planned: PlannedStage, context: Context, observers: Sequence[Observer], heard: list[Event]) -> Context:
    listen = heard.append if not observers else functools.partial(_hear, heard, observers)
    token = current_listener.set((context.run_id, listen))
    try:
        if watchers := watchers_among(observers):
            result = _watched(planned, context, watchers)
        else:
            result = _checked(planned.stage.run(context), planned, context)
    finally:
        current_listener.reset(token)
    if observers and len(result.trace) > len(context.trace):
        told = {id(event) for event in heard}
        for event in result.trace.events[len(context.trace) :]:
            # Decisions taken where the listener was out of hearing, in a thread or process of the stage's own.
            if id(event) not in told:
                announce(event, observers)
    return result


def _watched(planned: PlannedStage, context: Context, watchers: Sequence[Watcher]) -> Context:
    watch = Watch(context.run_id, planned.name, watchers)
    token = current_watch.set(watch)
    try:
        return _checked(planned.stage.run(context), planned, context)
    finally:
        current_watch.reset(token)
        watch.close()


def _hear(heard: list[Event], observers: Sequence[Observer], event: Event) -> None:
    heard.append(event)
    announce(event, observers)


def _keep(context: Context, heard: list[Event]) -> Context:
    """The Context with the decisions of an attempt that gave none back."""
    for event in heard:
        context = context._with("trace", context.trace.append(event))
    heard.clear()
    return context


def _checked(result: object, planned: PlannedStage, context: Context) -> Context:
    name = planned.name
    if not isinstance(result, Context):
        what = "None" if result is None else f"{type(result).__name__} {result!r:.80}"
        raise TypeError(f"stage {name!r} returned {what}; run() must return the Context: `return ctx.put_metric(...)`")
    same_run = (
        (result.experiment is context.experiment or result.experiment == context.experiment)
        and result.run_id == context.run_id
        and result.experiment_id == context.experiment_id
        and result.trace.events.extends(context.trace.events)
    )
    if not same_run:
        raise ValueError(
            f"stage {name!r} returned a Context of its own making; return one made from the ctx it was given"
        )
    return result


def _record(context: Context, event: Event, observers: Sequence[Observer]) -> Context:
    if observers:
        announce(event, observers)
    return context._with("trace", context.trace.append(event))


def announce(event: Event, observers: Sequence[Observer]) -> None:
    """Tell the observers of an event; one that raises is logged."""
    for observer in observers:
        try:
            observer(event)
        except Exception:  # noqa: BLE001
            # Who watches a run must not be able to change its result.
            _log.exception("the observer %r failed on %s of stage %r", observer, event.kind, event.stage)


def replay(context: Context, observers: Sequence[Observer], error: BaseException | None = None) -> None:
    """Tell the observers of a run that is over: of the events of its last Context, and of the error that ended it."""
    watching = _watched_run(context, observers)
    watching.__enter__()
    for event in context.trace.events:
        announce(event, observers)
    watching.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)


@contextlib.contextmanager
def _watched_run(context: Context, observers: Sequence[Observer]) -> Iterator[None]:
    """Around a run, for the observers that watch whole runs; one that raises is logged."""
    with contextlib.ExitStack() as stack:
        for observer in observers:
            if isinstance(observer, RunObserver):
                try:
                    watching = observer.watch_run(context)
                    watching.__enter__()
                except Exception:  # noqa: BLE001
                    _log.exception("the observer %r failed at the begin of run %s", observer, context.run_id)
                else:
                    stack.push(functools.partial(_leave, watching, observer, context.run_id))
        yield


def _leave(
    watching: contextlib.AbstractContextManager[None],
    observer: Observer,
    run_id: str,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> bool:
    try:
        watching.__exit__(kind, error, trace)
    except Exception:  # noqa: BLE001
        _log.exception("the observer %r failed at the end of run %s", observer, run_id)
    return False  # what ended the run is not an observer's to withhold


def _retried(name: str, attempt: int, delay: float, error: BaseException) -> StageRetried:
    return StageRetried(
        stage=name, attempt=attempt, delay=delay, error_type=type_name(error), message=_readable(error_text(error))
    )


def _failure(name: str, error: BaseException, attempts: int, seconds: float) -> StageFailed:
    message = f"it called sys.exit({error.code!r})" if isinstance(error, SystemExit) else error_text(error)
    shown = traceback.format_exception(type(error), error, _below_this_module(error.__traceback__))
    return StageFailed(
        stage=name,
        seconds=seconds,
        attempts=attempts,
        error_type=type_name(error),
        message=_readable(message),
        traceback=_readable("".join(shown)),
    )


def _readable(text: str) -> str:
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT // 2]}\n… {len(text) - MAX_TEXT:,} characters left out …\n{text[-MAX_TEXT // 2 :]}"
    return safe_text(text)


def _below_this_module(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace
