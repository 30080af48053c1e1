"""Progress of long work: what whoever watches hears of it, and that nobody else pays for it."""

from __future__ import annotations

import contextlib
import gc
import io
import math
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from rich.console import Console
from stages_for_tests import Broken, experiment_of

from crucible_core import (
    Context,
    Event,
    Observer,
    ProgressUpdate,
    Registry,
    StageFailedError,
    StageStarted,
    progress,
    stage,
)
from crucible_core.cli.terminal import ProgressDisplay, make_console
from crucible_core.observers import Audience, Updates
from crucible_core.progress import Progress
from crucible_core.run_state import updates
from crucible_core.run_state.attempt import Attempt, current_attempt
from crucible_core.runner import run_experiment


class Listener(Observer):
    """Keeps what it hears."""

    interval = 0.0

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.updates: list[ProgressUpdate] = []
        self.metrics: list[Mapping[str, float]] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def on_progress(self, update: ProgressUpdate) -> None:
        self.updates.append(update)

    def on_metrics(self, stage: str, metrics: Mapping[str, float]) -> None:
        self.metrics.append(metrics)

    def counts(self, description: str = "work") -> list[float]:
        return [update.count for update in self.updates if update.description == description]


@contextlib.contextmanager
def at_work(listener: Listener) -> Iterator[None]:
    """As run_stage does it around a stage."""
    attempt = Attempt("run", "work", Audience([listener]))
    token = current_attempt.set(attempt)
    yield
    current_attempt.reset(token)
    assert attempt.updates is not None
    attempt.updates.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Watches a stage that is this test."""
    heard = Listener()
    with at_work(heard):
        yield heard


def test_unwatched_progress_is_the_iterable_itself() -> None:
    items = iter([1, 2, 3])
    assert iter(progress(items)) is items
    with progress(total=3) as bar:
        bar.advance()
    assert list(progress(x for x in "abc")) == ["a", "b", "c"]


def test_items_count_when_the_next_one_is_asked_for(listener: Listener) -> None:
    seen = [(item, listener.counts()[-1]) for item in progress(["a", "b", "c"])]
    assert seen == [("a", 0), ("b", 1), ("c", 2)]
    assert listener.counts()[-1] == 3
    assert [update.ended for update in listener.updates].count(True) == 1
    assert listener.updates[-1].ended
    assert {update.total for update in listener.updates} == {3}


def test_a_generator_has_no_total_unless_it_is_given(listener: Listener) -> None:
    assert list(progress(number for number in range(2))) == [0, 1]
    assert listener.updates[0].total is None
    assert listener.updates[-1].describe().startswith("work: 2, ")
    assert list(progress((number for number in range(2)), total=2)) == [0, 1]
    assert listener.updates[-1].total == 2


def test_a_loop_that_is_left_early_ends_its_progress(listener: Listener) -> None:
    for item in progress(range(10), description="early"):
        if item == 3:
            break
    gc.collect()
    assert (listener.updates[-1].count, listener.updates[-1].ended) == (3, True)


def test_an_exception_passes_through(listener: Listener) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise Broken("in the middle")

    with pytest.raises(Broken):
        list(progress(items()))
    assert (listener.updates[-1].count, listener.updates[-1].ended) == (1, True)
    with pytest.raises(Broken):
        advance_and_break()
    assert (listener.updates[-1].count, listener.updates[-1].ended) == (2, True)


def advance_and_break() -> None:
    with progress(total=5) as bar:
        bar.advance(2)
        raise Broken("by hand")


def test_loops_within_loops_are_told_apart(listener: Listener) -> None:
    for _ in progress(range(2), description="outer"):
        for _ in progress(range(3), description="inner"):
            pass
    keys = {update.description: set() for update in listener.updates}
    for update in listener.updates:
        keys[update.description].add(update.key)
    assert {name: len(found) for name, found in keys.items()} == {"outer": 1, "inner": 2}
    assert listener.counts("outer")[-1] == 2


def test_threads_advance_one_progress_together(listener: Listener) -> None:
    with progress(total=4_000) as bar, ThreadPoolExecutor(8) as pool:
        assert current_attempt.get() is not None
        list(pool.map(lambda _: bar.advance(), range(4_000)))
    assert listener.updates[-1].count == 4_000


def test_a_thread_iterates_over_progress_that_the_stage_made(listener: Listener) -> None:
    made = progress(range(5))
    thread = threading.Thread(target=lambda: list(made))
    thread.start()
    thread.join()
    assert listener.updates[-1].count == 5


def test_quick_items_are_all_counted_and_seldom_told(listener: Listener) -> None:
    listener_of_seconds = Listener()
    listener_of_seconds.interval = 3_600.0
    with at_work(listener_of_seconds):
        assert sum(1 for _ in progress(range(100_003))) == 100_003
    assert listener_of_seconds.counts() == [0, 100_003]


def test_after_quick_items_a_slow_one_is_told(monkeypatch: pytest.MonkeyPatch, listener: Listener) -> None:
    now = 0.0
    for module in (Progress.__module__, Updates.__module__):
        monkeypatch.setattr(sys.modules[module], "perf_counter", lambda: now)
    listener.interval = 1.0
    with at_work(listener):
        for item in progress(range(100)):
            now += 1e-6 if item < 50 else 2.0
    counts = listener.counts()
    assert all(count in counts for count in range(70, 101))


@pytest.mark.parametrize(
    ("update", "said"),
    [
        (ProgressUpdate("s", 0, "d", 0, 1000, 0.0), "d: 0 of 1,000 (0 %)"),
        (ProgressUpdate("s", 0, "d", 500, 1000, 40.0), "d: 500 of 1,000 (50 %), 12.5 per s, 40.0 s left"),
        (ProgressUpdate("s", 0, "d", 5000, None, 2.0), "d: 5,000, 2,500 per s"),
        (ProgressUpdate("s", 0, "d", 0.5, 1, 0.1), "d: 0.5 of 1 (50 %), 5 per s, 100 ms left"),
        (ProgressUpdate("s", 0, "d", 12, 10, 1.0), "d: 12 of 10 (120 %), 12 per s"),
        (ProgressUpdate("s", 0, "d", 0, 0, 1.0, ended=True), "d: 0 of 0, in 1.0 s"),
        (ProgressUpdate("s", 0, "d", math.nan, 10, 1.0), "d: nan of 10 (nan %)"),
        (ProgressUpdate("s", 0, "d", math.inf, math.inf, 1.0), "d: inf of inf (nan %), inf per s"),
    ],
)
def test_progress_in_words(update: ProgressUpdate, said: str) -> None:
    assert update.describe() == said


@pytest.mark.parametrize("total", [-1, float("nan"), "ten"])
def test_a_total_that_is_none_is_refused(total: Any) -> None:
    with pytest.raises(ValueError, match="the total of progress"):
        progress(range(3), total=total)


def test_progress_that_is_used_the_wrong_way_says_how_it_is_used() -> None:
    with pytest.raises(TypeError, match="with progress"):
        iter(progress(total=3))
    with pytest.raises(RuntimeError, match="with progress"):
        progress(total=3).advance()


# --- in a run ---------------------------------------------------------------------------------------------------------


@stage
def work(ctx: Context, *, fails: bool = False) -> Context:
    """Works, and may fail in the middle."""
    for item in progress(range(4), description="working [bold]hard[/bold]"):
        if fails and item == 2:
            raise Broken("in the middle")
    return ctx.put_metric("done", 4)


STAGES = Registry({"work": work})


def test_observers_of_a_run_hear_the_progress_of_its_stages() -> None:
    heard = Listener()
    run_experiment(experiment_of("work"), registry=STAGES, observers=[heard])
    assert [(update.stage, update.count) for update in heard.updates][:: len(heard.updates) - 1] == [
        ("work", 0),
        ("work", 4),
    ]
    assert current_attempt.get() is None
    with pytest.raises(StageFailedError):
        run_experiment(
            experiment_of({"name": "work", "options": {"fails": True}}), registry=STAGES, observers=[Listener()]
        )
    assert current_attempt.get() is None


def test_a_metric_that_no_float_can_hold_fails_no_stage_that_is_watched() -> None:
    @stage
    def count(ctx: Context) -> Context:
        return ctx.put_metric("huge", 10**400).put_metric("done", 4)

    stages = Registry({"count": count})
    alone = run_experiment(experiment_of("count"), registry=stages)
    watched = run_experiment(experiment_of("count"), registry=stages, observers=[Listener()])
    assert watched.metrics == alone.metrics == {"huge": 10**400, "done": 4}


def test_a_plain_observer_makes_nobody_watch() -> None:
    heard: list[Event] = []

    @stage
    def look(ctx: Context) -> Context:
        attempt = current_attempt.get()
        assert attempt is not None
        assert attempt.updates is None
        return ctx

    run_experiment(experiment_of("look"), registry=Registry({"look": look}), observers=[heard.append])
    assert isinstance(heard[0], StageStarted)


def terminal() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=True, width=100, highlight=False, markup=False, _environ={}), stream


@pytest.mark.parametrize("fails", [False, True])
def test_a_terminal_shows_the_running_stage_and_its_bar(fails: bool) -> None:
    console, stream = terminal()
    with ProgressDisplay(console, 1) as shown:
        shown.interval = 0.0

        def look(_: Event) -> None:
            assert not shown._bars

        try:
            run_experiment(
                experiment_of({"name": "work", "options": {"fails": fails}}),
                registry=Registry({"work": shown_work(shown)}),
                observers=[shown, look],
            )
        except StageFailedError:
            assert fails
    drawn = stream.getvalue()
    assert "work 1 of 1" in plain_text(drawn)
    assert "working [bold]hard[/bold]" in plain_text(drawn)
    assert "1 of 4 (25 %)" in plain_text(drawn)
    assert "━" in drawn
    assert ("✗" if fails else "✓") in drawn
    assert not shown._bars


def shown_work(shown: ProgressDisplay) -> Any:
    @stage
    def work(ctx: Context, *, fails: bool = False) -> Context:
        for item in progress(range(4), description="working [bold]hard[/bold]"):
            shown._live.refresh()
            if fails and item == 2:
                raise Broken("in the middle")
        return ctx

    return work


def plain_text(drawn: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)


def test_more_works_than_fit_are_not_drawn_and_end_all_the_same() -> None:
    console, _ = terminal()
    shown = ProgressDisplay(console, 1)
    shown.on_event(StageStarted(stage="work"))
    for ended in (False, True):
        for key in range(50):
            shown.on_progress(ProgressUpdate("work", key, "many", 0, None, 0.0, ended=ended))
        assert len(shown._bars) == (0 if ended else 8)
    shown._stop()


def test_a_pipe_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    shown = ProgressDisplay(make_console(stream), 1)
    now = 1_000.0
    monkeypatch.setattr("crucible_core.cli.terminal.time.monotonic", lambda: now)
    for second in range(0, 100, 10):
        now = 1_000.0 + second
        shown.on_progress(ProgressUpdate("work", 0, "working", second, 100, float(second)))
    assert stream.getvalue().splitlines() == [
        "      working: 30 of 100 (30 %), 1 per s, 1 min 10 s left",
        "      working: 60 of 100 (60 %), 1 per s, 40.0 s left",
        "      working: 90 of 100 (90 %), 1 per s, 10.0 s left",
    ]


def test_metrics_that_are_put_together_are_heard_like_those_put_one_by_one(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updates, "METRICS_INTERVAL", 0.0)
    ctx = Context.begin(experiment_of("nothing"), run_id="run")
    with at_work(listener):
        ctx.merge_metrics({"a": 1.0, "b": 2.0})
        with pytest.raises(TypeError, match="name"):
            ctx.put_metric(["c"], 3.0)  # type: ignore[arg-type]
        ctx.put_metric("d", 4.0)
    assert [dict(one) for one in listener.metrics] == [{"a": 1.0}, {"b": 2.0}, {"d": 4.0}]
