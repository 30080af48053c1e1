"""Stages for the tests of what a run is given."""

from __future__ import annotations

from pathlib import Path

from crucible_core import Context, stage


@stage
def add_up(ctx: Context, *, factor: int = 1) -> Context:
    """Adds up what it was given."""
    return ctx.put_metric("sum", factor * (float(ctx.assigns["numbers"].sum()) + ctx.assigns["total"]))


@stage
def break_once(ctx: Context, *, mark: str) -> Context:
    """Fails the first time."""
    if not Path(mark).exists():
        Path(mark).touch()
        raise RuntimeError("the first time")
    return ctx


@stage
def nothing(ctx: Context) -> Context:
    """Does nothing."""
    return ctx
