"""The context store as a resource of the job: it passes each op's Context to the next op.

Its place is a setting of the deployment, never of a run: CRUCIBLE_STORE, a folder or an fsspec URL such as
s3://bucket/prefix; by default `crucible` in the Dagster instance's storage folder. A relative folder is in DAGSTER_HOME
or, for the embedded instance, in the folder of the project. CRUCIBLE_FILE_MODE is the mode of its files, as in `0640`.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from time import time_ns
from typing import Any

from dagster import (
    DagsterInstance,
    InitResourceContext,
    InputContext,
    IOManager,
    MetadataValue,
    OutputContext,
    io_manager,
)
from upath import UPath

from crucible_core import Context, CrucibleError
from crucible_core.values.places import absolute
from crucible_dagster.names import step_name
from crucible_dagster.store import ContextStore

__all__ = [
    "MODE_VARIABLE",
    "PICKLE_VARIABLE",
    "STORE_KEY",
    "STORE_VARIABLE",
    "ContextIOManager",
    "context_store",
    "new_attempt",
    "open_store",
]

STORE_KEY = "context_store"
STORE_VARIABLE = "CRUCIBLE_STORE"
PICKLE_VARIABLE = "CRUCIBLE_ALLOW_PICKLE"
MODE_VARIABLE = "CRUCIBLE_FILE_MODE"
EMBEDDED = ".crucible/dagster"
"""The folder of the instance in the project's folder, if DAGSTER_HOME is not set."""


class ContextIOManager(IOManager):
    """Passes Contexts from op to op: the same object within a process, through the store between processes and runs."""

    def __init__(self, store: ContextStore) -> None:
        self.store = store
        self._last: tuple[str, str, Context] | None = None

    def commit(
        self, context: Context, run_id: str, step: str, *, attempt: str, notes: Mapping[str, Any] | None = None
    ) -> Context:
        """Make this Context the result of the step, and return it in the form that the next step gets.

        Raises StoreError if it cannot be stored, RefusedWriteError if it comes too late.
        """
        kept = self.store.save(context, run_id, step, attempt=attempt, notes=notes)
        self._last = (run_id, step, kept)
        return kept

    def find_result(self, run_id: str, step: str) -> Context | None:
        """The result of the step, if it has one already. Raises StoreError if it cannot be read."""
        if self.store.find(run_id, step) is None:
            return None
        self._last = (run_id, step, self.store.load(run_id, step))
        return self._last[2]

    def handle_output(self, context: OutputContext, obj: Context) -> None:
        if self._last is None or self._last[2] is not obj:
            self.commit(obj, context.run_id, step_name(context.step_key), attempt=new_attempt())
        name = self.store.result_name(context.run_id, step_name(context.step_key))
        context.add_output_metadata({"manifest": MetadataValue.path(str(self.store.base / name))})

    def load_input(self, context: InputContext) -> Context:
        upstream = context.upstream_output
        assert upstream is not None
        place = (upstream.run_id, step_name(upstream.step_key))
        if self._last is not None and self._last[:2] == place:
            return self._last[2]
        return self.store.load(*place)


@io_manager
def context_store(init: InitResourceContext) -> ContextIOManager:
    """Stores the Contexts that ops pass to each other."""
    assert init.instance is not None
    return ContextIOManager(open_store(init.instance))


def open_store(instance: DagsterInstance) -> ContextStore:
    """The store that runs of this instance use.

    Raises CrucibleError for an invalid setting, or if the package of its file system is missing.
    """
    allowed = os.environ.get(PICKLE_VARIABLE, "true").strip().lower()
    if allowed not in {"true", "false"}:
        raise CrucibleError(f"{PICKLE_VARIABLE}={allowed} is neither true nor false")
    configured = os.environ.get(STORE_VARIABLE)
    try:
        base = UPath(configured) if configured else UPath(instance.storage_directory()) / "crucible"
    except (ImportError, ValueError) as error:
        raise CrucibleError(f"{STORE_VARIABLE}={configured} cannot be opened: {error}") from error
    if base.protocol in {"", "file", "local"}:
        base = UPath(absolute(str(base.path), STORE_VARIABLE, _folder_of(instance)))
    return ContextStore(base, allow_pickle=allowed == "true", file_mode=_file_mode())


def _file_mode() -> int | None:
    text = os.environ.get(MODE_VARIABLE, "").strip()
    if not text:
        return None
    if re.fullmatch("0?6[0-6]{2}", text) is None:
        raise CrucibleError(
            f"{MODE_VARIABLE}={text} is not a valid file mode: the owner must be able to read and write, and nobody "
            "to execute, as with 600, 640, 660 or 644"
        )
    return int(text, 8)


def _folder_of(instance: DagsterInstance) -> Path | None:
    """The base of a relative place: the same folder for all processes of an instance, wherever they run."""
    if instance.is_ephemeral:
        return None
    home = Path(instance.root_directory)
    return home.parents[1] if home.match(EMBEDDED) else home


def new_attempt() -> str:
    """A new name for an attempt of a step; the names sort by time."""
    return f"{time_ns() // 1_000_000:013d}-{uuid.uuid4().hex[:8]}"
