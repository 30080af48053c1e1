"""The trace: tagged events that go to JSON and back, and in every other format."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
import math
import pickle
import typing
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from stages_for_tests import experiment_of, registry

from crucible_core import (
    Context,
    CrucibleError,
    Decision,
    Event,
    GateJudged,
    GateResult,
    StageFailed,
    StageRetried,
    StageSkipped,
    StageStarted,
    StageSucceeded,
    Trace,
    run_experiment,
)
from crucible_core.report import TRACE_FORMATS, TraceFormat, diff_traces, render_trace, summarize_run
from crucible_core.values.decisions import fields_of

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
EVENTS = [
    StageStarted(stage="train", at=AT),
    Decision(stage="train", at=AT, decision="adam", reasoning="it converged", alternatives=["sgd"], confidence=0.5),
    StageRetried(stage="train", at=AT, attempt=1, delay=0.5, error_type="ValueError", message="once"),
    StageSucceeded(stage="train", at=AT, seconds=1.5, attempts=2),
    StageSkipped(stage="bench", at=AT, reason="enabled: false"),
    StageFailed(stage="report", at=AT, seconds=0.1, error_type="OSError", message="disk", traceback="Traceback\n"),
    GateJudged(
        at=AT,
        result=GateResult(
            gate="good",
            status="failed",
            severity="warn",
            blocking=False,
            sentence="accuracy is 0.5, not at least 0.9",
            numbers={"value": 0.5, "bound": math.inf},
            baseline_runs=("earlier",),
        ),
    ),
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
moments = st.datetimes(timezones=st.just(UTC) | st.builds(lambda h: timezone(timedelta(hours=h)), st.integers(-12, 12)))
finite = st.floats(allow_nan=False, allow_infinity=False)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(StageStarted, stage=texts, at=moments),
    st.builds(StageSucceeded, stage=texts, at=moments, seconds=finite, attempts=st.integers(1, 9)),
    st.builds(StageFailed, stage=texts, at=moments, seconds=finite, error_type=texts, message=texts, traceback=texts),
    st.builds(StageSkipped, stage=texts, at=moments, reason=texts),
    st.builds(
        StageRetried, stage=texts, at=moments, attempt=st.integers(1, 9), delay=finite, error_type=texts, message=texts
    ),
    st.builds(
        Decision,
        stage=texts,
        at=moments,
        decision=texts,
        reasoning=texts,
        alternatives=st.lists(texts, max_size=3),
        confidence=st.none() | st.floats(0, 1),
        depends_on=st.lists(texts, max_size=2).map(tuple),
        metadata=st.none() | st.dictionaries(texts, texts | st.integers(-9, 9) | st.lists(st.booleans()), max_size=2),
    ),
)
traces = st.lists(events, max_size=8).map(Trace)


@given(traces)
def test_a_trace_survives_json(trace: Trace) -> None:
    back = Trace.from_json(trace.to_json())
    assert back == trace
    assert [type(event) for event in back] == [type(event) for event in trace]
    assert back.to_json() == trace.to_json()


def test_a_trace_of_a_real_run_survives_json_and_pickle() -> None:
    trace = run_experiment(experiment_of("choose", "odd_values"), registry=registry()).trace
    assert Trace.from_json(trace.to_json()) == trace
    assert Trace.from_json(trace.to_json().encode()) == trace
    assert pickle.loads(pickle.dumps(trace)) == trace
    assert copy.deepcopy(trace) == trace
    assert hash(Trace.from_json(trace.to_json())) == hash(trace)


def test_events_made_by_the_runner_are_like_those_read_and_checked() -> None:
    made = StageFailed(stage="a", seconds=1.0, error_type="E", message="m", traceback="t")
    (read,) = Trace.from_json(f"[{made.to_json()}]")
    assert made == read
    assert made.to_dict() == read.to_dict() == json.loads(made.to_json())
    assert hash(made) == hash(read)
    assert repr(made) == repr(dataclasses.replace(read, at=made.at))
    assert pickle.loads(pickle.dumps(made)) == made
    assert dataclasses.replace(made, attempts=5).attempts == 5
    assert made.attempts == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.attempts = 2  # type: ignore[misc]


def test_each_kind_is_the_tag_of_one_class() -> None:
    union = typing.get_args(typing.get_args(Event)[0])
    tags = {event.kind: event for event in union}
    assert len(tags) == len(union) == len(EVENTS)
    for event in EVENTS:
        data = json.loads(Trace([event]).to_json())[0]
        assert tags[data["kind"]] is type(event)


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[{}]", '[{"kind": "unknown", "stage": "a"}]', '[{"kind": "stage_started"}]', "[1]", "nul",
        '[{"kind": "stage_skipped", "stage": "a", "at": "2026-01-01T00:00:00Z", "reason": "x", "extra": 1}]',
        '[{"kind": "stage_started", "stage": "a", "at": "2026-01-01T00:00:00"}]',
        '[{"kind": "decision", "stage": "a", "at": "2026-01-01T00:00:00Z", "decision": "x",'
        ' "reasoning": "y", "confidence": 2}]',
    ],
)  # fmt: skip
def test_a_damaged_trace_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Trace.from_json(text)


def test_a_trace_is_immutable() -> None:
    trace = Trace(EVENTS)
    with pytest.raises(AttributeError, match="events"):
        trace.events = []
    longer = trace.append(StageStarted(stage="x"))
    assert (len(trace), len(longer)) == (len(EVENTS), len(EVENTS) + 1)
    assert list(trace) == EVENTS


def test_a_trace_knows_its_decisions_and_endings() -> None:
    trace = Trace(EVENTS)
    assert [decision.decision for decision in trace.decisions] == ["adam"]
    assert {name: ending.kind for name, ending in trace.endings.items()} == {
        "train": "stage_succeeded",
        "bench": "stage_skipped",
        "report": "stage_failed",
    }
    assert Trace([EVENTS[0]]).endings == {}
    assert repr(trace) == f"Trace({len(EVENTS)} events)"


def test_times_are_in_utc_and_have_a_zone() -> None:
    assert StageStarted(stage="a").at.utcoffset() == timedelta(0)
    naive = StageStarted(stage="a", at=datetime(2026, 1, 1))
    with pytest.raises(ValidationError):
        Trace.from_json(f"[{naive.to_json()}]")


# --- other formats --------------------------------------------------------------------------------------------------


def test_each_advertised_format_is_implemented() -> None:
    assert set(TRACE_FORMATS) == set(typing.get_args(TraceFormat))


@pytest.mark.parametrize("trace_format", sorted(TRACE_FORMATS))
def test_each_format_tells_what_ran_and_what_was_decided(trace_format: Any) -> None:
    text = render_trace(Trace(EVENTS), trace_format)
    for part in ("train", "bench", "report", "adam", "skipped"):
        assert part in text
    if trace_format != "mermaid":
        assert "it converged" in text


@pytest.mark.parametrize("trace_format", sorted(TRACE_FORMATS))
def test_an_empty_trace_can_be_rendered(trace_format: Any) -> None:
    assert render_trace(Trace(), trace_format)


@settings(max_examples=60)
@given(traces, st.sampled_from(sorted(TRACE_FORMATS)))
def test_any_trace_can_be_rendered_in_any_format(trace: Trace, trace_format: Any) -> None:
    render_trace(trace, trace_format).encode()


def test_the_csv_holds_one_line_per_event() -> None:
    rows = list(csv.DictReader(io.StringIO(render_trace(Trace(EVENTS), "csv"))))
    assert [row["kind"] for row in rows] == [event.kind for event in EVENTS]
    assert rows[1]["decision"] == "adam"
    assert rows[3]["seconds"] == "1.5"
    assert rows[1]["alternatives"] == '["sgd"]'
    assert rows[5]["message"] == "disk"


def test_the_csv_has_a_column_for_everything_that_an_event_says() -> None:
    header = render_trace(Trace(), "csv").strip().split(",")
    fields = {name for event in EVENTS for name in vars(event)}
    assert set(header) == fields | {"id", "parent"}
    assert len(header) == len(fields) + 2


@given(texts)
def test_no_text_gets_out_of_its_quotes_in_mermaid(text: str) -> None:
    trace = Trace([StageStarted(stage=text), Decision(stage=text, decision=text, reasoning=text)])
    lines = render_trace(trace, "mermaid").splitlines()
    assert lines[0] == "flowchart TD"
    assert lines[1].startswith('  s0["')
    assert lines[1].endswith('"]:::running')
    assert lines[1].count('"') == 2
    assert lines[2].count('"') == 2
    assert len(lines) == 8


def test_two_equal_traces_have_no_difference_whatever_their_times() -> None:
    later = [dataclasses.replace(event, at=AT + timedelta(days=1)) for event in EVENTS]
    later[3] = StageSucceeded(stage="train", at=AT, seconds=99.0, attempts=2)
    assert diff_traces(Trace(EVENTS), Trace(later)) == ()


def test_the_difference_of_two_traces_names_what_changed() -> None:
    other = [
        *EVENTS[:1],
        Decision(stage="train", decision="sgd", reasoning="it was faster"),
        StageSucceeded(stage="train", seconds=1.0),
        StageSucceeded(stage="bench", seconds=1.0),
    ]
    lines = diff_traces(Trace(EVENTS), Trace(other))
    assert any(line.startswith("- train, decision 1: adam, because it converged") for line in lines)
    assert any(line.startswith("+ train, decision 1: sgd, because it was faster") for line in lines)
    assert any(line.startswith("- bench: skipped") for line in lines)
    assert any(line.startswith("+ bench: succeeded") for line in lines)
    assert any(line.startswith("- report: failed") for line in lines)
    assert not any(line.startswith("+ report") for line in lines)
    assert "- train, attempt 1: failed: ValueError: once" in lines
    assert [line for line in lines if " train: " in line] == ["- train: succeeded in 2 attempts", "+ train: succeeded"]


def test_decisions_are_matched_by_what_they_say_and_not_by_their_place() -> None:
    def deciding(*decisions: str) -> Trace:
        return Trace([Decision(stage="a", decision=each, reasoning="r") for each in decisions])

    before = deciding("one", "two", "three", "four", "five")
    assert diff_traces(before, deciding("new", "one", "two", "three", "four", "five")) == (
        "+ a, decision 1: new, because r",
    )
    assert diff_traces(before, deciding("one", "two", "four", "five")) == ("- a, decision 3: three, because r",)
    assert diff_traces(before, deciding("one", "two", "3", "four", "five")) == (
        "- a, decision 3: three, because r",
        "+ a, decision 3: 3, because r",
    )
    # The order of decisions counts, and so does how often one was made.
    assert diff_traces(deciding("one", "two"), deciding("two", "one")) != ()
    assert diff_traces(deciding("one"), deciding("one", "one")) == ("+ a, decision 2: one, because r",)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (StageSucceeded(stage="a", seconds=1.0), StageSucceeded(stage="a", seconds=1.0, reused_from="b")),
        (StageSucceeded(stage="a", seconds=1.0), StageStarted(stage="a")),
        (StageSkipped(stage="a", reason="b"), StageSkipped(stage="a", reason="c")),
        (Decision(stage="a", decision="b", reasoning="c"), Decision(stage="a", decision="b", reasoning="d")),
        (
            Decision(stage="a", decision="b", reasoning="c", confidence=0.5),
            Decision(stage="a", decision="b", reasoning="c", confidence=0.75),
        ),
        (
            Decision(stage="a", decision="b", reasoning="c", alternatives=("d",)),
            Decision(stage="a", decision="b", reasoning="c"),
        ),
    ],
)
def test_a_single_change_is_two_lines(left: Event, right: Event) -> None:
    lines = diff_traces(Trace([left]), Trace([right]))
    assert [line[:3] for line in lines] == ["- a", "+ a"]
    assert diff_traces(Trace([left]), Trace([left])) == ()


# --- ids --------------------------------------------------------------------------------------------------------------


@given(events)
def test_an_id_is_the_same_wherever_the_event_is(event: Event) -> None:
    (read,) = Trace.from_json(Trace([event]).to_json())
    assert event.id == read.id == pickle.loads(pickle.dumps(event)).id
    assert len(event.id) == 10
    assert dataclasses.replace(event, at=event.at.astimezone(UTC)).id == event.id
    assert hash(read) == hash(event)


def test_events_of_older_versions_have_ids_too() -> None:
    old = Decision.__new__(Decision)
    old.__setstate__(
        {"stage": "a", "at": AT, "decision": "b", "reasoning": "c", "alternatives": (), "confidence": None}
    )
    new = Decision(stage="a", at=AT, decision="b", reasoning="c")
    assert (old.id, old.depends_on, old.metadata) == (new.id, (), None)
    assert old == new


def test_the_ids_of_a_run_are_all_different_and_a_parent_is_the_start_of_its_stage() -> None:
    trace = run_experiment(experiment_of("choose", "odd_values"), registry=registry()).trace
    ids = {event.id: event for event in trace}
    assert len(ids) == len(trace)
    parents = trace.parents
    starts = [event for event in trace if isinstance(event, StageStarted)]
    assert parents.keys() == ids.keys() - {event.id for event in starts}
    for event, parent in parents.items():
        assert isinstance(ids[parent], StageStarted)
        assert ids[parent].stage == ids[event].stage
    assert Trace(EVENTS).parents.keys() == {event.id for event in EVENTS[1:4]}


def test_many_decisions_that_say_the_same_have_ids_of_their_own() -> None:
    ctx = Context.begin(experiment_of("choose"))
    for _ in range(300):
        ctx = ctx.decide("skip it", "it is empty")
    assert len({one.id for one in ctx.trace}) == 300


# --- what depends on what ---------------------------------------------------------------------------------------------


def depending(upon: int | str = -1, **more: Any) -> Context:
    ctx = Context.begin(experiment_of("choose"))
    ctx = ctx.decide("adam", "it converged").decide("batch 32", "it fits")
    named = ctx.trace.decisions[upon] if isinstance(upon, int) else upon
    return ctx.decide("rate 0.1", "as usual", depends_on=named, **more)


def test_a_decision_names_those_that_it_depends_on() -> None:
    ctx = depending()
    adam, batch, rate = ctx.trace.decisions
    assert rate.depends_on == (batch.id,)
    again = ctx.decide("end", "all is chosen", depends_on=[adam.id, rate])
    assert again.trace.decisions[-1].depends_on == (adam.id, rate.id)
    assert Trace.from_json(again.trace.to_json()) == again.trace


@pytest.mark.parametrize("upon", ["0123456789", 7, ["adam"], Decision(stage="a", decision="b", reasoning="c")])
def test_what_is_no_earlier_decision_is_refused_with_those_that_there_are(upon: Any) -> None:
    ctx = depending()
    wrong = [upon] if isinstance(upon, int) else upon
    with pytest.raises(CrucibleError) as caught:
        ctx.decide("a", "b", depends_on=wrong)
    assert f"{ctx.trace.decisions[0].id} (adam)" in str(caught.value)


def test_metadata_are_json_types_in_the_context_and_everywhere() -> None:
    (decision,) = (
        Context.begin(experiment_of("choose"))
        .decide("adam", "it converged", metadata={"tried": (1, np.float64(0.5)), 3: math.nan, "at": AT})
        .trace.decisions
    )
    assert decision.metadata == {"tried": [1, 0.5], "3": "NaN", "at": AT.isoformat()}
    with pytest.raises(TypeError, match="mapping"):
        Context.begin(experiment_of("choose")).decide("a", "b", metadata=["c"])  # type: ignore[arg-type]


def test_no_secret_is_left_in_the_metadata() -> None:
    said = fields_of(lambda text: text.replace("hunter2", "***"), Trace(), "a", "b", "c", None, (), {
        "login hunter2": ["hunter2", {"deep": "is hunter2", "n": 3}],
    })  # fmt: skip
    assert said["metadata"] == {"login ***": ["***", {"deep": "is ***", "n": 3}]}


def test_the_report_shows_both_by_what_they_say() -> None:
    ctx = depending(metadata={"tried": 3})
    report = " ".join(render_trace(ctx.trace, "markdown").split())
    assert "| depends on | details |" in report
    assert "| rate 0.1 | as usual | | batch 32 | tried: 3 |" in report
    shown = summarize_run(ctx)["decisions"][-1]
    _, batch, rate = ctx.trace.decisions
    assert (shown["id"], shown["depends_on"], shown["metadata"]) == (rate.id, [batch.id], {"tried": 3})
    rows = list(csv.DictReader(io.StringIO(render_trace(ctx.trace, "csv"))))
    assert (rows[-1]["id"], rows[-1]["depends_on"], rows[-1]["metadata"]) == (
        rate.id,
        f'["{batch.id}"]',
        '{"tried": 3}',
    )


def test_two_runs_differ_by_what_a_decision_depends_on_and_not_by_its_id() -> None:
    one, same, other = depending(), depending(), depending(0)
    assert one.trace.decisions[-1].depends_on != same.trace.decisions[-1].depends_on
    assert diff_traces(one.trace, same.trace) == ()
    assert one.differences(same) == ()
    assert diff_traces(one.trace, other.trace) == (
        "- , decision 3: rate 0.1, because as usual; depends on batch 32",
        "+ , decision 3: rate 0.1, because as usual; depends on adam",
    )
    assert one.differences(other) == ("decisions",)
    assert depending(metadata={"n": 1}).differences(depending(metadata={"n": 2})) == ("decisions",)
    assert len(diff_traces(depending(metadata={"n": 1}).trace, depending(metadata={"n": 2}).trace)) == 2


def test_what_depends_on_what_is_an_edge_in_mermaid() -> None:
    ctx = depending()
    trace = Trace([StageStarted(stage=""), *ctx.trace])
    assert "  d0_1 -.-> d0_2" in render_trace(trace, "mermaid").splitlines()


def test_a_reused_stage_has_a_colour_of_its_own_in_mermaid() -> None:
    text = render_trace(Trace([StageSucceeded(stage="a", seconds=1.0, reused_from="b")]), "mermaid")
    for outcome in ("reused", "succeeded", "failed", "skipped", "running"):
        assert f"  classDef {outcome} " in text
    assert ":::reused" in text


@pytest.mark.parametrize("confidence", [0.9, np.float32(0.9), Decimal("0.9"), "0.9", np.int64(1), True])
def test_a_confidence_of_any_kind_of_number_goes_into_json(confidence: Any) -> None:
    decision = Decision(stage="a", decision="b", reasoning="c", confidence=confidence)
    assert type(decision.confidence) is float
    assert Trace.from_json(Trace([decision]).to_json())[0] == decision


def test_one_alternative_given_as_a_text_is_that_one() -> None:
    assert Decision(stage="s", decision="adam", reasoning="r", alternatives="sgd").alternatives == ("sgd",)  # type: ignore[arg-type]
