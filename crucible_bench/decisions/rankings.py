"""Which of many are best: ranks over data sets (Demsar), and the configurations that may be the best of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from crucible_bench.compared import BestMean, BestSet, Contender, Ranking, RankingProcedure
from crucible_bench.data.outcomes import booleans_as_numbers
from crucible_bench.data.sample import Sample, Values, Vector, read_groups
from crucible_bench.data.summary import summarize
from crucible_bench.decisions.best_mean import interval_of_mean, mean_of_best
from crucible_bench.decisions.differences import Differences
from crucible_bench.distributions.studentized import range_quantile
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.no_spread import no_spread_of_groups, no_spread_of_pairs
from crucible_bench.hypothesis_tests.run_test import run_test
from crucible_bench.levels import levels, share
from crucible_bench.multiple.dunn_nemenyi import block_ranks, nemenyi
from crucible_bench.multiple.families import pairwise_tests
from crucible_bench.result import Choice


def rank_over_blocks(
    groups: Mapping[str, Values],
    *,
    higher_is_better: bool = True,
    procedure: RankingProcedure = "nemenyi",
    alpha: float = 0.05,
) -> Ranking:
    """Compare methods over data sets by ranks (Demsar 2006); value i of every group, shape (N,), is from data set i.

    | procedure | two groups are told apart by | source |
    | --- | --- | --- |
    | nemenyi | mean ranks further apart than the critical difference q sqrt(k (k + 1) / (6 N)) | Demsar 2006 |
    | wilcoxon_holm | signed-rank tests of all pairs, corrected by Holm | Benavoli, Corani & Mangili 2016 |

    When all methods are alike, either procedure by itself bounds the chance of any false difference, so it does not
    depend on Friedman's test, which is reported beside it. When some methods do differ, wilcoxon_holm keeps the bound
    for the others, while nemenyi's verdict on a pair depends on the rest (Benavoli, Corani & Mangili 2016).

    It needs at least three groups, two data sets, and one score per data set and method (average replicates first, or
    they count as data sets).

    Raises CannotTestError for fewer, for unequal lengths and for data without any order.
    """
    alpha = share("alpha", alpha)
    if procedure not in ("nemenyi", "wilcoxon_holm"):
        raise CannotTestError(
            str(procedure), "there is no ranking procedure of that name; known: nemenyi, wilcoxon_holm"
        )
    samples = read_groups(procedure, groups)
    n, k = _block_shape(procedure, samples)
    ranks = block_ranks(procedure, [Sample(s.name, -s.values) if higher_is_better else s for s in samples])
    means = ranks.mean(axis=0)
    if procedure == "nemenyi":
        family = nemenyi(groups, alpha=alpha)
        if higher_is_better:  # `nemenyi` gives higher values higher ranks; `means` gives them the better, lower ones
            family = replace(family, estimate_name="difference of mean ranks, from the lowest value")
        difference = range_quantile(1.0 - family.confidence_level, k, math.inf) * math.sqrt(k * (k + 1.0) / (12.0 * n))
    else:
        family, difference = pairwise_tests("wilcoxon", groups, correction="holm", alpha=alpha), None
    order = [int(place) for place in np.argsort(means, kind="stable")]
    friedman = run_test("friedman", groups, alpha=alpha)
    alike = {frozenset((row.first, row.second)) for row in family.comparisons if not row.significant}
    names = tuple(samples[place].name for place in order)
    return Ranking(
        procedure=procedure,
        groups=names,
        mean_ranks=tuple(float(means[place]) for place in order),
        blocks=n,
        higher_is_better=higher_is_better,
        critical_difference=difference,
        cliques=_cliques(names, alike),
        friedman=(friedman.statistic, friedman.df[0], friedman.p_value),
        iman_davenport=_iman_davenport(friedman.statistic, n, k),
        family=family,
        notes=()
        if friedman.significant or not any(row.significant for row in family.comparisons)
        else ("Friedman's test does not reject at this alpha although single comparisons do; both are valid alone",),
        decisions=(
            Choice(
                procedure,
                "a pair's verdict depends on the other methods' ranks, but one number, the critical difference, "
                "describes the diagram"
                if procedure == "nemenyi"
                else "a pair's verdict depends on that pair only and uses the size of its differences",
                ("wilcoxon_holm",) if procedure == "nemenyi" else ("nemenyi",),
            ),
        ),
    )


def indistinguishable_from_best(
    groups: Mapping[str, Values],
    *,
    higher_is_better: bool = True,
    paired: bool = False,
    difference: Differences | None = None,
    alpha: float = 0.05,
    confidence_level: float | None = None,
) -> BestSet:
    """Subset selection: the configurations that no other one is shown to beat by its mean.

    `groups` are name -> values of shape (n,). A configuration is dropped when some other one beats it in a one-sided
    test (Welch's t-test, or that of pairs where value i of all groups shares a seed or a fold; of outcomes, 0 and 1,
    the test of two shares) at alpha / (k - 1). The truly best one takes part in k - 1 such tests, all of true null
    hypotheses. So it is dropped with probability at most alpha, under any dependence (the idea of Gupta 1965 and of Hsu
    1984, without their equal variances). Comparing all with the leader instead would ignore that the leader was chosen
    by the same data.

    The mean of each has its own interval by the design. The leader's mean has another one, by `mean_of_best`, which
    allows for the leader having been picked. `confidence_level` is that of both (by default 1 - alpha).

    A pair without any spread is judged by the exact permutation test. A pair that cannot be tested, such as one with a
    single value, is evidence for neither; `notes` says why.

    Raises CannotTestError for fewer than two groups and if no pair can be tested.
    """
    alpha, test = share("alpha", alpha), "best"
    samples = read_groups(test, booleans_as_numbers(groups))
    if len(samples) < 2:
        raise CannotTestError(test, "the best of fewer than two configurations needs no test")
    of = (difference or Differences("paired" if paired else "independent")).of(samples)
    k = len(samples)
    wins = np.ones((k, k))  # p-values of the one-sided tests that the row's mean is better than the column's
    refused: list[CannotTestError] = []
    for i in range(k):
        for j in range(i):
            try:
                higher, lower = _evidence(of, (samples[i], samples[j]))
            except CannotTestError as refusal:
                refused.append(refusal)
            else:
                wins[i, j], wins[j, i] = (higher, lower) if higher_is_better else (lower, higher)
    if len(refused) == k * (k - 1) // 2:
        raise refused[0]
    sign = 1.0 if higher_is_better else -1.0
    means = [summarize(sample.values).mean for sample in samples]
    order = sorted(range(k), key=lambda place: -sign * means[place])
    mean, no_mean = _mean_of_leader(samples, higher_is_better, of, alpha, confidence_level)
    level = levels(alpha, confidence_level)[1]
    contenders = tuple(
        replace(
            _contender(samples, place, order[0], means[place], wins, alpha),
            interval=interval_of_mean(samples[place], of, level),
        )
        for place in order
    )
    return BestSet(
        leader=samples[order[0]].name,
        kept=tuple(contender.name for contender in contenders if contender.kept),
        contenders=contenders,
        higher_is_better=higher_is_better,
        paired=of.design != "independent",
        size=k - 1,
        alpha=alpha,
        method=f"subset selection by one-sided {_tests(of)}, Bonferroni over {k - 1}",
        assumptions=of.assumptions,
        decisions=(
            Choice(
                "a set of configurations instead of the leader alone",
                "the leader was chosen by the same data, so a test of each against it would be too sure",
                ("dunnett with the leader as control",),
            ),
            *(mean.decisions if mean else ()),
        ),
        notes=tuple(dict.fromkeys([*(refusal.reason for refusal in refused), *no_mean])),
        mean=mean,
    )


def _mean_of_leader(
    samples: Sequence[Sample], higher_is_better: bool, of: Differences, alpha: float, confidence_level: float | None
) -> tuple[BestMean | None, tuple[str, ...]]:
    """The mean of the best with its interval, or the reason why it has none."""
    groups = {sample.name: sample.values for sample in samples}
    try:
        mean = mean_of_best(
            groups, higher_is_better=higher_is_better, difference=of, alpha=alpha, confidence_level=confidence_level
        )
    except CannotTestError as refusal:
        return None, (refusal.reason,)
    return mean, ()


def _tests(of: Differences) -> str:
    if of.of_shares:
        return "McNemar mid-p tests" if of.design == "paired" else "tests of two proportions"
    return f"{of.intervals}-tests"


def _evidence(of: Differences, pair: tuple[Sample, Sample]) -> tuple[float, float]:
    """The one-sided p-values for the first being higher, and for it being lower."""
    still = None
    if not of.of_shares and min(sample.n for sample in pair) > 1:
        if of.design == "independent":
            still = no_spread_of_groups(pair)
        elif pair[0].n == pair[1].n:
            still = no_spread_of_pairs("best", pair)
            if still is not None and still.difference != 0.0 and of.design != "paired":
                still = None  # signs of folds, or of items of one cluster, are not independent
    if still is not None:
        return still.p_value("greater"), still.p_value("less")
    found = of("best", pair)
    return found.upper_tail(), found.lower_tail()


def _contender(
    samples: Sequence[Sample], place: int, leader: int, mean: float, wins: Vector, alpha: float
) -> Contender:
    rivals = [other for other in range(len(samples)) if other != place]
    rival = min(rivals, key=lambda other: float(wins[other, place]))
    p_value = min(1.0, len(rivals) * float(wins[rival, place]))
    return Contender(
        name=samples[place].name,
        n=samples[place].n,
        mean=mean,
        p_value=p_value,
        beaten_by=None if place == leader else samples[rival].name,
        kept=p_value > alpha,
    )


def _block_shape(test: str, samples: Sequence[Sample]) -> tuple[int, int]:
    k, n = len(samples), min((sample.n for sample in samples), default=0)
    if k < 3 or n < 2:
        raise CannotTestError(
            test,
            f"a ranking needs at least 3 groups and 2 data sets, not {k} and {n}; for two groups use wilcoxon",
        )
    return n, k


def _iman_davenport(q: float, n: int, k: int) -> tuple[float, float, float, float]:
    """Iman and Davenport's (1980) F, made from Friedman's Q, with its degrees of freedom and p-value."""
    df = k - 1.0, (k - 1.0) * (n - 1.0)
    rest = n * (k - 1.0) - q
    if rest <= 1e-12 * q:  # every block has the same order
        return math.inf, *df, 0.0
    f = (n - 1.0) * q / rest
    return f, *df, float(special.fdtrc(*df, f))


def _cliques(names: Sequence[str], alike: set[frozenset[str]]) -> tuple[tuple[str, ...], ...]:
    """The maximal sets of two or more names that are pairwise alike (Bron & Kerbosch 1973), in the names' order."""
    near = {name: {other for other in names if frozenset((name, other)) in alike and other != name} for name in names}
    found: list[set[str]] = []

    def extend(clique: set[str], open_: set[str], closed: set[str]) -> None:
        if not open_ and not closed:
            found.append(clique)
            return
        pivot = max(open_ | closed, key=lambda name: (len(near[name] & open_), name))
        for name in sorted(open_ - near[pivot]):
            extend(clique | {name}, open_ & near[name], closed & near[name])
            open_, closed = open_ - {name}, closed | {name}

    extend(set(), set(names), set())
    sets = [tuple(name for name in names if name in clique) for clique in found if len(clique) > 1]
    return tuple(sorted(sets, key=lambda clique: [names.index(name) for name in clique]))
