"""Running an experiment: plan it, then fold one function, `run_stage`, over its stages.

Dagster's ops call the same `run_stage`, so that both worlds give the same result by construction.
"""

from __future__ import annotations

import functools
import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from crucible_core.context import Context
from crucible_core.gates.judge import judge_gates
from crucible_core.ir.experiment import Experiment
from crucible_core.observers import _watched_run, announce, watchers_among
from crucible_core.plan import PlannedStage, plan_experiment
from crucible_core.progress import Watch, Watcher, current_watch
from crucible_core.registry import Registry, builtin_registry
from crucible_core.run_errors import GateFailedError, RunInterrupted, StageFailedError
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
from crucible_core.values.jsonable import safe_text, type_name
from crucible_core.values.messages import error_text

__all__ = [
    "PlannedStage",
    "announce",
    "plan_experiment",
    "run_experiment",
    "run_stage",
]

_log = logging.getLogger("crucible")

MAX_TEXT = 20_000


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
