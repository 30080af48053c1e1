"""`run_experiment`, traced where OpenTelemetry is set up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crucible_core.context import Context
from crucible_core.ir.experiment import Experiment
from crucible_core.runner import run_experiment
from crucible_core.telemetry.provider import configured_provider
from crucible_core.trace import Observer

if TYPE_CHECKING:
    pass


def run_traced(experiment: Experiment, *, run_id: str | None = None, observers: Sequence[Observer] = ()) -> Context:
    """`run_experiment`, traced where tracing is configured, as a part of what TRACEPARENT in the environment names."""
    provider = configured_provider()
    if provider is None:
        return run_experiment(experiment, run_id=run_id, observers=observers)
    from crucible_core.telemetry.observer import (  # noqa: PLC0415  # an extra
        OpenTelemetryObserver,
        flush,
        parent_context,
    )

    parent = parent_context({name: os.environ.get(name.upper(), "") for name in ("traceparent", "tracestate")})
    observer = OpenTelemetryObserver(provider, parent=parent)
    try:
        return run_experiment(experiment, run_id=run_id, observers=[*observers, observer])
    finally:
        flush(provider)
