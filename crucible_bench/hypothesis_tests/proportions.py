"""Proportions: k of n against a reference, two independent proportions, two paired ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from scipy import optimize, special

from crucible_bench.data.outcomes import Successes, read_count, read_successes
from crucible_bench.data.sample import Sample
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.share_difference import (
    IndependentShares,
    PairedShares,
    binomial_tail,
    independent_shares,
    paired_shares,
)
from crucible_bench.levels import levels
from crucible_bench.result import Choice, Effect, Interval, Settings, TestResult, conclude
from crucible_bench.settings import read_settings
from crucible_bench.vocabulary import EFFECT_SIZES, Alternative, EffectSizeName, TestName
from crucible_bench.wording import counted

ProportionInterval = Literal["clopper_pearson", "wilson"]


def proportion_interval(
    successes: int, n: int, *, method: ProportionInterval = "wilson", confidence_level: float = 0.95
) -> Interval:
    """Two-sided interval for the probability behind `successes` of `n` independent outcomes.

    "wilson" (Wilson 1927) inverts the score test: its mean coverage is the confidence level. "clopper_pearson" (Clopper
    & Pearson 1934) inverts the exact binomial test: it never covers less, and is therefore wider. Raises
    CannotTestError for numbers that are not counts, ValueError for an unknown method or a confidence level out of
    range.
    """
    group = read_successes("proportion", "group", successes, n)
    level = levels(0.05, confidence_level)[1]
    return _interval(group, _known(method), (1.0 - level) / 2.0)


def proportion_test(
    successes: int,
    n: int,
    *,
    reference: float = 0.5,
    interval: ProportionInterval = "wilson",
    alpha: float = 0.05,
    confidence_level: float | None = None,
    alternative: Alternative = "two-sided",
) -> TestResult:
    """Exact binomial test that the probability behind `successes` of `n` outcomes is `reference` (in [0, 1]).

    The two-sided p-value is twice the smaller tail, the one that belongs to the Clopper-Pearson interval (Fay 2010).
    The effect size is Cohen's h (1988) against the reference. Raises as `proportion_interval`, and ValueError for a
    reference that is not a probability.
    """
    name: TestName = "proportion"
    settings = read_settings(
        name, ("cohens_h",), alpha=alpha, confidence_level=confidence_level, alternative=alternative
    )
    group, method = read_successes(name, "group", successes, n), _known(interval)
    if not 0.0 <= reference <= 1.0:
        raise ValueError(f"reference must be a probability, not {reference!r}")
    h = arcsine(group.share) - arcsine(reference)
    ends = _interval(group, method, settings.tail)
    return conclude(
        name,
        (group,),
        settings,
        method=f"exact binomial test, {settings.sides}",
        statistic=("successes", float(group.successes)),
        df=(),
        p_value=binomial_tail(group.successes, group.n, reference, settings.alternative),
        estimate=(
            "proportion",
            group.share,
            settings.bounded(_interval(group, method, settings.estimate_tail), 0.0, 1.0),
        ),
        effect=Effect(
            "cohens_h",
            h,
            (arcsine(ends[0]) - arcsine(reference), arcsine(ends[1]) - arcsine(reference)),
            Choice(
                f"{method} interval on the arcsine scale for the effect size", "the scale on which h is a difference"
            ),
        ),
        assumptions=("outcomes are independent and have one probability",),
        notes=(f"exact p-value, n = {group.n}",),
        decisions=(_interval_choice(method),),
        disagreement="the interval is not the exact test's own; clopper_pearson is",
        null_value=float(reference),
    )


def compare_proportions(
    counts: Mapping[str, tuple[int, int]],
    *,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
    alternative: Alternative = "two-sided",
) -> TestResult:
    """Compare two independent proportions, each given as name -> (successes, n), as `two_proportions_test` does.

    `run_test("two_proportions", ...)` computes the same from single outcomes.

    Raises CannotTestError for more or fewer than two groups and for numbers that are not counts, ValueError for levels
    out of range.
    """
    settings = read_settings(
        "two_proportions",
        EFFECT_SIZES["two_proportions"],
        effect_size=effect_size,
        alpha=alpha,
        confidence_level=confidence_level,
        alternative=alternative,
    )
    if len(counts) != 2:
        raise CannotTestError("two_proportions", f"it compares two groups, but {len(counts)} were given")
    first, second = (read_successes("two_proportions", name, *pair) for name, pair in counts.items())
    of = IndependentShares(first.successes, first.n, second.successes, second.n)
    return _compared(first, second, of, settings)


def two_proportions_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """The test that two independent groups of outcomes (0 or 1) have the same probability.

    It is Pearson's chi-square (1900) with N - 1 in place of N, or, where an expected count is below 1, Fisher's with
    the mid-p-value (Campbell 2007; Lydersen, Fagerland & Laake 2009). The effect size is the difference itself; its
    interval inverts the score whose square is that chi-square (Miettinen & Nurminen 1985), so both agree about zero.
    Intervals of the risk ratio (Koopman 1984) and the odds ratio (Miettinen & Nurminen 1985) invert score tests too;
    that of Cohen's h (1988) is a hybrid (Zou & Donner 2008) of Wilson's intervals.
    """
    first, second = (_counted(sample) for sample in samples)
    return _compared(first, second, independent_shares("two_proportions", (samples[0], samples[1])), settings)


def compare_paired_proportions(
    both: int,
    only_first: int,
    only_second: int,
    neither: int,
    *,
    names: tuple[str, str] = ("first", "second"),
    mid_p: bool = False,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
    alternative: Alternative = "two-sided",
) -> TestResult:
    """McNemar's test (1947) from the four counts of a paired table, exact or with the mid-p-value.

    `run_test("mcnemar", ...)` computes the same from single outcomes.

    Raises CannotTestError for numbers that are not counts, if there are no pairs, and if no pair differs and the effect
    size asked for is about those that do; ValueError for levels out of range.
    """
    name: TestName = "mcnemar_midp" if mid_p else "mcnemar"
    settings = read_settings(
        name,
        EFFECT_SIZES[name],
        effect_size=effect_size,
        alpha=alpha,
        confidence_level=confidence_level,
        alternative=alternative,
    )
    a, b, c, d = (
        read_count(name, what, value)
        for what, value in (
            ("both", both),
            ("only_first", only_first),
            ("only_second", only_second),
            ("neither", neither),
        )
    )
    n = a + b + c + d
    if n == 0:
        raise CannotTestError(name, "there are no pairs: all four counts are 0")
    first, second = Successes(names[0], n, a + b), Successes(names[1], n, a + c)
    return _paired(name, first, second, PairedShares(b, c, n, mid_p), settings)


def mcnemar_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """McNemar's exact test (1947) that both outcomes of a pair are equally probable: binomial in the discordant pairs.

    The estimate is the difference of the two proportions with Tango's (1998) score interval. If no pair differs, p is
    1. The other effect sizes are about the pairs that differ.
    """
    return _paired_outcomes("mcnemar", samples, settings)


def mcnemar_midp_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """The same with the mid-p-value, which counts half of the observed table.

    Less conservative: its level is close to alpha and rarely above (Fagerland, Lydersen & Laake 2013).
    """
    return _paired_outcomes("mcnemar_midp", samples, settings)


def arcsine(share: float) -> float:
    """2 arcsin(sqrt(share)), on whose scale Cohen's h is a difference."""
    return 2.0 * math.asin(math.sqrt(share))


def wilson(k: int, n: int, tail: float) -> Interval:
    """Wilson's (1927) interval that leaves out `tail` at each end."""
    z2 = float(special.ndtri(tail)) ** 2
    centre = k + z2 / 2.0
    reach = math.sqrt(z2) * math.sqrt(k / n * (n - k) + z2 / 4.0)
    low = 0.0 if k == 0 else (centre - reach) / (n + z2)
    return max(0.0, low), 1.0 if k == n else min(1.0, (centre + reach) / (n + z2))


def clopper_pearson(k: int, n: int, tail: float) -> Interval:
    """The exact interval (Clopper & Pearson 1934) that leaves out at most `tail` at each end."""
    low = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1.0, tail))
    high = 1.0 if k == n else float(special.betainccinv(k + 1.0, n - k, tail))
    return low, high


def _interval(group: Successes, method: ProportionInterval, tail: float) -> Interval:
    return (wilson if method == "wilson" else clopper_pearson)(group.successes, group.n, tail)


def _known(method: ProportionInterval) -> ProportionInterval:
    if method not in get_args(ProportionInterval):
        raise ValueError(f"unknown interval {method!r}; known: {', '.join(get_args(ProportionInterval))}")
    return method


def _interval_choice(method: ProportionInterval) -> Choice:
    if method == "wilson":
        return Choice("Wilson's interval", "its mean coverage is the confidence level", ("clopper_pearson",))
    return Choice("Clopper-Pearson interval", "exact: it never covers less than it says", ("wilson",))


def _counted(sample: Sample) -> Successes:
    return Successes(sample.name, sample.n, int(sample.values.sum()))


def _compared(first: Successes, second: Successes, of: IndependentShares, settings: Settings) -> TestResult:
    name: TestName = "two_proportions"
    least = f"smallest expected count {of.least_expected:.3g}"
    if of.is_exact:
        method, note = "Fisher's mid-p test of two proportions", f"mid-p-value, n = {first.n} and {second.n}; {least}"
        statistic = f"successes of {first.name}", float(first.successes)
        choice = Choice("Fisher's mid-p test", "an expected count is below 1", ("N - 1 chi-square test",))
    else:
        method, note = "N-1 chi-square test of two proportions", least
        statistic = "z", of.score()
        choice = Choice("N - 1 chi-square test", "no expected count is below 1", ("Fisher's mid-p test",))
    return conclude(
        name,
        (first, second),
        settings,
        method=f"{method}, {settings.sides}",
        statistic=statistic,
        df=(),
        p_value=of.p_value(settings.alternative),
        estimate=(
            f"difference of proportions ({first.name} - {second.name})",
            of.value,
            settings.bounded(of.interval(name, settings.estimate_tail), -1.0, 1.0),
        ),
        effect=_two_proportion_effect(first, second, of, settings),
        assumptions=("outcomes are independent, within and between the groups", "each group has one probability"),
        notes=(note,),
        decisions=(choice,),
    )


def _two_proportion_effect(first: Successes, second: Successes, of: IndependentShares, settings: Settings) -> Effect:
    if settings.effect_size == "risk_difference":
        choice = Choice(
            "Miettinen and Nurminen's score interval", "it agrees with the test about zero", ("Newcombe's interval",)
        )
        return Effect("risk_difference", of.value, of.interval("two_proportions", settings.tail), choice)
    if settings.effect_size == "cohens_h":
        return _cohens_h(first, second, settings.tail)
    k, j, n, m = first.successes, second.successes, first.n, second.n
    if settings.effect_size == "risk_ratio":
        return _ratio("risk_ratio", (k * m, j * n), lambda ratio: _risk_ratio_score(ratio, (k, n), (j, m)), settings)
    terms = k * (m - j), j * (n - k)
    return _ratio("odds_ratio", terms, lambda ratio: _odds_ratio_score(ratio, (k, n), (j, m)), settings)


def _cohens_h(first: Successes, second: Successes, tail: float) -> Effect:
    """From each group's Wilson interval: the normal interval of the arcsine covers only 81 % near 0 and 1."""
    (l1, u1), (l2, u2) = (map(arcsine, wilson(group.successes, group.n, tail)) for group in (first, second))
    one, other = arcsine(first.share), arcsine(second.share)
    h = one - other
    choice = Choice("hybrid of Wilson's intervals on the arcsine scale", "it covers well near 0 and 1", ("normal",))
    return Effect("cohens_h", h, (h - math.hypot(one - l1, u2 - other), h + math.hypot(u1 - one, other - l2)), choice)


def _ratio(name: EffectSizeName, terms: tuple[int, int], score: Callable[[float], float], settings: Settings) -> Effect:
    above, below = terms
    if above == below == 0:
        raise CannotTestError(
            "two_proportions",
            f"the {name.replace('_', ' ')} is 0 / 0: a row or column of the table is empty; risk_difference is defined "
            "here",
        )
    z = -float(special.ndtri(settings.tail))
    guess = math.log((above + 0.5) / (below + 0.5))
    low = _root(lambda ratio: score(ratio) - z, guess) if above else 0.0
    high = _root(lambda ratio: score(ratio) + z, guess) if below else math.inf
    notes = () if below else (f"a cell is zero: the {name.replace('_', ' ')} is infinite",)
    choice = Choice(
        "score interval for the effect size", "it holds its confidence with small counts and zeros", ("Wald interval",)
    )
    return Effect(name, above / below if below else math.inf, (low, high), choice, notes, is_ratio=True)


def _root(of_ratio: Callable[[float], float], guess: float) -> float:
    """The ratio at which a decreasing score crosses zero, from a guess of its logarithm."""
    low = high = guess
    step = 1e-3
    while of_ratio(math.exp(low)) < 0.0:
        low, step = low - step, 2.0 * step
    while of_ratio(math.exp(high)) > 0.0:
        high, step = high + step, 2.0 * step
    if low == high:
        return math.exp(low)
    return math.exp(optimize.brentq(lambda log: of_ratio(math.exp(log)), low, high, xtol=1e-14))


def _risk_ratio_score(ratio: float, first: tuple[int, int], second: tuple[int, int]) -> float:
    (k, n), (j, m) = first, second
    a, b, c = (n + m) * ratio, n * ratio + k + m + j * ratio, float(k + j)
    q = 2.0 * c / (b + math.sqrt(max(0.0, b * b - 4.0 * a * c)))  # the second probability that fits this ratio best
    p = min(1.0, q * ratio)
    variance = p * (1.0 - p) / n + ratio * ratio * q * (1.0 - q) / m
    return (k / n - ratio * j / m) / math.sqrt(variance) if variance > 0.0 else 0.0


def _odds_ratio_score(ratio: float, first: tuple[int, int], second: tuple[int, int]) -> float:
    (k, n), (j, m) = first, second
    a, b, c = m * (ratio - 1.0), n * ratio + m - (k + j) * (ratio - 1.0), -float(k + j)
    q = -2.0 * c / (b + math.sqrt(max(0.0, b * b - 4.0 * a * c)))
    p = ratio * q / (1.0 + q * (ratio - 1.0))
    information = n * p * (1.0 - p), m * q * (1.0 - q)
    if min(information) <= 0.0:
        return 0.0
    return (k - n * p) * math.sqrt(1.0 / information[0] + 1.0 / information[1])


def _paired_outcomes(name: TestName, samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    of = paired_shares(name, (samples[0], samples[1]), mid_p=name == "mcnemar_midp")
    return _paired(name, _counted(samples[0]), _counted(samples[1]), of, settings)


def _paired(name: TestName, first: Successes, second: Successes, of: PairedShares, settings: Settings) -> TestResult:
    b, c = int(of.b), int(of.c)
    said = f"{counted(b + c, 'discordant pair')}, {b} and {c}"
    return conclude(
        name,
        (first, second),
        settings,
        method=f"McNemar's {'mid-p' if of.mid_p else 'exact'} test, {settings.sides}",
        statistic=(f"pairs won by {first.name}", float(b)),
        df=(),
        p_value=of.p_value(settings.alternative),
        estimate=(
            f"difference of proportions ({first.name} - {second.name})",
            of.value,
            settings.bounded(of.interval(name, settings.estimate_tail), -1.0, 1.0),
        ),
        effect=_paired_effect(name, of, settings),
        assumptions=("outcomes at the same position belong together", "pairs are independent of each other"),
        notes=(f"{'mid-p-value' if of.mid_p else 'exact p-value'}, {said}",),
        decisions=(),
    )


def _paired_effect(name: TestName, of: PairedShares, settings: Settings) -> Effect:
    b, c = int(of.b), int(of.c)
    if settings.effect_size == "risk_difference":
        choice = Choice("Tango's score interval", "it agrees with the test about zero", ("Newcombe's interval",))
        return Effect("risk_difference", of.value, of.interval(name, settings.tail), choice)
    if b + c == 0:
        raise CannotTestError(
            name,
            f"the outcomes agree in all {counted(int(of.n), 'pair')}, and {settings.effect_size} is about those that "
            "differ; risk_difference is defined here",
        )
    low, high = clopper_pearson(b, b + c, settings.tail)
    choice = Choice("Clopper-Pearson interval for the effect size", "exact, given the number of discordant pairs")
    if settings.effect_size == "cohens_g":  # Cohen (1988), chapter 5: the share of the first, minus one half
        return Effect("cohens_g", b / (b + c) - 0.5, (low - 0.5, high - 0.5), choice)
    notes = () if c else ("no pair is won by the second: the odds ratio is infinite",)
    ends = low / (1.0 - low), high / (1.0 - high) if high < 1.0 else math.inf
    return Effect("odds_ratio", b / c if c else math.inf, ends, choice, notes, is_ratio=True)
