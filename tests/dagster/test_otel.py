"""Runs as OpenTelemetry's spans: directly, on Dagster in one process and in several, and by the command line."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import commands
import pytest
from dagster import DagsterInstance
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from postgres import dagster_home
from stages_for_tests import HERE, experiment_of, registry

from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    MissingExtraError,
    RunInterrupted,
    StageFailedError,
    StageStarted,
    StageSucceeded,
    run_experiment,
    stage,
)
from crucible_core.telemetry.observer import OpenTelemetryObserver
from crucible_core.telemetry.provider import configured_provider
from crucible_dagster import execute_experiment, job_for

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """A provider that keeps the spans, and an observer that gives them to it."""

    def __init__(self, sampler: Sampler | None = None, **observer: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.observer = OpenTelemetryObserver(self.provider, **observer)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        finished = self.exporter.get_finished_spans()
        found = {one.name: one for one in finished}
        assert len(found) == len(finished), "two spans of one name"
        return found


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.fixture(scope="module")
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


Run = Callable[..., Context]


def run_directly(described: Experiment, traced: Traced, **more: Any) -> Context:
    return run_experiment(described, registry=registry(), observers=[traced.observer], **more)


@pytest.fixture(params=["directly", "on Dagster"])
def run(request: pytest.FixtureRequest, instance: DagsterInstance) -> Run:
    """Runs an experiment, traced by an observer."""
    if request.param == "directly":
        return run_directly

    def on_dagster(described: Experiment, traced: Traced, **more: Any) -> Context:
        return execute_experiment(
            described, registry=registry(), instance=instance, observers=[traced.observer], **more
        )

    return on_dagster


def otel_stage(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "module": f"otel_stages:{name}", **more}


# --- what a run is in a trace -----------------------------------------------------------------------------------------


def test_a_run_is_a_span_with_one_below_it_for_each_stage_and_its_times(run: Run, traced: Traced) -> None:
    run_id = str(uuid.uuid4())
    context = run(experiment_of("measure", {"name": "add", "enabled": False}, "choose"), traced, run_id=run_id)
    spans = traced.spans
    assert list(spans) == ["stage measure", "stage add", "stage choose", "experiment tried"]
    whole = spans["experiment tried"]
    assert whole.parent is None
    assert whole.context is not None
    assert f"{whole.context.trace_id:032x}" == run_id.replace("-", "")
    assert {one.parent and one.parent.span_id for name, one in spans.items() if name.startswith("stage")} == {
        whole.context.span_id
    }
    for name in ("measure", "choose"):
        span = spans[f"stage {name}"]
        started, ended = (
            next(event.at for event in context.trace.events if isinstance(event, kind) and event.stage == name)
            for kind in (StageStarted, StageSucceeded)
        )
        assert span.start_time is not None
        assert span.end_time is not None
        assert abs(span.start_time - started.timestamp() * 1e9) < 1_000
        assert abs(span.end_time - ended.timestamp() * 1e9) < 1_000
        assert span.status.status_code is trace.StatusCode.UNSET
        assert attributes_of(span) == {
            "crucible.experiment.id": "tried",
            "crucible.run.id": run_id,
            "crucible.stage.name": name,
            "crucible.outcome": "succeeded",
            "crucible.attempts": 1,
        }
    skipped = spans["stage add"]
    assert skipped.start_time == skipped.end_time
    assert attributes_of(skipped)["crucible.outcome"] == "skipped"
    assert attributes_of(skipped)["crucible.skipped_because"] == "enabled: false"
    assert attributes_of(whole)["crucible.outcome"] == "succeeded"
    assert (whole.start_time or 0) <= (spans["stage measure"].start_time or 0)
    assert (whole.end_time or 0) >= (spans["stage choose"].end_time or 0)


def test_decisions_are_events_of_the_stage_s_span_with_their_alternatives(run: Run, traced: Traced) -> None:
    context = run(experiment_of(otel_stage("decides")), traced)
    first, second = traced.spans["stage decides"].events
    assert first.name == second.name == "crucible.decision"
    (adam, _) = context.trace.decisions
    assert dict(first.attributes or {}) == {
        "crucible.decision.id": adam.id,
        "crucible.decision": "adam",
        "crucible.reasoning": "it converged",
        "crucible.alternatives": ("sgd", "lion"),
        "crucible.confidence": 0.75,
    }
    said = dict(second.attributes or {})
    # What an exporter refuses, or nobody reads, would cost the whole batch.
    assert said["crucible.decision"] == "\\ud800 and NUL \\u0000"
    assert said["crucible.reasoning"] == "x" * 10_000 + "… (40,000 more characters)"


def test_attempts_that_failed_are_events_and_are_counted(run: Run, traced: Traced, tmp_path: Path) -> None:
    retried = {"options": {"counter": str(tmp_path / "count")}, "retry": {"max_retries": 2, "delay": 0.01}}
    run(experiment_of({"name": "fail_until", **retried}), traced)
    span = traced.spans["stage fail_until"]
    assert attributes_of(span)["crucible.attempts"] == 3
    assert [event.name for event in span.events] == ["crucible.retry", "crucible.retry"]
    assert dict(span.events[1].attributes or {}) == {
        "crucible.attempt": 2,
        "crucible.delay_seconds": 0.01,
        "exception.type": "stages_for_tests.Broken",
        "exception.message": "attempt 2",
    }


def test_a_failure_is_an_exception_event_and_the_status_of_the_stage_and_of_the_run(run: Run, traced: Traced) -> None:
    with pytest.raises(StageFailedError):
        run(experiment_of("measure", otel_stage("breaks"), "choose"), traced)
    spans = traced.spans
    assert list(spans) == ["stage measure", "stage breaks", "experiment tried"]
    failed, whole = spans["stage breaks"], spans["experiment tried"]
    assert [event.name for event in failed.events] == ["crucible.decision", "exception"]
    raised = dict(failed.events[1].attributes or {})
    assert (raised["exception.type"], raised["exception.message"]) == ("ValueError", "the loss is NaN")
    assert "raise ValueError" in str(raised["exception.stacktrace"])
    assert failed.status.status_code is whole.status.status_code is trace.StatusCode.ERROR
    assert failed.status.description == "ValueError: the loss is NaN"
    assert "stage 'breaks' of experiment 'tried' failed: ValueError: the loss is NaN" in str(whole.status.description)
    assert attributes_of(failed)["crucible.outcome"] == attributes_of(whole)["crucible.outcome"] == "failed"


def test_an_interrupted_run_ends_its_spans(run: Run, traced: Traced) -> None:
    with pytest.raises(RunInterrupted):
        run(experiment_of("measure", "interrupt"), traced)
    stopped, whole = traced.spans["stage interrupt"], traced.spans["experiment tried"]
    assert stopped.status.description == "KeyboardInterrupt: interrupted"
    assert attributes_of(whole)["crucible.outcome"] == "interrupted"
    assert whole.status.status_code is trace.StatusCode.ERROR


def test_options_are_in_no_attribute(run: Run, traced: Traced) -> None:
    with pytest.raises(StageFailedError):
        run(experiment_of(otel_stage("breaks", options={"password": "sesame"}), metadata={"key": "sesame"}), traced)
    assert "sesame" not in "".join(span.to_json() for span in traced.spans.values())


def test_spans_that_a_stage_makes_are_below_its_own_and_what_was_current_is_again(run: Run) -> None:
    traced = Traced()

    @stage
    def nests(ctx: Context) -> Context:
        """Makes a span, in each of two attempts."""
        with traced.provider.get_tracer("stage").start_as_current_span(f"inside {len(traced.spans)}"):
            if not traced.spans:
                raise ValueError
        return ctx

    described = experiment_of({"name": "nests", "retry": {"max_retries": 1, "delay": 0.0}})
    before = otel_context.get_current()
    if run is run_directly:
        run_experiment(described, registry=registry() | {"nests": nests}, observers=[traced.observer])
    else:
        job = job_for(described, registry() | {"nests": nests}, observers=[traced.observer])
        assert job.execute_in_process().success
    assert otel_context.get_current() is before
    outer = traced.spans["stage nests"].context
    assert outer is not None
    for name in ("inside 0", "inside 1"):
        parent = traced.spans[name].parent
        assert parent is not None
        assert (parent.span_id, parent.trace_id) == (outer.span_id, outer.trace_id)


# --- whose part a run is ----------------------------------------------------------------------------------------------


def test_a_run_is_a_part_of_the_parent_that_the_observer_was_given(run: Run) -> None:
    traced = Traced(parent=TRACEPARENT, attributes={"team": "vision"})
    run(experiment_of("measure"), traced)
    whole, first = traced.spans["experiment tried"], traced.spans["stage measure"]
    assert whole.parent is not None
    assert f"{whole.parent.trace_id:032x}-{whole.parent.span_id:016x}" == TRACEPARENT[3:-3]
    assert whole.context is not None
    assert first.context is not None
    assert whole.context.trace_id == first.context.trace_id == whole.parent.trace_id
    assert attributes_of(whole)["team"] == "vision"
    assert "team" not in attributes_of(first)


def test_a_run_is_a_part_of_the_span_that_is_current_where_it_begins(run: Run, traced: Traced) -> None:
    with traced.provider.get_tracer("caller").start_as_current_span("caller"):
        run(experiment_of("measure"), traced)
    caller, whole = traced.spans["caller"].context, traced.spans["experiment tried"]
    assert whole.parent is not None
    assert caller is not None
    assert whole.parent.span_id == caller.span_id


def test_a_parent_that_is_none_is_refused() -> None:
    with pytest.raises(CrucibleError, match="is not a traceparent of W3C Trace Context"):
        Traced(parent="00-abc-01")


def test_a_dagster_run_is_a_part_of_what_its_tags_name(instance: DagsterInstance, traced: Traced) -> None:
    tags = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
    job_for(experiment_of("measure"), registry(), observers=[traced.observer]).execute_in_process(
        instance=instance, tags=tags
    )
    whole = traced.spans["experiment tried"]
    assert whole.parent is not None
    assert whole.parent.is_remote
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(trace.NonRecordingSpan(whole.parent)))
    assert carrier == tags
    assert attributes_of(whole)["dagster.job"] == "tried"


def test_a_tag_that_names_no_parent_is_told_of_and_the_run_is_traced(
    instance: DagsterInstance, traced: Traced, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_for(experiment_of("measure"), registry(), observers=[traced.observer])
    assert job.execute_in_process(instance=instance, tags={"traceparent": "mine"}).success
    assert traced.spans["experiment tried"].parent is None
    assert "'mine', is not a traceparent" in caplog.text


def test_runs_whose_id_somebody_thought_of_do_not_share_a_trace() -> None:
    ids = set()
    for _ in range(2):
        traced = Traced()
        run_directly(experiment_of("measure"), traced, run_id="baseline")
        context = traced.spans["experiment tried"].context
        assert context is not None
        ids.add(context.trace_id)
    assert len(ids) == 2


def test_the_provider_s_sampler_decides_alike_for_every_process_of_a_run(instance: DagsterInstance) -> None:
    sampled = Traced(ParentBased(TraceIdRatioBased(0.5)))
    for last in ("0000000000000000", "7fffffffffffffff", "8000000000000000", "ffffffffffffffff"):
        run_id = str(uuid.UUID(f"0000000000004000{last}"))
        execute_experiment(
            experiment_of("measure", "choose"),
            registry=registry(),
            instance=instance,
            run_id=run_id,
            observers=[sampled.observer],
        )
    kept = [span.context.trace_id % 2**64 for span in sampled.exporter.get_finished_spans() if span.context]
    assert sorted(kept) == [*[0] * 3, *[0x7FFFFFFFFFFFFFFF] * 3]


# --- who watches must not change the result ---------------------------------------------------------------------------


def test_one_observer_keeps_runs_in_several_threads_apart(traced: Traced) -> None:
    ids = [str(uuid.uuid4()) for _ in range(4)]
    threads = [
        threading.Thread(target=run_directly, args=(experiment_of("measure", "choose"), traced), kwargs={"run_id": one})
        for one in ids
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [
        (f"{span.context.trace_id:032x}", span.name) for span in traced.exporter.get_finished_spans() if span.context
    ]
    names = ("stage measure", "stage choose", "experiment tried")
    assert sorted(found) == sorted((one.replace("-", ""), name) for one in ids for name in names)


def test_a_run_within_a_stage_has_its_span_below_that_stage(traced: Traced) -> None:
    @stage
    def outer(ctx: Context) -> Context:
        """Runs another experiment."""
        run_directly(experiment_of("measure", id="inner"), traced)
        return ctx

    run_experiment(experiment_of("outer"), registry=registry() | {"outer": outer}, observers=[traced.observer])
    around, inner = traced.spans["stage outer"].context, traced.spans["experiment inner"].parent
    assert around is not None
    assert inner is not None
    assert inner.span_id == around.span_id
    assert attributes_of(traced.spans["stage outer"])["crucible.outcome"] == "succeeded"


class Breaking(Sampler):
    def should_sample(self, *arguments: Any, **more: Any) -> Any:
        raise OSError("no sampler today")

    def get_description(self) -> str:
        return "breaking"


def test_a_tracer_that_raises_changes_no_result(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    context = run(experiment_of("measure", "choose"), Traced(Breaking()))
    assert context.completed_stages == ("measure", "choose")
    assert "no sampler today" in caplog.text


def test_what_is_not_sampled_is_not_exported_and_the_run_goes_on(run: Run) -> None:
    traced = Traced(ALWAYS_OFF)
    assert run(experiment_of("measure"), traced).completed_stages == ("measure",)
    assert traced.spans == {}


# --- on Dagster -------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_outside_its_stages_has_a_span_that_says_so(instance: DagsterInstance, traced: Traced) -> None:
    job = job_for(experiment_of("measure", "choose"), registry(), observers=[traced.observer])
    config = {"ops": {"choose": {"config": {"times": "many"}}}}
    with pytest.raises(Exception, match="times"):
        job.execute_in_process(instance=instance, run_config=config)
    # Dagster refuses the options that a stage does not take; what its `check` says is said by the first step.
    config = {"ops": {"bench": {"config": {"data": "nowhere"}}}}
    job = job_for(experiment_of("bench"), registry(), observers=[traced.observer])
    assert not job.execute_in_process(instance=instance, run_config=config, raise_on_error=False).success
    assert list(traced.spans) == ["experiment tried"]
    whole = traced.spans["experiment tried"]
    assert whole.status.status_code is trace.StatusCode.ERROR
    assert "'nowhere' is not one of" in str(whole.status.description)


def test_a_run_whose_settings_turn_tracing_off_makes_no_spans(instance: DagsterInstance, traced: Traced) -> None:
    job = job_for(experiment_of("measure"), registry(), observers=[traced.observer])
    config = {"resources": {"experiment": {"config": {"tracing": False}}}}
    assert job.execute_in_process(instance=instance, run_config=config).success
    assert traced.spans == {}


def test_a_run_of_some_steps_ends_its_span_with_the_last_of_them(instance: DagsterInstance, traced: Traced) -> None:
    job = job_for(experiment_of("measure", "choose", "add"), registry(), observers=[traced.observer])
    assert job.execute_in_process(instance=instance, op_selection=["measure", "choose"]).success
    assert list(traced.spans) == ["stage measure", "stage choose", "experiment tried"]


@pytest.mark.parametrize("blocking", [False, True])
def test_a_run_that_is_judged_ends_its_span_with_the_verdict(
    instance: DagsterInstance, traced: Traced, blocking: bool
) -> None:
    gates = [{"name": "good", "metric": "accuracy", "at_least": 0.9, "blocking": blocking}]
    job = job_for(experiment_of("measure", gates=gates), registry(), observers=[traced.observer])
    assert job.execute_in_process(instance=instance, raise_on_error=False).success is not blocking
    whole = traced.spans["experiment tried"]
    assert list(traced.spans) == ["stage measure", "experiment tried"]
    assert (whole.status.status_code is trace.StatusCode.ERROR) is blocking
    assert ("good: accuracy is 0.5, not at least 0.9" in str(whole.status.description)) is blocking


def test_under_multiprocess_an_observer_hears_of_the_run_when_it_is_over(home: DagsterInstance, traced: Traced) -> None:
    context = execute_experiment(
        experiment_of("measure", "choose"),
        registry=registry(),
        instance=home,
        executor="multiprocess",
        observers=[traced.observer],
    )
    assert list(traced.spans) == ["stage measure", "stage choose", "experiment tried"]
    whole = traced.spans["experiment tried"]
    assert whole.start_time is not None
    assert abs(whole.start_time - context.trace.events[0].at.timestamp() * 1e9) < 1_000


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DagsterInstance]:
    """An instance that other processes can open."""
    (tmp_path / "home").mkdir()
    with dagster_home(tmp_path / "home", "sqlite") as made, DagsterInstance.from_config(str(made)) as opened:
        yield opened


# --- as the environment says ------------------------------------------------------------------------------------------


class Collector:
    """A server that takes spans as OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    kept = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield kept
        server.shutdown()
        thread.join()


def test_the_processes_of_a_run_s_steps_make_spans_of_one_trace(home: DagsterInstance, collector: Collector) -> None:
    run_id = str(uuid.uuid4())
    described = experiment_of(otel_stage("traces_itself"), "choose", otel_stage("breaks"))
    # Explicit observers have nothing to add.
    silent = Traced()
    with pytest.raises(StageFailedError):
        execute_experiment(
            described,
            registry=registry(),
            instance=home,
            executor="multiprocess",
            run_id=run_id,
            observers=[silent.observer],
        )
    assert silent.spans == {}
    spans = {span.name: span for _, span in collector.spans}
    assert sorted(span.name for _, span in collector.spans) == [
        "experiment tried", "inside", "stage breaks", "stage choose", "stage traces_itself",
    ]  # fmt: skip
    assert {service for service, _ in collector.spans} == {"crucible"}
    assert {span.trace_id.hex() for span in spans.values()} == {run_id.replace("-", "")}
    whole = spans["experiment tried"]
    assert whole.parent_span_id == b""
    for name in ("traces_itself", "choose", "breaks"):
        assert spans[f"stage {name}"].parent_span_id == whole.span_id
    assert spans["inside"].parent_span_id == spans["stage traces_itself"].span_id
    assert whole.start_time_unix_nano <= spans["stage traces_itself"].start_time_unix_nano
    assert whole.end_time_unix_nano >= spans["stage breaks"].end_time_unix_nano
    assert whole.status.message.startswith("stage 'breaks' of experiment 'tried' failed")


def crucible(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    found = os.pathsep.join([str(HERE.parent), str(HERE)])
    return commands.crucible(*arguments, env={**os.environ, "PYTHONPATH": found, **environment})


def test_the_command_line_traces_where_the_environment_says_so(collector: Collector) -> None:
    Path("e.yaml").write_text("id: tried\npipeline: [{name: measure, module: 'stages_for_tests:measure'}]\n")
    more = {"TRACEPARENT": TRACEPARENT, "OTEL_SERVICE_NAME": "lab"}
    done = crucible("run", "e.yaml", "--json", **more)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"] == {"accuracy": 0.5}
    spans = {span.name: span for _, span in collector.spans}
    assert list(spans) == ["stage measure", "experiment tried"]
    assert {service for service, _ in collector.spans} == {"lab"}
    assert spans["experiment tried"].parent_span_id.hex() == TRACEPARENT.split("-")[2]
    off = crucible("run", "e.yaml", "--json", OTEL_SDK_DISABLED="true")
    assert (off.returncode, len(collector.spans)) == (0, 2), off.stderr


def test_what_the_environment_asks_for_and_is_not_there_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def warned(**environment: str) -> list[str]:
        caplog.clear()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            assert configured_provider() is None
            assert configured_provider() is None
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    assert warned() == warned(OTEL_TRACES_EXPORTER="none", OTEL_EXPORTER_OTLP_ENDPOINT="http://here") == []
    (said,) = warned(OTEL_TRACES_EXPORTER="zipkinn")
    assert "OTEL_TRACES_EXPORTER asks for, needs the exporter 'zipkinn', which is not installed; installed: " in said
    (said,) = warned(OTEL_EXPORTER_OTLP_ENDPOINT="http://here", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert "needs the exporter 'otlp_proto_grpc'" in said
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    (said,) = warned(OTEL_EXPORTER_OTLP_ENDPOINT="http://here")
    assert said.endswith("needs the extra 'otel': pip install 'crucible-dagster[otel]'")


def test_without_the_extra_the_observer_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "crucible_core.telemetry.observer")
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'crucible-dagster[otel]'")):
        __import__("crucible_core.telemetry.observer")


def test_an_observer_without_any_provider_is_refused() -> None:
    with pytest.raises(CrucibleError, match="no tracer provider is configured"):
        OpenTelemetryObserver()


def test_the_example_in_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (HERE.parent / "docs" / "observability.md").read_text(encoding="utf-8")
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "ConsoleSpanExporter" in block
    )
    # Its exporter writes to the standard output of when the SDK was loaded, which is not what is captured here.
    exec(example.replace("ConsoleSpanExporter()", "ConsoleSpanExporter(out=__import__('sys').stdout)"), {})
    assert '"name": "stage validate"' in capsys.readouterr().out


def test_every_attribute_is_documented() -> None:
    text = (HERE.parent / "docs" / "observability.md").read_text(encoding="utf-8")
    for module in ("crucible_core/telemetry/observer.py", "crucible_dagster/execute/tracing.py"):
        used = set(re.findall(r'"((?:crucible|dagster|exception)\.[a-z_.]+)"', (HERE.parent / module).read_text()))
        assert used
        assert [name for name in used if f"`{name}`" not in text] == []
