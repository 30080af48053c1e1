"""`run_experiment`, traced if OpenTelemetry is set up."""

from __future__ import annotations

import os

from crucible_core.context import Context
from crucible_core.observers import Observers
from crucible_core.plan import Plan
from crucible_core.runner import run_experiment
from crucible_core.telemetry.named import named_observers
from crucible_core.telemetry.provider import configured_provider


def run_traced(plan: Plan, *, run_id: str | None = None, observers: Observers = ()) -> Context:
    """`run_experiment`, traced if tracing is configured, below the span that TRACEPARENT in the environment names."""
    observers = (*observers, *named_observers())
    provider = configured_provider()
    if provider is None:
        return run_experiment(plan, run_id=run_id, observers=observers)
    from crucible_core.telemetry.observer import (  # noqa: PLC0415  # an extra
        OpenTelemetryObserver,
        flush,
        parent_context,
    )

    parent = parent_context({name: os.environ.get(name.upper(), "") for name in ("traceparent", "tracestate")})
    observer = OpenTelemetryObserver(provider, parent=parent)
    try:
        return run_experiment(plan, run_id=run_id, observers=[*observers, observer])
    finally:
        flush(provider)
