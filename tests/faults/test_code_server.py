"""A code server, and runs that it has started: both are killed, runs are started twice, and the database is away.

What takes a code server or a process of a run seconds to do is done at once for as many of them as there are; the
settings notice what is lost in seconds. With CRUCIBLE_FAULTS=all they are those of deploy/.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from fault_table import ALL_FAULTS
from postgres import DEPLOYED, Postgres, Storage, dagster_home, free_port
from scheduler import add_settings
from services import Deployment, inner_servers, wait_until

from crucible_core import Experiment
from crucible_dagster.execute.orphan_watch import INTERVAL
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.service.code_servers import state_of_code_server
from crucible_dagster.service.launcher import HeartbeatRunLauncher
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import open_store

STAGES = ("numbers", "decide_around", "total")
DEFINITIONS = """
from pathlib import Path

from crucible_dagster import build_definitions

defs = build_definitions(Path(__file__).parent / "experiments")
"""
ENDED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}


@dataclass(frozen=True)
class Run:
    """A run whose second stage says that it is there, and waits until it may go on."""

    server: Server
    run_id: str
    marks: Path

    def launch(self) -> None:
        """As a daemon does that takes the run from the queue."""
        self.server.instance.launch_run(self.run_id, self.server.workspace.create_request_context())

    @property
    def status(self) -> DagsterRunStatus:
        run = self.server.instance.get_run_by_id(self.run_id)
        assert run is not None
        return run.status

    def end(self) -> DagsterRunStatus:
        """Its status, once it has ended."""
        wait_until(lambda: self.status in ENDED, f"the end of run {self.run_id}", self.server.told)
        return self.status

    def end_of_its_retry(self) -> DagsterRunStatus:
        retries = RunsFilter(tags={"dagster/parent_run_id": self.run_id})
        (found,) = wait_until(lambda: self.server.instance.get_runs(retries), "a retry", self.server.told)
        return Run(self.server, found.run_id, self.marks).end()

    def stage(self) -> psutil.Process:
        """The process of the stage that waits, once it does."""
        wait_until((self.marks / "held").exists, "the stage that waits", self.server.told)
        return psutil.Process(int((self.marks / "held").read_text()))

    def go_on(self) -> None:
        (self.marks / "go").touch()
        (self.marks / "back").touch()

    def executed(self) -> list[str]:
        return (self.marks / "executed").read_text().split()

    def messages(self) -> list[str]:
        return [entry.user_message or entry.message for entry in self.server.instance.all_logs(self.run_id)]

    def wait_for_message(self, part: str) -> None:
        wait_until(
            lambda: any(part in one for one in self.messages()),
            f"the message {part!r}",
            lambda: (self.messages(), self.server.logs()),
        )


class Server(Deployment):
    """A code server, and runs of a job of it that wait until they may end."""

    daemon: subprocess.Popen[bytes]

    def new_run(self, executor: str = "in_process") -> Run:
        """A run that nobody has started yet."""
        marks = self.folder / f"marks {uuid4()}"
        marks.mkdir()
        options = {"folder": str(marks)}
        experiment = Experiment.model_validate(
            {
                "id": "held",
                "pipeline": [{"name": one, "module": f"fault_stages:{one}", "options": options} for one in STAGES],
            }
        )
        run = self.create_run(experiment, executor, dict.fromkeys(STAGES, options))
        return Run(self, run.run_id, marks)

    def inner(self) -> psutil.Process:
        """Behind a proxy, the process that has the definitions."""
        return inner_servers(self.server.pid)[0]

    def is_healthy(self) -> bool:
        return state_of_code_server("127.0.0.1", self.port).problem is None

    def check_health(self) -> subprocess.CompletedProcess[str]:
        """As deploy/ has it done."""
        command = [sys.executable, "-m", "crucible_dagster.service.health", "-p", str(self.port)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment)


def settings() -> Mapping[str, Any]:
    """Those of deploy/dagster.yaml, but for its intervals."""
    deployed = yaml.safe_load(DEPLOYED.read_text())
    found = {name: value for name, value in deployed.items() if name != "storage"}
    if not ALL_FAULTS:
        found["run_launcher"]["config"] = {"silence_seconds": 8.0}
        found["run_coordinator"]["config"]["dequeue_interval_seconds"] = 1
        found["concurrency"]["runs"]["max_concurrent_runs"] = 3
        found["run_monitoring"]["poll_interval_seconds"] = 1
    return found


@pytest.fixture(scope="module")
def home(
    storage: Storage, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DagsterInstance]:
    server = request.getfixturevalue("postgres") if storage == "postgres" else None
    with (
        dagster_home(tmp_path_factory.mktemp("home"), storage, server) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        add_settings(folder, settings())
        # How often the daemon looks for runs to be retried.
        patch.setenv("DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS", "5" if ALL_FAULTS else "1")
        with DagsterInstance.from_config(str(folder)) as instance:
            instance.get_runs_count()
            instance.all_asset_keys()
            instance.all_instigator_state()
            yield instance


def new_server(folder: Path, home: DagsterInstance, stack: ExitStack, *command: str) -> Server:
    (folder / "definitions.py").write_text(DEFINITIONS)
    (folder / "experiments").mkdir()
    pipeline = [{"name": one, "module": f"fault_stages:{one}", "options": {"folder": "unset"}} for one in STAGES]
    (folder / "experiments" / "held.json").write_text(json.dumps({"id": "held", "pipeline": pipeline}))
    return Server(folder, home, stack, command)


@pytest.fixture(scope="module")
def server(home: DagsterInstance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A code server that no test kills."""
    with ExitStack() as stack:
        yield new_server(tmp_path_factory.mktemp("server"), home, stack, "dagster", "api", "grpc")


@pytest.fixture(scope="module")
def proxied(home: DagsterInstance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A code server as deploy/ has it, a proxy and the process behind it."""
    with ExitStack() as stack:
        yield new_server(tmp_path_factory.mktemp("proxied"), home, stack, "dagster", "code-server", "start")


@pytest.fixture(scope="module")
def watched(proxied: Server) -> Server:
    """With a daemon, which sees to the runs of both code servers, and to a code location that is not there."""
    workspace = yaml.safe_load((proxied.folder / "workspace.yaml").read_text())
    gone = {"host": "127.0.0.1", "port": free_port(), "location_name": "gone"}
    workspace["load_from"].append({"grpc_server": gone})
    (proxied.folder / "two locations.yaml").write_text(yaml.safe_dump(workspace))
    module = ("-m", "crucible_dagster.service.daemon", "-w", str(proxied.folder / "two locations.yaml"))
    proxied.daemon = proxied.start(Path(sys.executable).name, *module)
    return proxied


# --- a run is started twice -------------------------------------------------------------------------------------------


def launch_at_once(run: Run) -> None:
    launches = [threading.Thread(target=run.launch) for _ in range(2)]
    for one in launches:
        one.start()
    for one in launches:
        one.join()


def launch_while_it_starts(run: Run) -> None:
    run.launch()
    run.launch()


def launch_while_it_runs(run: Run) -> None:
    run.launch()
    run.stage()
    run.launch()


@pytest.mark.fault("R2", "two daemons")
def test_a_run_that_is_started_twice_on_one_code_server_is_run_once(server: Server, storage: Storage) -> None:
    ways: list[Callable[[Run], None]] = [launch_at_once, launch_while_it_starts, launch_while_it_runs]
    if storage == "sqlite" and not ALL_FAULTS:
        ways = [launch_at_once]  # which process it is of is settled in the store, and not in the database
    runs = [server.new_run() for _ in ways]
    for launch, run in zip(ways, runs, strict=True):
        launch(run)
    for run in runs:
        run.stage()
        run.wait_for_message("does nothing: process")
        run.go_on()
    for run in runs:
        assert run.end() is DagsterRunStatus.SUCCESS, run.messages()
        assert run.executed() == list(STAGES)
    wait_until(lambda: not workers(server), "the end of both processes of each", lambda: workers(server))
    for run in runs:
        assert run.status is DagsterRunStatus.SUCCESS, run.messages()


@pytest.mark.fault("a run's process is killed", "two daemons")
def test_of_two_processes_of_a_run_the_second_ends_with_the_first_that_is_killed(server: Server) -> None:
    run = server.new_run()
    launch_while_it_runs(run)
    run.wait_for_message("does nothing: process")
    run.stage().kill()
    assert run.end() is DagsterRunStatus.FAILURE, run.messages()
    assert run.executed() == list(STAGES[:2])


def workers(server: Server) -> list[int]:
    """The processes of runs that the code server has started."""
    children = psutil.Process(server.server.pid).children()
    return [
        one.pid
        for one in children
        if one.status() != psutil.STATUS_ZOMBIE and "--multiprocessing-fork" in " ".join(one.cmdline())
    ]


# --- a run that is dead while its code server lives -------------------------------------------------------------------


@pytest.mark.fault("R3", "a run's process is killed")
def test_a_run_whose_process_is_gone_is_resumed_without_force_while_its_code_server_lives(server: Server) -> None:
    run = server.new_run()
    run.launch()
    worker = run.stage()
    server.server.send_signal(signal.SIGSTOP)  # it does not notice what follows
    try:
        worker.kill()
        run.go_on()
        wait_until(lambda: worker.status() == psutil.STATUS_ZOMBIE, "the end of the process")
        assert run.status is DagsterRunStatus.STARTED
        resumed = resume_run(server.instance, run.run_id)
    finally:
        server.server.send_signal(signal.SIGCONT)
    assert resumed.completed_stages == STAGES
    assert run.executed() == ["numbers", "decide_around", "decide_around", "total"]
    assert run.status is DagsterRunStatus.FAILURE


# --- the code server dies ---------------------------------------------------------------------------------------------


@pytest.mark.fault("the code server is killed")
@pytest.mark.all_faults  # always run: the next one, and chaos
def test_runs_whose_code_server_is_killed_go_on_and_another_code_server_is_started(proxied: Server) -> None:
    runs = [proxied.new_run(executor) for executor in ("in_process", "multiprocess")]
    for run in runs:
        run.launch()
    for run in runs:
        run.stage()
    assert proxied.check_health().returncode == 0
    inner = proxied.inner()
    inner.kill()
    killed = time.monotonic()
    wait_until(lambda: not inner.is_running() or inner.status() == psutil.STATUS_ZOMBIE, "its end")
    unhealthy = proxied.check_health()
    assert unhealthy.returncode == 1, unhealthy
    assert "has no definitions" in unhealthy.stderr
    wait_until(proxied.is_healthy, "a new process with the definitions", proxied.logs)
    assert proxied.inner().pid != inner.pid
    another = proxied.new_run()  # the new one takes runs
    another.go_on()
    another.launch()
    assert another.end() is DagsterRunStatus.SUCCESS, another.messages()
    time.sleep(max(0.0, killed + 3 * INTERVAL - time.monotonic()))  # for whatever would end them
    for run in runs:
        run.go_on()
    for run in runs:
        assert run.end() is DagsterRunStatus.SUCCESS, run.messages()
        assert run.executed() == list(STAGES)


@pytest.mark.fault("the code server is killed")
def test_a_code_server_that_is_killed_while_it_starts_is_started_by_the_next_check(proxied: Server) -> None:
    assert state_of_code_server("127.0.0.1", free_port()).is_lost  # nothing listens there
    first = proxied.inner()
    first.kill()
    check = threading.Thread(target=proxied.check_health)
    check.start()
    (second,) = wait_until(
        lambda: [one for one in inner_servers(proxied.server.pid) if one.pid != first.pid],
        "the process that is to have the definitions",
        proxied.logs,
    )
    second.kill()
    check.join()
    state = state_of_code_server("127.0.0.1", proxied.port)
    assert "exited with return code -9 while starting up" in str(state.problem)
    assert state.is_lost
    said = proxied.check_health()
    assert (said.returncode, said.stderr.splitlines()[-1]) == (1, "it was told to load them again")
    wait_until(proxied.is_healthy, "a new process with the definitions", proxied.logs)
    run = proxied.new_run()
    run.go_on()
    run.launch()
    assert run.end() is DagsterRunStatus.SUCCESS, run.messages()


@pytest.mark.fault("R1", "the machine is lost")
def test_a_run_whose_machine_is_lost_has_failed_within_a_minute_and_goes_on_at_the_stage_where_it_was(
    watched: Server,
) -> None:
    launcher = watched.instance.run_launcher
    assert isinstance(launcher, HeartbeatRunLauncher)
    run = watched.new_run()
    run.launch()
    run.stage()
    beats = open_store(watched.instance).beats
    wait_until(lambda: (beats(run.run_id) or 0) >= 2, "two beats", lambda: beats(run.run_id))
    watched.kill_server()
    lost = time.monotonic()
    run.go_on()
    assert run.end() is DagsterRunStatus.FAILURE
    took = time.monotonic() - lost
    assert any("nothing was heard of its process for" in said for said in run.messages())
    # It is back after the run has failed, and after the daemon has seen that it cannot be retried yet.
    waits = f"run {run.run_id} is retried when its code server is back"
    wait_until(lambda: waits in watched.logs(whole=True), "a retry in vain", watched.logs)
    watched.start_server()
    assert run.end_of_its_retry() is DagsterRunStatus.SUCCESS, watched.told()
    assert run.executed() == ["numbers", "decide_around", "decide_around", "total"]
    bound = launcher.silence + 25
    assert took < bound, f"it was noticed after {took:.0f} seconds, with a bound of {bound:.0f}"


# --- many runs --------------------------------------------------------------------------------------------------------


def held_by(process: psutil.Process) -> tuple[float, int]:
    """Megabytes and open files of a process with its children."""
    everything = [one for one in (process, *process.children(recursive=True)) if one.status() != psutil.STATUS_ZOMBIE]
    return sum(one.memory_info().rss for one in everything) / 2**20, sum(one.num_fds() for one in everything)


@pytest.mark.fault("R10", "a hundred runs are queued at once", "a code location is broken")
def test_runs_that_are_queued_at_once_are_each_run_once_and_no_more_at_a_time_than_allowed(
    watched: Server, storage: Storage
) -> None:
    if storage == "sqlite" and not ALL_FAULTS:
        return  # what is queued is for PostgreSQL, as deployed
    count = 100 if ALL_FAULTS else 5
    allowed = settings()["concurrency"]["runs"]["max_concurrent_runs"]
    runs = [watched.new_run() for _ in range(count)]
    request = watched.workspace.create_request_context()
    for run in runs:
        run.go_on()
        watched.instance.submit_run(run.run_id, request)
    services = [psutil.Process(watched.server.pid), psutil.Process(watched.daemon.pid)]
    at_rest: list[tuple[float, int]] = []
    most = 0

    def ended() -> int:
        nonlocal most
        found = [run.status for run in watched.instance.get_runs(RunsFilter(run_ids=[one.run_id for one in runs]))]
        most = max(most, len([one for one in found if one not in ENDED and one is not DagsterRunStatus.QUEUED]))
        return len([one for one in found if one in ENDED])

    for number in range(1, count + 1):  # each has its own time: how long they take together depends on the machine
        wait_until(lambda so_many=number: ended() >= so_many, f"the end of {number} runs", watched.logs)
        if number == max(1, count // 4):
            at_rest.extend(held_by(one) for one in services)
    assert {run.status for run in runs} == {DagsterRunStatus.SUCCESS}
    assert [run.executed() for run in runs] == [list(STAGES)] * count
    assert most <= allowed
    for service, (megabytes, files) in zip(services, at_rest, strict=True):
        # With the processes of as many runs, at most, as there were then.
        wait_until(lambda one=service, bound=files: held_by(one)[1] <= bound + 10, "few open files", watched.logs)
        assert held_by(service)[0] < 1.2 * megabytes
        zombies = [one for one in service.children(recursive=True) if one.status() == psutil.STATUS_ZOMBIE]
        assert len(zombies) <= 2, zombies


# --- the database is away ---------------------------------------------------------------------------------------------


@pytest.mark.fault(
    "R1", "R3", "R5", "the database is away for longer", "the code server's thread that notices killed runs"
)
@pytest.mark.parametrize("seconds", [12, 40])
@pytest.mark.all_faults  # always run: a second without PostgreSQL, and chaos
def test_runs_go_on_after_the_database_was_away_and_what_was_killed_meanwhile_is_noticed(
    watched: Server, storage: Storage, request: pytest.FixtureRequest, seconds: int
) -> None:
    if storage == "sqlite":
        return  # which is never away
    postgres: Postgres = request.getfixturevalue("postgres")
    runs = {executor: watched.new_run(executor) for executor in ("in_process", "multiprocess")}
    killed = watched.new_run()
    everyone = [*runs.values(), killed]
    for run in everyone:
        run.launch()
    stages = {run.run_id: run.stage() for run in everyone}

    def looks() -> int:
        return watched.logs(whole=True).count("cannot record yet whether runs were killed")

    looked = looks()
    postgres.stop()
    gone = time.monotonic()
    try:
        stages[killed.run_id].kill()
        for run in runs.values():
            (run.marks / "go").touch()  # they decide something now
        (killed.marks / "go").touch()
        (killed.marks / "back").touch()
        wait_until(lambda: looks() > looked, "a look in vain", watched.logs)
        time.sleep(max(0.0, gone + seconds - time.monotonic()))
    finally:
        postgres.start()
    for run in runs.values():
        run.go_on()
    assert killed.end() is DagsterRunStatus.FAILURE, killed.messages()
    assert killed.end_of_its_retry() is DagsterRunStatus.SUCCESS, watched.told()
    assert killed.executed() == ["numbers", "decide_around", "decide_around", "total"]
    store = open_store(watched.instance)
    for executor, run in runs.items():
        # The stage may have failed because the database was away; then it was done again, and no other one.
        outcome, retried = run.end(), False
        if outcome is DagsterRunStatus.FAILURE:
            outcome, retried = run.end_of_its_retry(), True
        assert outcome is DagsterRunStatus.SUCCESS, (executor, watched.told())
        assert run.executed()[0] == "numbers", executor
        assert run.executed().count("numbers") == 1, executor
        assert run.executed().count("total") == 1, executor
        assert run.executed().count("decide_around") <= 2, executor
        assert retried or run.executed() == list(STAGES), executor
        decided = [one.decision for one in store.events(run.run_id, "decide_around").decisions]
        assert decided == ["before", "during", "after"], executor
    assert verify_store(store).problems == ()
    # The thread that notices what was killed lives on.
    again = watched.new_run()
    again.launch()
    again.stage().kill()
    assert again.end() is DagsterRunStatus.FAILURE, again.messages()
