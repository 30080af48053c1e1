"""Trials whose processes are killed at any moment: none is lost or counts twice, and what ended is not run again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from crucible_core.trials.log import FolderFiles, TrialLog
from crucible_core.trials.table import seed_of

CRUCIBLE = Path(sys.executable).with_name("crucible")
TESTS = Path(__file__).parents[1]
ARMS, REPLICATES, SEED = (0.2, 0.5, 0.8), 8, 7
EXPECTED = {(f"bias={arm}", replicate) for arm in ARMS for replicate in range(REPLICATES)}

WAYS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "processes": ({"jobs": 2}, ["--keep", "kept"]),
    "dagster": ({"jobs": 2}, ["--dagster"]),
    "steps": ({"workers": 2}, ["--dagster"]),
}

# Most without Dagster, whose processes take many times as long to start.
TURNS = ("processes", "dagster", "processes", "steps", "processes")


def experiment(way: str, folder: Path) -> Path:
    stages = [{"name": one, "module": f"trial_stages:{one}"} for one in ("load", "flip", "mark")]
    stages[2]["options"] = {"folder": str(folder), "seconds": 0.05}  # type: ignore[assignment]
    trials = {"grid": {"flip.bias": list(ARMS)}, "replicates": REPLICATES, "measure": "heads", **WAYS[way][0]}
    more = {"execution": {"executor": "multiprocess"}} if way == "steps" else {}
    path = folder / "chaos.json"
    path.write_text(json.dumps({"id": "chaos", "seed": SEED, "pipeline": stages, "trials": trials, **more}))
    return path


def command(way: str, file: Path) -> list[str]:
    return [str(CRUCIBLE), "run", str(file), *WAYS[way][1], "--json"]


def kept(folder: Path, way: str) -> set[tuple[str, int]]:
    base = folder / "kept" if way == "processes" else folder / ".crucible/dagster/contexts"
    runs = FolderFiles(base).children("trials/chaos")
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


@pytest.mark.parametrize("seed", range(20))
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
