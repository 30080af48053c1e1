"""Whether runs are traced by default: if the program or the environment has configured OpenTelemetry."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = [
    "TRACING_VARIABLES",
    "configured_provider",
    "environment_asks",
]

_log = logging.getLogger("crucible")

TRACING_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
"""Runs are traced if any of these variables is set; their meaning is OpenTelemetry's."""

NEEDS_EXTRA = "needs the extra 'otel': pip install 'crucible-dagster[otel]'"
PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def configured_provider() -> TracerProvider | None:
    """The tracer provider that the program has set, or else one that the environment configures; None if neither does.

    Without one, OpenTelemetry is neither loaded nor looked for. If the environment asks for something that is not
    available, that is logged.
    """
    asked = environment_asks()
    if (not asked and "opentelemetry.trace" not in sys.modules) or _is_true("OTEL_SDK_DISABLED"):
        return None
    try:
        from opentelemetry import trace  # noqa: PLC0415  # an extra
    except ImportError:
        _say_once(NEEDS_EXTRA)
        return None
    provider = trace.get_tracer_provider()
    if not isinstance(provider, trace.ProxyTracerProvider):
        return provider
    made = _provider_of_environment() if asked else None
    if made is not None:
        trace.set_tracer_provider(made)
    return made


def environment_asks() -> list[str]:
    """The variables of the environment that ask for tracing."""
    if os.environ.get("OTEL_TRACES_EXPORTER", "").strip() == "none":
        return []
    return [name for name in TRACING_VARIABLES if os.environ.get(name)]


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() == "true"


def _provider_of_environment() -> TracerProvider | None:
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # the API alone may be there
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        _say_once(NEEDS_EXTRA)
        return None
    exporters = list(_exporters())
    if not exporters:
        return None
    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "crucible"}))
    provider = TracerProvider(resource=resource)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporters() -> Iterator[Any]:
    """The installed ones of OTEL_TRACES_EXPORTER, by the names under which OpenTelemetry finds them."""
    known: Mapping[str, Any] = {one.name: one for one in entry_points(group="opentelemetry_traces_exporter")}
    for asked in (os.environ.get("OTEL_TRACES_EXPORTER") or "otlp").split(","):
        name = asked.strip()
        if name == "otlp":
            protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
                "OTEL_EXPORTER_OTLP_PROTOCOL"
            )
            wanted = [PROTOCOLS.get(protocol, protocol)] if protocol else list(PROTOCOLS.values())
            name = next((one for one in wanted if one in known), wanted[0])
        if name not in known:
            _say_once(f"needs the exporter {name!r}, which is not installed; installed: {', '.join(sorted(known))}")
            continue
        try:
            yield known[name].load()()
        except Exception as error:  # noqa: BLE001  # a run must not fail because it cannot be traced
            _say_once(f"fails: the exporter {name!r} cannot be made: {type(error).__name__}: {error}")


def _say_once(problem: str) -> None:
    if problem not in _said:
        _said.add(problem)
        _log.warning("runs are not traced: tracing, which %s asks for, %s", ", ".join(environment_asks()), problem)


_said: set[str] = set()
