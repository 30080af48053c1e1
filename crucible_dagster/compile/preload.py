"""Imported only by the server that step processes are forked from: it imports modules once, for all steps."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys

from crucible_core import Trace
from crucible_dagster.compile.executors import PRELOAD

__all__: list[str] = []


def _import_announced() -> None:
    announced = json.loads(os.environ.get(PRELOAD, "{}"))
    sys.path += [path for path in announced.get("path", ()) if path not in sys.path]
    for name in announced.get("modules", ()):
        # A module that cannot be imported here fails where it is needed, with a message that reaches the user.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


_import_announced()
Trace.from_json("[]")  # the code that reads and writes a trace is built here once, not in every step
