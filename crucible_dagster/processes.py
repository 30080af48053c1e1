"""Which process executes a run, whether it is still alive, and how the processes of its steps start."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from crucible_dagster.dagster_internals import role_of_this_process

__all__ = ["is_elsewhere", "is_gone", "pool_of_this_step", "without_the_script", "worker_of_this_step"]


def worker_of_this_step() -> str:
    """Host, process id and start of the process that executes the run: this one, or the one that started it for a step.

    The parent of the process that executes a run is not the worker: it is a code server, which starts many.
    """
    parent = multiprocessing.parent_process() if role_of_this_process() == "step" else None
    pid = os.getpid() if parent is None or parent.pid is None else parent.pid
    return f"{socket.gethostname()} {pid} {_start_of(pid) or ''}".strip()


def pool_of_this_step() -> int | None:
    """The process id of the Celery worker that this process belongs to; None if it belongs to none."""
    billiard = sys.modules.get("billiard")  # Celery's multiprocessing
    return os.getppid() if billiard is not None and billiard.current_process().daemon else None


def is_gone(worker: str) -> bool:
    """Whether the process is known to have ended; False on another host, or if the system does not say."""
    host, _, rest = worker.partition(" ")
    pid, _, start = rest.partition(" ")
    if host != socket.gethostname() or not pid.isdigit() or not start:
        return False
    return _start_of(int(pid)) != start


def is_elsewhere(worker: str) -> bool:
    """Whether the process is, or was, on another host."""
    return worker.partition(" ")[0] != socket.gethostname()


_starting_steps: ContextVar[bool] = ContextVar("crucible_starting_steps", default=False)


class _Script(ModuleType):
    """`__main__` without its file and name, for multiprocessing, where the processes of steps are started."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"__file__", "__spec__"} and _starting_steps.get():
            return None
        return super().__getattribute__(name)


@contextlib.contextmanager
def without_the_script() -> Iterator[None]:
    """Keep processes that this thread starts from running this process's script again, as multiprocessing would do.

    The stages of such a run are imported from modules, so its steps need nothing from the script. And a script without
    `if __name__ == "__main__":` would start its run again in each of them.
    """
    script = sys.modules["__main__"]
    if type(script) is ModuleType:
        script.__class__ = _Script
    token = _starting_steps.set(True)
    try:
        yield
    finally:
        _starting_steps.reset(token)


def _start_of(pid: int) -> str | None:
    """When the process started, in ticks since the system start; needed because process ids are reused."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The second field, the program's name, may contain spaces and brackets.
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]
