"""A run's heartbeat: who writes it, and what is made of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from children import PATH
from dagster import DagsterInstance, DagsterRun
from postgres import DEPLOYED
from services import wait_until
from upath import UPath

from crucible_core import CrucibleError
from crucible_dagster.dagster_internals import WorkerStatus
from crucible_dagster.service import launcher
from crucible_dagster.service.launcher import LOOK, SILENCE, HeartbeatRunLauncher
from crucible_dagster.store import ContextStore
from crucible_dagster.store.collection import collect_garbage
from crucible_dagster.store.io_manager import open_store

STEP = LOOK * SILENCE
RUN = "00000000-0000-4000-8000-00000000000b"

BUSY = """
import re
import sys

from upath import UPath

from crucible_dagster.execute.heartbeat import start_heartbeat
from crucible_dagster.store import ContextStore

start_heartbeat(ContextStore(UPath(sys.argv[1])), sys.argv[2], 1.0)
re.match("(a+)+$", "a" * 64 + "b")  # for ever, and no other thread runs meanwhile
"""


@pytest.mark.fault("the machine is lost")
def test_a_run_that_lets_no_other_thread_run_has_a_heartbeat_until_it_ends(tmp_path: Path) -> None:
    store = ContextStore(UPath(tmp_path / "store"))
    command = [sys.executable, "-c", BUSY, str(store.base), RUN]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": PATH}) as process:
        try:
            wait_until(lambda: (store.beats(RUN) or 0) >= 3, "three beats", lambda: store.beats(RUN))
            (beating,) = psutil.Process(process.pid).children()
        finally:
            process.kill()
    wait_until(lambda: not beating.is_running(), "the end of the process that beats")


class Looking:
    """A launcher, and the clock that it looks at."""

    def __init__(self, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        self.store = open_store(instance)
        self.run = DagsterRun("held", run_id=RUN)
        self.launcher = HeartbeatRunLauncher()
        self.launcher.register_instance(instance)
        monkeypatch.setattr(launcher, "time", SimpleNamespace(monotonic=lambda: self.now))

    def look(self, seconds: float) -> WorkerStatus:
        """What the launcher says after so many seconds."""
        self.now += seconds
        return self.launcher.check_run_worker_health(self.run).status


@pytest.fixture
def looking(sqlite: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Looking:
    return Looking(sqlite, monkeypatch)


@pytest.fixture
def sqlite(tmp_path: Path) -> DagsterInstance:
    return DagsterInstance.local_temp(str(tmp_path), overrides={"telemetry": {"enabled": False}})


@pytest.mark.fault("the machine is lost")
def test_a_run_is_dead_when_its_heartbeat_is_silent_and_not_before(looking: Looking) -> None:
    for _ in range(10):
        looking.store.beat(RUN)
        assert looking.look(10.0) is WorkerStatus.RUNNING
    silent = [looking.look(10.0) for _ in range(int(SILENCE // 10) + 1)]
    assert set(silent[:-1]) == {WorkerStatus.RUNNING}
    assert silent[-1] is WorkerStatus.NOT_FOUND
    looking.store.beat(RUN)
    assert looking.look(10.0) is WorkerStatus.RUNNING


def test_a_run_without_a_heartbeat_is_taken_for_alive(looking: Looking) -> None:
    assert {looking.look(100.0) for _ in range(10)} == {WorkerStatus.RUNNING}


@pytest.mark.fault("R1", "the machine is lost")
def test_the_settings_say_after_how_long_a_run_is_dead_and_as_deployed_that_is_within_a_minute(tmp_path: Path) -> None:
    launcher = {"module": "crucible_dagster.service.launcher", "class": "HeartbeatRunLauncher"}
    overrides = {"telemetry": {"enabled": False}, "run_launcher": {**launcher, "config": {"silence_seconds": 7.0}}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        assert isinstance(instance.run_launcher, HeartbeatRunLauncher)
        assert (instance.run_launcher.silence, instance.run_launcher.beat_seconds) == (7.0, 1.0)
    with pytest.raises(CrucibleError, match=r"silence_seconds of the run launcher is 1; it must be at least 3\.5"):
        HeartbeatRunLauncher(silence_seconds=1.0)
    deployed = yaml.safe_load(DEPLOYED.read_text())
    assert deployed["run_launcher"] == launcher
    # The last beat may have come right after a look, and the look that finds it silent for long enough is the next one.
    assert HeartbeatRunLauncher().silence + 2 * deployed["run_monitoring"]["poll_interval_seconds"] < 60


def test_a_run_is_not_dead_because_nobody_looked_or_could(looking: Looking) -> None:
    looking.store.beat(RUN)
    looking.look(0.0)
    assert looking.look(10_000.0) is WorkerStatus.RUNNING
    heartbeats = Path(looking.store.base.path) / "heartbeats"
    heartbeats.rename(heartbeats.with_name("elsewhere"))
    heartbeats.mkdir()
    (heartbeats / RUN).mkdir()  # which cannot be read
    assert looking.look(STEP) is WorkerStatus.RUNNING
    (heartbeats / RUN).rmdir()
    heartbeats.rmdir()
    heartbeats.with_name("elsewhere").rename(heartbeats)
    assert looking.look(STEP) is WorkerStatus.RUNNING
    assert looking.look(STEP) is WorkerStatus.RUNNING


def test_the_heartbeat_of_a_run_that_ended_long_ago_is_collected(looking: Looking) -> None:
    looking.store.beat(RUN)
    collect_garbage(looking.store, lambda *_: True, delete=True)
    assert looking.store.beats(RUN) == 1
    collect_garbage(looking.store, lambda *_: True, delete=True, grace=-60.0)
    assert looking.store.beats(RUN) is None
