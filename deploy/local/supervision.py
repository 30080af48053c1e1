"""supervisord: writes its settings, and talks to it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from deploy.local.health import read
from deploy.local.settings import UsageError, write_private
from deploy.local.topology import Service

__all__ = ["HEALTH", "Supervisor"]

HERE = Path(__file__).parent
HEALTH = "health"
_LONGEST_SOCKET = 100  # bytes; Linux allows 107 for the path of a socket


class Supervisor:
    """The supervisord of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = folder / "supervisor.sock"
        self._settings = folder / "supervisord.conf"

    def configure(self, services: Sequence[Service]) -> None:
        """Write the settings for these services; they take effect with `start`."""
        if len(os.fsencode(self._socket)) > _LONGEST_SOCKET:
            raise UsageError(
                f"the path {self.folder} is too long for a socket. Name a shorter one: make up SERVICE=..."
            )
        kept = {f"{service.name}.json" for service in services}
        for name in ("services", "health", "logs"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        for file in (self.folder / "services").glob("*.json"):
            if file.name not in kept:
                file.unlink()
        parts = [self._own_part(), self._program(HEALTH, [str(HERE / "health.py"), str(self.folder)], priority=1)]
        for priority, service in enumerate(services, 2):
            file = self.folder / "services" / f"{service.name}.json"
            text = json.dumps(asdict(service), sort_keys=True)
            write_private(file, text)
            # With the digest in the command, supervisord restarts a service whose settings have changed.
            digest = hashlib.sha256(text.encode()).hexdigest()[:12]
            parts.append(self._program(service.name, [str(HERE / "start.py"), str(file), digest], priority, service))
        write_private(self._settings, "\n".join(parts))

    def start(self) -> None:
        """Start supervisord, or have it reload what `configure` wrote, which restarts only what has changed."""
        if self.is_running():
            self._run("supervisor.supervisorctl", "update")
            return
        shutil.rmtree(self.folder / "health", ignore_errors=True)
        (self.folder / "health").mkdir(mode=0o700)
        for file in (self.folder / "services").glob("*.pid"):
            file.unlink()  # after a reboot, the process id may belong to another program
        self._run("supervisor.supervisord")

    def is_running(self) -> bool:
        """Whether supervisord answers."""
        try:
            self._ask("getState")
        except OSError:
            return False
        return True

    def processes(self) -> dict[str, dict[str, Any]]:
        """What supervisord says about each program: its state, its start time, its process id."""
        return {one["name"]: one for one in self._ask("getAllProcessInfo")}

    def state(self, name: str, process: Mapping[str, Any]) -> tuple[str, str]:
        """The state of the service in one word, and the output of its check or start; `process` is from `processes`."""
        known = read(self.folder / "health", name)
        if process["statename"] == "EXITED" and known is not None:
            return "done", ""
        if process["statename"] != "RUNNING":
            return process["statename"].lower(), process["spawnerr"]
        if name == HEALTH:
            return "well", ""
        if known is None:
            return "starting", ""
        return ("well", "") if known["healthy"] else ("unwell", known["said"])

    def stop(self) -> None:
        """Have supervisord stop everything in reverse order, and wait until it has ended."""
        pid = self._ask("getPID")
        self._ask("shutdown")
        while self._lives(pid):
            time.sleep(0.2)

    def log(self, name: str) -> Path:
        """Where a program's output goes."""
        return self.folder / "logs" / f"{name}.log"

    def _ask(self, method: str) -> Any:
        server = xmlrpc.client.ServerProxy(
            "http://127.0.0.1", transport=SupervisorTransport(None, None, f"unix://{self._socket}")
        )
        with server:
            return getattr(server.supervisor, method)()

    def _lives(self, pid: int) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return not Path(f"/proc/{pid}/stat").exists() or ") Z " not in Path(f"/proc/{pid}/stat").read_text()
        return False

    def _run(self, module: str, *arguments: str) -> None:
        ended = subprocess.run(
            [sys.executable, "-m", module, "-c", str(self._settings), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode != 0:
            raise UsageError(f"supervisord: {(ended.stderr or ended.stdout).strip()}")

    def _own_part(self) -> str:
        folder = _escaped(str(self.folder))
        as_root = "user=root\n" if os.geteuid() == 0 else ""
        return (
            f"[unix_http_server]\nfile={folder}/supervisor.sock\nchmod=0700\n\n"
            f"[supervisord]\nlogfile={folder}/logs/supervisord.log\npidfile={folder}/supervisord.pid\n"
            f"childlogdir={folder}/logs\nnocleanup=true\numask=077\n{as_root}\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\n"
            f"[supervisorctl]\nserverurl=unix://{folder}/supervisor.sock\n"
        )

    def _program(self, name: str, arguments: list[str], priority: int, service: Service | None = None) -> str:
        once = service is not None and service.check is None
        settings = {
            "command": _escaped(shlex.join([sys.executable, *arguments])),
            "directory": _escaped(str(self.folder)),
            "priority": priority,
            "autorestart": "unexpected" if once else "true",
            "exitcodes": 0,
            "startsecs": 1 if service is None or not once else 0,
            "startretries": 1_000_000,
            "stopsignal": "TERM" if service is None else service.signal,
            "stopwaitsecs": 10 if service is None else int(service.grace),
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": _escaped(str(self.log(name))),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": 3,
        }
        return "\n".join([f"[program:{name}]", *(f"{key}={value}" for key, value in settings.items()), ""])


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
