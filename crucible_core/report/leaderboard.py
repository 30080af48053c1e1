"""The arms of a sweep from the best to the worst: mean, interval, n, rank, and which of them may be the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crucible_bench.comparison import Comparison
from crucible_bench.finding import mean_of_best, percent
from crucible_bench.numbers import format_p
from crucible_bench.plots.numbers import interval_text, length_of, numerals
from crucible_bench.result import Interval
from crucible_core.context import Context
from crucible_core.metrics import comparisons
from crucible_core.report.document import Table
from crucible_core.values.formatting import format_duration
from crucible_core.values.jsonable import as_number, plain_number

__all__ = ["MOST_ARMS", "Arm", "Leaderboard", "leaderboard_of"]

MOST_ARMS = 100

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: its `n` trials that count, their mean (None without one) and what is known about it."""

    name: str
    n: int
    failed: int
    seconds: float | None
    """The mean time of a trial that succeeded."""
    mean: float | None = None
    interval: Interval | None = None
    rank: int | None = None
    """From 1; None without a comparison that ranks the arms."""
    verdict: str = ""
    may_be_best: bool = False


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The arms, ranked if a comparison of the run says which may be the best; else in the order of the sweep."""

    arms: tuple[Arm, ...]
    measure: str | None
    interval: str
    """What the intervals are called: `95% CI`."""
    is_ranked: bool
    notes: tuple[str, ...] = ()

    def table(self, most: int = MOST_ARMS) -> Table:
        """A row for each arm, the best first; at most `most` of them."""
        arms = self.arms[:most]
        numbers = [one.mean for one in arms if one.mean is not None]
        ends = [one.interval for one in arms if one.interval is not None]
        write = numerals([*numbers, *(end for pair in ends for end in pair)], lengths=[length_of(*one) for one in ends])
        shown = f"{self.measure or 'mean'}{f' [{self.interval}]' if ends else ''}"
        columns = ["rank", "arm", shown, "n", "mean time", "verdict"]
        rows = [
            [
                "–" if one.rank is None else str(one.rank),
                one.name,
                "–" if one.mean is None else write(one.mean),
                f"{one.n:,}{f' ({one.failed:,} failed)' if one.failed else ''}",
                "" if one.seconds is None else format_duration(one.seconds),
                one.verdict,
            ]
            for one in arms
        ]
        for one, row in zip(arms, rows, strict=True):
            if one.interval is not None:
                row[2] += f" {interval_text(*one.interval, write)}"
        kept = [
            place
            for place, name in enumerate(columns)
            if (self.is_ranked or name not in ("rank", "verdict")) and (self.measure or place != 2)
        ]
        return Table(
            tuple(columns[place] for place in kept),
            tuple(tuple(row[place] for place in kept) for row in rows),
            frozenset({"rank", shown, "n", "mean time"}),
        )


def leaderboard_of(ctx: Context, rows: Sequence[Row]) -> Leaderboard:
    """The arms of these rows of trials, by the first comparison of the run that ranks them.

    Without such a comparison, their means are those of the measure that the sweep names, and the arms have no ranks.
    """
    arms = {one.name: one for one in _arms(rows, _measure(ctx))}
    for comparison in comparisons(ctx).values():
        if comparison.best is not None and {one.name for one in comparison.best.contenders} <= arms.keys():
            board = _ranked(arms, comparison)
            return replace(board, notes=(*board.notes, _LOOKED)) if "until" in _options(ctx) else board
    return Leaderboard(tuple(arms.values()), _measure(ctx), "", is_ranked=False)


_LOOKED = (
    "The number of replicates was decided by what the earlier ones measured (`until`). These intervals and verdicts "
    "are for a number that was fixed beforehand; those that hold however often one looks are among the decisions."
)


def _ranked(arms: Mapping[str, Arm], comparison: Comparison) -> Leaderboard:
    best = comparison.best
    assert best is not None
    found: list[Arm] = []
    for place, one in enumerate(best.contenders, start=1):
        arm, before = arms[one.name], found[-1] if found else None
        tied = before is not None and before.mean == one.mean
        rank = before.rank if tied and before is not None else place
        if one.name == best.leader:
            verdict = "the best mean"
        else:
            verdict = "may be the best" if one.kept else f"shown to be worse, p {format_p(one.p_value)}"
        found.append(
            Arm(arm.name, one.n, arm.failed, arm.seconds, one.mean, one.interval, rank, verdict, may_be_best=one.kept)
        )
    ranked = {one.name for one in found}
    found += [one for one in arms.values() if one.name not in ranked]
    notes = [mean_of_best(best).strip()]
    if best.paired and any(one.interval for one in found):
        notes.append(
            "Each interval is that of one arm by itself. The arms share their seeds, so they are compared pair by "
            "pair: arms whose intervals overlap may still be told apart."
        )
    return Leaderboard(
        tuple(found),
        comparison.measure,
        f"{percent(comparison.confidence_level)} CI",
        is_ranked=True,
        notes=tuple(filter(None, notes)),
    )


def _arms(rows: Sequence[Row], measure: str | None) -> Iterator[Arm]:
    by_arm: dict[str, list[Row]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], []).append(row)
    for name, own in by_arm.items():
        done = [row for row in own if row["status"] == "succeeded"]
        numbers = [as_number(row.get(measure)) for row in done] if measure else []
        values = [float(plain_number(number)) for number in numbers if number is not None]
        yield Arm(
            name,
            len(done),
            len(own) - len(done),
            sum(row["seconds"] for row in done) / len(done) if done else None,
            sum(values) / len(values) if values else None,
        )


def _measure(ctx: Context) -> str | None:
    """The metric that the sweep names as its measure."""
    measure = _options(ctx).get("measure")
    return measure if isinstance(measure, str) else None


def _options(ctx: Context) -> Mapping[str, Any]:
    """The options of the stage `trials`."""
    return next((one.options or {} for one in ctx.experiment.pipeline if one.name == "trials"), {})
