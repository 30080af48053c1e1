"""Kills, cuts, damages, cancels, resumes and collects at random, and then checks every promise.

    python tests/faults/chaos.py --seeds 1 2 3 --seconds 60

The services are those of `make up`, with two daemons of which one works, and with shorter intervals: what is killed is
started again by their supervisor. What is done follows from the seed; the moments are those of the machine. Exits with
1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
import yaml
from chaos_stages import expected_sum
from children import PATH
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from local_services import ROOT, LocalServices, environment_of_services
from postgres import environment_of
from ruamel.yaml import YAML
from scheduler import switch_off, switch_on
from services import Jobs, command_of, inner_servers

from crucible_core import CrucibleError, Experiment, RunInterrupted, load_experiment
from crucible_dagster import History
from crucible_dagster.automation.ticks import find_state, ticks_of
from crucible_dagster.names import root_of
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store import StoreError
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.objects import object_name
from crucible_dagster.store.retention import collect, pin
from crucible_dagster.tags import SUPERSEDED_TAG, TICK_TAG

__all__ = ["Chaos", "chaos"]

CHAIN = ("draw", "think", "add")
SILENCE = 8.0
CALM = 600.0
"""Seconds after which every run has ended, far above what it takes on a machine that does nothing else."""
IN_FLIGHT = 4
SERVICES = ("webserver", "viewer", "proxy", "daemon-1", "daemon-2")
"""Those that no run depends on."""

ENDS_WITHIN = 180.0
"""Seconds for a process that is to end: a start of Dagster may take half a minute on a machine that does much else."""


@dataclass
class Seen:
    """What a process of a service had, now and then."""

    pid: int
    megabytes: float
    files: int


class Chaos:
    """One seed: what is done, and what is found."""

    def __init__(self, seed: int, seconds: float, folder: Path, say: Callable[[str], None]) -> None:
        self.seed, self.seconds, self.folder = seed, seconds, folder
        self.dice = random.Random(seed)
        self.say = say
        self.did: Counter[str] = Counter()
        self.checked: dict[str, str] = {}
        self.broken: list[str] = []
        self.damaged: set[str] = set()
        self.pinned: set[str] = set()
        self.collected: set[str] = set()
        self.seeds: dict[str, int] = {}
        """Of the roots of the chains."""
        self.seen: dict[str, list[Seen]] = defaultdict(list)
        self._stop = threading.Event()

    # --- what there is ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start everything, disturb it for so many seconds, let it come to rest, and check. Nothing outlives it."""
        with ExitStack() as stack:
            self._set_up(stack)
            self._disturb()
            self._rest()
            self._check()

    def _set_up(self, stack: ExitStack) -> None:
        self.marks, self.experiments = self.folder / "marks", self.folder / "experiments"
        for folder in (self.marks, self.experiments):
            folder.mkdir()
        self._write("minutely", ["tick"], schedule={"cron": "* * * * *", "missed": "all", "max_catch_up": 5})
        self._write("chain", CHAIN)
        environment = environment_of_services(
            self.experiments,
            "chaos_stages",
            CRUCIBLE_GRACE_PERIOD="60s",
            PYTHONPATH=os.pathsep.join([str(ROOT), PATH]),
        )
        self.services = LocalServices(self.folder, environment, self._deploy())
        stack.callback(self.services.command, "down")
        started = self.services.command("up")
        if started.returncode != 0:
            raise RuntimeError(started.stdout + started.stderr + self.services.logs())
        stack.enter_context(environment_of(self.services.settings()))
        self.instance = stack.enter_context(DagsterInstance.from_config(str(self.folder / "dagster")))
        self.store = open_store(self.instance)
        target = WorkspaceFileTarget([str(self.folder / "dagster" / "workspace.yaml")])
        self.workspace = stack.enter_context(WorkspaceProcessContext(self.instance, target))
        self.jobs = Jobs(self.workspace)
        switch_on(self.workspace, "minutely_schedule", datetime.now(UTC) - timedelta(minutes=2, seconds=30))
        self.did["launch"] += 1
        self.say(f"  0.0 s  {self._launch()}")  # while its job can be asked for
        watching = threading.Thread(target=self._watch, name="watch", daemon=True)
        watching.start()
        stack.callback(watching.join)
        stack.callback(self._stop.set)

    def _deploy(self) -> Path:
        """A copy of deploy/ with two daemons and short intervals; the folder that it lies in."""
        root = self.folder / "checkout"
        shutil.copytree(ROOT / "deploy", root / "deploy")
        file = root / "deploy" / "dagster.yaml"
        settings = yaml.safe_load(file.read_text())
        settings["run_launcher"]["config"] = {"silence_seconds": SILENCE}
        settings["run_coordinator"]["config"]["dequeue_interval_seconds"] = 1
        settings["run_coordinator"]["config"]["user_code_failure_retry_delay"] = 3
        settings["run_monitoring"] |= {
            "poll_interval_seconds": 1,
            "start_timeout_seconds": 45,
            "cancel_timeout_seconds": 20,
        }
        settings["concurrency"]["runs"]["max_concurrent_runs"] = IN_FLIGHT
        file.write_text(yaml.safe_dump(settings))
        file = root / "deploy" / "compose.yaml"
        composed = YAML(typ="safe").load(file)
        composed["services"]["daemon"]["scale"] = 2
        composed["services"]["code-server"]["healthcheck"]["interval"] = "3s"
        file.write_text(json.dumps(composed))
        return root

    def _write(self, name: str, stages: Any, **fields: Any) -> None:
        pipeline = [
            {"name": one, "module": f"chaos_stages:{one}", "options": {"folder": str(self.marks)}} for one in stages
        ]
        described = {"id": name, "pipeline": pipeline, **fields}
        (self.experiments / f"{name}.yaml").write_text(json.dumps(described))

    def _watch(self) -> None:
        """See what the processes of the services have."""
        while not self._stop.wait(3):
            for name, pid in self._pids().items():
                with suppress(psutil.Error):
                    process = psutil.Process(pid)
                    self.seen[name].append(Seen(pid, process.memory_info().rss / 2**20, process.num_fds()))

    def _pids(self) -> dict[str, int]:
        with suppress(OSError):
            return self.services.processes()
        return {}

    # --- what is done -------------------------------------------------------------------------------------------------

    def _disturb(self) -> None:
        actions: list[tuple[int, Callable[[], str | None]]] = [
            (10, self._launch),
            (2, self._cancel),
            (3, self._kill_worker),
            (1, self._kill_service),
            (1, self._kill_inner),
            (1, self._lose_machine),
            (1, self._restart_database),
            (3, self._resume),
            (2, self._damage),
            (2, self._pin),
            (2, self._collect),
        ]
        weights = [weight for weight, _ in actions]
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            ((_, action),) = self.dice.choices(actions, weights)
            done = action()
            if done:
                self.did[action.__name__.strip("_").replace("_", " ")] += 1
                self.say(f"{self.seconds - (end - time.monotonic()):5.1f} s  {done}")
            time.sleep(self.dice.uniform(0.1, 1.0))

    def _runs(self, *statuses: DagsterRunStatus) -> list[DagsterRun]:
        return list(self.instance.get_runs(RunsFilter(statuses=list(statuses) or None)))

    def _launch(self) -> str | None:
        if len([run for run in self.instance.get_runs() if not run.is_finished]) >= 2 * IN_FLIGHT:
            return None
        seed = self.dice.randrange(1_000_000)
        executor = self.dice.choice(["in_process", "in_process", "multiprocess"])
        experiment = load_experiment(self.experiments / "chain.yaml")
        experiment = Experiment.model_validate(experiment.with_options("draw", {"seed": seed}).to_dict())
        options: dict[str, dict[str, Any]] = {one: {"folder": str(self.marks)} for one in CHAIN}
        options["draw"]["seed"] = seed
        run = self.jobs.create_run(experiment, executor, options)
        self.seeds[run.run_id] = seed
        self.instance.submit_run(run.run_id, self.workspace.create_request_context())
        return f"launch {run.run_id[:8]} ({executor})"

    def _choose(self, *statuses: DagsterRunStatus) -> DagsterRun | None:
        found = sorted(self._runs(*statuses), key=lambda run: run.run_id)
        return self.dice.choice(found) if found else None

    def _cancel(self) -> str | None:
        run = self._choose(DagsterRunStatus.STARTED, DagsterRunStatus.QUEUED)
        if run is None:
            return None
        with suppress(Exception):  # the code server may be away: the monitoring daemon sees to it then
            self.instance.run_coordinator.cancel_run(run.run_id)
        return f"cancel {run.run_id[:8]}"

    def _kill_worker(self) -> str | None:
        found = self._workers()
        if not found:
            return None
        victim = self.dice.choice(sorted(found, key=lambda one: one.pid))
        with suppress(psutil.NoSuchProcess):
            victim.kill()
        return f"kill -9 {victim.pid}, a process of a run or of a step"

    def _kill(self, name: str) -> bool:
        pid = self._pids().get(name)
        with suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def _kill_service(self) -> str | None:
        name = self.dice.choice(SERVICES)
        return f"kill -9 the {name}" if self._kill(name) else None

    def _kill_inner(self) -> str | None:
        with suppress(psutil.NoSuchProcess, IndexError, KeyError):
            inner_servers(self._pids()["code-server"])[0].kill()
            return "kill -9 the process that has the definitions"
        return None

    def _lose_machine(self) -> str | None:
        pid = self._pids().get("code-server")
        lost = self._workers()
        with suppress(psutil.NoSuchProcess):
            if pid is not None:
                lost = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True), *lost]
        for one in lost:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        return "kill -9 the code server with every process of a run"

    def _restart_database(self) -> str | None:
        seconds = self.dice.uniform(0, 2)
        if self.dice.random() < 0.5:
            return "kill -9 PostgreSQL" if self._kill("database") else None
        self.services.supervisor("stop", "database")
        time.sleep(seconds)
        self.services.supervisor("start", "database")
        return f"stop PostgreSQL, and start it {seconds:.1f} s later"

    def _resume(self) -> str | None:
        run = self._choose(DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
        if run is None or SUPERSEDED_TAG in run.tags:
            return None
        try:
            resume_run(self.instance, run.run_id)
        except (CrucibleError, RunInterrupted) as error:
            return f"resume {run.run_id[:8]}: {str(error)[:150]}"
        return f"resume {run.run_id[:8]}: succeeded"

    def _damage(self) -> str | None:
        spared = {digest for run_id in self.pinned for digest in self._objects(run_id)}
        run = self._choose(DagsterRunStatus.SUCCESS)
        if run is None or run.run_id in self.pinned:
            return None
        digests = sorted(self._objects(run.run_id) - spared)
        if not digests:
            return None
        digest = self.dice.choice(digests)
        path = Path(self.store.base.path) / object_name(digest)
        with suppress(FileNotFoundError):
            data = bytearray(path.read_bytes())
            data[self.dice.randrange(len(data))] ^= 0x55
            path.write_bytes(data)
            self.damaged.add(digest)
            return f"damage {object_name(digest)[:20]} of {run.run_id[:8]}"
        return None

    def _objects(self, run_id: str) -> set[str]:
        """What the assigns of the run's last result are made of."""
        with suppress(StoreError):
            context = self.store.load(run_id, "add" if root_of_id(self, run_id) in self.seeds else "tick")
            return {digest for cell in context.assigns.entries().values() for digest, _ in cell.ref.objects}  # type: ignore[attr-defined]
        return set()

    def _pin(self) -> str | None:
        run = self._choose(DagsterRunStatus.SUCCESS)
        if run is None or run.run_id in self.pinned | self.collected or self._objects(run.run_id) & self.damaged:
            return None
        pin(self.instance, run.run_id)
        self.pinned.add(run.run_id)
        return f"pin {run.run_id[:8]}"

    def _collect(self) -> str | None:
        try:
            found = collect(self.instance, days=30 / 86_400, delete=True, grace=30.0)
        except StoreError as error:
            if not any(digest in str(error) for digest in self.damaged):
                self.broken.append(f"a collection refused: {error}")
            return "collect: refused, because of what was damaged"
        except CrucibleError as error:
            return f"collect: {str(error)[:100]}"
        self.collected |= set(found.removed_runs)
        return f"collect: {len(found.removed_runs)} runs, {found.removed_objects} objects"

    def _own_processes(self) -> list[psutil.Process]:
        """Every process that was started with this DAGSTER_HOME, but not what this one has for the runs it resumes."""
        found = []
        for one in psutil.process_iter():
            with suppress(psutil.Error):
                home = one.environ().get("DAGSTER_HOME")
                is_ours = home == self.instance.root_directory and one.ppid() != os.getpid()
                if is_ours and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one)
        return found

    # --- what must be so ----------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Nothing is disturbed any more, until every run has ended; then no more is started."""
        self.until = datetime.now(UTC)
        begun = time.monotonic()
        self._wait_for_runs(begun)
        self.ticks = self._ticks()
        switch_off(self.workspace, "minutely_schedule")
        self._wait_for_runs(begun)
        self.rested = time.monotonic() - begun

    def _wait_for_runs(self, since: float) -> None:
        while time.monotonic() < since + CALM:
            with suppress(Exception):  # the database may be on its way up
                if all(run.is_finished for run in self.instance.get_runs()) and self._ticks_are_done():
                    return
            time.sleep(0.5)

    def _ticks_are_done(self) -> bool:
        return all(tick.outcome == "run" for tick in self._ticks())

    def _ticks(self) -> Any:
        schedule = load_experiment(self.experiments / "minutely.yaml").schedule
        assert schedule is not None
        state = find_state(self.instance, "minutely_schedule")
        return ticks_of(self.instance, schedule, state, until=self.until, limit=20).ticks

    def _check(self) -> None:
        runs = {run.run_id: run for run in self.instance.get_runs()}
        executed = [tuple(line.split()) for line in (self.marks / "executed").read_text().splitlines()]
        self._check_ends(runs)
        self._check_results(runs)
        self._check_executions(runs, executed)
        self._check_ticks(runs, executed)
        self._check_processes()
        self._check_store()

    @contextlib.contextmanager
    def _promise(self, name: str) -> Iterator[list[str]]:
        found: list[str] = []
        notes: list[str] = []
        yield found
        notes = [one for one in found if one.startswith("ok ")]
        wrong = [one for one in found if not one.startswith("ok ")]
        self.broken += [f"{name}: {one}" for one in wrong]
        self.checked[name] = "BROKEN" if wrong else "; ".join(one.removeprefix("ok ") for one in notes) or "kept"

    def _check_ends(self, runs: dict[str, DagsterRun]) -> None:
        with self._promise("every run has ended") as found:
            found += [
                f"{run.run_id} is {run.status.value}: {self._story(run)}"
                for run in runs.values()
                if not run.is_finished
            ]
            counted = Counter(run.status.value.lower() for run in runs.values())
            found.append(f"ok {dict(counted)}, {self.rested:.0f} s after the last disturbance")
            if DagsterRunStatus.SUCCESS not in {run.status for run in runs.values()}:
                found.append("no run succeeded, so that nothing was shown")

    def _story(self, run: DagsterRun) -> list[str]:
        return [entry.message[:150] for entry in self.instance.all_logs(run.run_id)][-4:]

    def _check_results(self, runs: dict[str, DagsterRun]) -> None:
        history = History(self.instance)
        read = refused = 0
        with self._promise("the result of every finished run can be read, or its damage is named") as found:
            for run in runs.values():
                if run.status is not DagsterRunStatus.SUCCESS or run.run_id in self.collected:
                    continue
                try:
                    context = history.context(run.run_id)
                    _ = dict(context.assigns), list(context.outputs)
                except CrucibleError as error:
                    refused += 1
                    if not any(digest in str(error).replace("/", "") for digest in self.damaged):
                        found.append(f"{run.run_id} cannot be read: {error}")
                    continue
                read += 1
                seed = self.seeds.get(root_of(run))
                if seed is not None and context.metrics["sum"] != expected_sum(seed):
                    found.append(f"{run.run_id} has another sum: {context.metrics['sum']}, not {expected_sum(seed)}")
                if seed is not None and [one.decision for one in context.trace.decisions] != ["wait", "go on"]:
                    found.append(f"{run.run_id} decided {[one.decision for one in context.trace.decisions]}")
            found.append(f"ok {read} read, {refused} named")

    def _check_executions(self, runs: dict[str, DagsterRun], executed: list[tuple[str, ...]]) -> None:
        with self._promise("no stage that had finished was executed again") as found:
            counted = Counter(executed)
            found += [f"{run_id} executed {stage} {n} times" for (run_id, stage), n in counted.items() if n > 1]
            again = 0
            for run_id, stage in counted:
                ancestor = runs[run_id].parent_run_id if run_id in runs else None
                while ancestor is not None:
                    again += 1
                    if self.store.has_result(ancestor, stage):
                        found.append(f"{run_id} executed {stage}, of which {ancestor} has a result")
                    ancestor = runs[ancestor].parent_run_id if ancestor in runs else None
            found.append(f"ok {len(counted)} executions, {again} of them after another run's")

    def _check_ticks(self, runs: dict[str, DagsterRun], executed: list[tuple[str, ...]]) -> None:
        with self._promise("each tick was worked by one run and those that executed it again") as found:
            worked: dict[str, set[str]] = defaultdict(set)
            for run_id, stage in executed:
                if stage == "tick":
                    worked[runs[run_id].tags[TICK_TAG]].add(root_of(runs[run_id]))
            found += [f"tick {tick} was worked by {sorted(roots)}" for tick, roots in worked.items() if len(roots) > 1]
            outcomes = Counter(tick.run_status or tick.outcome for tick in self.ticks)
            found += [f"tick {tick.time} was {tick.outcome}" for tick in self.ticks if tick.outcome != "run"]
            found.append(f"ok {dict(outcomes)}")

    def _check_processes(self) -> None:
        with self._promise("connections, files, memory and processes stay bounded") as found:
            deadline = time.monotonic() + ENDS_WITHIN
            while time.monotonic() < deadline and self._workers():
                time.sleep(0.5)
            found += [
                f"process {one.pid} of a run is left: {' '.join(command_of(one))[:150]}" for one in self._workers()
            ]
            ((connections,),) = self.services.rows("SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL")
            if connections > 50:
                found.append(f"{connections} connections to PostgreSQL")
            self._stop.set()
            starts = {}
            for name, pid in self._pids().items():
                own = [one for one in self.seen[name] if one.pid == pid]
                half = own[len(own) // 2 :]
                starts[name] = len({one.pid for one in self.seen[name]}) - 1
                if len(half) > 3 and (
                    half[-1].megabytes > 1.2 * half[0].megabytes + 20 or half[-1].files > half[0].files + 20
                ):
                    found.append(f"the {name} grew from {half[0]} to {half[-1]}")
                zombies = [child for child in psutil.Process(pid).children() if _is_zombie(child)]
                if len(zombies) > 2:
                    found.append(f"the {name} has {len(zombies)} zombies")
            started = {name: number for name, number in starts.items() if number > 0}
            found.append(f"ok {connections} connections; started again: {started}")
        with self._promise("no process is left when the services were stopped") as found:
            self.services.supervisor("stop", *(name for name in self._pids() if name != "database"))
            deadline = time.monotonic() + ENDS_WITHIN
            while time.monotonic() < deadline and self._own_processes():
                time.sleep(0.5)
            found += [f"process {one.pid} is left: {' '.join(command_of(one))[:200]}" for one in self._own_processes()]

    def _workers(self) -> list[psutil.Process]:
        """The processes of runs, and those of steps."""
        marks = ("--multiprocessing-fork", "multiprocessing.forkserver")
        return [one for one in self._own_processes() if any(mark in " ".join(command_of(one)) for mark in marks)]

    def _check_store(self) -> None:
        with self._promise("nothing is damaged but what was, and nothing is there that nothing refers to") as found:
            before = verify_store(self.store)
            found += [one for one in before.problems if not any(d in one.replace("/", "") for d in self.damaged)]
            collect(self.instance, days=0, delete=True, grace=-60.0)
            second = collect(self.instance, days=0, delete=True, grace=-60.0)
            if second.removed_objects or second.removed_runs:
                found.append(f"a second collection found more: {second}")
            halves = [str(path) for path in Path(self.store.base.path).rglob("*") if ".writing-" in path.name]
            found += [f"half a file is left: {path}" for path in halves]
            after = verify_store(self.store)
            found += list(after.problems)
            found.append(
                f"ok {before.objects} objects, {len(self.damaged)} damaged; {after.objects} after all was collected"
            )
        with self._promise("what was pinned is there after all else was collected") as found:
            for run_id in sorted(self.pinned):
                try:
                    _ = dict(History(self.instance).context(run_id).assigns)
                except CrucibleError as error:
                    found.append(f"{run_id}: {error}")
            found.append(f"ok {len(self.pinned)} runs")


def root_of_id(chaos: Chaos, run_id: str) -> str:
    run = chaos.instance.get_run_by_id(run_id)
    return run_id if run is None else root_of(run)


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def chaos(seed: int, seconds: float, say: Callable[[str], None] = print) -> Chaos:
    """Do it with one seed, and say what was done and found."""
    # Not below a folder of one user's own: root starts PostgreSQL and nginx as another user.
    folder = Path(tempfile.mkdtemp(prefix="crucible-chaos-"))
    done = Chaos(seed, seconds, folder, say)
    try:
        done.run()
        say(f"seed {seed}, {seconds:.0f} s: did {dict(done.did)}")
        for name, result in done.checked.items():
            say(f"  {name}: {result}")
        for one in done.broken:
            say(f"  BROKEN: {one}")
        if done.broken:
            say(done.services.logs())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # of a thread that looks for a code server which was killed
    failed = [seed for seed in asked.seeds if chaos(seed, asked.seconds).broken]
    print(
        f"{len(asked.seeds) - len(failed)} of {len(asked.seeds)} seeds kept every promise"
        + (f"; not {failed}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
