"""The ops that share the trials of an experiment: each runs a part of the table, and keeps the rows in the store.

They are static, so that every Dagster executor can run them. The op of the stage `trials` comes after them; it finds
the rows in the store, and runs the trials that are missing.
"""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from dagster import In, Nothing, OpDefinition, OpExecutionContext, Out, Output

from crucible_core import (
    BudgetExceededError,
    Context,
    InvalidExperimentError,
    RunInterrupted,
    StageFailedError,
    run_stage,
)
from crucible_core.ir.secrets import secrets_of, shown_experiment
from crucible_core.observers import Audience
from crucible_core.plan import plan_stage
from crucible_dagster.execute.captured_logs import captured_logs
from crucible_dagster.execute.compiled import RUN_KEY, compiled_of, plan_with_resources
from crucible_dagster.execute.event_log import EventLogObserver
from crucible_dagster.execute.failures import StepFailure
from crucible_dagster.execute.orphan_watch import watch_for_orphan
from crucible_dagster.execute.step import INTERRUPTS, as_launched, begun, trials_of
from crucible_dagster.history.source_identity import packages_of
from crucible_dagster.names import sharing
from crucible_dagster.store.io_manager import STORE_KEY, ContextIOManager

__all__ = ["worker_op"]


@functools.cache
def worker_op(*, first: bool, resources: tuple[str, ...] = ()) -> OpDefinition:
    """The op that runs a share of the trials. It is one object, no matter how many experiments use it."""

    def compute(context: OpExecutionContext, inputs: Mapping[str, Any]) -> Iterator[Any]:
        _run_share(context, inputs.get("upstream"))
        yield Output(None, output_name="done")

    return OpDefinition(
        compute_fn=compute,
        name="_".join(["crucible_trial_worker", *(["first"] if first else []), *resources]),
        description="Runs a share of the trials; the op `trials` gathers their rows.",
        ins={} if first else {"upstream": In(Context)},
        outs={"done": Out(Nothing)},
        required_resource_keys={STORE_KEY, RUN_KEY, *resources},
    )


def _run_share(context: OpExecutionContext, upstream: Context | None) -> None:
    from crucible_core.stages.trials import RunTrials  # noqa: PLC0415  # few experiments have trials

    compiled = compiled_of(context)
    manager: ContextIOManager = getattr(context.resources, STORE_KEY)
    shared = sharing(context.op_handle.name)
    assert shared is not None
    step, number = shared
    index = compiled.op_names.index(step)
    try:
        launched = as_launched(compiled, context)
        plan = compiled.plan_of(launched)
        shown = shown_experiment(launched, [type(one.stage) for one in plan.stages], plan.resources, first=index)
        planned = plan_stage(launched, index, compiled.registry)
    except InvalidExperimentError as error:
        raise StepFailure(str(error)) from error
    assert isinstance(planned.stage, RunTrials)
    if number > planned.stage.workers:
        context.log.info(f"nothing to do: this run has {planned.stage.workers} workers")
        return
    share = planned._replace(stage=planned.stage.share_of(number - 1))
    audience = Audience((EventLogObserver(context, compiled.experiment, compiled.settings),), compiled.failed_observers)
    inner = list(planned.stage.planned_stages(launched))
    packages = {name for one in inner for name in packages_of(type(one.stage))}
    known = {text for one in inner for text in secrets_of(one.stage, one.definition.options)}
    with (
        trials_of(plan_with_resources(plan, compiled, context), manager, context.run).running(context.run_id),
        watch_for_orphan(context.instance, context.run_id),
        captured_logs(context.log, sorted(packages), compiled.settings, sorted(known, key=len, reverse=True)),
    ):
        try:
            run_stage(share, begun(context, upstream, shown), audience, interrupts=INTERRUPTS)
        except StageFailedError as error:
            if isinstance(error.__cause__, BudgetExceededError):
                context.log.warning(f"nothing to do: {error}")  # the op `trials` will fail with it
                return
            raise StepFailure(str(error), cause=error.__cause__) from error.__cause__
        except RunInterrupted as interrupt:
            raise (interrupt.__cause__ or interrupt) from None
