"""A stage's earlier result is used again when its code, its options and what it looked at are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import commands
import pytest
from dagster import AssetKey, DagsterEventType, DagsterInstance
from postgres import dagster_home

from crucible_core import Context, Experiment, StageFailedError, StageSucceeded, run_experiment
from crucible_core.report import render_report
from crucible_dagster import execute_experiment
from crucible_dagster.rerun.why import explain_stage
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.objects import object_name
from crucible_dagster.store.retention import collect


@pytest.fixture
def instance(tmp_path: Path) -> Any:
    home = tmp_path / "home"
    home.mkdir()
    with dagster_home(home, "sqlite"), DagsterInstance.from_config(str(home)) as opened:
        yield opened


LARGE = {"name": "prepare", "options": {"size": 5_000}}


def stages(*entries: dict[str, Any], **more: Any) -> Experiment:
    pipeline = [{"module": f"reuse_stages:{entry['name']}", **entry} for entry in entries]
    return Experiment.model_validate({"id": "reuse", "pipeline": pipeline, **more})


def run(instance: DagsterInstance, *entries: dict[str, Any], **how: Any) -> Context:
    return execute_experiment(stages(*entries), instance=instance, **how)


def reused(ctx: Context) -> dict[str, str | None]:
    return {
        name: ending.reused_from for name, ending in ctx.trace.endings.items() if isinstance(ending, StageSucceeded)
    }


PREPARE = {"name": "prepare", "options": {"size": 5}}
TRAIN = {"name": "train", "cache": True, "options": {"rate": 0.5}}
SCORE = {"name": "score", "cache": True}


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_a_result_is_used_again_and_gives_the_same_context(instance: DagsterInstance, executor: Any) -> None:
    first = run(instance, PREPARE, TRAIN, SCORE, executor=executor)
    second = run(instance, PREPARE, TRAIN, SCORE, executor=executor)
    assert reused(first) == {"prepare": None, "train": None, "score": None}
    assert reused(second) == {"prepare": None, "train": first.run_id, "score": first.run_id}
    assert second.differences(first) == ()
    assert second.metrics["trained at"] == first.metrics["trained at"], "it was not run"
    assert [decision.decision for decision in second.trace.decisions] == ["rate 0.5"]
    assert "reused from run " + first.run_id in render_report(second, "markdown")
    shown = instance.get_latest_materialization_event(AssetKey(["crucible", "reuse"])).asset_materialization
    stages_shown = {record.data["stage"]: record.data["note"] for record in shown.metadata["stages"].records}
    assert stages_shown["train"] == "reused from run " + first.run_id[:8], "as narrow as the page's column"
    third = run(instance, PREPARE, TRAIN, SCORE, executor=executor)
    assert reused(third)["train"] == first.run_id, "the run that made it, not the one that used it"


def test_a_different_option_or_input_runs_the_stage_and_those_that_depend_on_it(instance: DagsterInstance) -> None:
    first = run(instance, PREPARE, TRAIN, SCORE)
    changed = run(instance, PREPARE, {**TRAIN, "options": {"rate": 0.25}}, SCORE)
    assert reused(changed) == {"prepare": None, "train": None, "score": None}
    back = run(instance, PREPARE, TRAIN, SCORE)
    assert reused(back) == {"prepare": None, "train": first.run_id, "score": first.run_id}
    larger = run(instance, {"name": "prepare", "options": {"size": 6}}, TRAIN, SCORE)
    assert reused(larger) == {"prepare": None, "train": None, "score": None}


def test_what_a_stage_did_not_look_at_does_not_matter(instance: DagsterInstance) -> None:
    noise = {"name": "noise", "options": {"value": 1}}
    first = run(instance, PREPARE, noise, TRAIN)
    second = run(instance, PREPARE, {**noise, "options": {"value": 2}}, TRAIN)
    assert reused(second)["train"] == first.run_id
    assert second.assigns["noise"] == 2


def test_a_name_that_was_looked_for_and_not_there_is_a_thing_that_was_read(instance: DagsterInstance) -> None:
    asks = {"name": "asks_for_noise", "cache": True}
    first = run(instance, PREPARE, asks)
    assert reused(run(instance, PREPARE, asks))["asks_for_noise"] == first.run_id
    other = run(instance, PREPARE, {"name": "noise", "options": {"value": 1}}, asks)
    assert reused(other)["asks_for_noise"] is None
    assert other.metrics["noise"] == 1


@pytest.mark.parametrize("name", ["lists_names", "counts_outputs", "reads_outputs", "reads_experiment"])
def test_whatever_is_looked_at_counts(instance: DagsterInstance, name: str) -> None:
    entry = {"name": name, "cache": True}
    first = run(instance, PREPARE, entry)
    assert reused(run(instance, PREPARE, entry))[name] == first.run_id
    other = run(instance, PREPARE, {"name": "noise", "options": {"value": 1}}, entry)
    assert reused(other)[name] is None
    assert (
        other.differences(run(instance, PREPARE, {"name": "noise", "options": {"value": 1}}, entry, fresh=True)) == ()
    )


@pytest.mark.parametrize("name", ["reads_run_id", "reads_trace"])
def test_a_stage_that_reads_what_is_new_in_every_run_is_run_and_that_is_said(
    instance: DagsterInstance, name: str
) -> None:
    entry = {"name": name, "cache": True}
    run(instance, PREPARE, entry)
    second = run(instance, PREPARE, entry)
    assert reused(second)[name] is None
    logs = instance.all_logs(second.run_id)
    assert any("cannot be reused: it read ctx." in entry.user_message for entry in logs)
    told = explain_stage(instance, second.run_id, name)
    assert told.verdict == f"{name} was run: it reads ctx.{name[6:]}, which is different in every run"


def test_changes_in_place_are_a_part_of_the_result(instance: DagsterInstance) -> None:
    entry = {"name": "changes_in_place", "cache": True}
    first = run(instance, PREPARE, entry)
    second = run(instance, PREPARE, entry)
    assert reused(second)["changes_in_place"] == first.run_id
    assert second.assigns["data"][-1] == "changed"
    assert second.differences(first) == ()


def test_fresh_runs_every_stage_and_its_results_are_the_ones_used_next(instance: DagsterInstance) -> None:
    run(instance, PREPARE, TRAIN)
    fresh = run(instance, PREPARE, TRAIN, fresh=True)
    assert reused(fresh)["train"] is None
    assert reused(run(instance, PREPARE, TRAIN))["train"] == fresh.run_id
    assert explain_stage(instance, fresh.run_id, "train").verdict == "train was run because of --fresh"


@pytest.mark.fault("code was changed between attempts")
def test_changed_code_runs_the_stage(instance: DagsterInstance, tmp_path: Path) -> None:
    source = "from crucible_core import stage\n\n@stage\ndef one(ctx):\n    return ctx.put_metric('m', 1)\n"
    (tmp_path / "changing.py").write_text(source)
    (tmp_path / "x.yaml").write_text("id: x\npipeline: [{name: one, module: 'changing:one', cache: true}]\n")
    script = (
        "import sys\nfrom crucible_core import load_experiment\nfrom crucible_dagster import execute_experiment\n"
        "from dagster import DagsterInstance\n"
        "with DagsterInstance.from_config(sys.argv[1]) as instance:\n"
        "    ctx = execute_experiment(load_experiment('x.yaml'), instance=instance)\n"
        "    print(ctx.run_id, ctx.metrics['m'], ctx.trace.endings['one'].reused_from)\n"
    )

    def execute() -> list[str]:

        done = subprocess.run(
            [sys.executable, "-c", script, instance.root_directory],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        return done.stdout.split()

    first = execute()
    assert execute()[1:] == ["1", first[0]]
    time.sleep(0.01)
    (tmp_path / "changing.py").write_text(source.replace("'m', 1", "'m', 2"))
    third = execute()
    assert third[1:] == ["2", "None"]
    explanation = explain_stage(instance, third[0], "one")
    assert explanation.verdict.endswith("this is different: code of one in changing.py")


def test_a_failure_is_never_used_again(instance: DagsterInstance, tmp_path: Path) -> None:
    entry = {"name": "fails_once", "cache": True, "options": {"marker": str(tmp_path / "marker")}}
    with pytest.raises(StageFailedError):
        run(instance, PREPARE, entry)
    assert run(instance, PREPARE, entry).metrics["worked"] == 1


def test_a_result_whose_objects_are_gone_is_made_again(instance: DagsterInstance) -> None:
    first = run(instance, LARGE, TRAIN)
    store = open_store(instance)
    for info in list(store.files.list("objects")):
        store.files.delete(info.name)
    second = run(instance, LARGE, TRAIN)
    assert reused(second)["train"] is None
    assert second.differences(run(instance, LARGE, TRAIN)) == ()
    told = explain_stage(instance, second.run_id, "train")
    assert told.compared_with == first.run_id
    assert told.verdict.endswith("the stored result")


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty"])
@pytest.mark.fault("an object is damaged")
def test_a_result_whose_objects_are_damaged_is_made_again(instance: DagsterInstance, how: str) -> None:
    first = run(instance, LARGE, TRAIN)
    store = open_store(instance)
    ((digest, _),) = store.load(first.run_id, "train").assigns.entries()["model"].ref.objects
    path = Path(str(store.base), object_name(digest))
    good = path.read_bytes()
    path.write_bytes({"flipped": bytes([good[0] ^ 1]) + good[1:], "truncated": good[:-1], "empty": b""}[how])
    second = run(instance, LARGE, TRAIN)
    assert reused(second)["train"] is None
    assert path.read_bytes() == good
    said = [entry.user_message for entry in instance.all_logs(second.run_id)]
    assert f"{object_name(digest)} in the context store was damaged and has been written again" in said
    told = explain_stage(instance, second.run_id, "train")
    assert told.verdict.endswith("the stored result")
    assert "damaged" in (told.parts[-1].now or "")
    assert reused(run(instance, LARGE, TRAIN))["train"] == second.run_id


def test_garbage_collection_takes_results_of_old_runs_and_spares_the_rest(instance: DagsterInstance) -> None:
    old = run(instance, LARGE, TRAIN)
    store = open_store(instance)
    base = Path(str(store.base))
    for path in base.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    new = run(instance, {"name": "prepare", "options": {"size": 6_000}}, TRAIN)
    found = collect(instance, days=0, grace=3600)
    assert (found.removed_runs, found.kept_runs, found.deleted) == ((old.run_id,), (new.run_id,), False)
    assert store.has_result(old.run_id, "train")
    done = collect(instance, days=0, grace=3600, delete=True)
    assert done.removed_objects == found.removed_objects > 0
    assert not store.has_result(old.run_id, "train")
    assert store.load(new.run_id, "train").differences(new) == ()
    assert list(store.runs()) == [new.run_id]
    assert reused(run(instance, LARGE, TRAIN))["train"] is None
    assert reused(run(instance, {"name": "prepare", "options": {"size": 6_000}}, TRAIN))["train"] == new.run_id


def test_a_value_that_a_stage_wrote_counts_also_where_it_changed_nothing(instance: DagsterInstance) -> None:
    entry = {"name": "mark_done", "cache": True}
    put = {"name": "put", "module": "stages_for_tests:measure", "options": {"name": "done", "value": 1.0}}
    run(instance, {"name": "first", "module": "reuse_stages:mark_done"}, entry)
    other = run(instance, put, entry)
    assert other.metrics["done"] is True


def test_an_output_that_is_not_there_was_looked_for_too(instance: DagsterInstance) -> None:
    entry = {"name": "peek_at_outputs", "cache": True}
    empty = {"name": "lists_names"}
    assert run(instance, empty, entry).metrics["first"] is False
    assert run(instance, PREPARE, entry).metrics["first"] is True


def test_the_order_of_a_mapping_among_the_options_counts(instance: DagsterInstance) -> None:
    for weights in ({"a": 1, "b": 2}, {"b": 2, "a": 1}):
        entry = {"name": "mapping", "cache": True, "options": {"weights": weights}}
        assert run(instance, entry).metrics["order"] == list(weights)


def test_a_reused_decision_is_that_of_the_entry_that_reuses_it(instance: DagsterInstance) -> None:
    entries = [{**TRAIN, "name": name, "module": "reuse_stages:train"} for name in ("one", "two")]
    ctx = run(instance, PREPARE, entries[0], {**entries[1]})
    assert [decision.stage for decision in ctx.trace.decisions] == ["one", "two"]


def test_what_one_function_made_many_of_is_not_used_again(instance: DagsterInstance) -> None:
    for number, name in ((1, "made_one"), (2, "made_two")):
        entry = {"name": "made", "module": f"reuse_stages:{name}", "cache": True}
        assert run(instance, entry).metrics["made"] == number


def test_a_copy_of_the_context_is_watched_too(instance: DagsterInstance) -> None:
    entry = {"name": "copies_the_context", "cache": True}
    for owner in ("ann", "bob"):
        ctx = execute_experiment(stages(entry, owner=owner), instance=instance)
        assert ctx.metrics["owner"] == owner


@pytest.mark.parametrize("reader", [False, True])
def test_what_is_changed_through_another_value_is_kept_in_one_process(instance: DagsterInstance, reader: bool) -> None:
    look = {"name": "look_at_model", "cache": True}
    entries = [{"name": "share"}, {"name": "change_through_another"}, *([look] if reader else [])]
    ctx = run(instance, *entries)
    assert ctx.differences(run_experiment(stages(*entries))) == ()
    assert run(instance, {"name": "share"}, look).metrics["length"] == 1


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
def test_threads_of_a_stage_see_one_value(instance: DagsterInstance, executor: Any) -> None:
    ctx = run(instance, {"name": "empty_results"}, {"name": "in_threads"}, executor=executor)
    assert sorted(ctx.assigns["results"].values()) == list(range(8))


def test_a_value_that_cannot_be_stored_does_not_hide_why_the_stage_failed(instance: DagsterInstance) -> None:
    with pytest.raises(StageFailedError, match="the reason that counts") as caught:
        run(instance, PREPARE, {"name": "spoils_and_fails"})
    assert caught.value.context.assigns["data"] == list(range(5)), "as it was stored before"
    said = [
        entry.dagster_event.step_failure_data
        for entry in instance.all_logs(caught.value.context.run_id, of_type=DagsterEventType.STEP_FAILURE)
        if entry.dagster_event
    ]
    assert "Not kept in the stored Context: assigns['data']" in str(said)


def test_an_index_that_cannot_be_read_is_no_index(instance: DagsterInstance) -> None:
    base = Path(str(open_store(instance).base))
    base.mkdir(parents=True)
    (base / "reuse").write_text("a file in the place of the folder")
    ctx = run(instance, PREPARE, TRAIN)
    assert ctx.completed_stages == ("prepare", "train")
    assert any(
        "cannot be reused: the store cannot be written to" in entry.user_message
        for entry in instance.all_logs(ctx.run_id)
    )


def test_the_event_log_says_where_the_result_is_from(instance: DagsterInstance) -> None:
    first = run(instance, PREPARE, TRAIN)
    second = run(instance, PREPARE, TRAIN)
    (output,) = [
        entry.dagster_event.step_output_data
        for entry in instance.all_logs(second.run_id, of_type=DagsterEventType.STEP_OUTPUT)
        if entry.dagster_event is not None and entry.step_key == "train"
    ]
    assert output.metadata["reused_from"].value == first.run_id
    assert any(f"reused from run {first.run_id}" in entry.user_message for entry in instance.all_logs(second.run_id))


def test_why_explains_part_by_part(instance: DagsterInstance) -> None:
    first = run(instance, PREPARE, TRAIN)
    explained = explain_stage(instance, first.run_id, "train")
    assert explained.verdict == "train was run: there was no earlier result of this stage of the experiment"
    hit = explain_stage(instance, run(instance, PREPARE, TRAIN).run_id, "train")
    assert hit.reused_from == first.run_id
    assert {part.part: part.verdict for part in hit.parts} == {
        "stage": "same",
        "code": "same",
        "option rate": "same",
        "assigns['data']": "same",
    }
    changed = run(instance, {"name": "prepare", "options": {"size": 4}}, {**TRAIN, "options": {"rate": 0.1}})
    miss = explain_stage(instance, changed.run_id, "train")
    assert miss.compared_with == first.run_id
    assert [part.part for part in miss.parts if part.verdict == "different"] == ["option rate", "assigns['data']"]
    assert miss.verdict.endswith("this is different: rate: 0.5 -> 0.1, assigns['data']: [0,1,2,3,4] -> [0,1,2,3]")
    assert explain_stage(instance, changed.run_id, "prepare").verdict == (
        "prepare was run: its entry in the experiment does not have `cache: true`"
    )


@pytest.mark.parametrize("name", ["reads_file", "reads_a_file_by_name"])
def test_a_file_that_an_option_or_the_code_names_counts_by_its_content(instance: DagsterInstance, name: str) -> None:
    entry: dict[str, Any] = {"name": name, "cache": True}
    if name == "reads_file":
        entry["options"] = {"data": "named.txt"}
    Path("named.txt").write_text("one")
    first = run(instance, entry)
    Path("named.txt").write_text("one")
    assert reused(run(instance, entry))[name] == first.run_id, "written again, and the same"
    Path("named.txt").write_text("two")
    other = run(instance, entry)
    assert (reused(other)[name], other.metrics["read"]) == (None, "two")
    assert explain_stage(instance, other.run_id, name).verdict.endswith("this is different: file named.txt")


def test_a_file_that_the_stage_itself_writes_does_not_count(instance: DagsterInstance) -> None:
    entry = {"name": "writes_file", "cache": True, "options": {"log": "log.txt"}}
    first = run(instance, entry)
    second = run(instance, entry)
    assert (reused(second)["writes_file"], second.metrics["lines"]) == (first.run_id, 1)


def test_an_environment_variable_that_the_code_names_counts_and_its_value_is_not_kept(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"name": "reads_environment", "cache": True}
    read = []
    for value in ("sesame-1", "sesame-1", "sesame-2"):
        monkeypatch.setenv("REUSE_RATE", value)
        read.append(run(instance, entry))
    assert [reused(one)["reads_environment"] for one in read] == [None, read[0].run_id, None]
    told = explain_stage(instance, read[2].run_id, "reads_environment")
    assert told.verdict.endswith("this is different: environment variable REUSE_RATE")
    assert "sesame" not in str(told)


def test_the_code_of_an_object_that_the_stage_read_counts(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reuse_stages

    entries = [{"name": "make_net"}, {"name": "score_net", "cache": True}]
    first = run(instance, *entries)
    assert reused(run(instance, *entries))["score_net"] == first.run_id
    monkeypatch.setattr(reuse_stages.Net, "score", lambda self: self.weight * 5)
    changed = run(instance, *entries)
    assert (reused(changed)["score_net"], changed.metrics["score"]) == (None, 15.0)


BESIDE = """
from crucible_core import Context, stage
from helpers import Net, rate


@stage
def make(ctx: Context) -> Context:
    return ctx.assign(net=Net())


@stage
def one(ctx: Context) -> Context:
    return ctx.put_metric("one", rate())


@stage
def two(ctx: Context) -> Context:
    import helpers

    return ctx.put_metric("two", helpers.rate())


@stage
def three(ctx: Context) -> Context:
    return ctx.put_metric("three", ctx.assigns["net"].score())


@stage
def four(ctx: Context) -> Context:
    import later

    return ctx.put_metric("four", later.VALUE)
"""
HELPERS = """
def rate(): return {rate}
class Net:
    def score(self): return {score}
"""


def test_modules_beside_the_experiment_file_are_followed(instance: DagsterInstance, tmp_path: Path) -> None:
    folder = tmp_path / "beside"
    folder.mkdir()
    (folder / "stages.py").write_text(BESIDE)
    (folder / "later.py").write_text("VALUE = 1")
    entries = ", ".join(
        f"{{name: {name}, module: 'stages:{name}', cache: true}}" for name in ("one", "two", "three", "four")
    )
    (folder / "x.yaml").write_text(f"id: x\npipeline: [{{name: make, module: 'stages:make'}}, {entries}]\n")
    script = (
        "import sys, json\nfrom crucible_core import load_experiment\nfrom crucible_dagster import execute_experiment\n"
        "from dagster import DagsterInstance\n"
        "with DagsterInstance.from_config(sys.argv[1]) as instance:\n"
        "    ctx = execute_experiment(load_experiment(sys.argv[2]), instance=instance)\n"
        "    ends = {name: bool(end.reused_from) for name, end in ctx.trace.endings.items()}\n"
        "    print(json.dumps([ends, dict(ctx.metrics), ctx.run_id]))\n"
    )

    def execute(rate: int, score: int) -> Any:
        helpers = folder / "helpers.py"
        written = helpers.stat().st_mtime if helpers.exists() else time.time()
        helpers.write_text(HELPERS.format(rate=rate, score=score))
        # Python takes what it compiled if size and second are the same.
        os.utime(helpers, (written + 2, written + 2))
        done = commands.python("-c", script, instance.root_directory, str(folder / "x.yaml"))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    execute(1, 10)
    ends, _, run_id = execute(1, 10)
    assert ends == {"make": False, "one": True, "two": True, "three": True, "four": False}
    told = explain_stage(instance, run_id, "four").verdict
    assert told.endswith("nothing is reused, because it imports later inside a function of stages.py")
    ends, metrics, _ = execute(1, 20)
    assert (ends["one"], ends["two"], ends["three"], metrics["three"]) == (True, False, False, 20), (
        "two takes all of it"
    )
    ends, metrics, _ = execute(2, 20)
    assert (ends["one"], ends["three"], metrics["one"], metrics["two"]) == (False, True, 2, 2)
