"""The errors of the context store."""

from __future__ import annotations

from crucible_core import CrucibleError

__all__ = ["RefusedWriteError", "StoreError"]


class StoreError(CrucibleError):
    """Something cannot be kept in the context store, or cannot be read back."""


class RefusedWriteError(StoreError):
    """A step's result came too late: another attempt's result counts, or the run was replaced."""
