"""What a run on Dagster is given is stored before its first stage, for all who go on from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from dagster import DagsterInstance

from crucible_core import CrucibleError, Experiment, StageFailedError, run_experiment
from crucible_dagster import execute_experiment
from crucible_dagster.rerun.replay import replay_run
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store import StoreError
from crucible_dagster.store.io_manager import open_store


@pytest.fixture(scope="module")
def storage() -> str:
    """Nothing here depends on where Dagster keeps its events."""
    return "sqlite"


@pytest.fixture(scope="module")
def instance(open_instance: Callable[[], AbstractContextManager[DagsterInstance]]) -> Iterator[DagsterInstance]:
    with open_instance() as opened:
        yield opened


def experiment(*stages: str, **keys: Any) -> Experiment:
    pipeline = [{"name": one, "module": f"given_stages:{one}"} for one in stages]
    return Experiment.model_validate({"id": "given", "pipeline": pipeline, **keys})


GIVEN: dict[str, Any] = {"numbers": np.arange(4.0), "names": ["a", "b"], "total": 3}


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_the_first_stage_finds_them_as_in_a_direct_run(instance: DagsterInstance, executor: Any) -> None:
    tried = experiment("add_up", "nothing")
    done = execute_experiment(tried, assigns=GIVEN, instance=instance, executor=executor)
    direct = run_experiment(tried, assigns=GIVEN)
    assert done.metrics["sum"] == 6 + 3
    assert not done.differences(direct)
    assert done.experiment == direct.experiment


def test_a_resumed_run_and_a_replay_begin_with_them(instance: DagsterInstance, tmp_path: Path) -> None:
    tried = experiment("add_up", "nothing")
    pipeline = [{"name": "break_once", "module": "given_stages:break_once", "options": {"mark": str(tmp_path / "m")}}]
    tried = Experiment.model_validate({**tried.to_dict(), "pipeline": pipeline + tried.to_dict()["pipeline"]})
    with pytest.raises(StageFailedError) as failed:
        execute_experiment(tried, assigns=GIVEN, instance=instance)
    resumed = resume_run(instance, failed.value.context.run_id)
    assert resumed.metrics["sum"] == 9
    assert resumed.run_id != failed.value.context.run_id
    assert replay_run(instance, resumed.run_id).is_same


def test_the_workers_of_trials_and_cached_stages_see_them(instance: DagsterInstance) -> None:
    trials = {"grid": {"add_up.factor": [1, 2]}, "replicates": 1, "measure": "sum"}
    done = execute_experiment(experiment("add_up", trials=trials), assigns=GIVEN, instance=instance)
    assert [row["sum"] for row in done.outputs] == [9, 18]
    cached = experiment("add_up").to_dict()
    cached["pipeline"][0]["cache"] = True
    changed = {**GIVEN, "total": 4}
    runs = [
        execute_experiment(Experiment.model_validate(cached), assigns=one, instance=instance)
        for one in (GIVEN, GIVEN, changed)
    ]
    assert [one.metrics["sum"] for one in runs] == [9, 9, 10]
    endings: list[Any] = [one.trace.endings["add_up"] for one in runs]
    assert [one.reused_from for one in endings] == [None, runs[0].run_id, None]


def test_what_cannot_be_stored_is_refused_before_there_is_a_run(instance: DagsterInstance) -> None:
    run_id = str(uuid4())
    with pytest.raises(StoreError, match=r"assigns\['model'\]"):
        execute_experiment(experiment("nothing"), assigns={"model": lambda: 1}, instance=instance, run_id=run_id)
    assert instance.get_run_by_id(run_id) is None
    with pytest.raises(CrucibleError, match="assigns takes a mapping"):
        execute_experiment(experiment("nothing"), assigns=[1], instance=instance)  # type: ignore[arg-type]
    assert open_store(instance).load_failure(run_id, "nothing") is None
    with pytest.raises(CrucibleError, match=r"run id '\.\./\.\./x' cannot be used"):
        execute_experiment(experiment("nothing"), instance=instance, tags={"crucible/assigns": "../../x"})
