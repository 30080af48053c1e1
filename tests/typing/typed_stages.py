"""Never run: mypy reads it. What type checkers say of stages; an error that no longer comes is an unused ignore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

from crucible_bench import Comparison, TestResult, compare, run_test
from crucible_core import (
    Context,
    Experiment,
    Observer,
    Plan,
    PlannedStage,
    Registry,
    Stage,
    load_experiment,
    plan_experiment,
    progress,
    run_experiment,
    stage,
)
from crucible_core.trace import Event, StageFailed


@stage
def train(ctx: Context, *, lr: float = 0.1) -> Context:
    return ctx.put_metric("lr", lr)


assert_type(train, type[Stage])


class Train(Stage):
    lr: float = 0.1

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("lr", self.lr)


class Ask(Stage):
    async def run(self, ctx: Context) -> Context:
        return ctx


@stage
async def ask(ctx: Context, *, times: int = 1) -> Context:
    return ctx.put_metric("asked", times)


assert_type(ask, type[Stage])


@stage  # type: ignore[arg-type]
async def asks_in_vain(ctx: Context) -> None:
    ctx.put_metric("lost", 1)


for item in progress([1, 2], description="items"):
    assert_type(item, int)
with progress(total=10) as bar:
    bar.advance(2)

Train(lr=0.2)
Train(rate=0.2)  # type: ignore[call-arg]
Train().lr = 0.3  # type: ignore[misc]  # frozen


@stage  # type: ignore[arg-type]
def forgets_the_context(ctx: Context) -> None:
    ctx.put_metric("lost", 1)


registry = Registry({"train": Train, "of_a_function": train, "ask": Ask, "of_a_coroutine": ask})
Registry({"train": 1})  # type: ignore[dict-item]

experiment = load_experiment("experiment.yaml")
assert_type(experiment, Experiment)
plan = plan_experiment(experiment, registry)
assert_type(plan, Plan)
assert_type(plan[0], PlannedStage)
assert_type([one.name for one in plan], list[str])


class Heard(Observer):
    def on_event(self, event: Event) -> None:
        if isinstance(event, StageFailed):
            assert_type(event.traceback, str)


context = run_experiment(plan, observers=[Heard(), print])
assert_type(context, Context)
run_experiment(experiment, observers=[1])  # type: ignore[list-item]
context.metrics["a"] = 1  # type: ignore[index]
assert_type(context.completed_stages, tuple[str, ...])

groups: Mapping[str, list[float]] = {"a": [1.0, 2.0], "b": [2.0, 3.0]}
assert_type(compare(groups), Comparison)
assert_type(run_test("ttest", groups), TestResult)
assert_type(compare(groups).to_dict(), dict[str, Any])
