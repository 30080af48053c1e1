"""Starts one service when those it waits for are healthy; supervisord runs `start.py SERVICE.json DIGEST`.

This process becomes the service itself, so that supervisord sees, stops and restarts the service. If supervisord is
killed, the service ends instead of holding its port for ever.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Wait, then become the service; if it is a program that ends, run it to its end."""
    file = Path(sys.argv[1])
    service: dict[str, Any] = json.loads(file.read_text())
    name, health = service["name"], file.parent.parent / "health"
    pid = file.with_suffix(".pid")
    if service["ends_leftovers"] and pid.exists():
        _end_leftovers(int(pid.read_text()), Path(service["command"][0]).name)
    pid.write_text(str(os.getpid()))
    is_done = service["check"] is None and _is_well(health, name)
    if is_done:
        return  # a program that ends, such as one that creates tables, runs only once
    with suppress(FileNotFoundError):
        (health / f"{name}.json").unlink()  # it does not count as healthy before the next check
    for other in service["waits_for"]:
        while not _is_well(health, other):
            time.sleep(0.2)
    os.chdir(service["folder"])
    if service["check"] is None:
        ended = subprocess.run(service["command"], env=service["environment"], check=False)
        if ended.returncode == 0:
            new = health / f".{name}"
            new.write_text(json.dumps({"healthy": True, "at": time.time(), "said": "done"}))
            new.replace(health / f"{name}.json")
        sys.exit(ended.returncode)
    if service["user"] is not None and os.geteuid() == 0:
        entry = pwd.getpwnam(service["user"])
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    _end_with_parent(service["signal"])
    os.execvpe(service["command"][0], service["command"], service["environment"])


def _is_well(health: Path, name: str) -> bool:
    try:
        return bool(json.loads((health / f"{name}.json").read_text())["healthy"])
    except (OSError, ValueError):
        return False


def _end_with_parent(how: str) -> None:
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(getattr(signal, f"SIG{how}")))
        if os.getppid() != parent:  # the parent ended just before the call
            sys.exit(1)


def _end_leftovers(group: int, program: str) -> None:
    """Kill what the previous process left behind in its process group: nginx's workers would hold its port."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            if name == program[:15] and int(rest.split()[2]) == group:
                os.kill(int(entry.name), signal.SIGKILL)


if __name__ == "__main__":
    main()
