"""How a run ends early, with the Context so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from crucible_core.errors import CrucibleError, Portable
from crucible_core.ir.gates import GateResult, did_not_pass

if TYPE_CHECKING:
    from crucible_core.context import Context


class StageFailedError(CrucibleError):
    """A stage raised. `context` is the Context so far; its trace ends in the failure. `__cause__` is the error."""

    def __init__(self, stage: str, context: Context, reason: str) -> None:
        super().__init__(f"stage {stage!r} of experiment {context.experiment_id!r} failed: {reason}")
        self.stage = stage
        self.context = context
        self.reason = reason


class StageTimeoutError(CrucibleError, TimeoutError):
    """An attempt at a stage took longer than its `timeout`, and was ended: the cause of the StageFailedError."""

    def __init__(self, stage: str, seconds: float, *, killed: bool) -> None:
        how = "its process was killed" if killed else "was interrupted"
        super().__init__(
            f"stage {stage!r} took longer than its `timeout` of {seconds:g} s, and {how}; give it more time, or less "
            "to do"
        )
        self.stage = stage
        self.seconds = seconds


class StageDiedError(CrucibleError):
    """The process of a stage that has a `timeout` died while it ran: the cause of its StageFailedError."""

    def __init__(self, stage: str, code: int) -> None:
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        super().__init__(
            f"the process of stage {stage!r}, which it has because of its `timeout`, ended {how}: a library crashed or "
            "ended it, or it was killed, perhaps because memory ran out; what it wrote last is on stderr"
        )
        self.stage = stage
        self.code = code


class GateFailedError(CrucibleError):
    """A blocking gate failed. Every stage succeeded: `context` is the last one; `gates` has all results."""

    def __init__(self, context: Context, gates: Iterable[GateResult]) -> None:
        self.context = context
        self.gates = tuple(gates)
        super().__init__(did_not_pass(context.experiment_id, [one for one in self.gates if one.blocks]))


class RunInterrupted(Portable, KeyboardInterrupt):
    """The run was interrupted (Ctrl-C, a cancelled Dagster run) inside a stage; `context` holds what was finished.

    Not a CrucibleError and not an Exception, so that `except Exception` around a run does not swallow Ctrl-C.
    """

    def __init__(self, stage: str, context: Context) -> None:
        super().__init__(f"interrupted in stage {stage!r} of experiment {context.experiment_id!r}")
        self.stage = stage
        self.context = context
