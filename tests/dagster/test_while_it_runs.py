"""What a running stage tells Dagster: its log lines, its progress and its metrics."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import watched_stages
from dagster import DagsterEventType, DagsterInstance
from stages_for_tests import choose

from crucible_core import Context, Experiment, Observer, ProgressUpdate, Registry, run_experiment, stage
from crucible_core import progress as crucible_progress
from crucible_core.observers import Audience, Updates
from crucible_dagster import execute_experiment, job_for
from crucible_dagster.execute.captured_logs import MAX_LINES, captured_logs
from crucible_dagster.execute.compiled import RunSettings
from crucible_dagster.execute.event_log import EventLogObserver

pytestmark = pytest.mark.filterwarnings("default:something is deprecated")


@stage
def long(ctx: Context) -> Context:
    """Runs, by its clock, for many seconds, and puts a metric every second."""
    for number in range(12):
        ctx = ctx.put_metric("loss", 1 / (number + 1)).put_metric("note", "x").put_metric("best", number)
    return ctx


STAGES = Registry(
    {
        "talk": watched_stages.talk,
        "hostile": watched_stages.hostile,
        "flood": watched_stages.flood,
        "fork": watched_stages.fork,
        "fall": watched_stages.fall,
        "count": watched_stages.count,
        "choose": choose,
        "long": long,
    }
)


@pytest.fixture(scope="module")
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


def lines_of(
    stages: list[str], instance: DagsterInstance, settings: dict[str, Any] | None = None
) -> list[tuple[int, str]]:
    experiment = Experiment.model_validate({"id": "said", "pipeline": [{"name": name} for name in stages]})
    config = {"resources": {"experiment": {"config": settings}}} if settings else {}
    run = job_for(experiment, STAGES).execute_in_process(instance=instance, run_config=config)
    return lines_in(instance, run.run_id)


def lines_in(instance: DagsterInstance, run_id: str) -> list[tuple[int, str]]:
    """Level and text of every log line of a run, system events aside."""
    entries = [entry for entry in instance.all_logs(run_id) if entry.dagster_event is None]
    return [(entry.level, entry.user_message) for entry in entries]


@pytest.fixture
def captured_warnings() -> Iterator[None]:
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)


@pytest.mark.usefixtures("captured_warnings")
def test_log_lines_of_the_stage_and_of_libraries_are_in_the_runs_log(instance: DagsterInstance) -> None:
    lines = lines_of(["talk"], instance)
    assert [level for level, _ in lines] == [20, 30, 30, 30, 40, 20]
    texts = [text for _, text in lines]
    assert texts[:3] == [
        "watched_stages: own info",
        "watched_stages: own warning",
        "some_library.core: library warning",
    ]
    assert texts[3].startswith("py.warnings: ")
    assert "UserWarning: something is deprecated" in texts[3]
    assert texts[4].startswith("watched_stages: it went wrong\nTraceback")
    assert "ValueError: deep inside" in texts[4]
    assert texts[5] == "watched_stages: from a thread"


def test_the_levels_are_settings_of_the_run(instance: DagsterInstance) -> None:
    lines = lines_of(["talk"], instance, {"log_level": "DEBUG", "library_log_level": "INFO"})
    assert (10, "watched_stages: own debug") in lines
    assert (20, "some_library.core: library info") in lines
    assert [text for _, text in lines_of(["talk"], instance, {"log_level": "ERROR", "library_log_level": "ERROR"})] == [
        lines[-2][1]
    ]


def test_after_a_step_logging_and_warnings_are_what_they_were(instance: DagsterInstance) -> None:
    before = logging_state()
    lines_of(["talk"], instance, {"log_level": "DEBUG", "library_log_level": "DEBUG"})
    assert logging_state() == before


def test_a_stage_that_fails_leaves_no_handler_and_no_level_behind(instance: DagsterInstance) -> None:
    before = logging_state()
    experiment = Experiment.model_validate({"id": "said", "pipeline": [{"name": "fall"}]})
    config = {"resources": {"experiment": {"config": {"log_level": "DEBUG", "library_log_level": "DEBUG"}}}}
    run = job_for(experiment, STAGES).execute_in_process(instance=instance, run_config=config, raise_on_error=False)
    assert not run.success
    assert (10, "watched_stages: before the fall") in lines_in(instance, run.run_id)
    assert logging_state() == before


def test_by_default_nothing_of_the_process_is_changed_but_the_level_of_the_stages_package() -> None:
    root, own, other = (logging.getLogger(name) for name in (None, "some_package", "some_library"))
    before = (root.level, warnings.showwarning, warnings.filters[:], other.level, other.handlers[:])
    with captured_logs(logging.Logger("of the step"), {"some_package"}, RunSettings()):
        assert (root.level, warnings.showwarning, warnings.filters[:], other.level, other.handlers[:]) == before
        assert own.level == logging.INFO
        assert own.handlers == []
    assert own.level == logging.NOTSET


class Kept(logging.Logger):
    """A log that keeps the texts of its lines."""

    def __init__(self) -> None:
        super().__init__("of the step")
        self.texts: list[str] = []

    def handle(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def test_stages_in_two_threads_have_their_own_lines_each() -> None:
    before = logging_state()
    kept = [Kept(), Kept()]
    settings = [RunSettings(log_level="DEBUG", library_log_level="DEBUG"), RunSettings(log_level="INFO")]
    inside, one_has_ended = threading.Barrier(2), threading.Event()

    def run_one(which: int) -> None:
        own, library = logging.getLogger("watched_stages"), logging.getLogger("some_library")
        with captured_logs(kept[which], {"watched_stages"}, settings[which]):
            inside.wait(10)
            own.debug("debug of %d", which)
            own.info("info of %d", which)
            library.info("library info of %d", which)
            inside.wait(10)
            if which == 0:
                one_has_ended.wait(10)
                own.debug("debug of 0 after 1 has ended")
        if which == 1:
            one_has_ended.set()

    with nobody_else_listening():
        threads = [threading.Thread(target=run_one, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert kept[0].texts == [
        "watched_stages: debug of 0",
        "watched_stages: info of 0",
        "some_library: library info of 0",
        "watched_stages: debug of 0 after 1 has ended",
    ]
    assert kept[1].texts == ["watched_stages: info of 1"]
    assert logging_state() == before


def test_a_stage_within_a_stage_has_its_own_lines() -> None:
    outer, inner = Kept(), Kept()
    own = logging.getLogger("watched_stages")
    with nobody_else_listening(), captured_logs(outer, {"watched_stages"}, RunSettings()):
        own.info("before")
        with contextlib.suppress(KeyError), captured_logs(inner, {"watched_stages"}, RunSettings()):
            own.info("within")
            raise KeyError
        own.info("after")
    assert (outer.texts, inner.texts) == (
        ["watched_stages: before", "watched_stages: after"],
        ["watched_stages: within"],
    )


def test_a_package_whose_logger_passes_nothing_on_is_heard_too() -> None:
    kept = Kept()
    own = logging.getLogger("watched_stages")
    own.propagate = False
    try:
        with captured_logs(kept, {"watched_stages"}, RunSettings()):
            logging.getLogger("watched_stages.deep").info("heard once")
    finally:
        own.propagate = True
    assert kept.texts == ["watched_stages.deep: heard once"]
    assert own.handlers == []


def test_a_level_that_the_stage_sets_itself_stays() -> None:
    own = logging.getLogger("watched_stages")
    with captured_logs(Kept(), {"watched_stages"}, RunSettings()):
        own.setLevel(logging.ERROR)
    try:
        assert own.level == logging.ERROR
    finally:
        own.setLevel(logging.NOTSET)


def test_what_no_handler_takes_is_printed_once_as_without_dagster(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers[:] = []
    try:
        with captured_logs(Kept(), {"watched_stages"}, RunSettings()):
            logging.getLogger("watched_stages").warning("own")
            logging.getLogger("some_library").warning("a library's")
            logging.getLogger("watched_stages").info("not printed")
    finally:
        root.handlers[:] = handlers
    assert capsys.readouterr().err == "own\na library's\n"


def logging_state() -> Any:
    root, own = logging.getLogger(), logging.getLogger("watched_stages")
    return root.handlers[:], root.level, own.handlers[:], own.level, warnings.showwarning


def test_a_level_that_the_program_has_set_is_left_alone(instance: DagsterInstance) -> None:
    own = logging.getLogger("watched_stages")
    own.setLevel(logging.ERROR)
    try:
        texts = [text for _, text in lines_of(["talk"], instance)]
    finally:
        own.setLevel(logging.NOTSET)
    assert "watched_stages: own warning" not in texts
    assert any("it went wrong" in text for text in texts)


@contextlib.contextmanager
def nobody_else_listening() -> Iterator[None]:
    """Without the handlers of the test runner, which can neither format nor pass on what these tests log."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers[:] = [logging.NullHandler()]
    try:
        yield
    finally:
        root.handlers[:] = handlers


def test_what_cannot_be_shown_is_written_so_that_it_can(instance: DagsterInstance) -> None:
    with nobody_else_listening():
        lines = lines_of(["hostile"], instance)
    assert [level for level, _ in lines] == [20, 20, 20]
    texts = [text for _, text in lines]
    assert "\ud800" not in texts[0]
    assert "\x00" not in texts[0]
    assert texts[1] == "watched_stages: between two levels"
    assert len(texts[2]) < 11_000
    texts[0].encode()


def test_a_line_whose_arguments_do_not_fit_is_told_as_it_is() -> None:
    told: list[logging.LogRecord] = []
    log = logging.Logger("of the step")
    log.handle = told.append  # type: ignore[method-assign]
    with nobody_else_listening(), captured_logs(log, {"some_library"}, RunSettings()):
        logging.getLogger("some_library.odd").info("arguments %d do not fit", "x")
    assert [record.msg for record in told] == [
        "some_library.odd: arguments %d do not fit (its arguments do not fit: ('x',))"
    ]


def test_a_library_that_says_too_much_is_cut_off_and_the_stage_is_not(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crucible_dagster.execute.captured_logs.MAX_LINES", 50)
    lines = lines_of(["flood"], instance)
    assert len(lines) == 52
    assert (20, "watched_stages: own line") in lines
    assert lines[-1] == (30, "1,150 more log lines of other packages are left out here")
    assert MAX_LINES == 1_000


def test_a_line_that_dagster_forwards_itself_is_there_once(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\npython_logs: {managed_python_loggers: [watched_stages, root]}\n"
    )
    with DagsterInstance.from_config(str(tmp_path)) as managed:
        texts = [text for _, text in lines_of(["talk"], managed)]
    assert len([text for text in texts if "own warning" in text]) == 1
    assert len([text for text in texts if "library warning" in text]) == 1


def test_every_process_of_a_run_tells_its_lines(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    experiment = Experiment.model_validate(
        {
            "id": "apart",
            "seed": 5,
            "pipeline": [{"name": "talk"}, {"name": "count", "options": {"items": 2}}],
            "variants": {"more": {"count": {"items": 4}}},
        }
    ).with_variant("more", STAGES)
    with DagsterInstance.from_config(str(tmp_path)) as apart:
        context = execute_experiment(experiment, registry=STAGES, instance=apart, executor="multiprocess")
        texts = [text for _, text in lines_in(apart, context.run_id)]
    assert context.metrics["counted"] == 4
    assert "watched_stages: from a thread" in texts
    assert any(text.startswith("counting: 4 of 4 (100 %)") for text in texts)


def test_progress_is_told_at_its_beginning_and_end(instance: DagsterInstance) -> None:
    lines = [text for _, text in lines_of(["count"], instance)]
    assert [text.partition(",")[0] for text in lines] == [
        "counting: 0 of 3 (0 %)",
        "counting: 3 of 3 (100 %)",
        "by hand: 0",
        "by hand: 2.5",
    ]


def test_a_fork_of_the_steps_process_leaves_dagsters_database_alone(instance: DagsterInstance) -> None:
    assert lines_of(["fork"], instance) == [(30, "watched_stages: from process one")]


class Clock:
    """Time that passes when it is told to, and the log of a step that keeps lines."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lines: list[str] = []
        log = SimpleNamespace(info=self.lines.append)
        experiment = Experiment.model_validate({"id": "x", "pipeline": [{"name": "long"}]})
        self.observer = EventLogObserver(
            SimpleNamespace(log=log),  # type: ignore[arg-type]  # a log is all that is asked of it here
            experiment,
            RunSettings(),
            clock=lambda: self.now,
        )


def test_progress_lines_come_every_five_seconds_at_most() -> None:
    clock = Clock()
    for second in range(61):
        clock.now = 100.0 + second
        update = ProgressUpdate("long", 0, "training", second * 10, 600, float(second), ended=second == 60)
        clock.observer.on_progress(update)
    assert len(clock.lines) == 13
    assert clock.lines[0] == "training: 0 of 600 (0 %)"
    assert clock.lines[1] == "training: 50 of 600 (8 %), 10 per s, 55.0 s left"
    assert clock.lines[-1] == "training: 600 of 600 (100 %), 10 per s, in 1 min 0 s"


def test_loops_within_loops_do_not_flood_the_log() -> None:
    clock = Clock()
    for epoch in range(1_000):
        clock.now += 0.01
        for count in (0, 10):
            clock.observer.on_progress(ProgressUpdate("long", epoch, "batches", count, 10, 0.01, ended=count == 10))
    assert len(clock.lines) <= 20 + 10 / 5 + 1


def test_metrics_of_a_long_stage_are_told_as_they_come(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr(sys.modules[Updates.__module__], "perf_counter", lambda: float(next(ticks)))
    texts = [text for _, text in lines_of(["long"], instance)]
    assert texts[0].startswith("metrics so far: loss = ")
    assert "best = " in texts[0]
    assert "note" not in texts[0]
    assert 2 <= len(texts) <= 6
    monkeypatch.undo()
    assert lines_of(["long"], instance) == []


def test_without_tracing_decisions_and_metrics_are_kept_and_not_told(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr(sys.modules[Updates.__module__], "perf_counter", lambda: float(next(ticks)))
    experiment = Experiment.model_validate({"id": "quiet", "pipeline": [{"name": "choose"}, {"name": "long"}]})
    config = {"resources": {"experiment": {"config": {"tracing": False}}}}
    run = job_for(experiment, STAGES).execute_in_process(instance=instance, run_config=config)
    assert lines_in(instance, run.run_id) == []
    assert not [event for event in run.all_events if event.event_type is DagsterEventType.ASSET_OBSERVATION]
    context = run.output_for_node("long")
    assert len(context.trace.decisions) == 1


def test_a_watcher_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Observer):
        interval = 0.0

        def on_progress(self, update: ProgressUpdate) -> None:
            raise RuntimeError("it fell over")

        def on_metrics(self, stage: str, metrics: object) -> None:
            raise AssertionError("it is told no more")

    experiment = Experiment.model_validate({"id": "x", "pipeline": [{"name": "count"}]})
    context = run_experiment(experiment, registry=STAGES, observers=[Failing()])
    assert context.metrics["counted"] == 3
    assert "it gets no more updates of stage 'count'" in caplog.text


def test_nobody_hears_of_a_stage_that_has_ended() -> None:
    clock = Clock()
    updates = Updates("run", "long", Audience([clock.observer]))
    updates.close()
    updates.progress(ProgressUpdate("long", 0, "late", 0, None, 0.0))
    assert clock.lines == []
    assert list(crucible_progress([1, 2])) == [1, 2]
