"""The context store: Contexts as content-addressed objects and one small manifest per step, on any file system."""

from crucible_dagster.store.errors import RefusedWriteError, StoreError
from crucible_dagster.store.failure import StoredFailure
from crucible_dagster.store.lazy import Reads, detached, tracked, untracked
from crucible_dagster.store.store import ContextStore

__all__ = [
    "ContextStore",
    "Reads",
    "RefusedWriteError",
    "StoreError",
    "StoredFailure",
    "detached",
    "tracked",
    "untracked",
]
