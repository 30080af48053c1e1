"""What a run has spent, of which budget, in which stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_core.report.document import Table
from crucible_core.run_state.spending import spent_in, stages_of

__all__ = ["spending_table"]


def spending_table(metrics: Mapping[str, Any], limits: Mapping[str, float] | None) -> Table:
    """A row for each thing that was spent, or has a budget: the amount, the budget, the amount of each stage."""
    spent = spent_in(metrics)
    rows = tuple(
        (
            name,
            _shown(spent.get(name, 0)),
            _shown(limits[name]) if limits and name in limits else "",
            ", ".join(f"{stage} {_shown(amount)}" for stage, amount in stages_of(metrics, name).items()),
        )
        for name in dict.fromkeys([*(limits or ()), *spent])
    )
    return Table(("what", "spent", "limit", "by stage"), rows, frozenset({"spent", "limit"}))


def _shown(amount: float) -> str:
    return f"{amount:,.10g}"
