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
from crucible_dagster.store.io_manager import MODE_VARIABLE, PICKLE_VARIABLE, STORE_VARIABLE, open_store


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


# --- the modes of files -----------------------------------------------------------------------------------------------


def modes(instance: DagsterInstance) -> tuple[set[str], set[str]]:
    """Of the files and of the folders that the store of the instance has."""
    base = Path(open_store(instance).base.path)
    found = [*base.rglob("*"), base]
    assert {path.relative_to(base).parts[0] for path in found if path.is_file()} >= {"objects", "runs"}
    return (
        {oct(path.stat().st_mode & 0o777) for path in found if path.is_file()},
        {oct(path.stat().st_mode & 0o777) for path in found if path.is_dir()},
    )


@pytest.mark.parametrize(
    ("umask", "setting", "files", "folders"),
    [
        (0o022, None, "0o644", "0o755"),
        (0o077, None, "0o600", "0o700"),
        (0o002, None, "0o664", "0o775"),
        (0o022, "0660", "0o660", "0o770"),
        (0o022, "640", "0o640", "0o750"),
        (0o022, "600", "0o600", "0o700"),
    ],
)
def test_the_store_s_files_have_one_mode_that_of_the_umask_or_of_the_setting(
    instance: DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    umask: int,
    setting: str | None,
    files: str,
    folders: str,
) -> None:
    if setting is not None:
        monkeypatch.setenv(MODE_VARIABLE, setting)
    stages = [{"name": "numbers", "module": "fault_stages:numbers", "options": {"folder": str(tmp_path)}}]
    described = Experiment.model_validate({"id": "stored", "pipeline": stages})
    before = os.umask(umask)
    try:
        execute_experiment(described, instance=instance)
    finally:
        os.umask(before)
    assert modes(instance) == ({files}, {folders})


@pytest.mark.parametrize("setting", ["0777", "rw", "044", "0o640"])
def test_a_mode_that_its_owner_could_not_use_or_that_executes_is_refused(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv(MODE_VARIABLE, setting)
    with pytest.raises(CrucibleError, match=f"CRUCIBLE_FILE_MODE={setting} is not a valid file mode"):
        open_store(instance)
