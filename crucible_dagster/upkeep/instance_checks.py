"""Checks of the packages and of what the database says: versions, migrations, daemons, runs, schedules."""

from __future__ import annotations

import re
import time
from collections.abc import Container, Iterator
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster import RunRecord as StoredRun
from packaging.requirements import Requirement

from crucible_core.values.formatting import format_duration
from crucible_dagster.automation.schedules import schedule_name
from crucible_dagster.automation.ticks import Ticks, ticks_of
from crucible_dagster.dagster_internals import InstigatorState
from crucible_dagster.history.run_record import read_run_record
from crucible_dagster.processes import is_gone
from crucible_dagster.store import ContextStore
from crucible_dagster.store.retention import NOT_FINISHED_STATUSES
from crucible_dagster.store.store import HEARTBEATS
from crucible_dagster.tags import EXPERIMENT_TAG, SCHEDULE_NAME_TAG
from crucible_dagster.upkeep.findings import Finding, Severity, Subject

__all__ = ["DAEMON_SILENCE", "SILENCE", "daemons", "migrations", "runs", "schedules", "silence_of", "versions"]

OURS = "crucible-dagster"
DAY = 86_400.0
SILENCE = 120.0
"""Seconds since the last heartbeat after which a run's process counts as dead; it allows for clock differences."""
DAEMON_SILENCE = 120.0
"""Seconds since the last heartbeat after which a daemon counts as dead; it writes one every 30."""
LONGEST: dict[DagsterRunStatus, float] = {
    DagsterRunStatus.QUEUED: 1_800.0,
    DagsterRunStatus.NOT_STARTED: 3_600.0,
    DagsterRunStatus.STARTING: 600.0,
    DagsterRunStatus.STARTED: DAY,
    DagsterRunStatus.CANCELING: 600.0,
}
"""Seconds after which a run that is still in this state is worth a look."""
MAY_TAKE_LONG = {DagsterRunStatus.STARTED, DagsterRunStatus.NOT_STARTED}
TICKS = 50
SHOWN = 10


def versions(_: Subject) -> Iterator[Finding]:
    """Whether the versions of Dagster, its libraries and this package fit together."""
    # If several have the same name, the first one on the path is imported.
    installed = {name: dist for dist in reversed([*distributions()]) if (name := _name(dist))}
    for name, dist in sorted(installed.items()):
        if name == OURS or name.startswith("dagster"):
            asked = {
                f"{one.name}{one.specifier}": one
                for one in map(Requirement, dist.requires or ())
                if counts(one, name, installed)
            }
            for said, one in sorted(asked.items()):
                found = installed.get(_plain(one.name))
                if found is not None and not one.specifier.contains(found.version, prereleases=True):
                    wrong = f"{name} {dist.version} needs {said}, and {found.version} is installed"
                    yield Finding("error", "versions", wrong, f"pip install '{said}'")


def _name(dist: Distribution) -> str:
    # `dist.name` parses all metadata, including long descriptions: five times the work.
    texts = map(dist.read_text, ("METADATA", "PKG-INFO", ""))  # the last one is for distutils
    said = re.search(r"^Name:\s*(\S+)", next(filter(None, texts), ""), re.MULTILINE)
    return _plain(said[1]) if said else ""


def counts(asked: Requirement, by: str, installed: Container[str]) -> bool:
    """Whether a requirement of the package `by` applies here, given what is installed."""
    if by == OURS:  # Dagster is an extra of ours; its version matters whenever it is installed
        # The bound on SQLAlchemy belongs to the extra `postgres`.
        of_postgres = _plain(asked.name) == "sqlalchemy" and "dagster-postgres" in installed
        return asked.name.startswith("dagster") or of_postgres
    return asked.marker is None or asked.marker.evaluate({"extra": ""})


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def migrations(subject: Subject) -> Iterator[Finding]:
    """Whether the tables belong to the installed version of Dagster."""
    instance, _ = subject.opened
    storages = {
        "runs": instance.run_storage,
        "events": instance.event_log_storage,
        "schedules": instance.schedule_storage,
    }
    behind = []
    for name, storage in storages.items():
        found = None if storage is None else storage.alembic_version()
        if found is not None and found[0] != found[1]:
            behind.append(f"{name} ({found[0] or 'none'}, and {found[1]} is needed)")
    if behind:
        yield Finding(
            "error",
            "migrations",
            f"the tables are of another version of Dagster: {', '.join(behind)}",
            "stop the services, back up, and run `dagster instance migrate` with this DAGSTER_HOME"
            + (f" ({subject.home})" if subject.is_embedded else ""),
        )


def daemons(subject: Subject) -> Iterator[Finding]:
    """Whether exactly one daemon is running, if something waits for one, and which errors it reports."""
    instance, _ = subject.opened
    now = time.time()
    beats = instance.get_daemon_heartbeats().values()
    fresh = [one for one in beats if now - one.timestamp < DAEMON_SILENCE]
    on = [one.instigator_name for one in instance.all_instigator_state() if one.is_running]
    queued = instance.get_runs_count(RunsFilter(statuses=[DagsterRunStatus.QUEUED]))
    waiting = [f"{len(on)} schedules and sensors are on"] if on else []
    waiting += [f"{queued} runs are queued"] if queued else []
    start = "`crucible ui`" if subject.is_embedded else "`python -m crucible_dagster.service.daemon`"
    if not fresh:
        last = max((one.timestamp for one in beats), default=None)
        since = "there has never been one" if last is None else f"the last heartbeat was {_ago(now - last)} ago"
        if waiting:
            yield Finding("error", "daemon", f"no daemon runs ({since}), and {' and '.join(waiting)}", f"start {start}")
        elif not subject.is_embedded:
            yield Finding("note", "daemon", f"no daemon runs ({since}); nothing waits for one")
    if len({one.daemon_id for one in fresh}) > 1:
        yield Finding(
            "error",
            "daemon",
            "several daemons run at once: ticks are launched twice, and jobs other than experiments run twice",
            f"end all but one, and start it as {start}, which takes a lock",
        )
    for one in fresh:
        for error in one.errors or ():
            said = " ".join(error.message.split())
            yield Finding("warning", "daemon", f"{one.daemon_type.lower()} reported: {said}", "see the daemon's log")
    missing = {one for one in instance.get_required_daemon_types() if fresh} - {one.daemon_type for one in fresh}
    if missing and waiting:
        said = f"a daemon runs, but these parts of it do not: {', '.join(sorted(missing)).lower()}"
        yield Finding("warning", "daemon", said, "restart it; it may also have just started")


def runs(subject: Subject) -> Iterator[Finding]:
    """Runs that are not over, but are dead or have waited too long."""
    instance, store = subject.opened
    now = time.time()
    stuck: list[Finding] = []
    for stored in instance.get_run_records(RunsFilter(statuses=list(NOT_FINISHED_STATUSES))):
        stuck += _stuck(stored, store, now)
    yield from stuck[:SHOWN]
    if len(stuck) > SHOWN:
        yield Finding("error", "runs", f"{len(stuck) - SHOWN:,} more runs are stuck", "see `crucible runs`")


def _stuck(stored: StoredRun, store: ContextStore, now: float) -> Iterator[Finding]:
    run, status = stored.dagster_run, stored.dagster_run.status
    named = f"run {run.run_id[:8]} ({run.tags.get(EXPERIMENT_TAG) or run.job_name})"
    since = stored.start_time or stored.create_timestamp.timestamp()
    age = now - since
    if status is DagsterRunStatus.STARTED:
        why = _why_dead(run.run_id, store, now)
        if why:
            yield Finding(
                "error",
                "runs",
                f"{named} is recorded as running, and {why}",
                f"the daemon's run monitoring ends it; else `crucible resume {run.run_id[:8]} --force`",
            )
            return
    if age > LONGEST.get(status, DAY):
        severity: Severity = "warning" if status in MAY_TAKE_LONG else "error"
        do = "see its log; `max_runtime_seconds` of run_monitoring in dagster.yaml ends runs that hang"
        if status is DagsterRunStatus.QUEUED:
            do = "see whether the daemon runs and the code server answers, and the limits in dagster.yaml"
        yield Finding(severity, "runs", f"{named} is {status.value.lower().replace('_', ' ')} for {_ago(age)}", do)


def _why_dead(run_id: str, store: ContextStore, now: float) -> str | None:
    silent = silence_of(store, run_id, now)
    if silent is not None:
        return f"nothing was heard of its process for {_ago(silent)}" if silent > SILENCE else None
    text = store.run_record(run_id)
    worker = None if text is None else read_run_record(text).worker
    return f"its process ({worker}) is gone" if worker is not None and is_gone(worker) else None


def silence_of(store: ContextStore, run_id: str, now: float) -> float | None:
    """Seconds since the last heartbeat of a run's process; None if it has none."""
    at = store.files.modified(f"{HEARTBEATS}/{run_id}")
    return None if at is None else max(0.0, now - at)


def schedules(subject: Subject) -> Iterator[Finding]:
    """Missed ticks of schedules that are switched on."""
    instance, store = subject.opened
    for state in instance.all_instigator_state():
        if state.instigator_type.value != "SCHEDULE" or not state.is_running:
            continue
        found = _missed(instance, store, state)
        if found is None:
            continue
        experiment, listed = found
        if listed.missed:
            said = f"{state.instigator_name} has missed {len(listed.missed)} of its last {len(listed.ticks)} ticks"
            yield Finding("warning", "schedules", said, f"see `crucible ticks {experiment}`")


def _missed(instance: DagsterInstance, store: ContextStore, state: InstigatorState) -> tuple[str, Ticks] | None:
    """The schedule's experiment, and its newest ticks; None if no run of it is recorded."""
    for run in instance.get_runs(RunsFilter(tags={SCHEDULE_NAME_TAG: state.instigator_name}), limit=5):
        text = store.run_record(run.run_id)
        if text is None:
            continue
        experiment = read_run_record(text).to_experiment()
        if experiment.schedule is None or schedule_name(experiment) != state.instigator_name:
            continue
        now = datetime.now(UTC)
        return experiment.id, ticks_of(instance, experiment.schedule, state, until=now, limit=TICKS, now=now)
    return None


def _ago(seconds: float) -> str:
    if seconds < 2 * DAY:
        return format_duration(seconds)
    return f"{seconds / DAY:.0f} days"
