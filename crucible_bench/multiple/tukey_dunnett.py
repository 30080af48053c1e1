"""Simultaneous comparisons of means: Tukey, Games and Howell, Dunnett."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from scipy import special

from crucible_bench.compared import FamilyResult, PairResult
from crucible_bench.data.moments import LEAST_SQUARES, Moments, moments, standard_error
from crucible_bench.data.sample import Values, scale_exponent
from crucible_bench.distributions.studentized import many_one_quantile, many_one_tail, range_quantile, range_tail
from crucible_bench.errors import CannotTestError
from crucible_bench.multiple.families import Family
from crucible_bench.result import Choice, Untested
from crucible_bench.vocabulary import EffectSizeName

_SMALL_GROUP: Final = 10
_ONE_VARIANCE: Final = (
    "observations are independent, within and between the groups",
    "group means are approximately normal (normal data, or groups that are not small)",
    "all groups have the same variance",
)


def tukey_hsd(
    groups: Mapping[str, Values],
    *,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
) -> FamilyResult:
    """All pairs of means by Tukey's honestly significant difference, unequal n by Tukey-Kramer.

    Compares each |t| with the pooled variance, times sqrt(2), with the studentized range (Tukey 1953; Kramer 1956). It
    is exact for normal groups of equal size and variance, and conservative for unequal sizes (Hayter 1984).

    `groups` are name -> values of shape (n,). Raises CannotTestError for fewer than two groups and for data without
    variation within groups, ValueError for levels out of range.
    """
    family = Family("tukey_hsd", groups, alpha, confidence_level, effect_size=effect_size)
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
    groups: Mapping[str, Values],
    *,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
) -> FamilyResult:
    """All pairs of means without assuming equal variances (Games & Howell 1976).

    Compares each pair's Welch |t|, times sqrt(2), with the studentized range on that pair's Satterthwaite degrees of
    freedom. It is approximate, and liberal for small groups (Games & Howell 1976; Dunnett 1980); a note says so.

    `groups` are name -> values of shape (n,), n at least 2. Raises CannotTestError if all are smaller, for fewer than
    two groups and for data in which no pair varies, ValueError for levels out of range. A pair in which neither group
    varies is among the `untested`.
    """
    family = Family("games_howell", groups, alpha, confidence_level, effect_size=effect_size)
    exponent = scale_exponent(family.samples)
    parts = [moments(sample.values, exponent) for sample in family.samples]
    rows: list[PairResult] = []
    untested: list[Untested] = []
    for i, j in family.pairs:
        try:
            rows.append(_games_howell_pair(family, parts, i, j, exponent))
        except CannotTestError as refusal:
            untested.append(family.untested((i, j), refusal))
    if not rows:
        raise CannotTestError("games_howell", untested[0].reason)
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
        notes=(
            f"the smallest group has {smallest} values: below {_SMALL_GROUP} the procedure is liberal, with up to "
            "10 % instead of 5 % in simulations of many groups of three; pairwise Welch t-tests keep their level",
        )
        if smallest < _SMALL_GROUP
        else (),
        choice=Choice(
            "studentized range with each pair's own variances",
            "it holds its level about as well under unequal variances as Tukey's does under equal ones",
            ("tukey_hsd", "pairwise Welch t-tests with Holm's correction"),
        ),
        untested=tuple(untested),
    )


def dunnett(
    groups: Mapping[str, Values],
    control: str,
    *,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
) -> FamilyResult:
    """Each mean against the control's (Dunnett 1955, 1964), two-sided, sizes equal or not.

    The largest |t| with the pooled variance has a multivariate t distribution whose correlations are products, so
    its tail is a double integral and is computed to about ten digits, without simulation.

    `groups` are name -> values of shape (n,). Raises CannotTestError for fewer than two groups, an unknown control and
    data without variation within groups, ValueError for levels out of range.
    """
    family = Family("dunnett", groups, alpha, confidence_level, control, effect_size=effect_size)
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


@dataclass(frozen=True, slots=True)
class _Pooled:
    moments: list[Moments]
    variance: float
    df: float
    exponent: int

    def comparison(self, family: Family, i: int, j: int, reach: float, tail: Callable[[float], float]) -> PairResult:
        difference = self.moments[i].minus(self.moments[j])
        error = math.sqrt(self.variance * (1.0 / self.moments[i].n + 1.0 / self.moments[j].n))
        t = difference / error
        p = 2.0 * float(special.stdtr(self.df, -abs(t)))
        return family.comparison(
            i, j, difference, reach * error, t, (self.df,), p, tail(abs(t)), exponent=self.exponent
        )


def _pooled(family: Family) -> _Pooled:
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


def _games_howell_pair(family: Family, parts: list[Moments], i: int, j: int, exponent: int) -> PairResult:
    pair = family.samples[i], family.samples[j]
    for sample in pair:
        if sample.n < 2:
            raise CannotTestError(
                "games_howell", f"group {sample.name!r} has 1 value, from which no variance can be estimated"
            )
    if all(sample.is_constant for sample in pair) or parts[i].squares + parts[j].squares < LEAST_SQUARES:
        raise CannotTestError(
            "games_howell",
            f"neither {pair[0].name!r} (always {pair[0].values[0]:.6g}) nor {pair[1].name!r} (always "
            f"{pair[1].values[0]:.6g}) varies, so their difference has no standard error",
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
