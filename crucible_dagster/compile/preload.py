"""Imported by the server that step processes are forked from, so that no step has to import the same modules again.

Python passes module names to the server and nothing else, not even the search path of its parent. So the modules beside
an experiment file reach it through an environment variable.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterable
from multiprocessing import forkserver
from typing import Any

from crucible_core import Stage, Trace

__all__ = ["VARIABLE", "announce_stage_modules"]

VARIABLE = "CRUCIBLE_PRELOAD"
# Variables that change but matter to no stage: our own message, and the name of the test that pytest runs.
NOT_MEANT = frozenset({VARIABLE, "PYTEST_CURRENT_TEST"})

_environment_of_server: dict[str, str] = {}


def announce_stage_modules() -> None:
    """Have a server that is started from now on import the modules of this process's stages.

    Step processes get the environment that the server was started with; if it has changed since, the server is stopped.
    """
    modules = {stage.__module__ for stage in _all_below(Stage)} - {"__main__"}
    os.environ[VARIABLE] = json.dumps({"path": sys.path, "modules": sorted(modules)})
    environment = {name: value for name, value in os.environ.items() if name not in NOT_MEANT}
    if _environment_of_server and environment != _environment_of_server:
        # The only way to end the server; otherwise the next steps would get the old environment.
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
    _environment_of_server.clear()
    _environment_of_server.update(environment)


def _all_below(cls: type[Any]) -> Iterable[type[Any]]:
    for below in cls.__subclasses__():
        yield below
        yield from _all_below(below)


def _import_announced() -> None:
    announced = json.loads(os.environ.get(VARIABLE, "{}"))
    sys.path += [path for path in announced.get("path", ()) if path not in sys.path]
    for name in announced.get("modules", ()):
        # A module that cannot be imported here fails where it is needed, with a message that reaches the user.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


_import_announced()
Trace.from_json("[]")  # what reads and writes a trace is made here, once, and not by every step
