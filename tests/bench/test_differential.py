"""Our tests and intervals against scipy's and statsmodels', on seeded random data of many shapes and sizes.

`COMPARED` has a function for each. It returns what was compared, ours and theirs, with a relative tolerance where the
library has fewer digits, and says why where it is not to be compared with. Ours get the values in another unit and from
another origin, by powers of two, so that they are the same numbers; the libraries get them as drawn.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables, proportion
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.meta_analysis import effectsize_smd
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.nonparametric import rank_compare_2indep
from statsmodels.stats.oneway import anova_oneway
from statsmodels.stats.power import FTestAnovaPower, TTestIndPower, TTestPower

from crucible_bench import (
    CannotTestError,
    adjust_p_values,
    bootstrap_interval,
    chi_square_test,
    compare_paired_proportions,
    compare_proportions,
    dunnett,
    fisher_exact_test,
    games_howell,
    one_sample_test,
    power_of,
    proportion_interval,
    proportion_test,
    run_test,
    shapiro_wilk,
    tukey_hsd,
)

LEVEL = 0.9
UNIT, ORIGIN = 2.0**-70, 2.0**20
SIDES = ("two-sided", "greater", "less")
WORDS = {"two-sided": "two-sided", "greater": "larger", "less": "smaller"}  # statsmodels'
SIZES = (3, 5, 9, 14, 30, 49, 50, 90)
Compared = list[tuple[str, Any, Any, float]]
DIGITS = 1e-8


class NotComparedError(Exception):
    """The library answers another question about such data; the message says which."""


@dataclass(frozen=True)
class Case:
    """The data sets of one seed."""

    seed: int

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    @property
    def side(self) -> Any:
        return SIDES[self.seed % 3]

    def groups(self, k: int, *, of_one_length: bool = False, ties: bool = True, sizes: Any = SIZES) -> dict[str, Any]:
        """k groups of one shape: as drawn, multiples of 2**-20 so that another origin takes no digits."""
        rng = self.rng
        shape = (self.seed // 3) % (5 if ties else 3)
        chosen = rng.choice(sizes, k)
        if of_one_length:
            chosen[:] = chosen[0]
        drawn = {}
        for place, n in enumerate(chosen):
            values = (
                rng.normal(0.4 * place, 1.0, n),
                rng.normal(0.0, 1.0 + 4.0 * place, n),  # unequal variances
                rng.lognormal(0.2 * place, 1.0, n),
                np.round(rng.normal(0.5 * place, 2.0, n)),  # some ties
                rng.integers(1, 6, n) + 0.0,  # answers from 1 to 5
            )[shape]
            drawn["abcdef"[place]] = np.round(values * 2**20) / 2**20
        return drawn

    def counts(self) -> tuple[int, int, int, int]:
        """k of n and j of m."""
        rng = self.rng
        n, m = (int(size) for size in rng.choice((6, 11, 25, 60, 300), 2))
        return int(rng.binomial(n, rng.choice((0.1, 0.5, 0.9)))), n, int(rng.binomial(m, rng.choice((0.3, 0.6)))), m


def moved(groups: Mapping[str, Any]) -> dict[str, Any]:
    return {name: (values + ORIGIN) * UNIT for name, values in groups.items()}


def ours(test: Any, groups: Mapping[str, Any], **options: Any) -> Any:
    return run_test(test, moved(groups), confidence_level=LEVEL, **options)


def is_tied(*groups: Any) -> bool:
    pooled = np.concatenate(groups)
    return bool(np.unique(pooled).size < pooled.size)


def no_ties(*groups: Any) -> None:
    if is_tied(*groups):
        raise NotComparedError("with ties ours counts the permutations of the midranks, and scipy approximates")


def same(result: Any, oracle: Any, *, sign: float = 1.0, digits: float = DIGITS) -> Compared:
    return [
        ("statistic", result.statistic, sign * float(oracle.statistic), digits),
        ("p-value", result.p_value, float(oracle.pvalue), digits),
    ]


def ends(result: Any, oracle: Any) -> Compared:
    bounds = oracle.confidence_interval(LEVEL)
    return [("interval", [end / UNIT for end in result.confidence_interval], [bounds.low, bounds.high], DIGITS)]


def ttest(case: Case) -> Compared:
    groups = case.groups(2)
    oracle = stats.ttest_ind(*groups.values(), equal_var=False, alternative=case.side)
    result = ours("ttest", groups, alternative=case.side)
    return [*same(result, oracle), *ends(result, oracle), ("df", result.df[0], float(oracle.df), DIGITS)]


def student_ttest(case: Case) -> Compared:
    groups = case.groups(2)
    oracle = stats.ttest_ind(*groups.values(), alternative=case.side)
    result = ours("student_ttest", groups, alternative=case.side)
    return [*same(result, oracle), *ends(result, oracle)]


def paired_ttest(case: Case) -> Compared:
    groups = case.groups(2, of_one_length=True)
    oracle = stats.ttest_rel(*groups.values(), alternative=case.side)
    result = ours("paired_ttest", groups, alternative=case.side)
    return [*same(result, oracle), *ends(result, oracle)]


def one_sample_ttest(case: Case) -> Compared:
    values = case.groups(1)["a"]
    oracle = stats.ttest_1samp(values, 0.25, alternative=case.side)
    result = one_sample_test(
        (values + ORIGIN) * UNIT, (0.25 + ORIGIN) * UNIT, confidence_level=LEVEL, alternative=case.side
    )
    # The interval is of the location, which has ORIGIN in it: 2**-52 of that is 2e-10.
    bounds = oracle.confidence_interval(LEVEL)
    interval = [end / UNIT - ORIGIN for end in result.confidence_interval]
    return [*same(result, oracle), ("interval", interval, [bounds.low, bounds.high], 1e-6)]


def mann_whitney(case: Case) -> Compared:
    groups = case.groups(2)
    no_ties(*groups.values())
    exact = max(map(len, groups.values())) < 50
    oracle = stats.mannwhitneyu(
        *groups.values(), alternative=case.side, method="exact" if exact else "asymptotic", use_continuity=True
    )
    return same(ours("mann_whitney", groups, alternative=case.side), oracle)


def wilcoxon(case: Case) -> Compared:
    groups = case.groups(2, of_one_length=True)
    differences = groups["a"] - groups["b"]
    sizes = np.abs(differences[differences != 0.0])
    exact = sizes.size < 50
    if exact:
        no_ties(sizes)
    elif np.gcd.reduce(np.rint(2.0 * stats.rankdata(sizes)).astype(int)) > 2:
        raise NotComparedError("where W moves in larger steps ours corrects by half of one, and scipy by 1/2")
    oracle = stats.wilcoxon(
        differences, alternative=case.side, method="exact" if exact else "asymptotic", correction=True
    )
    result = ours("wilcoxon", groups, alternative=case.side)
    return [("p-value", result.p_value, float(oracle.pvalue), DIGITS)]  # scipy's two-sided statistic is the smaller sum


def sign(case: Case) -> Compared:
    groups = case.groups(2, of_one_length=True)
    signs = np.sign(groups["a"] - groups["b"])
    positive, n = int((signs > 0).sum()), int((signs != 0).sum())
    oracle = stats.binomtest(positive, n, alternative=case.side)
    result = ours("sign", groups, alternative=case.side)
    bounds = oracle.proportion_ci(LEVEL)
    found = [("p-value", result.p_value, oracle.pvalue, DIGITS)]
    if case.side == "two-sided":  # scipy's interval has the sides of the test, the interval of our effect size has two
        interval = [end + 0.5 for end in result.effect_size_interval]
        found.append(("interval", interval, [bounds.low, bounds.high], DIGITS))
    return found


def brunner_munzel(case: Case) -> Compared:
    groups = case.groups(2)
    x, y = groups.values()
    result = ours("brunner_munzel", groups, alternative=case.side)
    if "t approximation" not in result.notes[0]:
        raise NotComparedError("ours counts or draws divisions of few values, or of groups that do not overlap")
    oracle = stats.brunnermunzel(x, y, alternative=case.side)
    shares = rank_compare_2indep(x, y)
    # Ours is never below the share of the one division that is the most extreme.
    least = (2.0 if case.side == "two-sided" else 1.0) / math.comb(x.size + y.size, x.size)
    found = [
        ("statistic", result.statistic, -float(oracle.statistic), DIGITS),
        ("p-value", result.p_value, max(least, float(oracle.pvalue)), DIGITS),
        ("share", result.estimate, shares.prob1, DIGITS),
    ]
    if case.side == "two-sided":
        bounds = np.clip(shares.conf_int(alpha=1.0 - LEVEL), 0.0, 1.0)
        found.append(("interval", result.confidence_interval, bounds, DIGITS))
    return found


def kruskal_wallis(case: Case) -> Compared:
    groups = case.groups(2 + case.seed % 3)
    result = ours("kruskal_wallis", groups)
    oracle = stats.kruskal(*groups.values())
    n = sum(map(len, groups.values()))
    return [*same(result, oracle), ("epsilon squared", result.effect_size, oracle.statistic / (n - 1), DIGITS)]


def anova(case: Case) -> Compared:
    groups = case.groups(2 + case.seed % 3)
    return same(ours("anova", groups), stats.f_oneway(*groups.values()))


def welch_anova(case: Case) -> Compared:
    groups = case.groups(3, sizes=(14, 30, 49, 90))
    oracle = anova_oneway(list(groups.values()), use_var="unequal", welch_correction=True)
    result = ours("welch_anova", groups)
    return [
        ("statistic", result.statistic, float(oracle.statistic), DIGITS),
        ("df", result.df, oracle.df, DIGITS),
        ("p-value", result.p_value, float(oracle.pvalue), DIGITS),
    ]


def levene(case: Case) -> Compared:
    groups = case.groups(2 + case.seed % 3)
    return [
        *same(ours("levene", groups), stats.levene(*groups.values(), center="mean")),
        *same(ours("brown_forsythe", groups), stats.levene(*groups.values(), center="median")),
    ]


def friedman(case: Case) -> Compared:
    groups = case.groups(5 + case.seed % 2, of_one_length=True, sizes=(49, 90))  # of fewer ours counts all
    result, oracle = ours("friedman", groups), stats.friedmanchisquare(*groups.values())
    w = oracle.statistic / len(groups["a"]) / (len(groups) - 1)
    return [*same(result, oracle), ("Kendall's W", result.effect_size, w, DIGITS)]


def repeated_measures_anova(case: Case) -> Compared:
    groups = case.groups(3, of_one_length=True, sizes=(5, 9, 14, 30))
    rows = [(i, name, x) for name, values in groups.items() for i, x in enumerate(values)]
    frame = pd.DataFrame(rows, columns=["item", "arm", "value"])
    table = AnovaRM(frame, "value", "item", within=["arm"]).fit().anova_table
    return [("statistic", ours("repeated_measures_anova", groups).statistic, float(table["F Value"].iloc[0]), 1e-7)]


def pearson(case: Case) -> Compared:
    groups = case.groups(2, of_one_length=True)
    oracle = stats.pearsonr(*groups.values(), alternative=case.side)
    result = ours("pearson", groups, alternative=case.side)
    found: Compared = same(result, oracle)
    if len(groups["a"]) > 3:
        bounds = oracle.confidence_interval(LEVEL)
        found.append(("interval", result.confidence_interval, [bounds.low, bounds.high], DIGITS))
    return found


def ranks(case: Case) -> Compared:
    groups = case.groups(2, of_one_length=True)
    rho, tau = (ours(test, groups, alternative=case.side) for test in ("spearman", "kendall"))
    theirs = stats.spearmanr(*groups.values(), alternative=case.side)
    tied = is_tied(groups["a"]) or is_tied(groups["b"])
    method = "asymptotic" if tied or len(groups["a"]) > 50 else "exact"
    other = stats.kendalltau(*groups.values(), alternative=case.side, method=method)
    found: Compared = [
        ("rho", rho.estimate, float(theirs.statistic), DIGITS),
        ("tau", tau.estimate, float(other.statistic), DIGITS),
    ]
    # Ours counts every order of few pairs, and random ones where ties make an approximation rough.
    if "approximation" in rho.notes[0]:
        found.append(("p-value of rho", rho.p_value, float(theirs.pvalue), DIGITS))
    if "approximation" in tau.notes[0] or "no ties" in tau.notes[0]:
        found.append(("p-value of tau", tau.p_value, float(other.pvalue), DIGITS))
    return found


def normality(case: Case) -> Compared:
    values = case.groups(1)["a"]
    result, oracle = shapiro_wilk((values + ORIGIN) * UNIT), stats.shapiro(values)
    return [
        *same(result, oracle, digits=1e-6),
        ("skewness", result.skewness, stats.skew(values), 1e-7),
        ("excess kurtosis", result.excess_kurtosis, stats.kurtosis(values), 1e-7),
    ]


def permutation(case: Case) -> Compared:
    groups = case.groups(2, sizes=(3, 4, 5))
    oracle = stats.permutation_test(
        tuple(groups.values()), lambda x, y: x.mean() - y.mean(), n_resamples=np.inf, alternative=case.side
    )
    return [("p-value", ours("permutation", groups, alternative=case.side).p_value, oracle.pvalue, DIGITS)]


def paired_permutation(case: Case) -> Compared:
    groups = case.groups(2, of_one_length=True, sizes=(4, 6, 8))
    differences = groups["a"] - groups["b"]
    oracle = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=case.side
    )
    return [("p-value", ours("paired_permutation", groups, alternative=case.side).p_value, oracle.pvalue, DIGITS)]


def standardized(case: Case) -> Compared:
    groups = case.groups(2)
    x, y = groups.values()
    d = ours("ttest", groups, effect_size="cohens_d")
    g = ours("ttest", groups, effect_size="hedges_g").effect_size
    theirs = effectsize_smd(x.mean(), x.std(ddof=1), x.size, y.mean(), y.std(ddof=1), y.size)
    root, df = math.sqrt(x.size * y.size / (x.size + y.size)), x.size + y.size - 2
    tails = [float(stats.nct.cdf(d.effect_size * root, df, end * root)) for end in d.effect_size_interval]
    return [
        ("Hedges' g", g, theirs[0], 3e-3),  # statsmodels has the factor 1 - 3 / (4 df - 1), ours is exact
        ("tails at the ends", tails, [(1.0 + LEVEL) / 2.0, (1.0 - LEVEL) / 2.0], 1e-7),
    ]


def two_proportions(case: Case) -> Compared:
    k, n, j, m = case.counts()
    if k + j in (0, n + m):
        raise NotComparedError("all outcomes are alike: statsmodels gives nan")
    result = compare_proportions({"a": (k, n), "b": (j, m)}, confidence_level=LEVEL, alternative=case.side)
    z = proportion.proportions_ztest([k, j], [n, m], alternative=WORDS[case.side])[0]
    z *= math.sqrt((n + m - 1) / (n + m))
    found: Compared = []
    if result.statistic_name == "z":  # else Fisher's mid-p, which no library has
        tails = {"two-sided": 2 * stats.norm.sf(abs(z)), "greater": stats.norm.sf(z), "less": stats.norm.cdf(z)}
        found = [("z", result.statistic, z, DIGITS), ("p-value", result.p_value, tails[case.side], DIGITS)]
    if 0 in (k, j) or k == n or j == m:  # there statsmodels' search gives up
        return found
    # Not of the difference: statsmodels 0.15 gives 0.3440 as the upper end for 56 of 70 and 48 of 80, where Newcombe
    # (1998) prints 0.3382, as ours (test_share_difference).
    effects: tuple[tuple[Any, str], ...] = (("risk_ratio", "ratio"), ("odds_ratio", "odds-ratio"))
    for name, compare in effects:
        shown = compare_proportions({"a": (k, n), "b": (j, m)}, effect_size=name, confidence_level=LEVEL)
        try:
            interval = proportion.confint_proportions_2indep(
                k, n, j, m, compare=compare, method="score", alpha=1.0 - LEVEL, correction=False
            )
        except ValueError:  # its bracket missed the end
            continue
        found.append((name, shown.effect_size_interval, interval, 1e-4))
    return found


def one_proportion(case: Case) -> Compared:
    k, n, _, _ = case.counts()
    oracle = stats.binomtest(k, n, 0.4, alternative=case.side)
    found: Compared = []
    if case.side != "two-sided":  # scipy's two-sided p-value sums what is less probable, ours is twice the smaller tail
        result = proportion_test(k, n, reference=0.4, alternative=case.side)
        return [("p-value", result.p_value, oracle.pvalue, DIGITS)]
    for ours_, theirs in (("wilson", "wilson"), ("clopper_pearson", "exact")):
        bounds = oracle.proportion_ci(LEVEL, method=theirs)
        interval = proportion_interval(k, n, method=ours_, confidence_level=LEVEL)  # type: ignore[arg-type]
        found.append((theirs, interval, [bounds.low, bounds.high], DIGITS))
    return found


def mcnemar(case: Case) -> Compared:
    a, b, c, d = (int(count) for count in case.rng.integers(0, 25, 4))
    oracle = contingency_tables.mcnemar([[a, b], [c, d]], exact=True)
    return [("p-value", compare_paired_proportions(a, b, c, d).p_value, float(oracle.pvalue), DIGITS)]


def chi_square(case: Case) -> Compared:
    rows, columns = 2 + case.seed % 3, 2 + case.seed % 2
    cells = case.rng.integers(15, 60, (rows, columns))  # below 5 expected, ours draws tables
    oracle = stats.chi2_contingency(cells, correction=False)
    result = chi_square_test({str(i): row.tolist() for i, row in enumerate(cells)})
    v = stats.contingency.association(cells, "cramer")
    return [*same(result, oracle), ("Cramer's V", result.effect_size, v, DIGITS)]


def fisher(case: Case) -> Compared:
    k, n, j, m = case.counts()
    if k + j in (0, n + m):
        raise NotComparedError("a column is empty: ours refuses it")
    cells = [[k, n - k], [j, m - j]]
    result = fisher_exact_test({"a": cells[0], "b": cells[1]}, alternative=case.side, confidence_level=LEVEL)
    found = [("p-value", result.p_value, float(stats.fisher_exact(cells, case.side).pvalue), 1e-7)]
    if math.isfinite(result.estimate) and result.estimate > 0.0 and n + m < 100:  # beyond, scipy takes a second
        found.append(("odds ratio", result.estimate, float(stats.contingency.odds_ratio(cells).statistic), 1e-5))
    return found


def odds_ratio_interval(case: Case) -> Compared:
    k, n, j, m = case.counts()
    if k + j in (0, n + m) or n + m > 100:
        raise NotComparedError("a column is empty, or scipy takes seconds")
    cells = [[k, n - k], [j, m - j]]
    bounds = stats.contingency.odds_ratio(cells).confidence_interval(LEVEL)
    result = fisher_exact_test({"a": cells[0], "b": cells[1]}, confidence_level=LEVEL)
    return [("interval", result.confidence_interval, [bounds.low, bounds.high], 1e-5)]


def corrections(case: Case) -> Compared:
    p_values = case.rng.beta(0.4, 2.0, 1 + case.seed % 40)
    theirs = {
        "benjamini_yekutieli": "fdr_by",
        "bonferroni": "bonferroni",
        "fdr": "fdr_bh",
        "hochberg": "simes-hochberg",
        "holm": "holm",
        "holm_sidak": "holm-sidak",
        "sidak": "sidak",
    }
    if case.seed % 12:
        del theirs["holm"]  # a fifth of a second each
    return [
        (name, adjust_p_values(p_values, name), multipletests(p_values, method=other)[1], DIGITS)  # type: ignore[arg-type]
        for name, other in theirs.items()
    ]


def powers(case: Case) -> Compared:
    rng = case.rng
    d, n, alpha = rng.normal(0.0, 0.6), int(rng.choice((4, 9, 25, 80))), float(rng.choice((0.01, 0.05, 0.1)))
    options: Any = {"alpha": alpha, "alternative": case.side}
    k, f = 2 + case.seed % 4, abs(d)
    return [
        ("pairs", power_of("paired_ttest", d, n, **options).power,
         TTestPower().power(d, n, alpha, alternative=WORDS[case.side]), 1e-6),
        ("groups", power_of("student_ttest", d, (n, 3 * n), **options).power,
         TTestIndPower().power(d, n, alpha, ratio=3, alternative=WORDS[case.side]), 1e-6),
        ("F", power_of("anova", f, (n,) * k, alpha=alpha).power, FTestAnovaPower().power(f, n * k, alpha, k), 1e-6),
    ]  # fmt: skip


def families(case: Case) -> Compared:
    groups = case.groups(3, ties=False, sizes=(5, 9, 14, 30))
    found: Compared = []
    for run, equal in ((tukey_hsd, True), (games_howell, False)):
        family, oracle = run(moved(groups), confidence_level=LEVEL), stats.tukey_hsd(*groups.values(), equal_var=equal)
        bounds = oracle.confidence_interval(LEVEL)
        if not equal and min(map(len, groups.values())) < 10:
            continue  # of groups that small ours are Welch tests with Holm's correction
        for row, (i, j) in zip(family.comparisons, itertools.combinations(range(3), 2), strict=True):
            interval = [end / UNIT for end in row.confidence_interval]
            found += [
                ("p-value", row.p_adjusted, oracle.pvalue[i, j], 1e-5),
                ("interval", interval, [bounds.low[i, j], bounds.high[i, j]], 1e-5),
            ]
    return found


def controls(case: Case) -> Compared:
    groups = case.groups(4, ties=False, sizes=(5, 9, 14, 30))
    control, *others = groups.values()
    oracle = stats.dunnett(*others, control=control, rng=case.rng)
    family = dunnett(moved(groups), "a")
    off = np.abs(np.subtract([row.p_adjusted for row in family.comparisons], oracle.pvalue)).max()
    assert off < 2e-3, (case, off)  # of scipy's quasi-Monte Carlo
    return [("t", [row.statistic for row in family.comparisons], oracle.statistic, DIGITS)]


def bootstrap(case: Case) -> Compared:
    values = case.groups(1, sizes=(30, 49, 90))["a"]
    for statistic in (np.mean, np.std):
        oracle = stats.bootstrap(
            (values,), statistic, confidence_level=LEVEL, n_resamples=4000, method="BCa", rng=case.rng
        )
        result = bootstrap_interval(statistic, values, confidence_level=LEVEL, resamples=4000)
        bounds, error = oracle.confidence_interval, float(oracle.standard_error)
        # Two draws of 4,000: the standard error of a standard deviation is 1.1 %, that of an end about 4 % of it.
        off = [result.standard_error / error - 1.0, *np.subtract(result.interval, bounds) / error]
        assert np.abs(off).max() < 0.25, (statistic, off)
        assert abs(off[0]) < 0.06, (statistic, off)
    return [("mean", bootstrap_interval(np.mean, values).value, values.mean(), DIGITS)]


FAST: tuple[Callable[[Case], Compared], ...] = (
    *(anova, brunner_munzel, chi_square, corrections, fisher, friedman, kruskal_wallis, levene, mann_whitney, mcnemar),
    *(normality, one_proportion, one_sample_ttest, paired_permutation, paired_ttest, pearson, permutation, ranks, sign),
    *(standardized, student_ttest, ttest, two_proportions, welch_anova, wilcoxon),
)
SLOW: tuple[Callable[[Case], Compared], ...] = (
    *(bootstrap, controls, families, odds_ratio_interval, powers, repeated_measures_anova),
)


def agree(compare: Callable[[Case], Compared], seeds: range) -> None:
    done = 0
    for seed in seeds:
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):  # the libraries' own
            try:
                found = compare(Case(seed))
            except (CannotTestError, NotComparedError):
                continue
        done += bool(found)
        for what, our, their, digits in found:
            where = f"{what}, seed {seed}: {our} and {their}"
            assert np.asarray(our, dtype=float) == pytest.approx(np.asarray(their), rel=digits, abs=1e-12), where
    assert done >= len(seeds) // 4, f"only {done} of {len(seeds)} data sets were compared"


@pytest.mark.parametrize("compare", FAST, ids=lambda compare: compare.__name__)
def test_a_few_data_sets_give_what_the_libraries_give(compare: Callable[[Case], Compared]) -> None:
    agree(compare, range(15))  # every shape, on every side


@pytest.mark.slow
@pytest.mark.parametrize("compare", FAST, ids=lambda compare: compare.__name__)
def test_many_data_sets_give_what_the_libraries_give(compare: Callable[[Case], Compared]) -> None:
    agree(compare, range(15, 120))


@pytest.mark.slow
@pytest.mark.parametrize("compare", SLOW, ids=lambda compare: compare.__name__)
def test_what_libraries_compute_slowly_is_the_same(compare: Callable[[Case], Compared]) -> None:
    agree(compare, range(8))
