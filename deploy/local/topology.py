"""The services of compose.yaml, with their paths, hosts and ports as they are on this machine."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from deploy.local.settings import DEPLOY, ROOT, Settings

__all__ = ["PORTS", "Check", "Service", "services_of"]

PORTS = {"database": 5432, "code-server": 4000, "webserver": 3000, "viewer": 3001, "proxy": 8080, "broker": 6379}
"""The ports in the containers; wherever one occurs in the file, it means that service."""

_KEPT = ("HOME", "USER", "LANG", "TZ", "TMPDIR")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True)
class Check:
    """A health check: a command that exits with 0 if the service is healthy. Times are in seconds."""

    command: tuple[str, ...]
    interval: float
    timeout: float
    retries: int
    interval_at_start: float = 1.0


@dataclass(frozen=True)
class Service:
    """A process that is kept running; without a check, a program that has to run once and succeed."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    folder: str
    waits_for: tuple[str, ...]
    check: Check | None
    grace: float
    """Seconds that stopping the service may take."""
    signal: str = "TERM"
    user: str | None = None
    """The user that root starts it as; PostgreSQL refuses to run as root."""
    ends_leftovers: bool = False
    """Whether children stay when the service is killed, and would hold its port."""


def services_of(settings: Settings, ports: Mapping[str, int]) -> list[Service]:
    """The services to start with these settings, each after the ones it waits for.

    Commands, environments, checks and order are those of compose.yaml. Only PostgreSQL, the broker and the proxy, for
    which compose uses third-party images, still need commands of this machine.
    """
    written: dict[str, dict[str, Any]] = YAML(typ="safe").load(DEPLOY / "compose.yaml")["services"]
    started = {name: one for name, one in written.items() if settings.profiles.issuperset(one.get("profiles", ()))}
    replicas = {
        name: [f"{name}-{number + 1}" for number in range(one["scale"])] if "scale" in one else [name]
        for name, one in started.items()
    }
    here = _Here(settings, ports)
    made: list[Service] = []
    for name, one in started.items():
        waits_for = tuple(sorted(replica for other in one.get("depends_on", ()) for replica in replicas[other]))
        made += [replace(here.service(replica, one), waits_for=waits_for) for replica in replicas[name]]
    return _in_order(made)


class _Here:
    """Translates paths, hosts and ports of compose.yaml to those of this machine."""

    def __init__(self, settings: Settings, ports: Mapping[str, int]) -> None:
        self._settings = settings
        folder = str(settings.folder).replace("$", "$$")
        words = {
            "/srv/crucible/experiments": "${CRUCIBLE_EXPERIMENTS_FOLDER}",
            "/srv/tls/certificate.pem": "${CRUCIBLE_TLS_CERTIFICATE-}",
            "/srv/tls/key.pem": "${CRUCIBLE_TLS_KEY-}",
            "/srv/": f"{folder}/",
            "/tmp": f"{folder}/proxy",  # noqa: S108  # the folder that the proxy's container may write to
            "0.0.0.0:8080": f"${{CRUCIBLE_ADDRESS:-127.0.0.1}}:{ports['proxy']}",
            "0.0.0.0": "127.0.0.1",  # noqa: S104  # the address that programs in a container listen on
        }
        for name, port in PORTS.items():
            words[f"{name}:{port}"] = f"127.0.0.1:{ports[name]}"
            words[str(port)] = str(ports[name])
        self._words = words
        longest_first = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<![\w.])(?:{longest_first})(?!\w)|(?<![\w.])/srv/")

    def text(self, written: str) -> str:
        """A text of the file for this machine. Variables are replaced last, so that passwords stay as they are."""
        return self._settings.interpolated(self._pattern.sub(lambda found: self._words[found[0]], written))

    def service(self, name: str, written: Mapping[str, Any]) -> Service:
        environment = {variable: os.environ[variable] for variable in _KEPT if variable in os.environ}
        environment |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        environment |= {"PYTHONUNBUFFERED": "1", "HOSTNAME": name}
        environment |= {
            variable: "127.0.0.1" if value in PORTS else self.text(value)
            for variable, value in written.get("environment", {}).items()
        }
        check = written.get("healthcheck")
        return Service(
            name=name,
            # Here all replicas have the same host name, so the service's name is used instead.
            command=tuple(self.text(word).replace("%h", name) for word in written.get("command", ())),
            environment=environment,
            folder=str(self._settings.folder),
            waits_for=(),
            check=None if check is None else self._check(check),
            grace=seconds(self.text(written.get("stop_grace_period", "10s"))),
        )

    def _check(self, written: Mapping[str, Any]) -> Check:
        kind, *words = (self.text(word) for word in written["test"])
        return Check(
            command=tuple(words) if kind == "CMD" else ("/bin/sh", "-c", *words),
            interval=seconds(written["interval"]),
            timeout=seconds(written["timeout"]),
            retries=written["retries"],
        )


def seconds(duration: str) -> float:
    """A duration as compose writes it: 1h, 30s, 1m30s."""
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([hms])", duration))


def _in_order(services: list[Service]) -> list[Service]:
    ordered: list[Service] = []
    while len(ordered) < len(services):
        names = {service.name for service in ordered}
        ordered += [one for one in services if one.name not in names and names.issuperset(one.waits_for)]
    return ordered
