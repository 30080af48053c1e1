"""Promise 1: the same experiment gives the same Context, or the same failure, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from agreement_stages import Model
from dagster import DagsterInstance

from crucible_core import (
    Context,
    Experiment,
    GateFailedError,
    StageFailed,
    StageFailedError,
    judge_gates,
    plan_experiment,
    run_experiment,
)
from crucible_core.registry import builtin_registry
from crucible_core.report import diff_traces
from crucible_dagster import History, execute_experiment

Run = Callable[[Experiment], Context]


@pytest.fixture(scope="module")
def instance(open_instance: Callable[[], AbstractContextManager[DagsterInstance]]) -> Iterator[DagsterInstance]:
    with open_instance() as opened:
        yield opened


@pytest.fixture(params=["in_process", "multiprocess"])
def run(request: pytest.FixtureRequest, instance: DagsterInstance) -> Run:
    return lambda experiment: execute_experiment(experiment, instance=instance, executor=request.param)


def experiment(*stages: dict[str, Any], **more: Any) -> Experiment:
    pipeline = [{"module": f"agreement_stages:{entry['name']}", **entry} for entry in stages]
    return Experiment.model_validate({"id": "agree", "pipeline": pipeline, **more})


def test_every_kind_of_value_comes_back_as_it_was(run: Run) -> None:
    described = experiment({"name": "odd_values"}, {"name": "produce", "options": {"scale": 2, "names": ["a", "b"]}})
    direct, dagster = run_experiment(described), run(described)
    assert direct.differences(dagster) == ()
    assert type(dagster.metrics["float32"]) is type(direct.metrics["float32"])
    assert dagster.assigns["names"] == ("a", "b")
    assert isinstance(dagster.assigns["model"], Model)


def test_what_a_stage_changes_in_place_is_kept(run: Run) -> None:
    described = experiment({"name": "produce"}, {"name": "mutate"}, {"name": "summarize"})
    direct, dagster = run_experiment(described), run(described)
    assert direct.differences(dagster) == ()
    assert dagster.metrics["list"] == [1, 2, 3, 4]
    assert dagster.metrics["dict"] == {"b": 1, "c": 2}
    assert dagster.metrics["sum"] == 14.0
    assert dagster.metrics["history"] == [0.5]


def test_decisions_and_a_skipped_stage_are_recorded_alike(run: Run) -> None:
    described = experiment({"name": "decide_twice"}, {"name": "produce", "enabled": False})
    direct, dagster = run_experiment(described), run(described)
    assert direct.differences(dagster) == ()
    assert diff_traces(direct.trace, dagster.trace) == ()
    assert [one.decision for one in dagster.trace.decisions] == ["first", "again"]
    assert dagster.trace.endings["produce"].kind == "stage_skipped"
    assert dagster.completed_stages == ("decide_twice",)


def test_a_comparison_and_its_report_are_the_same(run: Run) -> None:
    described = Experiment.model_validate(
        {
            "id": "agree",
            "pipeline": [
                {"name": "validate"},
                {"name": "rows", "module": "agreement_stages:rows"},
                {
                    "name": "bench",
                    "options": {
                        "data": "outputs",
                        "group_by": "group",
                        "value": "score",
                        "tests": ["ttest", "bootstrap"],
                    },
                },
                {"name": "report"},
            ],
            "outputs": [{"name": "report", "formats": ["markdown", "json"]}],
        }
    )
    direct, dagster = run_experiment(described), run(described)
    assert direct.differences(dagster) == ()
    assert set(dagster.metrics["bench"]["tests"]) == {"ttest", "bootstrap"}
    assert Path(dagster.artifacts["report.markdown"]).read_text().count("Welch") >= 1


def test_pass_at_k_and_preferences_are_the_same(run: Run) -> None:
    answers = {"data": "outputs", "group_by": "arm", "value": "right", "design": "clustered", "clusters": "item"}
    votes = {"data": "assigns.votes", "preferences": {"ties": ["tie", "both bad"]}, "metric": "preferences"}
    described = Experiment.model_validate(
        {
            "id": "agree",
            "pipeline": [
                {"name": "answers_and_votes", "module": "agreement_stages:answers_and_votes"},
                {"name": "answers", "module": "crucible_core.stages.bench:Bench", "options": {**answers, "pass_at": 2}},
                {"name": "votes", "module": "crucible_core.stages.bench:Bench", "options": votes},
            ],
        }
    )
    direct, dagster = run_experiment(described), run(described)
    assert direct.differences(dagster) == ()
    assert dagster.metrics["bench"]["answers"]["answers"] == {"new": 24, "old": 18}
    assert dagster.metrics["preferences"]["preferences"]["n"] == 30


def test_retries_are_counted_alike(run: Run, tmp_path: Path) -> None:
    def described(counter: str) -> Experiment:
        options = {"counter": str(tmp_path / counter), "successes_after": 2}
        return experiment({"name": "fail_until", "options": options, "retry": {"max_retries": 2, "delay": 0.01}})

    direct, dagster = run_experiment(described("direct")), run(described("dagster"))
    assert direct.differences(dagster) == ()
    assert dagster.metrics["calls"] == 3
    assert dagster.trace.endings["fail_until"].attempts == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("cache", [False, True])
def test_each_attempt_begins_with_what_the_stage_was_given(run: Run, tmp_path: Path, cache: bool) -> None:
    def described(counter: str, successes_after: int) -> Experiment:
        options = {"counter": str(tmp_path / counter), "successes_after": successes_after}
        stage = {"name": "mutate", "module": "agreement_stages:MutateUntil", "retry": {"max_retries": 2}}
        return experiment(
            {"name": "produce"},
            {"name": "share"},
            {**stage, "options": options, "cache": cache},
            metadata={"notes": []},
        )

    direct, dagster = run_experiment(described("direct", 2)), run(described("dagster", 2))
    for context in (direct, dagster):
        assert context.trace.endings["mutate"].attempts == 3  # type: ignore[union-attr]
        # The names of one object are those of one object in each attempt.
        assert context.assigns["list"] == context.assigns["same_list"] == [1, 2, 3, 4, 5]
        assert context.assigns["array"].tolist() == [[0, 10, 20], [30, 40, 50]]
        assert list(context.outputs) == [{"n": 2}]
        assert (context.metrics["notes"], context.metrics["seen"]) == (["changed"], [0, 1])
    with pytest.raises(StageFailedError) as directly:
        run_experiment(described("direct failing", 9))
    with pytest.raises(StageFailedError) as on_dagster:
        run(described("dagster failing", 9))
    assert directly.value.context.differences(on_dagster.value.context) == ()
    assert directly.value.context.assigns["list"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("how", ["raise", "exit", "none", "mutate"])
def test_the_same_failure_gives_the_same_error_with_the_context_as_it_stood(run: Run, how: str) -> None:
    described = experiment({"name": "produce"}, {"name": "fail", "options": {"how": how}}, {"name": "summarize"})
    with pytest.raises(StageFailedError) as direct:
        run_experiment(described)
    with pytest.raises(StageFailedError) as dagster:
        run(described)
    assert str(dagster.value) == str(direct.value)
    assert dagster.value.stage == direct.value.stage == "fail"
    assert type(dagster.value.__cause__) is type(direct.value.__cause__)
    assert str(dagster.value.__cause__) == str(direct.value.__cause__)
    assert direct.value.context.differences(dagster.value.context) == ()
    assert dagster.value.context.completed_stages == ("produce",)
    ending = dagster.value.context.trace.endings["fail"]
    assert isinstance(ending, StageFailed)
    assert ending.unfinished == ("metrics.begun",)


def gated(*, blocking: bool) -> Experiment:
    return experiment(
        {"name": "decide_twice"},
        {"name": "gates", "module": "agreement_stages:produce"},
        gates=[
            {"name": "enough", "metric": "decided", "at_least": 2},
            {"name": "more", "metric": "decided", "above": 2, "blocking": blocking},
            {"name": "most", "metric": "decided", "above": 3, "severity": "warn"},
            {"name": "unknown", "metric": "undecided", "above": 2},
            {"name": "text", "metric": "said", "above": 2, "undecided": "fail"},
        ],
    )


def test_gates_say_the_same_and_leave_the_context_alone(run: Run, instance: DagsterInstance) -> None:
    described = gated(blocking=False)
    direct, dagster = run_experiment(described), run(described)
    assert direct.differences(dagster) == ()
    assert History(instance).gates(dagster.run_id) == judge_gates(
        direct, plan_experiment(described, builtin_registry())
    )


def test_every_kind_of_number_is_one_to_a_gate(run: Run) -> None:
    number = {"float32", "int64", "bool_", "big", "decimal", "fraction", "yes", "inf"}
    other = {"text", "none", "complex", "nan", "array"}
    gates = [{"name": name, "metric": name, "above": 0} for name in sorted(number | other)]
    described = experiment({"name": "kinds_of_numbers"}, gates=gates)
    for context in (run_experiment(described), run(described)):
        found = {one.gate: one.status for one in context.trace.gates}
        assert {name for name, status in found.items() if status == "passed"} == number
        assert {name for name, status in found.items() if status == "undecided"} == other


def test_a_blocking_gate_that_fails_gives_the_same_error_with_the_whole_context(run: Run) -> None:
    described = gated(blocking=True)
    with pytest.raises(GateFailedError) as direct:
        run_experiment(described)
    with pytest.raises(GateFailedError) as dagster:
        run(described)
    assert str(dagster.value) == str(direct.value)
    assert dagster.value.gates == direct.value.gates
    assert [one.status for one in dagster.value.gates] == ["passed", "failed", "failed", "failed", "undecided"]
    assert direct.value.context.differences(dagster.value.context) == ()
    assert dagster.value.context.completed_stages == ("decide_twice", "gates")


@pytest.mark.parametrize("how", ["unpicklable", "text", "own", "chained"])
def test_every_way_to_fail_is_the_same_in_process(instance: DagsterInstance, how: str) -> None:
    described = experiment({"name": "produce"}, {"name": "fail", "options": {"how": how}})
    with pytest.raises(StageFailedError) as direct:
        run_experiment(described)
    with pytest.raises(StageFailedError) as dagster:
        execute_experiment(described, instance=instance, executor="in_process")
    assert str(dagster.value) == str(direct.value)
    assert direct.value.context.differences(dagster.value.context) == ()


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_observers_hear_the_same_events(instance: DagsterInstance, executor: Any) -> None:
    described = experiment({"name": "decide_twice"}, {"name": "produce"})
    direct: list[str] = []
    dagster: list[str] = []
    run_experiment(described, observers=[lambda event: direct.append(f"{event.kind} {event.stage}")])
    execute_experiment(
        described,
        instance=instance,
        executor=executor,
        observers=[lambda event: dagster.append(f"{event.kind} {event.stage}")],
    )
    assert direct == dagster
    assert direct == [
        "stage_started decide_twice",
        "decision decide_twice",
        "decision decide_twice",
        "stage_succeeded decide_twice",
        "stage_started produce",
        "stage_succeeded produce",
    ]
