"""`crucible prune`: old runs leave Dagster and the context store together, and nothing else does."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test
from stages_for_tests import experiment_of, registry

from crucible_core import CrucibleError
from crucible_dagster import execute_experiment
from crucible_dagster.cli.doctor import doctor
from crucible_dagster.cli.prune import prune as command
from crucible_dagster.store import StoreError
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.retention import pin, prune
from crucible_dagster.tags import EXPERIMENT_TAG

LONG_AGO = 1_000_000_000
on_sqlite = pytest.mark.parametrize("storage", ["sqlite"], indirect=True, scope="module")


def run(instance: DagsterInstance, value: float, id: str = "lab") -> str:
    stages = {"name": "measure", "options": {"value": value}}, {"name": "say", "options": {"text": f"{value}"}}
    return execute_experiment(experiment_of(*stages, id=id), registry=registry(), instance=instance).run_id


def make_old(instance: DagsterInstance, *runs: str) -> None:
    """As they will be in some years: in the database and in the store."""
    with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        listed = ", ".join(f"'{one}'" for one in runs)
        connection.exec_driver_sql(f"UPDATE runs SET end_time = {LONG_AGO} WHERE run_id IN ({listed})")
    for path in Path(str(open_store(instance).base)).rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


def removed(instance: DagsterInstance, **settings: Any) -> set[str]:
    return {one.run_id for one in prune(instance, **settings).runs}


def test_old_runs_leave_both_and_what_is_needed_stays(instance: DagsterInstance, storage: str) -> None:
    pinned, old, other = run(instance, 0.1), run(instance, 0.2), run(instance, 0.3, "other")
    newer, in_flight = (
        run(instance, 0.4),
        create_run_for_test(
            instance,
            "lab",
            status=DagsterRunStatus.STARTED,
            tags={EXPERIMENT_TAG: "lab"},
            parent_run_id=(parent := run(instance, 0.5)),
            root_run_id=parent,
        ).run_id,
    )
    foreign = create_run_for_test(instance, "of_another_kind", status=DagsterRunStatus.SUCCESS).run_id
    pin(instance, pinned)
    store = open_store(instance)
    large = store.objects.put_bytes(b"x" * 5_000)
    make_old(instance, pinned, old, other, parent, foreign)
    everything = {pinned, old, other, newer, in_flight, parent, foreign}
    assert removed(instance, days=30) == {old, other}
    assert removed(instance, days=30, keep_last=1) == {old}, "the only run of the other experiment"
    assert removed(instance, days=30, keep_last=9) == set()
    assert set(instance.get_run_ids()) == everything, "nothing is removed unless it is said"
    found = prune(instance, days=30, keep_last=1, delete=True)
    assert ({one.run_id for one in found.runs}, found.kept) == ({old}, 6)
    assert set(instance.get_run_ids()) == everything - {old}
    assert set(store.runs()) == {pinned, other, newer, parent}
    assert instance.all_logs(old) == []
    assert store.objects.verify(large.split(":")[1]) is not None, "nothing refers to it"
    assert verify_store(store).problems == ()
    for one in (pinned, other, newer, parent):
        store.check(one, "say")


@on_sqlite
def test_what_a_prune_that_was_killed_left_is_removed_by_the_next(instance: DagsterInstance) -> None:
    old, newer = run(instance, 0.1), run(instance, 0.2)
    make_old(instance, old)
    instance.delete_run(old)  # the database comes first
    assert prune(instance, days=30, delete=True).store.removed_runs == (old,)
    assert open_store(instance).runs() == [newer]


@on_sqlite
def test_nothing_is_removed_if_it_is_not_known_what_is_needed(instance: DagsterInstance) -> None:
    old, newer = run(instance, 0.1), run(instance, 0.2)
    make_old(instance, old)
    store = open_store(instance)
    store.files.delete(store.result_name(newer, "say"))
    store.files.write(store.result_name(newer, "say"), [b"damaged"])
    with pytest.raises(StoreError, match="nothing was removed"):
        prune(instance, days=30, delete=True)
    assert set(instance.get_run_ids()) == {old, newer}
    for one in (old, newer):
        instance.delete_run(one)
    with pytest.raises(CrucibleError, match="knows none of them"):
        prune(instance, days=30, delete=True)
    assert set(store.runs()) == {old, newer}


@on_sqlite
def test_the_command_lists_what_it_removes(
    instance: DagsterInstance, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", instance.root_directory)
    old, newer = run(instance, 0.1), run(instance, 0.2)
    make_old(instance, old)
    ask = CliRunner().invoke
    said = ask(command, ["--keep-last", "0"]).stdout
    assert [line.split()[:3] for line in said.splitlines() if old[:8] in line] == [[old[:8], "lab", "success"]]
    assert "1 runs, 0 objects, 0 bytes " in said
    assert "would be removed (--delete removes it); 1 runs kept" in said
    assert "0 runs, 0 objects" in ask(command).stdout, "ten of each experiment are kept"
    told = json.loads(ask(command, ["--keep-last", "0", "--delete", "--json"]).stdout)
    assert [one["run_id"] for one in told["runs"]] == [old]
    assert told["runs"][0]["ended"] < time.time()
    assert instance.get_run_ids() == [newer]
    assert ask(doctor, ["--deep"]).exit_code == 0
