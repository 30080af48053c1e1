"""The end of a step that failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crucible_core import Context, CrucibleError, RunInterrupted, StageFailedError

__all__ = ["StoredFailure"]


@dataclass(frozen=True, slots=True)
class StoredFailure:
    """The Context as it stood when a stage failed or was interrupted, and why."""

    context: Context
    stage: str
    reason: str
    interrupted: bool
    read_cause: Callable[[], BaseException | None]
    """Only when it is asked for: reading an exception may import the module of its class."""

    @property
    def cause(self) -> BaseException | None:
        """None if it is not kept. Raises StoreError if it cannot be read."""
        return self.read_cause()

    def to_error(self) -> StageFailedError | RunInterrupted:
        """The error again, with its cause, or with the cause's text where the cause itself is not kept."""
        if self.interrupted:
            return RunInterrupted(self.stage, self.context)
        error = StageFailedError(self.stage, self.context, self.reason)
        error.__cause__ = self.cause or CrucibleError(self.reason)
        return error
