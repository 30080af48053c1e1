"""`python -m deploy.local up|down|status`, which `make up`, `make down` and `make status` call."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import random
import socket
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from crucible_core import CrucibleError
from crucible_dagster.service.logins import make_logins
from deploy.local.programs import with_programs
from deploy.local.settings import DEPLOY, ROOT, Settings, UsageError, write_private
from deploy.local.supervision import Supervisor
from deploy.local.topology import PORTS, Service, services_of

PATIENCE = 300.0


def main() -> int:
    """Return 0 if it worked, 1 if a service is not healthy, 2 if the command cannot be done."""
    parser = argparse.ArgumentParser(prog="deploy.local", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / ".crucible" / "service", help="the folder for all files")
    parser.add_argument("--settings", type=Path, default=DEPLOY / ".env", help="the settings file, as for compose")
    parser.add_argument("action", choices=["up", "down", "status"])
    given = parser.parse_args()
    folder = given.folder.resolve()
    os.umask(0o077)
    try:
        if given.action == "status":
            return status(Supervisor(folder))
        with _alone(folder):
            return up(folder, given.settings.resolve()) if given.action == "up" else down(Supervisor(folder))
    except (UsageError, CrucibleError) as error:
        print(error, file=sys.stderr)
        return 2


def up(folder: Path, file: Path) -> int:
    """Start what is not running, wait until every service is healthy, and print the addresses."""
    settings = Settings.read(folder, file)
    supervisor = Supervisor(folder)
    for name in ("crucible/store", "crucible/reports", "dagster/storage"):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    for file_of_instance in ("dagster.yaml", "workspace.yaml"):
        (folder / "dagster" / file_of_instance).write_text((DEPLOY / file_of_instance).read_text())
    (folder / "logins").mkdir(mode=0o700, exist_ok=True)
    passwords = make_logins(folder / "logins")
    ports = _ports(supervisor, settings)
    services = [with_programs(service, settings, ports) for service in services_of(settings, ports)]
    supervisor.configure(services)
    _write_environment(folder, services)
    supervisor.start()
    if not _wait(supervisor, services):
        return 1
    proxy = next(service for service in services if service.name == "proxy")
    print(f"\nThe UI:       {proxy.environment['CRUCIBLE_SCHEME']}://{proxy.environment['CRUCIBLE_LISTEN']}")
    print(f"The settings: {folder}/environment, for commands such as `crucible runs`:")
    print(f"              (set -a; . {folder}/environment; crucible runs)")
    for name, password in passwords.items():
        print(f"Password of {name + ':':10} {password}")
    if passwords:
        print("They are not shown again, and only their hashes are kept.")
    return 0


def down(supervisor: Supervisor) -> int:
    """Stop everything, after waiting for runs in flight."""
    if supervisor.is_running():
        print("stopping; waiting for runs in flight")
        supervisor.stop()
    print("everything is stopped")
    return 0


def status(supervisor: Supervisor) -> int:
    """Print the state of each service; return 0 if all are healthy."""
    if not supervisor.is_running():
        print("nothing is running: make up")
        return 1
    rows, well = _rows(supervisor)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip())
    return 0 if well else 1


def _rows(supervisor: Supervisor) -> tuple[list[tuple[str, ...]], bool]:
    rows: list[tuple[str, ...]] = [("service", "state", "pid", "up for", "said")]
    well = True
    for name, process in supervisor.processes().items():
        state, said = supervisor.state(name, process)
        well &= state in {"well", "done"}
        is_up = process["statename"] == "RUNNING"
        age = str(timedelta(seconds=process["now"] - process["start"])) if is_up else ""
        rows.append((name, state, str(process["pid"] or ""), age, said.splitlines()[-1] if said else ""))
    return rows, well


def _wait(supervisor: Supervisor, services: list[Service]) -> bool:
    waiting = {service.name for service in services}
    deadline = time.monotonic() + PATIENCE
    while True:
        processes = supervisor.processes()
        states = {name: supervisor.state(name, processes[name])[0] for name in waiting if name in processes}
        for name in sorted(name for name, state in states.items() if state in {"well", "done"}):
            print(f"{name}: {states[name]}", flush=True)
            waiting.discard(name)
        if not waiting:
            return True
        if time.monotonic() > deadline or "fatal" in states.values():
            for name in sorted(waiting):
                print(f"{name}: {states.get(name, 'missing')}; its log: {supervisor.log(name)}", file=sys.stderr)
            return False
        time.sleep(0.2)


def _ports(supervisor: Supervisor, settings: Settings) -> dict[str, int]:
    """A port for each service. Users know the proxy's port; the others must not change while services run."""
    file = settings.folder / "ports.json"
    known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    wanted = int(settings.values.get("CRUCIBLE_PORT") or 3000)
    if not supervisor.is_running():
        if not _is_free(wanted):
            raise UsageError(f"port {wanted} is taken by another program. Set CRUCIBLE_PORT to a free one")
        known = {name: port for name, port in known.items() if _is_free(port)}
    for name in PORTS:
        while name not in known or (name != "proxy" and known[name] == wanted):
            # Below the ports that the kernel uses for outgoing connections, which could take this one.
            port = random.randint(20_000, 32_000)  # noqa: S311
            if port not in known.values() and port != wanted and _is_free(port):
                known[name] = port
    known["proxy"] = wanted
    write_private(file, json.dumps(known))
    return known


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _write_environment(folder: Path, services: list[Service]) -> None:
    server = next(service for service in services if service.name == "code-server")
    lines = [
        f"{name}='" + value.replace("'", "'\\''") + "'"
        for name, value in server.environment.items()
        if name.startswith(("CRUCIBLE_", "DAGSTER_", "CELERY_"))
    ]
    write_private(folder / "environment", "\n".join(lines) + "\n")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder: two at once would start everything twice. Other users, if this is root, may only enter it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
