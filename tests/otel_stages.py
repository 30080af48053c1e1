"""Stages for the tests of tracing; importable by name, as other processes need."""

from __future__ import annotations

from opentelemetry import trace

from crucible_core import Context, stage


@stage
def traces_itself(ctx: Context) -> Context:
    """Makes a span of its own."""
    with trace.get_tracer("stage").start_as_current_span("inside"):
        return ctx.put_metric("span", trace.get_current_span().get_span_context().span_id)


@stage
def decides(ctx: Context) -> Context:
    """Records two decisions."""
    ctx = ctx.decide("adam", "it converged", alternatives=["sgd", "lion"], confidence=0.75)
    return ctx.decide("\ud800 and NUL \x00", "x" * 50_000)


@stage
def breaks(ctx: Context, *, password: str = "hunter2") -> Context:
    """Raises after a decision."""
    ctx.decide("go on", "it looked fine")
    raise ValueError("the loss is NaN")
