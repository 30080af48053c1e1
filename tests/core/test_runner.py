"""Running an experiment: planned first, then stage by stage, each with exactly one ending, whatever it does."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, field_validator
from stages_for_tests import STAGES, Broken, Train, experiment_of, registry

from crucible_core import (
    Context,
    CrucibleError,
    Decision,
    Event,
    Experiment,
    GateFailedError,
    InvalidExperimentError,
    InvalidOptionsError,
    Observer,
    PlannedStage,
    ProgressUpdate,
    Registry,
    RunInterrupted,
    Stage,
    StageFailed,
    StageFailedError,
    StageRetried,
    StageSkipped,
    StageStarted,
    StageSucceeded,
    Trace,
    UnknownStageError,
    load_experiment,
    plan_experiment,
    progress,
    run_experiment,
    run_stage,
    stage,
)


def run(*pipeline: str | dict[str, Any], **more: Any) -> Context:
    return run_experiment(experiment_of(*pipeline), **{"registry": registry(), **more})


def kinds(ctx: Context) -> list[tuple[str, str]]:
    return [(event.stage, event.kind.removeprefix("stage_")) for event in ctx.trace.events]


def stopped(*pipeline: str | dict[str, Any], **more: Any) -> StageFailedError:
    with pytest.raises(StageFailedError) as caught:
        run(*pipeline, **more)
    return caught.value


# --- the normal case ------------------------------------------------------------------------------------------------


def test_stages_run_in_order_and_each_receives_the_context_of_the_one_before() -> None:
    ctx = run("add", {"name": "again", "module": "add", "options": {"by": 2}}, {"name": "last", "module": "add"})
    assert ctx.get_metric("total") == 4.0
    assert ctx.completed_stages == ("add", "again", "last")


def test_the_trace_tells_the_start_and_the_end_of_each_stage() -> None:
    ctx = run("nothing", "choose", "measure")
    assert kinds(ctx) == [
        ("nothing", "started"),
        ("nothing", "succeeded"),
        ("choose", "started"),
        ("choose", "decision"),
        ("choose", "succeeded"),
        ("measure", "started"),
        ("measure", "succeeded"),
    ]
    times = [event.at for event in ctx.trace.events]
    assert times == sorted(times)
    assert all(ending.seconds >= 0 and ending.attempts == 1 for ending in ctx.trace.endings.values())


def test_what_is_assigned_at_the_start_is_found_by_the_first_stage() -> None:
    ctx = run({"name": "train", "options": {"epochs": 20}}, assigns={"points": [(1.0, 3.0)]})
    assert ctx.get_metric("slope") == pytest.approx(3.0, abs=0.5)


def test_the_run_id_is_kept() -> None:
    assert run("nothing", run_id="run.1-a_b").run_id == "run.1-a_b"


def test_a_run_id_that_cannot_be_used_is_refused_before_the_first_stage() -> None:
    with pytest.raises(CrucibleError, match=r"run id '\.\./x' cannot be used"):
        run({"name": "sleep", "options": {"ready": "ran"}}, run_id="../x")
    assert not Path("ran").exists()


def test_without_a_registry_the_built_in_stages_are_there() -> None:
    assert run_experiment(experiment_of("validate")).get_metric("validate")["skipped"] == []


def test_an_empty_registry_is_not_replaced_by_the_built_in_stages() -> None:
    with pytest.raises(UnknownStageError, match="registered: none"):
        run_experiment(experiment_of("validate"), registry=Registry())


def test_two_runs_of_one_experiment_give_the_same_values() -> None:
    pipeline = ["odd_values", "choose", {"name": "train", "options": {"epochs": 3}}]
    assert run(*pipeline).differences(run(*pipeline)) == ()


def test_values_that_json_does_not_have_are_kept() -> None:
    ctx = run("odd_values")
    assert ctx.get_metric("infinity") == float("inf")
    assert ctx.get_metric("pair") == (1, 2.5)
    assert isinstance(ctx.get_artifact("file"), Path)
    assert ctx.assigns["many"] == {1, 2, 3}


def test_what_a_stage_changes_in_place_is_kept() -> None:
    given_values = {"model": {"weights": [1, 2], "nested": {}}}
    ctx = run({"name": "assign", "options": {"values": given_values}}, "change_in_place", "nothing")
    assert ctx.assigns["model"] == {"weights": [1, 2, 3], "nested": {"deep": True}}


def test_a_run_changes_no_options_of_the_experiment() -> None:
    given_values = {"model": {"weights": [1], "nested": {}}}
    experiment = experiment_of({"name": "assign", "options": {"values": given_values}}, "change_in_place")
    before = experiment.to_json()
    run_experiment(experiment, registry=registry())
    run_experiment(experiment, registry=registry())
    assert experiment.to_json() == before


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["ok", "skip", "decide"]), min_size=1, max_size=8), st.none() | st.integers(0, 7))
def test_each_stage_ends_in_exactly_one_record(plan: list[str], failing: int | None) -> None:
    modules = {"ok": "nothing", "skip": "fail", "decide": "choose"}
    pipeline = [
        {
            "name": f"s{i}",
            "module": "fail" if i == failing else modules[kind],
            "enabled": i == failing or kind != "skip",
        }
        for i, kind in enumerate(plan)
    ]
    try:
        ctx = run(*pipeline)
        reached = len(plan)
    except StageFailedError as error:
        ctx = error.context
        reached = failing + 1
    expected = [
        "stage_failed" if i == failing else "stage_skipped" if kind == "skip" else "stage_succeeded"
        for i, kind in enumerate(plan[:reached])
    ]
    assert [ending.kind for ending in ctx.trace.endings.values()] == expected
    endings = [event for event in ctx.trace.events if isinstance(event, StageSucceeded | StageFailed | StageSkipped)]
    assert [event.stage for event in endings] == [f"s{i}" for i in range(reached)]


# --- refused before the first stage ---------------------------------------------------------------------------------


def refused(*pipeline: str | dict[str, Any], more: dict[str, type[Stage]] | None = None) -> InvalidExperimentError:
    """The error of a plan whose first stage, were it to run, would leave a file."""
    first = {"name": "first", "module": "sleep", "options": {"seconds": 0.0, "ready": "ran"}}
    with pytest.raises(InvalidExperimentError) as caught:
        run_experiment(experiment_of(first, *pipeline), registry=registry() | (more or {}))
    assert not Path("ran").exists()
    return caught.value


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ("bnech", ["unknown stage 'bnech'; did you mean 'bench'?", "registered: add, assign, bench"]),
        ({"name": "train"}, ["stage 'train', option 'epochs' is missing"]),
        (
            {"name": "train", "options": {"epochs": 1, "epoch": 2}},
            ["stage 'train' has no option 'epoch'; did you mean 'epochs'?; its options: epochs, optimizer, seeds"],
        ),
        ({"name": "train", "options": {"epochs": "3"}}, ["option epochs: should be a valid integer", "'3'"]),
        ({"name": "train", "options": {"epochs": 1.5}}, ["option epochs", "valid integer", "1.5"]),
        ({"name": "train", "options": {"epochs": True}}, ["option epochs", "valid integer", "True"]),
        ({"name": "train", "options": {"epochs": None}}, ["option epochs", "valid integer", "None"]),
        ({"name": "train", "options": {"epochs": 0}}, ["option epochs", "greater than or equal to 1", "0"]),
        ({"name": "train", "options": {"epochs": [1]}}, ["option epochs", "valid integer"]),
        ({"name": "train", "options": {"epochs": 1, "seeds": []}}, ["option seeds", "at least 1 item"]),
        ({"name": "train", "options": {"epochs": 1, "seeds": [1, "2"]}}, ["option seeds.1", "valid integer"]),
        (
            {"name": "train", "options": {"epochs": 1, "optimizer": {"learning_rate": 0}}},
            ["option optimizer.learning_rate", "greater than 0"],
        ),
        (
            {"name": "train", "options": {"epochs": 1, "optimizer": {"kind": "adma"}}},
            ["option optimizer.kind", "'adam' or 'sgd'", "'adma'"],
        ),
        (
            {"name": "train", "options": {"epochs": 1, "optimizer": {"learning_rat": 1}}},
            [
                "option 'optimizer' of stage 'train' has no field 'learning_rat'; did you mean 'learning_rate'?; "
                "its fields: kind, learning_rate"
            ],
        ),
        ({"name": "bounds", "options": {"verbose": 1}}, ["option verbose", "valid boolean"]),
        ({"name": "bounds", "options": {"verbose": "true"}}, ["option verbose", "valid boolean"]),
        ({"name": "bounds", "options": {"share": "0.5"}}, ["option share", "valid number"]),
        ({"name": "bounds", "options": {"mode": "medium"}}, ["option mode", "'fast' or 'slow'"]),
        ({"name": "bounds", "options": {"pair": [1]}}, ["option 'pair.1' is missing"]),
        ({"name": "bounds", "options": {"size": "big"}}, ["option size"]),
        ({"name": "measure", "options": {"value": "high"}}, ["stage 'measure', option value: should be a valid"]),
        ({"name": "nothing", "options": {"x": 1}}, ["stage 'nothing' has no option 'x'; its options: none"]),
        ({"name": "s", "module": "no_such_module:Train"}, ["stage 's': there is no module 'no_such_module'"]),
        ({"name": "s", "module": "os:system"}, ["stage 's': 'os:system' is not a stage"]),
        ({"name": "train", "enabled": False}, ["option 'epochs' is missing"]),
        ({"name": "bnech", "enabled": False}, ["unknown stage 'bnech'"]),
    ],
)
def test_a_mistake_is_refused_before_the_first_stage(entry: Any, parts: list[str]) -> None:
    shown = str(refused(entry))
    assert all(part in shown for part in parts), shown
    assert "https://" not in shown


def test_options_that_fit_are_taken_as_json_has_them() -> None:
    options = {"share": 0.25, "count": None, "size": [1, 2], "pair": [3, 4], "weights": {"a": 1}, "file": "x/y"}
    taken = run({"name": "bounds", "options": options}).get_metric("options")
    assert taken == {**options, "pair": [3, 4.0], "weights": {"a": 1.0}, "mode": "fast", "verbose": False}


def test_null_options_are_no_options() -> None:
    assert run({"name": "measure", "options": None}).get_metric("accuracy") == 0.5


def test_all_mistakes_are_told_at_once() -> None:
    error = refused("bnech", {"name": "train", "options": {"epochs": 0, "x": 1}}, {"name": "s", "module": "a:b:c"})
    assert [type(one) for one in error.each()] == [
        UnknownStageError,
        InvalidOptionsError,
        InvalidOptionsError,
        UnknownStageError,
    ]
    assert str(error).count("\n") == 3


def test_mistakes_are_shown_with_their_place_in_the_file() -> None:
    Path("a.yaml").write_text(
        "id: a\npipeline:\n  - name: train\n    options:\n      epochs: 1\n      optimizer:\n        kind: adma\n"
        "      seeds: [0, x]\n  - name: measure\n    options: {valu: 1}\n"
    )
    with pytest.raises(InvalidOptionsError) as caught:
        plan_experiment(load_experiment("a.yaml"), registry())
    assert sorted((one.line, one.column) for one in caught.value.each()) == [(7, 9), (8, 18), (10, 15)]
    assert caught.value.stage == "train"


def test_a_plan_names_each_stage_and_holds_its_options() -> None:
    planned = plan_experiment(
        experiment_of("nothing", {"name": "fit", "module": "train", "options": {"epochs": 2}}), registry()
    )
    assert [one.name for one in planned] == ["nothing", "fit"]
    assert planned[1].stage == Train(epochs=2)


class NeedsOutputs(Stage):
    """Knows before the run that it would fail."""

    def check(self, experiment: Experiment) -> list[str]:
        return [] if experiment.outputs else ["it needs outputs", "and time"]

    def run(self, ctx: Context) -> Context:
        return ctx


def test_what_a_stage_knows_to_be_impossible_is_refused() -> None:
    error = refused({"name": "report_all", "module": "needs"}, more={"needs": NeedsOutputs})
    assert str(error) == "stage 'report_all': it needs outputs; and time"
    assert isinstance(error, InvalidOptionsError)


def test_a_disabled_stage_is_not_asked_what_is_impossible() -> None:
    off = {"name": "needs", "enabled": False}
    assert kinds(run(off, registry=registry() | {"needs": NeedsOutputs})) == [("needs", "skipped")]


class BadCheck(Stage):
    """Its check is broken."""

    def check(self, experiment: Experiment) -> list[str]:
        raise KeyError("outputs")

    def run(self, ctx: Context) -> Context:
        return ctx


class TextCheck(BadCheck):
    """Its check returns one sentence and not a list of them."""

    def check(self, experiment: Experiment) -> str:
        return "it needs outputs"


class NoneCheck(BadCheck):
    """Its check returns nothing when nothing is wrong."""

    def check(self, experiment: Experiment) -> None:
        return None


def test_a_check_that_breaks_is_refused_with_the_name_of_the_stage() -> None:
    shown = str(refused("bad", more={"bad": BadCheck}))
    assert "stage 'bad'" in shown
    assert "KeyError" in shown


def test_one_sentence_returned_by_a_check_is_not_taken_apart() -> None:
    assert "stage 'bad': it needs outputs" in str(refused("bad", more={"bad": TextCheck}))


def test_a_check_that_returns_nothing_finds_nothing() -> None:
    assert run("bad", registry=registry() | {"bad": NoneCheck}).completed_stages == ("bad",)


class BadValidator(Stage):
    """Its validator is broken."""

    where: str = "a.b"

    @field_validator("where")
    @classmethod
    def _split(cls, value: str) -> str:
        return {"a": "b"}[value]

    def run(self, ctx: Context) -> Context:
        return ctx


def test_a_validator_that_breaks_is_refused_with_the_name_of_the_stage() -> None:
    shown = str(refused({"name": "bad", "options": {"where": "x"}}, more={"bad": BadValidator}))
    assert "stage 'bad'" in shown
    assert "KeyError" in shown


class Undefined(Stage):
    """Its option has a type that exists for type checkers only."""

    where: "NotDefinedAnywhere" = None  # noqa: F821, UP037

    def run(self, ctx: Context) -> Context:
        return ctx


def test_a_stage_whose_types_cannot_be_found_is_refused_with_the_name_of_the_stage() -> None:
    shown = str(refused("bad", more={"bad": Undefined}))
    assert "stage 'bad'" in shown
    assert "NotDefinedAnywhere" in shown


# --- skipping -------------------------------------------------------------------------------------------------------


def test_a_disabled_stage_is_skipped_and_its_record_says_so() -> None:
    ctx = run("measure", {"name": "fail", "enabled": False}, "nothing")
    assert ctx.completed_stages == ("measure", "nothing")
    skipped = ctx.trace.endings["fail"]
    assert isinstance(skipped, StageSkipped)
    assert skipped.reason == "enabled: false"
    assert kinds(ctx).count(("fail", "started")) == 0


# --- failing --------------------------------------------------------------------------------------------------------


def test_a_stage_that_raises_stops_the_run_with_the_context_as_it_stood() -> None:
    error = stopped("measure", {"name": "fail", "options": {"message": "the loss is NaN"}}, "nothing")
    assert str(error) == "stage 'fail' of experiment 'tried' failed: stages_for_tests.Broken: the loss is NaN"
    assert error.stage == "fail"
    assert isinstance(error.__cause__, Broken)
    assert error.context.get_metric("accuracy") == 0.5
    assert kinds(error.context)[-1] == ("fail", "failed")
    assert "nothing" not in error.context.trace.endings


def test_the_record_of_a_failure_holds_type_message_and_the_users_own_traceback() -> None:
    failed = stopped("fail").context.trace.endings["fail"]
    assert (failed.error_type, failed.message, failed.attempts) == ("stages_for_tests.Broken", "the loss is NaN", 1)
    assert "stages_for_tests.py" in failed.traceback
    assert "crucible_core" not in failed.traceback.replace("crucible_core/stage.py", "")
    assert failed.traceback.rstrip().endswith("Broken: the loss is NaN")


def raising(error: Any) -> type[Stage]:
    @stage
    def breaks(ctx: Context) -> Context:
        raise error

    return breaks


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class NoText(Exception):
    def __str__(self) -> str:
        return self.args


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        ValueError("a\x00b\ud800\x1b[2J"),
        KeyError("x"),
        AssertionError(),
        RecursionError("deep"),
        MemoryError(),
        StopIteration(3),
        StopAsyncIteration(),
        ExceptionGroup("several", [ValueError("a"), TypeError("b")]),
        Unprintable(),
        NoText(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        OSError(28, "No space left on device"),
        NotImplementedError,
        ValueError("x" * 5_000_000),
    ],
    ids=lambda error: getattr(error, "__name__", type(error).__name__),
)
def test_whatever_a_stage_raises_is_a_failure_of_the_stage(error: Any) -> None:
    failed = stopped("measure", "breaks", registry=registry() | {"breaks": raising(error)})
    assert failed.context.get_metric("accuracy") == 0.5
    ending = failed.context.trace.endings["breaks"]
    assert isinstance(ending, StageFailed)
    assert Trace.from_json(failed.context.trace.to_json()) == failed.context.trace
    assert isinstance(failed.__cause__, type(error) if isinstance(error, BaseException) else error)
    str(failed)


def test_a_failure_that_talks_without_end_is_recorded_at_a_readable_length() -> None:
    failed = stopped("breaks", registry=registry() | {"breaks": raising(ValueError("x" * 5_000_000))})
    assert len(failed.context.trace.to_json()) < 1_000_000


@pytest.mark.parametrize(("code", "shown"), [(None, "None"), (0, "0"), (3, "3"), ("no data", "'no data'")])
def test_sys_exit_is_a_failure_whatever_the_code(code: Any, shown: str) -> None:
    error = stopped("measure", {"name": "leave", "options": {"code": code}}, "nothing")
    assert str(error).endswith(f"it called sys.exit({shown})")
    assert error.context.trace.endings["leave"].error_type == "SystemExit"
    assert error.context.trace.endings["leave"].message == f"it called sys.exit({shown})"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("returns_none", ["returned None", "`return ctx.put_metric(...)`"]),
        ("returns_metrics", ["returned dict {'accuracy': 0.9}", "must return the Context"]),
        ("returns_foreign", ["returned a Context that it did not make", "return one made from the ctx it was given"]),
    ],
)
def test_a_stage_that_returns_the_wrong_thing_fails_with_what_to_return(name: str, parts: list[str]) -> None:
    error = stopped("measure", name)
    assert all(part in str(error) for part in parts), str(error)
    assert error.context.get_metric("accuracy") == 0.5


def test_a_stage_that_is_a_generator_fails_with_what_to_return() -> None:
    class Yields(Stage):
        """Yields."""

        def run(self, ctx: Context) -> Context:
            yield ctx

    assert "returned generator" in str(stopped("yields", registry=registry() | {"yields": Yields}))


def test_a_stage_that_returns_a_context_of_an_earlier_stage_fails() -> None:
    kept: list[Context] = []

    @stage
    def keep(ctx: Context) -> Context:
        kept.append(ctx)
        return ctx

    @stage
    def go_back(ctx: Context) -> Context:
        return kept[0]

    error = stopped("keep", "measure", "go_back", registry=registry() | {"keep": keep, "go_back": go_back})
    assert "that it did not make" in str(error)
    assert error.context.get_metric("accuracy") == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"trace": Trace()},
        {"run_id": "other"},
        {"experiment_id": "other"},
        {"experiment": experiment_of("nothing", id="other")},
    ],
    ids=["trace", "run_id", "experiment_id", "experiment"],
)
def test_a_stage_cannot_rewrite_what_the_run_is(change: dict[str, Any]) -> None:
    @stage
    def rewrite(ctx: Context) -> Context:
        return dataclasses.replace(ctx, **change)

    error = stopped("measure", "rewrite", registry=registry() | {"rewrite": rewrite})
    assert error.context.experiment_id == "tried"
    assert error.context.get_metric("accuracy") == 0.5


def test_a_run_inside_a_stage_that_fails_is_a_failure_of_the_stage() -> None:
    @stage
    def inner(ctx: Context) -> Context:
        run("fail")
        return ctx

    error = stopped("inner", registry=registry() | {"inner": inner})
    assert error.stage == "inner"
    assert isinstance(error.__cause__, StageFailedError)
    assert error.__cause__.stage == "fail"


# --- interruption ---------------------------------------------------------------------------------------------------


def test_an_interruption_is_recorded_and_is_no_exception_that_could_be_swallowed() -> None:
    with pytest.raises(RunInterrupted) as caught:
        run("measure", "interrupt", "nothing")
    assert isinstance(caught.value, KeyboardInterrupt)
    assert not isinstance(caught.value, Exception)
    assert caught.value.stage == "interrupt"
    assert caught.value.context.get_metric("accuracy") == 0.5
    ending = caught.value.context.trace.endings["interrupt"]
    assert isinstance(ending, StageFailed)
    assert ending.error_type == "KeyboardInterrupt"


def test_an_interruption_is_not_retried() -> None:
    with pytest.raises(RunInterrupted) as caught:
        run({"name": "interrupt", "retry": {"max_retries": 5}})
    assert caught.value.context.trace.endings["interrupt"].attempts == 1


def interrupt_after(seconds: float) -> None:
    main = threading.main_thread().ident
    threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGINT)).start()


def test_ctrl_c_while_a_stage_works_is_an_interruption() -> None:
    interrupt_after(0.2)
    with pytest.raises(RunInterrupted) as caught:
        run("measure", {"name": "sleep", "options": {"seconds": 20}})
    assert caught.value.stage == "sleep"


def test_ctrl_c_while_a_retry_is_waited_for_is_an_interruption() -> None:
    interrupt_after(0.3)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as caught:
        run("measure", {"name": "fail", "retry": {"max_retries": 1, "delay": 6.0}})
    assert time.monotonic() - started < 5
    assert isinstance(caught.value, RunInterrupted)
    assert caught.value.stage == "fail"
    assert caught.value.context.get_metric("accuracy") == 0.5
    assert kinds(caught.value.context)[-1] == ("fail", "failed")


def test_ctrl_c_while_an_observer_is_told_is_an_interruption() -> None:
    def observer(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "nothing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run("measure", "nothing", observers=[observer])
    assert isinstance(caught.value, RunInterrupted)
    assert caught.value.context.get_metric("accuracy") == 0.5


# --- retries --------------------------------------------------------------------------------------------------------


def test_a_stage_is_tried_again_until_it_succeeds() -> None:
    ctx = run({"name": "fail_until", "options": {"counter": "n", "succeed_at": 3}, "retry": {"max_retries": 5}})
    assert ctx.get_metric("attempt") == 3
    assert kinds(ctx) == [("fail_until", k) for k in ("started", "retried", "retried", "succeeded")]
    retried = [event for event in ctx.trace.events if isinstance(event, StageRetried)]
    assert [(one.attempt, one.delay, one.message) for one in retried] == [(1, 0.0, "attempt 1"), (2, 0.0, "attempt 2")]
    assert ctx.trace.endings["fail_until"].attempts == 3


def test_a_stage_that_fails_in_every_attempt_fails_with_the_last_error() -> None:
    error = stopped({"name": "fail_until", "options": {"counter": "n", "succeed_at": 9}, "retry": {"max_retries": 2}})
    assert "attempt 3" in str(error)
    assert error.context.trace.endings["fail_until"].attempts == 3
    assert Path("n").read_text() == "xxx"


def test_without_a_policy_a_stage_is_tried_once() -> None:
    stopped({"name": "fail_until", "options": {"counter": "n"}})
    assert Path("n").read_text() == "x"


def test_no_retries_are_no_retries() -> None:
    error = stopped({"name": "fail", "retry": {"max_retries": 0}})
    assert kinds(error.context) == [("fail", "started"), ("fail", "decision"), ("fail", "failed")]


def test_delays_are_waited_for() -> None:
    started = time.monotonic()
    retry = {"max_retries": 2, "delay": 0.1, "backoff": "linear"}
    ctx = run({"name": "fail_until", "options": {"counter": "n"}, "retry": retry})
    assert time.monotonic() - started >= 0.3
    assert ctx.trace.endings["fail_until"].seconds >= 0.3


def test_a_stage_that_returns_the_wrong_thing_is_tried_again_like_any_that_fails() -> None:
    error = stopped({"name": "returns_none", "retry": {"max_retries": 1}})
    assert error.context.trace.endings["returns_none"].attempts == 2


def test_sys_exit_is_not_retried() -> None:
    error = stopped({"name": "leave", "retry": {"max_retries": 3}})
    assert error.context.trace.endings["leave"].attempts == 1


def test_an_attempt_begins_with_what_the_first_one_had_and_the_decisions_of_those_before_it() -> None:
    attempts: list[tuple[Any, int]] = []

    @stage
    def unsteady(ctx: Context) -> Context:
        attempts.append((dict(ctx.metrics), len(ctx.trace.decisions)))
        changed = ctx.put_metric("seen", len(attempts)).decide("go on", "why not")
        if len(attempts) < 3:
            raise Broken
        return changed

    ctx = run({"name": "unsteady", "retry": {"max_retries": 3}}, registry=registry() | {"unsteady": unsteady})
    assert attempts == [({}, 0), ({}, 1), ({}, 2)]
    assert ctx.get_metric("seen") == 3
    assert len(ctx.trace.decisions) == 3


# --- observers ------------------------------------------------------------------------------------------------------


def test_observers_are_told_every_event_of_the_trace_in_order_as_it_happens() -> None:
    heard: list[Event] = []
    also: list[Event] = []
    ctx = run(
        "choose", {"name": "off", "module": "fail", "enabled": False}, "measure", observers=[heard.append, also.append]
    )
    assert heard == also == list(ctx.trace.events)
    assert all(one is other for one, other in zip(heard, ctx.trace.events, strict=True))


def test_observers_are_told_of_the_failure_and_of_the_decisions_before_it() -> None:
    heard: list[Event] = []
    error = stopped("measure", "fail", observers=[heard.append])
    assert heard == list(error.context.trace.events)


def test_an_option_of_any_type_may_have_a_default() -> None:
    class Defaults(Stage):
        """Does nothing."""

        root: Path = Path("data")
        key: SecretStr = SecretStr("hunter2")
        paths: list[Path] = Field(default=[Path("x")])

        def run(self, ctx: Context) -> Context:
            return ctx.put_metric("root", self.root)

    assert run("defaults", registry=registry() | {"defaults": Defaults}).get_metric("root") == Path("data")


def test_a_secret_is_not_shown_when_it_is_wrong() -> None:
    class Careful(Stage):
        """Does nothing."""

        key: SecretStr = Field(min_length=10)

        def run(self, ctx: Context) -> Context:
            return ctx

    with pytest.raises(InvalidOptionsError) as caught:
        run({"name": "careful", "options": {"key": "hunter2"}}, registry=registry() | {"careful": Careful})
    assert "hunter2" not in str(caught.value)


def test_what_a_stage_changes_in_the_experiment_stays_in_its_run() -> None:
    @stage
    def spoil(ctx: Context) -> Context:
        ctx.experiment.training_config["lr"] = 2
        return ctx.put_metric("lr", ctx.experiment.training_config["lr"])

    described = Experiment.model_validate({"id": "x", "pipeline": [{"name": "spoil"}], "training_config": {"lr": 1}})
    assert run_experiment(described, registry=Registry({"spoil": spoil})).get_metric("lr") == 2
    assert described.training_config == {"lr": 1}


def test_an_exception_that_is_no_interruption_is_a_failure() -> None:
    @stage
    def cancelled(ctx: Context) -> Context:
        raise asyncio.CancelledError("the query was cancelled")

    error = stopped("cancelled", registry=registry() | {"cancelled": cancelled})
    assert isinstance(error, StageFailedError)
    assert "the query was cancelled" in str(error)


def test_a_decision_is_told_while_the_stage_still_works() -> None:
    heard: list[str] = []

    @stage
    def patient(ctx: Context) -> Context:
        ctx = ctx.decide("wait", "there is time")
        assert heard[-1] == "decision"
        return ctx

    run("patient", registry=registry() | {"patient": patient}, observers=[lambda event: heard.append(event.kind)])


def test_an_observer_that_raises_changes_nothing_and_the_others_are_still_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise Broken("the screen is gone")

    ctx = run("choose", observers=[broken, heard.append])
    assert heard == list(ctx.trace.events)
    assert "the screen is gone" in caplog.text
    assert "stage 'choose'" in caplog.text


@pytest.mark.parametrize("debugging", [False, True])
def test_an_observer_that_raises_is_logged_once_in_a_run_in_one_sentence(
    debugging: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Silent(Observer):
        """Raises in every method."""

        interval = 0.0

        def __repr__(self) -> str:
            return "silent"

        def on_event(self, event: Event) -> None:
            raise Broken("the screen is gone")

        def on_progress(self, update: ProgressUpdate) -> None:
            raise Broken("the screen is gone")

        def run_ended(self, error: BaseException | None) -> None:
            raise Broken("the screen is gone")

    @stage
    def works(ctx: Context) -> Context:
        list(progress(range(3)))
        return ctx

    silent = Silent()
    with caplog.at_level("DEBUG" if debugging else "INFO", "crucible"):
        for _ in range(2):
            run("choose", "works", registry=registry() | {"works": works}, observers=[silent])
    told = [record for record in caplog.records if record.name == "crucible"]
    assert [record.getMessage() for record in told] == 2 * [
        "the observer silent failed in on_event of stage 'choose': Broken: the screen is gone; the run goes on, and "
        "further errors of it are not logged"
    ]
    assert all(bool(record.exc_info) is debugging for record in told)


def test_an_attempt_gets_as_it_is_what_cannot_be_copied() -> None:
    calls: list[list[int]] = []

    @stage
    def flaky(ctx: Context) -> Context:
        rows, lock = ctx.assigns["rows"], ctx.assigns["lock"]
        rows[0].append(1)
        calls.append(list(rows[0]))
        if len(calls) < 3:
            raise OSError("flaky")
        return ctx.put_metric("same", lock is values["lock"] and rows[0] is ctx.assigns["first"])

    first: list[int] = []
    values = {"rows": [first], "lock": threading.Lock(), "first": first}
    pipeline = {"name": "flaky", "retry": {"max_retries": 2}}
    ctx = run(pipeline, registry=registry() | {"flaky": flaky}, assigns=values)
    assert calls == [[1], [1], [1]]
    assert ctx.metrics["same"] is True


def test_without_a_retry_a_stage_gets_the_very_values_of_the_context() -> None:
    class Costly:
        def __deepcopy__(self, memo: object) -> Costly:
            raise AssertionError("it is copied")

    @stage
    def looks(ctx: Context) -> Context:
        return ctx.put_metric("same", ctx.assigns["value"] is value)

    value = Costly()
    for retry in ({}, {"retry": {"max_retries": 0}}, {"retry": {"max_retries": 1}}):
        made = run({"name": "looks", **retry}, registry=registry() | {"looks": looks}, assigns={"value": value})
        assert made.metrics["same"] is True


class Watching(Observer):
    """An observer of whole runs, which raises where it is told to, and would swallow what ends a run."""

    def __init__(self, breaks_at: str = "") -> None:
        self.breaks_at = breaks_at
        self.heard: list[str] = []

    def on_event(self, event: Event) -> None:
        self.heard.append(event.kind)

    def run_started(self, experiment_id: str, run_id: str) -> None:
        if self.breaks_at == "begin":
            raise Broken("no begin")
        self.heard.append(f"begin {run_id}")

    def run_ended(self, error: BaseException | None) -> None:
        self.heard.append("end" if error is None else f"end by {type(error).__name__}")
        if self.breaks_at == "end":
            raise Broken("no end")


def test_an_observer_of_whole_runs_is_told_of_begin_and_end_and_cannot_withhold_a_failure() -> None:
    watching = Watching()
    run("nothing", observers=[watching], run_id="first")
    assert watching.heard == ["begin first", "stage_started", "stage_succeeded", "end"]
    watching.heard.clear()
    stopped("fail", observers=[watching], run_id="second")
    assert watching.heard == [
        "begin second",
        "stage_started",
        "decision",
        "stage_failed",
        "end by StageFailedError",
    ]


@pytest.mark.parametrize("moment", ["begin", "end"])
def test_an_observer_of_whole_runs_that_raises_changes_nothing(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    watching = Watching(breaks_at=moment)
    assert run("nothing", observers=[watching]).completed_stages == ("nothing",)
    assert f"no {moment}" in caplog.text
    assert "stage_succeeded" in watching.heard
    assert stopped("fail", observers=[watching]).stage == "fail"


def test_decisions_taken_in_threads_are_told_exactly_once() -> None:
    @stage
    def parallel(ctx: Context) -> Context:
        def choose(number: int) -> Context:
            return ctx.decide(f"d{number}", "in a thread")

        with ThreadPoolExecutor(4) as pool:
            made = [*pool.map(choose, range(4))]
            made += [pool.submit(copy_context().run, choose, 4).result()]
        for one in made:
            decision = one.trace.decisions[-1]
            ctx = ctx._replace(trace=ctx.trace.append(decision))
        return ctx

    heard: list[Event] = []
    ctx = run("parallel", registry=registry() | {"parallel": parallel}, observers=[heard.append])
    told = [event.decision for event in heard if isinstance(event, Decision)]
    assert sorted(told) == ["d0", "d1", "d2", "d3", "d4"]
    assert [one.decision for one in ctx.trace.decisions] == ["d0", "d1", "d2", "d3", "d4"]


def test_a_run_inside_a_stage_keeps_its_decisions_to_itself() -> None:
    @stage
    def inner_run(ctx: Context) -> Context:
        run("choose")
        return ctx

    heard: list[Event] = []
    ctx = run("inner_run", registry=registry() | {"inner_run": inner_run}, observers=[heard.append])
    assert heard == list(ctx.trace.events)


def test_runs_in_different_threads_do_not_hear_each_other() -> None:
    def one(name: str) -> tuple[list[Event], Context]:
        heard: list[Event] = []
        pipeline = [{"name": name, "module": "choose", "options": {"times": 50}}]
        return heard, run(*pipeline, observers=[heard.append])

    with ThreadPoolExecutor(4) as pool:
        for heard, ctx in pool.map(one, ["a", "b", "c", "d"]):
            assert heard == list(ctx.trace.events)


@pytest.mark.slow
def test_many_decisions_are_told_without_getting_slower_and_slower() -> None:
    heard: list[Event] = []
    started = time.process_time()
    run({"name": "choose", "options": {"times": 20_000}}, observers=[heard.append])
    assert len(heard) == 20_002
    assert time.process_time() - started < 3.0


# --- one stage ------------------------------------------------------------------------------------------------------


def test_one_stage_runs_alone_on_any_context() -> None:
    experiment = experiment_of("add", "measure")
    ctx = Context.begin(experiment).put_metric("total", 5.0)
    planned = plan_experiment(experiment, registry())
    assert run_stage(planned[0], ctx).get_metric("total") == 6.0
    assert ctx.get_metric("total") == 5.0
    assert len(ctx.trace) == 0


def test_a_planned_stage_may_be_run_again() -> None:
    planned = plan_experiment(experiment_of("add"), registry())[0]
    assert isinstance(planned, PlannedStage)
    once = run_stage(planned, Context.begin(experiment_of("add")))
    assert run_stage(planned, once).get_metric("total") == 2.0


class Score(BaseModel):
    value: float


def test_metrics_may_be_numpy_scalars_and_models() -> None:
    @stage
    def score(ctx: Context) -> Context:
        return ctx.put_metric("a", np.float32(0.5)).put_metric("b", np.array([1, 2])).put_metric("c", Score(value=1))

    ctx = run("score", "report", registry=registry() | {"score": score})
    assert isinstance(ctx.get_metric("a"), np.float32)
    assert "0.5" in Path(ctx.get_artifact("report.markdown")).read_text()


def test_the_stages_of_these_tests_can_be_named_by_module_from_a_file() -> None:
    names = [name for name in STAGES if name not in {"assign", "fail_until", "groups", "record", "train"}]
    entries = [{"name": name, "module": f"stages_for_tests:{STAGES[name].__qualname__}"} for name in names]
    assert len(plan_experiment(experiment_of(*entries), Registry())) == len(names)


def test_progress_of_a_run_within_a_stage_that_nobody_watches_is_that_of_the_stage() -> None:
    class Following(Observer):
        interval = 0.0

        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_progress(self, update: ProgressUpdate) -> None:
            self.seen.append(update.stage)

    @stage
    def inner(ctx: Context) -> Context:
        return ctx.put_metric("n", sum(progress(range(3))))

    @stage
    def outer(ctx: Context) -> Context:
        run("inner", registry=registry() | {"inner": inner})
        return ctx

    following = Following()
    run("outer", registry=registry() | {"outer": outer}, observers=[following])
    assert set(following.seen) == {"outer"}


def test_observers_that_heard_of_the_start_hear_of_the_end_whatever_another_one_does() -> None:
    heard: list[str] = []

    class Named(Observer):
        def __init__(self, name: str) -> None:
            self.name = name

        def run_started(self, experiment_id: str, run_id: str) -> None:
            if self.name == "second":
                raise KeyboardInterrupt
            heard.append(f"{self.name} starts")

        def run_ended(self, error: BaseException | None) -> None:
            heard.append(f"{self.name} ends by {type(error).__name__}")

    with pytest.raises(KeyboardInterrupt):
        run("nothing", observers=[Named("first"), Named("second")])
    assert heard == ["first starts", "first ends by KeyboardInterrupt"]


def test_stages_planned_with_a_registry_of_ones_own_are_validated_with_it_one_by_one() -> None:
    experiment = experiment_of("nothing", "validate")
    ctx = Context.begin(experiment)
    for planned in plan_experiment(experiment, registry()):
        ctx = run_stage(planned, ctx)
    assert set(ctx.metrics["validate"]["stages"]) == {"nothing", "validate"}


# --- what only looks right --------------------------------------------------------------------------------------------


def test_an_observer_gets_the_context_after_the_gates_also_if_one_blocks_the_run() -> None:
    class Watch(Observer):
        def __init__(self) -> None:
            self.gates: list[int] = []

        def on_context(self, context: Any) -> None:
            self.gates.append(len(context.trace.gates))

    watch, gate = Watch(), {"name": "good", "metric": "total", "at_least": 9, "blocking": True}
    experiment = Experiment(id="gated", pipeline=[{"name": "add"}], gates=[gate])
    with pytest.raises(GateFailedError):
        run_experiment(experiment, registry=registry(), observers=[watch])
    assert watch.gates == [0, 1]


def test_a_decision_on_a_context_that_is_not_returned_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    @stage
    def forgets(ctx: Context) -> Context:
        for choice in ("fast", "slow", "none"):
            ctx.decide(choice, "it is small")
        return ctx.put_metric("total", 1.0).decide("kept", "it is returned")

    ctx = run("forgets", registry=Registry({"forgets": forgets}))
    assert [one.decision for one in ctx.trace.decisions] == ["kept"]
    (record,) = caplog.records
    assert "stage 'forgets' decided 'fast' and 2 more on a Context that it did not return" in record.getMessage()


def test_an_empty_run_id_is_refused_and_not_replaced() -> None:
    with pytest.raises(CrucibleError, match="run id '' cannot be used"):
        run("add", run_id="")


def test_a_context_begins_with_an_experiment() -> None:
    with pytest.raises(CrucibleError, match="this takes an Experiment, not str 'x'"):
        Context.begin("x")  # type: ignore[arg-type]


def test_jobs_are_a_number_of_processes() -> None:
    with pytest.raises(CrucibleError, match="jobs takes a number of processes, not str '4'"):
        run("add", jobs="4")
