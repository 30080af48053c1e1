"""Which process runs a run, whether it is still alive, and what the processes of its steps begin with."""

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
    """Host, process id and start of the process that runs the run: this one, or the one that started it for a step.

    The parent of the process that runs a run is no worker: it is a code server, which starts many.
    """
    parent = multiprocessing.parent_process() if role_of_this_process() == "step" else None
    pid = os.getpid() if parent is None or parent.pid is None else parent.pid
    return f"{socket.gethostname()} {pid} {_start_of(pid) or ''}".strip()


def pool_of_this_step() -> int | None:
    """The process id of the Celery worker that this process belongs to; None if it belongs to none."""
    billiard = sys.modules.get("billiard")  # Celery's multiprocessing
    return os.getppid() if billiard is not None and billiard.current_process().daemon else None


def is_gone(worker: str) -> bool:
    """Whether the process is known to have ended; False for one of another host, or if the system does not say."""
    host, _, rest = worker.partition(" ")
    pid, _, start = rest.partition(" ")
    if host != socket.gethostname() or not pid.isdigit() or not start:
        return False
    return _start_of(int(pid)) != start


def is_elsewhere(worker: str) -> bool:
    """Whether the process is, or was, another host's."""
    return worker.partition(" ")[0] != socket.gethostname()


_starting_steps: ContextVar[bool] = ContextVar("crucible_starting_steps", default=False)


class _Script(ModuleType):
    """`__main__`, of which multiprocessing sees neither file nor name where the processes of steps are started."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"__file__", "__spec__"} and _starting_steps.get():
            return None
        return super().__getattribute__(name)


@contextlib.contextmanager
def without_the_script() -> Iterator[None]:
    """Processes that this thread starts do not run the script of this one again, as multiprocessing has them do.

    The stages of such a run are imported from modules, so its steps need nothing of the script; and a script without
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
    """When the process started, in ticks since the system did: process ids are used again."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The second field, the name of the program, may hold blanks and brackets itself.
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]
