"""What the trials of a sweep spend of the run's budget."""

from __future__ import annotations

from collections.abc import Mapping

from crucible_core.run_state.spending import SPENT, over
from crucible_core.trials.log import Row

__all__ = ["Costs"]

_COLUMN = f"{SPENT}."


class Costs:
    """Adds up what trials have spent in this run. A trial that an earlier run has kept was paid there."""

    def __init__(self, limits: Mapping[str, float] | None, before: Mapping[str, float], shares: int) -> None:
        """`before` is what the stages before the trials have spent; `shares` divide the rest of the budget."""
        self.limits = limits and {name: max(limit - before.get(name, 0), 0) / shares for name, limit in limits.items()}
        """What the trials may spend."""
        self.spent: dict[str, float] = {}
        self.not_run: list[str] = []
        """The trials for which nothing was left."""

    @property
    def is_over(self) -> bool:
        return over(self.limits, self.spent) is not None

    def count(self, row: Row | None) -> None:
        if row is not None and not row.get("reused"):
            for column in [name for name in row if name.startswith(_COLUMN)]:
                amount, name = row[column], column.removeprefix(_COLUMN)
                if isinstance(amount, int | float):
                    self.spent[name] = self.spent.get(name, 0) + amount
