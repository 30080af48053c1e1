"""Commands of a test in processes that have Dagster imported already, which takes two seconds of CPU each otherwise.

A server forks one for each command. It is a process like that of the command itself: its own working directory,
environment, arguments, import path and output, the real script of `crucible` as its `__main__`, and an end like any
other's. Tests of what a command imports, of signals, of terminals and of several processes at once start the real one.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["crucible", "python"]

HERE = Path(__file__).parent
CRUCIBLE = str(Path(sys.executable).with_name("crucible"))


def crucible(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run([CRUCIBLE, *arguments], capture_output=True, text=True)` returns."""
    return python(CRUCIBLE, *arguments, cwd=cwd, env=env, timeout=timeout)


def python(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """The same for `python`: a script and its arguments, or `-c`, a program and its arguments."""
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        Path(os.devnull).open("rb") as nothing,
    ):
        command = {
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
        }
        code = _server().run(command, [nothing.fileno(), out.fileno(), err.fileno()], timeout)
        out.seek(0)
        err.seek(0)
        said = [one.read().decode().replace("\r\n", "\n") for one in (out, err)]
    return subprocess.CompletedProcess([sys.executable, *arguments], code, *said)


@functools.cache
def _server() -> _Server:
    return _Server()


class _Server:
    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        found = [str(HERE), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import commands; commands.serve({theirs.fileno()})"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found))},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        atexit.register(self._end)

    def run(self, command: Mapping[str, object], streams: Sequence[int], timeout: float) -> int:
        text = json.dumps(command).encode()
        socket.send_fds(self._socket, [len(text).to_bytes(8, "big")], list(streams))
        self._socket.sendall(text)
        pid = self._answer(60)
        try:
            return self._answer(timeout)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            self._answer(60)
            raise

    def _answer(self, seconds: float) -> int:
        ready, _, _ = select.select([self._socket], [], [], seconds)
        if not ready:
            raise TimeoutError(f"no end after {seconds} s")
        return int.from_bytes(_received(self._socket, 8), "big", signed=True)

    def _end(self) -> None:
        self._socket.close()
        self._process.wait(timeout=30)


IMPORTED_LATER = [
    "crucible_core.cli.commands",
    "crucible_core.cli.terminal",
    "crucible_core.report.render",
    "crucible_core.stages.report",
    "crucible_core.stages.validate",
    "crucible_dagster.cli.commands",
    "crucible_dagster.cli.rerun",
    "crucible_dagster.cli.runner",
    "crucible_dagster.cli.runs",
    "dagster._daemon",
]

# --- the server -------------------------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Fork a process for each command, wait for it and tell its exit code, until the tests are over."""
    # The import path of a command is made of its own PYTHONPATH and of what Python adds to it.
    own = {"", *os.environ["PYTHONPATH"].split(os.pathsep)}
    base = [place for place in sys.path if place not in own]
    _import()
    with socket.socket(fileno=descriptor) as tests:
        while True:
            size, streams, _, _ = socket.recv_fds(tests, 8, 3)
            if not size:
                return
            command = json.loads(_received(tests, int.from_bytes(size, "big")))
            pid = os.fork()
            if pid == 0:
                tests.detach()
                os.close(descriptor)
                break
            for stream in streams:
                os.close(stream)
            tests.sendall(pid.to_bytes(8, "big", signed=True))
            _, status = os.waitpid(pid, 0)
            tests.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
    _be(command["arguments"], command["cwd"], command["environment"], base, streams)


def _import() -> None:
    """What nearly every command on Dagster imports, and what Dagster imports when it first opens SQLite."""
    for name in IMPORTED_LATER:
        importlib.import_module(name)
    from dagster import DagsterInstance
    from migration_scripts import read_migration_scripts_once

    read_migration_scripts_once()
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        with DagsterInstance.from_config(home) as instance:
            instance.get_runs_count()
            instance.all_asset_keys()
    gc.freeze()


def _be(
    arguments: list[str], cwd: str, environment: Mapping[str, str], base: list[str], streams: Sequence[int]
) -> None:
    """Be the process of the command, to its end."""
    for target, source in enumerate(streams):
        os.dup2(source, target)
        os.close(source)
    sys.stdin = open(0, encoding=sys.stdin.encoding, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    # A command finds no module of the tests imported already, whatever the environment of the first test led to.
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(f"{HERE}{os.sep}") and name != "__main__":
            del sys.modules[name]
    found = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    if arguments[0] == "-c":
        _, program, *rest = arguments
        sys.argv = ["-c", *rest]
        sys.path[:] = ["", *found, *base]
        main = sys.modules["__main__"]
        exec(compile(program, "<string>", "exec"), main.__dict__)
    else:
        sys.argv = arguments
        sys.path[:] = [str(Path(arguments[0]).resolve().parent), *found, *base]
        runpy.run_path(arguments[0], run_name="__main__")


def _received(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            raise EOFError("the process that forks commands has ended")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
