"""The folder of a run on Dagster: shared with the runs that resume it, and removed with them; after a real kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance
from stages_for_tests import experiment_of

from crucible_core import StageFailedError
from crucible_dagster import History, execute_experiment, open_instance
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.retention import collect

PROGRAM = """
from crucible_core import Experiment
from crucible_dagster import execute_experiment, open_instance
entry = {"name": "count", "module": "checkpoint_stages:count"}
with open_instance() as instance:
    execute_experiment(Experiment.model_validate({"id": "tried", "pipeline": [entry]}), instance=instance)
"""
COUNT = {"name": "count", "module": "checkpoint_stages:count"}


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with open_instance() as opened:
        yield opened


def test_a_resumed_run_goes_on_from_the_checkpoint_of_the_one_that_was_killed(instance: DagsterInstance) -> None:
    environment = {**os.environ, "DIE_AT": "4", "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    (run,) = History(instance).runs("tried")
    resumed = resume_run(instance, run.run_id, force=True)
    assert resumed.metrics == {"total": 21, "began_at": 4}
    store = open_store(instance)
    folder = Path(str(store.folder(run.run_id)))
    assert Path(resumed.artifacts["checkpoint.count.state"]).is_relative_to(folder)
    assert {one.name for one in folder.glob("began*")} == {"began-at-0", "began-at-4"}
    assert History(instance).run(resumed.run_id).artifacts == resumed.artifacts

    unrelated = execute_experiment(experiment_of(COUNT), instance=instance)
    assert unrelated.metrics["began_at"] == 0

    # It goes when the last run that goes on from it does.
    for one in folder.rglob("*"):
        os.utime(one, (0, 0))
    collect(instance, days=1, delete=True, grace=0)
    assert any(folder.rglob("*.pickle"))
    time.sleep(0.01)
    collect(instance, days=0, delete=True, grace=0)
    assert not any(folder.rglob("*.pickle"))


def test_without_pickle_there_are_no_checkpoints(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUCIBLE_ALLOW_PICKLE", "false")
    with pytest.raises(StageFailedError, match=r"needs pickle.*ctx\.folder"):
        execute_experiment(experiment_of(COUNT), instance=instance)
