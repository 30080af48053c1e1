"""Schedules: which ticks there are, what became of them, and that one run does the work of each, whatever is killed."""

from __future__ import annotations

import itertools
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import schedule_stages
from children import PATH, Children
from click.testing import CliRunner, Result
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, Failure, SkipReason, build_schedule_context
from dagster._core.scheduler.instigation import InstigatorTick, InstigatorType, TickData, TickStatus
from dagster._utils.error import SerializableErrorInfo
from fault_stages import wait_for
from postgres import Storage, dagster_home
from scheduler import LOCATION, add_settings, launch_queued, scheduler_at, switch_on, workspace_of
from upath import UPath

from crucible_core import InvalidExperimentError, Schedule, load_experiment
from crucible_core.cli import main as crucible
from crucible_core.ir import vocabulary
from crucible_dagster import History, build_definitions, execute_experiment, job_for, schedule_for
from crucible_dagster.automation.schedules import MISSED, SCHEDULE_STATUS, tick_tags
from crucible_dagster.automation.ticks import Tick, find_state, ticks_of, times_before, what_became_of
from crucible_dagster.dagster_internals import schedule_execution_time_iterator
from crucible_dagster.execute.run_claims import claim_or_end, supersede
from crucible_dagster.store import ContextStore
from crucible_dagster.store.collection import collect_garbage
from crucible_dagster.tags import SUPERSEDED_TAG, TICK_TAG

# Dagster's own, while it describes any schedule.
pytestmark = pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`:DeprecationWarning")

NAME = "nightly_schedule"
MIDNIGHT = datetime(2026, 5, 4, tzinfo=UTC)


# --- the times --------------------------------------------------------------------------------------------------------

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
FORWARD = {BERLIN: "2026-03-29", NEW_YORK: "2026-03-08"}
BACK = {BERLIN: "2026-10-25", NEW_YORK: "2026-11-01"}

# What docs/schedules.md promises of the nights in which the clocks change.
DST = [
    # In the hour that is not there: at its end, once.
    (BERLIN, FORWARD, "30 2 * * *", ["03:00:00+02:00"]),
    (BERLIN, FORWARD, "0,15,30 2 * * *", ["03:00:00+02:00"]),
    (BERLIN, FORWARD, "30 0-4 * * *", ["00:30", "01:30", "03:00:00+02:00", "03:30", "04:30"]),
    (NEW_YORK, FORWARD, "30 2 * * *", ["03:00:00-04:00"]),
    (NEW_YORK, FORWARD, "0 2 * * *", ["03:00:00-04:00"]),
    # In the hour that is there twice: the second time, once.
    (BERLIN, BACK, "30 2 * * *", ["02:30:00+01:00"]),
    (BERLIN, BACK, "30 0-4 * * *", ["00:30", "01:30", "02:30:00+01:00", "03:30", "04:30"]),
    (NEW_YORK, BACK, "30 1 * * *", ["01:30:00-05:00"]),
    # Beside it: as every day.
    (BERLIN, FORWARD, "30 1 * * *", ["01:30:00+01:00"]),
    (BERLIN, BACK, "0 3 * * *", ["03:00:00+01:00"]),
    (NEW_YORK, FORWARD, "@daily", ["00:00:00-05:00"]),
    (NEW_YORK, BACK, "0 0 * * *", ["00:00:00-04:00"]),
    # What ticks all day long ticks as time passes.
    (BERLIN, FORWARD, "0 * * * *", 23),
    (BERLIN, BACK, "@hourly", 25),
    (BERLIN, FORWARD, "*/30 * * * *", 46),
    (NEW_YORK, BACK, "*/30 * * * *", 50),
    (BERLIN, BACK, "* * * * *", 25 * 60),
]


def day_of(zone: str, day: str) -> tuple[datetime, datetime]:
    begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    return begin.astimezone(UTC), (begin + timedelta(days=1)).astimezone(UTC)


def times_of(schedule: Schedule, begin: datetime, end: datetime) -> list[datetime]:
    times = schedule_execution_time_iterator(begin.timestamp(), schedule.cron, schedule.timezone)  # the daemon's own
    return list(itertools.takewhile(lambda time: time.timestamp() < end.timestamp(), times))


@pytest.mark.parametrize(("zone", "days", "cron", "expected"), DST)
@pytest.mark.fault("R11")
def test_the_ticks_of_a_night_in_which_the_clocks_change(
    zone: str, days: Mapping[str, str], cron: str, expected: Sequence[str] | int
) -> None:
    times = times_of(Schedule(cron=cron, timezone=zone), *day_of(zone, days[zone]))
    if isinstance(expected, int):
        assert len(times) == expected
    else:
        shown = [time.isoformat()[11:] for time in times]
        assert [one[: len(said)] for one, said in zip(shown, expected, strict=True)] == expected
    assert len({time.timestamp() for time in times}) == len(times)


@pytest.mark.parametrize(
    "cron",
    [
        *("61 * * * *", "* 24 * * *", "* * 32 * *", "* * * 13 *", "a b c d e", "- - - - -", "* * * * $(x)"),
        *("0 0 30 2 *", "*/90 * * * *"),
    ],
)
def test_a_time_that_never_comes_is_refused_where_it_stands_and_not_by_the_daemon_later(
    tmp_path: Path, cron: str
) -> None:
    file = tmp_path / "never.yaml"
    file.write_text(f"id: never\npipeline: [{{name: validate}}]\nschedule: {{cron: '{cron}'}}\n")
    with pytest.raises(InvalidExperimentError, match="not a cron schedule") as refused:
        build_definitions(file, strict=True)
    assert str(refused.value).startswith(f"{file}:3:12: schedule.cron: '{cron}' is")


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK])
@pytest.mark.parametrize("cron", ["0 * * * *", "*/30 * * * *", "30 2 * * *", "15 1-3 * * *", "7 * * * 0"])
def test_the_times_before_an_instant_are_those_that_the_daemon_takes(zone: str, cron: str) -> None:
    schedule = Schedule(cron=cron, timezone=zone)
    for days in (FORWARD, BACK):
        begin, end = day_of(zone, days[zone])
        begin, end = begin - timedelta(days=1), end + timedelta(hours=12, minutes=7)
        all_of_them = times_of(schedule, begin, end)
        for limit in (1, 3, 1000):
            assert times_before(schedule, end, since=begin, limit=limit) == all_of_them[-limit:]


def test_each_policy_and_each_status_is_implemented() -> None:
    assert set(MISSED) == set(get_args(vocabulary.MissedTicks))
    assert set(SCHEDULE_STATUS) == set(get_args(vocabulary.ScheduleStatus))


@pytest.mark.parametrize(
    ("schedule", "column", "said"),
    [
        ("{cron: '@daily', missed: none}", 28, "'all', 'latest' or 'skip'"),
        ("{cron: '@daily', max_catch_up: 3}", 1, "max_catch_up needs `missed: all`, but it is latest"),
        ("{cron: '@daily', missed: all, max_late: 3}", 1, "max_late needs `missed: skip`, but it is all"),
        ("{cron: '@daily', missed: all, max_catch_up: 101}", 41, "100"),
        ("{cron: '@daily', missed: skip, max_late: -1}", 42, "0"),
    ],
)
def test_a_bound_that_bounds_nothing_and_one_out_of_bounds_are_refused(
    tmp_path: Path, schedule: str, column: int, said: str
) -> None:
    (tmp_path / "e.yaml").write_text(f"id: nightly\npipeline: [{{name: validate}}]\nschedule: {schedule}\n")
    with pytest.raises(InvalidExperimentError) as refused:
        load_experiment(tmp_path / "e.yaml")
    assert f"e.yaml:3:{column}: schedule" in str(refused.value)
    assert said in str(refused.value)


# --- what became of a tick --------------------------------------------------------------------------------------------

R = DagsterRunStatus


def run_of(name: str, status: DagsterRunStatus, *, root: str | None = None, superseded: bool = False) -> DagsterRun:
    tags = {SUPERSEDED_TAG: "other"} if superseded else {}
    return DagsterRun(job_name="nightly", run_id=name, status=status, root_run_id=root, parent_run_id=root, tags=tags)


def tick_of(status: TickStatus, **more: Any) -> InstigatorTick:
    data = TickData("origin", NAME, InstigatorType.SCHEDULE, status, MIDNIGHT.timestamp(), **more)
    return InstigatorTick(1, data)


ERROR = SerializableErrorInfo("no module named lost\n", [], "ImportError")
BECAME = [
    ([], None, "missed", None, None, "no daemon looked at it"),
    ([], tick_of(TickStatus.STARTED), "missed", None, None, "its evaluation was interrupted"),
    ([], tick_of(TickStatus.FAILURE, error=ERROR), "missed", None, None, "its evaluation failed: no module named lost"),
    ([], tick_of(TickStatus.SKIPPED, skip_reason="late"), "skipped", None, None, "late"),
    ([run_of("a", R.SUCCESS)], tick_of(TickStatus.SUCCESS, run_ids=["a"]), "run", "a", "succeeded", None),
    ([run_of("a", R.STARTING)], tick_of(TickStatus.STARTED), "run", "a", "running", None),
    ([run_of("a", R.FAILURE)], None, "run", "a", "failed", None),
    ([run_of("a", R.CANCELED)], None, "run", "a", "canceled", None),
    ([run_of("a", R.FAILURE), run_of("b", R.SUCCESS, root="a")], None, "run", "b", "succeeded", None),
    ([run_of("a", R.CANCELED, superseded=True), run_of("b", R.SUCCESS)], None, "run", "b", "succeeded", None),
    ([run_of("a", R.NOT_STARTED)], None, "missed", None, None, "run a was created for it and never submitted"),
    ([run_of("a", R.CANCELED, superseded=True)], None, "missed", None, None, "run a was created"),
    ([run_of("a", R.NOT_STARTED), run_of("b", R.STARTED)], None, "run", "b", "running", None),
]


@pytest.mark.parametrize(("runs", "tick", "outcome", "run_id", "status", "note"), BECAME)
def test_what_became_of_a_tick_is_told_from_its_runs_and_from_what_dagster_noted(
    runs: Sequence[DagsterRun],
    tick: InstigatorTick | None,
    outcome: str,
    run_id: str | None,
    status: str | None,
    note: str | None,
) -> None:
    found = what_became_of(MIDNIGHT, runs, tick)
    assert (found.outcome, found.run_id, found.run_status) == (outcome, run_id, status)
    assert (found.note or "").startswith(note or "")
    assert (found.note is None) == (note is None)
    assert found.never_submitted == tuple(run.run_id for run in runs if run.status is R.NOT_STARTED)


def test_of_two_runs_for_a_tick_the_one_that_claimed_it_has_it() -> None:
    runs = [run_of("a", R.STARTED), run_of("b", R.FAILURE), run_of("c", R.STARTED, root="b")]
    assert what_became_of(MIDNIGHT, runs, None, owner="b").run_id == "c"
    assert what_became_of(MIDNIGHT, runs, None, owner="a").run_id == "a"
    assert what_became_of(MIDNIGHT, runs, None).run_id == "a"
    given_up = [run_of("a", R.SUCCESS, superseded=True), run_of("b", R.CANCELED, superseded=True)]
    assert what_became_of(MIDNIGHT, given_up, None, owner="a").run_status == "succeeded"
    assert what_became_of(MIDNIGHT, given_up, None).outcome == "missed"


def test_a_tick_that_just_came_is_due_and_not_missed() -> None:
    def soon(seconds: float, *runs: DagsterRun) -> str:
        return what_became_of(MIDNIGHT, runs, None, now=MIDNIGHT + timedelta(seconds=seconds)).outcome

    assert [soon(1), soon(119), soon(121)] == ["due", "due", "missed"]
    assert soon(1, run_of("a", R.STARTING)) == "run"


# --- claims -----------------------------------------------------------------------------------------------------------


def test_of_many_that_claim_at_once_one_has_it(tmp_path: Path) -> None:
    stores = [ContextStore(UPath(tmp_path)) for _ in range(8)]
    for key in ("first", "second"):
        with ThreadPoolExecutor(8) as pool:
            owners = list(pool.map(lambda one, key=key: stores[one].claim(key, f"run-{one}"), range(8)))
        assert len(set(owners)) == 1
        assert stores[0].claimed_by(key) == owners[0]
    assert stores[0].claimed_by("third") is None


def test_a_claim_goes_with_its_run(tmp_path: Path) -> None:
    store = ContextStore(UPath(tmp_path))
    for run_id in ("old", "new"):
        store.put_run_record(run_id, "{}")
        assert store.claim(f"tick of {run_id}", run_id) == run_id
    removed = collect_garbage(store, lambda run_id, _: run_id == "new", delete=True, grace=-1.0)
    assert removed.removed_runs == ("old",)
    assert store.claimed_by("tick of old") is None
    assert store.claimed_by("tick of new") == "new"


def scheduled_run(instance: DagsterInstance, name: str = NAME, **more: Any) -> DagsterRun:
    schedule = Schedule(cron="@daily")
    run = DagsterRun(
        job_name="nightly",
        run_id=str(uuid4()),
        status=R.STARTED,
        tags={"dagster/schedule_name": name, **tick_tags(schedule, MIDNIGHT)},
        **more,
    )
    return instance.add_run(run)


def test_a_run_and_those_that_execute_it_again_have_its_tick_and_no_other_has(instance: DagsterInstance) -> None:
    store = ContextStore(UPath(instance.root_directory) / "store")
    first, second, other = scheduled_run(instance), scheduled_run(instance), scheduled_run(instance, "hourly_schedule")
    retry = scheduled_run(instance, root_run_id=first.run_id, parent_run_id=first.run_id)
    again = scheduled_run(instance, root_run_id=first.run_id, parent_run_id=retry.run_id)
    for run in (first, first, retry, again, other):
        claim_or_end(run, store, instance)
    with pytest.raises(Failure, match=rf"Run {first.run_id} has tick 2026-05-04T00:00:00\+00:00 of {NAME}"):
        claim_or_end(second, store, instance)
    ended = instance.get_run_by_id(second.run_id)
    assert ended is not None
    assert (ended.status, ended.tags[SUPERSEDED_TAG]) == (R.CANCELING, first.run_id)
    by_hand = second.with_tags({TICK_TAG: MIDNIGHT.isoformat()})  # what the UI copies to a launch by hand
    claim_or_end(by_hand, store, instance)


def test_of_the_retries_of_one_run_one_works_and_what_a_person_executes_again_works_too(
    instance: DagsterInstance,
) -> None:
    store = ContextStore(UPath(instance.root_directory) / "store")
    failed = scheduled_run(instance)
    again = {"root_run_id": failed.run_id, "parent_run_id": failed.run_id}
    first, second = (
        scheduled_run(instance, **again).with_tags({"dagster/retry_number": "1", **failed.tags}) for _ in range(2)
    )
    for run in (failed, first, first, scheduled_run(instance, **again)):
        claim_or_end(run, store, instance)
    with pytest.raises(Failure, match=rf"Run {first.run_id} is the retry of run {failed.run_id}; this run"):
        claim_or_end(second, store, instance)
    next_one = scheduled_run(instance, root_run_id=failed.run_id, parent_run_id=first.run_id)
    claim_or_end(next_one.with_tags({"dagster/retry_number": "2", **failed.tags}), store, instance)


def test_only_a_run_that_was_never_submitted_is_superseded(instance: DagsterInstance) -> None:
    waiting, starting = (
        instance.add_run(DagsterRun(job_name="nightly", run_id=str(uuid4()), status=status))
        for status in (R.NOT_STARTED, R.STARTING)
    )
    supersede(instance, [waiting.run_id, starting.run_id, str(uuid4())], "too late")
    found = [instance.get_run_by_id(run.run_id) for run in (waiting, starting)]
    assert [run and run.status for run in found] == [R.CANCELED, R.STARTING]


# --- Dagster's scheduler ----------------------------------------------------------------------------------------------


class Plant:
    """One scheduled experiment on one instance, and Dagster's scheduler at any instant."""

    def __init__(self, instance: DagsterInstance, folder: Path, children: Children, stack: ExitStack) -> None:
        self.instance = instance
        self.folder = folder
        self.file = folder / "nightly.yaml"
        self._children = children
        self._stack = stack

    def define(self, *, since: datetime | None = None, stage: str = "work", **schedule: Any) -> None:
        options = {"folder": str(self.folder)}
        pipeline = [{"name": stage, "module": f"{schedule_stages.__name__}:{stage}", "options": options}]
        self.file.write_text(json.dumps({"id": "nightly", "pipeline": pipeline, "schedule": schedule}))
        # A name of its own: in this process, Dagster executes each file once.
        self.definitions = self.folder / f"definitions_{uuid4().hex}.py"
        self.definitions.write_text(
            f"from crucible_dagster import build_definitions\n\ndefs = build_definitions({str(self.file)!r})\n"
        )
        self.workspace = self._stack.enter_context(workspace_of(self.instance, self.definitions))
        if since is not None:
            switch_on(self.workspace, NAME, since)

    @property
    def schedule(self) -> Schedule:
        schedule = load_experiment(self.file).schedule
        assert schedule is not None
        return schedule

    def scheduler_at(self, now: datetime) -> None:
        scheduler_at(self.workspace, now)
        launch_queued(self.workspace)

    def killed_scheduler_at(self, now: datetime, point: str) -> None:
        child = self._child(now, crash=point)
        assert child.wait() == -signal.SIGKILL, child.said()

    def two_schedulers_at(self, now: datetime) -> None:
        both = self.folder / f"both at {now.timestamp()}"
        both.mkdir()
        children = [self._child(now, ready=str(both)) for _ in range(2)]
        for child in children:
            wait_for(both / f"ready {child.pid}")
        (both / "go").touch()
        for child in children:
            child.result()

    def _child(self, now: datetime, *, crash: str | None = None, ready: str | None = None) -> Any:
        return self._children.start(
            "schedule",
            home=self.instance.root_directory,
            definitions=str(self.definitions),
            now=now.isoformat(),
            schedule=NAME,
            crash=crash,
            ready=ready,
        )

    def ticks(self, until: datetime, **more: Any) -> tuple[Tick, ...]:
        state = find_state(self.instance, NAME)
        return ticks_of(self.instance, self.schedule, state, until=until, **{"limit": 100, **more}).ticks

    def outcomes(self, until: datetime) -> list[str]:
        return [tick.run_status or tick.outcome for tick in self.ticks(until)]

    def worked(self) -> list[str]:
        """The ticks whose work was done, in that order, as hours and minutes."""
        marks = self.folder / "executed"
        runs = marks.read_text().split() if marks.exists() else []
        found = [self.instance.get_run_by_id(run_id) for run_id in runs]
        return [f"{datetime.fromisoformat(run.tags[TICK_TAG]):%H:%M}" for run in found if run is not None]


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    started = Children("schedule_stages")
    try:
        yield started
    finally:
        started.end()


@pytest.fixture
def make_plant(
    request: pytest.FixtureRequest, tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Storage], Plant]]:
    monkeypatch.setenv("PYTHONPATH", PATH)
    with ExitStack() as stack:

        def make(storage: Storage) -> Plant:
            server = request.getfixturevalue("postgres") if storage == "postgres" else None
            (tmp_path / "home").mkdir()
            home = stack.enter_context(dagster_home(tmp_path / "home", storage, server))
            add_settings(home)
            instance = stack.enter_context(DagsterInstance.from_config(str(home)))
            instance.get_runs_count()
            instance.all_asset_keys()
            instance.all_instigator_state()
            monkeypatch.setenv("DAGSTER_HOME", str(home))
            return Plant(instance, tmp_path, children, stack)

        yield make


@pytest.fixture
def plant(make_plant: Callable[[Storage], Plant], storage: Storage) -> Plant:
    """On each kind of storage."""
    return make_plant(storage)


@pytest.fixture
def small_plant(make_plant: Callable[[Storage], Plant]) -> Plant:
    return make_plant("sqlite")


def at(minute: float) -> datetime:
    return MIDNIGHT + timedelta(minutes=minute)


@pytest.mark.fault("no daemon for a while")
def test_all_missed_ticks_are_run_once_each_the_oldest_first(plant: Plant) -> None:
    plant.define(since=at(0.5), cron="* * * * *", missed="all")
    plant.scheduler_at(at(4.2))
    assert plant.worked() == ["00:01", "00:02", "00:03", "00:04"]
    assert plant.outcomes(at(5.5)) == ["succeeded"] * 4 + ["missed"]
    plant.scheduler_at(at(4.9))
    plant.scheduler_at(at(6.2))
    assert plant.worked() == ["00:01", "00:02", "00:03", "00:04", "00:05", "00:06"]
    assert plant.outcomes(at(6.5)) == ["succeeded"] * 6
    launched = {summary.launched.name for summary in History(plant.instance).runs("nightly")}
    assert launched == {NAME}


def test_no_more_are_caught_up_than_are_looked_back_over_and_the_others_are_listed(small_plant: Plant) -> None:
    small_plant.define(since=at(-60), cron="*/10 * * * *", timezone=BERLIN, missed="all", max_catch_up=2)
    small_plant.scheduler_at(at(2))
    assert small_plant.worked() == ["23:40", "23:50", "00:00"]
    assert small_plant.outcomes(at(1)) == ["missed"] * 4 + ["succeeded"] * 3
    assert [tick.note for tick in small_plant.ticks(at(1))[:4]] == ["no daemon looked at it"] * 4


def test_of_missed_ticks_the_latest_is_run_unless_the_file_says_otherwise(small_plant: Plant) -> None:
    small_plant.define(since=at(0.5), cron="* * * * *")
    small_plant.scheduler_at(at(3.5))
    assert small_plant.worked() == ["00:03"]
    assert small_plant.outcomes(at(4)) == ["missed", "missed", "succeeded"]


def test_what_is_too_late_is_skipped_when_the_file_says_so(small_plant: Plant) -> None:
    small_plant.define(since=at(0.5), cron="* * * * *", missed="skip", max_late=200)
    small_plant.scheduler_at(at(2.5))
    assert small_plant.worked() == []
    assert small_plant.outcomes(at(3)) == ["missed", "skipped"]
    note = small_plant.ticks(at(3))[-1].note or ""
    assert note.startswith("The tick is evaluated ")
    assert note.endswith(" s late, and at most 200 s are allowed (max_late).")
    now = datetime.now(UTC)
    switch_on(small_plant.workspace, NAME, now - timedelta(minutes=1))
    small_plant.scheduler_at(now)
    assert small_plant.worked() == [f"{now:%H:%M}"]


def test_a_late_tick_whose_run_is_on_its_way_is_not_skipped_and_one_never_submitted_is_given_up(
    small_plant: Plant,
) -> None:
    small_plant.define(since=at(0.5), cron="* * * * *", missed="skip")
    # Killed by another policy: nothing is too late for it.
    schedule = small_plant.schedule
    small_plant.define(cron="* * * * *", missed="latest")
    small_plant.killed_scheduler_at(at(1.1), "RUN_LAUNCHED")
    small_plant.define(cron="* * * * *", missed="skip")
    assert schedule == small_plant.schedule
    small_plant.scheduler_at(at(1.5))
    assert small_plant.outcomes(at(2)) == ["succeeded"]
    small_plant.define(cron="* * * * *", missed="latest")
    small_plant.killed_scheduler_at(at(2.1), "RUN_CREATED")
    small_plant.define(cron="* * * * *", missed="skip")
    small_plant.scheduler_at(at(2.5))
    assert small_plant.outcomes(at(3)) == ["succeeded", "skipped"]
    assert small_plant.worked() == ["00:01"]
    (given_up,) = [run for run in small_plant.instance.get_runs() if run.status is R.CANCELED]
    assert given_up.tags[SUPERSEDED_TAG] == "never submitted"


def test_a_run_made_for_a_missed_tick_right_before_the_kill_is_submitted_and_not_given_up(small_plant: Plant) -> None:
    # Dagster would find the given-up run by its key, and make no other before the next tick.
    small_plant.define(since=at(0.5), cron="* * * * *", missed="all")
    small_plant.killed_scheduler_at(at(2.1), "RUN_CREATED")
    small_plant.scheduler_at(at(2.2))
    assert small_plant.outcomes(at(3)) == ["succeeded", "succeeded"]
    assert small_plant.worked() == ["00:01", "00:02"]
    assert not [run for run in small_plant.instance.get_runs() if run.status is R.CANCELED]


def test_ticks_of_times_that_the_schedule_did_not_have_yet_are_not_caught_up(small_plant: Plant) -> None:
    small_plant.define(since=at(-200), cron="0 * * * *", missed="all")
    small_plant.scheduler_at(at(0.1))
    assert small_plant.worked() == ["21:00", "22:00", "23:00", "00:00"]
    small_plant.define(cron="*/10 * * * *", missed="all")
    small_plant.scheduler_at(at(20.1))
    assert small_plant.worked()[4:] == ["00:20"]
    small_plant.scheduler_at(at(40.1))
    assert small_plant.worked()[4:] == ["00:20", "00:30", "00:40"]
    assert small_plant.outcomes(at(45)) == ["succeeded"] * 3


def test_ticks_from_before_the_schedule_was_switched_on_are_not_missed(plant: Plant) -> None:
    plant.define(since=at(0.5), cron="* * * * *", missed="all")
    plant.scheduler_at(at(1.1))
    switch_on(plant.workspace, NAME, at(5.5))
    plant.scheduler_at(at(7.1))
    assert plant.worked() == ["00:01", "00:06", "00:07"]
    assert plant.outcomes(at(8)) == ["succeeded"] * 2
    assert [tick.outcome for tick in plant.ticks(at(8), since=at(0.5))] == ["run", *["missed"] * 4, "run", "run"]


@pytest.mark.fault("R11")
def test_a_night_in_which_the_clocks_change_has_one_run(small_plant: Plant) -> None:
    for day, tick in ((FORWARD[BERLIN], "01:00"), (BACK[BERLIN], "01:30")):
        begin, _ = day_of(BERLIN, day)
        small_plant.define(since=begin, cron="30 2 * * *", timezone=BERLIN, missed="all")
        for quarter in range(24):
            small_plant.scheduler_at(begin + timedelta(minutes=15 * quarter, seconds=5))
        assert small_plant.worked()[-1] == tick
    assert len(small_plant.worked()) == 2


@pytest.mark.fault("the clock jumps")
def test_a_clock_that_is_set_back_and_forth_has_each_tick_worked_once(small_plant: Plant) -> None:
    small_plant.define(since=at(0.5), cron="*/30 * * * *", missed="all")
    for minute in (31, 61, 1, 31.5, 91, 31, 121):
        small_plant.scheduler_at(at(minute))
    assert Counter(small_plant.worked()) == dict.fromkeys(["00:30", "01:00", "01:30", "02:00"], 1)


POINTS = ["TICK_CREATED", "TICK_HELD", "RUN_CREATED", "RUN_LAUNCHED", "RUN_ADDED", "TICK_SUCCESS"]


@pytest.mark.fault("the daemon is killed")
def test_a_tick_whose_scheduler_is_killed_is_run_once_by_the_next_one(plant: Plant, storage: Storage) -> None:
    plant.define(since=at(0.5), cron="* * * * *", missed="all")
    # The next one comes with the next tick, or before it.
    later = [(point, 1) for point in POINTS] if storage == "sqlite" else [("TICK_CREATED", 1), ("RUN_LAUNCHED", 1)]
    minute = 0
    for point, wait in [*later, ("RUN_CREATED", 0), ("RUN_CREATED", 1), ("RUN_LAUNCHED", 0)]:
        minute += 1
        plant.killed_scheduler_at(at(minute + 0.1), point)
        minute += wait
        plant.scheduler_at(at(minute + 0.6))
        done = Counter(plant.worked())
        assert done == dict.fromkeys((f"{at(one):%H:%M}" for one in range(1, minute + 1)), 1), (point, wait)
        assert set(plant.outcomes(at(minute + 0.7))) == {"succeeded"}, (point, wait)


@pytest.mark.fault("R7")
def test_two_schedulers_at_once_have_each_tick_s_work_done_once(plant: Plant) -> None:
    plant.define(since=at(0.5), cron="* * * * *", missed="all")
    for minute in (1, 3):
        plant.two_schedulers_at(at(minute + 0.1))
    # Whatever a race left over is found by the next one.
    plant.scheduler_at(at(4.1))
    assert Counter(plant.worked()) == dict.fromkeys(["00:01", "00:02", "00:03", "00:04"], 1)
    assert plant.outcomes(at(4.5)) == ["succeeded"] * 4
    runs = plant.instance.get_runs()
    assert {run.status for run in runs} <= {R.SUCCESS, R.CANCELED}
    for run in runs:
        assert run.status is not R.CANCELED or SUPERSEDED_TAG in run.tags


# --- crucible ticks ---------------------------------------------------------------------------------------------------


def command(*arguments: str) -> Result:
    return CliRunner().invoke(crucible, ["ticks", *arguments])


@pytest.mark.fault("R7", "no daemon for a while")
def test_the_command_lists_ticks_and_catches_up(plant: Plant) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    hours = [now.replace(minute=0) - timedelta(hours=back) for back in (3, 2, 1)]
    plant.define(since=hours[0] - timedelta(minutes=1), cron="0 * * * *", timezone=BERLIN)
    plant.scheduler_at(hours[1] + timedelta(seconds=30))
    listed = json.loads(command(str(plant.file), "--json").stdout)
    assert (listed["experiment"], listed["cron"], listed["schedule"]) == ("nightly", "0 * * * *", NAME)
    assert (listed["location"], listed["on"]) == (f"{LOCATION}:__repository__", True)
    outcomes = [tick["outcome"] for tick in listed["ticks"]]
    assert outcomes[:3] == ["missed", "run", "missed"]
    assert [datetime.fromisoformat(tick["time"]) for tick in listed["ticks"][:3]] == hours
    by_id = json.loads(command("nightly", "--json", "--missed", "--since", hours[1].isoformat()).stdout)
    # In the first minutes of an hour the tick of that hour is due, and not missed.
    assert set(outcomes[3:]) <= {"due", "missed"}
    assert [tick["outcome"] for tick in by_id["ticks"]] == [kind for kind in outcomes[2:] if kind == "missed"]
    shown = command(str(plant.file)).stdout
    assert f"{NAME} of {LOCATION}:__repository__: 0 * * * * Europe/Berlin, on" in shown
    assert "tick outcome run status note" in " ".join(shown.split())
    assert "no daemon looked at it" in shown
    assert hours[0].astimezone(ZoneInfo(BERLIN)).strftime("%Y-%m-%d %H:%M %Z") in shown

    caught_up = command(str(plant.file), "--catch-up", "--json")
    assert caught_up.exit_code == 0, caught_up.output
    assert {tick["outcome"] for tick in json.loads(caught_up.stdout)["ticks"]} <= {"run", "due"}
    assert len(plant.worked()) == len(set(plant.worked())) >= 3
    again = command(str(plant.file), "--catch-up")
    assert again.exit_code == 0
    assert len(plant.worked()) == len(set(plant.worked()))
    # The scheduler sees what the command has done.
    plant.define(cron="0 * * * *", timezone=BERLIN, missed="all")
    plant.scheduler_at(datetime.now(UTC))
    assert len(plant.worked()) == len(set(plant.worked()))


def test_catching_up_says_which_runs_failed(small_plant: Plant) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    small_plant.define(since=hour - timedelta(minutes=1), cron="0 * * * *", stage="fail")
    failed = command(str(small_plant.file), "--catch-up", "--limit", "2")
    assert failed.exit_code == 1
    assert "it does not work yet" in failed.stderr
    # It was run, and failed: that is no missed tick, and it is resumed like any other run.
    assert "missed" not in [tick.outcome for tick in small_plant.ticks(hour + timedelta(minutes=1))]


def test_what_the_command_cannot_tell_it_says(small_plant: Plant, tmp_path: Path) -> None:
    small_plant.define(cron="@daily")
    never = command(str(small_plant.file))
    assert never.exit_code == 2
    assert f"the schedule '{NAME}' was never switched on" in never.stderr
    switch_on(small_plant.workspace, NAME, at(0))
    assert "there is no run of an experiment 'nightly'" in command("nightly").stderr
    assert "'yesterday' is not a date or time" in command(str(small_plant.file), "--since", "yesterday").stderr
    assert (
        "of code location 'there' was never switched on" in command(str(small_plant.file), "--location", "there").stderr
    )
    (tmp_path / "plain.yaml").write_text("id: plain\npipeline: [{name: validate}]\n")
    assert "experiment 'plain' has no schedule" in command(str(tmp_path / "plain.yaml")).stderr
    execute_experiment(load_experiment(small_plant.file), instance=small_plant.instance)
    assert "name its file, not nightly" in command("nightly", "--catch-up").stderr


def test_an_evaluation_without_a_scheduler_asks_for_the_tick_alone(small_plant: Plant) -> None:
    small_plant.define(cron="@daily", missed="all")
    experiment = load_experiment(small_plant.file)
    schedule = schedule_for(experiment, job_for(experiment))
    assert schedule is not None
    context = build_schedule_context(small_plant.instance, scheduled_execution_time=MIDNIGHT)
    (request,) = schedule.evaluate_tick(context).run_requests or ()
    assert request.run_key == request.tags[TICK_TAG] == "2026-05-04T00:00:00+00:00"
    assert request.tags["crucible/cron"] == "@daily UTC"
    assert not isinstance(request, SkipReason)
