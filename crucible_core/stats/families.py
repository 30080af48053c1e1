"""Simultaneous comparisons: all pairs of groups, or each group against a control, as one family."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

from crucible_core.stats.comparison import run_test
from crucible_core.stats.corrections import AdjustmentName, adjust_p_values
from crucible_core.stats.levels import levels
from crucible_core.stats.mean_difference import standard_error
from crucible_core.stats.moments import LEAST_SQUARES, Moments, moments
from crucible_core.stats.pairs import check_blocks
from crucible_core.stats.rank_distributions import midranks, tie_sum
from crucible_core.stats.refusal import CannotTestError
from crucible_core.stats.result import Choice, Interval, plain_json
from crucible_core.stats.sample import Sample, Values, Vector, read_groups, scale_exponent, unscaled
from crucible_core.stats.studentized import many_one_quantile, many_one_tail, range_quantile, range_tail
from crucible_core.stats.wording import counted

FamilyName = Literal["dunn", "dunnett", "games_howell", "nemenyi", "pairwise", "tukey_hsd"]

_SMALL_GROUP = 6
_HALF = math.sqrt(0.5)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two groups of a family: `estimate` is about the first minus the second.

    `p_value` is that of the comparison alone, `p_adjusted` and `confidence_interval` are the family's, and
    `significant` is p_adjusted <= alpha. `df` is empty where the statistic is normal or has a table of its own.
    """

    first: str
    second: str
    n: tuple[int, int]
    estimate: float
    confidence_interval: Interval
    statistic: float
    df: tuple[float, ...]
    p_value: float
    p_adjusted: float
    significant: bool


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """Comparisons that were judged together.

    `size` is the number of comparisons the adjustment counts, `correction` what adjusts their p-values, and
    `confidence_level` that of all intervals at once. Comparisons stand in the order of the groups; against a control,
    each is the group minus the control.
    """

    procedure: FamilyName
    method: str
    groups: tuple[str, ...]
    n: tuple[int, ...]
    control: str | None
    size: int
    correction: str
    statistic_name: str
    estimate_name: str
    alpha: float
    confidence_level: float
    comparisons: tuple[Comparison, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    decisions: tuple[Choice, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values: tuples become lists, and an infinite interval end becomes None."""
        fields: dict[str, Any] = plain_json(asdict(self))
        return fields


def tukey_hsd(
    groups: Mapping[str, Values], *, alpha: float = 0.05, confidence_level: float | None = None
) -> FamilyResult:
    """All pairs of means by Tukey's honestly significant difference, unequal n by Tukey-Kramer.

    Each |t| with the pooled variance, times sqrt(2), against the studentized range (Tukey 1953; Kramer 1956). Exact
    for normal groups of one size and one variance, conservative for unequal sizes (Hayter 1984).

    Raises CannotTestError for data that do not allow it, ValueError for levels out of range.
    """
    family = _Family("tukey_hsd", groups, alpha, confidence_level)
    pooled = _pooled(family)
    k, df = len(family.samples), pooled.df
    reach = range_quantile(1.0 - family.level, k, df) / math.sqrt(2.0)
    return family.result(
        [
            pooled.comparison(family, i, j, reach, lambda t: range_tail(math.sqrt(2.0) * t, k, df))
            for i, j in family.pairs
        ],
        method="Tukey's honestly significant differences"
        + ("" if len({sample.n for sample in family.samples}) == 1 else ", Tukey-Kramer for unequal n"),
        correction="studentized range",
        names=("t", "difference of means"),
        assumptions=_ONE_VARIANCE,
        choice=Choice(
            "studentized range for all pairs",
            "exact for normal groups of one size and one variance, where corrections of separate tests give away power",
            ("games_howell, if variances differ", "pairwise Welch t-tests with Holm's correction"),
        ),
    )


def games_howell(
    groups: Mapping[str, Values], *, alpha: float = 0.05, confidence_level: float | None = None
) -> FamilyResult:
    """All pairs of means without assuming one variance (Games & Howell 1976).

    Each pair's Welch |t|, times sqrt(2), against the studentized range on that pair's Satterthwaite degrees of
    freedom. Approximate; slightly liberal for groups of about five or fewer (Games & Howell 1976; Dunnett 1980).
    """
    family = _Family("games_howell", groups, alpha, confidence_level)
    exponent = scale_exponent(family.samples)
    parts = [moments(sample.values, exponent) for sample in family.samples]
    rows = [_games_howell_pair(family, parts, i, j, exponent) for i, j in family.pairs]
    smallest = min(sample.n for sample in family.samples)
    return family.result(
        rows,
        method="Games-Howell comparisons of means",
        correction="studentized range",
        names=("t", "difference of means"),
        assumptions=(
            "observations are independent, within and between the groups",
            "group means are approximately normal (normal data, or groups that are not small)",
        ),
        notes=(f"the smallest group has {smallest} values: below {_SMALL_GROUP} the procedure is slightly liberal",)
        if smallest < _SMALL_GROUP
        else (),
        choice=Choice(
            "studentized range with each pair's own variances",
            "it holds its level about as well under unequal variances as Tukey's does under equal ones",
            ("tukey_hsd", "pairwise Welch t-tests with Holm's correction"),
        ),
    )


def dunnett(
    groups: Mapping[str, Values], control: str, *, alpha: float = 0.05, confidence_level: float | None = None
) -> FamilyResult:
    """Each mean against the control's (Dunnett 1955, 1964), two-sided, sizes equal or not.

    The largest |t| with the pooled variance has a multivariate t distribution whose correlations are products, so
    its tail is a double integral and is computed to about ten digits, without simulation.
    """
    family = _Family("dunnett", groups, alpha, confidence_level, control)
    pooled = _pooled(family)
    reference = family.samples[family.place_of_control].n
    loadings = tuple(sorted(math.sqrt(s.n / (s.n + reference)) for s in family.samples if s.name != control))
    reach = many_one_quantile(1.0 - family.level, loadings, pooled.df)
    return family.result(
        [
            pooled.comparison(family, i, j, reach, lambda t: many_one_tail(t, loadings, pooled.df))
            for i, j in family.pairs
        ],
        method="Dunnett's comparisons with a control, two-sided",
        correction="multivariate t",
        names=("t", "difference of means"),
        assumptions=_ONE_VARIANCE,
        choice=Choice(
            "multivariate t of the comparisons with the control",
            "exact for normal groups of one variance at any sizes",
            ("pairwise Welch t-tests against the control with Holm's correction, if variances differ",),
        ),
    )


def dunn(
    groups: Mapping[str, Values],
    *,
    control: str | None = None,
    correction: AdjustmentName = "holm",
    alpha: float = 0.05,
    confidence_level: float | None = None,
) -> FamilyResult:
    """Differences of mean ranks after Kruskal-Wallis, all pairs or each against `control` (Dunn 1964).

    Ranks are those of all groups together; the variance is corrected for ties. The intervals are for the mean rank
    differences, with the variance that holds when all groups are alike: half of their width is the critical
    difference.
    """
    family = _Family("dunn", groups, alpha, confidence_level, control)
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
    tail, how = _simultaneous_tail(correction, family.level, len(p_values))
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
) -> FamilyResult:
    """Differences of mean within-block ranks after Friedman, all pairs or each against `control` (Nemenyi 1963).

    Value i of every group belongs to block i (a data set, a seed, a rater); rank 1 is the smallest. All pairs: the
    studentized range with infinite degrees of freedom. Against a control: the maximum of k - 1 normal statistics
    with correlations 1/2, where Demsar (2006) corrects with Bonferroni (Bonferroni-Dunn). Ties share ranks, and the
    variance is that without ties, as published: with ties both are conservative.
    """
    family = _Family("nemenyi", groups, alpha, confidence_level, control)
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


def pairwise_tests(
    test: str,
    groups: Mapping[str, Values],
    *,
    control: str | None = None,
    correction: AdjustmentName = "holm",
    alpha: float = 0.05,
    confidence_level: float | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> FamilyResult:
    """The named two-group test (`run_test`) on all pairs, or on each group against `control`, corrected.

    The intervals hold together by Bonferroni's inequality (Sidak's for sidak and holm_sidak): each has the confidence
    1 - (1 - confidence_level) / size. With "none" each has `confidence_level` by itself.
    """
    family = _Family("pairwise", groups, alpha, confidence_level, control)
    size = len(family.pairs)
    tail, how = _simultaneous_tail(correction, family.level, size)
    results = [
        run_test(
            test,
            {family.samples[place].name: family.samples[place].values for place in pair},
            alpha=family.alpha,
            confidence_level=1.0 - 2.0 * tail,
            resamples=resamples,
            seed=seed,
        )
        for pair in family.pairs
    ]
    adjusted = adjust_p_values([result.p_value for result in results], correction)
    first = results[0]
    return family.result(
        [
            Comparison(
                first=result.groups[0],
                second=result.groups[1],
                n=(result.n[0], result.n[1]),
                estimate=result.estimate,
                confidence_interval=result.confidence_interval,
                statistic=result.statistic,
                df=result.df,
                p_value=result.p_value,
                p_adjusted=p,
                significant=p <= family.alpha,
            )
            for result, p in zip(results, adjusted, strict=True)
        ],
        method=f"{first.method}, {'all pairs' if control is None else 'each group against the control'}",
        correction=correction,
        names=(first.statistic_name, first.estimate_name.partition(" (")[0]),
        assumptions=first.assumptions,
        notes=(
            how,
            *(f"{r.groups[0]} - {r.groups[1]}: {note}" for r in results for note in r.notes if "disagree" not in note),
        ),
        choice=Choice(
            f"{correction} over {counted(size, 'comparison')}",
            "it needs no more than the p-values of the separate tests",
            ("tukey_hsd or games_howell", "dunnett, against a control"),
        ),
    )


def block_ranks(test: str, samples: Sequence[Sample]) -> Vector:
    """Shape (blocks, groups): the midranks within each block, from 1 for the smallest.

    CannotTestError for groups of different lengths and for blocks that are all tied.
    """
    check_blocks(test, tuple(samples))
    ranks: Vector = np.stack([midranks(block) for block in np.column_stack([s.values for s in samples])])
    if not np.ptp(ranks, axis=1).any():
        raise CannotTestError(test, "within every block all groups have the same value: there is nothing to rank")
    return ranks


_ONE_VARIANCE = (
    "observations are independent, within and between the groups",
    "group means are approximately normal (normal data, or groups that are not small)",
    "all groups have the same variance",
)


class _Family:
    """The groups as read, the pairs to compare, and how a comparison and a result are put together."""

    def __init__(
        self,
        procedure: FamilyName,
        groups: Mapping[str, Values],
        alpha: float,
        confidence_level: float | None,
        control: str | None = None,
    ) -> None:
        self.procedure: FamilyName = procedure
        self.alpha, self.level = levels(alpha, confidence_level)
        self.samples = read_groups(procedure, groups)
        self.control = control
        names = [sample.name for sample in self.samples]
        if len(names) < 2:
            listed = ", ".join(map(repr, names)) or "none"
            raise CannotTestError(procedure, f"a family of comparisons needs at least two groups; given: {listed}")
        if control is None:
            self.pairs = list(itertools.combinations(range(len(names)), 2))
            return
        if control not in names:
            close = difflib.get_close_matches(str(control), names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise CannotTestError(
                procedure, f"the control {control!r} is not among the groups {', '.join(map(repr, names))}{hint}"
            )
        self.pairs = [(i, self.place_of_control) for i in range(len(names)) if i != self.place_of_control]

    @property
    def place_of_control(self) -> int:
        return [sample.name for sample in self.samples].index(str(self.control))

    def comparison(
        self,
        i: int,
        j: int,
        estimate: float,
        reach: float,
        statistic: float,
        df: tuple[float, ...],
        p_value: float,
        p_adjusted: float,
        exponent: int = 0,
    ) -> Comparison:
        first, second = self.samples[i], self.samples[j]
        ends = (unscaled(self.procedure, estimate + side * reach, exponent) for side in (-1.0, 1.0))
        p_adjusted = min(1.0, max(p_value, float(p_adjusted)))  # the last digits of two integrals could cross
        return Comparison(
            first=first.name,
            second=second.name,
            n=(first.n, second.n),
            estimate=unscaled(self.procedure, estimate, exponent),
            confidence_interval=(next(ends), next(ends)),
            statistic=statistic,
            df=df,
            p_value=p_value,
            p_adjusted=p_adjusted,
            significant=p_adjusted <= self.alpha,
        )

    def result(
        self,
        comparisons: list[Comparison],
        *,
        method: str,
        correction: str,
        names: tuple[str, str],
        assumptions: tuple[str, ...],
        choice: Choice,
        notes: tuple[str, ...] = (),
    ) -> FamilyResult:
        return FamilyResult(
            procedure=self.procedure,
            method=method,
            groups=tuple(sample.name for sample in self.samples),
            n=tuple(sample.n for sample in self.samples),
            control=self.control,
            size=len(comparisons),
            correction=correction,
            statistic_name=names[0],
            estimate_name=names[1],
            alpha=self.alpha,
            confidence_level=self.level,
            comparisons=tuple(comparisons),
            assumptions=assumptions,
            notes=notes,
            decisions=(choice,),
        )


@dataclass(frozen=True, slots=True)
class _Pooled:
    moments: list[Moments]
    variance: float
    df: float
    exponent: int

    def comparison(self, family: _Family, i: int, j: int, reach: float, tail: Callable[[float], float]) -> Comparison:
        difference = self.moments[i].minus(self.moments[j])
        error = math.sqrt(self.variance * (1.0 / self.moments[i].n + 1.0 / self.moments[j].n))
        t = difference / error
        p = 2.0 * float(special.stdtr(self.df, -abs(t)))
        return family.comparison(
            i, j, difference, reach * error, t, (self.df,), p, tail(abs(t)), exponent=self.exponent
        )


def _pooled(family: _Family) -> _Pooled:
    samples, test = family.samples, family.procedure
    df = float(sum(sample.n - 1 for sample in samples))
    if df == 0.0:
        raise CannotTestError(test, "no group has 2 values, so there is no spread within groups to judge by")
    if all(sample.is_constant for sample in samples):
        raise CannotTestError(test, "no group varies, so the variance within groups is zero; compare the numbers")
    exponent = scale_exponent(samples)
    parts = [moments(sample.values, exponent) for sample in samples]
    within = sum(part.squares for part in parts)
    if within < LEAST_SQUARES:
        raise CannotTestError(
            test, "the groups vary too little, next to the size of their values, for double precision; rescale"
        )
    return _Pooled(parts, within / df, df, exponent)


def _games_howell_pair(family: _Family, parts: list[Moments], i: int, j: int, exponent: int) -> Comparison:
    pair = family.samples[i], family.samples[j]
    for sample in pair:
        if sample.n < 2:
            raise CannotTestError(
                "games_howell", f"group {sample.name!r} has 1 value, from which no variance can be estimated"
            )
    if all(sample.is_constant for sample in pair) or parts[i].squares + parts[j].squares < LEAST_SQUARES:
        raise CannotTestError(
            "games_howell",
            f"neither {pair[0].name!r} nor {pair[1].name!r} varies, next to the size of the values, so "
            "their difference has no standard error",
        )
    error, df = standard_error((parts[i].variance, parts[j].variance), (pair[0].n, pair[1].n))
    difference, k = parts[i].minus(parts[j]), len(family.samples)
    t = difference / error
    return family.comparison(
        i,
        j,
        difference,
        range_quantile(1.0 - family.level, k, df) / math.sqrt(2.0) * error,
        t,
        (df,),
        2.0 * float(special.stdtr(df, -abs(t))),
        range_tail(math.sqrt(2.0) * abs(t), k, df),
        exponent=exponent,
    )


def _two_sided_z(z: float) -> float:
    return min(1.0, 2.0 * float(special.ndtr(-abs(z))))


def _simultaneous_tail(correction: AdjustmentName, level: float, size: int) -> tuple[float, str]:
    """What each interval leaves out at each end, and the sentence about it."""
    if correction == "none":
        return (1.0 - level) / 2.0, "no correction: the intervals hold one by one, not together"
    if correction in ("sidak", "holm_sidak"):
        return -math.expm1(math.log(level) / size) / 2.0, "simultaneous intervals by Sidak's inequality"
    return (1.0 - level) / size / 2.0, "simultaneous intervals by Bonferroni's inequality"
