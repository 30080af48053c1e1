"""Processes of a test that are there at once, to be killed: forked from one that has everything imported."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

__all__ = ["PATH", "PATIENCE", "Child", "Children", "clean_environment"]

PATIENCE = 300.0  # far above what anything takes on a machine that does much else

PATH = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))


def clean_environment(*prefixes: str) -> dict[str, str]:
    """This environment without what is set for Dagster and Crucible, nor what begins with one of the prefixes."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "CRUCIBLE", *prefixes))
    }


class Child:
    """A process that a function of fault_stages runs in."""

    def __init__(self, server: Children, pid: int, outcome: Path) -> None:
        self._server = server
        self.pid = pid
        self._outcome = outcome

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, how)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code, or minus the signal that ended it."""
        code = self._server.ask({"wait": self.pid, "seconds": seconds})
        assert code is not None, f"it still runs after {seconds} s; {self.said()}"
        return int(code)

    def result(self, seconds: float = PATIENCE) -> Any:
        """What the function returned. Raises what it raised."""
        code = self.wait(seconds)
        assert code == 0, f"it ended with {code}; {self.said()}"
        value, error = pickle.loads(self._outcome.read_bytes())
        if error is not None:
            raise error
        return value

    def said(self) -> str:
        return Path(f"{self._outcome}.log").read_text(errors="replace")[-4000:]


class Children:
    """Starts processes that have everything imported already. Nothing that they started outlives them."""

    def __init__(self, module: str = "fault_stages") -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import {module}; {module}.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": PATH},
            text=True,
        )

    def ask(self, command: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(command)}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, function: str, **arguments: Any) -> Child:
        outcome = Path(self._folder.name) / uuid.uuid4().hex
        pid = self.ask(
            {
                "function": function,
                "arguments": arguments,
                "environment": dict(os.environ),
                "cwd": str(Path.cwd()),
                "outcome": str(outcome),
            }
        )
        return Child(self, pid, outcome)

    def end(self) -> None:
        everything = psutil.Process(self._process.pid).children(recursive=True)
        for one in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()
        self._folder.cleanup()
