"""One attempt at a stage while it runs: the decisions that it makes, and where its progress and metrics go."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from crucible_core.run_state.updates import Listeners, Updates
from crucible_core.values.jsonable import safe_text

__all__ = ["Attempt", "current_attempt"]


class Attempt:
    """One attempt at a stage, while it runs: it takes the decisions, metrics and progress."""

    __slots__ = ("_audience", "derived", "heard", "own_updates", "readable", "run_id", "updates")

    def __init__(
        self, run_id: str, stage: str, audience: Listeners, readable: Callable[[str], str] = safe_text
    ) -> None:
        self.run_id = run_id
        self.readable = readable
        """Makes a text of a decision readable: without the stage's secrets."""
        self.heard: list[Any] = []
        """The decisions so far: they are kept if the attempt fails and returns no Context."""
        self.own_updates = Updates(run_id, stage, audience) if audience.wants_updates else None
        outer = current_attempt.get()
        # If nobody watches a run within a stage, its work counts as that of the stage.
        self.updates: Updates | None = (
            self.own_updates if self.own_updates is not None or outer is None else outer.updates
        )
        self._audience = audience
        self.derived: Any = None
        """The last Context that was made from another one, if any was."""

    def hears(self, run_id: str) -> Callable[[str, int, float], None] | None:
        """What takes the points of a Context's series, if the Context is of this run and any observer listens."""
        return self.updates.point if self.updates is not None and self.updates.run_id == run_id else None

    def hear(self, event: Any) -> None:
        self.heard.append(event)
        self._audience.tell(event)


# Set by run_stage around the stage. A thread that the stage starts does not see it.
current_attempt: ContextVar[Attempt | None] = ContextVar("crucible_attempt", default=None)
