"""Trials whose processes are killed at any moment: none is lost or counts twice, and what ended is not run again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import dagster_celery.core_execution_loop as celery_loop
import psutil
import pytest
from celery_workers import Worker, redis_server, wait_until, workers
from dagster import DagsterInstance
from fault_table import ALL_FAULTS
from postgres import dagster_home

from crucible_core import CrucibleError, load_experiment
from crucible_core.trials.log import FolderFiles, TrialLog
from crucible_core.trials.table import seed_of
from crucible_dagster import execute_experiment
from crucible_dagster.execute import celery_executor
from crucible_dagster.rerun.resume import resume_run

CRUCIBLE = Path(sys.executable).with_name("crucible")
TESTS = Path(__file__).parents[1]
ARMS, REPLICATES, SEED = (0.2, 0.5, 0.8), 8, 7
EXPECTED = {(f"bias={arm}", replicate) for arm in ARMS for replicate in range(REPLICATES)}

WAYS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "processes": ({"jobs": 2}, ["--keep", "kept"]),
    "dagster": ({"jobs": 2}, ["--dagster"]),
    "steps": ({"workers": 2}, ["--dagster"]),
    "celery": ({"workers": 2}, ["--dagster"]),
}
EXECUTORS = {"steps": "multiprocess", "celery": "celery"}

# Most without Dagster, whose processes take many times as long to start.
TURNS = ("processes", "dagster", "processes", "steps", "processes")


def experiment(way: str, folder: Path) -> Path:
    stages = [{"name": one, "module": f"trial_stages:{one}"} for one in ("load", "flip", "mark")]
    stages[2]["options"] = {"folder": str(folder), "seconds": 0.05}  # type: ignore[assignment]
    trials = {"grid": {"flip.bias": list(ARMS)}, "replicates": REPLICATES, "measure": "heads", **WAYS[way][0]}
    more = {"execution": {"executor": EXECUTORS[way]}} if way in EXECUTORS else {}
    path = folder / "chaos.json"
    path.write_text(json.dumps({"id": "chaos", "seed": SEED, "pipeline": stages, "trials": trials, **more}))
    return path


def command(way: str, file: Path) -> list[str]:
    return [str(CRUCIBLE), "run", str(file), *WAYS[way][1], "--json"]


def kept(folder: Path, way: str) -> set[tuple[str, int]]:
    return kept_in(folder / "kept" if way == "processes" else folder / ".crucible/dagster/contexts")


def kept_in(base: Path, earlier: Collection[str] = ()) -> set[tuple[str, int]]:
    runs = set(FolderFiles(base).children("trials/chaos")) - set(earlier)
    logs = [TrialLog(FolderFiles(base), "chaos", run) for run in runs]
    return {(row["arm"], row["replicate"]) for log in logs for row in log.own_rows().values()}


def ran(folder: Path) -> Counter[tuple[str, int]]:
    of_seed = {seed_of(SEED, replicate): replicate for replicate in range(REPLICATES)}
    lines = (folder / "ran").read_text().splitlines() if (folder / "ran").exists() else []
    return Counter((f"bias={bias}", of_seed[int(seed)]) for seed, bias in map(str.split, lines))


@contextlib.contextmanager
def running(arguments: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with subprocess.Popen(
        arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


@pytest.mark.parametrize("seed", range(20 if ALL_FAULTS else 3))
@pytest.mark.fault("R3")
def test_a_process_that_is_killed_at_any_moment_costs_no_trial(seed: int, tmp_path: Path) -> None:
    dice, way = random.Random(seed), TURNS[seed % len(TURNS)]
    (tmp_path / "pyproject.toml").touch()
    file = experiment(way, tmp_path)
    enough = dice.randrange(len(EXPECTED))
    killed = ""
    with running(command(way, file), tmp_path) as process:
        main = psutil.Process(process.pid)
        while process.poll() is None and ran(tmp_path).total() < enough:
            time.sleep(0.005)
        time.sleep(dice.random() * 0.05)
        with contextlib.suppress(psutil.NoSuchProcess):
            victim = dice.choice(workers_of(main))
            killed = " ".join(victim.cmdline())[:200]
            victim.kill()
        said, errors = process.communicate(timeout=120)
    done = kept(tmp_path, way)
    before = ran(tmp_path)
    again = subprocess.CompletedProcess([], process.returncode, said, errors)
    if process.returncode != 0:
        with running(command(way, file), tmp_path) as process:
            said, errors = process.communicate(timeout=120)
            again = subprocess.CompletedProcess([], process.returncode, said, errors)
    assert again.returncode == 0, (killed, again.stderr)
    found = json.loads(again.stdout)
    rows = [(row["arm"], row["replicate"]) for row in found["outputs"]]
    assert Counter(rows) == Counter(EXPECTED), killed
    assert all(row["status"] == "succeeded" for row in found["outputs"]), killed
    after = ran(tmp_path)
    assert after.keys() == EXPECTED
    assert {trial: after[trial] for trial in done} == {trial: before[trial] for trial in done}, killed
    # What was running when a process died is run again, also what ran in the other process of the same pool.
    assert sum(after.values()) - len(EXPECTED) <= 2, killed


@pytest.fixture(scope="module")
def celery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DagsterInstance, tuple[Worker, Worker]]]:
    """An instance on this machine, and two of Celery's workers for its steps."""
    folder = tmp_path_factory.mktemp("celery")
    with (
        redis_server(folder) as broker,
        pytest.MonkeyPatch.context() as patch,
        dagster_home(folder / "home", "sqlite") as home,
        DagsterInstance.from_config(str(home)) as instance,
    ):
        for name in (celery_executor.BROKER_VARIABLE, celery_executor.BACKEND_VARIABLE):
            patch.setenv(name, broker.url)
        patch.setenv("DAGSTER_HOME", str(home))
        patch.setattr(celery_loop, "TICK_SECONDS", 0.05)
        patch.setattr(celery_executor, "CHECK_SECONDS", 1.0)
        with workers(folder) as both:
            yield instance, both


@pytest.mark.xdist_group("celery_faults")
@pytest.mark.parametrize("seed", range(3 if ALL_FAULTS else 1))
@pytest.mark.fault("a Celery worker is killed")
def test_a_celery_worker_that_is_killed_at_any_moment_costs_no_trial(
    celery: tuple[DagsterInstance, tuple[Worker, Worker]], seed: int, tmp_path: Path
) -> None:
    instance, both = celery
    dice = random.Random(seed)
    # Both kinds of processes in turn: the one that runs steps, and the one that talks to the broker.
    victim, whole = dice.choice(both), seed % 2 == 1
    enough = dice.randrange(len(EXPECTED))
    described = load_experiment(experiment("celery", tmp_path))
    store = Path(instance.storage_directory()) / "crucible"
    earlier = FolderFiles(store).children("trials/chaos")
    found: list[tuple[set[tuple[str, int]], Counter[tuple[str, int]]]] = []

    def kill() -> None:
        wait_until(lambda: ran(tmp_path).total() >= enough)
        time.sleep(dice.random() * 0.1)
        (victim.main if whole else victim.child).kill()
        found.append((kept_in(store, earlier), ran(tmp_path)))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        ctx = execute_experiment(described, instance=instance)
    except CrucibleError as error:
        # Only if it was no step of trials that its worker ran.
        if "the Celery worker that ran" not in str(error):
            raise
        ctx = resume_run(instance, instance.get_run_records(limit=1)[0].dagster_run.run_id)
    finally:
        killer.join()
        if whole:
            victim.end()
            victim.start()
            victim.wait()
    ((done, before),) = found
    assert Counter((row["arm"], row["replicate"]) for row in ctx.outputs) == Counter(EXPECTED)
    assert all(row["status"] == "succeeded" for row in ctx.outputs)
    after = ran(tmp_path)
    assert after.keys() == EXPECTED
    assert {trial: after[trial] for trial in done} == {trial: before[trial] for trial in done}
    assert sum(after.values()) - len(EXPECTED) <= 1
