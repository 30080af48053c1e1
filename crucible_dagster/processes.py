"""Which process runs a run, and whether it is still alive."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

__all__ = ["is_elsewhere", "is_gone", "worker_of_this_step"]


def worker_of_this_step() -> str:
    """Host, process id and start of the process that runs the run: this one, or the one that started it for a step."""
    parent = multiprocessing.parent_process()
    pid = os.getpid() if parent is None or parent.pid is None else parent.pid
    return f"{socket.gethostname()} {pid} {_start_of(pid) or ''}".strip()


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


def _start_of(pid: int) -> str | None:
    """When the process started, in ticks since the system did: process ids are used again."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The second field, the name of the program, may hold blanks and brackets itself.
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]
