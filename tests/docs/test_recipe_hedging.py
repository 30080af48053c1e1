"""The recipe for hedging: the tail gets shorter, by hedges that the budget allows, everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dagster import DagsterInstance

from crucible_core import (
    Context,
    InvalidExperimentError,
    StageFailedError,
    builtin_registry,
    load_experiment,
    plan_experiment,
    run_experiment,
)
from crucible_dagster import execute_experiment

FILE = Path(__file__).parents[2] / "examples" / "hedging" / "hedging.yaml"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hedging(tmp_path_factory: pytest.TempPathFactory) -> Context:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path_factory.mktemp("reports")))
        return run_experiment(load_experiment(FILE))


def of(ctx: Context, arm: str, field: str) -> list[Any]:
    return [output[field] for output in ctx.outputs if output["arm"] == arm]


def first_attempts(requests: int) -> list[float]:
    """How long the backend takes, in ms, by its definition."""
    dice = [np.random.default_rng([1, request, 0]) for request in range(requests)]
    return [1000 * (0.25 if one.random() < 1 / 12 else 0.005 + one.exponential(0.005)) for one in dice]


def test_without_hedging_every_request_waits_for_its_first_answer(hedging: Context) -> None:
    waited = np.array(of(hedging, "plain", "ms"))
    drawn = np.array(first_attempts(240))
    assert (waited >= drawn - 1).all()
    assert np.median(waited - drawn) < 10  # what the machine adds
    assert set(of(hedging, "plain", "sent")) == {1}


def test_hedging_shortens_the_tail_and_sends_no_more_than_the_budget_allows(hedging: Context) -> None:
    sent, waited = np.array(of(hedging, "hedged", "sent")), np.array(of(hedging, "hedged", "ms"))
    assert set(sent) == {1, 2}
    assert sent.sum() <= 240 * 1.15
    assert hedging.metrics["hedged_sent_per_request"] == sent.sum() / 240
    slow = np.array(first_attempts(240)) == 250
    rescued = slow & (waited < 200)
    assert rescued.sum() >= slow.sum() / 2
    assert (sent[rescued] == 2).all()
    test = hedging.metrics["bench"]["tests"]["paired_quantile"]
    assert test["estimate"] == pytest.approx(np.quantile(waited, 0.95) - np.quantile(of(hedging, "plain", "ms"), 0.95))
    assert test["confidence_interval"][1] < -50
    assert hedging.metrics["bench"]["verdicts"][0]["verdict"] == "better"
    assert [gate.status for gate in hedging.trace.gates] == ["passed", "passed"]


def test_the_report_names_the_percentile_and_shows_it_of_both_arms(hedging: Context) -> None:
    html = Path(hedging.get_artifact("hedging.html")).read_text("utf-8")
    assert "hedged beats plain in the 95th percentile of latency in ms by " in html
    assert ">95th percentile</th>" in html
    assert "diamonds: 95th percentiles." in html


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_on_dagster_only_what_the_clock_says_differs(hedging: Context, executor: Any, home: DagsterInstance) -> None:
    there = execute_experiment(load_experiment(FILE), instance=home, executor=executor)
    assert there.metrics.keys() == hedging.metrics.keys()
    assert there.artifacts.keys() == hedging.artifacts.keys()
    assert there.completed_stages == hedging.completed_stages
    for field in ("arm", "request"):
        assert [output[field] for output in there.outputs] == [output[field] for output in hedging.outputs]
    assert of(there, "plain", "sent") == of(hedging, "plain", "sent")
    assert there.metrics["bench"]["tests"]["paired_quantile"]["confidence_interval"][1] < -50


def test_a_mistake_in_the_settings_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "hedging_stages.py").symlink_to(FILE.with_name("hedging_stages.py"))
    written = FILE.read_text("utf-8").replace("percentile: 0.9 ", "percentile: 90 ")
    (tmp_path / "hedging.yaml").write_text(written, "utf-8")
    line = 1 + next(i for i, text in enumerate(written.splitlines()) if "percentile: 90" in text)
    with pytest.raises(InvalidExperimentError, match=rf"hedging\.yaml:{line}:\d+: reliability\.hedging .*percentile"):
        plan_experiment(load_experiment(tmp_path / "hedging.yaml"), builtin_registry())


def test_too_few_requests_for_the_percentile_are_refused_in_words() -> None:
    few = load_experiment(FILE).with_options("plain", {"hedge": False, "requests": 30})
    few = few.with_options("hedged", {"requests": 30})
    with pytest.raises(StageFailedError, match="even the largest of them lies below the 95th percentile"):
        run_experiment(few)
