"""A store whose disk fails or may not be written to, a cancel in the middle of a write, and a killed step."""

from __future__ import annotations

import gc
import itertools
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from children import Children
from dagster import DagsterInstance, DagsterRunStatus
from disturbed_runs import arguments_of, executed, status_of
from fault_stages import wait_for
from fault_table import ALL_FAULTS
from postgres import Storage, dagster_home

from crucible_core import CrucibleError, Experiment, RunInterrupted, run_experiment
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.retention import remember_instance


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    started = Children()
    try:
        yield started
    finally:
        started.end()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[DagsterInstance]:
    (tmp_path / "home").mkdir()
    with dagster_home(tmp_path / "home", "sqlite") as home, DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the stages of a test leave their marks."""
    return new_folder(tmp_path, "marks")


def new_folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


def stages(folder: Path, *names: str, seed: int = 0) -> Experiment:
    pipeline: list[dict[str, Any]] = [
        {"name": one, "module": f"fault_stages:{one}", "options": {"folder": str(folder)}} for one in names
    ]
    if seed:
        pipeline[0]["options"]["seed"] = seed
    return Experiment.model_validate({"id": "disturbed", "pipeline": pipeline})


@pytest.mark.fault("the store is read-only or broken")
@pytest.mark.parametrize("call", ["fsync", "link"])
@pytest.mark.all_faults("link")
def test_a_disk_that_fails_from_any_write_on_fails_the_run_by_name_and_it_goes_on_on_a_whole_one(
    sqlite: DagsterInstance, children: Children, tmp_path: Path, call: str
) -> None:
    names = ("numbers", "total")
    store = open_store(sqlite)
    remember_instance(store, sqlite)  # else the first run alone would write that
    for nth in itertools.count(0):  # the 0th call is never made: the calls are counted
        folder = new_folder(tmp_path, f"{call} {nth}")
        # Of each run's own, so that it writes everything itself.
        experiment = stages(folder, *names, seed=1_000 + nth)
        arguments = arguments_of(sqlite, experiment, folder, call=call, nth=nth)
        run_id = arguments["run_id"]
        child = children.start("execute_and_err", **arguments)
        if nth == 0:
            child.result()
            calls = int((folder / f"calls of {call}").read_text())
            assert calls >= 3
            continue
        with pytest.raises(CrucibleError) as refused:
            child.result()
        assert "Input/output error" in str(refused.value), (nth, refused.value)
        assert verify_store(store).problems == (), nth
        assert [path for path in Path(store.base.path).rglob("*") if ".writing-" in path.name] == [], nth
        done = [step for step in names if store.has_result(run_id, step)]
        before = executed(folder)
        if store.run_record(run_id) is not None:
            assert status_of(sqlite, run_id) is DagsterRunStatus.FAILURE
            resumed = resume_run(sqlite, run_id)
            assert executed(folder) == [*before, *names[len(done) :]], (nth, done)
            assert (
                run_experiment(stages(new_folder(folder, "again"), *names, seed=1_000 + nth)).differences(resumed) == ()
            ), nth
        if nth == calls or (nth == 4 and not ALL_FAULTS):
            break


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[bool], None]]]:
    """A folder, and what makes it read-only and writeable again: a file system of its own, where that is permitted."""
    folder = new_folder(tmp_path, "disk")
    mounting = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder]
    mounted = subprocess.run(mounting, capture_output=True, check=False).returncode == 0

    def allow(writing: bool) -> None:
        if mounted:
            how = "rw" if writing else "ro"
            subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)
        else:
            for path in [folder, *folder.rglob("*")]:
                if path.is_dir():
                    path.chmod(0o755 if writing else 0o555)

    try:
        yield folder, allow
    finally:
        allow(True)
        if mounted:
            gc.collect()  # maps of its files
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.fault("the store is read-only or broken")
@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_a_stage_whose_store_became_read_only_fails_by_name_and_the_run_goes_on_when_it_is_not(
    sqlite: DagsterInstance,
    children: Children,
    folder: Path,
    disk: tuple[Path, Callable[[bool], None]],
    executor: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, allow = disk
    monkeypatch.setenv("CRUCIBLE_STORE", str(base))
    arguments = arguments_of(sqlite, stages(folder, "numbers", "doze", "total"), folder, executor=executor)
    experiment = json.loads(arguments["experiment"])
    experiment["pipeline"][1]["options"]["seconds"] = 1.0
    child = children.start("execute", **{**arguments, "experiment": json.dumps(experiment)})
    wait_for(folder / "held")
    allow(False)
    try:
        with pytest.raises(CrucibleError) as refused:
            child.result()
    finally:
        allow(True)
    message = str(refused.value)
    assert "doze" in message
    assert "Read-only file system" in message or "Permission denied" in message
    assert str(base) in message
    assert status_of(sqlite, arguments["run_id"]) is DagsterRunStatus.FAILURE
    store = open_store(sqlite)
    assert not store.has_result(arguments["run_id"], "doze")
    assert verify_store(store).problems == ()
    (folder / "go").touch()
    assert resume_run(sqlite, arguments["run_id"]).metrics["slept"] is True
    assert executed(folder) == ["numbers", "doze", "doze", "total"]


@pytest.mark.fault("a run is cancelled")
@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_run_that_is_cancelled_in_the_middle_of_a_write_leaves_the_old_value_or_the_new_one_and_goes_on(
    sqlite: DagsterInstance, children: Children, folder: Path, call: str
) -> None:
    # The record of the run is the first link; of fsync, the first calls are of the first result's objects.
    arguments = arguments_of(sqlite, stages(folder, "numbers", "total"), folder, call=call, nth=2)
    run_id = arguments["run_id"]
    child = children.start("execute_and_wait", **arguments)
    wait_for(folder / "held")
    run = sqlite.get_run_by_id(run_id)
    assert run is not None
    sqlite.report_run_canceling(run)
    child.kill(signal.SIGINT)
    (folder / "go").touch()
    with pytest.raises(KeyboardInterrupt) as ended:
        child.result()
    assert isinstance(ended.value, RunInterrupted)
    assert status_of(sqlite, run_id) is DagsterRunStatus.CANCELED
    store = open_store(sqlite)
    assert verify_store(store).problems == ()
    assert [path for path in Path(store.base.path).rglob("*") if ".writing-" in path.name] == []
    done = [step for step in ("numbers", "total") if store.has_result(run_id, step)]
    before = executed(folder)
    resumed = resume_run(sqlite, run_id)
    assert executed(folder) == [*before, *("numbers", "total")[len(done) :]]
    assert run_experiment(stages(new_folder(folder, "again"), "numbers", "total")).differences(resumed) == ()


@pytest.mark.fault("a step's process is killed")
@pytest.mark.all_faults("postgres")
def test_a_step_that_is_killed_fails_its_stage_by_name_and_the_run_goes_on_at_it(
    instance: DagsterInstance, children: Children, folder: Path
) -> None:
    names = ("numbers", "decide_around", "total")
    arguments = arguments_of(instance, stages(folder, *names), folder, executor="multiprocess")
    child = children.start("execute", **arguments)
    wait_for(folder / "held")
    psutil.Process(int((folder / "held").read_text())).kill()
    with pytest.raises(CrucibleError) as refused:
        child.result()
    assert "decide_around" in str(refused.value)
    assert status_of(instance, arguments["run_id"]) is DagsterRunStatus.FAILURE
    for name in ("go", "back"):
        (folder / name).touch()
    resumed = resume_run(instance, arguments["run_id"])
    assert executed(folder) == ["numbers", "decide_around", "decide_around", "total"]
    assert [one.decision for one in resumed.trace.decisions] == ["before", "during", "after"]


@pytest.mark.fault("R10")
@pytest.mark.all_faults("postgres")
def test_a_process_that_runs_many_experiments_does_not_grow(
    instance: DagsterInstance, children: Children, folder: Path, storage: Storage
) -> None:
    count = 500 if ALL_FAULTS else {"sqlite": 30, "postgres": 10}[storage]
    arguments = arguments_of(instance, stages(folder, "numbers", "total"), folder, count=count)
    found = children.start("execute_many", **arguments).result(3_600.0)
    first, last = found[len(found) // 2], found[-1]  # what is made once is there by then
    assert last["files"] <= first["files"], found
    assert last["threads"] <= first["threads"], found
    assert last["connections"] <= first["connections"], found
    assert last["children"] == 0, found
    assert last["megabytes"] < 1.2 * first["megabytes"], found
    assert len(executed(folder)) == 2 * count
