"""`crucible doctor`: what is wrong is found and said, what is well is not, and nothing is changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.remote_origin import RemoteInstigatorOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo
from packaging.requirements import Requirement
from postgres import DATABASE, DEPLOYED, Postgres, dagster_home, free_port
from s3fs import S3FileSystem
from stages_for_tests import experiment_of, registry

from crucible_dagster import execute_experiment
from crucible_dagster.cli.doctor import doctor
from crucible_dagster.dagster_internals import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from crucible_dagster.processes import worker_of_this_step
from crucible_dagster.store import ContextStore
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.retention import collect
from crucible_dagster.tags import EXPERIMENT_TAG
from crucible_dagster.upkeep import place_checks
from crucible_dagster.upkeep.instance_checks import OURS, counts
from crucible_dagster.upkeep.store_checks import RESTORING

LONG_AGO = time.time() - 90 * 86_400
STAGES = ({"name": "measure", "options": {"value": 0.25}},)


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little the disk of the tests has."""
    monkeypatch.setattr(place_checks, "LITTLE", 0)
    monkeypatch.setattr(place_checks, "TOO_LITTLE", 0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """DAGSTER_HOME, on SQLite, closed to others."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    with dagster_home(folder, "sqlite"):
        yield folder


@pytest.fixture
def instance(home: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.get() as opened:
        yield opened


def ask(*arguments: str) -> Result:
    done = CliRunner().invoke(doctor, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done


def found(*arguments: str) -> list[tuple[str, str, str]]:
    """Severity, check and text of each finding that is no note; the exit code goes with them."""
    done = ask(*arguments, "--json")
    findings = json.loads(done.stdout)["findings"]
    assert done.exit_code == int(any(one["severity"] == "error" for one in findings)), findings
    return [(one["severity"], one["check"], one["what"]) for one in findings if one["severity"] != "note"]


def run(instance: DagsterInstance, value: float = 0.25) -> str:
    stage = {"name": "measure", "options": {"value": value}}
    return execute_experiment(experiment_of(stage, id="lab"), registry=registry(), instance=instance).run_id


def unfinished(instance: DagsterInstance, status: DagsterRunStatus) -> str:
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("lab"), "__repository__"), "lab")
    tags = {EXPERIMENT_TAG: "lab"}
    return create_run_for_test(instance, "lab", status=status, tags=tags, remote_job_origin=origin).run_id


def files(folder: Path) -> dict[str, str]:
    """What is in a folder, without what SQLite leaves beside a database that is open."""
    there = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in there}


# --- nothing is wrong -------------------------------------------------------------------------------------------------


def test_where_nothing_is_wrong_it_says_so_and_changes_nothing(home: Path, instance: DagsterInstance) -> None:
    run(instance)
    before = files(home)
    for arguments in ((), ("--deep",), ("--deep", "--strict")):
        assert found(*arguments) == []
        said = ask(*arguments)
        assert (said.exit_code, said.stderr) == (0, "")
        assert "checked   database, versions, disk, modes, experiments, code location, store, migrations" in said.stdout
        assert said.stdout.endswith("\nnothing is wrong\n")
    assert files(home) == before


def test_a_folder_where_nothing_has_run_is_well(tmp_path: Path) -> None:
    said = ask()
    assert said.exit_code == 0
    assert "nothing has run here yet" in said.stdout
    assert not (tmp_path / ".crucible").exists()


def test_the_embedded_instance_of_a_folder_s_project_is_found(tmp_path: Path) -> None:
    (tmp_path / "lab" / "experiments").mkdir(parents=True)
    (tmp_path / "lab" / "pyproject.toml").touch()
    experiment = experiment_of(*STAGES, id="lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "lab")
        execute_experiment(experiment, registry=registry())
    told = json.loads(ask("lab/experiments", "--json").stdout)
    assert told["home"] == str(tmp_path / "lab" / ".crucible" / "dagster")
    assert {one["severity"] for one in told["findings"]} <= {"note"}
    assert told["versions"]["dagster"]


def test_a_home_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nowhere"))
    assert found() == [("error", "database", f"there is no {tmp_path / 'nowhere'}, which DAGSTER_HOME names")]


# --- the database -----------------------------------------------------------------------------------------------------


def test_a_postgresql_that_is_well_empty_or_away(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dagster_home(home, "postgres", postgres):
        with DagsterInstance.get() as instance:
            run(instance)
        assert found("--deep") == []
        monkeypatch.setenv("DAGSTER_PG_DB", postgres.create_database("empty"))
        assert found()[0] == ("error", "database", "PostgreSQL has no tables of Dagster")
        tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        assert postgres.execute(tables, "empty") == [(0,)]
        postgres.drop_database("empty")
        monkeypatch.setenv("DAGSTER_PG_DB", DATABASE)
        monkeypatch.setenv("DAGSTER_PG_PORT", str(free_port()))
        (first, *others) = found()
        assert first[:2] == ("error", "database")
        assert "PostgreSQL cannot be reached: OperationalError: connection to server" in first[2]
        assert postgres.environment(DATABASE)["DAGSTER_PG_PASSWORD"] not in ask().output
        assert ("unchecked", "runs", "not checked: see the error of the database") in others
        assert ask("--strict").exit_code == 1


def test_a_driver_that_is_not_installed_is_named_with_the_setting_that_chooses_one(home: Path) -> None:
    storage: Any = yaml.safe_load(DEPLOYED.read_text())["storage"]
    storage["postgres"]["postgres_db"] = {
        "scheme": "postgresql+pg8000",
        **{"username": "u", "password": "p", "hostname": "h", "db_name": "d"},
    }
    (home / "dagster.yaml").write_text(yaml.safe_dump({"storage": storage}))
    said = ask()
    assert said.exit_code == 1
    assert "needs the module pg8000 for the database's address, and it is not installed" in said.stdout
    assert "scheme: postgresql+psycopg2" in said.stdout


def test_tables_of_another_version_are_found(home: Path) -> None:
    with sqlite3.connect(home / "history" / "runs.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '5771160a95ad'")
    ((severity, check, said),) = found()
    assert (severity, check) == ("error", "migrations")
    assert said.startswith("the tables are of another version of Dagster: runs (5771160a95ad, and ")


# --- database and store ---------------------------------------------------------------------------------------------


def test_a_run_without_its_context_is_lost_unless_it_was_collected(home: Path, instance: DagsterInstance) -> None:
    lost, collected = run(instance), run(instance)
    store = open_store(instance)
    folder = Path(str(store.base)) / "runs"
    for path in (folder / collected).rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    instance.add_run_tags(lost, {"crucible/pinned": "true"})
    assert collect(instance, days=0, delete=True, grace=0).removed_runs == (collected,)
    assert found() == []
    shutil.rmtree(folder / lost)
    assert found() == [
        ("error", "drift", f"1 runs succeeded and have nothing in the context store: {lost[:8]}"),
    ]


def test_a_run_that_succeeded_without_the_result_of_its_last_step_is_found(instance: DagsterInstance) -> None:
    ran = run(instance)
    (Path(str(open_store(instance).base)) / "runs" / ran / "measure" / "result").unlink()
    said = f"run {ran[:8]} (lab) succeeded and has no result of its last step 'measure'"
    assert found() == [("error", "drift", said)]


def test_a_run_that_the_database_does_not_know_is_found(instance: DagsterInstance) -> None:
    ran = run(instance)
    instance.delete_run(ran)
    said = f"the context store has 1 runs that the database does not know: {ran[:8]}"
    assert found() == [("warning", "drift", said)]
    open_store(instance).add_instance("another", "/elsewhere")
    assert found() == [], "they may be the other instance's"


@pytest.mark.parametrize("arguments", [(), ("--deep",)])
@pytest.mark.fault("an object is damaged")
def test_a_damaged_object_is_found(instance: DagsterInstance, arguments: tuple[str, ...]) -> None:
    store = open_store(instance)
    ran = run(instance)
    blob = store.objects.put_bytes(b"x" * 5_000)
    name = next(info.name for info in store.files.list("objects") if info.size == 5_000)
    assert found(*arguments) == []
    Path(str(store.base), name).write_bytes(b"y")
    said = f"{name} is damaged: the file (1 bytes) was changed or cut off after it was written"
    assert found(*arguments) == [("error", "objects", said)], (ran, blob)


def test_a_store_that_is_not_there_or_half_restored_is_an_error(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(instance)
    open_store(instance).files.write(RESTORING, [b""])
    assert found()[0] == ("error", "store", "a restore was not finished")
    monkeypatch.setenv("CRUCIBLE_STORE", "s3://bucket/prefix")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()  # it keeps clients by their arguments, whatever the environment
    try:
        (first, *others) = found()
    finally:
        S3FileSystem.clear_instance_cache()
    assert first[:2] == ("error", "store")
    assert "s3://bucket/prefix" in first[2]
    assert ("unchecked", "drift", "not checked: see the error of the store") in others


# --- what runs --------------------------------------------------------------------------------------------------------


def test_a_run_whose_process_is_silent_or_gone_is_stuck(instance: DagsterInstance) -> None:
    store: ContextStore = open_store(instance)
    silent, alive = (unfinished(instance, DagsterRunStatus.STARTED) for _ in range(2))
    for one in (silent, alive):
        store.beat(one)
    os.utime(Path(str(store.base)) / "heartbeats" / silent, (time.time() - 7_200, time.time() - 7_200))
    said = f"run {silent[:8]} (lab) is recorded as running, and nothing was heard of its process for 2 h 0 min"
    assert found() == [("error", "runs", said)]


def test_a_run_of_the_command_line_whose_process_is_gone_is_stuck(instance: DagsterInstance) -> None:
    store = open_store(instance)
    ran = run(instance)
    record = json.loads(str(store.run_record(ran)))
    gone = unfinished(instance, DagsterRunStatus.STARTED)
    host = worker_of_this_step().split()[0]
    store.put_run_record(gone, json.dumps({**record, "run_id": gone, "worker": f"{host} 1 1"}))
    said = f"run {gone[:8]} (lab) is recorded as running, and its process ({host} 1 1) is gone"
    assert found() == [("error", "runs", said)]
    (Path(str(store.base)) / "runs" / gone / "run.json").write_text("damaged")
    ((severity, check, text),) = found()
    assert (severity, check) == ("unchecked", "runs"), text
    assert "is damaged" in text


def test_a_run_that_waits_for_too_long_and_a_daemon_that_is_missing(home: Path, instance: DagsterInstance) -> None:
    waiting = unfinished(instance, DagsterRunStatus.QUEUED)
    assert found() == [("error", "daemon", "no daemon runs (there has never been one), and 1 runs are queued")]
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 3_600, "QUEUED_RUN_COORDINATOR", "a", []))
    with sqlite3.connect(home / "history" / "runs.db") as database:
        database.execute("UPDATE runs SET create_timestamp = '2026-01-01 00:00:00'")
    daemon, late = found()
    assert daemon[2] == "no daemon runs (the last heartbeat was 1 h 0 min ago), and 1 runs are queued"
    assert late[:2] == ("error", "runs")
    assert late[2].startswith(f"run {waiting[:8]} (lab) is queued for ")


def test_several_daemons_are_found_and_what_one_says_is_wrong(instance: DagsterInstance) -> None:
    kinds = sorted(instance.get_required_daemon_types())
    for kind in kinds:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), kind, "a", []))
    assert found() == []
    error = SerializableErrorInfo("the disk\nis full", [], None)
    instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), kinds[0], "b", [error]))
    assert [(severity, what.partition(":")[0]) for severity, _, what in found()] == [
        ("error", "several daemons run at once"),
        ("warning", f"{kinds[0].lower()} reported"),
    ]


def test_missed_ticks_of_a_schedule_are_found(instance: DagsterInstance) -> None:
    schedule = {"cron": "*/5 * * * *", "timezone": "UTC"}
    experiment = experiment_of(*STAGES, id="lab", schedule=schedule)
    tags = {"dagster/schedule_name": "lab_schedule"}
    execute_experiment(experiment, registry=registry(), instance=instance, tags=tags)
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__")
    since = time.time() - 3_700
    state = InstigatorState(
        RemoteInstigatorOrigin(repository, "lab_schedule"),
        InstigatorType.SCHEDULE,
        InstigatorStatus.RUNNING,
        ScheduleInstigatorData(schedule["cron"], since),
    )
    instance.add_instigator_state(state)
    assert found()[0][2] == "no daemon runs (there has never been one), and 1 schedules and sensors are on"
    for kind in instance.get_required_daemon_types():
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), kind, "a", []))
    ((severity, check, said),) = found()
    assert (severity, check) == ("warning", "schedules")
    assert re.fullmatch(r"lab_schedule has missed 1[12] of its last 1[123] ticks", said)
    assert "see `crucible ticks lab`" in ask().stdout


# --- places -----------------------------------------------------------------------------------------------------------


def test_a_home_that_others_reach_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not below the folder of this test, which others cannot enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        home = Path(name)
        monkeypatch.setenv("DAGSTER_HOME", name)
        with dagster_home(home, "sqlite"):
            assert found() == []
            home.chmod(0o755)
            assert found() == [("warning", "modes", f"anyone on this machine can read the home, {home} (mode 0755)")]
            home.chmod(0o777)
            ((severity, _, said),) = found()
            assert (severity, said.partition(":")[0]) == (
                "error",
                f"anyone on this machine can write to the home, {home} (mode 0777)",
            )


def test_a_disk_that_is_nearly_full_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(home).free
    monkeypatch.setattr(place_checks, "LITTLE", free * 2)
    ((severity, check, said),) = found()
    assert (severity, check) == ("warning", "disk")
    assert f"the disk of the home, {home}, has " in said
    monkeypatch.setattr(place_checks, "TOO_LITTLE", free * 2)
    assert found()[0][:2] == ("error", "disk")


def test_experiment_files_that_do_not_load_are_found(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "good.yaml").write_text("id: good\npipeline: [{name: validate}]\n")
    (folder / "bad.yaml").write_text("id: bad\npipeline: [{name: validat}]\n")
    ((severity, check, said),) = found(str(folder))
    assert (severity, check) == ("error", "experiments")
    assert f"{folder / 'bad.yaml'}:2" in said
    assert "validat" in said


def test_a_code_server_that_does_not_answer_is_found(home: Path) -> None:
    port = free_port()
    server = {"host": "127.0.0.1", "port": port, "location_name": "lab"}
    (home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    ((severity, check, said),) = found()
    assert (severity, check) == ("error", "code location")
    assert said.startswith(f"code location 'lab' on 127.0.0.1:{port} has no definitions: ")


def test_the_bound_of_the_database_s_extra_counts_where_that_is_installed() -> None:
    bound = Requirement("sqlalchemy<2.1; extra == 'postgres'")
    assert counts(bound, OURS, {"dagster", "dagster-postgres", "sqlalchemy"})
    assert not counts(bound, OURS, {"dagster", "sqlalchemy"})
    assert counts(Requirement("dagster<1.14; extra == 'dagster'"), OURS, {"dagster"})
