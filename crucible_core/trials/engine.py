"""Runs tasks in other processes: joblib hands them out, to processes of this machine or to a cluster.

No pool keeps what its processes have done when one of them is killed. So each process writes what it did to the log,
and what is not there is done again; a task during which a process died is tried once more, alone.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from multiprocessing.util import Finalize
from statistics import fmean
from typing import Any, Generic, Protocol, TypeVar

from crucible_core.errors import CrucibleError, MissingExtraError
from crucible_core.trials.log import Row, TrialLog

__all__ = ["Task", "end_processes", "run_in_processes"]

BATCH_SECONDS = 2.0
ANSWER_SECONDS = 5.0
DIED = "the process that ran it died, and died again when it ran nothing else"


class Task(Protocol):
    """Something to do, with the key under which the log has its row."""

    @property
    def key(self) -> str:
        """What the result depends on."""

    def died(self, why: str) -> Row:
        """The row of a task during which its processes died."""


class Having(Protocol):
    """What a process has around its tasks: the resources of a run."""

    @property
    def run_id(self) -> str: ...
    def __call__(self) -> contextlib.AbstractContextManager[None]: ...


T = TypeVar("T", bound=Task)
R = TypeVar("R", bound=Task)


def run_in_processes(
    tasks: Sequence[T],
    ready: Callable[[T], R],
    run: Callable[[R], Row],
    log: TrialLog,
    *,
    jobs: int,
    kind: str = "loky",
    address: str | None = None,
    stops: Callable[[], bool] | None = None,
    having: Having | None = None,
) -> Iterator[tuple[str, Row]]:
    """Run each task in one of `jobs` processes and yield its key and row as it ends; the processes keep the rows.

    A task is made `ready` when its turn comes, and is sent in that form. With `stops`, tasks are sent one by one to
    free processes; when it becomes true, no more are sent, and those that were sent end. A process has the resources of
    `having` until `end_processes`; a process of a cluster, which nobody ends, has them for each batch of tasks.

    Raises MissingExtraError if joblib or the cluster's package is missing, CrucibleError if the cluster does not
    answer.
    """
    try:
        import joblib  # noqa: PLC0415  # an extra
        from joblib.externals.loky.process_executor import BrokenProcessPool  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError("running trials in several processes", "trials") from error
    left = {task.key: task for task in tasks}
    alone: list[T] = []
    with _backend(joblib, kind, address):
        while left:
            batches = _Batches(alone[:1] or list(left.values()), jobs, stops)
            try:
                run_batch = joblib.delayed(
                    partial(_run_batch, run, log, having, os.getpid() if kind == "loky" else None)
                )
                for done in _results(joblib, jobs, stops, (run_batch(list(map(ready, one))) for one in batches)):
                    batches.took(done)
                    for key, row, _ in done:
                        del left[key]
                        yield key, row
            except BrokenProcessPool:
                pass
            if not left:
                return
            yield from _found(left, log)
            if stops is not None and stops():
                return
            if alone and alone[0].key in left:
                row = alone[0].died(DIED)
                log.keep(alone[0].key, row)
                del left[alone[0].key]
                yield alone[0].key, row
            alone = [task for task in alone[1:] if task.key in left] or [left[key] for key in log.unfinished(left)]


def _results(joblib: Any, jobs: int, stops: Callable[[], bool] | None, calls: Iterator[Any]) -> Iterator[Any]:
    """The results of the calls as they come; some at a time from a backend that cannot do that, such as Ray."""
    parallel = joblib.Parallel(n_jobs=jobs, batch_size=1)
    if parallel._backend.supports_return_generator:
        ahead = "2 * n_jobs" if stops is None else "n_jobs"
        yield from joblib.Parallel(n_jobs=jobs, batch_size=1, pre_dispatch=ahead, return_as="generator_unordered")(
            calls
        )
        return
    with parallel:  # one pool for all of them
        while some := list(islice(calls, 2 * jobs if stops is None else jobs)):
            yield from parallel(some)


def _found(left: dict[str, T], log: TrialLog) -> Iterator[tuple[str, Row]]:
    """The rows that processes have kept, but have not been able to report."""
    for key, row in log.rows(left).items():
        if row is not None:
            del left[key]
            yield key, row


def end_processes() -> None:
    """End the processes that joblib has started here, which close the resources that they have."""
    with contextlib.suppress(ModuleNotFoundError):  # then it has started none
        from joblib.externals.loky import get_reusable_executor  # noqa: PLC0415  # an extra

        get_reusable_executor(reuse=True).shutdown(wait=True)


def _run_batch(
    run: Callable[[T], Row], log: TrialLog, having: Having | None, parent: int | None, tasks: Sequence[T]
) -> list[tuple[str, Row, float]]:
    around: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if parent is None:
        around = around if having is None else having()
    elif parent != os.getpid():  # where joblib starts none, this is the process of the run
        _end_with(parent)
        if having is not None:
            _have(having)
    done = []
    with around:
        for task in tasks:
            log.begin(task.key)
            row = run(task)
            log.keep(task.key, row)
            done.append((task.key, row, float(row["seconds"])))
    return done


_had: set[str] = set()


def _have(having: Having) -> None:
    """Let this process have the resources of the run until it ends."""
    if having.run_id not in _had:
        _had.add(having.run_id)
        holding = contextlib.ExitStack()
        holding.enter_context(having())
        Finalize(None, holding.close, exitpriority=1)


@cache
def _end_with(parent: int) -> None:
    """Let this process end soon after the one that started it: left alone, it would wait for minutes for more to do."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Batches(Generic[T]):
    """The tasks in batches of about two seconds of work, as soon as it is known how long one takes."""

    def __init__(self, tasks: Sequence[T], jobs: int, stops: Callable[[], bool] | None) -> None:
        self._tasks = tasks
        self._jobs = jobs
        self._stops = stops
        self._seconds: list[float] = []

    def took(self, done: Sequence[tuple[str, Row, float]]) -> None:
        self._seconds = [*self._seconds, *(seconds for _, _, seconds in done)][-50:]

    def __iter__(self) -> Iterator[Sequence[T]]:
        place = 0
        while place < len(self._tasks):
            if self._stops is not None:
                if self._stops():
                    return
                yield self._tasks[place : place + 1]
                place += 1
                continue
            known = list(self._seconds)
            size = 1 if not known else int(BATCH_SECONDS / max(fmean(known), 1e-4))
            # The last ones are small, so that the processes end together.
            size = max(1, min(size, (len(self._tasks) - place) // (2 * self._jobs)))
            yield self._tasks[place : place + size]
            place += size


@contextlib.contextmanager
def _backend(joblib: Any, kind: str, address: str | None) -> Iterator[None]:
    options: Mapping[str, Any] = {}
    closing = contextlib.ExitStack()
    if kind == "dask":
        options = {"wait_for_workers_timeout": 30}
        closing.enter_context(_dask(address))
    elif kind == "ray":
        _connect_to_ray(address)
    with closing, _as_no_daemon(), joblib.parallel_config(kind, **options):
        yield


@contextlib.contextmanager
def _as_no_daemon() -> Iterator[None]:
    """In a process of a pool, such as Celery's, joblib starts no processes: a pool would not end them.

    The processes of this module end by themselves, so joblib is told that this process is not of a pool.
    """
    config: dict[str, Any] = getattr(multiprocessing.current_process(), "_config", {})
    before = dict(config)
    config["daemon"] = False
    try:
        yield
    finally:
        config.clear()
        config.update(before)


def _dask(address: str | None) -> Any:
    try:
        from distributed import Client  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("running trials on Dask", "dask") from error
    try:
        return Client(address, timeout=ANSWER_SECONDS)
    except (OSError, ValueError) as error:
        raise CrucibleError(f"the Dask scheduler at {address} does not answer: {error}") from error


def _connect_to_ray(address: str | None) -> None:
    try:
        import ray  # noqa: PLC0415  # an extra
        from ray.util.joblib import register_ray  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError("running trials on Ray", "ray") from error
    register_ray()
    if not ray.is_initialized():
        try:
            _check_port(address or os.environ.get("RAY_ADDRESS") or "")
            ray.init(address=address)
        except (OSError, ValueError) as error:
            raise CrucibleError(f"the Ray cluster at {address} does not answer: {error}") from error


def _check_port(address: str) -> None:
    """Raises OSError if the address has a port and nothing listens there: Ray itself takes a minute, and then exits."""
    host, _, port = address.rpartition("://")[2].rstrip("/").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
