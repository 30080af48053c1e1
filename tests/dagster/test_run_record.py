"""What is recorded of a run: code, options, git, packages, seeds, and who launched it."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, ReexecutionOptions, build_reconstructable_job, execute_job
from pydantic import SecretStr
from stages_for_tests import Train, experiment_of, measure, registry

from crucible_core import Context, CrucibleError, Experiment, Registry, Stage, load_experiment, plan_experiment, stage
from crucible_dagster import execute_experiment, job_for
from crucible_dagster.history.environment import GitState, git_state
from crucible_dagster.history.run_record import Launch, RunRecord, launch_of, launch_tags, read_run_record, record_run
from crucible_dagster.history.source_identity import stage_identity
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.tags import LAUNCHED_BY_TAG, USER_TAG


def module(name: str, source: str) -> Any:
    Path(f"{name}.py").write_text(source)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    importlib.invalidate_caches()
    return importlib.import_module(name)


def git(*arguments: str) -> None:
    settings = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *settings, *arguments], check=True, capture_output=True)


def record_of(experiment: Experiment, known: Registry | None = None, **tags: str) -> RunRecord:
    planned = plan_experiment(experiment, known or registry())
    run = DagsterRun(job_name="tried", run_id="7a8b8b7e-0000-4000-8000-000000000000", tags=tags)
    return record_run(experiment, planned, [one.name for one in planned], run)


# --- code ---------------------------------------------------------------------------------------------------------


PLAIN = """\
from crucible_core import Stage

class Plain(Stage):
    x: int = 1

    def run(self, ctx):
        return ctx
"""


def test_a_stage_is_named_by_module_and_class_and_hashed_by_the_source_of_its_module() -> None:
    name, digest = stage_identity(module("plain", PLAIN).Plain)
    assert name == "plain:Plain"
    assert digest == hashlib.sha256(f"plain\0{len(PLAIN)}\0{PLAIN}".encode()).hexdigest()


def test_another_source_has_another_hash() -> None:
    first = stage_identity(module("plain", PLAIN).Plain)[1]
    del sys.modules["plain"]
    assert stage_identity(module("plain", PLAIN + "# changed\n").Plain)[1] != first


def test_the_source_of_a_base_class_in_another_module_counts() -> None:
    derived = "import plain\nclass Derived(plain.Plain):\n    pass\n"
    module("plain", PLAIN)
    first = stage_identity(module("derived", derived).Derived)[1]
    del sys.modules["plain"], sys.modules["derived"]
    module("plain", PLAIN + "# changed\n")
    assert stage_identity(module("derived", derived).Derived)[1] != first


def test_the_source_of_a_mixin_counts() -> None:
    mixed = (
        "import mixin\nfrom crucible_core import Stage\nclass Mixed({}):\n    def run(self, ctx):\n        return ctx\n"
    )
    hashes = set()
    for bases in ("mixin.Mixin, Stage", "Stage, mixin.Mixin"):
        for more in ("", "# changed\n"):
            for name in ("mixin", "mixed"):
                sys.modules.pop(name, None)
            module("mixin", "class Mixin:\n    pass\n" + more)
            hashes.add(stage_identity(module("mixed", mixed.format(bases)).Mixed)[1])
    assert len(hashes) == 4


def test_a_function_stage_is_hashed_by_the_module_of_its_function() -> None:
    functions = "def work(ctx):\n    return ctx\n"
    made = "import functions\nfrom crucible_core import stage\nmade = stage(functions.work)\n"
    module("functions", functions)
    name, first = stage_identity(module("made", made).made)
    assert name == "functions:work"
    del sys.modules["functions"], sys.modules["made"]
    module("functions", functions + "# changed\n")
    assert stage_identity(module("made", made).made)[1] != first
    assert stage_identity(measure)[0] == "stages_for_tests:measure"


def test_a_class_without_source_has_no_hash() -> None:
    namespace: dict[str, Any] = {"__name__": "nowhere"}
    exec(PLAIN, namespace)
    assert stage_identity(namespace["Plain"]) == ("nowhere:Plain", None)


def test_the_identity_of_a_class_is_found_once() -> None:
    first = stage_identity(Train)
    started = time.perf_counter()
    for _ in range(1_000):
        assert stage_identity(Train) == first
    assert time.perf_counter() - started < 0.1


# --- the record ---------------------------------------------------------------------------------------------------


class Keeps(Stage):
    """Has a secret."""

    key: SecretStr = SecretStr("hidden")
    ratio: float = float("inf")
    seed: int = 5

    def run(self, ctx: Context) -> Context:
        return ctx


def test_all_options_are_recorded_with_their_defaults() -> None:
    record = record_of(
        experiment_of({"name": "train", "options": {"epochs": 3}}, {"name": "measure", "enabled": False})
    )
    train, measured = record.stages
    assert train.options == {
        "epochs": 3,
        "optimizer": {"kind": "adam", "learning_rate": 0.1},
        "seeds": [0],
    }
    assert (measured.enabled, measured.stage) == (False, "stages_for_tests:measure")
    assert train.source_hash == measured.source_hash is not None


def test_secrets_are_masked_seeds_are_found_and_strange_numbers_are_text() -> None:
    record = record_of(experiment_of("keeps"), Registry({"keeps": Keeps}))
    assert record.stages[0].options == {"key": "**********", "ratio": "Infinity", "seed": 5}
    assert record.seeds == {"keeps": 5}


def test_environment_variables_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUCIBLE_TEST_TOKEN", "very-secret-value")
    assert "very-secret-value" not in record_of(experiment_of("measure")).to_json()


def test_a_record_survives_its_json_and_what_newer_versions_add() -> None:
    record = record_of(experiment_of("measure"))
    assert read_run_record(record.to_json()) == record
    newer = json.loads(record.to_json())
    newer["added_later"] = newer["stages"][0]["added_later"] = 1
    assert read_run_record(json.dumps(newer)) == record
    assert record.to_experiment() == experiment_of("measure")


def test_a_record_of_another_format_is_refused() -> None:
    newer = json.loads(record_of(experiment_of("measure")).to_json()) | {"format_version": 2}
    with pytest.raises(CrucibleError, match="has format 2, and this version of crucible reads format 1; upgrade"):
        read_run_record(json.dumps(newer))
    with pytest.raises(CrucibleError, match="the run record cannot be read"):
        read_run_record("{")


def test_packages_are_those_of_the_stages_and_those_that_numbers_depend_on() -> None:
    record = record_of(experiment_of("measure"))
    assert {"crucible-dagster", "dagster", "pydantic", "numpy", "scipy"} <= record.packages.keys()
    assert "click" not in record.packages
    click = importlib.import_module("click")
    elsewhere = stage(lambda ctx: ctx)
    elsewhere.__module__ = click.__name__
    assert "click" in record_of(experiment_of("s"), Registry({"s": elsewhere})).packages


def test_a_record_after_the_first_takes_less_than_ten_milliseconds() -> None:
    planned = plan_experiment(experiment := experiment_of("measure", "choose"), registry())
    run = DagsterRun(job_name="tried", run_id="7a8b8b7e-0000-4000-8000-000000000000")
    times = []
    for _ in range(21):
        started = time.perf_counter()
        record_run(experiment, planned, ["measure", "choose"], run).to_json()
        times.append(time.perf_counter() - started)
    assert sorted(times)[10] < 0.01


def test_the_record_of_a_run_holds_the_options_of_run_config(tmp_path: Path) -> None:
    Path("mine.yaml").write_text("id: tried\npipeline:\n  - {name: measure, module: 'stages_for_tests:measure'}\n")
    with DagsterInstance.ephemeral() as instance:
        job = job_for(load_experiment("mine.yaml"), registry())
        config = {"ops": {"measure": {"config": {"value": 0.75}}}}
        run_id = job.execute_in_process(instance=instance, run_config=config).run_id
        text = open_store(instance).run_record(run_id)
    assert text is not None
    record = read_run_record(text)
    assert record.run_id == run_id
    assert record.experiment["pipeline"][0]["options"] == {"value": 0.75}
    assert record.stages[0].options == {"name": "accuracy", "value": 0.75}
    assert record.source == str(tmp_path / "mine.yaml")
    assert record.launched == Launch(how="dagster")


def test_the_first_record_of_a_run_stays() -> None:
    with DagsterInstance.ephemeral() as instance:
        store = open_store(instance)
        assert store.run_record("run-1") is None
        store.put_run_record("run-1", "first")
        store.put_run_record("run-1", "second")
        assert store.run_record("run-1") == "first"


# --- git ----------------------------------------------------------------------------------------------------------


def test_outside_a_repository_there_is_no_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "missing") is None


def test_without_git_there_is_no_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git("init", "-b", "main")
    git("commit", "--allow-empty", "-m", "first")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


def test_a_repository_without_a_commit_has_no_git_state(tmp_path: Path) -> None:
    git("init", "-b", "main")
    assert git_state(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "dirty"),
    [("", False), ("untracked", False), ("modified", True), ("staged", True), ("deleted", True)],
)
def test_a_commit_is_dirty_when_files_that_git_knows_differ(tmp_path: Path, change: str, dirty: bool) -> None:
    git("init", "-b", "trunk")
    Path("file name").write_text("a")
    git("add", ".")
    git("commit", "-m", "first")
    match change:
        case "untracked":
            Path("other").write_text("b")
        case "modified":
            Path("file name").write_text("c")
        case "staged":
            Path("new").write_text("c")
            git("add", "new")
        case "deleted":
            Path("file name").unlink()
    Path("below").mkdir()
    state = git_state(tmp_path / "below")
    assert state is not None
    assert (len(state.commit), state.branch, state.dirty) == (40, "trunk", dirty)


def test_a_detached_head_has_no_branch(tmp_path: Path) -> None:
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    git("checkout", "--detach")
    state = git_state(tmp_path)
    assert state == GitState(commit=state.commit if state else "", branch=None, dirty=False)


def test_a_hook_of_another_repository_does_not_mislead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git("init", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert git_state(tmp_path) is None


def test_no_program_of_a_repositorys_own_settings_is_run(tmp_path: Path) -> None:
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    hook = tmp_path / "monitor"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    hook.chmod(0o755)
    git("config", "core.fsmonitor", str(hook))
    assert git_state(tmp_path) is not None
    assert not (tmp_path / "was-run").exists()


# --- the launch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "launched"),
    [
        ({}, Launch(how="dagster")),
        ({"dagster/from_ui": "true"}, Launch(how="ui")),
        ({"dagster/schedule_name": "nightly"}, Launch(how="schedule", name="nightly")),
        ({"dagster/sensor_name": "watch", "dagster/run_key": "1"}, Launch(how="sensor", name="watch")),
        ({"dagster/backfill": "abc", "dagster/from_ui": "true"}, Launch(how="backfill", name="abc")),
        ({USER_TAG: "ann", "dagster/from_ui": "true"}, Launch(how="ui", by="ann")),
        ({LAUNCHED_BY_TAG: "cli", USER_TAG: "ann"}, Launch(how="cli", by="ann")),
        ({LAUNCHED_BY_TAG: "something else"}, Launch(how="dagster")),
    ],
)
def test_who_launched_a_run_is_read_from_its_tags(tags: Mapping[str, str], launched: Launch) -> None:
    assert launch_of(DagsterRun(job_name="tried", run_id="a", tags=tags)) == launched


def test_a_run_that_executes_another_again_was_not_launched_as_that_one() -> None:
    copied = {
        "dagster/parent_run_id": "p",
        "dagster/root_run_id": "p",
        "dagster/schedule_name": "nightly",
        USER_TAG: "ann",
    }
    run = DagsterRun(job_name="tried", run_id="a", parent_run_id="p", root_run_id="p", tags=copied)
    assert launch_of(run) == Launch(how="re-execution", parent="p")
    retried = run.with_tags({**copied, "dagster/retry_number": "1"})
    assert launch_of(retried) == Launch(how="retry", parent="p")


def test_runs_that_this_package_launches_say_so(instance: DagsterInstance) -> None:
    for way in ("python", "cli"):
        context = execute_experiment(experiment_of("measure"), registry=registry(), instance=instance, launched_by=way)
        run = instance.get_run_by_id(context.run_id)
        assert run is not None
        assert launch_of(run) == Launch(how=way, by=launch_tags("cli")[USER_TAG])
        record = read_run_record(str(open_store(instance).run_record(context.run_id)))
        assert record.launched == launch_of(run)


def reexecuted() -> Any:
    return job_for(experiment_of("measure", "choose"), registry())


def test_a_re_execution_records_its_parent(instance: DagsterInstance) -> None:
    job = build_reconstructable_job("test_run_record", "reexecuted")
    first = execute_job(job, instance)
    assert first.success
    options = ReexecutionOptions(parent_run_id=first.run_id, step_selection=["choose"])
    again = execute_job(job, instance, reexecution_options=options)
    assert again.success
    record = read_run_record(str(open_store(instance).run_record(again.run_id)))
    assert record.launched == Launch(how="re-execution", parent=first.run_id)
    assert [one.name for one in record.stages] == ["measure", "choose"]
