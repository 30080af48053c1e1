"""The home of an earlier version: it opens, its tables are brought up to date, its history is read and goes on.

`stores/make_home.py` says how it was made.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from dagster import DagsterInstance
from dagster._cli.instance import instance_cli
from stages_for_tests import experiment_of, registry

from crucible_dagster import History, execute_experiment, open_instance
from crucible_dagster.cli.doctor import doctor
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.upkeep import place_checks

STORED = Path(__file__).parent.parent / "stores" / "home_of_9d078c6.tar.xz"
CREATED = "16e3655b4d9b"


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little the disk of the tests has."""
    monkeypatch.setattr(place_checks, "LITTLE", 0)
    monkeypatch.setattr(place_checks, "TOO_LITTLE", 0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded home of the working directory, as that version left it."""
    with tarfile.open(STORED) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / ".crucible" / "dagster"


def revisions(home: Path) -> set[str]:
    found = set()
    for file in home.glob("*/**/*.db"):
        with closing(sqlite3.connect(file)) as database:
            found |= {str(row[0]) for row in database.execute("SELECT version_num FROM alembic_version")}
    return found


def wrong() -> list[tuple[str, str]]:
    findings = json.loads(CliRunner().invoke(doctor, ["--deep", "--json"]).stdout)["findings"]
    return [(one["severity"], one["check"]) for one in findings if one["severity"] != "note"]


def reads(instance: DagsterInstance) -> None:
    """The history is what it was."""
    history = History(instance)
    found = history.runs()
    assert [(one.experiment, one.status) for one in found] == [
        ("failed", "failed"),
        ("old", "succeeded"),
        ("old", "succeeded"),
    ]
    assert [history.context(one.run_id).metrics["accuracy"] for one in found] == [0.25, 0.5, 0.25]
    assert list(history.context(found[1].run_id).assigns["numbers"]) == list(range(600))
    assert [one["accuracy"] for one in history.metrics("old")] == [0.5, 0.25]
    (change,) = history.compare(found[2].run_id, found[1].run_id).metrics
    assert (change.name, change.difference) == ("accuracy", 0.25)
    failure = history.run(found[0].run_id).failure
    assert failure is not None
    assert (failure.stage, failure.reason) == ("fail_until", "stages_for_tests.Broken: attempt 1")


def test_a_home_of_an_earlier_version_is_read_brought_up_to_date_and_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert revisions(home) == {CREATED}
    assert wrong() == [("error", "migrations")]
    assert revisions(home) == {CREATED}, "it only looks"
    with open_instance() as instance:
        reads(instance)
    with monkeypatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))
        migrated = CliRunner().invoke(instance_cli, ["migrate"])
    assert migrated.exit_code == 0, migrated.output
    assert len(revisions(home)) == 1
    assert CREATED not in revisions(home)
    with closing(sqlite3.connect(home / "history" / "runs" / "index.db")) as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(concurrency_limits)")]
    assert "using_default_limit" in columns
    assert wrong() == []
    (tmp_path / "attempts").write_text("x")  # the first was in that version
    with open_instance() as instance:
        reads(instance)
        assert verify_store(open_store(instance)).problems == ()
        again = resume_run(instance, History(instance).runs("failed")[0].run_id, registry=registry())
        assert (again.metrics["accuracy"], again.metrics["attempt"]) == (0.25, 2)
        execute_experiment(experiment_of("nothing", id="new"), registry=registry(), instance=instance)
        assert len(History(instance).runs()) == 5
    assert wrong() == []
