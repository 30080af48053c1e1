"""Preferences: which of two arms judges prefer, item by item."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from scipy import special

from crucible_bench.compared import (
    ArmStrength,
    ComparedGroup,
    FamilyResult,
    PairResult,
    PositionBias,
    Preferences,
    PreferredPair,
)
from crucible_bench.comparison import Comparison
from crucible_bench.data.missing import is_missing
from crucible_bench.data.sample import Vector
from crucible_bench.errors import CannotTestError
from crucible_bench.evaluations.bradley_terry import bradley_terry, sides
from crucible_bench.evaluations.mean_share import ROUNDING, MeanShare, mean_share
from crucible_bench.hypothesis_tests.clusters import Codes
from crucible_bench.levels import levels
from crucible_bench.multiple.corrections import adjust_p_values
from crucible_bench.multiple.families import simultaneous_tail
from crucible_bench.result import Choice, Interval, Untested
from crucible_bench.vocabulary import CorrectionName, MissingValues
from crucible_bench.wording import counted

__all__ = ["compare_preferences"]

_TEST: Final = "preferences"
_MOST_NAMED: Final = 6
_MOST_JUDGED: Final = 200
_FEW: Final = 10


def compare_preferences(
    records: Sequence[Mapping[str, Any]],
    *,
    first: str = "first",
    second: str = "second",
    winner: str = "winner",
    judge: str | None = None,
    item: str | None = None,
    ties: Sequence[str] = ("tie",),
    groups: Sequence[str] | None = None,
    baseline: str | None = None,
    correction: CorrectionName = "holm",
    alpha: float = 0.05,
    confidence_level: float | None = None,
    missing: MissingValues = "refuse",
    measure: str | None = None,
) -> Comparison:
    """Compare arms by preferences: each record says which of two arms a judge preferred.

    `first`, `second`, `winner`, `judge` and `item` are the names of the records' fields: the arm shown first, the other
    one, the winner, and optionally who judged and what was judged, such as the prompt. The winner is the name of one of
    the two arms or of its field, such as `model_a`; or one of the words in `ties`. `groups` are the arms to compare, in
    this order (default: all); comparisons with others are ignored. With `baseline`, every arm is compared with it;
    otherwise the result has all pairs that were compared.

    The result's `comparisons` are win rates with ties counted half: Wilson's intervals for as many independent outcomes
    as the items are worth, by the cluster-robust variance CR2 over items, and the test that they invert. `preferences`
    has the rest: wins, ties and losses by judge, Bradley and Terry's strengths (log odds, a tie half a win each) with
    intervals by the sandwich over items and t, and how often the arm shown first wins. Arms without a finite strength,
    because one side won everything or nothing connects them, have a reason instead.

    Raises CannotTestError for records that cannot be read, a missing winner (unless `missing="drop"`, which leaves the
    comparison out and counts it), fewer than two arms, a baseline that is not among them, and if no pair of arms was
    compared on two items; ValueError for a level out of range.
    """
    alpha, level = levels(alpha, confidence_level)
    fields = {"first": first, "second": second, "winner": winner, "judge": judge, "item": item}
    read = _Records.of(records, fields, ties, groups, missing)
    if baseline is not None and baseline not in read.arms:
        raise CannotTestError(
            "baseline", f"there is no comparison with {baseline!r}; arms: {', '.join(map(repr, read.arms))}"
        )
    family, untested = _family(read, baseline, correction, alpha, level)
    preferences = _preferences(read, baseline, level)
    choices = [
        (
            "ties",
            Choice(
                "half a win for both",
                "a tie says that neither is better, and win rate and strength then agree (Papke & Wooldridge 1996)",
                ("leave ties out", "Davidson's model of ties"),
            ),
        )
    ]
    if groups is None and baseline is None:
        order = Choice(", ".join(read.arms), "in the order of the data; the rate is that of the first of a pair")
        choices.insert(0, ("groups", order))
    return Comparison(
        alpha=alpha,
        design="independent" if item is None else "clustered",
        outcome="ordinal",
        correction=correction if family.size > 1 else None,
        baseline=baseline,
        measure=measure,
        groups={name: _group(read, place, level) for place, name in enumerate(read.arms)},
        tests=(),
        untested=untested,
        comparisons=family,
        preferences=preferences,
        choices=tuple(choices),
    )


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Records:
    """The comparisons: places of the arms, 1, 0.5 or 0 for the first arm, numbers of judges and of items."""

    arms: list[str]
    asked: list[str]
    first: Codes
    second: Codes
    scores: Vector
    judges: list[str]
    judge: Codes
    items: Codes
    names_items: bool
    left_out: int
    places: Mapping[tuple[int, int], Codes]

    @classmethod
    def of(
        cls,
        records: Sequence[Mapping[str, Any]],
        named: Mapping[str, str | None],
        ties: Sequence[str],
        groups: Sequence[str] | None,
        missing: MissingValues,
    ) -> _Records:
        given = cast(object, records)
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Sequence):
            raise CannotTestError(_TEST, f"records are a sequence of mappings, not {type(given).__name__}")
        fields = {role: name for role, name in named.items() if name is not None}
        rows: list[tuple[str, str, float, Hashable, Hashable]] = []
        lost: list[int] = []
        for place, record in enumerate(records):
            value = _read(place, record, fields)
            arms = str(value["first"]), str(value["second"])
            if groups is not None and not set(arms) <= set(groups):
                continue
            if is_missing(value["winner"]):
                lost.append(place)
                continue
            score = _score(place, str(value["winner"]), arms, fields, ties)
            rows.append((*arms, score, value.get("judge"), value.get("item", place)))
        if lost and missing == "refuse":
            shown = ", ".join(map(str, lost[:_MOST_NAMED])) + (", …" if len(lost) > _MOST_NAMED else "")
            raise CannotTestError(
                _TEST,
                f"{counted(len(lost), 'comparison')} of {len(records)} without a winner (record {shown}): write ties "
                f"as {' or '.join(map(repr, ties))}, or leave such comparisons out with `missing: drop`",
            )
        seen = list(dict.fromkeys(name for one, other, *_ in rows for name in (one, other)))
        arms_asked = list(dict.fromkeys(map(str, groups))) if groups is not None else seen
        compared = [name for name in arms_asked if name in set(seen)]
        if len(compared) < 2:
            raise CannotTestError(_TEST, "there is no comparison of two arms" if not rows else f"one arm: {compared}")
        places = {name: place for place, name in enumerate(compared)}
        judges = list(dict.fromkeys(str(row[3]) for row in rows)) if "judge" in fields else []
        numbers = {name: place for place, name in enumerate(judges)}
        items = {label: place for place, label in enumerate(dict.fromkeys(row[4] for row in rows))}
        one = np.array([places[row[0]] for row in rows], dtype=np.intp)
        other = np.array([places[row[1]] for row in rows], dtype=np.intp)
        return cls(
            compared,
            arms_asked,
            one,
            other,
            np.array([row[2] for row in rows]),
            judges,
            np.array([numbers.get(str(row[3]), 0) for row in rows], dtype=np.intp),
            np.array([items[row[4]] for row in rows], dtype=np.intp),
            "item" in fields,
            len(lost),
            _by_pair(one, other, len(compared)),
        )

    def of_pair(self, one: int, other: int) -> tuple[Codes, Vector]:
        """The places of the records that compare the two, and the scores of the first of them there."""
        here = self.places.get((min(one, other), max(one, other)), np.empty(0, dtype=np.intp))
        return here, np.where(self.first[here] == one, self.scores[here], 1.0 - self.scores[here])


def _by_pair(first: Codes, second: Codes, arms: int) -> dict[tuple[int, int], Codes]:
    """The places of the records of each pair of arms, looked up once however many pairs there are."""
    pair = np.minimum(first, second) * arms + np.maximum(first, second)
    order = np.argsort(pair, kind="stable")
    numbers, starts = np.unique(pair[order], return_index=True)
    found = np.split(order, starts[1:])
    return {divmod(int(number), arms): own for number, own in zip(numbers, found, strict=True)}


def _read(place: int, record: Any, fields: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(record, Mapping):
        raise CannotTestError(_TEST, f"record {place} is a {type(record).__name__}, not a mapping of field to value")
    lacking = [name for name in fields.values() if name not in record]
    if lacking:
        raise CannotTestError(_TEST, f"record {place} lacks {', '.join(map(repr, lacking))}: {record!r:.80}")
    value = {role: record[name] for role, name in fields.items()}
    for role in ("first", "second", "judge", "item"):
        if role in value and (is_missing(value[role]) or not isinstance(value[role], Hashable)):
            raise CannotTestError(_TEST, f"record {place} has no {role} in {fields[role]!r}: {value[role]!r:.80}")
    if str(value["first"]) == str(value["second"]):
        raise CannotTestError(_TEST, f"record {place} compares {value['first']!r} with itself")
    return value


def _score(place: int, winner: str, arms: tuple[str, str], fields: Mapping[str, str], ties: Sequence[str]) -> float:
    """1 if the first arm won, 0 if the second did, one half for a tie; an arm's name precedes a field's."""
    for names in (arms, (fields["first"], fields["second"])):
        if winner in names:
            return 1.0 if winner == names[0] else 0.0
    if winner in ties:
        return 0.5
    raise CannotTestError(
        _TEST,
        f"record {place} has the winner {winner!r}, which is neither {arms[0]!r} nor {arms[1]!r}, nor a tie "
        f"({', '.join(map(repr, ties))}); `ties` names other words for a tie",
    )


# --- win rates --------------------------------------------------------------------------------------------------------


def _share(scores: Vector, items: Codes) -> MeanShare | None:
    """The mean score over items; None if there is only one item."""
    codes = np.unique(items, return_inverse=True)[1]
    return mean_share(scores, codes) if int(codes.max()) > 0 else None


def _group(read: _Records, place: int, level: float) -> ComparedGroup:
    here = (read.first == place) | (read.second == place)
    scores = np.where(read.first == place, read.scores, 1.0 - read.scores)[here]
    share = _share(scores, read.items[here])
    return ComparedGroup(
        n=int(scores.size),
        mean=float(scores.mean()),
        sd=float(scores.std(ddof=1)) if scores.size > 1 else None,
        median=float(np.median(scores)),
        mean_interval=None if share is None else share.interval(level),
    )


def _places_of_pairs(read: _Records, baseline: str | None) -> list[tuple[int, int]]:
    if baseline is None:
        return list(itertools.combinations(range(len(read.arms)), 2))
    control = read.arms.index(baseline)
    return [(place, control) for place in range(len(read.arms)) if place != control]


def _family(
    read: _Records, baseline: str | None, correction: CorrectionName, alpha: float, level: float
) -> tuple[FamilyResult, tuple[Untested, ...]]:
    """The win rates as a family of pairs, and the arms about which nothing can be said."""
    found: list[tuple[tuple[str, str], MeanShare]] = []
    untested: list[Untested] = []
    never = 0
    for pair in _places_of_pairs(read, baseline):
        here, scores = read.of_pair(*pair)
        names = read.arms[pair[0]], read.arms[pair[1]]
        if not scores.size:
            never += 1
            continue
        share = _share(scores, read.items[here])
        if share is None:
            reason = f"{counted(int(scores.size), 'comparison')} of one item; at least two items are needed"
            untested.append(Untested(_TEST, names, (int(scores.size),) * 2, reason))
        else:
            found.append((names, share))
    if not found:
        reason = untested[0].reason if untested else f"nothing was compared with {baseline!r}"
        raise CannotTestError(_TEST, f"no pair of arms can be compared: {reason}")
    size = len(found) + len(untested)
    tail, how = simultaneous_tail(correction, level, size)
    raw = [share.from_half[1] for _, share in found]
    adjusted = adjust_p_values([*raw, *(1.0 for _ in untested)], correction)
    notes = [how] if size > 1 else []
    if never:
        notes.append(f"{counted(never, 'pair')} of arms never compared with each other, so without a win rate")
    worth = min(share.clusters for _, share in found)
    if worth < _FEW:
        noun = "items" if read.names_items else "comparisons"
        notes.append(f"{worth} {noun} of a pair are few: with fewer than {_FEW}, intervals are approximate")
    intervals = [share.interval(1.0 - 2.0 * tail) for _, share in found]
    for (names, _), (low, high), p in zip(found, intervals, adjusted, strict=False):
        if (p <= alpha) == (low <= 0.5 <= high):
            notes.append(
                f"{' - '.join(names)}: the {correction}-adjusted test and the simultaneous interval disagree about "
                "0.5: stepwise corrections decide more sharply than intervals can"
            )
    lacking = tuple(
        Untested(_TEST, (name,), (0,), "it has no comparison") for name in read.asked if name not in read.arms
    )
    return FamilyResult(
        procedure="pairwise",
        method="win rates with ties counted half",
        groups=tuple(read.arms),
        n=tuple(int(((read.first == place) | (read.second == place)).sum()) for place in range(len(read.arms))),
        control=baseline,
        size=size,
        correction=correction if size > 1 else "none",
        statistic_name="t",
        estimate_name="win rate of the first",
        alpha=alpha,
        confidence_level=level,
        comparisons=tuple(
            PairResult(
                first=names[0],
                second=names[1],
                n=(share.n, share.n),
                estimate=share.value,
                confidence_interval=interval,
                statistic=share.from_half[0],
                df=(share.df,),
                p_value=p,
                p_adjusted=p_adjusted,
                significant=p_adjusted <= alpha,
            )
            for (names, share), interval, p, p_adjusted in zip(found, intervals, raw, adjusted, strict=False)
        ),
        assumptions=(
            "comparisons of one item may depend on each other, those of different items do not"
            if read.names_items
            else "every comparison counts as independent, because no item is named; several of one prompt would make "
            "the intervals too short",
        ),
        notes=tuple(notes),
        decisions=(
            Choice(
                "Wilson's interval for as many independent outcomes as the items are worth",
                "it stays between 0 and 1 and holds next to them; the variance over items is CR2 (Bell & McCaffrey "
                "2002; Korn & Graubard 1998)",
                ("cluster bootstrap interval",),
            ),
        ),
        null_value=0.5,
        untested=tuple(untested),
    ), lacking


# --- strengths, judges, positions -------------------------------------------------------------------------------------


def _preferences(read: _Records, baseline: str | None, level: float) -> Preferences:
    arms, reference, notes = _strengths(read, baseline, level)
    pairs = list(_pairs(read, baseline, level, None))
    judged: list[PreferredPair] = []
    if len(pairs) * len(read.judges) > _MOST_JUDGED:
        notes.append(
            f"{len(pairs)} pairs by {len(read.judges)} judges are more than {_MOST_JUDGED} rates, so those of each "
            "judge are left out; choose arms with `groups`"
        )
    else:
        judged = [pair for place in range(len(read.judges)) for pair in _pairs(read, baseline, level, place)]
    if len(read.judges) == 1:
        notes.append(f"{read.judges[0]} judged every comparison, so nothing says how another judge would decide")
    elif read.judges:
        notes.append("intervals are for these judges; they do not say how other judges would decide")
    position, said = _position(read, level)
    return Preferences(
        arms=arms,
        reference=reference,
        confidence_level=level,
        n=int(read.scores.size),
        items=int(read.items.max()) + 1 if read.names_items else None,
        pairs=tuple(pairs),
        judges=tuple(read.judges),
        judged=tuple(judged),
        position=position,
        method="Bradley-Terry log odds with ties as half a win for both, cluster-robust intervals",
        notes=(*notes, *said),
        left_out=read.left_out,
    )


def _pairs(read: _Records, baseline: str | None, level: float, judge: int | None) -> Iterator[PreferredPair]:
    for one, other in _places_of_pairs(read, baseline):
        here, scores = read.of_pair(one, other)
        items = read.items[here]
        if judge is not None:
            own = read.judge[here] == judge
            scores, items = scores[own], items[own]
        if not scores.size:
            continue
        share = _share(scores, items)
        yield PreferredPair(
            first=read.arms[one],
            second=read.arms[other],
            wins=int((scores == 1.0).sum()),
            ties=int((scores == 0.5).sum()),
            losses=int((scores == 0.0).sum()),
            rate=float(scores.mean()),
            interval=None if share is None else share.interval(level),
            judge=None if judge is None else read.judges[judge],
        )


def _strengths(
    read: _Records, baseline: str | None, level: float
) -> tuple[tuple[ArmStrength, ...], str | None, list[str]]:
    """Every arm, the reference of the strengths, and notes about them."""
    count = len(read.arms)
    connected, both_ways = sides(read.first, read.second, read.scores, count)
    sizes = np.bincount(both_ways)
    inside = np.bincount(both_ways[read.first][both_ways[read.first] == both_ways[read.second]], minlength=sizes.size)
    largest = max(range(sizes.size), key=lambda side: (sizes[side], inside[side]))
    fitted = np.flatnonzero(both_ways == largest) if sizes[largest] > 1 else np.empty(0, dtype=np.intp)
    strengths: dict[int, tuple[float, Interval | None]] = {}
    notes: list[str] = []
    one_item = None
    reference = baseline if baseline is not None and read.arms.index(baseline) in fitted else None
    if fitted.size:
        new = np.full(count, -1)
        new[fitted] = np.arange(fitted.size)
        own = (new[read.first] >= 0) & (new[read.second] >= 0)
        items = np.unique(read.items[own], return_inverse=True)[1]
        if int(items.max()) < 1:
            one_item = f"{', '.join(read.arms[arm] for arm in fitted)} were compared on one item only"
        else:
            fit = bradley_terry(new[read.first[own]], new[read.second[own]], read.scores[own], items, fitted.size)
            place = None if reference is None else int(new[read.arms.index(reference)])
            values, errors = fit.against(place)
            quantile = float(special.stdtrit(fit.df, 0.5 + level / 2.0))
            for arm, value, error in zip(fitted, values.tolist(), errors.tolist(), strict=True):
                ends = (value - quantile * error, value + quantile * error)
                strengths[int(arm)] = value, None if new[arm] == place else ends
    if baseline is not None and reference is None and strengths:
        notes.append(f"strengths are against the mean, because {baseline} has no finite one")
    found = [_arm(read, place, strengths.get(place), fitted, connected, one_item) for place in range(count)]
    found.sort(key=lambda arm: math.inf if arm.strength is None else -arm.strength)
    return tuple(found), reference, notes


def _arm(
    read: _Records,
    place: int,
    strength: tuple[float, Interval | None] | None,
    fitted: Codes,
    connected: Codes,
    one_item: str | None,
) -> ArmStrength:
    here = (read.first == place) | (read.second == place)
    scores = np.where(read.first == place, read.scores, 1.0 - read.scores)[here]
    wins, ties, losses = (int((scores == score).sum()) for score in (1.0, 0.5, 0.0))
    name, reason = read.arms[place], None
    if strength is None:
        total = counted(int(scores.size), "comparison")
        if one_item is not None and place in fitted:
            reason = f"{one_item}, so there are no strengths"
        elif fitted.size and connected[place] != connected[fitted[0]]:
            others = ", ".join(read.arms[arm] for arm in fitted[:_MOST_NAMED])
            reason = f"{name} was never compared with {others}, nor through others, so nothing connects their strengths"
        elif wins == scores.size:
            reason = f"{name} won every one of {total}, so no finite strength fits"
        elif losses == scores.size:
            reason = f"{name} lost every one of {total}, so no finite strength fits"
        else:
            reason = f"{name} is on a side that won or lost every comparison with the other, so no finite strength fits"
    return ArmStrength(
        name=name,
        wins=wins,
        ties=ties,
        losses=losses,
        strength=None if strength is None else strength[0],
        interval=None if strength is None else strength[1],
        reason=reason,
    )


def _position(read: _Records, level: float) -> tuple[PositionBias | None, tuple[str, ...]]:
    """How often the arm shown first wins where both orders count alike, and notes about the orders.

    For every pair it is the mean of the first-shown arm's rates in the two orders; the pairs are weighted by their
    numbers of comparisons. The variance is over items, of the scores minus the mean of their own order.
    """
    count = len(read.arms)
    order = read.first * count + read.second
    numbers = np.bincount(order, minlength=count * count)
    turned = numbers[read.second * count + read.first]
    both = turned > 0
    alone = int((~both).sum())
    said: tuple[str, ...] = ()
    if alone:
        said = (
            f"{counted(alone, 'comparison')} of pairs that were shown in one order only, where a better arm cannot be "
            "told from a better position; show each pair in both orders",
        )
    if not both.any():
        return None, said
    order, own, scores, items = order[both], numbers[order[both]], read.scores[both], read.items[both]
    weights = (own + turned[both]) / (2.0 * own) / scores.size
    means = np.bincount(order, weights=scores, minlength=count * count) / np.maximum(1, numbers)
    rate = float(np.dot(weights, scores))
    codes = np.unique(items, return_inverse=True)[1]
    clusters = int(codes.max()) + 1
    if clusters < 2:
        return None, said
    by_item = np.bincount(codes, weights=weights * (scores - means[order]))
    variance = float(np.square(by_item).sum()) * clusters / (clusters - 1.0)
    spread = rate * (1.0 - rate)
    effective = spread / variance if variance > ROUNDING and spread > 0.0 else float(clusters)
    share = MeanShare(rate, int(scores.size), clusters, effective, clusters - 1.0)
    bias = PositionBias(rate, share.interval(level), share.n)
    if not bias.interval[0] <= 0.5 <= bias.interval[1]:
        said += tuple(_uneven(read, numbers))
    return bias, said


def _uneven(read: _Records, numbers: Codes) -> Iterator[str]:
    """The pairs whose win rates contain a part of the position bias, because one order is more than half as frequent
    again as the other.
    """
    count = len(read.arms)
    for one, other in itertools.permutations(range(count), 2):
        orders = int(numbers[one * count + other]), int(numbers[other * count + one])
        if orders[1] > 0 and orders[0] > 1.5 * orders[1]:
            yield (
                f"{read.arms[one]} was shown first in {orders[0]:,} of {sum(orders):,} comparisons with "
                f"{read.arms[other]}, so this pair's win rate and the strengths contain a part of the position bias"
            )
