"""The observers of a step that its process makes for itself: OpenTelemetry's, and those that the environment names."""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dagster import OpExecutionContext

from crucible_core.observers import Audience, Observers
from crucible_core.telemetry.named import named_observers
from crucible_dagster.execute.tracing import is_last_step, traced_step

if TYPE_CHECKING:
    from crucible_dagster.execute.compiled import CompiledExperiment

__all__ = ["observed_step"]


@contextlib.contextmanager
def observed_step(context: OpExecutionContext, compiled: "CompiledExperiment") -> Iterator[Observers]:
    """Around a step: the observers that its process makes, besides those that the job was given.

    One that the environment names hears in each step that the run starts, and in the last one, or one that raises, that
    it ended.
    """
    named = named_observers()
    with traced_step(context, compiled) as traced:
        if not named:
            yield traced
            return
        audience = Audience(named, compiled.failed_observers)

        def tell(method: str, *arguments: Any) -> None:
            for one in audience.observers:
                try:
                    getattr(one, method)(*arguments)
                except Exception as raised:  # noqa: BLE001
                    audience.note_failure(one, method, raised)

        tell("run_started", compiled.experiment.id, context.run_id)
        try:
            yield (*traced, *named)
        except BaseException as error:
            tell("run_ended", error)
            raise
        if is_last_step(context, compiled):
            tell("run_ended", None)
