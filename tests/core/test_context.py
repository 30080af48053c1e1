"""The Context is a value: verbs return a new one, and the old one is as it was."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stages_for_tests import experiment_of

from crucible_core import Context, CrucibleError, StageStarted, StageSucceeded, Trace

names = st.sampled_from(["a", "b", "c"])
values = st.integers() | st.none() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
verbs: st.SearchStrategy[tuple[str, Callable[[Context], Context]]] = st.one_of(
    st.tuples(st.just("metrics"), st.builds(lambda n, v: lambda c: c.put_metric(n, v), names, values)),
    st.tuples(
        st.just("metrics"),
        st.builds(lambda n, v: lambda c: c.update_metric(n, lambda old: [old, v]), names, values),
    ),
    st.tuples(st.just("metrics"), st.builds(lambda d: lambda c: c.merge_metrics(d), st.dictionaries(names, values))),
    st.tuples(st.just("outputs"), st.builds(lambda v: lambda c: c.add_output(v), values)),
    st.tuples(st.just("outputs"), st.builds(lambda v: lambda c: c.add_outputs(v), st.lists(values, max_size=3))),
    st.tuples(st.just("artifacts"), st.builds(lambda n, v: lambda c: c.put_artifact(n, v), names, values)),
    st.tuples(st.just("assigns"), st.builds(lambda n, v: lambda c: c.assign(n, v), names, values)),
    st.tuples(st.just("assigns"), st.builds(lambda d: lambda c: c.assign(d), st.dictionaries(names, values))),
    st.tuples(st.just("trace"), st.builds(lambda: lambda c: c.decide("this", "that"))),
)
PARTS = ("outputs", "metrics", "artifacts", "trace", "assigns")


def begun(**assigns: Any) -> Context:
    return Context.begin(experiment_of("a", "b"), run_id="run-1", assigns=assigns)


def snapshot(ctx: Context) -> dict[str, Any]:
    held = {"outputs": list(ctx.outputs), "trace": list(ctx.trace)}
    return held | {name: dict(getattr(ctx, name)) for name in ("metrics", "artifacts", "assigns")}


def test_a_context_begins_with_the_experiment_and_what_was_assigned() -> None:
    ctx = begun(data=[1])
    assert (ctx.experiment_id, ctx.run_id, ctx.experiment.id) == ("tried", "run-1", "tried")
    assert dict(ctx.assigns) == {"data": [1]}
    assert (list(ctx.outputs), dict(ctx.metrics), dict(ctx.artifacts), list(ctx.trace)) == ([], {}, {}, [])
    assert ctx.completed_stages == ()


def test_runs_without_an_id_get_different_ones() -> None:
    assert Context.begin(experiment_of("a")).run_id != Context.begin(experiment_of("a")).run_id


@pytest.mark.parametrize("run_id", ["../x", "a/b", ".hidden", "a b", "a\n", "a" * 129, "ä", "-x", "a\x00", "_"])
def test_a_run_id_that_could_name_no_file_is_refused(run_id: str) -> None:
    with pytest.raises(CrucibleError, match="cannot be used: it names files"):
        Context.begin(experiment_of("a"), run_id=run_id)


@settings(max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 20), verbs), max_size=12))
def test_no_verb_changes_any_context_that_exists_and_each_changes_one_part(
    steps: list[tuple[int, tuple[str, Callable[[Context], Context]]]],
) -> None:
    contexts = [begun(a=1)]
    snapshots = [snapshot(contexts[0])]
    for choice, (part, verb) in steps:
        before = contexts[choice % len(contexts)]
        after = verb(before)
        for name in PARTS:
            if name != part:
                assert getattr(after, name) is getattr(before, name)
        contexts.append(after)
        snapshots.append(snapshot(after))
        assert [snapshot(one) for one in contexts] == snapshots


@given(names, values)
def test_what_was_put_is_there(name: str, value: Any) -> None:
    ctx = begun().put_metric(name, value).put_artifact(name, value).assign(name, value).add_output(value)
    assert ctx.get_metric(name) == ctx.get_artifact(name) == ctx.assigns[name] == ctx.outputs[-1] == value
    assert ctx.has_metric(name)
    assert ctx.has_artifact(name)


@given(st.dictionaries(names, values), st.dictionaries(names, values), st.dictionaries(names, values))
def test_merging_metrics_is_associative_and_the_later_wins(a: Any, b: Any, c: Any) -> None:
    one_by_one = begun().merge_metrics(a).merge_metrics(b).merge_metrics(c)
    assert dict(one_by_one.metrics) == {**a, **b, **c}
    assert one_by_one == begun().merge_metrics({**a, **{**b, **c}})


def test_what_is_not_there_is_the_default() -> None:
    ctx = begun()
    assert (ctx.get_metric("x"), ctx.get_metric("x", 0), ctx.get_artifact("x", "y")) == (None, 0, "y")
    assert not ctx.has_metric("x")
    assert not ctx.has_artifact("x")


def test_a_metric_that_is_none_is_there() -> None:
    assert begun().put_metric("x", None).has_metric("x")
    assert begun().put_metric("x", None).get_metric("x", 5) is None


def test_a_metric_is_updated_from_its_value_or_the_default() -> None:
    ctx = begun().update_metric("n", lambda n: n + 1, 0).update_metric("n", lambda n: n + 1, 0)
    assert ctx.get_metric("n") == 2


@pytest.mark.parametrize("name", [1, None, ("a",), b"a"])
@pytest.mark.parametrize(
    "put",
    [
        lambda ctx, name: ctx.put_metric(name, 1),
        lambda ctx, name: ctx.merge_metrics({name: 1}),
        lambda ctx, name: ctx.put_artifact(name, "x"),
        lambda ctx, name: ctx.assign({name: 1}),
    ],
    ids=["put_metric", "merge_metrics", "put_artifact", "assign"],
)
def test_names_are_texts(put: Callable[[Context, Any], Context], name: Any) -> None:
    with pytest.raises(TypeError, match="is a string, not"):
        put(begun(), name)


def test_assign_takes_names_a_pair_or_a_mapping() -> None:
    ctx = begun().assign(model="m").assign("data", [1]).assign({"lr": 0.1}, seed=1)
    assert dict(ctx.assigns) == {"model": "m", "data": [1], "lr": 0.1, "seed": 1}


def test_options_named_like_the_arguments_can_be_assigned() -> None:
    assert dict(begun().assign(values=1, value=2, self=3).assigns) == {"values": 1, "value": 2, "self": 3}


@pytest.mark.parametrize(
    "call",
    [
        lambda ctx: ctx.assign("model"),
        lambda ctx: ctx.assign("model", 1, lr=2),
        lambda ctx: ctx.assign({"model": 1}, 2),
    ],
    ids=["a name without a value", "a pair and names", "a mapping and a value"],
)
def test_assign_drops_nothing_that_it_was_given(call: Callable[[Context], Context]) -> None:
    with pytest.raises(TypeError):
        call(begun())


@pytest.mark.parametrize("outputs", ["a text", {"one": "record"}])
def test_one_record_given_as_several_is_not_taken_apart(outputs: Any) -> None:
    with pytest.raises(TypeError, match="add_output"):
        begun().add_outputs(outputs)


def test_outputs_may_come_from_a_generator() -> None:
    assert list(begun().add_outputs(n * n for n in range(3)).outputs) == [0, 1, 4]


@pytest.mark.parametrize("part", [*PARTS, "run_id", "experiment", "anything"])
def test_no_attribute_can_be_set(part: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(begun(), part, None)


def test_plain_collections_given_to_the_constructor_are_taken_over() -> None:
    metrics = {"a": 1}
    ctx = Context("tried", "r", experiment_of("a"), outputs=[1], metrics=metrics)
    metrics["b"] = 2
    assert list(ctx.add_output(2).outputs) == [1, 2]
    assert dict(ctx.put_metric("c", 3).metrics) == {"a": 1, "c": 3}


# --- decisions ------------------------------------------------------------------------------------------------------


def test_a_decision_is_an_event_of_the_stage_that_runs() -> None:
    ctx = dataclasses.replace(begun(), trace=Trace([StageStarted(stage="train")]))
    decision = ctx.decide("adam", "it converged", alternatives=["sgd"], confidence=0.5).trace.decisions[0]
    assert (decision.stage, decision.decision, decision.reasoning) == ("train", "adam", "it converged")
    assert (decision.alternatives, decision.confidence) == (("sgd",), 0.5)
    assert decision.at.tzinfo is not None


@pytest.mark.parametrize("confidence", [-0.1, 1.1, math.nan, math.inf, "high"])
def test_a_confidence_is_between_0_and_1(confidence: Any) -> None:
    with pytest.raises(ValueError, match="confidence"):
        begun().decide("a", "b", confidence=confidence)


def test_one_alternative_given_as_a_text_is_not_taken_apart() -> None:
    try:
        ctx = begun().decide("adam", "it converged", alternatives="sgd")
    except TypeError:
        return
    assert ctx.trace.decisions[0].alternatives == ("sgd",)


@pytest.mark.parametrize("text", ["caf\udce9.csv", "a\x00b", "\ud800"])
def test_a_decision_about_a_name_that_is_not_unicode_is_recorded(text: str) -> None:
    ctx = begun().decide(f"read {text}", f"{text} is newest", alternatives=[text])
    assert Trace.from_json(ctx.trace.to_json()) == ctx.trace
    assert "read" in ctx.trace.decisions[0].decision


def test_completed_stages_are_those_that_succeeded_in_order() -> None:
    events = [StageSucceeded(stage="a", seconds=0), StageStarted(stage="b"), StageSucceeded(stage="c", seconds=0)]
    ctx = dataclasses.replace(begun(), trace=Trace(events))
    assert ctx.completed_stages == ("a", "c")
    assert ctx.stage_completed("a")
    assert not ctx.stage_completed("b")


# --- equality -------------------------------------------------------------------------------------------------------


def test_differences_name_each_part_that_differs() -> None:
    one = begun(x=1, same=0).put_metric("m", 1).add_output(1).put_artifact("f", "a").decide("a", "b")
    two = begun(x=2, same=0).put_metric("n", 1).add_output(2).put_artifact("f", "b").decide("a", "c")
    found = one.differences(two)
    assert set(found) == {"metrics['m']", "metrics['n']", "artifacts['f']", "assigns['x']", "outputs", "decisions"}
    assert set(two.differences(one)) == set(found)


def test_times_and_run_ids_are_no_differences() -> None:
    one = Context.begin(experiment_of("a"), run_id="one").decide("a", "b").put_artifact("r", "reports/one/r.md")
    two = Context.begin(experiment_of("a"), run_id="two").decide("a", "b").put_artifact("r", "reports/two/r.md")
    assert one.differences(two) == ()
    assert one != two


def test_the_type_of_a_value_counts() -> None:
    assert begun(x=1).differences(begun(x=1.0)) == ("assigns['x']",)
    assert begun(x=1).differences(begun(x=True)) == ("assigns['x']",)
    assert begun(x=(1,)).differences(begun(x=[1])) == ("assigns['x']",)
    assert begun(x=np.float64(1)).differences(begun(x=1.0)) == ("assigns['x']",)


def test_none_differs_from_nothing() -> None:
    assert begun(x=None).differences(begun()) == ("assigns['x']",)


def test_nan_is_the_same_as_nan() -> None:
    assert (
        begun(x=float("nan"), y=[np.array([1, np.nan])]).differences(begun(x=math.nan, y=[np.array([1, np.nan])])) == ()
    )


def test_a_context_equals_its_copies() -> None:
    ctx = begun(x=np.arange(3), y=math.nan, z={"a": [1]}).put_metric("m", 1).add_output(Path("a")).decide("a", "b")
    assert copy.copy(ctx) == ctx
    assert copy.deepcopy(ctx) == ctx
    assert ctx != ctx.put_metric("m", 2)
    assert ctx != "a context"


def test_a_context_cannot_be_hashed() -> None:
    with pytest.raises(TypeError):
        hash(begun())


def test_a_context_shows_names_and_not_its_data() -> None:
    shown = repr(begun(data=list(range(10_000))).put_metric("m", 1).add_output(1))
    assert shown == (
        "Context('tried', run 'run-1', metrics=['m'], artifacts=[], assigns=['data'], 1 outputs, 0 events)"
    )
