"""A database of which statements fail, that is locked, or that takes no more connections."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psycopg2
import pytest
from children import Child, Children
from dagster import DagsterInstance, DagsterRunStatus
from disturbed_runs import executed
from fault_stages import wait_for
from fault_table import ALL_FAULTS
from postgres import DATABASE, Postgres, dagster_home

from crucible_core import Context, CrucibleError, Experiment, run_experiment
from crucible_dagster import History, execute_experiment
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import open_store

STAGES = ("numbers", "total")


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    started = Children()
    try:
        yield started
    finally:
        started.end()


def stages(folder: Path, *names: str) -> Experiment:
    pipeline = [{"name": one, "module": f"fault_stages:{one}", "options": {"folder": str(folder)}} for one in names]
    return Experiment.model_validate({"id": "disturbed", "pipeline": pipeline})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return run_experiment(stages(tmp_path_factory.mktemp("undisturbed"), *STAGES))


# --- statements fail --------------------------------------------------------------------------------------------------


@pytest.mark.fault("R3", "R6", "a write is acknowledged late")
@pytest.mark.parametrize("how", ["unavailable", "late"])
@pytest.mark.parametrize("seed", range(10 if ALL_FAULTS else 1))
def test_a_run_some_of_whose_statements_fail_is_brought_to_its_end_with_nothing_done_twice(
    instance: DagsterInstance, children: Children, tmp_path: Path, undisturbed: Context, how: str, seed: int
) -> None:
    store = open_store(instance)
    spoilt = 0
    for number in range(3):
        folder = tmp_path / f"marks {number}"
        folder.mkdir()
        shared = {"how": how, "share": 0.02, "folder": str(folder), "home": instance.root_directory}
        run_id = str(uuid.uuid4())
        child = children.start(
            "execute_on_a_bad_database",
            seed=1_000 * seed + number,
            run_id=run_id,
            experiment=stages(folder, *STAGES).to_json(indent=None),
            **shared,
        )
        done: list[str] = []
        before: list[str] = []
        for attempt in range(1, 20):
            with suppress(CrucibleError):
                assert undisturbed.differences(child.result()) == ()
            assert not set(done) & set(executed(folder)[len(before) :]), (done, before, executed(folder))
            run_id = next(iter(instance.get_run_ids(limit=1)), run_id)
            run = instance.get_run_by_id(run_id)
            if run is None or run.status is DagsterRunStatus.SUCCESS or store.run_record(run_id) is None:
                break  # it could not begin, and said so; or it has ended
            done, before = [step for step in STAGES if store.has_result(run_id, step)], executed(folder)
            child = children.start(
                "resume_on_a_bad_database", seed=1_000 * seed + 50 * attempt, run_id=run_id, **shared
            )
        else:
            pytest.fail(f"it never ended: {child.said()}")
        spoilt += len((folder / "spoilt").read_text().splitlines()) if (folder / "spoilt").exists() else 0
        if run is not None and run.status is DagsterRunStatus.SUCCESS:
            context = History(instance).context(run_id)
            assert undisturbed.differences(context) == ()
            kinds = Counter((type(event).__name__, event.stage) for event in context.trace.events)
            assert set(kinds.values()) == {1}, kinds
    assert spoilt > 0
    assert verify_store(store).problems == ()


# --- several at once --------------------------------------------------------------------------------------------------


def start_together(children: Children, instance: DagsterInstance, folder: Path, count: int) -> list[Child]:
    """So many runs of one experiment, at once."""
    start = folder / "start"
    run_ids = [str(uuid.uuid4()) for _ in range(count)]
    running = [
        children.start(
            "execute_together",
            start=str(start),
            run_id=run_id,
            home=instance.root_directory,
            experiment=stages(folder, *STAGES).to_json(indent=None),
            folder=str(folder),
        )
        for run_id in run_ids
    ]
    for run_id in run_ids:
        wait_for(folder / f"ready {run_id}")
    start.touch()
    return running


def check_all(instance: DagsterInstance, running: list[Child], folder: Path, undisturbed: Context) -> None:
    assert [undisturbed.differences(child.result()) for child in running] == [()] * len(running)
    assert [run.status for run in instance.get_runs()] == [DagsterRunStatus.SUCCESS] * len(running)
    assert Counter(executed(folder)) == dict.fromkeys(STAGES, len(running))
    assert verify_store(open_store(instance)).problems == ()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[DagsterInstance]:
    (tmp_path / "home").mkdir()
    with dagster_home(tmp_path / "home", "sqlite") as home, DagsterInstance.from_config(str(home)) as instance:
        yield instance


def databases(instance: DagsterInstance) -> list[Path]:
    found = [*Path(instance.root_directory).rglob("runs.db"), *Path(instance.root_directory).rglob("index.db")]
    assert len(found) == 2
    return found


@contextlib.contextmanager
def locked(files: Sequence[Path]) -> Iterator[None]:
    """While within, another process's transaction keeps everybody from writing."""
    with ExitStack() as stack:
        for file in files:
            connection = stack.enter_context(closing(sqlite3.connect(file, isolation_level=None)))
            connection.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.fault("SQLite is locked")
def test_eight_runs_at_once_wait_for_sqlite_files_that_are_locked_for_three_seconds(
    sqlite: DagsterInstance, children: Children, tmp_path: Path, undisturbed: Context
) -> None:
    with locked(databases(sqlite)):
        running = start_together(children, sqlite, tmp_path, 8)
        time.sleep(3)
        assert executed(tmp_path) == []
    check_all(sqlite, running, tmp_path, undisturbed)


@pytest.mark.fault("SQLite is locked")
def test_sqlite_files_that_are_locked_for_long_are_said_to_be_and_postgresql_is_named(
    sqlite: DagsterInstance, tmp_path: Path
) -> None:
    with (
        locked(databases(sqlite)),
        pytest.raises(CrucibleError, match=r"other processes held the lock on its SQLite files.*PostgreSQL") as refused,
    ):
        execute_experiment(stages(tmp_path, *STAGES), instance=sqlite)
    assert "\n" not in str(refused.value)
    execute_experiment(stages(tmp_path, *STAGES), instance=sqlite)


@pytest.fixture
def ten_connections(postgres: Postgres) -> Iterator[Postgres]:
    """A server that takes no more than ten connections."""
    postgres.execute("ALTER SYSTEM SET max_connections = 10")
    postgres.execute("ALTER SYSTEM SET superuser_reserved_connections = 0")
    postgres.stop()
    postgres.start()
    yield postgres
    postgres.execute("ALTER SYSTEM RESET ALL")
    postgres.stop()
    postgres.start()


@pytest.mark.fault("no connection is left")
def test_eight_runs_at_once_wait_for_connections_and_succeed(
    ten_connections: Postgres, children: Children, tmp_path: Path, undisturbed: Context
) -> None:
    (tmp_path / "home").mkdir()
    with (
        dagster_home(tmp_path / "home", "postgres", ten_connections) as home,
        DagsterInstance.from_config(str(home)) as instance,
    ):
        assert ten_connections.execute("SHOW max_connections") == [("10",)]
        instance.get_runs_count()
        with hold_connections(ten_connections, 7):
            running = start_together(children, instance, tmp_path, 8)
            time.sleep(3)
        check_all(instance, running, tmp_path, undisturbed)


@pytest.mark.fault("no connection is left")
@pytest.mark.all_faults
def test_a_run_that_gets_no_connection_says_so(ten_connections: Postgres, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with (
        dagster_home(tmp_path / "home", "postgres", ten_connections) as home,
        DagsterInstance.from_config(str(home)) as instance,
    ):
        instance.get_runs_count()
        with (
            hold_connections(ten_connections, 10),
            pytest.raises(CrucibleError, match=r"its database cannot be used: .*too many clients already"),
        ):
            execute_experiment(stages(tmp_path, *STAGES), instance=instance)
        assert executed(tmp_path) == []
        execute_experiment(stages(tmp_path, *STAGES), instance=instance)


@contextlib.contextmanager
def hold_connections(postgres: Postgres, count: int) -> Iterator[None]:
    """While within, so many connections, or all that are left, are somebody else's."""
    url = postgres.environment(DATABASE)
    with ExitStack() as stack:
        for _ in range(count):
            with suppress(psycopg2.OperationalError):
                held = psycopg2.connect(
                    user=url["DAGSTER_PG_USER"],
                    password=url["DAGSTER_PG_PASSWORD"],
                    host=url["DAGSTER_PG_HOST"],
                    port=url["DAGSTER_PG_PORT"],
                    dbname=DATABASE,
                )
                stack.enter_context(closing(held))
        yield
