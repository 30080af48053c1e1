"""Stages that look at one thing each, for the tests of reused results."""

from __future__ import annotations

import copy
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crucible_core import Context, Stage, stage


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


@stage
def mark_done(ctx: Context) -> Context:
    return ctx.put_metric("done", True)


@stage
def peek_at_outputs(ctx: Context) -> Context:
    try:
        found = ctx.outputs[0]
    except IndexError:
        found = None
    return ctx.put_metric("first", found is not None)


@stage
def mapping(ctx: Context, *, weights: dict[str, int]) -> Context:
    return ctx.put_metric("order", list(weights))


@stage
def share(ctx: Context) -> Context:
    model = [1]
    return ctx.assign(model=model, wrap={"model": model}).add_output(model).assign(same=model)


@stage
def change_through_another(ctx: Context) -> Context:
    ctx.assigns["wrap"]["model"].append(2)
    return ctx


@stage
def look_at_model(ctx: Context) -> Context:
    return ctx.put_metric("length", len(ctx.assigns["model"]))


@stage
def in_threads(ctx: Context, *, threads: int = 8) -> Context:
    def write(number: int) -> None:
        ctx.assigns["results"][f"{number}"] = number

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(threads)))
    return ctx


@stage
def empty_results(ctx: Context) -> Context:
    return ctx.assign(results={})


@stage
def copies_the_context(ctx: Context) -> Context:
    return ctx.put_metric("owner", copy.copy(ctx).experiment.owner)


@stage
def spoils_and_fails(ctx: Context) -> Context:
    ctx.assigns["data"].append(lambda: 0)
    raise ValueError("the reason that counts")


def make(value: int) -> type[Stage]:
    """Makes stages of one name that do different things."""

    @stage
    def made(ctx: Context) -> Context:
        return ctx.put_metric("made", value)

    return made


made_one, made_two = make(1), make(2)


class Net:
    """Is pickled."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def score(self) -> float:
        return self.weight * 2


@stage
def make_net(ctx: Context) -> Context:
    return ctx.assign(net=Net(3.0))


@stage
def score_net(ctx: Context) -> Context:
    return ctx.put_metric("score", ctx.assigns["net"].score())


@stage
def reads_file(ctx: Context, *, data: Path) -> Context:
    return ctx.put_metric("read", data.read_text())


@stage
def reads_a_file_by_name(ctx: Context) -> Context:
    return ctx.put_metric("read", Path("named.txt").read_text())


@stage
def reads_environment(ctx: Context) -> Context:
    return ctx.put_metric("read", os.environ.get("REUSE_RATE", "none"))


@stage
def writes_file(ctx: Context, *, log: Path) -> Context:
    with log.open("a") as stream:
        stream.write("ran\n")
    return ctx.put_metric("lines", len(log.read_text().splitlines()))
