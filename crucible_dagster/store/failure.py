"""How a failed step ended."""

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
    """Called only when the cause is needed, because reading an exception may import the module of its class."""

    @property
    def cause(self) -> BaseException | None:
        """The exception that the stage raised; None if it was not kept. Raises StoreError if it cannot be read."""
        return self.read_cause()

    def to_error(self) -> StageFailedError | RunInterrupted:
        """The error with its cause, or with the cause's text if the cause itself was not kept."""
        if self.interrupted:
            return RunInterrupted(self.stage, self.context)
        error = StageFailedError(self.stage, self.context, self.reason)
        error.__cause__ = self.cause or CrucibleError(self.reason)
        return error
