"""Stages whose run is disturbed, and the processes that run them: importable by name, as other processes need.

`serve` is the program of a process that forks one process for each run it is told of: what takes two seconds to import
is imported once, and a run's process is there, to be killed, at once.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import pickle
import random
import resource
import signal
import stat
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crucible_core import Context, stage

PATIENCE = 300.0  # far above what anything takes on a machine that does much else
_replace = os.replace  # as it is before `die_at`


@dataclass
class Model:
    """A value that has to be pickled."""

    weights: np.ndarray
    history: list[float] = field(default_factory=list)


def mark(folder: str, name: str) -> None:
    """Note that a stage is executed, in one write to the file: it is there whatever happens next."""
    with (Path(folder) / "executed").open("a") as file:
        file.write(f"{name}\n")


def wait_for(path: Path, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not path.exists():
        there = sorted(one.name for one in path.parent.iterdir()) if path.parent.exists() else "not even the folder"
        assert time.monotonic() < deadline, f"nobody made {path} within {patience} s; there is: {there}"
        time.sleep(0.01)


@stage
def begin(ctx: Context, *, folder: str) -> Context:
    """Puts values of every kind."""
    mark(folder, "begin")
    ctx = ctx.decide("begin", "somebody must", alternatives=["leave it"], confidence=0.5)
    shared = [1, 2]
    return ctx.assign(
        array=np.arange(40_000.0).reshape(200, 200),  # more than what is mapped when it is read
        small=np.arange(6),
        settings={"deep": {"list": [1]}, "share": float("nan")},
        names=("a", "b"),
        model=Model(np.ones(5_000)),
        one=shared,
        other=shared,
    ).add_outputs({"row": number, "square": number * number} for number in range(100))


@stage
def change(ctx: Context, *, folder: str, name: str = "change") -> Context:
    """Changes in place what it was given."""
    mark(folder, name)
    ctx.assigns["array"][::7, 3] += 1.0
    ctx.assigns["settings"]["deep"]["list"].append(len(ctx.outputs))
    ctx.assigns["model"].history.append(float(ctx.assigns["array"].sum()))
    ctx.assigns["model"].weights[0] *= 2
    ctx.assigns["one"].append(3)
    return ctx.put_metric(name, ctx.assigns["other"])


@stage
def measure(ctx: Context, *, folder: str) -> Context:
    mark(folder, "measure")
    ctx = ctx.decide("take the mean", "it is an average").decide("and its spread", "likewise", confidence=0.25)
    array = ctx.assigns["array"]
    ctx = ctx.merge_metrics({"mean": float(array.mean()), "spread": float(array.std()), "nan": float("nan")})
    return ctx.add_output({"row": -1, "square": 1}).put_artifact("page", "https://example.org/page")


def say_held(folder: str | Path) -> None:
    """Say which process waits now; who sees the file can read the number."""
    written = Path(folder) / f"held.{os.getpid()}"
    written.write_text(str(os.getpid()))
    written.replace(Path(folder) / "held")


@stage
def hold(ctx: Context, *, folder: str, patience: float = PATIENCE) -> Context:
    """Changes things, says that it has, and waits until it may go on."""
    mark(folder, "hold")
    ctx.assigns["array"][0, 0] -= 5.0
    ctx.assigns["settings"]["deep"]["held"] = True
    ctx = ctx.decide("hold", "to be killed").add_output("held").put_metric("held", 1)
    say_held(folder)
    wait_for(Path(folder) / "go", patience)
    return ctx


@stage
def doze(ctx: Context, *, folder: str, seconds: float = 2 * PATIENCE) -> Context:
    """Sleeps, as a stage does that waits for something slow, and would be successful in the end."""
    mark(folder, "doze")
    say_held(folder)
    if not (Path(folder) / "go").exists():
        time.sleep(seconds)
    return ctx.put_metric("slept", True)


@stage
def sum_up(ctx: Context, *, folder: str) -> Context:
    mark(folder, "sum_up")
    assigns = ctx.assigns
    return ctx.merge_metrics(
        {
            "sum": float(assigns["array"].sum()),
            "list": list(assigns["settings"]["deep"]["list"]),
            "history": list(assigns["model"].history),
            "outputs": len(ctx.outputs),
            "same": assigns["one"] is assigns["other"],
        }
    )


@stage
def decide_around(ctx: Context, *, folder: str) -> Context:
    """Decides before, while and after something is away."""
    mark(folder, "decide_around")
    ctx = ctx.decide("before", "all is well")
    say_held(folder)
    wait_for(Path(folder) / "go")
    ctx = ctx.decide("during", "it is away")
    wait_for(Path(folder) / "back")
    return ctx.decide("after", "it is back").put_metric("decided", 3)


@stage
def large(ctx: Context, *, folder: str, megabytes: int = 1) -> Context:
    """Puts more than fits."""
    mark(folder, "large")
    ctx = ctx.decide("much", "to see whether it fits")
    return ctx.assign(large=np.random.default_rng(0).integers(0, 255, megabytes << 20, dtype=np.uint8))


@stage
def numbers(ctx: Context, *, folder: str, seed: int = 0) -> Context:
    """Values of JSON and arrays, and nothing else; it takes a moment."""
    mark(folder, "numbers")
    array = np.random.default_rng(seed).normal(size=5_000)
    return ctx.assign(array=array, settings={"seed": seed, "list": [1, 2]}).put_metric("mean", float(array.mean()))


@stage
def total(ctx: Context, *, folder: str) -> Context:
    mark(folder, "total")
    ctx.assigns["settings"]["list"].append(3)
    return ctx.put_metric("total", float(ctx.assigns["array"].sum())).add_output(ctx.assigns["settings"]["seed"])


@stage
def unstorable(ctx: Context, *, folder: str, where: str = "assigns") -> Context:
    """Puts what no store can keep."""
    mark(folder, "unstorable")
    value = (number for number in range(3))
    match where:
        case "assigns":
            return ctx.assign(fine=1, rows=value)
        case "metrics":
            return ctx.put_metric("rows", value)
        case "artifacts":
            return ctx.put_artifact("rows", value)
    return ctx.add_outputs([1, value])


@stage
def spoil(ctx: Context, *, folder: str) -> Context:
    """Puts into a value of an earlier stage what no store can keep."""
    mark(folder, "spoil")
    ctx.assigns["settings"]["rows"] = (number for number in range(3))
    return ctx


@stage
def need_pickle(ctx: Context, *, folder: str) -> Context:
    mark(folder, "need_pickle")
    return ctx.assign(model=Model(np.ones(3)))


# --- the processes ----------------------------------------------------------------------------------------------------


def execute(
    *,
    home: str,
    experiment: str,
    run_id: str,
    folder: str,
    executor: Any = None,
    slow_watch: bool = False,
    limit: int | None = None,
    opened: Callable[[], None] = lambda: None,
) -> Context:
    """Run an experiment, and say so in `folder` right before; with a limit to the size of files, if one is given.

    `opened` is called when the instance is open.
    """
    from crucible_core import Experiment
    from crucible_dagster import execute_experiment
    from crucible_dagster.execute import orphan_watch

    if slow_watch:
        orphan_watch.INTERVAL = 3600.0
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with _instance(home) as instance:
        opened()
        (Path(folder) / f"begun {run_id}").touch()
        return execute_experiment(
            Experiment.model_validate_json(experiment), instance=instance, run_id=run_id, executor=executor
        )


def execute_together(*, start: str, **arguments: Any) -> Context:
    """Run an experiment as soon as there is the file `start`."""
    (Path(arguments["folder"]) / f"ready {arguments['run_id']}").touch()
    wait_for(Path(start))
    return execute(**arguments)


def execute_at_home(*, start: str, experiment: str, run_id: str, folder: str) -> Context:
    """Run an experiment on the instance of DAGSTER_HOME, as soon as there is the file `start`."""
    from crucible_core import Experiment
    from crucible_dagster import execute_experiment

    (Path(folder) / f"ready {run_id}").touch()
    wait_for(Path(start))
    return execute_experiment(Experiment.model_validate_json(experiment), run_id=run_id)


def execute_many(*, count: int, run_id: str, folder: str, **arguments: Any) -> list[dict[str, float]]:
    """Run an experiment so many times in this process, and say what the process has after each tenth of them."""
    import psutil

    me, found = psutil.Process(), []
    for number in range(1, count + 1):
        execute(run_id=str(uuid.uuid4()), folder=folder, **arguments)
        for mark in Path(folder).glob("begun *"):
            mark.unlink()
        if number % (count // 10) == 0:
            gc.collect()
            found.append(
                {
                    "megabytes": me.memory_info().rss / 2**20,
                    "files": me.num_fds(),
                    "threads": me.num_threads(),
                    "connections": len(me.net_connections()),
                    "children": len(me.children(recursive=True)),
                }
            )
    return found


def execute_and_die(*, call: str, nth: int, **arguments: Any) -> Context:
    """Run an experiment, with a SIGKILL at the nth call that a write to the store makes: see `die_at`."""
    die_at(call, nth, Path(arguments["folder"]))
    return execute(**arguments)


def resume(*, home: str, run_id: str, opened: Callable[[], None] = lambda: None) -> Context:
    from crucible_dagster.rerun.resume import resume_run

    with _instance(home) as instance:
        opened()
        return resume_run(instance, run_id)


def save_and_die(*, base: str, step: str, values: Mapping[str, Any], call: str, nth: int, folder: str) -> None:
    """Save what a step returned, with a SIGKILL at the nth call of a kind."""
    store, context = _context_of_step(base, step, values)
    die_at(call, nth, Path(folder))
    store.save(context, context.run_id, step, attempt="1")


def save_together(*, base: str, step: str, attempt: str, start: str) -> None:
    """Save what an attempt returned, at the same time as others do."""
    store, context = _context_of_step(base, step, {"attempt": attempt})
    (Path(start).parent / f"ready {attempt}").touch()
    wait_for(Path(start))
    store.save(context, context.run_id, step, attempt=attempt)


def _context_of_step(base: str, step: str, values: Mapping[str, Any]) -> tuple[Any, Context]:
    from upath import UPath

    from crucible_core import Experiment
    from crucible_dagster.store import ContextStore

    experiment = Experiment.model_validate({"id": "tried", "pipeline": [{"name": "one"}]})
    context = Context.begin(experiment, run_id="00000000-0000-4000-8000-000000000009", assigns={"begun": True})
    made = {name: np.full(size, 1.5) for name, size in values.get("arrays", {}).items()}
    return ContextStore(UPath(base)), context.assign({**values, **made})


def die_at(call: str, nth: int, folder: Path) -> None:
    """Have this process end with SIGKILL at the nth of some calls that it makes; the calls are counted in a file.

    `half`: the nth time that a file is to be brought to the disk, half of it is there. `fsync`, `replace`, `link`:
    right after the nth of these.
    """
    name = "fsync" if call == "half" else call

    def die(real: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        if call == "half":
            os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
        else:
            real(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    at_call(name, nth, folder, die, counts=call)


def at_call(
    name: str, nth: int, folder: Path, instead: Callable[..., Any], *, counts: str, to_the_end: bool = False
) -> None:
    """Have `instead` be called, with the real function first, for the nth call of `os.<name>` on a file.

    The calls are counted in the file `calls of <counts>`. `to_the_end`: for every later call, too.
    """
    real = getattr(os, name)
    count = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        if name == "fsync" and not stat.S_ISREG(os.fstat(arguments[0]).st_mode):
            return real(*arguments)  # a folder
        count += 1
        (folder / f"calls of {counts}").write_text(str(count))
        if count == nth or (to_the_end and count > nth > 0):
            return instead(real, *arguments, **named)
        return real(*arguments, **named)

    setattr(os, name, counted)


def execute_and_err(*, call: str, nth: int, **arguments: Any) -> Context:
    """Run an experiment, on a disk that fails from the nth call on that a write to the store makes."""

    def err(real: Callable[..., Any], *_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    at_call(call, nth, Path(arguments["folder"]), err, counts=call, to_the_end=True)
    return execute(**arguments)


def execute_and_wait(*, call: str, nth: int, **arguments: Any) -> Context:
    """Run an experiment that waits, in the middle of a write to the store, for the file `go`."""
    folder = Path(arguments["folder"])

    def wait(real: Callable[..., Any], *given: Any, **named: Any) -> Any:
        say_held(folder)
        wait_for(folder / "go")
        return real(*given, **named)

    at_call(call, nth, folder, wait, counts=call)
    return execute(**arguments)


def execute_on_a_bad_database(*, how: str, seed: int, share: float, **arguments: Any) -> Context:
    """Run an experiment on a database of which a share of the statements fails: see `spoil_statements`."""
    return execute(**arguments, opened=lambda: spoil_statements(how, seed, share, Path(arguments["folder"])))


def resume_on_a_bad_database(*, how: str, seed: int, share: float, folder: str, **arguments: Any) -> Context:
    return resume(**arguments, opened=lambda: spoil_statements(how, seed, share, Path(folder)))


def spoil_statements(how: str, seed: int, share: float, folder: Path) -> None:
    """Have a share of this process's SQL statements raise what a driver raises.

    `unavailable`: before the statement reaches the database. `late`: after it was executed and committed, as when the
    answer is lost. Each is noted in the file `spoilt`.
    """
    import sqlite3

    import psycopg2
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from sqlalchemy.engine.default import DefaultDialect
    from sqlalchemy.exc import OperationalError

    dice = random.Random(seed)

    def spoil(driver: str, statement: str) -> None:
        if dice.random() >= share:
            return
        with (folder / "spoilt").open("a") as file:
            file.write(f"{how} {' '.join(statement.split())[:60]}\n")
        said = "server closed the connection unexpectedly"
        raise psycopg2.OperationalError(said) if driver == "psycopg2" else sqlite3.OperationalError("disk I/O error")

    if how == "unavailable":

        @event.listens_for(Engine, "do_execute")
        def before(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            spoil(context.dialect.driver, statement)

        return

    @event.listens_for(Engine, "after_cursor_execute")
    def after(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        # On PostgreSQL, Dagster has each statement committed by itself.
        if context.dialect.driver == "psycopg2" and not statement.lstrip().upper().startswith("SELECT"):
            try:
                spoil("psycopg2", statement)
            except psycopg2.OperationalError as error:  # as SQLAlchemy raises what the driver does
                raise OperationalError(statement, parameters, error) from error

    commit = DefaultDialect.do_commit

    def commit_and_spoil(dialect: Any, connection: Any) -> None:
        commit(dialect, connection)
        if dialect.driver == "pysqlite":
            spoil("pysqlite", "COMMIT")

    DefaultDialect.do_commit = commit_and_spoil  # type: ignore[method-assign]


def _instance(home: str) -> Any:
    from dagster import DagsterInstance

    return DagsterInstance.from_config(home)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        execute,
        execute_together,
        execute_at_home,
        execute_and_die,
        execute_and_err,
        execute_and_wait,
        execute_on_a_bad_database,
        execute_many,
        resume,
        resume_on_a_bad_database,
        save_and_die,
        save_together,
    )
}


def serve() -> None:
    """Read commands, a JSON object a line: fork a process that calls a function, or wait for one to end."""
    from migration_scripts import read_migration_scripts_once

    import crucible_core.stages
    import crucible_dagster.rerun.resume

    assert crucible_core.stages
    assert crucible_dagster.rerun.resume
    read_migration_scripts_once()
    _open_storage()
    gc.freeze()  # what is there stays: no process looks through it again
    for line in sys.stdin:
        command = json.loads(line)
        if "wait" in command:
            print(json.dumps(_ended(command["wait"], command["seconds"])), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _be_told(**command)
        print(json.dumps(pid), flush=True)


def _open_storage() -> None:
    """Have what is imported and read when Dagster first opens SQLite be there in every process that is forked."""
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        with _instance(home) as instance:
            instance.get_runs_count()
            instance.all_asset_keys()


def _be_told(
    *, function: str, arguments: Mapping[str, Any], environment: Mapping[str, str], cwd: str, outcome: str
) -> None:
    code = 1
    try:
        log = os.open(f"{outcome}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nowhere), (1, log), (2, log)):
            os.dup2(source, target)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # what was read ahead is not for this process
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(cwd)
        told: tuple[Any, BaseException | None]
        try:
            told = FUNCTIONS[function](**arguments), None
        except BaseException as error:  # noqa: BLE001
            traceback.print_exc()
            told = None, error
        with open(f"{outcome}.part", "wb") as file:  # noqa: PTH123
            pickle.dump(told, file)
        _replace(f"{outcome}.part", outcome)
        code = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None
