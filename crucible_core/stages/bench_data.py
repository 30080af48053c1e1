"""Where a `bench` stage finds its groups: a mapping in assigns or metrics, or fields of the outputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from crucible_bench.compared import AnswersUsed
from crucible_bench.errors import CannotTestError
from crucible_core.context import Context
from crucible_core.values.messages import closest, listing

__all__ = [
    "SOURCES",
    "ComparedGroups",
    "GroupsInMapping",
    "GroupsInOutputs",
    "field_of_items",
    "records_in",
]

SOURCES = ("assigns", "metrics", "outputs")


class ComparedGroups(NamedTuple):
    """Name -> values, their clusters if the design has clusters, and the names of the pairs.

    The clusters are those of the positions that all groups share, or of each group's own values by its name.

    If a group lacks a pair, its value there is None. Pairs without names are named by their positions, and only if some
    were dropped. Where every value is made of an item's answers, `answers` says how, `items_left_out` which items were
    left out and why.
    """

    values: dict[str, Any]
    clusters: Sequence[Hashable] | Mapping[str, Sequence[Hashable]] | None = None
    pairs: Sequence[Hashable] | None = None
    answers: AnswersUsed | None = None
    items_left_out: Sequence[str] = ()
    empty: Sequence[str] = ()
    """Groups that were left out as a whole, because they have no value."""

    def names_of_pairs(self, group: str) -> Sequence[Hashable]:
        return range(len(self.values[group])) if self.pairs is None else self.pairs

    def clusters_of(self, group: str) -> Sequence[Hashable] | None:
        """The cluster of each of the group's values."""
        return self.clusters.get(group) if isinstance(self.clusters, Mapping) else self.clusters


@dataclass(frozen=True, slots=True)
class GroupsInMapping:
    """`assigns.NAME` or `metrics.NAME`. `clusters` is such a place too, with the cluster of each position, or a
    mapping of each group's name to the clusters of its values.
    """

    data: str
    clusters: str | None = None

    def read(self, ctx: Context) -> ComparedGroups:
        groups = _held(ctx, self.data)
        if not isinstance(groups, Mapping):
            raise CannotTestError(
                "bench", f"{_shown(self.data)} must be a mapping of group name to numbers; it is {groups!r:.80}"
            )
        labels = None if self.clusters is None else _held(ctx, self.clusters)
        if isinstance(labels, Mapping):
            labels = {str(group): own for group, own in labels.items()}
        named = {str(group): values for group, values in groups.items()}
        if len(named) < len(groups):
            twice = next(group for group in groups if not isinstance(group, str) and str(group) in groups)
            raise CannotTestError(
                "bench",
                f"two groups of {_shown(self.data)} have the same name as text: {twice!r} and {str(twice)!r}",
            )
        return ComparedGroups(named, labels)


@dataclass(frozen=True, slots=True)
class GroupsInOutputs:
    """Fields of the outputs: the group's name, the number, and optionally the pair and the cluster.

    Without pairs, a cluster is all that values of several groups share.
    """

    group_by: str
    value: str
    pair_by: str | None = None
    cluster_by: str | None = None

    def read(self, ctx: Context) -> ComparedGroups:
        fields = [name for name in (self.group_by, self.value, self.pair_by, self.cluster_by) if name]
        groups: dict[str, dict[Any, Any]] = {}
        names: dict[str, Any] = {}
        clusters: dict[Any, Any] = {}
        own: dict[str, list[Any]] = {}
        for index, output in enumerate(ctx.outputs):
            if not isinstance(output, Mapping) or any(name not in output for name in fields):
                raise CannotTestError(
                    "bench", f"output {index} lacks one of {', '.join(map(repr, fields))}: {output!r:.80}"
                )
            name = output[self.group_by]
            if names.setdefault(str(name), name) != name:
                raise CannotTestError(
                    "bench", f"two groups have the same name as text: {names[str(name)]!r} and {name!r}"
                )
            group = groups.setdefault(str(name), {})
            pair = output[self.pair_by] if self.pair_by else len(group)
            if pair in group:
                raise CannotTestError("bench", f"two outputs of group {name!r} have {self.pair_by} {pair!r}")
            group[pair] = output[self.value]
            if self.cluster_by:
                cluster = output[self.cluster_by]
                own.setdefault(str(name), []).append(cluster)
                if self.pair_by and clusters.setdefault(pair, cluster) != cluster:
                    raise CannotTestError(
                        "bench", f"{self.pair_by} {pair!r} is in two clusters: {clusters[pair]!r} and {cluster!r}"
                    )
        if not groups:
            raise CannotTestError("bench", "no stage before this one added an output")
        if self.pair_by is None:
            return ComparedGroups({name: list(group.values()) for name, group in groups.items()}, own or None)
        pairs = list(dict.fromkeys(pair for group in groups.values() for pair in group))
        return ComparedGroups(
            {name: [group.get(pair) for pair in pairs] for name, group in groups.items()},
            [clusters[pair] for pair in pairs] if self.cluster_by else None,
            pairs,
        )


def records_in(ctx: Context, place: str) -> Sequence[Any]:
    """The outputs, or the list that a place such as assigns.NAME holds.

    Raises CannotTestError if nothing is there, or if it is not a list.
    """
    held: Any = ctx.outputs if place == "outputs" else _held(ctx, place)
    if isinstance(held, (str, bytes)) or not isinstance(held, Sequence):
        raise CannotTestError("bench", f"{_shown(place)} must be a list of comparisons; it is {held!r:.80}")
    if not held:
        raise CannotTestError("bench", f"there is nothing to compare: {place} is empty")
    return held


def field_of_items(ctx: Context, item: str, field: str) -> dict[Hashable, Any]:
    """A field of the outputs that is the same in all outputs of an item, by the item.

    Raises CannotTestError if an output lacks the field, or two of one item differ in it.
    """
    found: dict[Hashable, Any] = {}
    for index, output in enumerate(ctx.outputs):
        if not isinstance(output, Mapping) or item not in output or field not in output:
            raise CannotTestError("bench", f"output {index} lacks one of {item!r}, {field!r}: {output!r:.80}")
        if not isinstance(output[item], Hashable):
            raise CannotTestError("bench", f"output {index} has an item that is not a name: {output[item]!r:.80}")
        value = found.setdefault(output[item], output[field])
        if value != output[field]:
            raise CannotTestError(
                "bench", f"{item} {output[item]!r} has two values of {field}: {value!r} and {output[field]!r}"
            )
    return found


def _held(ctx: Context, place: str) -> Any:
    source, _, name = place.partition(".")
    held: Mapping[str, Any] = getattr(ctx, source)
    if name not in held:
        raise CannotTestError(
            "bench",
            f"no stage before this one put {_shown(place)}{closest(name, held)}; {source}: {listing(held)}",
        )
    return held[name]


def _shown(place: str) -> str:
    source, _, name = place.partition(".")
    return f"{source}[{name!r}]"
