"""OpenTelemetry as an observer: a run as a span, and in it a span for each stage.

| what                      | in the trace                                                                        |
| ------------------------- | ----------------------------------------------------------------------------------- |
| a run                     | span `experiment <id>`; of a run whose id is a UUID, as all of Dagster's are, the    |
|                           | trace id is that UUID, unless the run has a parent                                  |
| a stage                   | span `stage <name>` below it, with the times of its events                          |
| spans that a stage makes  | below the stage's                                                                   |
| a decision                | span event `crucible.decision`                                                      |
| an attempt that failed    | span event `crucible.retry`                                                         |
| a failure, an interrupt   | span event `exception`, and the status of the stage's span and of the run's          |
| a skipped stage           | a span without duration                                                             |

Several processes that each run a part of one run give its span the same ids, and one of them ends it. Options are not
recorded: they may be secret. Texts are those of the trace.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from crucible_core import __version__
from crucible_core.errors import CrucibleError, MissingExtraError
from crucible_core.observers import Observer
from crucible_core.run_errors import RunInterrupted
from crucible_core.telemetry.provider import configured_provider
from crucible_core.trace import (
    Decision,
    Event,
    GateJudged,
    StageFailed,
    StageRetried,
    StageSkipped,
    StageStarted,
    StageSucceeded,
)
from crucible_core.values.jsonable import safe_text, type_name
from crucible_core.values.messages import cut, error_text

try:
    from opentelemetry import context as otel_context
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    raise MissingExtraError("tracing with OpenTelemetry", "otel") from None

__all__ = ["OpenTelemetryObserver", "RunSpans", "flush", "parent_context"]

_log = logging.getLogger("crucible")

MAX_TEXT = 10_000
FLUSH_PATIENCE = 5.0

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]


class OpenTelemetryObserver(Observer):
    """An observer that makes spans of any number of runs: `observers=[OpenTelemetryObserver()]`.

    `tracer_provider` is by default the one that the program has set, or else the one that the environment configures.
    `parent` is the span above the runs, a W3C `traceparent` or a Context of OpenTelemetry (default: the span that is
    current when the run begins). `attributes` are put on the span of each run.

    Raises CrucibleError if no provider is configured, or if `parent` is not a traceparent.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        *,
        parent: str | otel_context.Context | None = None,
        attributes: Attributes = MappingProxyType({}),
    ) -> None:
        provider = tracer_provider or configured_provider()
        if provider is None:
            raise CrucibleError(
                "no tracer provider is configured: call opentelemetry.trace.set_tracer_provider() before, pass one, or "
                "set OTEL_EXPORTER_OTLP_ENDPOINT"
            )
        self.tracer_provider = provider
        self.attributes = attributes
        self._parent = parent_context({"traceparent": parent}) if isinstance(parent, str) else parent
        if isinstance(parent, str) and self._parent is None:
            raise CrucibleError(
                f"the parent {parent!r} is not a traceparent of W3C Trace Context: 00-<trace>-<span>-01"
            )

    def spans_of(
        self,
        experiment_id: str,
        run_id: str,
        *,
        parent: otel_context.Context | None = None,
        attributes: Attributes = MappingProxyType({}),
        began: datetime | None = None,
    ) -> RunSpans:
        """What makes the spans of one run; `parent` is used if the observer has none."""
        return RunSpans(
            self.tracer_provider,
            experiment_id,
            run_id,
            self._parent or parent or otel_context.get_current(),
            {**self.attributes, **attributes},
            began,
        )

    def run_started(self, experiment_id: str, run_id: str) -> None:
        _current.set((*_current.get(), (self, self.spans_of(experiment_id, run_id))))

    def on_event(self, event: Event) -> None:
        if (spans := self._innermost()) is not None:
            spans(event)

    def run_ended(self, error: BaseException | None) -> None:
        spans = self._innermost()
        if spans is not None:
            _current.set(tuple(one for one in _current.get() if one[1] is not spans))
            spans.end(error)

    def _innermost(self) -> RunSpans | None:
        return next((spans for observer, spans in reversed(_current.get()) if observer is self), None)


# The runs observed here, the innermost last: a stage may start a run of its own with the same observer.
_current: ContextVar[tuple[tuple[OpenTelemetryObserver, RunSpans], ...]] = ContextVar(
    "crucible_current_spans", default=()
)


class RunSpans:
    """The spans of one run, or of the part of it that this process runs."""

    def __init__(
        self,
        provider: trace.TracerProvider,
        experiment_id: str,
        run_id: str,
        parent: otel_context.Context | None = None,
        attributes: Attributes = MappingProxyType({}),
        began: datetime | None = None,
    ) -> None:
        """`began` is when the run began (default: the time of the first event)."""
        self._tracer = provider.get_tracer("crucible", __version__)
        self._name = f"experiment {safe_text(experiment_id)}"
        self._run_id = run_id
        self._parent = parent
        self._about: Attributes = {"crucible.experiment.id": safe_text(experiment_id), "crucible.run.id": run_id}
        self._attributes = {**self._about, **attributes}
        self._began = began
        self._span: trace.Span | None = None
        self._stages: dict[str, tuple[trace.Span, Any]] = {}

    def __call__(self, event: Event) -> None:
        """Turn an event into its part of the trace."""
        match event:
            case StageStarted():
                span = self._start(event.stage, event.at)
                # Until the stage ends, the spans that it makes itself are below this one.
                token = otel_context.attach(trace.set_span_in_context(span))
                self._stages[event.stage] = span, token
            case StageSucceeded() | StageFailed() | StageSkipped():
                self._end(event)
            case StageRetried():
                self._tell(event, "crucible.retry", {
                    "crucible.attempt": event.attempt,
                    "crucible.delay_seconds": event.delay,
                    **_raised(event),
                })  # fmt: skip
            case GateJudged(result=result):
                self._tell(event, "crucible.gate", {
                    "crucible.gate.name": _text(result.gate),
                    "crucible.gate.status": result.status,
                    "crucible.gate.sentence": _text(result.sentence),
                })  # fmt: skip
            case Decision():
                confidence = {} if event.confidence is None else {"crucible.confidence": event.confidence}
                depends_on = {"crucible.depends_on": list(event.depends_on)} if event.depends_on else {}
                self._tell(event, "crucible.decision", {
                    "crucible.decision.id": event.id,
                    "crucible.decision": _text(event.decision),
                    "crucible.reasoning": _text(event.reasoning),
                    "crucible.alternatives": [_text(one) for one in event.alternatives],
                    **confidence,
                    **depends_on,
                })  # fmt: skip

    def end(self, error: BaseException | None = None) -> None:
        """The run is over; `error` is what ended it, if anything."""
        try:
            self._end_run(error)
        except Exception:  # noqa: BLE001
            # A user's own sampler or processor may raise; observing a run must not change its result.
            _log.exception("the span of run %s could not be ended", self._run_id)

    def _end_run(self, error: BaseException | None) -> None:
        now = datetime.now(UTC)
        span = self._of_run(now)
        for stage in tuple(self._stages):
            open_span, token = self._stages.pop(stage)
            otel_context.detach(token)
            open_span.set_status(trace.Status(trace.StatusCode.ERROR, "the stage did not end"))
            open_span.end(_nanoseconds(now))
        if error is None:
            span.set_attribute("crucible.outcome", "succeeded")
        else:
            interrupted = isinstance(error, RunInterrupted | KeyboardInterrupt)
            span.set_attribute("crucible.outcome", "interrupted" if interrupted else "failed")
            said = getattr(error, "description", None) or error_text(error) or type_name(error)
            span.set_status(trace.Status(trace.StatusCode.ERROR, _text(str(said))))
        span.end(_nanoseconds(now))

    def _of_run(self, now: datetime) -> trace.Span:
        if self._span is None:
            tracer = self._tracer
            if hasattr(tracer, "id_generator") and (ids := _DerivedIds.of(self._run_id)) is not None:
                tracer = copy.copy(tracer)
                tracer.id_generator = ids
            began = _nanoseconds(self._began or now)
            self._span = tracer.start_span(self._name, self._parent, start_time=began, attributes=self._attributes)
        return self._span

    def _start(self, stage: str, at: datetime) -> trace.Span:
        parent = trace.set_span_in_context(self._of_run(at), self._parent)
        attributes = {**self._about, "crucible.stage.name": safe_text(stage)}
        return self._tracer.start_span(
            f"stage {safe_text(stage)}", parent, start_time=_nanoseconds(at), attributes=attributes
        )

    def _end(self, event: StageSucceeded | StageFailed | StageSkipped) -> None:
        if event.stage in self._stages:
            span, token = self._stages.pop(event.stage)
            otel_context.detach(token)
        else:
            span = self._start(event.stage, event.at - timedelta(seconds=getattr(event, "seconds", 0.0)))
        span.set_attribute("crucible.outcome", event.kind.removeprefix("stage_"))
        match event:
            case StageSucceeded():
                span.set_attribute("crucible.attempts", event.attempts)
                if event.reused_from is not None:
                    span.set_attribute("crucible.reused_from", event.reused_from)
            case StageFailed():
                span.set_attribute("crucible.attempts", event.attempts)
                raised = {**_raised(event), "exception.stacktrace": _text(event.traceback)}
                span.add_event("exception", raised, _nanoseconds(event.at))
                span.set_status(trace.Status(trace.StatusCode.ERROR, _text(event.reason)))
            case StageSkipped():
                span.set_attribute("crucible.skipped_because", _text(event.reason))
        span.end(_nanoseconds(event.at))

    def _tell(self, event: Event, name: str, attributes: Attributes) -> None:
        span, _ = self._stages.get(event.stage, (None, None))
        (span or self._of_run(event.at)).add_event(name, attributes, _nanoseconds(event.at))


class _DerivedIds:
    """Gives the span of a run the ids that every process can derive from the run's id."""

    def __init__(self, run: uuid.UUID) -> None:
        self._run = run

    @classmethod
    def of(cls, run_id: str) -> _DerivedIds | None:
        """None for an id that is not a UUID: another run may have the same one."""
        try:
            run = uuid.UUID(run_id)
        except ValueError:
            return None
        return cls(run) if run.int else None

    def generate_trace_id(self) -> int:
        return self._run.int

    def generate_span_id(self) -> int:
        return int.from_bytes(hashlib.sha256(b"crucible run " + self._run.bytes).digest()[:8], "big") or 1

    def is_trace_id_random(self) -> bool:
        return False


def parent_context(carrier: Mapping[str, str]) -> otel_context.Context | None:
    """The Context of `traceparent` and `tracestate` in the carrier; None if it has no valid `traceparent`."""
    found = TraceContextTextMapPropagator().extract(carrier, otel_context.Context())
    return found if trace.get_current_span(found).get_span_context().is_valid else None


def flush(provider: trace.TracerProvider, patience: float = FLUSH_PATIENCE) -> None:
    """Have the provider export the spans that have ended, for at most `patience` seconds."""
    force_flush = getattr(provider, "force_flush", None)
    if force_flush is None:
        return
    # The SDK's own time limit is not kept: an exporter that cannot reach its collector tries for longer.
    flushing = threading.Thread(target=force_flush, name="crucible-flush", daemon=True)
    flushing.start()
    flushing.join(patience)
    if flushing.is_alive():
        _log.warning("spans could not be exported within %.0f s; some may be lost", patience)


def _raised(event: StageFailed | StageRetried) -> dict[str, str]:
    return {"exception.type": event.error_type, "exception.message": _text(event.message)}


def _text(text: str) -> str:
    return safe_text(cut(text, MAX_TEXT))


def _nanoseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1_000


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
