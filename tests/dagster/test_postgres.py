"""PostgreSQL as run, event log and schedule storage: opened from nothing, by many at once, and after it was away."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import sqlalchemy
from dagster import DagsterInstance
from postgres import Postgres, dagster_home

from crucible_core import Experiment
from crucible_dagster import execute_experiment, execution

PYPROJECT = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text())

OPEN = """
import os, sys
from crucible_dagster.execution import open_instance
print("ready", flush=True)
os.environ["DAGSTER_HOME"] = sys.argv[1]
for database in map(str.strip, sys.stdin):
    os.environ["DAGSTER_PG_DB"] = database
    with open_instance() as instance:
        instance.get_runs_count()
        instance.all_asset_keys()
        instance.all_instigator_state()
    print("opened", flush=True)
"""


def one_stage() -> Experiment:
    return Experiment.model_validate(
        {"id": "stored", "pipeline": [{"name": "produce", "module": "agreement_stages:produce"}]}
    )


def test_storage_is_what_was_asked_for(instance: DagsterInstance, storage: str) -> None:
    kinds = {
        type(one).__name__ for one in (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
    }
    assert len(kinds) == 3
    assert all(
        kind.lower().startswith(("postgres",) if storage == "postgres" else ("sqlite", "consolidatedsqlite"))
        for kind in kinds
    )
    assert instance.get_runs_count() == 0
    execute_experiment(one_stage(), instance=instance)
    assert instance.get_runs_count() == 1


def test_every_test_finds_storage_empty(instance: DagsterInstance) -> None:
    assert instance.get_runs_count() == 0
    assert instance.all_asset_keys() == []


@pytest.mark.fault("another driver is installed")
def test_the_driver_is_the_one_that_is_installed(postgres: Postgres, tmp_path: Path) -> None:
    with dagster_home(tmp_path, "postgres", postgres) as home, DagsterInstance.from_config(str(home)) as instance:
        url = sqlalchemy.make_url(instance.run_storage.postgres_url)
    assert url.drivername == "postgresql+psycopg2"
    assert url.password == postgres.environment("")["DAGSTER_PG_PASSWORD"]
    # Without a scheme, what is taken for postgresql:// depends on the version of SQLAlchemy; hence its bound as well.
    assert "sqlalchemy<2.1" in PYPROJECT["project"]["optional-dependencies"]["postgres"]
    assert re.match(r"[01]\.|2\.0\.", sqlalchemy.__version__)
    assert sqlalchemy.create_engine("postgresql://").dialect.driver == "psycopg2"


@pytest.mark.fault("R8")
def test_processes_that_open_fresh_storage_together_all_succeed(postgres: Postgres, tmp_path: Path) -> None:
    databases = [postgres.create_database() for _ in range(2)]
    with dagster_home(tmp_path, "postgres", postgres) as home:
        opening = [
            subprocess.Popen(
                [sys.executable, "-c", OPEN, home],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(3)
        ]
        for one in opening:
            assert one.stdout is not None
            assert one.stdout.readline() == b"ready\n"
        for database in databases:
            for one in opening:
                assert one.stdin is not None
                one.stdin.write(f"{database}\n".encode())
                one.stdin.flush()
            for one in opening:
                assert one.stdout is not None
                if one.stdout.readline() != b"opened\n":
                    break  # what went wrong is said below
        ended = [(one.communicate(timeout=60)[1].decode(), one.returncode) for one in opening]
    # Joined, because pytest shortens a text within a list.
    assert [code for _, code in ended] == [0] * len(opening), "\n".join(said for said, _ in ended)
    for database in databases:
        assert postgres.execute("SELECT count(*) FROM alembic_version", database) == [(1,)]
        postgres.drop_database(database)


@pytest.mark.fault("R8")
def test_nobody_waits_for_ever_for_one_that_is_opening(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "OPENS_WITHIN", 0.2)
    with dagster_home(tmp_path, "postgres", postgres) as home:
        locked = os.open(home, os.O_RDONLY)
        fcntl.flock(locked, fcntl.LOCK_EX)
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        with execution.open_instance() as instance:
            assert instance.get_runs_count() == 0
        os.close(locked)


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.fault("PostgreSQL is killed")
def test_what_was_stored_is_there_when_the_server_is_back(postgres: Postgres, tmp_path: Path, how: str) -> None:
    with dagster_home(tmp_path, "postgres", postgres) as home, DagsterInstance.from_config(str(home)) as instance:
        context = execute_experiment(one_stage(), instance=instance)
        before = [entry.message for entry in instance.all_logs(context.run_id)]
        getattr(postgres, how)()
        assert not postgres.running
        postgres.start()
        assert [entry.message for entry in instance.all_logs(context.run_id)] == before
        execute_experiment(one_stage(), instance=instance)
        assert instance.get_runs_count() == 2
