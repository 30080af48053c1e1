"""`crucible backup` and `crucible restore`: consistent while runs go on, checked before anything is changed."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.test_utils import create_run_for_test
from postgres import DATABASE, Postgres, dagster_home
from stages_for_tests import experiment_of, registry

from crucible_dagster import History, execute_experiment
from crucible_dagster.cli.backup import backup, restore
from crucible_dagster.cli.doctor import doctor
from crucible_dagster.service.daemon import lock_of
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.tags import EXPERIMENT_TAG
from crucible_dagster.upkeep import place_checks
from crucible_dagster.upkeep import restore as restoring
from crucible_dagster.upkeep.backup import checksums_of, read_backup

RESTORED = "restored"


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little the disk of the tests has."""
    monkeypatch.setattr(place_checks, "LITTLE", 0)
    monkeypatch.setattr(place_checks, "TOO_LITTLE", 0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with on_sqlite(tmp_path / "home", monkeypatch) as made:
        yield made


@contextmanager
def on_sqlite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """DAGSTER_HOME, on SQLite, with nothing in it."""
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    with dagster_home(folder, "sqlite"):
        yield folder


def crucible(command: object, *arguments: object) -> Result:
    done = CliRunner().invoke(command, [*map(str, arguments)])  # type: ignore[arg-type]
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done


def refused(command: object, *arguments: object) -> str:
    done = crucible(command, *arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    return " ".join(done.stderr.split())


def run(instance: DagsterInstance, value: float = 0.25, **tags: str) -> str:
    stages = {"name": "measure", "options": {"value": value}}, {"name": "train", "options": {"epochs": 1}}
    experiment = experiment_of(*stages, id="lab")
    return execute_experiment(experiment, registry=registry(), instance=instance, tags=tags).run_id


def is_well(*arguments: str) -> None:
    done = crucible(doctor, "--deep", "--strict", *arguments)
    assert done.exit_code == 0, done.output


def test_what_was_backed_up_is_there_again_and_what_came_later_is_not(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    with DagsterInstance.get() as instance:
        first = run(instance)
        metrics = dict(History(instance).context(first).metrics)
        said = crucible(backup, folder)
        assert said.exit_code == 0
        assert f"{folder}: 1 runs, " in said.stdout
        assert folder.stat().st_mode & 0o077 == 0
        later = run(instance, 0.5)
        store = open_store(instance)
        store.claim("a tick", later)
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "checksums.sha256"], cwd=folder, check=False)
    assert checked.returncode == 0
    assert "is not empty" in refused(backup, folder)
    assert "has 2 runs, and the context store" in refused(restore, folder)
    assert crucible(restore, folder, "--replace").exit_code == 0
    with DagsterInstance.get() as instance:
        assert instance.get_run_ids() == [first]
        assert open_store(instance).claimed_by("a tick") is None
        assert [one.run_id for one in History(instance).runs()] == [first]
        assert dict(History(instance).context(first).metrics) == metrics
    is_well()
    with on_sqlite(tmp_path / "another", monkeypatch):
        told = json.loads(crucible(restore, folder, "--json").stdout)
        assert (told["runs"], told["in_flight"], told["waiting"]) == (1, [], [])
        is_well()
        with DagsterInstance.get() as instance:
            assert dict(History(instance).context(first).metrics) == metrics
            run(instance)  # and it goes on


def test_runs_in_flight_have_failed_when_they_are_restored(home: Path, tmp_path: Path) -> None:
    tags = {EXPERIMENT_TAG: "lab"}
    with DagsterInstance.get() as instance:
        ended = run(instance)
        status = {one: DagsterRunStatus[one] for one in ("STARTED", "NOT_STARTED")}
        made = {name: create_run_for_test(instance, "lab", status=one, tags=tags) for name, one in status.items()}
        # Dagster has stored that it has ended, and not yet its status.
        run_storage = instance.run_storage
        with run_storage.connect() as connection:  # type: ignore[attr-defined]
            connection.exec_driver_sql("UPDATE runs SET status = 'STARTED' WHERE run_id = ?", (ended,))
    assert crucible(backup, tmp_path / "copy").exit_code == 0
    said = crucible(restore, tmp_path / "copy", "--replace").stdout
    started, waiting = made["STARTED"].run_id, made["NOT_STARTED"].run_id
    assert f"run {started} had not ended; it is marked as failed. To resume it: crucible resume {started[:8]}" in said
    assert f"run {waiting} had not begun; it is cancelled" in said
    assert ended not in said
    with DagsterInstance.get() as instance:
        found = {one.run_id: one.status for one in instance.get_runs()}
    assert found == {
        ended: DagsterRunStatus.SUCCESS,
        started: DagsterRunStatus.FAILURE,
        waiting: DagsterRunStatus.CANCELED,
    }


def test_a_store_on_s3_is_copied_and_restored_into_another(
    home: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUCIBLE_STORE", f"{s3}/{uuid4()}")
    with DagsterInstance.get() as instance:
        ran = run(instance)
        blob = open_store(instance).objects.put_bytes(b"x" * 5_000_000)
    assert crucible(backup, tmp_path / "copy").exit_code == 0
    sums = checksums_of(tmp_path / "copy", read_backup(tmp_path / "copy"))
    assert blob.split(":")[1] in sums.values()
    monkeypatch.setenv("CRUCIBLE_STORE", f"{s3}/{uuid4()}")
    with on_sqlite(tmp_path / "another", monkeypatch):
        assert crucible(restore, tmp_path / "copy").exit_code == 0
        with DagsterInstance.get() as instance:
            open_store(instance).check(ran, "train")
        is_well()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_backup_that_is_none_unfinished_newer_or_damaged_is_refused_before_anything_is_changed(
    home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    with DagsterInstance.get() as instance:
        run(instance)
    assert crucible(backup, folder).exit_code == 0
    with DagsterInstance.get() as instance:
        later = run(instance)
    manifest = folder / "backup.json"
    text = manifest.read_text()
    record = next((folder / "store" / "runs").glob("*/run.json"))
    good = record.read_bytes()
    record.write_bytes(good + b" ")
    name = record.relative_to(folder)
    assert f"is damaged, and nothing was restored: {name}" in refused(restore, folder, "--replace")
    record.unlink()
    assert str(record) in refused(restore, folder, "--replace")
    record.write_bytes(good)
    sums = folder / "checksums.sha256"
    kept = sums.read_text()
    sums.write_text(kept.replace(str(name), "store/../../outside"))
    assert "is damaged; nothing was restored" in refused(restore, folder, "--replace")
    changed = json.loads(text) | {"identity": hashlib.sha256(sums.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(changed))
    assert "nothing was restored: store/../../outside" in refused(restore, folder, "--replace")
    sums.write_text(kept)
    manifest.write_text(json.dumps(json.loads(text) | {"format": 2}))
    assert "has format 2, and this version of crucible reads format 1" in refused(restore, folder, "--replace")
    manifest.unlink()
    assert "is not a backup, or was not finished" in refused(restore, folder, "--replace")
    with DagsterInstance.get() as instance:
        assert later in instance.get_run_ids()


def test_nothing_is_restored_while_a_daemon_runs_or_over_the_runs_of_another_instance(
    home: Path, tmp_path: Path
) -> None:
    with DagsterInstance.get() as instance:
        run(instance)
        assert crucible(backup, tmp_path / "copy").exit_code == 0
        lock = lock_of(instance)
        assert lock.take()
        assert "a daemon of the instance of" in refused(restore, tmp_path / "copy", "--replace")
        lock.close()
        open_store(instance).add_instance("another", "/elsewhere")
    said = refused(restore, tmp_path / "copy", "--replace")
    assert "also has runs of /elsewhere: they would be lost" in said


def test_a_restore_that_was_killed_is_done_again(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DagsterInstance.get() as instance:
        ran = run(instance)
    assert crucible(backup, tmp_path / "copy").exit_code == 0

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with on_sqlite(tmp_path / "another", monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(restoring, "put_back_sqlite", killed)
            assert crucible(restore, tmp_path / "copy").exit_code == 130
        assert "a restore was not finished" in crucible(doctor).stdout
        assert crucible(restore, tmp_path / "copy").exit_code == 0
        is_well()
        with DagsterInstance.get() as instance:
            assert instance.get_run_ids() == [ran]


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_postgresql_is_backed_up_while_runs_go_on_and_restored_into_a_fresh_one(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("home", "another"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CRUCIBLE_STORE", str(tmp_path / "store"))
    enough, over = threading.Event(), threading.Event()
    launched: dict[str, float] = {}
    values = itertools.count()

    def load(instance: DagsterInstance) -> None:
        while not over.is_set():
            value = next(values) / 100
            launched[run(instance, value)] = value
            if len(launched) > 1:
                enough.set()

    with dagster_home(tmp_path / "home", "postgres", postgres):
        with DagsterInstance.get() as instance:
            in_flight = create_run_for_test(
                instance, "lab", status=DagsterRunStatus.STARTED, tags={EXPERIMENT_TAG: "lab"}
            ).run_id
            threads = [threading.Thread(target=load, args=(instance,)) for _ in range(2)]
            for one in threads:
                one.start()
            try:
                assert enough.wait(120)
                before = len(launched)
                said = crucible(backup, tmp_path / "copy")
                assert said.exit_code == 0, said.output
            finally:
                over.set()
                for one in threads:
                    one.join()
        assert len(launched) > before, "runs went on"
        (tmp_path / "another" / "dagster.yaml").write_text((tmp_path / "home" / "dagster.yaml").read_text())
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "another"))
        monkeypatch.setenv("CRUCIBLE_STORE", str(tmp_path / "store of another"))
        monkeypatch.setenv("DAGSTER_PG_DB", postgres.create_database(RESTORED))
        done = crucible(restore, tmp_path / "copy", "--json")
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert in_flight in told["in_flight"]
        with DagsterInstance.get() as instance:
            store, history = open_store(instance), History(instance)
            finished = instance.get_run_ids(RunsFilter(statuses=[DagsterRunStatus.SUCCESS]))
            assert before <= len(finished) == told["runs"] - len(told["in_flight"]) - len(told["waiting"])
            for one in finished:
                store.check(one, "train")
                assert history.context(one).metrics["accuracy"] == launched[one]
        is_well()
        postgres.drop_database(RESTORED)
        monkeypatch.setenv("DAGSTER_PG_DB", DATABASE)


def test_what_postgresql_s_program_says_is_told_and_the_password_is_no_argument(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "bin").mkdir()
    script = '#!/bin/sh\nif [ "$1" = --version ]; then echo "pg_dump (PostgreSQL) 99.1"; exit; fi\n'
    script += f'echo "$@" > {tmp_path}/arguments\nprintenv PGPASSWORD > {tmp_path}/password\necho no room >&2\nexit 1\n'
    (tmp_path / "bin" / "pg_dump").write_text(script)
    (tmp_path / "bin" / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with dagster_home(tmp_path / "home", "postgres", postgres):
        assert "pg_dump failed: no room" in refused(backup, tmp_path / "copy")
        password = postgres.environment(DATABASE)["DAGSTER_PG_PASSWORD"]
        assert (tmp_path / "password").read_text() == f"{password}\n"
        assert password not in (tmp_path / "arguments").read_text()
        assert "is not a backup, or was not finished" in refused(restore, tmp_path / "copy")
