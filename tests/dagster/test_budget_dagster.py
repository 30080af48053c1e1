"""What a run spends is on Dagster what it is without: in every process, in a resumed run, in History."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dagster import AssetKey, DagsterInstance

from crucible_core import BudgetExceededError, Context, Experiment, StageFailedError, run_experiment
from crucible_core.cli import main
from crucible_core.report import diff_traces
from crucible_dagster import History, execute_experiment
from crucible_dagster.rerun.resume import resume_run


@pytest.fixture(scope="module")
def storage() -> str:
    """Nothing here depends on where Dagster keeps its events."""
    return "sqlite"


@pytest.fixture(scope="module")
def instance(open_instance: Callable[[], AbstractContextManager[DagsterInstance]]) -> Iterator[DagsterInstance]:
    with open_instance() as opened:
        yield opened


def pay(name: str, usd: float = 1.0, times: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": name, "module": "spending_stages:pay", "options": {"usd": usd, "times": times}, **more}


def experiment(*stages: dict[str, Any], name: str = "costly", **more: Any) -> Experiment:
    pipeline = [{"module": f"spending_stages:{one['name']}", **one} for one in stages]
    return Experiment.model_validate({"id": name, "pipeline": pipeline, **more})


def spent(ctx: Context) -> dict[str, Any]:
    found: dict[str, Any] = ctx.metrics["spent"]
    return found


def test_a_run_in_several_processes_stops_where_it_stops_without_dagster(instance: DagsterInstance) -> None:
    asked = experiment({"name": "catch"}, pay("next"), pay("tidy", 0.5, always=True), budget={"usd": 2.5, "tokens": 10})
    failures = []
    for run in (run_experiment, lambda one: execute_experiment(one, instance=instance, executor="multiprocess")):
        with pytest.raises(StageFailedError) as caught:
            run(asked)
        failures.append(caught.value)
    direct, dagster = failures
    assert str(dagster) == str(direct)
    assert "used up before stage 'next': 3 of 2.5 spent" in str(dagster)
    assert isinstance(dagster.__cause__, BudgetExceededError)
    assert direct.context.differences(dagster.context) == ()
    assert diff_traces(direct.context.trace, dagster.context.trace) == ()
    assert spent(dagster.context)["by_stage"] == {"catch": {"usd": 3.0}, "tidy": {"usd": 0.5}}


def test_it_is_on_the_asset_and_in_history(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", instance.root_directory)
    asked = experiment(pay("ask", 0.25, 3), pay("judge", 0.5), name="shown", budget={"usd": 5, "tokens": 10})
    ctx = execute_experiment(asked, instance=instance)
    (record,) = instance.fetch_materializations(AssetKey(["crucible", "shown"]), limit=1).records
    assert record.asset_materialization is not None
    metadata = record.asset_materialization.metadata
    assert metadata["spent.usd"].value == 1.25
    assert metadata["spent.by_stage.ask.usd"].value == 0.75
    assert "## Spending" in str(metadata["report"].value)
    assert History(instance).metrics("shown")[0]["spent.usd"] == 1.25
    shown = CliRunner().invoke(main, ["show", ctx.run_id]).output
    lines = [line.split() for line in shown[shown.index("Spending") :].splitlines()[:6]]
    assert ["usd", "1.25", "5", "ask", "0.75,", "judge", "0.5"] in lines
    assert ["tokens", "0", "10"] in lines


def test_a_resumed_run_has_spent_what_its_finished_stages_spent(instance: DagsterInstance, tmp_path: Path) -> None:
    flaky = {"name": "flaky", "options": {"marks": str(tmp_path / "marks"), "usd": 2.0}}
    with pytest.raises(StageFailedError) as caught:
        execute_experiment(experiment(pay("ask", 1.5), flaky, pay("judge", 0.5)), instance=instance)
    failed = caught.value.context
    assert spent(failed) == {"usd": 3.5, "by_stage": {"ask": {"usd": 1.5}, "flaky": {"usd": 2.0}}}
    assert History(instance).run(failed.run_id).metrics["spent"]["usd"] == 3.5
    resumed = resume_run(instance, failed.run_id)
    assert spent(resumed) == {
        "usd": 4.0,
        "by_stage": {"ask": {"usd": 1.5}, "flaky": {"usd": 2.0}, "judge": {"usd": 0.5}},
    }


def test_attempts_that_failed_count(instance: DagsterInstance, tmp_path: Path) -> None:
    flaky = {"name": "flaky", "retry": {"max_retries": 1}, "options": {"marks": str(tmp_path / "marks")}}
    asked = experiment(pay("ask", 1.5), flaky)
    assert spent(execute_experiment(asked, instance=instance)) == {
        "usd": 3.5,
        "by_stage": {"ask": {"usd": 1.5}, "flaky": {"usd": 2.0}},
    }


def test_a_result_that_is_used_again_is_not_paid_again(instance: DagsterInstance) -> None:
    def run(before: float, name: str = "cached") -> Context:
        asked = experiment(pay("ask", before), pay("judge", 2.0, cache=True), pay("last", 0.25), name=name)
        return execute_experiment(asked, instance=instance)

    first, second = run(1.0), run(0.5)
    assert first.trace.endings["judge"].kind == second.trace.endings["judge"].kind == "stage_succeeded"
    assert getattr(second.trace.endings["judge"], "reused_from", None) == first.run_id, "whatever was spent before"
    assert spent(first) == {
        "usd": 3.25,
        "by_stage": {"ask": {"usd": 1.0}, "judge": {"usd": 2.0}, "last": {"usd": 0.25}},
    }
    assert spent(second) == {"usd": 0.75, "by_stage": {"ask": {"usd": 0.5}, "last": {"usd": 0.25}}}


def test_trials_stop_and_go_on_in_a_resumed_run(instance: DagsterInstance) -> None:
    def asked(limit: float, workers: int) -> Experiment:
        trials = {"grid": {"score.usd": [0.5, 1.0]}, "replicates": 4, "measure": "score", "workers": workers}
        return experiment(
            pay("ask", 0.25), {"name": "score"}, seed=3, trials=trials, budget={"usd": limit}, name="swept"
        )

    with pytest.raises(StageFailedError) as caught:
        execute_experiment(asked(2.5, 2), instance=instance)
    failed = caught.value.context
    paid = spent(failed)["by_stage"]["trials"]["usd"]
    assert isinstance(caught.value.__cause__, BudgetExceededError)
    assert paid == sum(row["spent.usd"] for row in failed.outputs)
    assert 2.25 < paid <= 2.25 + 2, "at most one trial too many in each process"
    assert len(failed.outputs) < 8
    done = execute_experiment(asked(8, 1), instance=instance)
    assert len(done.outputs) == 8
    assert spent(done)["by_stage"]["trials"]["usd"] == 6.0 - paid
