"""Compares the groups of two runs of an experiment in the way that their `bench` stages declare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crucible_bench.data.pairing import places_of_pairs
from crucible_bench.declaration import Declaration
from crucible_bench.vocabulary import CorrectionName
from crucible_core.context import Context
from crucible_core.errors import CrucibleError, UnknownStageError
from crucible_core.ir.experiment import StageDef
from crucible_core.plan import plan_stage
from crucible_core.registry import Registry
from crucible_core.stage import Stage
from crucible_core.stages.bench import Bench
from crucible_core.stages.bench_data import ComparedGroups
from crucible_core.values.equality import same
from crucible_core.values.messages import error_text
from crucible_dagster.history.run_record import RunRecord

if TYPE_CHECKING:
    from crucible_bench import TestResult

__all__ = ["GroupChange", "RecordedBenches", "adjust_together", "compare_groups"]

CORRECTION: CorrectionName = "holm"


@dataclass(frozen=True, slots=True)
class GroupChange:
    """How a group changed from run A to run B: `result` is about B minus A.

    `p_adjusted` has Holm's correction for all groups that were compared. If no comparison could be made, `result` is
    None and `reason` says why.
    """

    metric: str
    group: str
    result: TestResult | None
    p_adjusted: float | None
    reason: str | None

    @property
    def name(self) -> str:
        return f"{self.metric}.{self.group}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        result = self.result and self.result.to_dict()
        return {
            "metric": self.metric,
            "group": self.group,
            "result": result,
            "p_adjusted": self.p_adjusted,
            "reason": self.reason,
        }


class RecordedBenches(Registry):
    """Knows the `bench` stages of recorded runs, and no other stage: it imports nothing that a pipeline names."""

    def __init__(self, *records: RunRecord | None) -> None:
        super().__init__({})
        self._benches = [frozenset(_benches_in(record)) if record else frozenset() for record in records]

    @property
    def are_in_both(self) -> bool:
        """Whether every run has a `bench` stage."""
        return all(self._benches)

    def resolve(self, definition: StageDef, *, folder: Path | None = None) -> type[Stage]:  # noqa: ARG002  # nowhere
        if any((definition.name, definition.module) in one for one in self._benches):
            return Bench
        raise UnknownStageError(
            f"stage {definition.name!r} was not a bench stage in these runs", stage=definition.name, known=()
        )


def _benches_in(record: RunRecord) -> Iterator[tuple[str, str | None]]:
    """Name and module, as in the experiment, of the entries that were `bench` stages."""
    try:
        modules = {one.name: one.module for one in record.to_experiment().pipeline}
    except CrucibleError:  # the notes already say so, where it matters
        return
    for stage in record.stages:
        if stage.stage == f"{Bench.__module__}:{Bench.__name__}":
            yield stage.name, modules.get(stage.name)


def compare_groups(a: Context, b: Context, registry: Registry, *, names: tuple[str, str]) -> tuple[GroupChange, ...]:
    """Every group that a `bench` stage of both runs compared, run B's values against run A's.

    The design, outcome, alpha and effect size are those that B's stage declares. Values of the same fold, example or
    seed stay paired: by name if they have names, otherwise by position. `names` are the names of A and B in the
    results. For what cannot be read or compared, there is a reason instead.
    """
    return adjust_together([tuple(_changes(a, b, registry, names))])[0]


def adjust_together(found: Sequence[Sequence[GroupChange]]) -> list[tuple[GroupChange, ...]]:
    """The same changes, with p-values that are corrected for all of them together."""
    results = [change.result for changes in found for change in changes if change.result is not None]
    if not results:
        return [tuple(changes) for changes in found]
    from crucible_bench import adjust_p_values  # noqa: PLC0415  # scipy takes a second to load

    adjusted = iter(adjust_p_values([result.p_value for result in results], CORRECTION))
    return [
        tuple(change if change.result is None else replace(change, p_adjusted=next(adjusted)) for change in changes)
        for changes in found
    ]


def _changes(a: Context, b: Context, registry: Registry, names: tuple[str, str]) -> Iterator[GroupChange]:
    before, after = _benches(a, registry), _benches(b, registry)
    for metric in [metric for metric in after if metric in before]:
        earlier, later = before[metric], after[metric]
        if isinstance(earlier, str) or isinstance(later, str):
            said = earlier if isinstance(earlier, str) else later
            yield GroupChange(metric, "", None, None, str(said))
            continue
        for group in [group for group in later.groups if group in earlier.groups]:
            yield _change(metric, group, earlier, later, names)


class _Benched(NamedTuple):
    stage: Bench
    found: ComparedGroups
    ctx: Context

    @property
    def groups(self) -> Mapping[str, Any]:
        return self.found.values


def _benches(ctx: Context, registry: Registry) -> dict[str, _Benched | str]:
    """Metric -> what its bench stage compared in the run, or why it cannot be read."""
    found: dict[str, _Benched | str] = {}
    for index, definition in enumerate(ctx.experiment.pipeline):
        if not definition.enabled:
            continue
        try:
            stage = plan_stage(ctx.experiment, index, registry).stage
        except CrucibleError:
            continue  # another stage, or a bench stage whose options are no longer valid
        if not isinstance(stage, Bench) or not ctx.has_metric(stage.metric):
            continue
        try:
            found_there = stage.read(ctx)
        except (CrucibleError, ValueError, TypeError) as error:
            found[stage.metric] = f"the groups of run {ctx.run_id} cannot be read: {error_text(error)}"
        else:
            found[stage.metric] = _Benched(stage, found_there, ctx)
    return found


def _change(metric: str, group: str, earlier: _Benched, later: _Benched, names: tuple[str, str]) -> GroupChange:
    from crucible_bench import CannotTestError  # noqa: PLC0415
    from crucible_bench.analysis import analyse  # noqa: PLC0415

    declared = later.stage.declaration(later.ctx.experiment)
    wanted = Declaration(
        design="independent" if declared.design == "one_sample" else declared.design,
        outcome=declared.outcome,
        alpha=declared.alpha,
        confidence_level=declared.confidence_level,
        effect_size=declared.effect_size,
        test_share=declared.share_of_test_set,
        quantile=declared.quantile,
        seed=declared.seed,
    )
    try:
        before = earlier.groups[group]
        if wanted.design != "independent" and not isinstance(later.found.clusters, Mapping):
            before = _in_order(before, group, earlier.found, later.found)
        if same(later.groups[group], before):
            return GroupChange(metric, group, None, None, "every value is the same in both runs")
        groups = {names[1]: later.groups[group], names[0]: before}
        clusters = later.found.clusters
        if isinstance(clusters, Mapping):
            clusters = {names[1]: clusters[group], names[0]: earlier.found.clusters_of(group) or ()}
        (result,) = analyse(groups, wanted, clusters=clusters).tests
    except (CannotTestError, ValueError) as error:
        return GroupChange(metric, group, None, None, error_text(error))
    return GroupChange(metric, group, result, None, None)


def _in_order(values: Any, group: str, earlier: ComparedGroups, later: ComparedGroups) -> Any:
    """The earlier values in the order of the later run's pairs. Raises ValueError if these are not the same pairs."""
    clusters = earlier.clusters_of(group)
    places = None
    if earlier.pairs is not None or later.pairs is not None:
        places = places_of_pairs(later.names_of_pairs(group), earlier.names_of_pairs(group))
    if places is not None:
        values = [values[place] for place in places]
        clusters = None if clusters is None else [clusters[place] for place in places]
    now = later.clusters_of(group)
    if clusters is not None and now is not None and list(clusters) != list(now):
        raise ValueError("the items are in different clusters in the two runs, so they are not the same items")
    return values
