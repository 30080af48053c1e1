"""What can be wrong with a store."""

from __future__ import annotations

from crucible_core import CrucibleError

__all__ = ["RefusedWriteError", "StoreError"]


class StoreError(CrucibleError):
    """Something cannot be kept in the context store, or not be read back from it."""


class RefusedWriteError(StoreError):
    """A step's result came too late: another attempt's counts, or the run was given up."""
