"""Running an experiment: plan it, then call `run_stage` for each of its stages in turn.

Dagster's ops call the same `run_stage`, so that a run gives the same result on Dagster and without it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from time import perf_counter
from typing import Any

from crucible_core.context import Context
from crucible_core.gates.judge import judge_gates, tell_stages
from crucible_core.gates.outcome import Past
from crucible_core.ir.experiment import Experiment
from crucible_core.ir.secrets import shown_experiment
from crucible_core.observers import Audience, Observers
from crucible_core.plan import Plan, PlannedStage, plan_of
from crucible_core.registry import Registry
from crucible_core.run_errors import GateFailedError, RunInterrupted, StageFailedError
from crucible_core.run_state.attempt import Attempt, current_attempt
from crucible_core.run_state.attempt_inputs import AttemptInputs
from crucible_core.run_state.checkpoints import Kept, kept_in
from crucible_core.trace import (
    Event,
    GateJudged,
    StageSkipped,
    StageStarted,
    StageSucceeded,
)
from crucible_core.values.messages import LOST, UNUSED

__all__ = ["run_always", "run_experiment", "run_gates", "run_stage", "run_stages"]

_log = logging.getLogger("crucible")


def run_experiment(
    experiment: Experiment | Plan,
    *,
    registry: Registry | None = None,
    assigns: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    observers: Observers = (),
    jobs: int | None = None,
    keep: str | PathLike[str] | None = None,
    resources: Mapping[str, Any] | None = None,
) -> Context:
    """Run the experiment's stages one after another in this process, judge its gates, and return the last Context.

    A Plan is run as it is; an Experiment is planned first, with the stages of `registry`, by default those of
    `builtin_registry()`. The first stage finds `assigns` in `ctx.assigns`. Each of `observers` is an Observer, or a
    function that is called with every event of the trace as it happens. The experiment's `trials` are run in
    `jobs` processes; their rows are kept in the folder `keep` as they end, and trials whose rows are there are not run
    again. Runs with the same `keep` go on from each other's checkpoints; without it, runs with the same `run_id` do.
    Each of `resources` is in `ctx.resources` as it is, in place of what the experiment declares; it is not closed.

    Raises UnknownStageError, InvalidOptionsError or InvalidExperimentError before the first stage if the pipeline
    cannot be run as written. Then it raises StageFailedError (with the Context so far) if a stage raises;
    RunInterrupted, a KeyboardInterrupt, on Ctrl-C; and GateFailedError after the last stage if a blocking gate does not
    pass. Gates against a regression are undecided here, because no earlier runs are kept.
    """
    plan = plan_of(experiment, registry)
    if jobs is not None or keep is not None:
        from crucible_core.trials.log import settings_of  # noqa: PLC0415  # few experiments have trials

        plan = replace(plan, trials=settings_of(jobs, keep))
    audience = Audience.of(observers)
    shown = shown_experiment(plan.experiment, [type(stage) for _, stage in plan.stages], plan.resources)
    if resources is not None:
        from crucible_core.run_state.resources import ready_made  # noqa: PLC0415  # as above

        plan = replace(plan, resources={**plan.resources, **ready_made(resources)})
    context = Context.begin(shown, run_id=run_id, assigns=assigns)
    kept = kept_in(context.run_id, Kept(partial(plan.folder_of, context.run_id)))
    with audience.during(context.experiment_id, context.run_id), plan.running(context.run_id), kept:
        context = run_stages(plan.stages, context, audience)
        if plan.experiment.gates:
            context = run_gates(plan, context, audience)
            if audience.wants_contexts:
                audience.show(context)
            gates = context.trace.gates
            if any(one.blocks for one in gates):
                raise GateFailedError(context, gates)
    return context


def run_stages(stages: Sequence[PlannedStage], context: Context, observers: Audience | Observers = ()) -> Context:
    """Run one stage after another, and return the last Context.

    Raises StageFailedError, after the stages that run `always`, or RunInterrupted as `run_stage` does.
    """
    audience = Audience.of(observers)
    for index, planned in enumerate(stages):
        try:
            context = run_stage(planned, context, audience)
        except StageFailedError as error:
            run_always(stages[index + 1 :], error, audience)
            raise
        if audience.wants_contexts:
            audience.show(context)
    return context


def run_always(
    stages: Sequence[PlannedStage],
    error: StageFailedError,
    observers: Audience | Observers = (),
    *,
    interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
) -> None:
    """Of the stages after the one that failed, run those with `always`; `error.context` is then their last Context.

    If one of them fails too, its trace records that. Raises RunInterrupted as `run_stage` does.
    """
    for planned in stages:
        if planned.definition.always and planned.definition.enabled:
            try:
                error.context = run_stage(planned, error.context, observers, interrupts=interrupts)
            except StageFailedError as another:
                error.context = another.context


def run_gates(plan: Plan, context: Context, observers: Audience | Observers = (), past: Past | None = None) -> Context:
    """Judge the gates after the last stage: the Context with a GateJudged in its trace for each.

    Without `past`, regression gates are undecided. The reports of the run are written again, with the gates in them.
    """
    audience = Audience.of(observers)
    for result in judge_gates(context, plan, past):
        context = _record(context, GateJudged(result=result), audience)
    return tell_stages(context, plan)


def run_stage(
    planned: PlannedStage,
    context: Context,
    observers: Audience | Observers = (),
    *,
    interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
) -> Context:
    """Run one stage on `context`, with its retries, and return the Context with the stage's record in its trace.

    Each attempt begins with what the stage was given, without what the attempt before may have changed in place.

    Raises StageFailedError if its last attempt raised (or called sys.exit), RunInterrupted if one of `interrupts` was
    raised. The Context of either holds the decisions made until then, and what the stage had put.
    """
    audience = observers if isinstance(observers, Audience) else Audience.of(observers)
    # Read from its fields as they are: each attribute of a pydantic model costs as much as a call.
    definition = planned.definition.__dict__
    name, policy = definition["name"], definition["retry"]
    if not definition["enabled"]:
        return _record(context, StageSkipped(stage=name, reason="enabled: false"), audience)
    if context.experiment.budget is not None:
        from crucible_core.attempts.failures import stop_over_budget  # noqa: PLC0415  # few experiments have one

        stop_over_budget(planned, context, audience)
    started = perf_counter()
    attempts = 1
    attempt: Attempt | None = None
    try:
        # Without `_record`, here and at the end: that saves a call, twice for every stage.
        begun = StageStarted.now(name)
        if audience.observers:
            audience.tell(begun)
        context = context._record(begun)
        while True:
            attempt = Attempt(context.run_id, name, audience, planned.safe)
            inputs = AttemptInputs(planned.stage, context) if policy and attempts <= policy.max_retries else None
            try:
                result = _run_once(planned, context, attempt, audience, definition["timeout"] is not None)
                break
            except interrupts:
                raise
            except BaseException as error:
                from crucible_core.attempts.failures import failed, retried, with_unfinished  # noqa: PLC0415

                context, unfinished = with_unfinished(context, attempt)
                if policy is None or inputs is None or not policy.covers(error):
                    event = failed(planned, error, attempts, perf_counter() - started, unfinished)
                    raise StageFailedError(name, _record(context, event, audience), event.reason) from error
                delay = policy.delay_after(attempts)
                planned, context, attempt = planned._replace(stage=inputs.stage), inputs.restored(context), None
                context = _record(context, retried(planned, attempts, delay, error), audience)
            time.sleep(delay)
            attempts += 1
        succeeded = StageSucceeded.now(name, seconds=perf_counter() - started, attempts=attempts)
        if audience.observers:
            audience.tell(succeeded)
        return result._record(succeeded)
    except interrupts as interrupt:
        # Recorded as a KeyboardInterrupt, whatever the interrupt is in this environment.
        from crucible_core.attempts.failures import failed, with_unfinished  # noqa: PLC0415  # few stages fail

        context, unfinished = with_unfinished(context, attempt)
        event = failed(planned, KeyboardInterrupt("interrupted"), attempts, perf_counter() - started, unfinished)
        raise RunInterrupted(name, _record(context, event, audience)) from interrupt


def _run_once(planned: PlannedStage, context: Context, attempt: Attempt, audience: Audience, timed: bool) -> Context:
    token = current_attempt.set(attempt)
    try:
        if not timed:
            result = planned.stage.run(context)
            if not isinstance(result, Context) and isinstance(result, Awaitable):
                from crucible_core.attempts.coroutines import finished  # noqa: PLC0415  # few stages are asynchronous

                result = finished(result)
        else:
            from crucible_core.attempts.own_process import run_in_own_process  # noqa: PLC0415  # few stages have one

            result = run_in_own_process(planned, context, attempt)
    finally:
        current_attempt.reset(token)
        if attempt.own_updates is not None:
            attempt.own_updates.close()
    _check(result, planned, context)
    if result is context and (attempt.derived or attempt.heard):
        _log.warning(UNUSED, planned.name)
    elif attempt.heard and not timed:
        from crucible_core.values.decisions import lost  # noqa: PLC0415  # few stages decide

        if decisions := lost(attempt.heard, result.trace.since(context.trace)):
            _log.warning(LOST, planned.name, decisions)
    if audience.observers and len(result.trace) > len(context.trace):
        told = {id(event) for event in attempt.heard}
        for event in result.trace[len(context.trace) :]:
            # Decisions that the attempt did not see, made in a thread or process of the stage's own.
            if id(event) not in told:
                audience.tell(event)
    return result


def _check(result: object, planned: PlannedStage, context: Context) -> None:
    """Raises TypeError or ValueError if the result is not a Context made from the one that the stage was given."""
    if not isinstance(result, Context):
        what = "None" if result is None else f"{type(result).__name__} {result!r:.80}"
        raise TypeError(
            f"stage {planned.name!r} returned {what}; run() must return the Context: `return ctx.put_metric(...)`"
        )
    made, given = result.__dict__, context.__dict__
    same_run = (
        (made["experiment"] is given["experiment"] or made["experiment"] == given["experiment"])
        and made["run_id"] == given["run_id"]
        and made["experiment_id"] == given["experiment_id"]
        and made["trace"].extends(given["trace"])
    )
    if not same_run:
        raise ValueError(
            f"stage {planned.name!r} returned a Context that it did not make from ctx; "
            "return one made from the ctx it was given"
        )


def _record(context: Context, event: Event, audience: Audience) -> Context:
    if audience.observers:
        audience.tell(event)
    return context._record(event)


def __getattr__(name: str) -> Any:
    # By their old names, until version 1.0.
    from crucible_core.moved import moved_names  # noqa: PLC0415

    planning = ["advice", "plan_experiment", "plan_stage", "read_options"]
    return moved_names(__name__, dict.fromkeys(planning, "crucible_core.plan"))(name)
