"""Kills, cuts, damages, cancels, resumes and collects at random, and then checks every promise.

    python tests/faults/chaos.py --seeds 1 2 3 --seconds 60

The topology is that of deploy/: PostgreSQL, a code server behind its proxy, two daemons of which one works, and a
webserver; what is killed is started again, as a supervisor would. What is done follows from the seed; the moments are
those of the machine. Exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
import yaml
from chaos_stages import expected_sum
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from postgres import DEPLOYED, Postgres, dagster_home, environment_of_tests, free_port
from postgres import server as postgres_server
from scheduler import add_settings, switch_on
from services import Deployment

from crucible_core import CrucibleError, Experiment, RunInterrupted, load_experiment
from crucible_dagster import History
from crucible_dagster.automation.ticks import find_state, ticks_of
from crucible_dagster.dagster_internals import reload_code_server, state_of_code_server
from crucible_dagster.names import root_of
from crucible_dagster.rerun.resume import resume_run
from crucible_dagster.store import StoreError
from crucible_dagster.store.collection import verify_store
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.objects import object_name
from crucible_dagster.store.retention import collect, pin
from crucible_dagster.tags import SUPERSEDED_TAG, TICK_TAG

__all__ = ["Chaos", "chaos"]

DEFINITIONS = """
from pathlib import Path

from crucible_dagster import build_definitions

defs = build_definitions(Path(__file__).parent / "experiments")
"""
CHAIN = ("draw", "think", "add")
ENDED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
SILENCE = 8.0
CALM = 600.0
"""Seconds after which every run has ended, far above what it takes on a machine that does nothing else."""
IN_FLIGHT = 4


@dataclass
class Service:
    """A process that is started again when it ends."""

    name: str
    start: Callable[[], Any]
    process: Any = None
    starts: int = 0
    seen: list[tuple[int, float, int]] = field(default_factory=list)
    """Process id, megabytes and open files, now and then."""


class Chaos:
    """One seed: what is done, and what is found."""

    def __init__(self, seed: int, seconds: float, folder: Path, postgres: Postgres, say: Callable[[str], None]) -> None:
        self.seed, self.seconds, self.folder, self.postgres = seed, seconds, folder, postgres
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
        self._stop = threading.Event()
        self._supervised = threading.Lock()

    # --- what there is ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start everything, disturb it for so many seconds, let it come to rest, and check. Nothing outlives it."""
        with ExitStack() as stack:
            self._set_up(stack)
            self._disturb()
            self._rest()
            self._check()

    def _set_up(self, stack: ExitStack) -> None:
        folder = self.folder
        self.marks = folder / "marks"
        for name in ("marks", "experiments", "home"):
            (folder / name).mkdir()
        (folder / "definitions.py").write_text(DEFINITIONS)
        self._write("minutely", ["tick"], schedule={"cron": "* * * * *", "missed": "all", "max_catch_up": 5})
        self._write("chain", CHAIN)
        home = stack.enter_context(dagster_home(folder / "home", "postgres", self.postgres))
        settings = yaml.safe_load(DEPLOYED.read_text())
        settings["run_launcher"]["config"] = {"silence_seconds": SILENCE}
        settings["run_coordinator"]["config"]["dequeue_interval_seconds"] = 1
        settings["run_coordinator"]["config"]["user_code_failure_retry_delay"] = 3
        settings["run_monitoring"] |= {
            "poll_interval_seconds": 1,
            "start_timeout_seconds": 45,
            "cancel_timeout_seconds": 20,
        }
        settings["concurrency"]["runs"]["max_concurrent_runs"] = IN_FLIGHT
        add_settings(home, {name: value for name, value in settings.items() if name != "storage"})
        self.instance = stack.enter_context(DagsterInstance.from_config(str(home)))
        self.store = open_store(self.instance)
        self.deployment = Deployment(folder, self.instance, stack, ("dagster", "code-server", "start"))
        workspace = str(folder / "workspace.yaml")
        daemon = ("-m", "crucible_dagster.service.daemon", "-w", workspace)
        webserver = ("-h", "127.0.0.1", "-p", str(free_port()), "-w", workspace)
        python = Path(sys.executable).name
        self.services = [
            Service("code server", lambda: self.deployment.start(*self.deployment.server_command)),
            Service("daemon", lambda: self.deployment.start(python, *daemon)),
            Service("second daemon", lambda: self.deployment.start(python, *daemon)),
            Service("webserver", lambda: self.deployment.start("dagster-webserver", *webserver)),
        ]
        self.services[0].process = self.deployment.server
        for one in self.services[1:]:
            one.process = one.start()
        self.since = datetime.now(UTC) - timedelta(minutes=2, seconds=30)
        switch_on(self.deployment.workspace, "minutely_schedule", self.since)
        self.did["launch"] += 1
        self.say(f"  0.0 s  {self._launch()}")  # while its job can be asked for
        watching = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        watching.start()
        stack.callback(watching.join)
        stack.callback(self._stop.set)

    def _write(self, name: str, stages: Any, **fields: Any) -> None:
        pipeline = [
            {"name": one, "module": f"chaos_stages:{one}", "options": {"folder": str(self.marks)}} for one in stages
        ]
        described = {"id": name, "pipeline": pipeline, **fields}
        (self.folder / "experiments" / f"{name}.yaml").write_text(json.dumps(described))

    def _supervise(self) -> None:
        """Start again what has ended, and have a code server without definitions load them."""
        looked = 0.0
        while not self._stop.wait(0.5):
            with self._supervised:
                for one in self.services:
                    if one.process is None or one.process.poll() is not None:
                        one.process = one.start()
                        one.starts += 1
                if time.monotonic() - looked > 3:
                    looked = time.monotonic()
                    with suppress(Exception):
                        if state_of_code_server("127.0.0.1", self.deployment.port).is_lost:
                            reload_code_server("127.0.0.1", self.deployment.port)
                    for one in self.services:
                        with suppress(psutil.Error):
                            process = psutil.Process(one.process.pid)
                            one.seen.append((process.pid, process.memory_info().rss / 2**20, process.num_fds()))

    def _service(self, name: str) -> psutil.Process:
        return psutil.Process(next(one.process.pid for one in self.services if one.name == name))

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
        experiment = load_experiment(self.folder / "experiments" / "chain.yaml")
        experiment = Experiment.model_validate(experiment.with_options("draw", {"seed": seed}).to_dict())
        options: dict[str, dict[str, Any]] = {one: {"folder": str(self.marks)} for one in CHAIN}
        options["draw"]["seed"] = seed
        run = self.deployment.create_run(experiment, executor, options)
        self.seeds[run.run_id] = seed
        self.instance.submit_run(run.run_id, self.deployment.workspace.create_request_context())
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

    def _kill_service(self) -> str | None:
        one = self.dice.choice(self.services[1:])
        with suppress(psutil.NoSuchProcess):
            self._service(one.name).kill()
        return f"kill -9 the {one.name}"

    def _kill_inner(self) -> str | None:
        with suppress(psutil.NoSuchProcess, StopIteration):
            next(one for one in self._service("code server").children() if "grpc" in _command(one)).kill()
            return "kill -9 the process that has the definitions"
        return None

    def _lose_machine(self) -> str | None:
        with self._supervised, suppress(psutil.NoSuchProcess):
            proxy = self._service("code server")
            for one in [proxy, *self._own_processes(services=False)]:
                if one == proxy or "dagster-webserver" not in " ".join(_command(one)):
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
        return "kill -9 the code server with every process of a run"

    def _restart_database(self) -> str | None:
        how, seconds = self.dice.choice(["stop", "kill"]), self.dice.uniform(0, 2)
        getattr(self.postgres, how)()
        time.sleep(seconds)
        self.postgres.start()
        return f"{how} PostgreSQL, and start it {seconds:.1f} s later"

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

    def _own_processes(self, *, services: bool = True) -> list[psutil.Process]:
        """Every process of this deployment, but this one: what has its DAGSTER_HOME."""
        spared = set() if services else {one.process.pid for one in self.services[1:]}
        found = []
        for one in psutil.process_iter():
            with suppress(psutil.Error):
                home = one.environ().get("DAGSTER_HOME")
                if (
                    home == self.instance.root_directory
                    and one.status() != psutil.STATUS_ZOMBIE
                    and one.pid not in spared
                ):
                    found.append(one)
        return found

    # --- what must be so ----------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Nothing is disturbed any more, until every run has ended."""
        self.until = datetime.now(UTC)
        begun = time.monotonic()
        while time.monotonic() < begun + CALM:
            if all(run.is_finished for run in self.instance.get_runs()) and self._ticks_are_done():
                break
            time.sleep(0.5)
        self.rested = time.monotonic() - begun

    def _ticks_are_done(self) -> bool:
        return all(tick.outcome == "run" for tick in self._ticks())

    def _ticks(self) -> Any:
        schedule = load_experiment(self.folder / "experiments" / "minutely.yaml").schedule
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
            outcomes = Counter(tick.run_status or tick.outcome for tick in self._ticks())
            found += [f"tick {tick.time} was {tick.outcome}" for tick in self._ticks() if tick.outcome != "run"]
            found.append(f"ok {dict(outcomes)}")

    def _check_processes(self) -> None:
        with self._promise("connections, files, memory and processes stay bounded") as found:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and self._workers():
                time.sleep(0.5)
            found += [f"process {one.pid} of a run is left: {' '.join(_command(one))[:150]}" for one in self._workers()]
            ((connections,),) = self.postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL")
            if connections > 40:
                found.append(f"{connections} connections to PostgreSQL")
            for one in self.services:
                own = [(memory, files) for pid, memory, files in one.seen if pid == one.process.pid]
                half = own[len(own) // 2 :]
                if len(half) > 3 and (half[-1][0] > 1.2 * half[0][0] + 20 or half[-1][1] > half[0][1] + 20):
                    found.append(f"the {one.name} grew from {half[0]} to {half[-1]} (megabytes, files)")
                zombies = [child for child in psutil.Process(one.process.pid).children() if _is_zombie(child)]
                if len(zombies) > 2:
                    found.append(f"the {one.name} has {len(zombies)} zombies")
            starts = {one.name: one.starts for one in self.services if one.starts}
            found.append(f"ok {connections} connections; started again: {starts}")
        with self._promise("no process is left when the services were stopped") as found:
            self._stop.set()
            with self._supervised:
                for one in self.services:
                    one.process.terminate()
                for one in self.services:
                    with suppress(Exception):
                        one.process.wait(timeout=45)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and (left := self._own_processes()):
                time.sleep(0.5)
            left = self._own_processes()
            found += [f"process {one.pid} is left: {' '.join(_command(one))[:200]}" for one in left]

    def _workers(self) -> list[psutil.Process]:
        """The processes of runs, and those of steps."""
        marks = ("--multiprocessing-fork", "multiprocessing.forkserver")
        return [one for one in self._own_processes() if any(mark in " ".join(_command(one)) for mark in marks)]

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


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def chaos(seed: int, seconds: float, folder: Path, postgres: Postgres, say: Callable[[str], None] = print) -> Chaos:
    """Do it with one seed, on a PostgreSQL within `environment_of_tests`, and say what was done and found."""
    done = Chaos(seed, seconds, folder, postgres, say)
    done.run()
    say(f"seed {seed}, {seconds:.0f} s: did {dict(done.did)}")
    for name, result in done.checked.items():
        say(f"  {name}: {result}")
    for one in done.broken:
        say(f"  BROKEN: {one}")
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # of a thread that looks for a code server which was killed
    failed = []
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory(prefix="crucible-chaos-") as folder:
            with postgres_server() as postgres, environment_of_tests(postgres):
                done = chaos(seed, asked.seconds, Path(folder), postgres)
            if done.broken:
                failed.append(seed)
                for log in sorted(Path(folder).glob("*.log")):
                    print(f"--- {log.name}\n{log.read_text(errors='replace')[-3_000:]}")
    print(
        f"{len(asked.seeds) - len(failed)} of {len(asked.seeds)} seeds kept every promise"
        + (f"; not {failed}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
