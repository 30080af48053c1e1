"""What a report says about a locked experiment: whether the run is as it was locked, and what is exploratory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crucible_core.context import Context
from crucible_core.report.document import Block, Items, Paragraph, Section, Table

if TYPE_CHECKING:
    from crucible_core.ir.registration import Registration

__all__ = ["as_data", "label", "labelled_as", "registration_in", "registration_section"]


def registration_in(ctx: Context) -> Registration | None:
    """The run's experiment compared with its lock; None if it was not locked."""
    if ctx.experiment.lock is None:
        return None
    from crucible_core.ir.registration import registration_of  # noqa: PLC0415  # few experiments are locked

    return registration_of(ctx.experiment)


def label(registration: Registration | None, metric: str) -> str:
    """The words before the finding of a comparison that was not declared."""
    return "Exploratory: " if registration is not None and registration.exploratory(metric) else ""


def labelled_as(registration: Registration | None, metric: str, section: Section) -> Section:
    """The section of a comparison, with the reason why it is exploratory."""
    why = None if registration is None else registration.exploratory(metric)
    if why is None:
        return section
    said = Paragraph(f"Exploratory: not as it was declared before the data were seen: {why}.")
    first, *rest = section.blocks
    return replace(section, title=f"{section.title} (exploratory)", blocks=(first, said, *rest))


def registration_section(registration: Registration, metrics: Iterable[str]) -> Section:
    """Whether the run is as locked, each change, and the comparisons that were and were not declared."""
    blocks: list[Block] = [Paragraph(registration.sentence)]
    if registration.changes:
        from crucible_core.ir.registration import shown  # noqa: PLC0415  # as above

        rows = tuple((one.what, shown(one.then), shown(one.now)) for one in registration.changes)
        blocks.append(Table(("what", "locked", "now"), rows))
    said = [
        f"{metric}: {'as locked' if (why := registration.exploratory(metric)) is None else f'exploratory, {why}'}"
        for metric in metrics
    ]
    return Section("Pre-registration", (*blocks, *([Items(tuple(said))] if said else [])))


def as_data(registration: Registration | None, metrics: Iterable[str]) -> Mapping[str, Any]:
    """The same for the JSON report; empty without a lock."""
    if registration is None:
        return {}
    lock = registration.lock
    return {
        "lock": {
            "hash": lock.hash,
            "locked": lock.locked,
            "changes": [{"what": one.what, "locked": one.then, "now": one.now} for one in registration.changes],
            "exploratory": {metric: why for metric in metrics if (why := registration.exploratory(metric))},
        }
    }
