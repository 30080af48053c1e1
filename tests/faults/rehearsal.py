"""A rehearsal on the services of `make up`: each is killed, the database is away, all is stopped and started again.

`make rehearsal` prints what it did and what was then so; it takes about four minutes, and ends with 1 if anything is
not as it must be. An experiment is scheduled every minute meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from local_services import LocalServices, environment_of_services

OUTAGE = 40

STAGES = """
import time
from pathlib import Path
from crucible_core import Context, stage

@stage
def work(ctx: Context, *, marks: str) -> Context:
    time.sleep(5)
    with (Path(marks) / "work").open("a") as file:
        file.write(ctx.run_id + "\\n")
    return ctx.put_metric("worked", 1)

@stage
def finish(ctx: Context) -> Context:
    time.sleep(2)
    return ctx.put_metric("finished", 1)
"""
EXPERIMENT = """
id: nightly
pipeline:
  - {{name: work, module: "rehearsed_stages:work", options: {{marks: {marks}}}}}
  - {{name: finish, module: "rehearsed_stages:finish"}}
schedule: {{cron: "* * * * *", default_status: running, missed: all, max_catch_up: 30}}
"""


class Rehearsal(LocalServices):
    """The services in a folder of their own, and what was said so far."""

    def __init__(self, folder: Path) -> None:
        experiments = folder / "experiments"
        super().__init__(folder, environment_of_services(experiments, "rehearsed_stages"))
        self.began, self.wrong = time.monotonic(), 0
        self.marks = folder / "marks"
        experiments.mkdir()
        self.marks.mkdir()
        (experiments / "rehearsed_stages.py").write_text(STAGES)
        (experiments / "nightly.yaml").write_text(EXPERIMENT.format(marks=self.marks))

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:5.0f} s  {text}", flush=True)

    def check(self, holds: bool, text: str) -> None:
        self.wrong += not holds
        self.say(text if holds else f"WRONG: {text}")

    def wait(self, happened: Callable[[], bool], what: str, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
            time.sleep(1)

    def well(self) -> None:
        """Wait until every service is well."""
        self.wait(lambda: set(self.states().values()) <= {"well", "done"}, "every service to be well")

    def worked(self) -> list[str]:
        """The run ids for which the first stage was executed to its end."""
        file = self.marks / "work"
        return file.read_text().split() if file.exists() else []

    def runs(self) -> list[dict[str, Any]]:
        """What `crucible runs` says of each run of the experiment."""
        said = self.crucible("runs", "nightly", "--limit", "200", "--json")
        if said.returncode != 0:
            raise RuntimeError(said.stderr)
        found: list[dict[str, Any]] = json.loads(said.stdout)
        return found


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="crucible-rehearsal-"))
    rehearsal = Rehearsal(folder)
    try:
        rehearse(rehearsal)
    finally:
        rehearsal.command("down")
        if rehearsal.wrong:
            print(f"the logs stay in {folder}/logs")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if rehearsal.wrong else 0


def rehearse(one: Rehearsal) -> None:
    started = one.command("up")
    one.check(started.returncode == 0, "make up")
    one.wait(lambda: len(one.worked()) > 0, "the first tick")
    for name, pid in one.pids().items():
        os.kill(pid, signal.SIGKILL)
        one.wait(partial(has_ended, pid), f"the end of {name}")
        one.well()
        one.say(f"kill -9 of {name}: all is well again")
    worker = running_worker(one)
    os.kill(worker, signal.SIGKILL)
    one.say("kill -9 of a run's process, in its first stage")
    one.supervisor("stop", "database")
    time.sleep(OUTAGE)
    one.supervisor("start", "database")
    one.well()
    one.say(f"PostgreSQL away for {OUTAGE} s: all is well again")
    before = len(one.worked())
    one.wait(lambda: len(one.worked()) > before, "a run after the outage")
    one.say("another tick has been run")
    one.check(one.command("down").returncode == 0, "make down")
    one.check(one.command("up").returncode == 0, "make up")
    ended = {"succeeded", "failed", "canceled"}
    one.wait(lambda: {run["status"] for run in one.runs()} <= ended, "every run to end", 400)
    judge(one)


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def running_worker(one: Rehearsal) -> int:
    """The process of a run that is in its first stage."""
    found: list[int] = []

    def begun() -> bool:
        server = psutil.Process(one.pids()["code-server"])
        found[:] = [child.pid for child in server.children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
        return bool(found)

    one.wait(begun, "a run in flight")
    time.sleep(3)
    return found[0]


def judge(one: Rehearsal) -> None:
    runs = one.runs()
    states = Counter(run["status"] for run in runs)
    one.check(states["succeeded"] > 1, ", ".join(f"{number} runs {state}" for state, number in sorted(states.items())))
    listed = json.loads(one.crucible("ticks", "nightly.yaml", "--limit", "200", "--json").stdout)["ticks"]
    missed = sum(tick["outcome"] == "missed" for tick in listed)
    one.check(missed == 0, f"{missed} of {len(listed)} ticks missed")
    first = [run for run in runs if run["launched"]["how"] == "schedule" and run["parent"] is None]
    one.check(len(first) <= len(listed), f"{len(first)} runs for {len(listed)} ticks, retries not counted")
    again = {run["parent"] for run in runs}
    lost = [run["run_id"] for run in runs if run["status"] == "failed" and run["run_id"] not in again]
    one.check(not lost, f"{len(lost)} failed runs that were not retried")
    twice = [run for run, number in Counter(one.worked()).items() if number > 1]
    one.check(not twice, f"{len(twice)} runs in which a stage was executed twice")
    unread = [
        one_of
        for one_of in runs
        if one_of["status"] == "succeeded" and one.crucible("show", one_of["run_id"]).returncode
    ]
    one.check(not unread, f"{len(unread)} runs that succeeded whose result cannot be read")
    doctor = one.crucible("doctor", "--deep")
    one.check(doctor.returncode == 0, "crucible doctor --deep")
    print("\n".join(f"           {line}" for line in (doctor.stdout + doctor.stderr).splitlines()))


if __name__ == "__main__":
    sys.exit(main())
