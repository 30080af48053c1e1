"""Resources on Dagster: made in each step that asks, and closed with it; or Dagster's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from dagster import ConfigurableResource, DagsterInstance, Definitions, materialize
from resource_stages import Backend, notes

from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    Registry,
    StageFailedError,
    run_experiment,
)
from crucible_dagster import History, build_definitions, execute_experiment, job_for
from crucible_dagster.rerun.resume import resume_run

TOKEN = "s3cret-t0ken"


@pytest.fixture(scope="module")
def storage() -> str:
    """Nothing here depends on where Dagster keeps its events."""
    return "sqlite"


@pytest.fixture(scope="module")
def instance(open_instance: Callable[[], AbstractContextManager[DagsterInstance]]) -> Iterator[DagsterInstance]:
    with open_instance() as opened:
        yield opened


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def experiment(log: Path, *stages: str | dict[str, Any], **keys: Any) -> Experiment:
    entries = [{"name": one} if isinstance(one, str) else one for one in stages]
    pipeline = [{"module": f"resource_stages:{one['name']}", **one} for one in entries]
    options = {"log": str(log), "token": TOKEN}
    backend = {"backend": {"module": "resource_stages:Backend", "options": options}}
    return Experiment.model_validate({"id": "asks", "pipeline": pipeline, "resources": backend, **keys})


def test_a_run_in_one_process_makes_one_for_each_step_that_asks(instance: DagsterInstance, log: Path) -> None:
    tried = experiment(log, "ask", "nothing", "ask_from_threads")
    done = execute_experiment(tried, instance=instance)
    assert notes(log) == ["made", "closed", "made", "closed"]
    assert not done.differences(run_experiment(tried))
    assert TOKEN not in done.experiment.to_json()
    assert TOKEN not in str(History(instance).record(done.run_id))


def test_a_run_of_several_processes_has_those_of_the_registry_its_trials_too(
    instance: DagsterInstance, log: Path
) -> None:
    trials = {"grid": {"ask.number": [1, 2]}, "replicates": 2, "measure": "answer", "workers": 1}
    resources = {"backend": {"module": "client", "options": {"log": str(log), "token": TOKEN}}}
    tried = experiment(log, "ask", trials=trials, seed=1, resources=resources)
    registry = Registry(resources={"client": Backend})
    done = execute_experiment(tried, registry=registry, instance=instance, executor="multiprocess")
    assert [row["answer"] for row in done.outputs] == [2, 4] * 2
    kept = [instance.get_run_by_id(done.run_id), *instance.all_logs(done.run_id)]
    assert TOKEN not in "".join(map(str, kept))
    assert notes(log) == ["made", "closed"]
    with pytest.raises(CrucibleError, match="to which objects cannot be passed: declare backend under `resources:`"):
        execute_experiment(
            tried, registry=registry, instance=instance, executor="multiprocess", resources={"backend": 1}
        )


def test_what_a_stage_says_of_a_secret_is_masked_and_a_resumed_run_has_its_own(
    instance: DagsterInstance, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"log": str(log), "factor": 3}
    resources = {"backend": {"module": "resource_stages:Backend", "options": options}}
    tried = experiment(log, "ask", "refused", resources=resources)
    with pytest.raises(StageFailedError) as failed:
        execute_experiment(experiment(log, "refused"), instance=instance)
    assert "refused for **********" in str(failed.value)
    events = instance.all_logs(failed.value.context.run_id)
    assert TOKEN not in "".join(map(str, events))
    with pytest.raises(StageFailedError) as failed:
        execute_experiment(tried, instance=instance)
    log.unlink()
    monkeypatch.setattr(Backend, "refuse", lambda _: None)
    resumed = resume_run(instance, failed.value.context.run_id)
    assert resumed.metrics["answer"] == 63
    assert notes(log) == ["made", "closed"]


def test_an_object_takes_its_place(instance: DagsterInstance, log: Path) -> None:
    class Fake:
        def ask(self, number: int) -> int:
            return -number

    done = execute_experiment(experiment(log, "ask"), instance=instance, resources={"backend": Fake()})
    assert done.metrics["answer"] == -21
    assert notes(log) == []


class DagsterBackend(ConfigurableResource[Any]):
    """A resource of Dagster's."""

    factor: int

    def ask(self, number: int) -> int:
        return number * self.factor


def test_a_resource_of_dagster_takes_its_place_in_the_job_and_the_asset(
    instance: DagsterInstance, log: Path, tmp_path: Path
) -> None:
    tried = experiment(log, "ask")
    given = {"backend": DagsterBackend(factor=5)}
    ran = job_for(tried, resources=given).execute_in_process(instance=instance)
    assert ran.output_for_node("ask").metrics["answer"] == 105
    (tmp_path / "asks.yaml").write_text(tried.to_json())
    (tmp_path / "other.yaml").write_text('{"id": "other", "pipeline": [{"name": "validate"}]}')
    definitions = build_definitions(tmp_path, resources=given)
    Definitions.validate_loadable(definitions)
    (asset,) = [one for one in definitions.assets or () if "asks" in str(getattr(one, "keys", ""))]
    assert materialize([asset], instance=instance, resources=given).success  # type: ignore[list-item]
    assert notes(log) == []
    with pytest.raises(CrucibleError, match="'experiment' has the name of a resource of the job"):
        job_for(tried, resources={"experiment": 1})


def test_a_cached_result_depends_on_the_declaration_that_its_stage_asked_for(
    instance: DagsterInstance, log: Path
) -> None:
    def run(**options: Any) -> Context:
        resources = {"backend": {"module": "resource_stages:Backend", "options": {"log": str(log), **options}}}
        cached = {"name": "ask", "cache": True}, {"name": "nothing", "cache": True}
        return execute_experiment(experiment(log, *cached, resources=resources), instance=instance)

    first, same, other = run(), run(), run(factor=4)
    assert [one.metrics["answer"] for one in (first, same, other)] == [42, 42, 84]
    reused = [[ending.reused_from for ending in one.trace.endings.values()] for one in (same, other)]  # type: ignore[union-attr]
    assert reused == [[first.run_id, first.run_id], [None, first.run_id]]
    assert notes(log) == ["made", "closed"] * 2
    passed = execute_experiment(
        experiment(log, {"name": "ask", "cache": True}), instance=instance, resources={"backend": Backend(log=str(log))}
    )
    assert passed.trace.endings["ask"].reused_from is None  # type: ignore[union-attr]
