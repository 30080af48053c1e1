"""Of several daemons of one instance, one works; another takes over when it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance
from postgres import Storage, dagster_home
from services import Deployment, wait_until

from crucible_dagster.dagster_internals import postgres_url
from crucible_dagster.service.daemon import lock_of

DEFINITIONS = "from dagster import Definitions\n\ndefs = Definitions()\n"
STANDS_BY = "another daemon of this instance is running; this one stands by"


@pytest.fixture
def deployment(storage: Storage, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    server = request.getfixturevalue("postgres") if storage == "postgres" else None
    (tmp_path / "home").mkdir()
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    with ExitStack() as stack:
        home = stack.enter_context(dagster_home(tmp_path / "home", storage, server))
        instance = stack.enter_context(DagsterInstance.from_config(str(home)))
        instance.get_runs_count()
        instance.all_asset_keys()
        instance.all_instigator_state()
        yield Deployment(tmp_path, instance, stack)


class Daemon:
    """A daemon that runs as deploy/ starts it."""

    def __init__(self, deployment: Deployment) -> None:
        module = ("-m", "crucible_dagster.service.daemon", "-w", str(deployment.folder / "workspace.yaml"))
        self._environment = deployment.environment
        self.process: subprocess.Popen[bytes] = deployment.start(Path(sys.executable).name, *module)
        self.log = max(deployment.folder.glob("*.log"), key=lambda file: int(file.stem.rpartition(" ")[2]))

    @property
    def said(self) -> str:
        return self.log.read_text()

    def is_well(self) -> bool:
        """As its health check in deploy/ says: for the instance, whichever daemon of it works."""
        check = [sys.executable, "-m", "crucible_dagster.service.daemon_health"]
        return subprocess.run(check, env=self._environment, capture_output=True, check=False).returncode == 0

    def works(self) -> bool:
        assert self.process.poll() is None, self.said
        return "Dagster daemons" in self.said or "Instance is configured with" in self.said


@pytest.mark.fault("R7", "the daemon is killed", "two daemons")
def test_a_second_daemon_stands_by_and_takes_over_when_the_first_is_killed(deployment: Deployment) -> None:
    first = Daemon(deployment)
    assert not first.is_well()
    wait_until(first.works, "the first daemon", lambda: first.said)
    wait_until(first.is_well, "the health of the first daemon", lambda: first.said)
    second = Daemon(deployment)
    wait_until(lambda: STANDS_BY in second.said, "the second daemon", lambda: second.said)
    assert not second.works()
    first.process.kill()
    first.process.wait(timeout=30)
    wait_until(second.works, "the second daemon to take over", lambda: second.said)
    wait_until(second.is_well, "the health of the second daemon", lambda: second.said)
    second.process.terminate()
    assert second.process.wait(timeout=60) == 0, second.said
    assert not second.is_well()


@pytest.mark.fault("two daemons")
def test_a_daemon_whose_lock_went_with_its_connection_learns_that_another_one_has_it(deployment: Deployment) -> None:
    with closing(lock_of(deployment.instance)) as first, closing(lock_of(deployment.instance)) as second:
        assert first.take()
        assert first.take()
        assert not second.take()
        storage: Any = deployment.instance.run_storage
        if postgres_url(deployment.instance) is None:
            return  # a lock on a file ends with the process alone
        with storage.connect() as connection:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        assert second.take()
        assert not first.take()
        assert second.take()
