"""Simultaneous comparisons of ranks: Dunn after Kruskal-Wallis, Nemenyi after Friedman."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from scipy import special

from crucible_bench.compared import FamilyResult
from crucible_bench.data.pairs import check_blocks
from crucible_bench.data.sample import Sample, Values, Vector
from crucible_bench.distributions.rank_distributions import midranks, tie_sum
from crucible_bench.distributions.studentized import many_one_quantile, many_one_tail, range_quantile, range_tail
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.friedman import ranks_within_blocks
from crucible_bench.multiple.corrections import adjust_p_values
from crucible_bench.multiple.families import Family, simultaneous_tail
from crucible_bench.result import Choice
from crucible_bench.vocabulary import CorrectionName, EffectSizeName
from crucible_bench.wording import counted

_HALF: Final = math.sqrt(0.5)


def dunn(
    groups: Mapping[str, Values],
    *,
    control: str | None = None,
    correction: CorrectionName = "holm",
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
) -> FamilyResult:
    """Differences of mean ranks after Kruskal-Wallis, all pairs or each against `control` (Dunn 1964).

    `groups` are name -> values of shape (n,). Ranks are those of all groups together. The variance is corrected for
    ties and is right when all groups are alike: if other groups differ, a pair that is alike is judged approximately
    (Fligner 1984). The intervals are for the mean rank differences, with that same variance: half of their width is the
    critical difference.

    Raises CannotTestError for fewer than two groups, an unknown control, and values that are all equal; ValueError for
    an unknown correction and levels out of range.
    """
    family = Family("dunn", groups, alpha, confidence_level, control, effect_size=effect_size)
    pooled = np.concatenate([sample.values for sample in family.samples])
    ranks = midranks(pooled)
    if np.ptp(ranks) == 0.0:
        raise CannotTestError("dunn", f"every value of all groups is {float(pooled[0])!r}: there is nothing to rank")
    n = ranks.size
    variance = n * (n + 1.0) / 12.0 - tie_sum(ranks) / (12.0 * (n - 1.0))
    means = [float(part.mean()) for part in np.split(ranks, np.cumsum([sample.n for sample in family.samples])[:-1])]
    sizes = [sample.n for sample in family.samples]
    errors = [math.sqrt(variance * (1.0 / sizes[i] + 1.0 / sizes[j])) for i, j in family.pairs]
    differences = [means[i] - means[j] for i, j in family.pairs]
    p_values = [_two_sided_z(d / e) for d, e in zip(differences, errors, strict=True)]
    tail, how = simultaneous_tail(correction, family.level, len(p_values))
    tied = n - np.unique(ranks).size
    return family.result(
        [
            family.comparison(i, j, d, -float(special.ndtri(tail)) * e, d / e, (), p, adjusted)
            for (i, j), d, e, p, adjusted in zip(
                family.pairs, differences, errors, p_values, adjust_p_values(p_values, correction), strict=True
            )
        ],
        method="Dunn's comparisons of mean ranks, two-sided",
        correction=correction,
        names=("z", "difference of mean ranks"),
        assumptions=(
            "observations are independent, within and between the groups",
            "without an effect all groups have the same distribution",
            "mean ranks are approximately normal",
        ),
        notes=(f"{counted(tied, 'tie')}, tie correction applied" if tied else "no ties", how),
        choice=Choice(
            "ranks of all groups together",
            "the ranks that the Kruskal-Wallis test used, so both speak of the same thing; a pair's comparison then "
            "depends on the other groups too",
            ("pairwise Mann-Whitney tests",),
        ),
    )


def nemenyi(
    groups: Mapping[str, Values],
    *,
    control: str | None = None,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
) -> FamilyResult:
    """Differences of mean within-block ranks after Friedman, all pairs or each against `control` (Nemenyi 1963).

    Value i of every group belongs to block i (a data set, a seed, a rater); rank 1 is the smallest. All pairs: the
    studentized range with infinite degrees of freedom. Against a control: the maximum of k - 1 normal statistics
    with correlations 1/2, where Demsar (2006) corrects with Bonferroni (Bonferroni-Dunn). Ties share ranks, and the
    variance is that without ties, as published: with ties both are conservative.

    `groups` are name -> values of shape (blocks,). Raises CannotTestError for fewer than two groups, an unknown
    control, groups of different lengths, and blocks that are all tied; ValueError for levels out of range.
    """
    family = Family("nemenyi", groups, alpha, confidence_level, control, effect_size=effect_size)
    means = block_ranks("nemenyi", family.samples).mean(axis=0)
    n, k = family.samples[0].n, len(family.samples)
    error = math.sqrt(k * (k + 1.0) / (6.0 * n))
    loadings, miss = (_HALF,) * (k - 1), 1.0 - family.level
    if control is None:
        reach = range_quantile(miss, k, math.inf) / math.sqrt(2.0)
    else:
        reach = many_one_quantile(miss, loadings, math.inf)

    def adjusted(z: float) -> float:
        if control is None:
            return range_tail(math.sqrt(2.0) * z, k, math.inf)
        return many_one_tail(z, loadings, math.inf)

    return family.result(
        [
            family.comparison(i, j, d, reach * error, d / error, (), _two_sided_z(d / error), adjusted(abs(d) / error))
            for i, j in family.pairs
            for d in (float(means[i] - means[j]),)
        ],
        method="Nemenyi's comparisons of mean ranks within blocks, two-sided",
        correction="studentized range" if control is None else "multivariate normal",
        names=("z", "difference of mean ranks"),
        assumptions=(
            "values at the same position of all groups belong to one block",
            "blocks are independent of each other",
            "without an effect every order within a block is equally likely",
            "mean ranks are approximately normal (about 10 blocks or more)",
        ),
        notes=(f"{counted(n, 'block')}; half of each interval's width is the critical difference",),
        choice=Choice(
            "ranks of all groups together within each block",
            "the ranks that Friedman's test used; a pair's comparison then depends on the other groups too",
            ("pairwise Wilcoxon tests with Holm's correction",),
        ),
    )


def block_ranks(test: str, samples: Sequence[Sample]) -> Vector:
    """Shape (blocks, groups): the midranks within each block, from 1 for the smallest.

    CannotTestError for groups of different lengths and for blocks that are all tied.
    """
    check_blocks(test, tuple(samples))
    ranks: Vector = np.column_stack(ranks_within_blocks(samples))
    if not np.ptp(ranks, axis=1).any():
        raise CannotTestError(test, "within every block all groups have the same value: there is nothing to rank")
    return ranks


def _two_sided_z(z: float) -> float:
    return min(1.0, 2.0 * float(special.ndtr(-abs(z))))
