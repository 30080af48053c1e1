"""Where the store is, is one setting of the deployment: whole runs on each file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from dagster import DagsterInstance
from postgres import dagster_home

from crucible_core import CrucibleError, Experiment, StageFailedError, run_experiment
from crucible_dagster import execute_experiment
from crucible_dagster.history.history import History
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store import StoreError
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import PICKLE_VARIABLE, STORE_VARIABLE, open_store


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    home = tmp_path / "home"
    home.mkdir()
    with dagster_home(home, "sqlite"), DagsterInstance.from_config(str(home)) as opened:
        yield opened


def experiment(counter: Path) -> Experiment:
    return Experiment.model_validate(
        {
            "id": "stored",
            "pipeline": [
                {"name": "produce", "module": "agreement_stages:produce"},
                {"name": "mutate", "module": "agreement_stages:mutate"},
                {
                    "name": "flaky",
                    "module": "stages_for_tests:fail_until",
                    "options": {"counter": str(counter), "succeed_at": 2},
                },
            ],
        }
    )


@pytest.mark.parametrize(
    ("where", "executor"),
    [
        ("file", "in_process"),
        ("file", "multiprocess"),
        ("memory", "in_process"),
        ("s3", "in_process"),
        ("s3", "multiprocess"),
    ],
)
def test_a_run_fails_resumes_and_is_read_back(
    instance: DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    where: str,
    executor: Any,
) -> None:
    bucket = request.getfixturevalue("s3") if where == "s3" else ""
    url = {"file": str(tmp_path / "data"), "memory": f"memory://{uuid4()}", "s3": f"{bucket}/{uuid4()}"}[where]
    monkeypatch.setenv(STORE_VARIABLE, url)
    described = experiment(tmp_path / "counter")
    with pytest.raises(StageFailedError) as caught:
        execute_experiment(described, instance=instance, executor=executor)
    resumed = resume_run(instance, caught.value.context.run_id)
    (tmp_path / "counter").write_text("x")
    assert resumed.differences(run_experiment(described)) == ()
    assert History(instance).context(resumed.run_id).differences(resumed) == ()
    assert str(open_store(instance).base).rstrip("/").endswith(url.split("://")[-1].rpartition("/")[2])
    assert verify_store(open_store(instance)).problems == ()
    assert not (tmp_path / "home" / "storage" / "crucible").exists()


def test_pickles_are_refused_where_they_are_switched_off(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = Experiment.model_validate(
        {"id": "stored", "pipeline": [{"name": "produce", "module": "agreement_stages:produce"}]}
    )
    ran = execute_experiment(described, instance=instance)
    monkeypatch.setenv(PICKLE_VARIABLE, "false")
    found = History(instance).context(ran.run_id)
    assert found.assigns["array"].shape == (2, 3), "arrays are no pickles"
    with pytest.raises(
        StoreError, match=r"assigns\['model'\] .* is a agreement_stages.Model, which is kept as a pickle"
    ):
        found.assigns["model"]


def test_a_setting_that_makes_no_sense_is_said(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PICKLE_VARIABLE, "no")
    with pytest.raises(CrucibleError, match="CRUCIBLE_ALLOW_PICKLE=no is neither true nor false"):
        open_store(instance)
    monkeypatch.delenv(PICKLE_VARIABLE)
    monkeypatch.setenv(STORE_VARIABLE, "nonsense://x")
    with pytest.raises(CrucibleError, match="nonsense"):
        open_store(instance)


def test_step_processes_see_the_environment_of_now(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    described = Experiment.model_validate(
        {"id": "stored", "pipeline": [{"name": "look", "module": "agreement_stages:look_at_environment"}]}
    )
    for value in ("one", "two"):
        monkeypatch.setenv("CRUCIBLE_TEST_VALUE", value)
        ran = execute_experiment(described, instance=instance, executor="multiprocess")
        assert ran.metrics["CRUCIBLE_TEST_VALUE"] == os.environ["CRUCIBLE_TEST_VALUE"] == value
