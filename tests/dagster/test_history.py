"""Looking back: pages of runs, one run, tables of metrics, two runs side by side."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
from click.testing import CliRunner
from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    ReexecutionOptions,
    build_reconstructable_job,
    execute_job,
    job,
    op,
)
from stages_for_tests import experiment_of, registry
from upath import UPath

from crucible_bench import adjust_p_values, run_test
from crucible_core import Context, CrucibleError, Experiment, Registry, StageFailedError, load_experiment, stage
from crucible_core.beside import package_of
from crucible_core.values.jsonable import to_json_text
from crucible_dagster import History, execute_experiment, job_for
from crucible_dagster.cli.runs import runs
from crucible_dagster.history.history import Change
from crucible_dagster.history.run_record import launch_tags
from crucible_dagster.history.summaries import STATUSES, MetricChange, RunStatus
from crucible_dagster.store import ContextStore


def run(
    instance: DagsterInstance, *pipeline: str | dict[str, Any], id: str = "tried", known: Registry | None = None
) -> Context:
    experiment = experiment_of(*pipeline, id=id)
    return execute_experiment(experiment, registry=known or registry(), instance=instance)


def fail(instance: DagsterInstance, *pipeline: str | dict[str, Any], id: str = "tried") -> Context:
    with pytest.raises(StageFailedError) as raised:
        run(instance, *pipeline, id=id)
    return raised.value.context


def add_run(instance: DagsterInstance, id: str = "tried", *events: DagsterEventType, **fields: Any) -> str:
    """A run that no process ever executed."""
    fields = {
        "tags": {"crucible/experiment": id},
        "run_id": str(uuid.uuid4()),
        "job_name": id.replace("-", "_"),
        **fields,
    }
    made = instance.add_run(DagsterRun(**fields))
    for event in events:
        instance.handle_run_event(made.run_id, DagsterEvent(event.value, made.job_name))
    return made.run_id


MEASURE = {"name": "measure", "options": {"value": 0.25}}


# --- pages of runs ------------------------------------------------------------------------------------------------


def test_a_run_that_succeeded_is_listed_with_its_numbers(instance: DagsterInstance) -> None:
    context = run(instance, MEASURE, {"name": "add", "options": {"by": 2}})
    (listed,) = History(instance).runs()
    assert (listed.run_id, listed.experiment, listed.status) == (context.run_id, "tried", "succeeded")
    assert listed.metrics == {"accuracy": 0.25, "total": 2.0}
    assert listed.headline == "accuracy = 0.25, total = 2."
    assert listed.launched.how == "python"
    assert listed.launched.by == launch_tags("python")["user"]
    assert listed.started is not None
    assert listed.ended is not None
    assert listed.started.tzinfo is not None
    assert listed.seconds == (listed.ended - listed.started).total_seconds()
    assert abs(datetime.now(UTC) - listed.created) < timedelta(minutes=1)
    with pytest.raises(FrozenInstanceError):
        listed.status = "failed"  # type: ignore[misc]


def test_a_failed_run_is_listed_without_numbers(instance: DagsterInstance) -> None:
    fail(instance, MEASURE, "fail")
    (listed,) = History(instance).runs()
    assert (listed.status, listed.metrics, listed.headline) == ("failed", {}, None)


def test_runs_are_found_by_their_decisions(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    @stage
    def choose(ctx: Context, *, rate: float) -> Context:
        return ctx.decide(f"learning_rate: {rate}", "The LOSS was lowest", alternatives=["adam"])

    def chosen(rate: float) -> str:
        one = experiment_of({"name": "choose", "options": {"rate": rate}})
        return execute_experiment(one, registry=Registry({"choose": choose}), instance=instance).run_id

    made = [chosen(rate) for rate in (0.1, 0.01, 0.1)]
    run(instance, MEASURE)
    history = History(instance)

    def found(text: str, **more: Any) -> list[str]:
        return [one.run_id for one in history.runs(decision=text, **more)]

    assert found("learning_rate: 0.1") == [made[2], made[0]]
    assert found("learning_rate: 0.1", limit=1) == [made[2]]
    assert found("Learning_Rate: 0.1", limit=1, before=made[2]) == [made[0]]
    assert found("loss was") == found("ADAM") == made[::-1]
    assert found("choose") == []

    monkeypatch.setenv("DAGSTER_HOME", instance.root_directory)
    listed = CliRunner().invoke(runs, ["--decision", "0.01", "--json"], catch_exceptions=False)
    assert [one["run_id"] for one in json.loads(listed.stdout)] == [made[1]]


def test_runs_are_listed_newest_first_in_pages(instance: DagsterInstance) -> None:
    made = [add_run(instance, ("one", "two")[index % 2]) for index in range(7)]
    history = History(instance)
    newest = [one.run_id for one in history.runs(limit=3)]
    assert newest == made[:3:-1]
    assert [one.run_id for one in history.runs(limit=3, before=newest[-1])] == made[3:0:-1]
    assert [one.run_id for one in history.runs(limit=3, before=made[1][:12])] == made[:1]
    assert [one.run_id for one in history.runs("two")] == made[5::-2]
    assert [one.run_id for one in history.runs("one", limit=2, before=made[6])] == [made[4], made[2]]
    assert history.experiments() == ("one", "two")


def test_few_experiments_among_many_other_runs_are_found(instance: DagsterInstance) -> None:
    made = []
    for index in range(120):
        add_run(instance, job_name="etl", tags={})
        if index % 60 == 0:
            made.append(add_run(instance))
    assert [one.run_id for one in History(instance).runs()] == made[::-1]
    assert [one.run_id for one in History(instance).runs(limit=1)] == made[:0:-1]


def test_another_experiment_whose_job_has_the_same_name_is_not_mixed_in(instance: DagsterInstance) -> None:
    mine, other = add_run(instance, "a-b"), add_run(instance, "a.b", job_name="a_b")
    add_run(instance, job_name="a_b", tags={})
    assert [one.run_id for one in History(instance).runs("a-b")] == [mine]
    assert [one.run_id for one in History(instance).runs("a.b")] == [other]


def test_each_status_is_told_and_can_be_asked_for(instance: DagsterInstance) -> None:
    start = DagsterEventType.RUN_START
    made: dict[RunStatus, str] = {
        "queued": add_run(instance),
        "running": add_run(instance, "tried", start),
        "failed": add_run(instance, "tried", start, DagsterEventType.RUN_FAILURE),
        "canceled": add_run(instance, "tried", start, DagsterEventType.RUN_CANCELED),
        "succeeded": add_run(instance, "tried", start, DagsterEventType.RUN_SUCCESS),
    }
    history = History(instance)
    for status in get_args(RunStatus):
        (listed,) = history.runs(status=status)
        assert (listed.run_id, listed.status) == (made[status], status)


def test_every_status_of_dagster_is_one_of_ours() -> None:
    assert set(STATUSES) == set(get_args(RunStatus))
    ours = [one for known in STATUSES.values() for one in known]
    assert sorted(one.value for one in ours) == sorted(one.value for one in DagsterRunStatus)


def test_runs_since_a_moment(instance: DagsterInstance) -> None:
    made = DagsterRun(job_name="tried", run_id=str(uuid.uuid4()), tags={"crucible/experiment": "tried"})
    instance.run_storage.add_historical_run(made, datetime.now(UTC) - timedelta(days=3))
    newer = add_run(instance)
    history = History(instance)
    assert [one.run_id for one in history.runs(since=datetime.now(UTC) - timedelta(days=1))] == [newer]
    assert len(history.runs(since=datetime.now() - timedelta(days=5))) == 2  # a local time


def test_what_cannot_be_asked_for_is_refused_with_what_there_is(instance: DagsterInstance) -> None:
    history = History(instance)
    assert history.runs() == ()
    add_run(instance, "digits")
    with pytest.raises(
        CrucibleError, match=r"no run of an experiment 'digit'; did you mean 'digits'.*with runs: digits"
    ):
        history.runs("digit")
    with pytest.raises(CrucibleError, match=r"no status 'succeded'; did you mean 'succeeded'.*canceled, failed"):
        history.runs(status="succeded")  # type: ignore[arg-type]
    with pytest.raises(CrucibleError, match="the limit is 0"):
        history.runs(limit=0)


# --- naming a run -------------------------------------------------------------------------------------------------


def test_a_run_is_named_by_the_first_characters_of_its_id(instance: DagsterInstance) -> None:
    ids = [f"{start}-0000-4000-8000-000000000000" for start in ("abcd1111", "abcd2222", "ef001111")]
    for one in ids:
        add_run(instance, run_id=one)
    history = History(instance)
    assert history.find("ef00") == history.find("EF00") == ids[2]
    assert history.find("abcd2") == ids[1]
    assert history.find(ids[0]) == ids[0]
    with pytest.raises(
        CrucibleError, match=f"2 runs have an id that begins with 'abcd': {ids[1]}, {ids[0]}; give more"
    ):
        history.find("abcd")
    with pytest.raises(
        CrucibleError, match="no run of an experiment has an id that begins with '9999'; the newest: ef001"
    ):
        history.find("9999")
    with pytest.raises(CrucibleError, match="'ef0' is too short for a run id: give at least 4 characters"):
        history.find("ef0")


def test_a_run_of_another_job_is_none_of_ours(instance: DagsterInstance) -> None:
    other = add_run(instance, job_name="etl", tags={})
    with pytest.raises(CrucibleError, match=f"run {other} of job 'etl' is not a run of an experiment"):
        History(instance).run(other)
    with pytest.raises(CrucibleError, match="no run of an experiment has an id that begins with"):
        History(instance).find(other[:8])


# --- one run ------------------------------------------------------------------------------------------------------


def test_everything_about_a_run_that_succeeded(instance: DagsterInstance) -> None:
    context = run(instance, MEASURE, "choose", "odd_values", {"name": "groups", "enabled": False, "options": GROUPS})
    details = History(instance).run(context.run_id[:8])
    assert details.summary == History(instance).runs()[0]
    assert [(one.name, one.outcome) for one in details.stages] == [
        *((name, "succeeded") for name in ("measure", "choose", "odd_values")),
        ("groups", "skipped"),
    ]
    assert details.stages[0].started is not None
    assert details.stages[0].seconds is not None
    assert details.stages[3].note == "enabled: false"
    assert details.metrics == {
        "accuracy": 0.25,
        **{"nan": "NaN", "infinity": "Infinity", "minus": "-Infinity", "pair": [1, 2.5], "none": None},
    }
    assert details.artifacts == {"file": "a/b.bin"}
    assert [one.decision for one in details.decisions] == ["use the small model"]
    assert (details.failure, details.notes) == (None, ())
    assert details.record is not None
    assert details.record.to_experiment() == context.experiment
    assert "use the small model" in to_json_text(details)


GROUPS = {"control": [1.0, 2.0], "treatment": [2.0, 3.0]}


def test_a_failure_is_told_with_its_traceback_and_what_there_was(instance: DagsterInstance) -> None:
    context = fail(instance, MEASURE, "fail")
    history = History(instance)
    details = history.run(context.run_id)
    assert details.failure is not None
    assert details.failure.stage == "fail"
    assert details.failure.reason == "stages_for_tests.Broken: the loss is NaN"
    assert "raise Broken(message)" in (details.failure.traceback or "")
    assert details.metrics == {"accuracy": 0.25}
    assert [one.decision for one in details.decisions] == ["go on"]
    assert [one.outcome for one in details.stages] == ["succeeded", "failed"]
    assert history.context(context.run_id) == context


def test_the_last_context_of_a_run_is_read_back(instance: DagsterInstance) -> None:
    context = run(instance, MEASURE, "choose")
    assert History(instance).context(context.run_id) == context


def test_a_failure_outside_the_stages_is_told_too(instance: DagsterInstance) -> None:
    experiment = experiment_of(MEASURE, "choose")
    job = job_for(experiment, registry())
    config = {"ops": {"choose": {"config": {"times": "several"}}}}
    with pytest.raises(Exception, match="times"):
        job.execute_in_process(instance=instance, run_config=config)
    # What the stage's `check` knows to be wrong is said by the run's first step.
    compared = job_for(experiment_of("bench"), registry())
    done = compared.execute_in_process(
        instance=instance, run_config={"ops": {"bench": {"config": {"data": "nowhere"}}}}, raise_on_error=False
    )
    details = History(instance).run(done.run_id)
    assert details.failure is not None
    assert details.failure.stage is None
    assert "'nowhere' is not one of" in details.failure.reason
    assert details.record is None
    assert any("has no record: its first stage never started" in note for note in details.notes)
    with pytest.raises(CrucibleError, match=r"no step of run .* has finished, so there is no Context"):
        History(instance).context(done.run_id)


def test_a_run_that_never_began_is_told_as_far_as_it_is_known(instance: DagsterInstance) -> None:
    made = add_run(instance)
    details = History(instance).run(made)
    assert (details.stages, details.metrics, details.record, details.failure) == ((), {}, None, None)
    assert len(details.notes) == 2


def test_a_run_whose_context_cannot_be_read_is_told_from_dagsters_storage(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    context = run(instance, MEASURE, "choose")

    class Emptied(ContextStore):
        def load(self, run_id: str, step: str) -> Context:
            raise CrucibleError(f"the store has nothing of step {step}")

    details = History(instance, store=Emptied(UPath(tmp_path))).run(context.run_id)
    assert details.metrics == {"accuracy": 0.25}
    assert [(one.name, one.outcome) for one in details.stages] == [("measure", "succeeded"), ("choose", "succeeded")]
    assert "the store has nothing of step choose" in details.notes
    assert all(one.seconds is not None for one in details.stages)


def test_a_context_of_a_class_beside_the_experiment_file_is_read_back(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    import sys

    folder = tmp_path / "beside"
    folder.mkdir()
    (folder / "beside_stages.py").write_text(
        "from crucible_core import stage\n"
        "class Model:\n    size = 3\n"
        "@stage\ndef fit(ctx):\n    return ctx.assign(model=Model())\n"
    )
    (folder / "e.yaml").write_text("id: tried\npipeline: [{name: fit, module: 'beside_stages:fit'}]\n")
    context = execute_experiment(load_experiment(folder / "e.yaml"), instance=instance)
    del sys.modules[f"{package_of(folder)}.beside_stages"]
    before = sys.path[:]
    assert History(instance).context(context.run_id).assigns["model"].size == 3
    assert sys.path == before


def test_reading_history_imports_no_stage_and_leaves_the_search_path_alone(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    import sys

    folder = tmp_path / "alone"
    folder.mkdir()
    (folder / "stages_alone.py").write_text(
        "from crucible_core import stage\n"
        "class OwnError(Exception):\n    pass\n"
        "@stage\ndef draw(ctx, *, shift: float = 0.0):\n"
        "    groups = {'a': [1.0, 2.0, 3.0, 4.5], 'b': [shift + x for x in (2.0, 1.0, 5.0, 3.0)]}\n"
        "    return ctx.assign(groups=groups).put_metric('n', 8)\n"
        "@stage\ndef fall(ctx):\n    raise OwnError('it fell')\n"
    )
    draw = "{name: draw, module: 'stages_alone:draw', options: {shift: %s}}"
    runs = []
    for shift in (0.0, 0.5):
        (folder / "e.yaml").write_text(
            f"id: alone\npipeline: [{draw % shift}, {{name: bench, options: {{data: assigns.groups}}}}]\n"
        )
        runs.append(execute_experiment(load_experiment(folder / "e.yaml"), instance=instance).run_id)
    (folder / "f.yaml").write_text("id: alone\npipeline: [{name: fall, module: 'stages_alone:fall'}]\n")
    with pytest.raises(StageFailedError) as failed:
        execute_experiment(load_experiment(folder / "f.yaml"), instance=instance)
    alone = f"{package_of(folder)}.stages_alone"
    del sys.modules[alone]
    before = sys.path[:]
    history = History(instance)
    assert [one.run_id for one in history.runs("alone")][::-1] == [*runs, failed.value.context.run_id]
    assert [row["n"] for row in history.metrics("alone", status="succeeded")] == [8, 8]
    assert history.context(runs[0]).assigns["groups"]["a"] == [1.0, 2.0, 3.0, 4.5]
    assert history.run(runs[1]).metrics["n"] == 8
    compared = history.compare(*runs, values=True)
    assert [one.group for one in compared.groups] == ["a", "b"]
    assert compared.groups[1].result is not None
    told = history.run(failed.value.context.run_id).failure
    assert told is not None
    assert told.reason.endswith("it fell")
    assert history.context(failed.value.context.run_id).experiment.id == "alone"
    assert alone not in sys.modules
    assert sys.path == before


def made_again() -> Any:
    return job_for(experiment_of(MEASURE, "choose"), registry())


def test_a_run_that_executes_another_again_names_it(instance: DagsterInstance) -> None:
    rebuilt = build_reconstructable_job("test_history", "made_again")
    first = execute_job(rebuilt, instance)
    options = ReexecutionOptions(parent_run_id=first.run_id, step_selection=["choose"])
    again = execute_job(rebuilt, instance, reexecution_options=options)
    newest, oldest = History(instance).runs()
    assert (newest.run_id, newest.parent, newest.launched.how) == (again.run_id, first.run_id, "re-execution")
    assert oldest.parent is None
    details = History(instance).run(again.run_id)
    assert details.metrics == {"accuracy": 0.25}
    assert newest.metrics == {"accuracy": 0.25}


# --- tables of metrics --------------------------------------------------------------------------------------------


def test_metrics_are_a_table_of_one_row_per_run(instance: DagsterInstance) -> None:
    for value in (0.25, 0.5):
        run(instance, {"name": "measure", "options": {"value": value}}, {"name": "add"})
    fail(instance, MEASURE, "fail")
    run(instance, MEASURE, id="another")
    rows = History(instance).metrics("tried")
    assert [row["status"] for row in rows] == ["failed", "succeeded", "succeeded"]
    assert set(rows[0]) == {"run_id", "started", "status"}
    table = pd.DataFrame(rows).sort_values("started")
    assert list(table.columns) == ["run_id", "started", "status", "accuracy", "total"]
    assert list(table["accuracy"])[:2] == [0.25, 0.5]
    assert pd.isna(list(table["accuracy"])[2])
    assert str(table["started"].dt.tz) == "UTC"
    assert [row["accuracy"] for row in History(instance).metrics("tried", status="succeeded", limit=1)] == [0.5]


def test_a_metric_with_the_name_of_a_column_keeps_both(instance: DagsterInstance) -> None:
    run(instance, {"name": "measure", "options": {"name": "status", "value": 3.0}})
    (row,) = History(instance).metrics("tried")
    assert (row["status"], row["status (metric)"]) == ("succeeded", 3.0)


def test_nested_metrics_and_comparisons_have_dotted_names(instance: DagsterInstance) -> None:
    groups = {"name": "groups", "options": {"control": [1.0, 2.0, 3.0, 4.0], "treatment": [2.0, 3.0, 5.0, 6.0]}}
    run(instance, groups, "bench")
    (row,) = History(instance).metrics("tried")
    assert row["bench.treatment.mean"] == 4.0
    assert {"bench.ttest.p_value", "bench.ttest.estimate"} <= row.keys()


def test_more_runs_than_a_page_are_all_in_the_table(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crucible_dagster.history.history.PAGE", 3)
    monkeypatch.setattr("crucible_dagster.history.history.EVENTS", 2)
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    for value in values:
        run(instance, {"name": "measure", "options": {"value": value}})
    assert [row["accuracy"] for row in History(instance).metrics("tried")] == values[::-1]
    assert [one.metrics["accuracy"] for one in History(instance).runs(limit=5)] == values[:1:-1]


# --- two runs -----------------------------------------------------------------------------------------------------


def test_two_runs_of_one_experiment_differ_in_what_was_changed(instance: DagsterInstance) -> None:
    first = run(instance, MEASURE, "choose")
    second = run(instance, {"name": "measure", "options": {"value": 0.75}}, {"name": "choose", "enabled": False})
    found = History(instance).compare(first.run_id[:8], second.run_id)
    assert (found.a.run_id, found.b.run_id) == (first.run_id, second.run_id)
    assert found.metrics == (MetricChange("accuracy", 0.25, 0.75),)
    assert found.metrics[0].difference == 0.5
    assert found.options == (Change("measure.value", 0.25, 0.75),)
    assert found.experiment == (Change("stage.choose.enabled", None, False),)
    assert (found.code, found.surroundings, found.packages, found.values, found.notes) == ((), (), (), None, ())


def test_a_run_compared_with_itself_differs_in_nothing(instance: DagsterInstance) -> None:
    only = run(instance, MEASURE, "odd_values").run_id
    found = History(instance).compare(only, only, values=True)
    assert all(one.difference == 0 for one in found.metrics)
    assert (found.options, found.experiment, found.code, found.surroundings, found.packages) == ((),) * 5
    assert (found.values, found.notes) == ((), ())


def test_values_are_compared_when_asked(instance: DagsterInstance) -> None:
    first = run(instance, {"name": "assign", "options": {"values": {"same": 1, "other": [1, 2]}}})
    second = run(instance, {"name": "assign", "options": {"values": {"same": 1, "other": [1, 3]}}})
    found = History(instance).compare(first.run_id, second.run_id, values=True)
    assert found.values == ("assigns['other']",)
    assert found.options == (Change("assign.values.other", [1, 2], [1, 3]),)


def test_a_failed_run_is_compared_by_the_metrics_that_it_had(instance: DagsterInstance) -> None:
    first, second = run(instance, MEASURE), fail(instance, MEASURE, "fail")
    found = History(instance).compare(first.run_id, second.run_id)
    assert found.metrics == (MetricChange("accuracy", 0.25, 0.25),)
    assert Change("stages", ["measure"], ["measure", "fail"]) in found.experiment
    assert [one.name for one in found.code] == ["fail"]
    assert found.code[0].a is None


def test_code_that_was_changed_between_two_runs_is_named(instance: DagsterInstance, tmp_path: Path) -> None:
    import sys

    described: Mapping[str, Any] = {"id": "tried", "pipeline": [{"name": "s", "module": "own_stages:s"}]}
    runs = []
    for value in (1, 2):
        source = f"from crucible_core import stage\n@stage\ndef s(ctx):\n    return ctx.put_metric('m', {value})\n"
        (tmp_path / "own_stages.py").write_text(source + "#" * value)
        sys.modules.pop("own_stages", None)
        if str(tmp_path) not in sys.path:
            sys.path.append(str(tmp_path))
        runs.append(execute_experiment(Experiment.model_validate(described), instance=instance).run_id)
    (changed,) = History(instance).compare(*runs).code
    assert changed.name == "s"
    assert changed.a.startswith("own_stages:s ")
    assert changed.a != changed.b


def test_two_runs_of_different_experiments_can_be_compared(instance: DagsterInstance) -> None:
    first, second = run(instance, MEASURE), run(instance, MEASURE, id="another")
    found = History(instance).compare(first.run_id, second.run_id)
    assert Change("id", "tried", "another") in found.experiment


def test_runs_without_a_record_are_compared_as_far_as_they_are_known(instance: DagsterInstance) -> None:
    first, second = run(instance, MEASURE).run_id, add_run(instance)
    found = History(instance).compare(first, second, values=True)
    assert found.metrics == (MetricChange("accuracy", 0.25, None),)
    assert found.metrics[0].difference is None
    assert (found.options, found.values) == ((), None)
    assert any(note.startswith(f"run {second} has no record") for note in found.notes)


def test_history_of_an_instance_with_other_jobs_only_is_empty(instance: DagsterInstance) -> None:
    @op
    def nothing() -> None: ...

    @job
    def other() -> None:
        nothing()

    other.execute_in_process(instance=instance)
    assert History(instance).runs() == ()
    with pytest.raises(CrucibleError, match="no run of an experiment 'other'; experiments with runs: none"):
        History(instance).metrics("other")


# --- groups of two runs -----------------------------------------------------------------------------------------------


def compared(
    instance: DagsterInstance,
    treatment: list[float],
    control: tuple[float, ...] = (1.0, 2.0, 3.0, 4.5, 5.0),
    **options: Any,
) -> Context:
    groups = {"name": "groups", "options": {"control": list(control), "treatment": treatment}}
    return run(instance, groups, {"name": "bench", "options": options}, id="compared")


def test_the_groups_of_two_runs_are_compared_as_the_bench_stage_of_the_later_one_declares(
    instance: DagsterInstance,
) -> None:
    first = [1.2, 2.1, 3.3, 4.4, 5.6]
    second = [3.4, 4.0, 5.5, 6.1, 7.9]
    earlier = compared(instance, first, paired=True, alpha=0.1)
    later = compared(instance, second, paired=True, alpha=0.1)
    changes = {one.group: one for one in History(instance).compare(earlier.run_id, later.run_id).groups}
    assert set(changes) == {"control", "treatment"}
    assert changes["control"].result is None
    assert changes["control"].reason == "every value is the same in both runs"
    found, alone = changes["treatment"].result, run_test("paired_ttest", {"b": second, "a": first}, alpha=0.1)
    assert found is not None
    assert (found.test, found.p_value, found.estimate) == ("paired_ttest", alone.p_value, alone.estimate)
    assert changes["treatment"].p_adjusted == found.p_value  # it is the only comparison that could be made
    assert found.significant


def test_runs_that_do_not_pair_their_values_are_compared_as_independent_and_corrected(
    instance: DagsterInstance,
) -> None:
    earlier = compared(instance, [1.2, 2.1, 3.3, 4.4, 5.6])
    later = compared(instance, [3.4, 4.0, 5.5, 6.1], (1.1, 1.9, 3.2))
    changes = History(instance).compare(earlier.run_id, later.run_id).groups
    tests = [change.result.test for change in changes if change.result]
    assert tests == ["ttest", "ttest"]
    assert [change.p_adjusted for change in changes] == pytest.approx(
        adjust_p_values([change.result.p_value for change in changes if change.result], "holm")
    )
    assert History(instance).compare(earlier.run_id, earlier.run_id).groups == ()
    assert json.loads(json.dumps([change.to_dict() for change in changes]))[0]["group"] == "control"
