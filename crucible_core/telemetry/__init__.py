"""OpenTelemetry: a run is a span, and so is each stage."""
