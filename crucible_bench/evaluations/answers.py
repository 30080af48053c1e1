"""Several answers to every item, reduced to one number per item: pass@k and majority@k."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np

from crucible_bench.compared import AnswersUsed
from crucible_bench.comparison import Comparison
from crucible_bench.data.missing import is_missing
from crucible_bench.data.outcomes import read_outcomes
from crucible_bench.data.sample import Values
from crucible_bench.errors import CannotTestError
from crucible_bench.evaluations.mean_share import mean_share
from crucible_bench.hypothesis_tests.clusters import Clusters, read_clusters
from crucible_bench.levels import levels
from crucible_bench.result import Choice, Interval, plain_json
from crucible_bench.vocabulary import MissingValues
from crucible_bench.wording import counted

__all__ = [
    "AnswersAtK",
    "ItemsOfArms",
    "at_k",
    "items_of_arms",
    "majority_at_k",
    "pair_by_item",
    "pass_at_k",
    "with_answers",
]

Statistic: TypeAlias = Literal["pass", "majority"]

MOST_TEXTS: Final = 1_000
"""The most texts as answers to one item: with more, a double cannot hold the number of draws."""
_MOST_NAMED: Final = 3
_FEW_ITEMS: Final = 30


@dataclass(frozen=True, slots=True)
class AnswersAtK:
    """pass@k or majority@k of one arm: the mean over its items, with its interval, and the number of every item.

    `items` and `values` belong together, in the order in which items first appear. `answers` is the number of all
    answers, `fewest` and `most` how many one of these items has. `left_out` are the items with fewer than k answers.
    """

    statistic: Statistic
    k: int
    value: float
    interval: Interval
    confidence_level: float
    items: tuple[Hashable, ...]
    values: tuple[float, ...]
    answers: int
    fewest: int
    most: int
    left_out: tuple[Hashable, ...] = ()

    @property
    def name(self) -> str:
        """Such as pass@5."""
        return f"{self.statistic}@{self.k}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, provided that the names of the items are."""
        plain: dict[str, Any] = plain_json({field.name: getattr(self, field.name) for field in fields(self)})
        return plain


def pass_at_k(
    answers: Values, items: Clusters, k: int, *, fewer: MissingValues = "refuse", confidence_level: float = 0.95
) -> AnswersAtK:
    """The chance that at least one of k answers to an item is right, averaged over the items.

    `answers` and `items` have shape (n,): whether each answer is right (booleans, or 0 and 1), and its item. For an
    item with n answers, c of them right, the number is 1 - C(n - c, k) / C(n, k), the share of draws of k answers
    without replacement that contain a right one, which is unbiased (Chen et al. 2021, "Evaluating large language models
    trained on code"). It is computed from whole numbers. The interval is that of a mean over items, between 0 and 1:
    Wilson's, for as many independent outcomes as the items' numbers are worth.

    An item with fewer than k answers is refused; `fewer="drop"` leaves it out and lists it in `left_out`. Raises
    CannotTestError for that, for fewer than two items and for answers that are not outcomes; ValueError for a k below 1
    or a level out of range.
    """
    return at_k("pass", "answers", answers, items, k, fewer=fewer, confidence_level=confidence_level)


def majority_at_k(
    answers: Values | Sequence[Hashable],
    items: Clusters,
    k: int,
    *,
    expected: Mapping[Any, Hashable] | None = None,
    fewer: MissingValues = "refuse",
    confidence_level: float = 0.95,
) -> AnswersAtK:
    """The chance that the most frequent of k answers to an item is right, averaged over the items.

    `answers` and `items` have shape (n,). Without `expected`, answers are right or wrong (booleans, or 0 and 1), and
    the number of an item is the chance that more than half of k answers, drawn without replacement from its n, are
    right; exactly half counts one half. With `expected`, which maps each item to its right answer, answers are texts or
    other labels, and the most frequent one of the k wins; where several are most frequent, each is taken with the same
    chance. Texts are equal only if they are the same, so write them in one way first (Wang et al. 2023,
    "Self-consistency improves chain of thought reasoning"). All draws are counted; none is simulated.

    The interval, `fewer` and the errors are as in `pass_at_k`. CannotTestError is also raised for an item without an
    expected answer, and for more than 1,000 texts to one item.
    """
    return at_k(
        "majority", "answers", answers, items, k, expected=expected, fewer=fewer, confidence_level=confidence_level
    )


def at_k(
    statistic: Statistic,
    name: str,
    answers: Any,
    items: Clusters,
    k: int,
    *,
    expected: Mapping[Any, Hashable] | None = None,
    fewer: MissingValues = "refuse",
    confidence_level: float = 0.95,
) -> AnswersAtK:
    """`pass_at_k` or `majority_at_k` of the arm `name`, which its errors mention."""
    k = operator.index(k)
    if k < 1:
        raise ValueError(f"k is the number of answers that are drawn, at least 1, not {k}")
    test, (_, level) = f"{statistic}@{k}", levels(0.05, confidence_level)
    labels, places = _places(test, name, answers, items)
    short = [item for item, own in zip(labels, places, strict=True) if len(own) < k]
    if short and fewer == "refuse":
        has = next(len(own) for own in places if len(own) < k)
        raise CannotTestError(
            test,
            f"it needs {counted(k, 'answer')} to each item, but {len(short)} of {len(labels)} items of {name!r} have "
            f'fewer ({short[0]!r} has {has}); a smaller k takes all of them, and `missing: drop` (`fewer="drop"`) '
            "leaves such items out and lists them",
        )
    kept = [(item, own) for item, own in zip(labels, places, strict=True) if len(own) >= k]
    if len(kept) < 2:
        raise CannotTestError(
            test,
            f"{counted(len(kept), 'item')} of {name!r} {'has' if len(kept) == 1 else 'have'} {k} answers or more; at "
            "least two are needed",
        )
    if expected is None:
        right = read_outcomes(test, {name: answers})[0].values
        of_counts = _pass if statistic == "pass" else _more_than_half
        numbers = [of_counts(len(own), int(right[own].sum()), k) for _, own in kept]
    else:
        numbers = [_plurality_of(test, name, answers, item, own, expected, k) for item, own in kept]
    sizes = [len(own) for _, own in kept]
    return AnswersAtK(
        statistic,
        k,
        math.fsum(numbers) / len(numbers),
        mean_share(np.array(numbers)).interval(level),
        level,
        tuple(item for item, _ in kept),
        tuple(numbers),
        len(answers),
        min(sizes),
        max(sizes),
        tuple(short),
    )


def _places(test: str, name: str, answers: Any, items: Clusters) -> tuple[list[Hashable], list[list[int]]]:
    """The items in order of appearance, and the positions of each one's answers."""
    given = cast(object, answers)
    if isinstance(given, (str, bytes, Mapping)) or not hasattr(given, "__len__"):
        raise CannotTestError(test, f"{name!r} must be a sequence of answers, not {type(given).__name__}")
    codes = read_clusters(test, items, len(answers))
    places: list[list[int]] = [[] for _ in range(int(codes.max()) + 1)]
    for place, code in enumerate(codes):
        places[code].append(place)
    labels = items if isinstance(items, Sequence) else items.tolist()
    return [labels[own[0]] for own in places], places


# --- of one item ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _pass(n: int, right: int, k: int) -> float:
    draws = math.comb(n, k)
    return (draws - math.comb(n - right, k)) / draws  # whole numbers: nothing cancels, and the quotient is rounded once


@functools.lru_cache(maxsize=4096)
def _more_than_half(n: int, right: int, k: int) -> float:
    """More than half of k drawn answers are right, by the hypergeometric distribution; exactly half counts one half."""
    ways = [math.comb(right, drawn) * math.comb(n - right, k - drawn) for drawn in range(k + 1)]
    twice = 2 * sum(ways[k // 2 + 1 :]) + (ways[k // 2] if k % 2 == 0 else 0)
    return twice / (2 * math.comb(n, k))


def _plurality_of(
    test: str, name: str, answers: Any, item: Hashable, own: Sequence[int], expected: Mapping[Any, Hashable], k: int
) -> float:
    if item not in expected or is_missing(expected[item]):
        raise CannotTestError(test, f"there is no expected answer to the item {item!r}")
    if len(own) > MOST_TEXTS:
        raise CannotTestError(
            test, f"item {item!r} of {name!r} has {len(own):,} answers; texts are counted up to {MOST_TEXTS:,}"
        )
    counts: dict[Hashable, int] = {}
    for place in own:
        answer = answers[place]
        if is_missing(answer) or not isinstance(answer, Hashable):
            what = "missing" if is_missing(answer) else f"a {type(answer).__name__}"
            raise CannotTestError(
                test, f"the answer of {name!r} at position {place} is {what}; an answer is a text, a number or a label"
            )
        counts[answer] = counts.get(answer, 0) + 1
    right = counts.pop(expected[item], 0)
    return _plurality(right, tuple(sorted(counts.values())), k)


@functools.lru_cache(maxsize=4096)
def _plurality(right: int, others: tuple[int, ...], k: int) -> float:
    """The chance that the right text wins among k draws, given how often it and every other text occurs.

    For m right ones among the k, the draws of the others are counted text by text: each occurs less than m times, or m
    times and ties. All terms are positive, so nothing cancels.
    """
    won = 0.0
    for m in range(1, min(right, k) + 1):
        rest = k - m
        ways = np.zeros((rest // m + 1, rest + 1))  # by the number of ties, and of other answers drawn so far
        ways[0, 0] = 1.0
        for count in others:
            more = np.zeros_like(ways)
            for drawn in range(min(m - 1, count, rest) + 1):
                more[:, drawn:] += float(math.comb(count, drawn)) * ways[:, : rest + 1 - drawn]
            if m <= min(count, rest):
                more[1:, m:] += float(math.comb(count, m)) * ways[:-1, : rest + 1 - m]
            ways = more
        won += math.comb(right, m) * float((ways[:, rest] / np.arange(1, len(ways) + 1)).sum())
    return min(1.0, won / math.comb(right + sum(others), k))


# --- of several arms --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ItemsOfArms:
    """One number per item and arm, lined up: value i of every arm is of `items[i]`.

    `left_out` has a sentence for each item that an arm lacks or has too few answers to.
    """

    values: dict[str, list[float]]
    items: tuple[Hashable, ...]
    used: AnswersUsed
    left_out: tuple[str, ...] = ()


def pair_by_item(arms: Mapping[str, AnswersAtK], *, lacking: MissingValues = "refuse") -> dict[str, list[float]]:
    """The numbers of the items that all arms have, in one order: groups for `compare(..., design="paired")`.

    An item that an arm lacks is refused; `lacking="drop"` leaves it out of every arm. Raises CannotTestError for that,
    for arms of different k, and if fewer than two items are left.
    """
    return items_of_arms(arms, lacking).values


def items_of_arms(arms: Mapping[str, AnswersAtK], lacking: MissingValues) -> ItemsOfArms:
    """`pair_by_item`, with the items and a record of what was used and left out."""
    names = {arm.name for arm in arms.values()}
    if len(names) != 1:
        said = " and ".join(sorted(names)) or "no arm"
        raise CannotTestError("items", f"arms are compared by one number per item, not by {said}")
    (name,) = names
    numbers = {arm: dict(zip(found.items, found.values, strict=True)) for arm, found in arms.items()}
    everything = dict.fromkeys(item for found in arms.values() for item in (*found.items, *found.left_out))
    common = [item for item in everything if all(item in own for own in numbers.values())]
    kept = set(common)
    left_out = tuple(_reasons(arms, numbers, [item for item in everything if item not in kept]))
    if left_out and lacking == "refuse":
        more = f"; and {len(left_out) - _MOST_NAMED} more" if len(left_out) > _MOST_NAMED else ""
        raise CannotTestError(
            name,
            f"items are compared in pairs, but {'; '.join(left_out[:_MOST_NAMED])}{more}; `missing: drop` "
            '(`lacking="drop"`) leaves such items out of every arm and lists them',
        )
    if len(common) < 2:
        raise CannotTestError(name, f"the arms share {counted(len(common), 'item')}; at least two are needed")
    first = next(iter(arms.values()))
    used = AnswersUsed(
        statistic=first.statistic,
        k=first.k,
        answers={arm: found.answers for arm, found in arms.items()},
        fewest=min(found.fewest for found in arms.values()),
        most=max(found.most for found in arms.values()),
        items_left_out=len(left_out),
    )
    return ItemsOfArms(
        {arm: [own[item] for item in common] for arm, own in numbers.items()}, tuple(common), used, left_out
    )


def _reasons(
    arms: Mapping[str, AnswersAtK], numbers: Mapping[str, Mapping[Hashable, float]], items: Sequence[Hashable]
) -> Iterator[str]:
    dropped = {arm: set(found.left_out) for arm, found in arms.items()}
    for item in items:
        few = [arm for arm in arms if item in dropped[arm]]
        none = [arm for arm in arms if item not in numbers[arm] and arm not in few]
        said = [f"fewer than {next(iter(arms.values())).k} answers of {', '.join(few)}"] if few else []
        said += [f"no answer of {', '.join(none)}"] if none else []
        yield f"item {item!r} has {' and '.join(said)}"


_WHY: Final[Mapping[Statistic, str]] = {
    "pass": "the unbiased chance that one of {k} answers, drawn without replacement from an item's own, is right (Chen "
    "et al. 2021)",
    "majority": "the chance that the most frequent of {k} answers, drawn without replacement from an item's own, is "
    "right, ties split (Wang et al. 2023)",
}


def with_answers(
    comparison: Comparison,
    values: Mapping[str, Sequence[float]],
    used: AnswersUsed,
    clusters: Clusters | None = None,
) -> Comparison:
    """A comparison of numbers per item, to which are added what they are made of and each arm's interval over items.

    `values` are those that were compared; `clusters` has the cluster of each item, if the items have some.
    """
    n, level = len(next(iter(values.values()))), comparison.confidence_level
    codes = None if clusters is None else read_clusters(used.name, clusters, n)
    groups = {
        name: replace(group, mean_interval=mean_share(np.array(values[name]), codes).interval(level))
        for name, group in comparison.groups.items()
    }
    few = (
        f"{n} items are few: if rare items decide, the intervals of the groups' own means cover less than promised: in "
        "simulations only 54 % with 10 items and 86 % with 30, where 95 % are promised; more items help, more "
        "answers do not",
    )
    choice = Choice(
        f"{used.name} of each item",
        f"{_WHY[used.statistic].format(k=used.k)}; one number per item, so the arms are compared item by item",
        ("the answers themselves, clustered by item",),
    )
    return replace(
        comparison,
        groups=groups,
        answers=used,
        checks=(*comparison.checks, *(few if n <= _FEW_ITEMS else ())),
        choices=(("values", choice), *comparison.choices),
    )
