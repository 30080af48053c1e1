"""OpenTelemetry on Dagster: the steps of a run are spans of one trace, no matter how many processes run them."""

# Not `from __future__ import annotations`: Dagster reads the annotation of an op's context as a class.
import contextlib
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dagster import OpExecutionContext

from crucible_core.observers import Observers
from crucible_core.telemetry.provider import configured_provider, environment_asks
from crucible_dagster.names import gates_step, step_name

if TYPE_CHECKING:
    from crucible_core.telemetry.observer import OpenTelemetryObserver
    from crucible_dagster.execute.compiled import CompiledExperiment

__all__ = ["PARENT_TAGS", "is_last_step", "parent_tags", "traced_step", "tracing_here", "without_tracers"]

PARENT_TAGS = ("traceparent", "tracestate")
"""Run tags that name the parent span of a run: those of W3C Trace Context, as any propagator injects them."""

_log = logging.getLogger("crucible")


@contextlib.contextmanager
def traced_step(context: OpExecutionContext, compiled: "CompiledExperiment") -> Iterator[Observers]:
    """Wrap a step: the observers that make spans for it; none if tracing is not configured.

    The run's last step, or a step that raises, ends the span of the run.
    """
    tracers = _tracers(compiled)
    if not tracers:
        yield ()
        return
    run, instance = context.run, context.instance
    stored = instance.get_run_record_by_id(run.run_id)
    spans = [
        tracer.spans_of(
            compiled.experiment.id,
            run.run_id,
            parent=_parent_in(run.tags),
            attributes={
                "dagster.job": run.job_name,
                **({"dagster.parent_run_id": run.parent_run_id} if run.parent_run_id else {}),
            },
            began=datetime.fromtimestamp(stored.start_time, UTC) if stored and stored.start_time else None,
        )
        for tracer in tracers
    ]
    try:
        yield tuple(spans)
    except BaseException as error:
        for one in spans:
            one.end(error)
        raise
    else:
        if is_last_step(context, compiled):
            for one in spans:
                one.end()
    finally:
        if multiprocessing.parent_process() is not None:
            # Such a process ends without the exit handler of the SDK.
            from crucible_core.telemetry.observer import flush  # noqa: PLC0415  # an extra

            for tracer in tracers:
                flush(tracer.tracer_provider)


def parent_tags() -> dict[str, str]:
    """The tags that make a run part of the current span, or of the one that TRACEPARENT names."""
    carrier: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        TraceContextTextMapPropagator().inject(carrier)
    if "traceparent" in carrier:
        return carrier
    return {name: value for name in PARENT_TAGS if (value := os.environ.get(name.upper()))}


def tracing_here(observers: Observers) -> Observers:
    """The observers that get the events of a run when it is over, without those that would trace it again.

    If the shared environment asks for tracing, the processes of the steps have traced the run already.
    """
    return without_tracers(observers) if environment_asks() else observers


def without_tracers(observers: Observers) -> Observers:
    """The observers other than OpenTelemetry's: each step reports to OpenTelemetry itself."""
    explicit = _explicit(observers)
    return [observer for observer in observers if observer not in explicit]


def _tracers(compiled: "CompiledExperiment") -> "list[OpenTelemetryObserver]":
    if not compiled.settings.tracing:
        return []
    if explicit := _explicit(compiled.observers):
        return explicit
    provider = configured_provider()
    if provider is None:
        return []
    from crucible_core.telemetry.observer import OpenTelemetryObserver  # noqa: PLC0415  # an extra

    return [OpenTelemetryObserver(provider)]


def _explicit(observers: Observers) -> "list[OpenTelemetryObserver]":
    """OpenTelemetry observers that were passed explicitly; there can be some only if their module is loaded."""
    otel: Any = sys.modules.get("crucible_core.telemetry.observer")
    return [one for one in observers if otel is not None and isinstance(one, otel.OpenTelemetryObserver)]


def is_last_step(context: OpExecutionContext, compiled: "CompiledExperiment") -> bool:
    """Whether no step of the run comes after this one."""
    keys = context.run.step_keys_to_execute
    chosen = None if keys is None else {step_name(key) for key in keys}
    judge = gates_step(compiled.experiment)
    steps = compiled.op_names if judge is None else (*compiled.op_names, judge)
    after = steps[steps.index(context.op_handle.name) + 1 :]
    return not any(chosen is None or name in chosen for name in after)


def _parent_in(tags: Mapping[str, str]) -> Any:
    if PARENT_TAGS[0] not in tags:
        return None
    from crucible_core.telemetry.observer import parent_context  # noqa: PLC0415  # an extra

    found = parent_context({name: tags[name] for name in PARENT_TAGS if name in tags})
    if found is None:
        _log.warning(
            "the run's tag %s, %r, is not a traceparent of W3C Trace Context; the run starts a new trace",
            PARENT_TAGS[0],
            tags[PARENT_TAGS[0]],
        )
    return found
