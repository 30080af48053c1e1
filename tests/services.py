"""A code server, daemons and what else an instance has, as processes that a test starts, kills and starts again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import yaml
from children import PATH
from dagster import DagsterInstance, DagsterRun
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from crucible_core import Experiment
from crucible_dagster import job_for
from crucible_dagster.tags import EXPERIMENT_TAG

__all__ = ["LOCATION", "PATIENCE", "Deployment", "Jobs", "command_of", "inner_servers", "wait_until"]

PATIENCE = 600.0  # far above what anything takes: half a minute takes two on a machine that does much else
LOCATION = "lab"


def wait_until(happened: Callable[[], Any], what: str, told: Callable[[], object] = str) -> Any:
    begun = time.monotonic()
    while not (found := happened()):
        waited = time.monotonic() - begun
        assert waited < PATIENCE, f"waited in vain for {what}: {told()}"
        time.sleep(min(1.0, 0.1 + waited / 20))  # each look may ask the database
    return found


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; empty if it has ended."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def inner_servers(proxy: int) -> list[psutil.Process]:
    """The processes that have the definitions, or are to have them, behind the proxy that `code-server start` is."""
    return [one for one in psutil.Process(proxy).children() if "grpc" in command_of(one)]


class Jobs:
    """The jobs of a workspace with one code location; one that was asked for once is known when that is away."""

    def __init__(self, workspace: WorkspaceProcessContext) -> None:
        self._workspace = workspace
        self._known: dict[str, Any] = {}

    def create_run(self, experiment: Experiment, executor: str, options: Mapping[str, Any]) -> DagsterRun:
        """A run of the experiment's job as the code server has it, with other options: stage -> options."""
        job = self._known.get(experiment.id)
        if job is None:
            (location,) = self._workspace.create_request_context().code_locations
            job = location.get_repository("__repository__").get_full_job(experiment.id)
            self._known[experiment.id] = job
        config = {stage: {"config": dict(given)} for stage, given in options.items()}
        return self._workspace.instance.create_run_for_job(
            job_def=job_for(experiment),
            run_config={"ops": config, "execution": {"config": {executor: {}}}},
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            tags={EXPERIMENT_TAG: experiment.id},
        )


class Deployment:
    """A code server, and daemons that come and go."""

    def __init__(
        self,
        folder: Path,
        instance: DagsterInstance,
        stack: ExitStack,
        command: Sequence[str] = ("dagster", "api", "grpc"),
    ) -> None:
        self.folder = folder
        self.instance = instance
        self.started = datetime.now(UTC)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        server = {"host": "127.0.0.1", "port": self.port, "location_name": LOCATION}
        (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
        self._processes: list[subprocess.Popen[bytes]] = []
        stack.callback(self._end)
        self.server_command = (*command, "-f", str(folder / "definitions.py"), "-p", str(self.port))
        self.start_server()
        target = WorkspaceFileTarget([str(folder / "workspace.yaml")])
        self.workspace = stack.enter_context(WorkspaceProcessContext(instance, target))
        self._jobs = Jobs(self.workspace)

    def create_run(self, experiment: Experiment, executor: str, options: Mapping[str, Any]) -> DagsterRun:
        """A run of the experiment's job as the code server has it, with other options: stage -> options."""
        return self._jobs.create_run(experiment, executor, options)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": PATH, "DAGSTER_HOME": self.instance.root_directory}

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{program} {len(self._processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [Path(sys.executable).with_name(program), *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        return process

    def start_server(self) -> None:
        self.server = self.start(*self.server_command)
        wait_until(self._answers, "the code server", self.logs)

    def kill_server(self) -> None:
        """With everything that it has started, as when its machine is lost."""
        everything = [psutil.Process(self.server.pid)]
        everything += everything[0].children(recursive=True)
        for one in everything:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.server.wait(timeout=30)

    def logs(self, *, whole: bool = False) -> str:
        """What the processes said, or the end of it."""
        files = {file.name: file.read_text() for file in sorted(self.folder.glob("*.log"))}
        return "\n".join(f"{name}: {text if whole else text[-2_000:]}" for name, text in files.items())

    def two_daemons(self) -> list[subprocess.Popen[bytes]]:
        return [self.start("dagster-daemon", "run", "-w", str(self.folder / "workspace.yaml")) for _ in range(2)]

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def _end(self) -> None:
        everything = []
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                everything += [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for one in everything:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        for process in self._processes:
            process.wait(timeout=30)

    def told(self) -> list[object]:
        """What is known of every run."""
        return [
            (run.run_id, run.status, run.tags, [entry.message for entry in self.instance.all_logs(run.run_id)][-5:])
            for run in self.instance.get_runs()
        ]
