"""OpenTelemetry: a run is a span, and so is each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crucible_core.telemetry.observer import OpenTelemetryObserver

__all__ = ["OpenTelemetryObserver"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crucible_core.telemetry.observer import OpenTelemetryObserver  # noqa: PLC0415  # an extra

    return OpenTelemetryObserver
