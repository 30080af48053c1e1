"""The observers that the process of a step makes itself: OpenTelemetry's, and those that the environment names."""

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
    """Wrap a step: the observers that its process makes, in addition to those that the job was given.

    An observer that the environment names is told in each step that the run starts. The last step, or one that raises,
    tells it that the run ended.
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
