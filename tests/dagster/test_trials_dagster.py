"""Trials on Dagster: the same rows as without it, each trial run once, whatever dies."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from dagster import DagsterError, DagsterInstance, JobDefinition
from upath import UPath

from crucible_core import Context, CrucibleError, Experiment, GateFailedError, load_experiment, run_experiment
from crucible_core.cli import main
from crucible_core.ir.registration import registration_of
from crucible_core.report import headline
from crucible_core.trials.log import TrialLog, _writers
from crucible_core.trials.table import seed_of
from crucible_dagster import History, execute_experiment, job_for
from crucible_dagster.execute.failures import RefusedConfigError
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store import ContextStore
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.retention import collect

SEED = 42


@pytest.fixture(scope="module")
def storage() -> str:
    """Nothing here depends on where Dagster keeps its events."""
    return "sqlite"


@pytest.fixture(scope="module")
def instance(open_instance: Callable[[], AbstractContextManager[DagsterInstance]]) -> Iterator[DagsterInstance]:
    with open_instance() as opened:
        yield opened


def experiment(folder: Path, trials: Mapping[str, Any] | None = None, **options: Any) -> Experiment:
    stages = ("load", "flip", "mark")
    pipeline: list[dict[str, Any]] = [{"name": one, "module": f"trial_stages:{one}"} for one in stages]
    pipeline[2]["options"] = {"folder": str(folder), **options}
    # A sweep of its own: trials that an earlier test has kept would not be run.
    pipeline[1]["options"] = {"n": 50 + sum(map(ord, folder.parent.name)) % 50}
    return Experiment.model_validate(
        {
            "id": "flips",
            "seed": SEED,
            "pipeline": [*pipeline, {"name": "bench"}, {"name": "report"}],
            "trials": {
                "grid": {"flip.bias": [0.3, 0.6]},
                "replicates": 6,
                "measure": "heads",
                "baseline": {"flip.bias": 0.3},
                "workers": 2,
                **(trials or {}),
            },
        }
    )


def ran(folder: Path) -> list[str]:
    return (folder / "ran").read_text().splitlines()


def rows(ctx: Context) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in ctx.outputs]


@pytest.fixture
def marks(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


@pytest.mark.parametrize("executor", ["in_process", "multiprocess"])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_result_is_that_of_a_direct_run(
    instance: DagsterInstance, marks: Callable[[str], Path], executor: Any, workers: int
) -> None:
    folder = marks(f"{executor}{workers}")
    asked = experiment(folder, {"workers": workers})
    dagster = execute_experiment(asked, instance=instance, executor=executor)
    assert len(ran(folder)) == 12
    direct = run_experiment(asked)
    assert rows(dagster) == rows(direct)
    assert dagster.metrics == direct.metrics
    assert [one.decision for one in dagster.trace.decisions] == [one.decision for one in direct.trace.decisions]
    assert all(row["length"] == 5 for row in rows(dagster))


@pytest.mark.parametrize("workers", [1, 2])
def test_replicates_are_added_on_dagster_as_without_it(
    instance: DagsterInstance, marks: Callable[[str], Path], workers: int
) -> None:
    folder = marks(f"until{workers}")
    asked = experiment(folder, {"workers": workers, "replicates": 3, "until": {"width": 0.2, "at_most": 40}})
    dagster = execute_experiment(asked, instance=instance)
    direct = run_experiment(asked)
    assert len(ran(folder)) == 2 * len(direct.outputs)
    assert 6 < len(direct.outputs) < 80
    assert rows(dagster) == rows(direct)
    assert [one.decision for one in dagster.trace.decisions] == [one.decision for one in direct.trace.decisions]
    execute_experiment(asked, instance=instance)
    assert len(ran(folder)) == 2 * len(direct.outputs)


def test_a_search_on_dagster_chooses_the_arms_that_it_chooses_without_it(
    instance: DagsterInstance, marks: Callable[[str], Path]
) -> None:
    folder = marks("search")
    space = {"flip.bias": {"low": 0.1, "high": 0.9}, "flip.n": [20, 50]}
    table = {"search": {"budget": 12, "batch": 4, "space": space}, "replicates": 2, "measure": "heads", "workers": 2}
    asked = Experiment.model_validate({**experiment(folder).to_dict(), "trials": table})
    dagster = execute_experiment(asked, instance=instance)
    direct = run_experiment(asked)
    assert len(ran(folder)) == 48
    assert len(rows(direct)) == 24
    assert rows(dagster) == rows(direct)
    execute_experiment(asked, instance=instance)
    assert len(ran(folder)) == 48


def test_what_another_run_has_is_not_run_again(instance: DagsterInstance, marks: Callable[[str], Path]) -> None:
    folder = marks("again")
    first = execute_experiment(experiment(folder), instance=instance)
    more = execute_experiment(experiment(folder, {"replicates": 8}), instance=instance)
    assert len(ran(folder)) == 16
    assert rows(more)[:12] == rows(first)
    assert "12 of 16 trials were not run again" in [one.decision for one in more.trace.decisions]
    fresh = execute_experiment(experiment(folder), instance=instance, fresh=True)
    assert len(ran(folder)) == 28
    assert rows(fresh) == rows(first)
    assert not [one for one in fresh.trace.decisions if "not run again" in one.decision]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_process_that_dies_loses_no_trial_and_none_is_run_twice(
    instance: DagsterInstance, marks: Callable[[str], Path], workers: int
) -> None:
    folder = marks(f"dies{workers}")
    asked = experiment(folder, {"workers": workers}, kill=seed_of(SEED, 3))
    with pytest.raises(CrucibleError, match="failed outside its stages"):
        execute_experiment(asked, instance=instance, executor="multiprocess")
    before = ran(folder)
    assert (folder / "killed").exists()
    assert 6 <= len(before) < 12
    resumed = resume_run(instance, instance.get_run_records(limit=1)[0].dagster_run.run_id)
    assert sorted(ran(folder)) == sorted({*ran(folder)})
    assert len(ran(folder)) == 12
    assert resumed.metrics["trials"]["succeeded"] == 12


def test_processes_of_a_worker_that_die_are_made_again(instance: DagsterInstance, marks: Callable[[str], Path]) -> None:
    folder = marks("loky")
    asked = experiment(folder, {"jobs": 2}, kill=seed_of(SEED, 3))
    ctx = execute_experiment(asked, instance=instance)
    assert ctx.metrics["trials"]["succeeded"] == 12
    assert len(ran(folder)) == 12


def test_a_locked_run_is_as_locked_on_dagster_too_and_its_record_has_the_lock(
    instance: DagsterInstance, marks: Callable[[str], Path], tmp_path: Path
) -> None:
    file = tmp_path / "flips.yaml"
    file.write_text(experiment(marks("locked")).to_json())
    file = file.rename(tmp_path / "flips.json")
    assert CliRunner().invoke(main, ["lock", str(file)]).exit_code == 0
    direct = run_experiment(load_experiment(file))
    ctx = execute_experiment(load_experiment(file), instance=instance)
    assert ctx.experiment == direct.experiment
    assert headline(ctx) == headline(direct)
    record = History(instance).record(ctx.run_id)
    registration = registration_of(record.to_experiment())
    assert registration is not None
    assert registration.changes == ()
    config = {"ops": {"trials": {"config": {"replicates": 4}}}}
    result = job(load_experiment(file)).execute_in_process(run_config=config, instance=instance)
    changed = open_store(instance).load(result.run_id, "report")
    assert headline(changed).startswith("Exploratory: ")
    assert "trials.replicates: locked 6, now 4" in headline(changed)


def test_a_trial_that_fails_fails_the_run_after_its_report(
    instance: DagsterInstance, marks: Callable[[str], Path]
) -> None:
    folder = marks("fails")
    with pytest.raises(GateFailedError, match=r"trials.failed is 2, not at most 0") as failed:
        execute_experiment(experiment(folder, fail=seed_of(SEED, 1)), instance=instance)
    ctx = failed.value.context
    assert "2 of 12 trials failed" in Path(ctx.artifacts["report.markdown"]).read_text()
    assert ctx.metrics["bench"]["groups"]["bias=0.3"]["n"] == 5


def test_the_trials_of_a_run_are_listed(
    instance: DagsterInstance, marks: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", instance.root_directory)
    bad = seed_of(SEED, 1)
    with pytest.raises(GateFailedError) as failed:
        execute_experiment(experiment(marks("listed"), fail=bad), instance=instance)
    run_id = failed.value.context.run_id
    assert History(instance).trials(run_id) == list(failed.value.context.outputs)

    def said(*options: str) -> str:
        done = CliRunner().invoke(main, ["trials", run_id[:8], *options])
        assert done.exit_code == 0, done.output
        return done.output

    assert said("--failed").splitlines()[1].split()[:3] == ["bias=0.3", "0.3", "1"]
    assert f"RuntimeError: seed {bad} does not work" in said("--failed")
    assert len(json.loads(said("--json"))) == 12
    (header, *lines) = list(csv.reader(io.StringIO(said("--csv"))))
    assert header[:6] == ["arm", "flip.bias", "replicate", "seed", "status", "seconds"]
    assert len(lines) == 12


def test_the_trials_of_a_run_that_was_killed_are_those_that_ended(
    instance: DagsterInstance, marks: Callable[[str], Path]
) -> None:
    folder = marks("half")
    asked = experiment(folder, {"workers": 1}, kill=seed_of(SEED, 3))
    with pytest.raises(CrucibleError):
        execute_experiment(asked, instance=instance, executor="multiprocess")
    run_id = instance.get_run_records(limit=1)[0].dagster_run.run_id
    assert len(History(instance).trials(run_id)) == len(ran(folder)) == 6


@pytest.mark.parametrize("kind", ["file", "memory", "s3"])
def test_the_log_is_put_together_in_every_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    bases = {"file": str(tmp_path), "memory": f"memory://{uuid4()}"}
    base = UPath(bases.get(kind) or f"{request.getfixturevalue('s3')}/{uuid4()}")
    log = TrialLog(ContextStore(base).files, "flips", "run-1")
    keys = [f"{number}" for number in range(6)]
    for key in keys:
        _writers.clear()
        log.keep(key, {"status": "succeeded"})
    before = log.rows(keys)
    assert all(before.values())
    log.compact()
    assert len(ContextStore(base).files.children("trials/flips/run-1")) == 1
    assert log.rows(keys) == TrialLog(ContextStore(base).files, "flips", "run-1").rows(keys) == before


def test_a_store_on_s3_finds_what_another_process_has_written_since_it_looked(s3: str) -> None:
    here, elsewhere = (
        ContextStore(UPath(f"{s3}/listed{os.getpid()}", skip_instance_cache=skip)).files for skip in (False, True)
    )
    here.append("trials/flips/run-1/a", b"1 {}\n")
    assert here.children("trials/flips/run-1") == ["a"]
    elsewhere.append("trials/flips/run-1/b", b"2 {}\n")
    assert here.children("trials/flips/run-1") == ["a", "b"]


def test_the_trials_of_a_run_are_removed_with_it(
    open_instance: Callable[[], AbstractContextManager[DagsterInstance]], marks: Callable[[str], Path]
) -> None:
    folder = marks("removed")
    with open_instance() as own:
        old = execute_experiment(experiment(folder), instance=own)
        store = open_store(own)
        for path in Path(str(store.base)).rglob("*"):
            os.utime(path, (1_000_000_000, 1_000_000_000))
        new = execute_experiment(experiment(folder, {"replicates": 7}), instance=own)
        assert len(ran(folder)) == 14
        assert sorted(store.files.children("trials/flips")) == sorted([old.run_id, new.run_id])
        assert collect(own, days=0, grace=3600).removed_runs == (old.run_id,)
        assert len(store.files.children("trials/flips")) == 2
        collect(own, days=0, grace=3600, delete=True)
        assert store.files.children("trials/flips") == [new.run_id]
        execute_experiment(experiment(folder, {"replicates": 7}), instance=own)
        assert len(ran(folder)) == 26


def job(asked: Experiment) -> JobDefinition:
    return job_for(asked)


def test_replicates_arms_and_jobs_are_settings_of_the_run(
    instance: DagsterInstance, marks: Callable[[str], Path]
) -> None:
    folder = marks("launchpad")
    asked = experiment(folder)
    config = {"ops": {"trials": {"config": {"replicates": 3, "grid": {"flip.bias": [0.3, 0.6, 0.9]}, "workers": 1}}}}
    result = job(asked).execute_in_process(run_config=config, instance=instance)
    ctx = open_store(instance).load(result.run_id, "trials")
    assert ctx.metrics["trials"]["count"] == 9
    assert len(ran(folder)) == 9
    for wrong in ({"replicates": 0}, {"jobs": "many"}, {"grid": {"flip.bios": [1]}}, {"workers": 40}):
        with pytest.raises(DagsterError):
            job(asked).execute_in_process(run_config={"ops": {"trials": {"config": wrong}}}, instance=instance)


@pytest.mark.parametrize(
    "config",
    [
        {"stages": [{"name": "flip", "module": "os:system"}]},
        {"engine": {"kind": "dask", "address": "tcp://elsewhere:8786"}},
    ],
)
def test_a_run_cannot_choose_what_is_imported_or_where_it_is_sent(
    instance: DagsterInstance, marks: Callable[[str], Path], config: Mapping[str, Any]
) -> None:
    asked = job(experiment(marks("refused")))
    (name,) = config
    with pytest.raises(
        RefusedConfigError, match=f"stage 'trials': {name!r} is set in the experiment file, not for one"
    ):
        asked.execute_in_process(run_config={"ops": {"trials": {"config": config}}}, instance=instance)


def test_the_events_of_a_run_do_not_grow_with_its_trials(
    instance: DagsterInstance, marks: Callable[[str], Path]
) -> None:
    def events(name: str, replicates: int) -> int:
        ctx = execute_experiment(experiment(marks(name), {"replicates": replicates}), instance=instance)
        return sum(1 for entry in instance.all_logs(ctx.run_id) if entry.is_dagster_event)

    few, many = events("few", 6), events("many", 300)
    assert few == many
    assert many < 100 + 10 * 2
