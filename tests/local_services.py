"""The services of `make up` in a folder of their own, for tests and programs that ask, disturb and end them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from children import clean_environment
from postgres import free_port

from deploy.local.supervision import Supervisor

__all__ = ["ROOT", "LocalServices", "environment_of_services", "local"]

ROOT = Path(__file__).parent.parent


def environment_of_services(experiments: Path, importable: str, **settings: str) -> dict[str, str]:
    """What `make up` is started with: these experiments and settings, a free port, and nothing that is set here."""
    return {
        **clean_environment(),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "CRUCIBLE_EXPERIMENTS_FOLDER": str(experiments),
        "CRUCIBLE_IMPORTABLE": importable,
        "CRUCIBLE_PORT": str(free_port()),
        **settings,
    }


def local(
    folder: Path, environment: Mapping[str, str], action: str, root: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """`make up`, `make down` or `make status`, with the deploy/ that lies in `root`."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", "--folder", folder, "--settings", folder / "no.env", action],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


@dataclass
class LocalServices:
    """What `make up` starts, or has started."""

    folder: Path
    environment: Mapping[str, str]
    root: Path = ROOT

    def command(self, action: str) -> subprocess.CompletedProcess[str]:
        return local(self.folder, self.environment, action, self.root)

    def states(self) -> dict[str, str]:
        """What `make status` says of each service, without a process for every question."""
        known = Supervisor(self.folder)
        return {name: known.state(name, process)[0] for name, process in known.processes().items()}

    def pids(self) -> dict[str, int]:
        """The processes of the services that are well."""
        known = Supervisor(self.folder)
        return {name: one["pid"] for name, one in known.processes().items() if known.state(name, one)[0] == "well"}

    def processes(self) -> dict[str, int]:
        """The processes that run now, well or not."""
        found = Supervisor(self.folder).processes()
        return {name: process["pid"] for name, process in found.items() if process["pid"]}

    def supervisor(self, *words: str) -> None:
        """`supervisorctl`, as an operator who knows it would use it."""
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.folder / "supervisord.conf")]
        subprocess.run([*command, *words], capture_output=True, check=True, timeout=400)

    def settings(self) -> dict[str, str]:
        """What deploy/README.md has commands started with."""
        return dict(re.findall(r"(?m)^(\w+)='(.*)'$", (self.folder / "environment").read_text()))

    def crucible(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command on the instance of the services."""
        return subprocess.run(
            [Path(sys.executable).with_name("crucible"), *words],
            cwd=self.environment["CRUCIBLE_EXPERIMENTS_FOLDER"],
            env={**self.environment, "DAGSTER_HOME": str(self.folder / "dagster"), **self.settings()},
            capture_output=True,
            text=True,
            check=False,
        )

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What the database answers."""
        given = self.settings()
        connection = psycopg2.connect(
            user=given["DAGSTER_PG_USER"],
            password=given["DAGSTER_PG_PASSWORD"],
            host="127.0.0.1",
            port=given["DAGSTER_PG_PORT"],
            dbname=given["DAGSTER_PG_DB"],
        )
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def logs(self) -> str:
        """The end of what each of them said."""
        files = sorted((self.folder / "logs").glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)
