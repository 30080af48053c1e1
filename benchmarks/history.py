"""What it takes to look back: pages of `History.runs` and `History.metrics`, in an instance of 10,000 runs.

The runs are those of five experiments, nine in ten succeeded, one every ten minutes until now. They are put in by
Dagster's own storages, each with its tags, its start and its end, and a materialization with the report of a real run.
With Dagster's default, SQLite, the events of each run are in a file of its own besides: none of these calls opens one,
and they are left out. For PostgreSQL, or any other storage, name an instance's empty home: `--home FOLDER`.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from dagster import AssetMaterialization, DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, EventLogEntry
from dagster._core.events import StepMaterializationData
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from measure import number, print_header, print_table, print_target, seconds
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.event import listen, remove

from crucible_core import Context, Experiment, Registry, run_experiment, stage
from crucible_dagster import History, job_for
from crucible_dagster.execute.metadata import materialization
from crucible_dagster.history.run_record import launch_tags

EXPERIMENTS = 5
PAGE = 20
LIMIT = 1.0


@stage
def measure(ctx: Context, *, count: int = 5) -> Context:
    """Puts metrics, outputs and a decision, as stages do."""
    ctx = ctx.merge_metrics({f"fold_{index}": {"accuracy": 0.9, "loss": 0.1} for index in range(count)})
    ctx = ctx.put_metric("accuracy", 0.9).add_outputs([{"example": index, "score": 0.5} for index in range(100)])
    return ctx.decide("went on", "it looked fine", alternatives=["stopped"], confidence=0.5)


def build(instance: DagsterInstance, count: int) -> list[str]:
    """Put `count` runs into the instance; their ids, oldest first."""
    registry = Registry({"measure": measure})
    made = []
    for index in range(EXPERIMENTS):
        pipeline = [{"name": "measure"}, {"name": "again", "module": "measure"}]
        experiment = Experiment.model_validate({"id": f"experiment-{index}", "pipeline": pipeline})
        context = run_experiment(experiment, registry=registry)
        made.append((job_for(experiment, registry), materialization(context)))
    begun = datetime.now(UTC) - timedelta(minutes=10) * count
    draw = random.Random(0)
    run_ids = []
    for index in range(count):
        job, shown = made[index % EXPERIMENTS]
        started = begun + timedelta(minutes=10) * index
        succeeded = draw.random() < 0.9
        shown = shown.with_metadata({**shown.metadata, "accuracy": draw.random()})
        run_ids.append(add_run(instance, job.name, {**job.tags, **launch_tags("python")}, started, succeeded, shown))
    return run_ids


def add_run(
    instance: DagsterInstance,
    job: str,
    tags: dict[str, str],
    started: datetime,
    succeeded: bool,
    shown: AssetMaterialization,
) -> str:
    run = DagsterRun(job_name=job, run_id=str(uuid.uuid4()), tags=tags)
    instance.run_storage.add_historical_run(run, started)
    ended = started + timedelta(minutes=5)
    ending = DagsterEventType.RUN_SUCCESS if succeeded else DagsterEventType.RUN_FAILURE
    for kind, when in ((DagsterEventType.RUN_START, started), (ending, ended)):
        instance.handle_run_event(run.run_id, DagsterEvent(kind.value, job), when)
    if succeeded:
        event = DagsterEvent(
            DagsterEventType.ASSET_MATERIALIZATION.value,
            job,
            step_key="again",
            event_specific_data=StepMaterializationData(shown, []),
        )
        entry = EventLogEntry(None, 20, "", run.run_id, ended.timestamp(), "again", job, event)
        instance.event_log_storage.store_event(entry)
    return run.run_id


@contextlib.contextmanager
def built_quickly() -> Iterator[None]:
    """As it comes, SQLite's storage makes a database for every run, two gigabytes of them, and waits for the disk."""

    def scratch(self: SqliteEventLogStorage, _run_id: str | None = None) -> AbstractContextManager[Any]:
        return self._connect("scratch")

    def do_not_wait(connection: object, _record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    engines: dict[str, Engine] = {}

    def one_engine(url: str, **settings: Any) -> Engine:
        # Each call would make another one, which compiles every statement again.
        if url not in engines:
            engines[url] = create_engine(url, **settings)
        return engines[url]

    listen(Engine, "connect", do_not_wait)
    with (
        patch.object(SqliteEventLogStorage, "run_connection", scratch),
        patch.object(sqlite_event_log, "create_engine", one_engine),
        patch.object(sqlite_run_storage, "create_engine", one_engine),
    ):
        yield
    remove(Engine, "connect", do_not_wait)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--home", type=Path, help="an instance's home with nothing in it but dagster.yaml")
    given = parser.parse_args()
    home = given.home or Path(tempfile.mkdtemp())
    if not given.home:
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    try:
        with DagsterInstance.from_config(str(home)) as instance:
            started = time.perf_counter()
            with built_quickly():
                run_ids = build(instance, given.runs)
            report(instance, run_ids, given.rounds, built=time.perf_counter() - started)
    finally:
        if not given.home:
            shutil.rmtree(home)


def report(instance: DagsterInstance, run_ids: list[str], rounds: int, *, built: float) -> None:
    history = History(instance)
    name = "experiment-0"
    own = run_ids[::EXPERIMENTS]
    few = min(1_000, len(own))
    calls = {
        f"`runs()`: the newest {PAGE} of all": lambda: history.runs(limit=PAGE),
        f"`runs(experiment)`: its newest {PAGE}": lambda: history.runs(name, limit=PAGE),
        f"`runs(status='failed')`: the newest {PAGE}": lambda: history.runs(status="failed", limit=PAGE),
        f"`runs(before=...)`: the oldest {PAGE} of all": lambda: history.runs(limit=PAGE, before=run_ids[PAGE]),
        f"`runs(experiment, before=...)`: its oldest {PAGE}": lambda: history.runs(name, limit=PAGE, before=own[PAGE]),
        f"`metrics(experiment, limit={few})`": lambda: history.metrics(name, limit=few),
        "a run by eight characters of its id": lambda: history.find(run_ids[0][:8]),
    }
    print_header("Looking back", ["crucible-dagster", "dagster", "dagster-postgres", "sqlalchemy"], rounds)
    storage = type(instance.run_storage).__name__
    print(f"{len(run_ids):,} runs of {EXPERIMENTS} experiments in {storage}, put in within {built:.0f} s.\n")
    taken = {what: [(seconds(call), processor_seconds(call)) for _ in range(rounds)] for what, call in calls.items()}
    walls = {what: [wall for wall, _ in times] for what, times in taken.items()}
    rows = [
        (what, number(1000 * median(walls[what])), number(1000 * max(walls[what])), number(1000 * median(own)))
        for what, own in ((what, [own for _, own in times]) for what, times in taken.items())
    ]
    print_table(("what", "ms, median", "ms, worst", "of the processor, median"), rows)
    tables = [what for what in taken if "metrics(" in what]
    slowest = max(median(times) for what, times in walls.items() if what not in tables)
    print_target("the slowest of the pages, median, in seconds,", slowest, LIMIT)
    print_target(f"the table of {few:,} runs, median, in seconds,", median(walls[tables[0]]), LIMIT)


def processor_seconds(call: Callable[[], object]) -> float:
    """What this process itself takes: on a busy machine, that is what an idle one would need."""
    started = time.process_time()
    call()
    return time.process_time() - started


if __name__ == "__main__":
    main()
