"""Running an experiment: plan it, then fold one function, `run_stage`, over its stages.

Dagster's ops call the same `run_stage`, so that both worlds give the same result by construction.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from crucible_core.context import Context
from crucible_core.errors import (
    InvalidExperimentError,
    InvalidOptionsError,
    RunInterrupted,
    StageFailedError,
    UnknownStageError,
)
from crucible_core.experiment import Experiment, RetryPolicy, StageDef
from crucible_core.jsonable import safe_text, type_name
from crucible_core.registry import Registry, builtin_registry
from crucible_core.stage import Stage
from crucible_core.trace import (
    Event,
    Observer,
    StageFailed,
    StageRetried,
    StageSkipped,
    StageStarted,
    StageSucceeded,
    current_listener,
)
from crucible_core.wording import describe_mistake

__all__ = ["PlannedStage", "plan_experiment", "plan_stage", "run_experiment", "run_stage"]

_log = logging.getLogger("crucible")


@dataclass(frozen=True, slots=True)
class PlannedStage:
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
    cannot be run as it is written; then StageFailedError (with the Context as it stood) if a stage raises, and
    RunInterrupted, a KeyboardInterrupt, on Ctrl-C.
    """
    planned = plan_experiment(experiment, builtin_registry() if registry is None else registry)
    context = Context.begin(experiment, run_id=run_id, assigns=assigns)
    for stage in planned:
        context = run_stage(stage, context, observers)
    return context


def plan_experiment(experiment: Experiment, registry: Registry) -> tuple[PlannedStage, ...]:
    """Find every stage, check every option, ask every stage what it knows to be wrong; run nothing.

    Raises UnknownStageError, InvalidOptionsError or InvalidExperimentError for the first mistake, with the further
    ones as its `others`.
    """
    planned: list[PlannedStage] = []
    mistakes: list[InvalidExperimentError] = []
    for index in range(len(experiment.pipeline)):
        try:
            planned.append(plan_stage(experiment, index, registry))
        except InvalidExperimentError as error:
            mistakes.extend(error.each())
    if mistakes:
        first, *others = mistakes
        first.others = tuple(others)
        raise first
    return tuple(planned)


def plan_stage(experiment: Experiment, index: int, registry: Registry) -> PlannedStage:
    """The stage at `index` of the pipeline (from 0), found and checked. Raises as `plan_experiment`."""
    definition = experiment.pipeline[index]
    try:
        found = registry.resolve(definition, folder=experiment.folder)
    except UnknownStageError as error:
        error.location = experiment.location("pipeline", index, "module" if definition.module else "name")
        raise
    try:
        # As JSON, because JSON's strict rules are the ones wanted: "0.1" is no number, but a list is a fine tuple.
        stage = found.model_validate_json(
            to_json(definition.options or {}), strict=True, context={"registry": registry}
        )
    except ValidationError as error:
        raise _invalid_options(error, experiment, index, found) from None
    if definition.enabled and (problems := tuple(stage.check(experiment))):
        raise InvalidOptionsError(
            f"stage {definition.name!r}: {'; '.join(problems)}",
            stage=definition.name,
            location=experiment.location("pipeline", index, "options"),
        )
    return PlannedStage(definition, stage)


def _invalid_options(
    error: ValidationError, experiment: Experiment, index: int, found: type[Stage]
) -> InvalidOptionsError:
    name = experiment.pipeline[index].name
    first, *others = (
        InvalidOptionsError(
            f"stage {name!r}, option {describe_mistake(dict(mistake), found.model_fields)}",
            stage=name,
            location=experiment.location("pipeline", index, "options", *mistake["loc"]),
        )
        for mistake in error.errors(include_url=False)
    )
    first.others = tuple(others)
    return first


def run_stage(planned: PlannedStage, context: Context, observers: Sequence[Observer] = ()) -> Context:
    """Run one stage on `context`, with its retries, and return the Context with the stage's record in its trace.

    Raises StageFailedError if its last attempt raised (or called sys.exit), RunInterrupted if it was interrupted.
    """
    definition = planned.definition
    name = definition.name
    if not definition.enabled:
        return _record(context, StageSkipped.of(name, reason="enabled: false"), observers)
    started = time.perf_counter()
    context = _record(context, StageStarted.of(name), observers)
    attempt = 1
    while True:
        try:
            result = _attempt(planned, context, observers)
        except (Exception, SystemExit) as error:
            policy = definition.retry
            if policy is not None and attempt <= policy.max_retries and isinstance(error, Exception):
                context = _retry(name, attempt, policy, error, context, observers)
                attempt += 1
                continue
            failed = _failure(name, error, attempt, time.perf_counter() - started)
            raise StageFailedError(name, _record(context, failed, observers), failed.reason) from error
        except BaseException as interrupt:
            # Dagster interrupts with an exception of its own; the record is the same in both worlds.
            failed = _failure(name, KeyboardInterrupt("interrupted"), attempt, time.perf_counter() - started)
            raise RunInterrupted(name, _record(context, failed, observers)) from interrupt
        succeeded = StageSucceeded.of(name, seconds=time.perf_counter() - started, attempts=attempt)
        return _record(result, succeeded, observers)


def _attempt(planned: PlannedStage, context: Context, observers: Sequence[Observer]) -> Context:
    if not observers:
        return _checked(planned.stage.run(context), planned, context)
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        _announce(event, observers)

    token = current_listener.set(listen)
    try:
        result = _checked(planned.stage.run(context), planned, context)
    finally:
        current_listener.reset(token)
    for event in result.trace.events[len(context.trace) :]:
        # Decisions taken where the listener was out of hearing, in a thread or process of the stage's own.
        if not any(event is one for one in heard):
            _announce(event, observers)
    return result


def _checked(result: object, planned: PlannedStage, context: Context) -> Context:
    name = planned.name
    if not isinstance(result, Context):
        what = "None" if result is None else f"{type(result).__name__} {result!r:.80}"
        raise TypeError(f"stage {name!r} returned {what}; run() must return the Context: `return ctx.put_metric(...)`")
    if result.run_id != context.run_id or not result.trace.events.extends(context.trace.events):
        raise ValueError(
            f"stage {name!r} returned a Context of its own making; return one made from the ctx it was given"
        )
    return result


def _record(context: Context, event: Event, observers: Sequence[Observer]) -> Context:
    if observers:
        _announce(event, observers)
    return context._with("trace", context.trace.append(event))


def _announce(event: Event, observers: Sequence[Observer]) -> None:
    for observer in observers:
        try:
            observer(event)
        except Exception:  # noqa: BLE001
            # Who watches a run must not be able to change its result.
            _log.exception("the observer %r failed on %s of stage %r", observer, event.kind, event.stage)


def _retry(
    name: str, attempt: int, policy: RetryPolicy, error: Exception, context: Context, observers: Sequence[Observer]
) -> Context:
    delay = policy.delay_after(attempt)
    event = StageRetried(
        stage=name, attempt=attempt, delay=delay, error_type=type_name(error), message=safe_text(str(error))
    )
    context = _record(context, event, observers)
    time.sleep(delay)
    return context


def _failure(name: str, error: BaseException, attempts: int, seconds: float) -> StageFailed:
    message = f"it called sys.exit({error.code!r})" if isinstance(error, SystemExit) else str(error)
    shown = traceback.format_exception(type(error), error, _below_this_module(error.__traceback__))
    return StageFailed(
        stage=name,
        seconds=seconds,
        attempts=attempts,
        error_type=type_name(error),
        message=safe_text(message),
        traceback=safe_text("".join(shown)),
    )


def _below_this_module(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace
