"""What happens when processes are killed, disks fill, files are damaged and databases go away: done for real."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import commands
import numpy as np
import psutil
import pytest
from children import PATH, Children
from click.testing import CliRunner
from dagster import DagsterInstance, DagsterRunStatus
from disturbed_runs import arguments_of, executed, status_of
from fault_stages import wait_for
from postgres import Postgres, dagster_home
from upath import UPath

from crucible_core import Context, CrucibleError, Experiment, RunInterrupted, StageFailedError, run_experiment
from crucible_core.cli import main as crucible_main
from crucible_dagster import History, execute_experiment
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store import ContextStore, RefusedWriteError, StoreError
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.manifest import read_document, write_document
from crucible_dagster.store.retention import remember_instance

HERE = Path(__file__).parent.parent
CRUCIBLE = str(Path(sys.executable).with_name("crucible"))
EXECUTORS = ["in_process", "multiprocess"]
WAITED_FOR = 10.0
"""Seconds, a little less than those for which Dagster waits for a database."""
ENDS_WITHIN = 120.0
"""Seconds: far above what it takes, about two, and below what a stage lasts that nobody ends."""

# --- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    started = Children()
    try:
        yield started
    finally:
        started.end()


def gone_within(pid: int, seconds: float = ENDS_WITHIN) -> float:
    """The seconds after which a process was gone."""
    begun, seen = time.monotonic(), "nothing"
    while time.monotonic() < begun + seconds:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                seen = f"{process.status()}, {process.cpu_times()}, parent {process.ppid()}, {process.cmdline()}"
                time.sleep(0.02)
                continue
        return time.monotonic() - begun
    pytest.fail(f"process {pid} is still there after {seconds} s: {seen}")


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[DagsterInstance]:
    """An instance on fresh SQLite files."""
    (tmp_path / "home").mkdir()
    with (
        dagster_home(tmp_path / "home", "sqlite") as home,
        DagsterInstance.from_config(str(home)) as instance,
    ):
        yield instance


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the stages of a test leave their marks."""
    return new_folder(tmp_path, "marks")


def new_folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


def stages(folder: Path, *names: str, **fields: Any) -> Experiment:
    """An experiment of stages of fault_stages; `name=stage` gives a stage another name."""
    pipeline = []
    for entry in names:
        name, _, stage = entry.partition("=")
        own = {"name": name} if stage == "change" else {}
        pipeline.append(
            {"name": name, "module": f"fault_stages:{stage or name}", "options": {"folder": str(folder), **own}}
        )
    return Experiment.model_validate({"id": "disturbed", "pipeline": pipeline, **fields})


SIX = ("begin", "first=change", "measure", "hold", "second=change", "sum_up")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """What the six stages give when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "go").touch()
    return run_experiment(stages(folder, *SIX))


def newest_run(instance: DagsterInstance) -> str:
    return next(iter(instance.get_run_ids(limit=1)))


# --- a process is killed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.fault("R3", "a run's process is killed")
def test_a_run_that_is_killed_in_a_stage_goes_on_at_that_stage(
    instance: DagsterInstance, children: Children, folder: Path, undisturbed: Context, executor: str
) -> None:
    arguments = arguments_of(instance, stages(folder, *SIX), folder, executor=executor)
    child = children.start("execute", **arguments)
    wait_for(folder / "held")
    assert executed(folder) == ["begin", "first", "measure", "hold"], child.said()
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert status_of(instance, arguments["run_id"]) is DagsterRunStatus.STARTED
    (folder / "go").touch()
    resumed = resume_run(instance, arguments["run_id"])
    assert undisturbed.differences(resumed) == ()
    assert executed(folder) == ["begin", "first", "measure", "hold", "hold", "second", "sum_up"]
    assert status_of(instance, arguments["run_id"]) is DagsterRunStatus.FAILURE
    assert status_of(instance, resumed.run_id) is DagsterRunStatus.SUCCESS
    assert verify_store(open_store(instance)).problems == ()


@pytest.mark.fault("a run's process is killed")
def test_a_run_of_the_command_line_that_is_killed_is_resumed_by_the_command_line(
    folder: Path, undisturbed: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", PATH)
    (tmp_path / "six.yaml").write_text(json.dumps(stages(folder, *SIX).to_dict()))
    with (tmp_path / "said").open("w") as said:
        running = subprocess.Popen([CRUCIBLE, "run", "six.yaml", "--dagster"], stdout=said, stderr=said)
    wait_for(folder / "held")
    running.kill()
    running.wait(timeout=30)
    heading = (tmp_path / "said").read_text().splitlines()[0]
    run_id = heading.split()[2]
    (folder / "go").touch()
    resumed = commands.crucible("resume", run_id[:8], "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert executed(folder) == ["begin", "first", "measure", "hold", "hold", "second", "sum_up"]
    again = json.loads(resumed.stdout)
    assert again["run_id"] != run_id
    with DagsterInstance.from_config(str(tmp_path / ".crucible" / "dagster")) as instance:
        assert undisturbed.differences(History(instance).context(again["run_id"])) == ()


@pytest.fixture(scope="module")
def duration(children: Children, tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long the six stages take in a process of their own, on SQLite."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("timed")
    (folder / "go").touch()
    with dagster_home(home, "sqlite"), DagsterInstance.from_config(str(home)) as instance:
        arguments = arguments_of(instance, stages(folder, *SIX), folder)
        child = children.start("execute", **arguments)
        wait_for(folder / f"begun {arguments['run_id']}")
        begun = time.monotonic()
        child.result()
    return time.monotonic() - begun


@pytest.mark.parametrize("moments", [range(start, start + 5) for start in (0, 5, 10, 15)], ids=lambda one: f"{one[0]}+")
@pytest.mark.fault("R1", "R3")
def test_a_run_that_is_killed_at_any_moment_goes_on_or_says_that_it_cannot(
    sqlite: DagsterInstance,
    children: Children,
    tmp_path: Path,
    undisturbed: Context,
    duration: float,
    moments: Sequence[int],
) -> None:
    ends = [kill_at_a_moment(sqlite, children, tmp_path, undisturbed, duration, moment) for moment in moments]
    assert len(ends) == len(moments)
    assert verify_store(open_store(sqlite)).problems == ()


def kill_at_a_moment(
    instance: DagsterInstance, children: Children, parent: Path, undisturbed: Context, duration: float, moment: int
) -> str:
    """Kill a run somewhere in the twentieth of its duration that `moment` is, and go on with it."""
    share = (moment + random.Random(moment).random()) / 20
    told = f"moment {moment}: killed after {share:.3f} of {duration:.2f} s"
    folder = new_folder(parent, f"moment {moment}")
    (folder / "go").touch()
    experiment = stages(folder, *SIX)
    arguments = arguments_of(instance, experiment, folder)
    run_id = arguments["run_id"]
    child = children.start("execute", **arguments)
    wait_for(folder / f"begun {run_id}")
    time.sleep(share * duration)
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    assert child.wait() in {-signal.SIGKILL, 0}, told
    store = open_store(instance)
    run = instance.get_run_by_id(run_id)
    before = executed(folder)
    if run is None or store.run_record(run_id) is None:
        with pytest.raises(CrucibleError, match=r"begins with|Run the experiment again"):
            resume_run(instance, run_id)
        assert undisturbed.differences(execute_experiment(experiment, instance=instance)) == (), told
        return "anew"
    if run.status is DagsterRunStatus.SUCCESS:
        with pytest.raises(CrucibleError, match="succeeded; there is nothing to resume"):
            resume_run(instance, run_id)
        assert undisturbed.differences(History(instance).context(run_id)) == (), told
        return "over"
    names = [entry.partition("=")[0] for entry in SIX]
    finished = [name for name in names if store.has_result(run_id, name)]
    resumed = resume_run(instance, run_id)
    assert undisturbed.differences(resumed) == (), told
    assert executed(folder) == [*before, *names[len(finished) :]], f"{told}; finished: {finished}"
    return "resumed"


@pytest.mark.fault("R3")
def test_a_run_that_was_resumed_and_killed_again_is_resumed_again(
    sqlite: DagsterInstance, children: Children, folder: Path, undisturbed: Context
) -> None:
    arguments = arguments_of(sqlite, stages(folder, *SIX), folder)
    run_id = arguments["run_id"]
    child = children.start("execute", **arguments)
    for _ in range(3):
        wait_for(folder / "held")
        child.kill()
        child.wait()
        (folder / "held").unlink()
        run_id = newest_run(sqlite)
        child = children.start("resume", home=sqlite.root_directory, run_id=run_id)
    wait_for(folder / "held")
    (folder / "go").touch()
    assert undisturbed.differences(child.result()) == ()
    assert executed(folder) == ["begin", "first", "measure", *["hold"] * 4, "second", "sum_up"]


@pytest.mark.fault("R3")
def test_a_run_whose_last_step_was_stored_and_not_announced_is_resumed_without_running_it_again(
    sqlite: DagsterInstance, children: Children, folder: Path
) -> None:
    (folder / "go").touch()
    remember_instance(open_store(sqlite), sqlite)  # else the run would write that too
    # Of two stages: the record of the run, a manifest, and a manifest.
    arguments = arguments_of(sqlite, stages(folder, "numbers", "total"), folder)
    child = children.start("execute_and_die", call="link", nth=3, **arguments)
    assert child.wait() == -signal.SIGKILL
    assert executed(folder) == ["numbers", "total"]
    resumed = resume_run(sqlite, arguments["run_id"])
    assert executed(folder) == ["numbers", "total"]
    assert resumed.differences(run_experiment(stages(folder, "numbers", "total"))) == ()


@pytest.mark.fault("R3")
def test_a_run_whose_steps_all_ended_and_whose_own_end_was_not_written_is_resumed(
    sqlite: DagsterInstance, folder: Path
) -> None:
    experiment = stages(folder, "numbers", "total")
    done = execute_experiment(experiment, instance=sqlite)
    # As if killed between the last step's event and the run's: a moment that no signal can be aimed at.
    run = sqlite.get_run_by_id(done.run_id)
    assert run is not None
    sqlite.report_run_failed(run, "killed")
    resumed = resume_run(sqlite, done.run_id)
    assert done.differences(resumed) == ()
    assert executed(folder) == ["numbers", "total"]


# --- a write is cut off -----------------------------------------------------------------------------------------------

CALLS = ["half", "fsync", "replace", "link"]
OWN_RUN = "00000000-0000-4000-8000-000000000009"


def calls_of(call: str, folder: Path) -> int:
    return int((folder / f"calls of {call}").read_text())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.fault("R4", "a write is cut off")
def test_a_process_that_is_killed_in_a_write_leaves_the_old_value_or_the_new_one(
    children: Children, tmp_path: Path, call: str
) -> None:
    values = {"text": "a" * 3000, "tagged": {"deep": [1, 2.5]}, "arrays": {"first": 40_000, "second": 3_000}}
    whole = 0
    for nth in itertools.count(0):  # the 0th call is never made: the calls are counted
        folder = new_folder(tmp_path, f"{call} {nth}")
        store = ContextStore(UPath(folder / "store"))
        begun = Context.begin(Experiment.model_validate({"id": "tried", "pipeline": [{"name": "one"}]}), run_id=OWN_RUN)
        store.save(begun.assign(text="before"), OWN_RUN, "zero", attempt="1")
        arguments = {"base": str(store.base), "values": values, "call": call, "nth": nth, "folder": str(folder)}
        child = children.start("save_and_die", step="one", **arguments)
        assert child.wait() == (-signal.SIGKILL if nth else 0), child.said()
        assert verify_store(store).problems == (), (call, nth)
        assert store.load(OWN_RUN, "zero").assigns["text"] == "before"
        if store.has_result(OWN_RUN, "one"):
            whole += nth > 0
        else:
            with pytest.raises(StoreError, match="has no result of step 'one'"):
                store.load(OWN_RUN, "one")
            again = children.start("save_and_die", step="one", **{**arguments, "nth": 0})
            assert again.wait() == 0, again.said()
            assert verify_store(store).problems == (), (call, nth)
        found = store.load(OWN_RUN, "one").assigns
        assert found["text"] == values["text"]
        assert found["tagged"] == values["tagged"]
        assert np.array_equal(found["first"], np.full(40_000, 1.5))
        assert np.array_equal(found["second"], np.full(3_000, 1.5))
        if nth == calls_of(call, tmp_path / f"{call} 0"):
            break
    assert nth >= (1 if call == "link" else 3)
    # What makes the result count is one call: the link that gives the manifest its name.
    assert whole == (1 if call == "link" else 0)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.fault("R3", "R4", "a write is cut off", "a stage was half done")
def test_a_run_that_is_killed_in_any_of_its_writes_goes_on(
    sqlite: DagsterInstance, children: Children, tmp_path: Path, call: str
) -> None:
    store = open_store(sqlite)
    remember_instance(store, sqlite)  # else the first run alone would write that
    calls = None
    for nth in itertools.count(0):
        folder = new_folder(tmp_path, f"{call} {nth}")
        # Of each run's own, so that it writes everything itself.
        experiment = stages(folder, "numbers", "total").with_options("numbers", {"seed": nth})
        experiment = cached(experiment, "numbers")
        arguments = arguments_of(sqlite, experiment, folder, call=call, nth=nth)
        child = children.start("execute_and_die", **arguments)
        assert child.wait() == (-signal.SIGKILL if nth else 0), child.said()
        assert verify_store(store).problems == (), (call, nth)
        if calls is None:
            calls = calls_of(call, folder)
            assert calls >= (3 if call in {"link", "replace"} else 6)
            continue
        run_id = arguments["run_id"]
        done = [step for step in ("numbers", "total") if store.has_result(run_id, step)]
        before = executed(folder)
        if store.run_record(run_id) is None:
            with pytest.raises(CrucibleError, match="Run the experiment again"):
                resume_run(sqlite, run_id)
            after = execute_experiment(experiment, instance=sqlite)
        else:
            after = resume_run(sqlite, run_id)
        assert executed(folder) == [*before, *["numbers", "total"][len(done) :]], (call, nth, done)
        assert verify_store(store).problems == (), (call, nth)
        other = new_folder(tmp_path, f"{call} {nth} undisturbed")
        undisturbed = stages(other, "numbers", "total").with_options("numbers", {"seed": nth})
        assert run_experiment(undisturbed).differences(after) == (), (call, nth)
        if nth == calls:
            break


def cached(experiment: Experiment, name: str) -> Experiment:
    described = experiment.to_dict()
    for entry in described["pipeline"]:
        if entry["name"] == name:
            entry["cache"] = True
    return Experiment.model_validate(described)


# --- the disk is full -------------------------------------------------------------------------------------------------

MEGABYTES = 8


class SmallDisk:
    """A folder that takes eight megabytes: a file system of that size, or a limit to the size of a process's files."""

    def __init__(self, folder: Path, *, mounted: bool) -> None:
        self.folder = folder
        self.mounted = mounted
        self.limit = None if mounted else MEGABYTES << 20
        self.reason = "No space left on device" if mounted else "File too large"

    def make_space(self) -> None:
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,size=64m", self.folder], check=True)
        self.limit = None

    @contextlib.contextmanager
    def filled(self, left: int) -> Iterator[None]:
        """While within, so many more bytes can be written."""
        if not self.mounted:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (left, hard))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            return
        filler = self.folder / "filler"
        free = os.statvfs(self.folder)
        filler.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - left))
        try:
            yield
        finally:
            filler.unlink()


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    """By `request.param`: a small file system, where that is permitted, or a limit in any case."""
    folder = new_folder(tmp_path, "disk")
    mounted = request.param == "mounted" and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", folder], capture_output=True, check=False
        ).returncode
        == 0
    )
    try:
        yield SmallDisk(folder, mounted=mounted)
    finally:
        if mounted:
            gc.collect()  # maps of its files
            subprocess.run(["umount", "--lazy", folder], check=True)


disks = pytest.mark.parametrize("disk", ["mounted", "limited"], indirect=True)


@pytest.mark.parametrize(
    ("disk", "executor"),
    [("mounted", "in_process"), ("limited", "in_process"), ("mounted", "multiprocess")],
    indirect=["disk"],
)
@pytest.mark.fault("the disk is full")
def test_a_stage_that_the_disk_has_no_space_for_fails_by_name_and_the_run_goes_on_when_there_is_some(
    sqlite: DagsterInstance,
    children: Children,
    folder: Path,
    disk: SmallDisk,
    executor: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CRUCIBLE_STORE", str(disk.folder))
    experiment = stages(folder, "begin", "large", "sum_up").with_options("large", {"megabytes": 2 * MEGABYTES})
    arguments = arguments_of(sqlite, experiment, folder, executor=executor)
    child = children.start("execute", limit=disk.limit, **arguments)
    with pytest.raises(CrucibleError) as refused:
        child.result()
    message = str(refused.value)
    assert "step large" in message
    assert disk.reason in message
    assert str(disk.folder) in message
    assert status_of(sqlite, arguments["run_id"]) is DagsterRunStatus.FAILURE
    store = open_store(sqlite)
    assert not store.has_result(arguments["run_id"], "large")
    assert verify_store(store).problems == ()
    assert [path for path in disk.folder.rglob("*") if ".writing-" in path.name] == []
    disk.make_space()
    resumed = children.start("resume", home=sqlite.root_directory, run_id=arguments["run_id"]).result()
    assert executed(folder) == ["begin", "large", "large", "sum_up"]
    other = new_folder(folder, "undisturbed")
    again = stages(other, "begin", "large", "sum_up").with_options("large", {"megabytes": 2 * MEGABYTES})
    assert run_experiment(again).differences(resumed) == ()
    assert verify_store(store).problems == ()


@disks
@pytest.mark.fault("the disk is full")
def test_an_event_that_had_no_space_does_not_take_the_later_ones_with_it(disk: SmallDisk) -> None:
    store = ContextStore(UPath(disk.folder / "store"))
    begun = Context.begin(Experiment.model_validate({"id": "tried", "pipeline": [{"name": "one"}]}), run_id=OWN_RUN)
    (first, second, third) = begun.decide("1", "a").decide("2", "b" * 100_000).decide("3", "c").trace.events
    store.put_event(OWN_RUN, "one", "1", first)
    with disk.filled(left=20_000), pytest.raises(OSError, match=disk.reason):
        store.put_event(OWN_RUN, "one", "1", second)
    store.put_event(OWN_RUN, "one", "1", third)
    assert [event.decision for event in store.events(OWN_RUN, "one").decisions] == ["1", "3"]


@disks
@pytest.mark.fault("the disk is full")
def test_a_sweep_on_a_full_disk_fails_and_goes_on_where_it_was(folder: Path, disk: SmallDisk) -> None:
    trials = {"grid": {"flip.bias": [0.2, 0.8]}, "replicates": 40}
    marks = {"name": "mark", "module": "trial_stages:mark", "options": {"folder": str(folder)}}
    pipeline = [{"name": "load", "module": "trial_stages:load"}, {"name": "flip", "module": "trial_stages:flip"}, marks]
    asked = Experiment.model_validate({"id": "flips", "pipeline": pipeline, "trials": trials})
    with disk.filled(left=8 << 10), pytest.raises(StageFailedError, match=disk.reason):
        run_experiment(asked, keep=disk.folder)
    before = (folder / "ran").read_text().splitlines()
    assert 8 < len(before) < 80
    ctx = run_experiment(asked, keep=disk.folder)
    assert len(ctx.outputs) == 80
    assert len((folder / "ran").read_text().splitlines()) == 81  # the one whose row had no space


@disks
@pytest.mark.fault("the disk is full")
def test_a_run_that_cannot_even_be_recorded_says_so(
    sqlite: DagsterInstance, folder: Path, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUCIBLE_STORE", str(disk.folder))
    with contextlib.ExitStack() as stack:
        if disk.mounted:
            stack.enter_context(disk.filled(left=0))
        else:  # of a limited process, Dagster's own files are too large before
            (disk.folder / "file").touch()
            monkeypatch.setenv("CRUCIBLE_STORE", str(disk.folder / "file" / "store"))
        with pytest.raises(CrucibleError, match="cannot write to the context store") as refused:
            execute_experiment(stages(folder, "numbers", "total"), instance=sqlite)
    assert str(disk.folder) in str(refused.value)
    assert executed(folder) == []


@disks
@pytest.mark.fault("the disk is full")
def test_a_database_that_the_disk_has_no_space_for_is_said_in_one_sentence(
    disk: SmallDisk, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home = new_folder(disk.folder, "home")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("CRUCIBLE_STORE", str(folder / "store"))
    experiment = stages(folder, "numbers", "total")
    with DagsterInstance.get() as instance:
        execute_experiment(experiment, instance=instance)
        said = r"the Dagster instance of .*home failed: its database cannot be (written to, because the disk|used: )"
        with disk.filled(0), pytest.raises(CrucibleError, match=said) as refused:
            execute_experiment(experiment, instance=instance)
    assert "\n" not in str(refused.value)
    assert ("the disk of" in str(refused.value)) == disk.mounted
    assert "Traceback" not in "".join(capfd.readouterr())


# --- the store is damaged ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DagsterInstance, str]]:
    """A finished run of the six stages, and its instance."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("finished")
    (folder / "go").touch()
    with dagster_home(home, "sqlite"), DagsterInstance.from_config(str(home)) as instance:
        yield instance, execute_experiment(stages(folder, *SIX), instance=instance).run_id


@pytest.fixture
def copied(finished: tuple[DagsterInstance, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContextStore:
    """A copy of its store, which is the one that commands look at."""
    instance, _ = finished
    shutil.copytree(open_store(instance).base.path, tmp_path / "store")
    monkeypatch.setenv("CRUCIBLE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("DAGSTER_HOME", instance.root_directory)
    return open_store(instance)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)


def delete(path: Path) -> None:
    path.unlink()


DAMAGES = [truncate, empty, alter, delete]


def verified() -> tuple[int, str]:
    """The exit code of `crucible store verify`, and what it says."""
    done = CliRunner().invoke(crucible_main, ["store", "verify", "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, "\n".join(json.loads(done.output)["problems"])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("part", "key"), [("assigns", "array"), ("assigns", "model"), ("outputs", 0)])
@pytest.mark.fault("an object is damaged")
def test_a_damaged_object_is_named_when_it_is_read_and_by_the_command(
    finished: tuple[DagsterInstance, str],
    copied: ContextStore,
    undisturbed: Context,
    part: str,
    key: Any,
    damage: Callable[[Path], None],
) -> None:
    _, run_id = finished
    assert verified() == (0, "")
    context = copied.load(run_id, "sum_up")
    cell = context.outputs.chunks[0].cell if part == "outputs" else getattr(context, part).entries()[key]
    digest, _ = list(cell.ref.objects)[-1]
    name = f"objects/{digest[:2]}/{digest[2:]}"
    damage(Path(copied.base.path) / name)
    with pytest.raises(StoreError) as refused:
        getattr(context, part)[key]
    message = str(refused.value)
    assert name in message
    assert (part if part == "outputs" else f"{part}[{key!r}]") in message
    assert run_id in message
    assert ("Run the stage that made it again" if damage is not delete else "crucible store verify") in message
    assert context.assigns["names"] == undisturbed.assigns["names"]
    code, said = verified()
    assert code == 1
    assert name in said


@pytest.mark.parametrize("damage", [truncate, empty, alter])
@pytest.mark.fault("an object is damaged")
def test_a_damaged_manifest_is_named_when_it_is_read_and_by_the_command(
    finished: tuple[DagsterInstance, str], copied: ContextStore, damage: Callable[[Path], None]
) -> None:
    _, run_id = finished
    name = copied.result_name(run_id, "sum_up")
    damage(Path(copied.base.path) / name)
    with pytest.raises(StoreError, match=r"is damaged.*run the experiment again") as refused:
        copied.load(run_id, "sum_up")
    assert name in str(refused.value)
    assert copied.load(run_id, "second").metrics["held"] == 1
    code, said = verified()
    assert code == 1
    assert name in said


def test_a_manifest_that_is_gone_is_said_to_be(
    finished: tuple[DagsterInstance, str], copied: ContextStore, tmp_path: Path
) -> None:
    _, run_id = finished
    (tmp_path / "store" / copied.result_name(run_id, "sum_up")).unlink()
    with pytest.raises(StoreError, match=r"has no result of step 'sum_up'.*did not finish, or the run was removed"):
        copied.load(run_id, "sum_up")


@pytest.mark.parametrize("damage", [truncate, empty, alter])
def test_a_damaged_record_of_a_run_is_named_when_it_is_read_and_by_the_command(
    finished: tuple[DagsterInstance, str], copied: ContextStore, damage: Callable[[Path], None]
) -> None:
    instance, run_id = finished
    name = f"runs/{run_id}/run.json"
    damage(Path(copied.base.path) / name)
    with pytest.raises(StoreError, match="is damaged") as refused:
        History(instance).record(run_id)
    assert name in str(refused.value)
    code, said = verified()
    assert code == 1
    assert name in said


def test_the_command_prints_what_is_damaged_and_exits_with_one(
    finished: tuple[DagsterInstance, str], copied: ContextStore
) -> None:
    _, run_id = finished
    name = copied.result_name(run_id, "measure")
    truncate(Path(copied.base.path) / name)
    done = commands.crucible("store", "verify")
    assert done.returncode == 1
    assert name in done.stdout.replace("\n", "")
    assert "1 problems" in done.stdout


@pytest.mark.fault("an object is damaged")
def test_a_resumed_run_names_the_object_that_is_damaged(
    sqlite: DagsterInstance, children: Children, folder: Path
) -> None:
    arguments = arguments_of(sqlite, stages(folder, *SIX), folder)
    child = children.start("execute", **arguments)
    wait_for(folder / "held")
    child.kill()
    child.wait()
    (folder / "go").touch()
    store = open_store(sqlite)
    cell = store.load(arguments["run_id"], "measure").assigns.entries()["array"]
    digest, _ = next(iter(reversed(list(cell.ref.objects))))
    path = Path(store.base.path) / "objects" / digest[:2] / digest[2:]
    kept = path.read_bytes()
    alter(path)
    with pytest.raises(CrucibleError, match=f"'array'.*objects/{digest[:2]}/{digest[2:]}.*is damaged"):
        resume_run(sqlite, arguments["run_id"])
    path.write_bytes(kept)
    resume_run(sqlite, newest_run(sqlite))


# --- several at once --------------------------------------------------------------------------------------------------


def execute_together(
    children: Children, instance: DagsterInstance, folder: Path, count: int, *names: str
) -> tuple[list[Context], Experiment]:
    (folder / "go").touch()
    experiment = stages(folder, *names)
    start = str(folder / "start")
    everyone = [arguments_of(instance, experiment, folder, start=start) for _ in range(count)]
    running = [children.start("execute_together", **arguments) for arguments in everyone]
    for arguments in everyone:
        wait_for(folder / f"ready {arguments['run_id']}")
    Path(start).touch()
    return [child.result() for child in running], experiment


def test_two_runs_of_one_experiment_at_once_both_succeed(
    sqlite: DagsterInstance, children: Children, folder: Path, undisturbed: Context
) -> None:
    contexts, _ = execute_together(children, sqlite, folder, 2, *SIX)
    assert [undisturbed.differences(context) for context in contexts] == [(), ()]
    assert sorted(executed(folder)) == sorted(2 * executed_once())
    assert verify_store(open_store(sqlite)).problems == ()


def executed_once() -> list[str]:
    return [entry.partition("=")[0] for entry in SIX]


def test_twenty_runs_at_once_on_one_database_all_succeed(
    postgres: Postgres, children: Children, tmp_path: Path, folder: Path
) -> None:
    home = new_folder(tmp_path, "home")
    with dagster_home(home, "postgres", postgres), DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs_count()
        contexts, experiment = execute_together(children, instance, folder, 20, "numbers", "total")
        direct = run_experiment(experiment)
        assert [direct.differences(context) for context in contexts] == [()] * 20
        assert [run.status for run in instance.get_runs()] == [DagsterRunStatus.SUCCESS] * 20
        assert executed(folder).count("total") == 21
        store = open_store(instance)
        assert len(store.runs()) == 20
        assert verify_store(store).problems == ()


@pytest.mark.parametrize("number", range(4))
@pytest.mark.fault("R8", "the first start on SQLite")
def test_several_processes_that_open_a_fresh_home_at_once_all_succeed(
    children: Children, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    home = new_folder(tmp_path, f"home {number}")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    experiment, start = stages(folder, "numbers", "total"), folder / "start"
    run_ids = [str(uuid.uuid4()) for _ in range(4)]
    running = [
        children.start(
            "execute_at_home",
            start=str(start),
            experiment=experiment.to_json(indent=None),
            run_id=run_id,
            folder=str(folder),
        )
        for run_id in run_ids
    ]
    for run_id in run_ids:
        wait_for(folder / f"ready {run_id}")
    start.touch()
    assert {child.result().run_id for child in running} == set(run_ids)
    with DagsterInstance.get() as instance:
        assert {(run.run_id, run.status) for run in instance.get_runs()} == {
            (run_id, DagsterRunStatus.SUCCESS) for run_id in run_ids
        }


# --- the database is away ---------------------------------------------------------------------------------------------


@pytest.mark.fault("R5", "the database is away for a moment")
@pytest.mark.parametrize("seconds", [1, pytest.param(5, marks=pytest.mark.all_faults)])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_database_that_is_away_for_a_moment_costs_nothing(
    postgres: Postgres, children: Children, tmp_path: Path, folder: Path, executor: str, seconds: int
) -> None:
    home = new_folder(tmp_path, "home")
    with dagster_home(home, "postgres", postgres), DagsterInstance.from_config(str(home)) as instance:
        for number in itertools.count():
            marks = new_folder(folder, str(number))
            experiment = stages(marks, "numbers", "decide_around", "total")
            arguments = arguments_of(instance, experiment, marks, executor=executor)
            child = children.start("execute", **arguments)
            wait_for(marks / "held")
            stopped = time.monotonic()
            postgres.stop()
            try:
                (marks / "go").touch()
                time.sleep(seconds)
            finally:
                postgres.start()
            away = time.monotonic() - stopped
            (marks / "back").touch()
            if away < WAITED_FOR:
                break
            # A machine that does much else takes longer to start a server than Dagster waits for one.
            assert number < 5, f"the database was always away for longer, at last for {away:.0f} s"
            child.wait()
        context = child.result()
        run_id = arguments["run_id"]
        assert [one.decision for one in context.trace.decisions] == ["before", "during", "after"]
        journal = open_store(instance).events(run_id, "decide_around")
        assert [event.kind for event in journal.events] == [
            "stage_started",
            *["decision"] * 3,
            "stage_succeeded",
        ]
        assert [one.decision for one in journal.decisions] == ["before", "during", "after"]
        assert status_of(instance, run_id) is DagsterRunStatus.SUCCESS
        assert executed(marks) == ["numbers", "decide_around", "total"]
        (marks / "executed").unlink()
        direct = run_experiment(experiment)
        assert direct.differences(context) == ()


# --- values that cannot be kept, or not be made again -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "executor"),
    [
        ("assigns", "in_process"),
        ("metrics", "in_process"),
        ("artifacts", "in_process"),
        ("outputs", "in_process"),
        ("assigns", "multiprocess"),
    ],
)
def test_a_value_that_cannot_be_pickled_is_refused_with_its_key_its_stage_and_its_type(
    sqlite: DagsterInstance, folder: Path, where: str, executor: Any
) -> None:
    experiment = stages(folder, "numbers", "unstorable", "total").with_options("unstorable", {"where": where})
    with pytest.raises(CrucibleError) as refused:
        execute_experiment(experiment, instance=sqlite, executor=executor)
    message = str(refused.value)
    assert ("outputs[1]" if where == "outputs" else f"{where}['rows']") in message
    assert "(step 'unstorable', run " in message
    assert "is a generator, which cannot be stored: TypeError: cannot pickle 'generator' object" in message
    assert executed(folder) == ["numbers", "unstorable"]
    run_id = newest_run(sqlite)
    assert status_of(sqlite, run_id) is DagsterRunStatus.FAILURE
    assert not open_store(sqlite).has_result(run_id, "unstorable")
    assert verify_store(open_store(sqlite)).problems == ()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_stage_that_makes_an_earlier_value_unstorable_is_the_one_that_is_named(
    sqlite: DagsterInstance, folder: Path, executor: Any
) -> None:
    with pytest.raises(CrucibleError) as refused:
        execute_experiment(stages(folder, "numbers", "spoil", "total"), instance=sqlite, executor=executor)
    message = str(refused.value)
    assert "assigns['settings']" in message
    assert "is a dict, which cannot be stored" in message
    assert "step 'spoil'" in message
    assert "step 'numbers'" not in message


CLASSES = """
import enum
from dataclasses import dataclass

@dataclass
class Point:
    x: float

class Mode(enum.Enum):
    FAST = "fast"
    EXACT = "exact"

class Parsed:
    def __init__(self, text): self.text = text
    def __reduce__(self): return Parsed, (self.text,)
"""

CHANGES = {
    "gone": (CLASSES.replace("class Point", "class Place"), "point", "Point", "AttributeError"),
    "without a member": (CLASSES.replace('    EXACT = "exact"\n', ""), "mode", "Mode", "ValueError"),
    "of other arguments": (CLASSES.replace("self, text)", "self, text, kind)"), "parsed", "Parsed", "TypeError"),
    "in no module": (None, "point", "Point", "ModuleNotFoundError"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_value_whose_class_was_changed_is_refused_with_its_key_its_step_and_its_type(
    sqlite: DagsterInstance, folder: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, key, kind, cause = CHANGES[change]
    name = f"classes_{uuid.uuid4().hex[:8]}"
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{name}.py").write_text(CLASSES)
    module = importlib.import_module(name)
    store = open_store(sqlite)
    begun = Context.begin(stages(folder, "numbers"), run_id=OWN_RUN)
    values = {"point": module.Point(1.0), "mode": module.Mode.EXACT, "parsed": module.Parsed("x"), "plain": [1]}
    store.save(begun.assign(values), OWN_RUN, "numbers", attempt="1")
    assert store.load(OWN_RUN, "numbers").assigns["point"] == module.Point(1.0)
    del sys.modules[name]
    if source is None:
        (tmp_path / f"{name}.py").unlink()
    else:
        (tmp_path / f"{name}.py").write_text(source)
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    importlib.invalidate_caches()
    context = store.load(OWN_RUN, "numbers")
    with pytest.raises(StoreError, match="cannot be restored from the context store") as refused:
        context.assigns[key]
    message = str(refused.value)
    assert f"assigns['{key}']" in message
    assert "step 'numbers'" in message
    assert OWN_RUN in message
    assert kind in message
    assert cause in message
    assert "was its class moved or changed since it was stored?" in message
    assert context.assigns["plain"] == [1]


# --- other formats ----------------------------------------------------------------------------------------------------


def test_a_manifest_of_a_format_to_come_is_refused_and_says_to_upgrade(
    finished: tuple[DagsterInstance, str], copied: ContextStore
) -> None:
    _, run_id = finished
    name = copied.result_name(run_id, "sum_up")
    path = Path(copied.base.path) / name
    magic, version, rest = path.read_bytes().split(b" ", 2)
    assert (magic, version) == (b"crucible-store", b"2")
    path.write_bytes(b" ".join([magic, b"3", rest]))
    with pytest.raises(StoreError, match=r"has format 3, .* reads up to format 2; upgrade crucible-dagster") as refused:
        copied.load(run_id, "sum_up")
    assert name in str(refused.value)
    code, said = verified()
    assert code == 1
    assert "upgrade" in said
    assert read_document(write_document({"a": 1}), "x") == {"a": 1}


# --- who comes too late -----------------------------------------------------------------------------------------------


@pytest.mark.fault("R2")
def test_of_attempts_at_one_step_the_first_result_counts_and_the_others_are_refused(
    children: Children, tmp_path: Path
) -> None:
    store = ContextStore(UPath(tmp_path / "store"))
    attempts = [str(number) for number in range(6)]
    start = tmp_path / "start"
    running = [
        children.start("save_together", base=str(store.base), step="one", attempt=attempt, start=str(start))
        for attempt in attempts
    ]
    for attempt in attempts:
        wait_for(tmp_path / f"ready {attempt}")
    start.touch()
    won, refused = [], []
    for attempt, child in zip(attempts, running, strict=True):
        try:
            child.result()
            won.append(attempt)
        except RefusedWriteError as error:
            refused.append(str(error))
    assert len(won) == 1
    assert all("of step 'one'" in message and "another attempt's result counts" in message for message in refused)
    assert store.load(OWN_RUN, "one").assigns["attempt"] == won[0]
    begun = Context.begin(Experiment.model_validate({"id": "tried", "pipeline": [{"name": "one"}]}), run_id=OWN_RUN)
    with pytest.raises(RefusedWriteError, match="comes too late and is refused"):
        store.save(begun.assign(attempt="late"), OWN_RUN, "one", attempt="late")
    assert store.load(OWN_RUN, "one").assigns["attempt"] == won[0]


@pytest.mark.fault("R2", "a run's process is killed", "a step outlives its run's process")
@pytest.mark.all_faults("postgres")
def test_a_step_whose_run_worker_was_killed_ends_itself_and_its_result_never_counts(
    instance: DagsterInstance, children: Children, folder: Path
) -> None:
    arguments = arguments_of(instance, stages(folder, "numbers", "doze", "total"), folder, executor="multiprocess")
    run_id = arguments["run_id"]
    child = children.start("execute", **arguments)
    wait_for(folder / "held")
    step = int((folder / "held").read_text())
    assert step != child.pid
    others = psutil.Process(child.pid).children(recursive=True)
    assert step in {one.pid for one in others}
    child.kill()
    child.wait()
    gone_within(step)
    for one in others:
        gone_within(one.pid)
    store = open_store(instance)
    assert not store.has_result(run_id, "doze")
    assert store.load_failure(run_id, "doze") is None
    (folder / "go").touch()
    assert resume_run(instance, run_id).metrics["slept"] is True
    assert executed(folder) == ["numbers", "doze", "doze", "total"]
    assert not store.has_result(run_id, "doze")


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.fault("a step outlives its run's process")
def test_a_step_of_a_run_that_was_declared_dead_ends_without_a_result(
    instance: DagsterInstance, children: Children, folder: Path, executor: str
) -> None:
    arguments = arguments_of(instance, stages(folder, "numbers", "doze", "total"), folder, executor=executor)
    run_id = arguments["run_id"]
    child = children.start("execute", **arguments)
    wait_for(folder / "held")
    step = int((folder / "held").read_text())
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_run_failed(run, "It was declared dead.")
    if executor == "multiprocess":
        gone_within(step)
        with pytest.raises(CrucibleError):
            child.result()
    else:
        with pytest.raises(KeyboardInterrupt) as ended:
            child.result(ENDS_WITHIN)
        assert isinstance(ended.value, RunInterrupted)
        assert ended.value.stage == "doze"
        assert ended.value.context.completed_stages == ("numbers",)
    assert not open_store(instance).has_result(run_id, "doze")
    assert status_of(instance, run_id) is DagsterRunStatus.FAILURE
    (folder / "go").touch()
    assert resume_run(instance, run_id).metrics["slept"] is True
    assert executed(folder) == ["numbers", "doze", "doze", "total"]


@pytest.mark.fault("R2", "a step outlives its run's process")
def test_the_late_result_of_a_run_that_was_resumed_is_refused(
    instance: DagsterInstance, children: Children, folder: Path, undisturbed: Context
) -> None:
    arguments = arguments_of(instance, stages(folder, *SIX), folder, slow_watch=True)
    run_id = arguments["run_id"]
    child = children.start("execute", **arguments)
    wait_for(folder / "held")
    child.kill(signal.SIGSTOP)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_run_failed(run, "Nothing was heard of it.")
    (folder / "go").touch()
    resumed = resume_run(instance, run_id)
    child.kill(signal.SIGCONT)  # and it goes on, as if nothing had been
    with pytest.raises(CrucibleError, match="comes too late and is refused: another run has replaced this one"):
        child.result()
    store = open_store(instance)
    assert not any(store.has_result(run_id, step) for step in ("hold", "second", "sum_up"))
    assert undisturbed.differences(resumed) == ()
    assert undisturbed.differences(History(instance).context(resumed.run_id)) == ()
    assert executed(folder) == ["begin", "first", "measure", "hold", "hold", "second", "sum_up"]
    assert status_of(instance, run_id) is DagsterRunStatus.FAILURE
    assert verify_store(store).problems == ()


def test_a_run_whose_process_may_live_is_not_resumed_unless_it_is_said_to_be_dead(
    sqlite: DagsterInstance, children: Children, folder: Path, undisturbed: Context
) -> None:
    arguments = arguments_of(sqlite, stages(folder, *SIX), folder)
    child = children.start("execute", **arguments)
    wait_for(folder / "held")
    with pytest.raises(CrucibleError, match=r"is started according to Dagster, .* is not known to have ended.*--force"):
        resume_run(sqlite, arguments["run_id"])
    (folder / "go").touch()
    child.kill(signal.SIGSTOP)
    resumed = resume_run(sqlite, arguments["run_id"], force=True)
    assert undisturbed.differences(resumed) == ()
    child.kill(signal.SIGKILL)
    child.wait()


# --- no pickles -------------------------------------------------------------------------------------------------------


class Evil:
    """Runs a program where its pickle is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


@pytest.mark.fault("S4")
def test_a_pickle_in_the_store_is_refused_and_runs_nothing(
    sqlite: DagsterInstance, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = folder / "ran"
    store = open_store(sqlite)
    begun = Context.begin(stages(folder, "numbers"), run_id=OWN_RUN).put_metric("fine", 0.5)
    values = {"evil": Evil(marker), "array": np.arange(5_000.0), "plain": {"a": [1, (2, 3)]}}
    store.save(begun.assign(values).add_output(Evil(marker)), OWN_RUN, "numbers", attempt="1")
    caused = StageFailedError("numbers", begun, "it broke")
    caused.__cause__ = EvilError(marker)
    store.save_failure(caused, OWN_RUN, "failing", attempt="1")
    with contextlib.suppress(OSError):
        marker.rmdir()  # the store tries whether a cause can be read back, and may
    monkeypatch.setenv("CRUCIBLE_ALLOW_PICKLE", "false")
    careful = open_store(sqlite)
    context = careful.load(OWN_RUN, "numbers")
    refusal = r"kept as a pickle, .* switched off \(CRUCIBLE_ALLOW_PICKLE=false\)"
    with pytest.raises(StoreError, match=refusal):
        context.assigns["evil"]
    with pytest.raises(StoreError, match=refusal):
        context.outputs[0]
    assert np.array_equal(context.assigns["array"], values["array"])
    assert context.assigns["plain"] == values["plain"]
    assert context.metrics["fine"] == 0.5
    failure = careful.load_failure(OWN_RUN, "failing")
    assert failure is not None
    assert (failure.reason, failure.cause) == ("it broke", None)
    assert verify_store(careful).problems == ()
    assert not marker.exists()
    monkeypatch.setenv("CRUCIBLE_ALLOW_PICKLE", "true")
    _ = open_store(sqlite).load(OWN_RUN, "numbers").assigns["evil"]
    assert marker.exists()  # so that it would have been seen


class EvilError(Exception):
    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


@pytest.mark.fault("S4")
def test_a_manifest_that_was_made_to_name_a_pickle_is_refused(tmp_path: Path) -> None:
    store = ContextStore(UPath(tmp_path / "store"))
    begun = Context.begin(Experiment.model_validate({"id": "tried", "pipeline": [{"name": "one"}]}), run_id=OWN_RUN)
    store.save(begun.assign(value=1), OWN_RUN, "one", attempt="1")
    path = Path(store.base.path) / store.result_name(OWN_RUN, "one")
    found = read_document(path.read_bytes(), "it")
    blob = store.objects.put_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    for entry in ("experiment", "assigns"):
        changed = json.loads(json.dumps(found))
        if entry == "experiment":
            changed["experiment"] = ["pickle", blob, [], "x"]
        else:
            changed["assigns"][1][0][1] = ["pickle", blob, [], "x"]
        path.write_bytes(write_document(changed))
        careful = ContextStore(store.base, allow_pickle=False)
        with pytest.raises(StoreError, match="CRUCIBLE_ALLOW_PICKLE=false"):
            _ = careful.load(OWN_RUN, "one").assigns["value"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_run_of_json_and_arrays_works_without_pickles(
    sqlite: DagsterInstance, children: Children, folder: Path, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUCIBLE_ALLOW_PICKLE", "false")
    experiment = stages(folder, "numbers", "total")
    context = children.start("execute", **arguments_of(sqlite, experiment, folder, executor=executor)).result()
    assert run_experiment(experiment).differences(context) == ()
    assert run_experiment(experiment).differences(History(sqlite).context(context.run_id)) == ()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_run_that_needs_a_pickle_is_refused_where_there_are_to_be_none(
    sqlite: DagsterInstance, children: Children, folder: Path, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUCIBLE_ALLOW_PICKLE", "false")
    arguments = arguments_of(sqlite, stages(folder, "numbers", "need_pickle", "total"), folder, executor=executor)
    with pytest.raises(CrucibleError, match=r"assigns\['model'\].*pickle.*CRUCIBLE_ALLOW_PICKLE=false"):
        children.start("execute", **arguments).result()
    # A run whose Context nobody can read is no success, on either executor.
    assert status_of(sqlite, arguments["run_id"]) is DagsterRunStatus.FAILURE


# --- a run is cancelled -----------------------------------------------------------------------------------------------


# In several processes, only one of the three is always run.
@pytest.mark.parametrize(
    ("how", "executor"),
    [
        ("interrupted", "in_process"),
        ("interrupted", "multiprocess"),
        ("terminated", "in_process"),
        ("cancelled", "in_process"),
        pytest.param("terminated", "multiprocess", marks=pytest.mark.all_faults),
        pytest.param("cancelled", "multiprocess", marks=pytest.mark.all_faults),
    ],
)
@pytest.mark.fault("a run is cancelled")
def test_a_run_that_was_stopped_goes_on(
    sqlite: DagsterInstance, children: Children, folder: Path, undisturbed: Context, how: str, executor: str
) -> None:
    arguments = arguments_of(sqlite, stages(folder, *SIX), folder, executor=executor)
    run_id = arguments["run_id"]
    child = children.start("execute", **arguments)
    wait_for(folder / "held")
    step = int((folder / "held").read_text())
    if how == "cancelled":
        run = sqlite.get_run_by_id(run_id)
        assert run is not None
        sqlite.report_run_canceling(run)
    child.kill(signal.SIGTERM if how == "terminated" else signal.SIGINT)
    if how == "terminated":
        assert child.wait() in {-signal.SIGTERM, 0}
    else:
        with pytest.raises(KeyboardInterrupt) as ended:
            child.result()
        assert isinstance(ended.value, RunInterrupted)
        assert ended.value.stage == "hold"
    gone_within(step)
    if how == "cancelled":
        assert status_of(sqlite, run_id) is DagsterRunStatus.CANCELED
    assert not open_store(sqlite).has_result(run_id, "hold")
    (folder / "go").touch()
    assert undisturbed.differences(resume_run(sqlite, run_id)) == ()
    assert executed(folder) == ["begin", "first", "measure", "hold", "hold", "second", "sum_up"]
