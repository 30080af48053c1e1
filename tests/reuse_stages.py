"""Stages that look at one thing each, for the tests of reused results."""

from __future__ import annotations

import time
from pathlib import Path

from crucible_core import Context, stage


@stage
def prepare(ctx: Context, *, size: int) -> Context:
    return ctx.assign(data=list(range(size))).add_output({"prepared": size})


@stage
def noise(ctx: Context, *, value: int) -> Context:
    return ctx.assign(noise=value).add_output({"noise": value}).put_metric("noise value", value)


@stage
def train(ctx: Context, *, rate: float) -> Context:
    ctx = ctx.decide(f"rate {rate}", "it was asked for")
    ctx = ctx.assign(model={"rate": rate, "sum": sum(ctx.assigns["data"]), "data": list(ctx.assigns["data"])})
    return ctx.put_metric("trained at", time.time()).add_output({"model": rate}).put_artifact("model", "a/b")


@stage
def score(ctx: Context) -> Context:
    return ctx.put_metric("score", ctx.assigns["model"]["sum"])


@stage
def asks_for_noise(ctx: Context) -> Context:
    return ctx.merge_metrics({"noise": ctx.assigns.get("noise", 0)})


@stage
def lists_names(ctx: Context) -> Context:
    return ctx.put_metric("names", sorted(ctx.assigns))


@stage
def counts_outputs(ctx: Context) -> Context:
    return ctx.put_metric("count", len(ctx.outputs))


@stage
def reads_outputs(ctx: Context) -> Context:
    return ctx.put_metric("seen", [dict(output) for output in ctx.outputs])


@stage
def reads_experiment(ctx: Context) -> Context:
    return ctx.put_metric("stages", [definition.name for definition in ctx.experiment.pipeline])


@stage
def reads_run_id(ctx: Context) -> Context:
    return ctx.put_metric("length", len(ctx.run_id))


@stage
def reads_trace(ctx: Context) -> Context:
    return ctx.put_metric("done", len(ctx.completed_stages))


@stage
def changes_in_place(ctx: Context) -> Context:
    ctx.assigns["data"].append("changed")
    return ctx


@stage
def fails_once(ctx: Context, *, marker: str) -> Context:
    if not Path(marker).exists():
        Path(marker).touch()
        raise ValueError("the first time")
    return ctx.put_metric("worked", 1)
