"""Going on with runs where they stopped, and running them again: on SQLite and on PostgreSQL, on every executor."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import commands
import pytest
from click.testing import CliRunner
from dagster import DagsterInstance, DagsterRunStatus, ReexecutionOptions, execute_job

from crucible_core import (
    CrucibleError,
    Experiment,
    InvalidExperimentError,
    RunInterrupted,
    StageFailedError,
    builtin_registry,
    run_experiment,
)
from crucible_core.cli import main
from crucible_dagster import execute_experiment
from crucible_dagster.automation.ticks import what_became_of
from crucible_dagster.execution import job_in_processes
from crucible_dagster.history.history import History
from crucible_dagster.rerun.replay import replay_run
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.objects import object_name
from crucible_dagster.store.retention import collect
from crucible_dagster.tags import LOCATION_TAG, SCHEDULE_NAME_TAG, TICK_TAG

EXECUTORS = ["in_process", "multiprocess"]


def stages(*entries: dict[str, Any], **more: Any) -> Experiment:
    pipeline = [{"module": f"stages_for_tests:{entry['name']}", **entry} for entry in entries]
    return Experiment.model_validate({"id": "again", "pipeline": pipeline, **more})


def flaky(folder: Path, **more: Any) -> Experiment:
    """Fails at its second stage the first time it runs."""
    return stages(
        {"name": "record", "options": {"outputs": [{"id": 1}]}},
        {"name": "fail_until", "options": {"counter": str(folder / "counter"), "succeed_at": 2}},
        {"name": "choose"},
        {"name": "add", "options": {"by": 2.0}},
        **more,
    )


def fail(experiment: Experiment, instance: DagsterInstance, **how: Any) -> str:
    with pytest.raises(StageFailedError) as caught:
        execute_experiment(experiment, instance=instance, **how)
    return caught.value.context.run_id


def steps_of(instance: DagsterInstance, run_id: str) -> set[str]:
    return {entry.step_key for entry in instance.all_logs(run_id) if entry.step_key and entry.dagster_event}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_failed_run_goes_on_at_the_stage_that_failed(
    instance: DagsterInstance, tmp_path: Path, executor: Any
) -> None:
    experiment = flaky(tmp_path)
    failed = fail(experiment, instance, executor=executor)
    resumed = resume_run(instance, failed[:8])
    (tmp_path / "counter").write_text("x")
    undisturbed = run_experiment(experiment)
    assert resumed.differences(undisturbed) == ()
    assert resumed.run_id != failed
    assert steps_of(instance, resumed.run_id) == {"fail_until", "choose", "add"}
    run = instance.get_run_by_id(resumed.run_id)
    assert run is not None
    assert (run.parent_run_id, run.status) == (failed, DagsterRunStatus.SUCCESS)
    assert ("multiprocess" in str(run.run_config)) == (executor == "multiprocess")


def test_what_the_event_log_knows_is_enough_for_dagster_s_own_reexecution(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    """The button of the UI and the retries of the daemon go the same way."""
    experiment = flaky(tmp_path)
    failed = fail(experiment, instance)
    with job_in_processes(experiment, builtin_registry(), ()) as job:
        again = execute_job(job, instance, reexecution_options=ReexecutionOptions.from_failure(failed, instance))
    assert again.success
    assert steps_of(instance, again.run_id) == {"fail_until", "choose", "add"}
    assert open_store(instance).load(again.run_id, "add").metrics == {"attempt": 2, "total": 2.0}


def test_a_tick_whose_run_failed_and_was_resumed_is_that_of_the_resumed_run(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    midnight = datetime(2026, 5, 4, tzinfo=UTC)
    of_tick = {SCHEDULE_NAME_TAG: "nightly", TICK_TAG: midnight.isoformat(), LOCATION_TAG: "lab:__repository__"}
    failed = fail(flaky(tmp_path), instance, tags=of_tick)
    resumed = resume_run(instance, failed)
    runs = [instance.get_run_by_id(one) for one in (failed, resumed.run_id)]
    assert [{tag: run.tags[tag] for tag in of_tick} for run in runs if run is not None] == [of_tick, of_tick]
    tick = what_became_of(midnight, [run for run in runs if run is not None], None)
    assert (tick.outcome, tick.run_id, tick.run_status) == ("run", resumed.run_id, "succeeded")


def test_a_run_can_be_resumed_more_than_once(instance: DagsterInstance, tmp_path: Path) -> None:
    counter = str(tmp_path / "counter")
    experiment = stages(
        {"name": "measure"}, {"name": "fail_until", "options": {"counter": counter, "succeed_at": 4}}, {"name": "add"}
    )
    run_id = fail(experiment, instance)
    for _ in range(2):
        with pytest.raises(StageFailedError) as caught:
            resume_run(instance, run_id)
        run_id = caught.value.context.run_id
    resumed = resume_run(instance, run_id)
    assert resumed.metrics == {"accuracy": 0.5, "attempt": 4, "total": 1.0}
    assert resumed.completed_stages == ("measure", "fail_until", "add")
    assert steps_of(instance, resumed.run_id) == {"fail_until", "add"}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_options_of_stages_without_a_result_can_be_changed(
    instance: DagsterInstance, tmp_path: Path, executor: Any
) -> None:
    failed = fail(flaky(tmp_path), instance, executor=executor)
    resumed = resume_run(instance, failed, override=lambda one: one.with_options("add", {"by": 5.0}))
    assert resumed.metrics["total"] == 5.0
    assert resumed.experiment.pipeline[3].options == {"by": 5.0}
    record = History(instance).record(resumed.run_id)
    assert record is not None
    assert record.to_experiment() == resumed.experiment
    run = instance.get_run_by_id(resumed.run_id)
    assert run is not None
    assert run.run_config["ops"] == {"add": {"config": {"by": 5.0}}}


def test_options_of_a_stage_with_a_result_cannot(instance: DagsterInstance, tmp_path: Path) -> None:
    failed = fail(flaky(tmp_path), instance)
    with pytest.raises(InvalidExperimentError, match=rf"stage 'record' has a result in run {failed}, so its options"):
        resume_run(instance, failed, override=lambda one: one.with_options("record", {"outputs": []}))
    with pytest.raises(InvalidExperimentError, match=r"option 'bye': unknown|bye"):
        resume_run(instance, failed, override=lambda one: one.with_options("add", {"bye": 1}))
    resume_run(instance, failed)


def test_the_options_that_the_run_was_launched_with_are_those_it_goes_on_with(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    with job_in_processes(flaky(tmp_path), builtin_registry(), ()) as job:
        failed = execute_job(job, instance, run_config={"ops": {"add": {"config": {"by": 7.0}}}})
    assert resume_run(instance, failed.run_id).metrics["total"] == 7.0


def test_a_run_that_needs_no_resuming_says_so(instance: DagsterInstance) -> None:
    done = execute_experiment(stages({"name": "measure"}), instance=instance)
    with pytest.raises(CrucibleError, match="succeeded; there is nothing to resume"):
        resume_run(instance, done.run_id)
    with pytest.raises(CrucibleError, match="no run of an experiment has an id that begins with"):
        resume_run(instance, "ffffffff")


def test_a_run_that_is_at_work_is_not_taken_over(instance: DagsterInstance, tmp_path: Path) -> None:
    failed = fail(flaky(tmp_path), instance)
    run = instance.get_run_by_id(failed)
    assert run is not None
    other = instance.create_run_for_job(
        job_def=_job(flaky(tmp_path)), run_config={}, tags=dict(run.tags), status=DagsterRunStatus.STARTED
    )
    record = open_store(instance).run_record(failed)
    assert record is not None
    mine = {**json.loads(record), "run_id": other.run_id}
    open_store(instance).put_run_record(other.run_id, json.dumps(mine))
    with pytest.raises(CrucibleError, match=rf"is started according to Dagster, and its process .* {os.getpid()} "):
        resume_run(instance, other.run_id)


def _job(experiment: Experiment) -> Any:
    with job_in_processes(experiment, builtin_registry(), ()) as job:
        return job.get_definition()


def test_an_interrupted_run_goes_on(instance: DagsterInstance, tmp_path: Path) -> None:
    experiment = stages({"name": "measure"}, {"name": "interrupt"}, {"name": "add"})
    with pytest.raises(RunInterrupted) as caught:
        execute_experiment(experiment, instance=instance)
    with pytest.raises(RunInterrupted) as again:
        resume_run(instance, caught.value.context.run_id)
    assert steps_of(instance, again.value.context.run_id) == {"interrupt"}
    assert again.value.context.metrics == {"accuracy": 0.5}


def test_a_replay_says_of_every_result_whether_it_is_the_same(instance: DagsterInstance, tmp_path: Path) -> None:
    ran = execute_experiment(
        stages({"name": "measure"}, {"name": "assign", "options": {"values": {"xs": [1, 2]}}}, {"name": "choose"}),
        instance=instance,
    )
    found = replay_run(instance, ran.run_id)
    assert found.is_same
    assert {one.name: one.verdict for one in found.results} == {
        "metrics['accuracy']": "same digest",
        "assigns['xs']": "same digest",
        "outputs": "same digest",
        "decisions": "equal",
        "stages": "equal",
    }
    assert found.changed_code == ()
    (tmp_path / "counter").write_text("x")
    again = execute_experiment(flaky(tmp_path), instance=instance)
    found = replay_run(instance, again.run_id)
    assert {one.name: one.verdict for one in found.results}["metrics['attempt']"] == "different"
    assert not found.is_same


def test_a_replay_of_a_run_that_failed_fails_in_the_same_place(instance: DagsterInstance) -> None:
    failed = fail(stages({"name": "measure"}, {"name": "fail"}), instance)
    found = replay_run(instance, failed)
    assert found.is_same
    assert found.error is not None
    assert found.error.stage == "fail"


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


def crucible(*arguments: str) -> Any:
    return CliRunner().invoke(main, arguments)


def write(experiment: Experiment) -> str:
    Path("again.json").write_text(experiment.to_json())
    return "again.json"


def test_resume_on_the_command_line(home: Path, tmp_path: Path) -> None:
    file = write(flaky(tmp_path))
    failed = crucible("run", file, "--dagster")
    assert failed.exit_code == 1
    assert "to continue from there: crucible resume " in failed.output
    (run_id,) = [run["run_id"] for run in json.loads(crucible("runs", "--json").stdout)]
    wrong = crucible("resume", run_id, "--set", "record.outputs=[]")
    assert (wrong.exit_code, "has a result in run" in wrong.output) == (2, True)
    unknown = crucible("resume", run_id, "--set", "ad.by=3")
    assert (unknown.exit_code, "did you mean 'add'?" in unknown.output) == (2, True)
    resumed = crucible("resume", run_id[:8], "--set", "add.by=3", "--json")
    assert resumed.exit_code == 0, resumed.output
    assert json.loads(resumed.stdout)["metrics"]["total"] == 3.0
    done = crucible("resume", json.loads(resumed.stdout)["run_id"])
    assert (done.exit_code, "there is nothing to resume" in done.output) == (2, True)


def test_replay_and_why_on_the_command_line(home: Path, tmp_path: Path) -> None:
    file = write(stages({"name": "measure", "cache": True}, {"name": "choose"}))
    first = json.loads(crucible("run", file, "--dagster", "--json").stdout)["run_id"]
    second = crucible("run", file, "--dagster")
    assert f"reused from run {first}" in second.output
    replayed = crucible("replay", first[:8])
    assert replayed.exit_code == 0
    assert "every result is the same as in run" in replayed.output
    told = json.loads(crucible("replay", first, "--json").stdout)
    assert told["same"] is True
    newest = json.loads(crucible("runs", "--json").stdout)[0]["run_id"]
    why = crucible("why", newest, "measure")
    assert why.exit_code == 0
    assert f"measure was reused from run {first}" in why.output
    assert json.loads(crucible("why", newest, "measure", "--json").stdout)["reused_from"] == first
    wrong = crucible("why", newest, "measur")
    assert (wrong.exit_code, "did you mean 'measure'?" in wrong.output) == (2, True)
    fresh = crucible("run", file, "--dagster", "--fresh")
    assert "reused" not in fresh.output
    assert crucible("run", file, "--fresh").exit_code == 2


def test_the_store_is_looked_after_on_the_command_line(home: Path, tmp_path: Path) -> None:
    file = write(stages({"name": "assign", "options": {"values": {"xs": list(range(2_000))}}}))
    run_id = json.loads(crucible("run", file, "--dagster", "--json").stdout)["run_id"]
    assert "no problems" in crucible("store", "verify").output
    dry = crucible("store", "gc", "--days", "0")
    assert "0 runs, 0 objects, 0 bytes would be removed" in dry.output, "what is new is spared"
    store = home / "storage" / "crucible"
    for path in store.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert crucible("store", "pin", run_id[:8]).exit_code == 0
    assert json.loads(crucible("store", "gc", "--days", "0", "--json").stdout)["kept_runs"] == [run_id]
    assert crucible("store", "unpin", run_id).exit_code == 0
    listed = crucible("store", "gc", "--days", "0").output
    (line,) = [line for line in listed.splitlines() if run_id[:8] in line]
    assert line.split()[1:3] == ["again", "success"]
    found = json.loads(crucible("store", "gc", "--days", "0", "--delete", "--json").stdout)
    assert (found["removed_runs"], found["deleted"]) == ([run_id], True)
    assert not list((store / "objects").rglob("*")) or not any(p.is_file() for p in (store / "objects").rglob("*"))
    assert "removed from the context store" in crucible("resume", run_id).output
    (store / "objects" / "ab").mkdir(parents=True)
    (store / "objects" / "ab" / ("c" * 62)).write_text("not what its name says")
    broken = crucible("store", "verify")
    assert broken.exit_code == 1
    assert f"objects/ab/{'c' * 62} is damaged" in broken.output


def old(store: Path) -> Path:
    """The store, as it will be in some months."""
    for path in store.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return store


def test_garbage_collection_from_another_instance_removes_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    monkeypatch.setenv("CRUCIBLE_STORE", str(shared))
    file = write(stages({"name": "assign", "options": {"values": {"xs": list(range(2_000))}}}))
    ours = json.loads(crucible("run", file, "--dagster", "--json").stdout)["run_id"]
    assert crucible("store", "pin", ours).exit_code == 0
    before = {path for path in old(shared).rglob("*") if path.is_file()}
    other = tmp_path / "other"
    other.mkdir()
    (other / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(other))
    refused = crucible("store", "gc", "--days", "0", "--delete")
    assert refused.exit_code == 2
    for said in (f"{shared} has 1 runs", f"instance of {other} knows none", f"belongs to the instance of {home}"):
        assert said in " ".join(refused.output.split())
    assert {path for path in shared.rglob("*") if path.is_file()} == before
    # Both use it: each removes its own runs and leaves those of the other alone.
    theirs = json.loads(crucible("run", file, "--dagster", "--json").stdout)["run_id"]
    old(shared)
    found = json.loads(crucible("store", "gc", "--days", "0", "--delete", "--json").stdout)
    assert (found["removed_runs"], found["kept_runs"]) == ([theirs], [ours])
    assert before <= {path for path in shared.rglob("*") if path.is_file()}


def test_a_run_that_dagster_has_forgotten_is_removed_when_its_files_are_old(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    gone, kept = (execute_experiment(stages({"name": "choose"}), instance=instance).run_id for _ in range(2))
    old(Path(str(open_store(instance).base)))
    instance.delete_run(gone)
    assert collect(instance, days=1).removed_runs == (gone,)
    instance.delete_run(kept)
    with pytest.raises(CrucibleError, match="knows none of them"):
        collect(instance, days=1, delete=True)


EDITED = """
from pathlib import Path
from crucible_core import Context, stage


def made() -> int:
    return {value}


@stage
def first(ctx: Context) -> Context:
    return ctx.put_metric("made", made())


@stage
def second(ctx: Context) -> Context:
    {fix}
    return ctx.put_metric("seen", ctx.metrics["made"])
"""


def run_crucible(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which imports the code as it is now."""
    return commands.crucible(*arguments)


@pytest.mark.fault("code was changed between attempts")
def test_a_resumed_run_records_the_code_that_made_each_result(home: Path, tmp_path: Path) -> None:
    Path("edited_stages.py").write_text(EDITED.format(value=1, fix="raise OSError('no disk')"))
    Path("edited.yaml").write_text(
        "id: edited\npipeline: [{name: first, module: 'edited_stages:first', cache: true}, "
        "{name: second, module: 'edited_stages:second'}]\n"
    )
    assert run_crucible("run", "edited.yaml", "--dagster").returncode == 1
    (failed,) = json.loads(crucible("runs", "--json").stdout)
    Path("edited_stages.py").write_text(EDITED.format(value=1, fix="pass"))
    resumed = run_crucible("resume", failed["run_id"], "--json")
    assert (resumed.returncode, "warning" in resumed.stderr) == (0, False), "only the stage that runs was changed"
    Path("edited_stages.py").write_text(EDITED.format(value=20, fix="pass"))
    again = run_crucible("resume", failed["run_id"], "--json")
    said = f"warning: stage 'first' keeps its result of run {failed['run_id']}, although its code has changed since"
    assert (again.returncode, said in again.stderr) == (0, True)
    done = json.loads(resumed.stdout)["run_id"]
    twice = f"warning: run {failed['run_id']} was resumed before, by run {done} (success); this starts one more run"
    assert twice in again.stderr
    found = json.loads(again.stdout)
    assert found["metrics"]["seen"] == 1
    then, now = (json.loads(crucible("show", run, "--json").stdout) for run in (failed["run_id"], found["run_id"]))
    kept, own = now["record"]["stages"]
    assert kept == {**then["record"]["stages"][0], "from_run": failed["run_id"]}
    assert (own["from_run"], own["code_hash"] != then["record"]["stages"][1]["code_hash"]) == (None, True)
    assert now["stages"][0]["note"] == f"from run {failed['run_id']}"
    assert f"from run {failed['run_id'][:8]}" in crucible("show", found["run_id"]).output
    assert any("keeps its result" in line for line in log_of(home, found["run_id"]))
    replayed = json.loads(run_crucible("replay", found["run_id"], "--json").stdout)
    assert (replayed["same"], replayed["changed_code"]) == (False, ["first"])
    why = crucible("why", found["run_id"], "first").output
    assert f"was not run: its result is that of run {failed['run_id']}" in " ".join(why.split())


def log_of(home: Path, run_id: str) -> list[str]:
    with DagsterInstance.from_config(str(home)) as opened:
        return [entry.user_message for entry in opened.all_logs(run_id)]


def test_a_run_whose_kept_result_is_damaged_is_not_resumed(instance: DagsterInstance, tmp_path: Path) -> None:
    large = {"name": "assign", "options": {"values": {"xs": list(range(2_000))}}}
    fails = {"name": "fail_until", "options": {"counter": str(tmp_path / "counter"), "succeed_at": 2}}
    run_id = fail(stages(large, fails), instance)
    store = open_store(instance)
    ((digest, _),) = store.load(run_id, "assign").assigns.entries()["xs"].ref.objects
    name = object_name(digest)
    path = Path(str(store.base), name)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    with pytest.raises(CrucibleError, match=f"cannot be resumed; run the experiment again: .*{name}.* is damaged"):
        resume_run(instance, run_id)
