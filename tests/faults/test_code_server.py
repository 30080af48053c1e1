"""A code server, and runs that it has started: both are killed, and runs are started twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from postgres import Postgres, Storage, dagster_home
from scheduler import add_settings
from services import LOCATION, Deployment, wait_until

from crucible_core import Experiment
from crucible_dagster import job_for
from crucible_dagster.execute import heartbeat
from crucible_dagster.execute.orphan_watch import INTERVAL
from crucible_dagster.rerun.resume import resume_run

STAGES = ("numbers", "decide_around", "total")
DEFINITIONS = """
from pathlib import Path

from crucible_dagster import build_definitions

defs = build_definitions(Path(__file__).parent / "experiments")
"""


class Server(Deployment):
    """A code server, and runs of a job of it that wait until they may end."""

    def new_run(self, executor: str = "in_process") -> str:
        """A run that nobody has started yet; its experiment's folder is `self.marks`."""
        self.marks = self.folder / f"marks {uuid4()}"
        self.marks.mkdir()
        options = {"folder": str(self.marks)}
        experiment = Experiment.model_validate(
            {
                "id": "held",
                "pipeline": [{"name": one, "module": f"fault_stages:{one}", "options": options} for one in STAGES],
            }
        )
        repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), "__repository__")
        config = {one: {"config": options} for one in STAGES}
        return self.instance.create_run_for_job(
            job_def=job_for(experiment),
            run_config={"ops": config, "execution": {"config": {executor: {}}}},
            remote_job_origin=RemoteJobOrigin(repository, "held"),
            tags={"crucible/experiment": "held"},
        ).run_id

    def launch(self, run_id: str) -> None:
        """As a daemon does that takes the run from the queue."""
        self.instance.launch_run(run_id, self.workspace.create_request_context())

    def status(self, run_id: str) -> DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def wait_for_end(self, run_id: str) -> DagsterRunStatus:
        wait_until(lambda: self.status(run_id) in ENDED, f"the end of run {run_id}", self.told)
        return self.status(run_id)

    def wait_for_stage(self) -> int:
        """The process of the stage that waits."""
        wait_until((self.marks / "held").exists, "the stage that waits", self.told)
        return int((self.marks / "held").read_text())

    def go_on(self) -> None:
        (self.marks / "go").touch()
        (self.marks / "back").touch()

    def executed(self) -> list[str]:
        return (self.marks / "executed").read_text().split()

    def messages(self, run_id: str) -> list[str]:
        return [entry.user_message or entry.message for entry in self.instance.all_logs(run_id)]

    def wait_for_message(self, run_id: str, part: str) -> None:
        wait_until(
            lambda: any(part in one for one in self.messages(run_id)),
            f"the message {part!r}",
            lambda: (self.messages(run_id), self.logs()),
        )


SETTINGS: Mapping[str, Any] = {
    "run_launcher": {"module": "crucible_dagster.service.launcher", "class": "HeartbeatRunLauncher"},
    "run_coordinator": {
        "module": "dagster.core.run_coordinator",
        "class": "QueuedRunCoordinator",
        "config": {"dequeue_interval_seconds": 1},
    },
    "run_monitoring": {"enabled": True, "poll_interval_seconds": 10},
    "run_retries": {"enabled": True, "max_retries": 1},
}
ENDED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}


@pytest.fixture(scope="module")
def home(
    storage: Storage, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DagsterInstance]:
    server = request.getfixturevalue("postgres") if storage == "postgres" else None
    with (
        dagster_home(tmp_path_factory.mktemp("home"), storage, server) as folder,
        _with_settings(folder),
        DagsterInstance.from_config(str(folder)) as instance,
    ):
        instance.get_runs_count()
        instance.all_asset_keys()
        instance.all_instigator_state()
        yield instance


@contextmanager
def _with_settings(folder: Path) -> Iterator[None]:
    add_settings(folder, SETTINGS)
    yield


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


# --- a run is started twice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["at once", "while it starts", "while it runs"])
def test_a_run_that_is_started_twice_on_one_code_server_is_run_once(server: Server, when: str) -> None:
    run_id = server.new_run()
    if when == "at once":
        launches = [threading.Thread(target=server.launch, args=(run_id,)) for _ in range(2)]
        for one in launches:
            one.start()
        for one in launches:
            one.join()
    else:
        server.launch(run_id)
        if when == "while it runs":
            server.wait_for_stage()
        server.launch(run_id)
    server.wait_for_stage()
    server.wait_for_message(run_id, "does nothing: the run is that of process")
    server.go_on()
    assert server.wait_for_end(run_id) is DagsterRunStatus.SUCCESS, server.messages(run_id)
    assert server.executed() == list(STAGES)
    wait_until(lambda: not workers(server), "the end of both processes", lambda: workers(server))
    assert server.status(run_id) is DagsterRunStatus.SUCCESS, server.messages(run_id)


def test_of_two_processes_of_a_run_the_second_ends_with_the_first_that_is_killed(server: Server) -> None:
    run_id = server.new_run()
    server.launch(run_id)
    first = server.wait_for_stage()
    server.launch(run_id)
    server.wait_for_message(run_id, "does nothing: the run is that of process")
    psutil.Process(first).kill()
    assert server.wait_for_end(run_id) is DagsterRunStatus.FAILURE, server.messages(run_id)
    assert server.executed() == list(STAGES[:2])


def workers(server: Server) -> list[int]:
    """The processes of runs that the code server has started."""
    children = psutil.Process(server.server.pid).children()
    return [
        one.pid
        for one in children
        if one.status() != psutil.STATUS_ZOMBIE and "--multiprocessing-fork" in " ".join(one.cmdline())
    ]


# --- a run that is dead while its code server lives -------------------------------------------------------------------


def test_a_run_whose_process_is_gone_is_resumed_without_force_while_its_code_server_lives(server: Server) -> None:
    run_id = server.new_run()
    server.launch(run_id)
    worker = psutil.Process(server.wait_for_stage())
    server.server.send_signal(signal.SIGSTOP)  # it does not notice what follows
    try:
        worker.kill()
        server.go_on()
        wait_until(lambda: worker.status() == psutil.STATUS_ZOMBIE, "the end of the process")
        assert server.status(run_id) is DagsterRunStatus.STARTED
        resumed = resume_run(server.instance, run_id)
    finally:
        server.server.send_signal(signal.SIGCONT)
    assert resumed.completed_stages == STAGES
    assert server.executed() == ["numbers", "decide_around", "decide_around", "total"]
    assert server.status(run_id) is DagsterRunStatus.FAILURE


# --- the code server dies ---------------------------------------------------------------------------------------------


@pytest.fixture
def proxied(home: DagsterInstance, tmp_path: Path) -> Iterator[Server]:
    """A code server as deploy/ has it, a proxy and the process behind it, for one test."""
    with ExitStack() as stack:
        yield new_server(tmp_path, home, stack, "dagster", "code-server", "start")


def inner_of(server: Server) -> psutil.Process:
    """The process that has the definitions."""
    return next(one for one in psutil.Process(server.server.pid).children() if "grpc" in one.cmdline())


def health_of(server: Server) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crucible_dagster.service.health", "-p", str(server.port)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=server.environment)


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_a_run_whose_code_server_is_killed_goes_on_and_another_code_server_is_started(
    proxied: Server, executor: str
) -> None:
    run_id = proxied.new_run(executor)
    marks = proxied.marks
    proxied.launch(run_id)
    proxied.wait_for_stage()
    assert health_of(proxied).returncode == 0
    inner = inner_of(proxied)
    inner.kill()
    wait_until(lambda: not inner.is_running() or inner.status() == psutil.STATUS_ZOMBIE, "its end")
    unhealthy = health_of(proxied)
    assert unhealthy.returncode == 1, unhealthy
    assert "has no definitions" in unhealthy.stderr
    wait_until(lambda: health_of(proxied).returncode == 0, "a new process with the definitions", proxied.logs)
    assert inner_of(proxied).pid != inner.pid
    time.sleep(3 * INTERVAL)  # for whatever would end it
    proxied.go_on()
    assert proxied.wait_for_end(run_id) is DagsterRunStatus.SUCCESS, proxied.messages(run_id)
    assert proxied.executed() == list(STAGES)
    # The new one takes runs.
    another = proxied.new_run()
    assert proxied.marks != marks
    proxied.go_on()
    proxied.launch(another)
    assert proxied.wait_for_end(another) is DagsterRunStatus.SUCCESS, proxied.messages(another)


def test_a_run_whose_machine_is_lost_has_failed_within_a_minute_and_goes_on_at_the_stage_where_it_was(
    proxied: Server,
) -> None:
    module = ("-m", "crucible_dagster.service.daemon", "-w", str(proxied.folder / "workspace.yaml"))
    proxied.start(Path(sys.executable).name, *module)
    run_id = proxied.new_run()
    marks = proxied.marks
    proxied.launch(run_id)
    proxied.wait_for_stage()
    time.sleep(3 * heartbeat.INTERVAL)
    proxied.kill_server()
    lost = time.monotonic()
    proxied.go_on()
    proxied.start_server()
    assert proxied.wait_for_end(run_id) is DagsterRunStatus.FAILURE
    took = time.monotonic() - lost
    assert any("nothing was heard of its process for" in said for said in proxied.messages(run_id))
    (retry,) = wait_until(
        lambda: proxied.instance.get_runs(RunsFilter(tags={"dagster/parent_run_id": run_id})), "a retry", proxied.told
    )
    assert proxied.wait_for_end(retry.run_id) is DagsterRunStatus.SUCCESS, proxied.messages(retry.run_id)
    assert (marks / "executed").read_text().split() == ["numbers", "decide_around", "decide_around", "total"]
    assert took < 60, f"it was noticed after {took:.0f} seconds"


def test_a_run_that_is_killed_while_the_database_is_away_is_noticed_when_it_is_back(
    server: Server, storage: Storage, request: pytest.FixtureRequest
) -> None:
    if storage == "sqlite":
        return  # which is never away
    postgres: Postgres = request.getfixturevalue("postgres")
    for _ in range(2):  # the thread that notices it lives on
        run_id = server.new_run()
        server.launch(run_id)
        worker = psutil.Process(server.wait_for_stage())
        looked = server.logs().count("is looked at again")
        postgres.stop()
        try:
            worker.kill()
            wait_until(lambda: server.logs().count("is looked at again") > looked, "a look in vain", server.logs)
        finally:
            postgres.start()
        assert server.wait_for_end(run_id) is DagsterRunStatus.FAILURE, server.messages(run_id)
