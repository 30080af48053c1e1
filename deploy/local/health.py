"""Checks the health of the services, as docker does: `health.py FOLDER`, one of supervisord's programs.

The check of the code server also has its definitions loaded again if the process that had them was killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LOOK = 0.5


@dataclass
class _Asked:
    at: float = 0.0
    took: float = 0.0
    failed: int = 0


def main() -> None:
    """Check as long as supervisord is alive: healthy services at their interval, the others often."""
    supervisor = os.getppid()
    folder = Path(sys.argv[1])
    asked: dict[str, _Asked] = {}
    while os.getppid() == supervisor:
        for file in sorted((folder / "services").glob("*.json")):
            service = json.loads(file.read_text())
            if service["check"] is not None:
                _ask(service, folder / "health", asked.setdefault(service["name"], _Asked()))
        time.sleep(_LOOK)


def _ask(service: dict[str, Any], health: Path, asked: _Asked) -> None:
    known = read(health, service["name"])
    check = service["check"]
    # A check that imports Dagster slows down the start of services: it must not use more than half of the time.
    interval = max(check["interval_at_start"], asked.took)
    if known and known["healthy"] and not asked.failed:
        interval = check["interval"]
    if time.monotonic() - asked.at < interval:
        return
    if not all((read(health, other) or {}).get("healthy") for other in service["waits_for"]):
        return
    began = time.time()
    try:
        ended = subprocess.run(
            check["command"],
            env=service["environment"],
            cwd=service["folder"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=check["timeout"],
            check=False,
        )
        said, well = ended.stdout.decode(errors="replace").strip()[-500:], ended.returncode == 0
    except subprocess.TimeoutExpired:
        said, well = f"no answer within {check['timeout']:g} seconds", False
    asked.at, asked.took = time.monotonic(), time.time() - began
    asked.failed = 0 if well else asked.failed + 1
    if known is not None and read(health, service["name"]) is None:
        return  # the service was restarted meanwhile
    # A healthy service counts as unhealthy only after several failed checks.
    still = known is not None and known["healthy"] and asked.failed < check["retries"]
    write(health, service["name"], {"healthy": well or still, "at": began, "said": said})


def read(health: Path, name: str) -> dict[str, Any] | None:
    """The health of a service since its start; None before the first check."""
    try:
        known: dict[str, Any] = json.loads((health / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return known


def write(health: Path, name: str, known: dict[str, Any]) -> None:
    """Store the health of a service, atomically."""
    new = health / f".{name}"
    new.write_text(json.dumps(known))
    new.replace(health / f"{name}.json")


if __name__ == "__main__":
    main()
