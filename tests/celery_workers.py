"""Celery as it is deployed: a Redis, and workers that share nothing with a run but it, the database and the store."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from postgres import free_port

__all__ = ["PASSWORD", "Redis", "Worker", "redis_server", "workers"]

BIN = Path(sys.executable).parent
TESTS = Path(__file__).parent
PASSWORD = f"redis-{secrets.token_hex(8)}"


class Redis:
    """The one of Debian's `redis-server`, in memory only, with a password: what it holds is lost when it is killed."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed: apt-get install redis-server")
        self._log = folder / "redis.log"
        port = str(free_port())
        self._command = (program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD)
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
        self.start()

    def start(self) -> None:
        """Start it, again after it was killed, and wait until it answers."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log)
        wait_until(lambda: b"Ready to accept connections" in self._log.read_bytes())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(timeout=30)

    def has_key(self, pattern: str) -> bool:
        """Whether there is a key like that, such as that of a queue with messages."""
        with redis.Redis.from_url(self.url) as client:
            return bool(client.keys(pattern))


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[Redis]:
    """One whose log lies in the folder."""
    started = Redis(folder)
    try:
        yield started
    finally:
        started.kill()


class Worker:
    """A `dagster-celery worker` with one process for steps, in a working directory of its own."""

    def __init__(self, folder: Path, *queues: str) -> None:
        self.folder = folder
        self._queues = ("-q", ",".join(("dagster", *queues)))  # Celery hears only the last of several -q
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        self._environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": path}
        folder.mkdir()
        self.start()

    def start(self) -> None:
        """Start it, again after it was killed."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(BIN / "dagster-celery", "worker", "start", "-A", "dagster_celery.app", *self._queues),
                    *("-i", "crucible_dagster.execution", "--", "--concurrency", "1", "--disable-prefetch"),
                    *("--without-mingle", "--without-gossip"),  # a second of waiting for other workers
                ],
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started = self.log.stat().st_size

    def wait(self) -> None:
        """Wait until it takes steps."""
        wait_until(lambda: b" ready." in self.log.read_bytes()[self._started :] or self._process.poll() is not None)
        assert self._process.poll() is None, self.log.read_text()

    @property
    def main(self) -> psutil.Process:
        """Celery's process, which talks to the broker."""
        (found,) = psutil.Process(self._process.pid).children()
        return found

    @property
    def child(self) -> psutil.Process:
        """The process that runs the steps."""
        (found,) = self.main.children()
        return found

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)


@contextlib.contextmanager
def workers(folder: Path, *queues: str) -> Iterator[tuple[Worker, Worker]]:
    """Two of them, the second of which also takes the steps of `queues`."""
    first, second = made = Worker(folder / "first"), Worker(folder / "second", *queues)
    try:
        for one in made:
            one.wait()
        yield first, second
    finally:
        for one in made:
            one.end()


def wait_until(is_so: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
