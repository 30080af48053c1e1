"""ctx.merge: what threads and tasks of a stage have made of one Context becomes one again, and nothing is lost."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from merge_stages import work

from crucible_core import (
    BudgetExceededError,
    Context,
    CrucibleError,
    Decision,
    Event,
    Experiment,
    Observer,
    Point,
    StageFailedError,
    run_experiment,
)


def experiment(*stages: str) -> Experiment:
    pipeline = [{"name": one, "module": f"merge_stages:{one}"} for one in stages]
    return Experiment.model_validate({"id": "merged", "pipeline": pipeline})


def begun() -> Context:
    return Context.begin(experiment("begin")).put_metric("first", 1).add_output({"part": -1}).assign(kept=[1])


class Watcher(Observer):
    """Notes what it hears."""

    def __init__(self) -> None:
        self.decisions: list[str] = []
        self.points: list[tuple[str, int, float]] = []

    def on_event(self, event: Event) -> None:
        if isinstance(event, Decision):
            self.decisions.append(event.decision)

    def on_points(self, stage: str, points: Sequence[Point]) -> None:
        self.points += [(one.name, one.step, one.value) for one in points]

    def on_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:
        pass


def check(done: Context, parts: int) -> None:
    assert [one.decision for one in done.trace.decisions] == ["begin", *(f"part {part}" for part in range(parts))]
    assert [one["part"] for one in done.outputs] == [-2, -1, *range(parts)]
    assert [done.metrics[f"metric_{part}"] for part in range(parts)] == list(range(parts))
    assert [done.assigns[f"value_{part}"] for part in range(parts)] == [[part] for part in range(parts)]
    assert list(done.artifacts) == ["page", *(f"file_{part}" for part in range(parts))]
    assert done.metrics["loss"].points == [(0, 9.0), *((1, 1.0 / (part + 1)) for part in range(parts))]
    assert done.metrics["same"] == "in all of them"


@pytest.mark.parametrize("how", ["fan_out", "gather"])
def test_threads_and_tasks_of_a_stage_lose_nothing_and_observers_hear_each_thing_once(how: str) -> None:
    watcher = Watcher()
    done = run_experiment(experiment("begin", how), observers=[watcher])
    check(done, 4)
    assert sorted(watcher.decisions) == ["begin", *(f"part {part}" for part in range(4))]
    assert sorted(watcher.points) == sorted(("loss", step, value) for step, value in done.metrics["loss"].points)


def test_what_was_merged_before_a_failure_is_kept() -> None:
    with pytest.raises(StageFailedError) as failed:
        run_experiment(experiment("begin", "break_after"))
    context = failed.value.context
    assert [one.decision for one in context.trace.decisions] == ["begin", "part 0", "part 1"]
    assert {"metric_0", "metric_1"} <= set(context.metrics)
    assert "metrics.metric_1" in context.trace.endings["break_after"].unfinished  # type: ignore[union-attr]


def test_many_threads_at_once() -> None:
    ctx = begun()
    with ThreadPoolExecutor(8) as pool:
        done = ctx.merge(*pool.map(lambda part: work(ctx, part), range(200)))
    assert [one["part"] for one in done.outputs] == [-1, *range(200)]
    assert [done.metrics[f"metric_{part}"] for part in range(200)] == list(range(200))
    assert len(done.trace.decisions) == len(done.metrics["loss"].points) == 200


def test_it_is_called_on_what_they_began_with_and_changes_none() -> None:
    ctx = begun()
    one, other = ctx.put_metric("a", 1), ctx.put_metric("b", 2)
    assert dict(ctx.merge(one, other).metrics) == {"first": 1, "a": 1, "b": 2}
    assert dict(ctx.merge(other, one).metrics) == {"first": 1, "b": 2, "a": 1}
    assert dict(ctx.metrics) == {"first": 1}
    assert ctx.merge() is ctx
    assert ctx.merge(ctx, ctx) is ctx


@pytest.mark.parametrize(
    ("part", "put"),
    [
        ("metrics", lambda ctx, value: ctx.put_metric("x", value)),
        ("artifacts", lambda ctx, value: ctx.put_artifact("x", value)),
        ("assigns", lambda ctx, value: ctx.assign(x=value)),
    ],
)
def test_a_name_that_two_have_set_differently_is_named(part: str, put: Any) -> None:
    ctx = put(begun(), "before")
    said = rf"{part}\['x'\] is 'one' in Context 1 of those to merge, and 'two' in Context 3: let each set a name"
    with pytest.raises(CrucibleError, match=said):
        ctx.merge(put(ctx, "one"), ctx.put_metric("y", 1), put(ctx, "two"))
    assert getattr(ctx.merge(put(ctx, "one"), put(ctx, "one")), part)["x"] == "one"


def test_a_number_and_a_series_of_one_name_are_a_conflict() -> None:
    ctx = begun()
    with pytest.raises(CrucibleError, match=r"metrics\['x'\] is Series"):
        ctx.merge(ctx.log_metric("x", 1.0), ctx.put_metric("x", 1.0))


def test_what_each_has_spent_adds_up_by_stage() -> None:
    ctx = begun().spend("usd", 0.5)
    parts = [ctx.spend("usd", 0.25).spend("tokens", part) for part in (10, 20)]
    done = ctx.merge(*parts, ctx)
    assert done.metrics["spent"] == {"usd": 1.0, "tokens": 30, "by_stage": {"": {"usd": 1.0, "tokens": 30}}}
    assert ctx.merge(parts[0]).metrics["spent"] == parts[0].metrics["spent"]


def test_a_budget_that_they_use_up_together_is_exceeded_when_they_are_merged() -> None:
    limited = Experiment.model_validate({"id": "limited", "pipeline": [{"name": "one"}], "budget": {"usd": 1.0}})
    ctx = Context.begin(limited)
    parts = [ctx.spend("usd", 0.75).decide(f"part {part}", "why", metadata={"part": part}) for part in range(2)]
    with pytest.raises(BudgetExceededError, match=r"1\.5 of 1 spent") as exceeded:
        ctx.merge(*parts)
    assert [one.metadata for one in exceeded.value.context.trace.decisions] == [{"part": 0}, {"part": 1}]


def test_only_contexts_that_were_made_of_it_are_taken() -> None:
    ctx = begun()
    one = ctx.decide("one", "first").put_metric("a", 1)
    two = ctx.decide("two", "second")
    for base, other in ((ctx.merge(one), two), (one, ctx), (ctx, begun()), (one.add_output(1), one)):
        with pytest.raises(CrucibleError, match="number 1 was not: merge all of them at once"):
            base.merge(other)
    with pytest.raises(CrucibleError, match="merge takes Contexts, not list"):
        ctx.merge([one, two])  # type: ignore[arg-type]


def test_one_that_was_in_another_process_is_no_conflict_in_what_it_has_not_changed() -> None:
    ctx = begun().assign(data={"a": [1]}).log_metric("loss", 1.0)
    there = pickle.loads(pickle.dumps(work(ctx, 1)))
    here = ctx.assign(data={"a": [2]}).log_metric("loss", 2.0)
    done = ctx.merge(there, here)
    assert done.assigns["data"] == {"a": [2]}
    assert [one["part"] for one in done.outputs] == [-1, 1]
    assert done.metrics["loss"].points == [(0, 1.0), (1, 0.5), (1, 2.0)]
