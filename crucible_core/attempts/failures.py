"""An attempt that raised: its event, and what it had put into its Context without returning it."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from os.path import dirname, sep
from typing import Any, NamedTuple

from crucible_core.context import Context
from crucible_core.observers import Audience
from crucible_core.plan import PlannedStage
from crucible_core.run_errors import StageFailedError
from crucible_core.run_state.attempt import Attempt
from crucible_core.run_state.merging import changed_entries
from crucible_core.run_state.spending import SPENT, BudgetExceededError, check
from crucible_core.trace import StageFailed, StageRetried
from crucible_core.values.jsonable import readable_text, type_name
from crucible_core.values.messages import error_text, path_hint

__all__ = ["Put", "failed", "put_since", "retried", "shown_traceback", "stop_over_budget", "with_unfinished"]


def stop_over_budget(planned: PlannedStage, context: Context, audience: Audience) -> None:
    """Raises StageFailedError if the run has spent more than its budget when the stage is about to begin."""
    try:
        check(context, before=planned.name)
    except BudgetExceededError as error:
        event = failed(planned, error, 0, 0.0, ())
        audience.tell(event)
        raise StageFailedError(planned.name, context._record(event), event.reason) from error


def failed(
    planned: PlannedStage, error: BaseException, attempts: int, seconds: float, unfinished: tuple[str, ...]
) -> StageFailed:
    """The event of a stage whose last attempt raised; `unfinished` names what it had put."""
    message = f"it called sys.exit({error.code!r})" if isinstance(error, SystemExit) else error_text(error)
    told = getattr(error, "shown_traceback", None)  # of a stage that ran in a process of its own
    if told is None:
        # The message of a refusal of data says everything.
        told = "" if getattr(error, "explains_itself", False) else shown_traceback(error)
    return StageFailed(
        stage=planned.name,
        seconds=seconds,
        attempts=attempts,
        error_type=type_name(error),
        message=readable_text(planned.safe(message + path_hint(error))),
        traceback=readable_text(planned.safe(told)),
        unfinished=tuple(map(readable_text, unfinished)),
    )


def retried(planned: PlannedStage, attempt: int, delay: float, error: BaseException) -> StageRetried:
    """The event of an attempt that raised and is followed by another one."""
    said = readable_text(planned.safe(error_text(error)))
    return StageRetried(stage=planned.name, attempt=attempt, delay=delay, error_type=type_name(error), message=said)


def shown_traceback(error: BaseException) -> str:
    """The traceback below the frames that run a stage, as text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


_HERE = dirname(__file__)  # noqa: PTH120  # as code objects have it
_CORE = dirname(_HERE)  # noqa: PTH120
_OURS = (_HERE + sep, f"{_CORE}{sep}runner.py", f"{_CORE}{sep}stage.py")


class Put(NamedTuple):
    """What was added to a Context, except for its assigns: what half a stage assigned is not for other stages."""

    metrics: Mapping[str, Any]
    artifacts: Mapping[str, Any]
    outputs: list[Any]

    def onto(self, context: Context) -> Context:
        return context._replace(
            metrics=context.metrics.merge(self.metrics),
            artifacts=context.artifacts.merge(self.artifacts),
            outputs=context.outputs.extend(self.outputs),
        )


def with_unfinished(context: Context, attempt: Attempt | None) -> tuple[Context, tuple[str, ...]]:
    """The Context that the attempt began with, plus what it had put when it raised; and the names of the latter."""
    if attempt is None:
        return context, ()
    for event in attempt.heard:
        context = context._record(event)
    attempt.heard.clear()
    if attempt.derived is None:
        return context, ()
    put = put_since(context, attempt.derived)
    # What was spent counts in full, whether or not the stage ended.
    names = [f"metrics.{name}" for name in put.metrics if name != SPENT] + [
        f"artifacts.{name}" for name in put.artifacts
    ]
    if put.outputs:
        names.append(f"outputs[{len(context.outputs)}:]")
    return put.onto(context), tuple(names)


def put_since(before: Context, after: Context | None) -> Put:
    """What the later of two Contexts has in addition."""
    if after is None:
        return Put({}, {}, [])
    return Put(
        changed_entries(before.metrics, after.metrics),
        changed_entries(before.artifacts, after.artifacts),
        after.outputs[len(before.outputs) :],
    )
