"""Gates on Dagster: checks of the asset, the baseline from history, the run that a gate fails."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckSeverity,
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    FloatMetadataValue,
)
from stages_for_tests import experiment_of, registry

from crucible_core import (
    Baseline,
    Context,
    Experiment,
    GateFailedError,
    GateResult,
    InvalidExperimentError,
)
from crucible_dagster import History, execute_experiment, job_for
from crucible_dagster.code_location import definitions_of
from crucible_dagster.execution import QUIET, outcome, rebuild_job
from crucible_dagster.history.earlier_runs import EarlierRuns
from crucible_dagster.names import dagster_name, gates_step
from crucible_dagster.rerun.replay import replay_run
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.rerun.why import explain_stage
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.tags import EXPERIMENT_TAG, GATES_TAG, OPTIONS_TAG, VARIANT_TAG

GOOD = [0.80, 0.82, 0.79, 0.81, 0.80, 0.83, 0.78, 0.81]
BAD = [0.60, 0.63, 0.58, 0.61, 0.62, 0.59, 0.60, 0.61]
NO_WORSE = {"name": "no_worse", "no_regression": {"group": "treatment", "margin": 0.05}}
ACCURACY = {"metric": "accuracy", "margin": 0.1, "baseline": {"last_runs": 3}}
ENOUGH = {"name": "enough", "metric": "bench.treatment.mean", "at_least": 0.7}


@pytest.fixture(scope="module")
def instance(open_instance: Callable[[], AbstractContextManager[DagsterInstance]]) -> Iterator[DagsterInstance]:
    with open_instance() as opened:
        yield opened


@pytest.fixture(scope="module")
def memory() -> Iterator[DagsterInstance]:
    """For what is the same wherever Dagster keeps its runs."""
    with DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def name() -> str:
    """The id of an experiment that no other test has."""
    return f"tried-{uuid.uuid4().hex[:8]}"


def described(name: str, values: list[float], *gates: dict[str, Any], **more: Any) -> Experiment:
    groups = {"name": "groups", "options": {"control": [0.5, 0.52, 0.48, 0.5], "treatment": values}}
    return experiment_of(groups, "bench", id=name, gates=gates, **more)


def run(instance: DagsterInstance, experiment: Experiment, **tags: str) -> Context:
    """The Context of the run, also of one that a gate fails; the tags are those of its launch."""
    job = job_for(experiment, registry())
    result = job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False, tags=tags)
    return outcome(experiment, instance, result.run_id)[0]


def gates(instance: DagsterInstance, context: Context) -> dict[str, GateResult]:
    return {one.gate: one for one in History(instance).gates(context.run_id)}


def evaluations(instance: DagsterInstance, run_id: str) -> list[AssetCheckEvaluation]:
    found = []
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION):
        assert entry.dagster_event is not None
        assert isinstance(entry.dagster_event.event_specific_data, AssetCheckEvaluation)
        found.append(entry.dagster_event.event_specific_data)
    return found


def execute_checks(instance: DagsterInstance, definitions: Definitions, *names: str) -> dict[str, AssetCheckEvaluation]:
    """What the UI's Execute does: a run of the checks alone."""
    everything = definitions.resolve_implicit_global_asset_job_def()
    steps = [one.name for one in everything.nodes if any(one.name.startswith(f"gate_{name}_") for name in names)]
    result = everything.execute_in_process(instance=instance, raise_on_error=False, op_selection=steps)
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


# --- a run that is judged ---------------------------------------------------------------------------------------------


def test_a_run_tells_an_evaluation_with_numbers_of_each_gate(instance: DagsterInstance, name: str) -> None:
    experiment = described(name, GOOD, ENOUGH, {**ENOUGH, "name": "plenty-1", "at_least": 0.9, "severity": "warn"})
    context = run(instance, experiment)
    enough, plenty = evaluations(instance, context.run_id)
    assert (enough.check_name, enough.passed, enough.severity) == ("enough", True, AssetCheckSeverity.ERROR)
    assert (plenty.check_name, plenty.passed, plenty.severity) == ("plenty_1", False, AssetCheckSeverity.WARN)
    assert enough.asset_key == AssetKey(["crucible", dagster_name(name)])
    assert enough.metadata["value"] == FloatMetadataValue(context.metrics["bench"]["groups"]["treatment"]["mean"])
    assert enough.metadata["bound"] == FloatMetadataValue(0.7)
    (made,) = instance.fetch_materializations(enough.asset_key, limit=5).records
    target = enough.target_materialization_data
    assert target is not None
    assert (target.storage_id, target.run_id) == (made.storage_id, context.run_id)
    assert made.asset_materialization is not None
    report = str(made.asset_materialization.metadata["report"].value)
    assert "## Gates" in report
    assert "| plenty-1 | failed (warn) | bench.treatment.mean is 0.805, not at least 0.9 |" in report
    (listed,) = History(instance).runs(name)
    assert listed.gates == "warned"
    assert listed.metrics["bench.treatment.mean"] == pytest.approx(0.805)


def test_a_blocking_gate_fails_the_run_which_keeps_its_report_and_its_context(
    instance: DagsterInstance, name: str, tmp_path: Path
) -> None:
    experiment = experiment_of(
        {"name": "measure", "options": {"value": 0.5}},
        "report",
        id=name,
        gates=[{"name": "good", "metric": "accuracy", "at_least": 0.9, "blocking": True}],
    )
    with pytest.raises(GateFailedError) as raised:
        execute_experiment(experiment, registry=registry(), instance=instance)
    context = raised.value.context
    assert "accuracy is 0.5, not at least 0.9" in Path(context.artifacts["report.html"]).read_text()
    stored = instance.get_run_by_id(context.run_id)
    assert stored is not None
    assert (stored.status, stored.tags[GATES_TAG]) == (DagsterRunStatus.FAILURE, "failed")
    assert instance.fetch_materializations(AssetKey(["crucible", dagster_name(name)]), limit=1).records == []
    (evaluation,) = evaluations(instance, context.run_id)
    assert (evaluation.passed, evaluation.blocking) == (False, True)
    (failed,) = instance.all_logs(context.run_id, of_type=DagsterEventType.STEP_FAILURE)
    assert failed.dagster_event is not None
    data = failed.dagster_event.step_failure_data
    assert data.user_failure_data is not None
    assert "good: accuracy is 0.5, not at least 0.9" in str(data.user_failure_data.description)
    assert data.user_failure_data.metadata["accuracy"] == FloatMetadataValue(0.5)
    assert "## Gates" in str(data.user_failure_data.metadata["report"].value)
    history = History(instance)
    assert history.context(context.run_id).differences(context) == ()
    details = history.run(context.run_id)
    assert (details.summary.status, details.summary.gates) == ("failed", "failed")
    assert details.failure is not None
    assert details.failure.reason == "gate good: accuracy is 0.5, not at least 0.9"
    assert [one.outcome for one in details.stages] == ["succeeded", "succeeded"]
    assert details.gates == raised.value.gates
    assert details.notes == ()


def test_an_undecided_gate_is_a_warning_and_no_pass(memory: DagsterInstance, name: str) -> None:
    context = run(memory, described(name, GOOD, {**NO_WORSE, "blocking": True}))
    (evaluation,) = evaluations(memory, context.run_id)
    assert (evaluation.passed, evaluation.severity) == (False, AssetCheckSeverity.WARN)
    assert str(evaluation.description).startswith("undecided: there is nothing to compare with yet: no earlier run")
    (listed,) = History(memory).runs(name)
    assert (listed.status, listed.gates) == ("succeeded", "undecided")


def test_infinite_and_huge_numbers_are_told(memory: DagsterInstance, name: str) -> None:
    experiment = experiment_of(
        {"name": "odd_values"},
        id=name,
        gates=[
            {"name": "infinite", "metric": "infinity", "above": 1},
            {"name": "none", "metric": "nan", "above": 1},
            {"name": "minus", "metric": "minus", "below": 1},
        ],
    )
    found = gates(memory, run(memory, experiment))
    assert [one.status for one in found.values()] == ["passed", "undecided", "passed"]
    assert found["infinite"].numbers["value"] == math.inf


# --- the baseline -----------------------------------------------------------------------------------------------------


def test_the_last_passing_run_is_the_baseline(instance: DagsterInstance, name: str) -> None:
    rules = (NO_WORSE, ENOUGH)
    first = run(instance, described(name, GOOD, *rules))
    bad = run(instance, described(name, BAD, *rules))
    assert (gates(instance, bad)["no_worse"].status, gates(instance, bad)["enough"].status) == ("failed", "failed")
    assert gates(instance, bad)["no_worse"].baseline_runs == (first.run_id,)
    assert gates(instance, bad)["no_worse"].numbers["estimate"] == pytest.approx(-0.2)
    again = run(instance, described(name, GOOD, *rules))
    # The bad run succeeded, and is not what the next one is held against.
    found = gates(instance, again)["no_worse"]
    assert (found.status, found.baseline_runs) == ("passed", (first.run_id,))
    assert [one.gates for one in History(instance).runs(name)] == ["passed", "failed", "undecided"]


def test_runs_of_before_there_were_gates_can_be_a_baseline(memory: DagsterInstance, name: str) -> None:
    first = run(memory, described(name, GOOD))
    found = gates(memory, run(memory, described(name, GOOD, NO_WORSE)))["no_worse"]
    assert (found.status, found.baseline_runs) == ("passed", (first.run_id,))


def test_the_verdict_of_a_run_is_not_that_of_the_one_that_executes_it_again(memory: DagsterInstance, name: str) -> None:
    # Dagster gives a run the tags of the one that it executes again.
    again = run(memory, described(name, GOOD), **{GATES_TAG: "failed"})
    assert History(memory).runs(name)[0].gates is None
    found = gates(memory, run(memory, described(name, GOOD, NO_WORSE), **{GATES_TAG: "failed"}))["no_worse"]
    assert (found.status, found.baseline_runs) == ("passed", (again.run_id,))
    assert History(memory).runs(name)[0].gates == "passed"
    failing = experiment_of("measure", "fail", id=name, gates=[NO_WORSE | {"no_regression": ACCURACY}])
    job_for(failing, registry()).execute_in_process(
        instance=memory, run_config=QUIET, raise_on_error=False, tags={GATES_TAG: "failed"}
    )
    assert [one.gates for one in History(memory).runs(name)] == [None, "passed", None]


def test_a_pinned_run_a_number_of_runs_and_a_variant_are_baselines(instance: DagsterInstance, name: str) -> None:
    first = run(instance, described(name, GOOD))
    small = run(instance, described(name, [value + 0.1 for value in GOOD]), **{VARIANT_TAG: "small"})
    other = run(instance, described(name, [value + 0.01 for value in GOOD]))

    def against(**baseline: Any) -> dict[str, Any]:
        rule = {"group": "treatment", "margin": 0.05, "paired": True, "baseline": baseline}
        return {"name": next(iter(baseline)), "no_regression": rule}

    rules = [against(run=first.run_id[:12]), against(last_runs=2), against(variant="small")]
    rules += [{**against(variant="large"), "name": "none"}]
    found = gates(instance, run(instance, described(name, GOOD, *rules)))
    assert found["run"].baseline_runs == (first.run_id,)
    assert "exactly what it was" in found["run"].sentence
    assert found["last_runs"].baseline_runs == (other.run_id, first.run_id)
    assert found["last_runs"].numbers["estimate"] == pytest.approx(-0.005)
    assert (found["variant"].status, found["variant"].baseline_runs) == ("failed", (small.run_id,))
    assert "no run of variant 'large' has succeeded" in found["none"].sentence


def test_runs_of_another_variant_are_not_the_last_passing_run(memory: DagsterInstance, name: str) -> None:
    small = run(memory, described(name, GOOD), **{VARIANT_TAG: "small"})
    run(memory, described(name, BAD), **{VARIANT_TAG: "large"})
    found = gates(memory, run(memory, described(name, GOOD, NO_WORSE), **{VARIANT_TAG: "small"}))
    assert found["no_worse"].baseline_runs == (small.run_id,)


def test_runs_with_other_options_than_the_file_are_a_baseline_only_where_the_file_says_so(
    memory: DagsterInstance, name: str
) -> None:
    any_options = {"group": "treatment", "margin": 0.05, "baseline": {"any_options": True}}
    # A warning, so that a run which it finds worse than the exploratory one is a passing one.
    rules = (NO_WORSE, {"name": "whatever", "no_regression": any_options, "severity": "warn"})
    file = described(name, GOOD, *rules)
    first = run(memory, file)
    better = [value + 0.1 for value in GOOD]
    job = job_for(file, registry())
    config = {**QUIET, "ops": {"groups": {"config": {"treatment": better}}}}
    typed = job.execute_in_process(instance=memory, run_config=config)
    found = gates(memory, run(memory, file))
    assert found["no_worse"].baseline_runs == (first.run_id,)
    assert found["whatever"].baseline_runs == (typed.run_id,)
    changed = execute_experiment(
        file.with_options("groups", {"treatment": better}), registry=registry(), instance=memory
    )
    # It is judged itself, by the last run that was as the file says.
    assert gates(memory, changed)["no_worse"].status == "passed"
    same = execute_experiment(file.with_options("groups", {"treatment": GOOD}), registry=registry(), instance=memory)
    assert gates(memory, same)["whatever"].baseline_runs == (changed.run_id,)
    # What is in the Launchpad without having been typed is as the file says, and so is another seed.
    written_out = {**QUIET, "ops": {"groups": {"config": {"treatment": GOOD}}}}
    last = job.execute_in_process(instance=memory, run_config=written_out, tags={OPTIONS_TAG: "changed"})
    assert gates(memory, run(memory, file.with_seed(7)))["no_worse"].baseline_runs == (last.run_id,)


def test_a_run_with_changed_options_is_marked_under_every_executor_and_when_it_is_executed_again(
    memory: DagsterInstance, name: str
) -> None:
    file = described(name, GOOD)
    changed = file.with_options("groups", {"treatment": BAD})
    assert [one.options_changed for one in (file, changed, changed.with_seed(1))] == [False, True, True]
    rebuilt = rebuild_job(
        experiment=changed.to_json(),
        options_changed=changed.options_changed,
        path=None,
        stages={one: f"{registry()[one].__module__}:{registry()[one].__qualname__}" for one in ("groups", "bench")},
        importable=None,
    )
    ran = rebuilt.execute_in_process(instance=memory, run_config=QUIET)
    stored = memory.get_run_by_id(ran.run_id)
    assert stored is not None
    assert stored.tags[OPTIONS_TAG] == "changed"


def test_looks_leave_out_runs_with_other_options(memory: DagsterInstance, name: str) -> None:
    def measured(*rules: dict[str, Any]) -> Experiment:
        return experiment_of({"name": "measure", "options": {"value": 0.8}}, id=name, gates=rules)

    first = run(memory, measured())
    run(memory, measured().with_options("measure", {"value": 0.1}))
    found = {}
    for more in ({}, {"any_options": True}):
        baseline = {"run": first.run_id, **more}
        rule = {"metric": "accuracy", "margin": 0.5, "baseline": baseline, "looks": "always_valid"}
        found[len(more)] = gates(memory, run(memory, measured({"name": "watched", "no_regression": rule})))["watched"]
    assert found[0].numbers["n"] == 1
    assert found[1].numbers["n"] == 3


def test_a_pinned_run_that_cannot_be_a_baseline_is_undecided_and_says_why(memory: DagsterInstance, name: str) -> None:
    other = run(memory, described(f"other-{name}", GOOD))

    def verdict(pinned: str) -> GateResult:
        rule = {"group": "treatment", "margin": 0.05, "baseline": {"run": pinned}}
        experiment = described(name, GOOD, {"name": "pinned", "no_regression": rule})
        return gates(memory, run(memory, experiment))["pinned"]

    assert "no run of an experiment has an id that begins with 'ffffffff'" in verdict("ffffffff").sentence
    found = verdict(other.run_id)
    assert found.status == "undecided"
    assert f"is one of experiment 'other-{name}'" in found.sentence


def test_a_baseline_whose_context_is_gone_is_undecided_and_says_so(memory: DagsterInstance, name: str) -> None:
    import shutil

    first = run(memory, described(name, GOOD))
    shutil.rmtree(Path(memory.storage_directory()) / "crucible" / "runs" / first.run_id)
    found = gates(memory, run(memory, described(name, GOOD, NO_WORSE)))["no_worse"]
    assert found.status == "undecided"
    assert f"the baseline cannot be compared: run {first.run_id} cannot be read" in found.sentence


def test_a_number_per_run_is_held_against_the_last_runs(memory: DagsterInstance, name: str) -> None:
    def measured(value: float) -> Experiment:
        rule = {"metric": "accuracy", "margin": 0.1, "baseline": {"last_runs": 3}}
        gate = {"name": "steady", "no_regression": rule}
        return experiment_of({"name": "measure", "options": {"value": value}}, id=name, gates=[gate])

    found = [gates(memory, run(memory, measured(value)))["steady"] for value in (0.90, 0.92, 0.91, 0.905, 0.2)]
    assert [one.status for one in found] == ["undecided", "undecided", "undecided", "passed", "failed"]
    assert [one.numbers.get("n_baseline", 0) for one in found] == [0, 1, 2, 3, 3]


def test_the_looks_since_a_pinned_run_count_those_that_a_gate_failed(memory: DagsterInstance, name: str) -> None:
    def measured(value: float, *rules: dict[str, Any]) -> Experiment:
        return experiment_of({"name": "measure", "options": {"value": value}}, id=name, gates=rules)

    first = run(memory, measured(0.8))
    rule = {"metric": "accuracy", "margin": 0.5, "baseline": {"run": first.run_id}, "looks": "always_valid"}
    watched = {"name": "watched", "no_regression": rule}
    stop = {"name": "stop", "metric": "accuracy", "above": 0.4, "blocking": True}
    second = run(memory, measured(0.3, watched, stop))
    run(memory, measured(0.1), **{VARIANT_TAG: "small"})
    third = run(memory, measured(0.75, watched, stop))
    found = gates(memory, third)["watched"]
    assert gates(memory, second)["stop"].blocks
    assert found.numbers["n"] == 2
    assert found.numbers["estimate"] == pytest.approx((0.3 + 0.75) / 2 - 0.8)
    assert found.baseline_runs == (first.run_id,)


def test_runs_that_execute_one_another_again_are_one(memory: DagsterInstance, name: str) -> None:
    from crucible_core import builtin_registry

    def measured(value: float, *rules: dict[str, Any]) -> Experiment:
        stage = {"name": "measure", "module": "stages_for_tests:measure", "options": {"value": value}}
        return experiment_of(stage, id=name, gates=rules)

    first = run(memory, measured(0.8))
    rule = {"metric": "accuracy", "margin": 0.5, "baseline": {"run": first.run_id}, "looks": "always_valid"}
    rules = [{"name": "watched", "no_regression": rule}, {"name": "stop", "metric": "accuracy", "above": 0.4}]
    stopped = run(memory, measured(0.3, rules[0], {**rules[1], "blocking": True}))
    with pytest.raises(GateFailedError) as again:
        resume_run(memory, stopped.run_id, registry=builtin_registry())
    assert {one.gate: one for one in again.value.gates}["watched"].numbers["n"] == 1
    found = gates(memory, run(memory, measured(0.75, *rules)))["watched"]
    assert found.numbers["n"] == 2
    assert found.numbers["estimate"] == pytest.approx((0.3 + 0.75) / 2 - 0.8)


def test_a_run_is_not_held_against_the_one_that_it_executes_again(memory: DagsterInstance, name: str) -> None:
    experiment = described(name, GOOD, NO_WORSE)
    ids = [run(memory, experiment).run_id for _ in range(2)]
    for parent, other in (ids, ids[::-1]):
        again = memory.create_run_for_job(
            job_for(experiment, registry()),
            tags={EXPERIMENT_TAG: name},
            parent_run_id=parent,
            root_run_id=parent,
        )
        past = EarlierRuns(memory, open_store(memory), again, "gates")
        assert [one.run_id for one in past.baseline(Baseline())] == [other]


# --- judged again -----------------------------------------------------------------------------------------------------


def test_a_check_judges_the_newest_run_again_without_running_a_stage(instance: DagsterInstance, name: str) -> None:
    strict = {**ENOUGH, "name": "strict-1", "blocking": True}
    definitions = definitions_of([described(name, GOOD, NO_WORSE, strict)], registry())
    empty = execute_checks(instance, definitions, "no_worse")["no_worse"]
    assert (empty.passed, empty.severity) == (False, AssetCheckSeverity.WARN)
    assert "has finished yet" in str(empty.description)
    run(instance, described(name, GOOD))
    newest = run(instance, described(name, BAD, NO_WORSE, strict))
    before = len(History(instance).runs(name))
    found = execute_checks(instance, definitions, "no_worse", "strict_1")
    assert len(History(instance).runs(name)) == before
    (told, _) = evaluations(instance, newest.run_id)
    assert found["no_worse"].passed is told.passed is False
    assert found["no_worse"].metadata["estimate"] == told.metadata["estimate"]
    assert newest.run_id in str(found["no_worse"].description)
    assert (found["strict_1"].passed, found["strict_1"].blocking) == (False, True)


def test_a_bound_that_was_changed_gives_another_verdict_on_the_same_run(memory: DagsterInstance, name: str) -> None:
    run(memory, described(name, GOOD, ENOUGH))
    changed = definitions_of([described(name, BAD, {**ENOUGH, "at_least": 0.9})], registry())
    found = execute_checks(memory, changed, "enough")["enough"]
    assert (found.passed, found.metadata["bound"]) == (False, FloatMetadataValue(0.9))
    assert found.metadata["value"].value == pytest.approx(0.805)


def test_a_run_that_cannot_be_read_any_more_makes_the_check_undecided(memory: DagsterInstance, name: str) -> None:
    import shutil

    strict = {**ENOUGH, "name": "strict", "undecided": "fail"}
    newest = run(memory, described(name, GOOD, ENOUGH, strict))
    shutil.rmtree(Path(memory.storage_directory()) / "crucible" / "runs" / newest.run_id)
    definitions = definitions_of([described(name, GOOD, ENOUGH, strict)], registry())
    found = execute_checks(memory, definitions, "enough", "strict")
    assert (found["enough"].passed, found["enough"].severity) == (False, AssetCheckSeverity.WARN)
    assert f"the newest run, {newest.run_id}, cannot be judged again" in str(found["enough"].description)
    # As in a run: what cannot be decided counts as failed there, but not if there is no run at all.
    assert (found["strict"].passed, found["strict"].severity) == (False, AssetCheckSeverity.ERROR)


def test_the_checks_page_has_the_numbers_of_every_run(instance: DagsterInstance, name: str) -> None:
    for _ in range(2):
        run(instance, described(name, GOOD, ENOUGH))
    key = AssetCheckKey(AssetKey(["crucible", dagster_name(name)]), "enough")
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    values = [one.event.dagster_event.asset_check_evaluation_data.metadata["value"].value for one in records]  # type: ignore[union-attr]
    assert values == [pytest.approx(0.805)] * 2


# --- everything else that reads a run ---------------------------------------------------------------------------------


def test_a_run_that_a_gate_failed_is_resumed_by_judging_it_again(instance: DagsterInstance, name: str) -> None:
    from crucible_core import builtin_registry

    stages = [{"name": "measure", "module": "stages_for_tests:measure", "options": {"value": 0.5}}]
    gate = {"name": "good", "metric": "accuracy", "at_least": 0.9, "blocking": True}
    experiment = experiment_of(*stages, id=name, gates=[gate])
    with pytest.raises(GateFailedError) as raised:
        execute_experiment(experiment, instance=instance)
    failed = raised.value.context.run_id
    with pytest.raises(GateFailedError) as again:
        resume_run(instance, failed, registry=builtin_registry())
    resumed = again.value.context
    assert resumed.run_id != failed
    assert resumed.metrics["accuracy"] == 0.5
    steps = [one.step_key for one in instance.get_run_step_stats(resumed.run_id)]
    assert steps == ["gates"]
    history = History(instance)
    assert history.context(resumed.run_id).metrics["accuracy"] == 0.5
    assert history.run(resumed.run_id).gates == again.value.gates
    replayed = replay_run(instance, failed, registry=builtin_registry())
    assert replayed.is_same
    assert isinstance(replayed.error, GateFailedError)
    assert "does not have `cache: true`" in explain_stage(instance, failed, "measure").verdict


def test_a_run_that_only_judges_again_has_a_report_of_its_own(memory: DagsterInstance, name: str) -> None:
    from crucible_core import builtin_registry

    stages = [{"name": "measure", "module": "stages_for_tests:measure", "options": {"value": 0.5}}, "report"]
    gate = {"name": "good", "metric": "accuracy", "at_least": 0.9, "blocking": True}
    with pytest.raises(GateFailedError) as raised:
        execute_experiment(experiment_of(*stages, id=name, gates=[gate]), instance=memory)
    first = Path(raised.value.context.artifacts["report.html"])
    before = first.read_bytes()
    with pytest.raises(GateFailedError) as again:
        resume_run(memory, raised.value.context.run_id, registry=builtin_registry())
    context = again.value.context
    second = Path(context.artifacts["report.html"])
    assert (first.parent.name, second.parent.name) == (raised.value.context.run_id, context.run_id)
    assert first.read_bytes() == before
    assert context.run_id in second.read_text()
    assert "accuracy is 0.5, not at least 0.9" in second.read_text()


def test_a_stage_may_be_called_gates(memory: DagsterInstance, name: str) -> None:
    stages = [{"name": one, "module": "measure"} for one in ("gates", "gates_")]
    experiment = experiment_of(*stages, id=name, gates=[{"name": "any", "metric": "accuracy", "at_least": 0.1}])
    assert gates_step(experiment) == "gates__"
    assert gates(memory, run(memory, experiment))["any"].status == "passed"


def test_gates_that_dagster_could_not_tell_apart_are_refused() -> None:
    rules = [{**ENOUGH, "name": "a-b"}, {**ENOUGH, "name": "a.b"}]
    with pytest.raises(InvalidExperimentError, match=r"the gates 'a-b' and 'a\.b' would both be the asset check 'a_b'"):
        job_for(described("x", GOOD, *rules), registry())


def test_experiments_whose_names_run_together_have_checks_of_their_own() -> None:
    one = described("digits", GOOD, {**ENOUGH, "name": "svm_accurate"})
    two = described("digits_svm", GOOD, {**ENOUGH, "name": "accurate"})
    definitions = definitions_of([one, two], registry())
    keys = {key.to_user_string() for key in definitions.resolve_asset_graph().asset_check_keys}
    assert keys == {"crucible/digits:svm_accurate", "crucible/digits_svm:accurate"}
