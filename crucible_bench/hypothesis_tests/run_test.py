"""Running a test by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from crucible_bench.data.outcomes import read_outcomes
from crucible_bench.data.sample import Sample, Values, check_count, read_groups
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.anova import anova_test
from crucible_bench.hypothesis_tests.bootstrap import bootstrap_test
from crucible_bench.hypothesis_tests.brunner_munzel import brunner_munzel_test
from crucible_bench.hypothesis_tests.correlation import kendall_test, pearson_test, spearman_test
from crucible_bench.hypothesis_tests.friedman import friedman_test
from crucible_bench.hypothesis_tests.kruskal_wallis import kruskal_wallis_test
from crucible_bench.hypothesis_tests.mann_whitney import mann_whitney_test
from crucible_bench.hypothesis_tests.permutation import paired_permutation_test, permutation_test
from crucible_bench.hypothesis_tests.proportions import mcnemar_midp_test, mcnemar_test, two_proportions_test
from crucible_bench.hypothesis_tests.repeated_measures import repeated_measures_anova_test
from crucible_bench.hypothesis_tests.resampled_ttest import corrected_resampled_test
from crucible_bench.hypothesis_tests.sign import sign_test
from crucible_bench.hypothesis_tests.spread import brown_forsythe_test, levene_test, variance_ratio_test
from crucible_bench.hypothesis_tests.ttests import paired_ttest, student_ttest, welch_ttest
from crucible_bench.hypothesis_tests.welch_anova import welch_anova_test
from crucible_bench.hypothesis_tests.wilcoxon import wilcoxon_test
from crucible_bench.result import Settings, TestResult
from crucible_bench.settings import read_settings
from crucible_bench.vocabulary import (
    EFFECT_SIZES,
    OTHER_TESTS,
    TESTS_OF_MANY_GROUPS,
    Alternative,
    EffectSizeName,
    TestName,
    canonical_test_name,
)


def run_test(
    test: str,
    groups: Mapping[str, Values],
    *,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = 10_000,
    seed: int = 0,
) -> TestResult:
    """Compare groups of numbers (mapping of name to shape (n,)) with the named test.

    `alternative` "greater" asks whether the first group is higher, "less" whether it is lower; the estimate's interval
    then has one end. `confidence_level` is by default 1 - alpha. `effect_size` is one that the test defines, by
    default the first in its row:

    | test | groups | effect sizes |
    | --- | --- | --- |
    | anova | two or more | eta_squared, omega_squared, epsilon_squared |
    | bootstrap | two | hedges_g, cohens_d |
    | kruskal_wallis | two or more | epsilon_squared, eta_squared |
    | mann_whitney | two | rank_biserial, cliffs_delta, common_language |
    | paired_ttest | two, of one length | hedges_gz, cohens_dz, cohens_dav |
    | ttest | two | hedges_gav, cohens_dav, hedges_g, cohens_d, glass_delta |
    | wilcoxon | two, of one length | rank_biserial |
    | brown_forsythe | two or more | eta_squared, omega_squared |
    | brunner_munzel | two | rank_biserial, cliffs_delta, common_language |
    | corrected_resampled_ttest | two, of one length | hedges_gz, cohens_dz |
    | friedman | two or more, of one length | kendall_w |
    | kendall | two, of one length | kendall_tau |
    | levene | two or more | eta_squared, omega_squared |
    | mcnemar | two of outcomes, of one length | risk_difference, cohens_g, odds_ratio |
    | mcnemar_midp | two of outcomes, of one length | risk_difference, cohens_g, odds_ratio |
    | paired_permutation | two, of one length | hedges_gz, cohens_dz, cohens_dav, rank_biserial |
    | pearson | two, of one length | pearson_r |
    | permutation | two | hedges_g, cohens_d, glass_delta, rank_biserial, cliffs_delta, common_language |
    | repeated_measures_anova | two or more, of one length | partial_eta_squared |
    | sign | two, of one length | cohens_g |
    | spearman | two, of one length | spearman_rho |
    | student_ttest | two | cohens_d, hedges_g, glass_delta |
    | two_proportions | two of outcomes | risk_difference, cohens_h, odds_ratio, risk_ratio |
    | variance_ratio | two | variance_ratio |
    | welch_anova | two or more | omega_squared |

    Outcomes are booleans, or 0 and 1. corrected_resampled_ttest treats the values as the folds of one
    cross-validation; its own function also takes other resamples. `resamples` and `seed` matter only to bootstrap and
    the permutation tests; equal seeds give equal results.

    Raises CannotTestError when the test, the effect size and the data do not fit each other, and ValueError for an
    alpha, confidence level, number of resamples or seed out of range. Never returns NaN.
    """
    name = canonical_test_name(test)
    if name in OTHER_TESTS:
        raise CannotTestError(name, f"it needs more than groups of numbers; call crucible_bench.{OTHER_TESTS[name]}")
    definition, pairwise = DEFINITIONS[name], name not in TESTS_OF_MANY_GROUPS
    settings = read_settings(
        name,
        EFFECT_SIZES[name],
        effect_size=effect_size,
        alpha=alpha,
        confidence_level=confidence_level,
        alternative=alternative,
        resamples=resamples,
        seed=seed,
    )
    if settings.alternative != "two-sided" and not pairwise:
        raise CannotTestError(name, "groups that are compared all at once have no direction: it is two-sided only")
    samples = definition.read(name, groups)
    check_count(name, samples, pairwise)
    return definition.run(samples, settings)


@dataclass(frozen=True, slots=True)
class TestDefinition:
    """A test's implementation, and how it reads its groups; the rest is in the vocabulary."""

    __test__ = False

    run: Callable[[tuple[Sample, ...], Settings], TestResult]
    read: Callable[[str, Mapping[str, Values]], tuple[Sample, ...]] = read_groups


DEFINITIONS: Final[Mapping[TestName, TestDefinition]] = MappingProxyType(
    {
        "anova": TestDefinition(anova_test),
        "bootstrap": TestDefinition(bootstrap_test),
        "brown_forsythe": TestDefinition(brown_forsythe_test),
        "brunner_munzel": TestDefinition(brunner_munzel_test),
        "corrected_resampled_ttest": TestDefinition(corrected_resampled_test),
        "friedman": TestDefinition(friedman_test),
        "kendall": TestDefinition(kendall_test),
        "kruskal_wallis": TestDefinition(kruskal_wallis_test),
        "levene": TestDefinition(levene_test),
        "mann_whitney": TestDefinition(mann_whitney_test),
        "mcnemar": TestDefinition(mcnemar_test, read_outcomes),
        "mcnemar_midp": TestDefinition(mcnemar_midp_test, read_outcomes),
        "paired_permutation": TestDefinition(paired_permutation_test),
        "paired_ttest": TestDefinition(paired_ttest),
        "pearson": TestDefinition(pearson_test),
        "permutation": TestDefinition(permutation_test),
        "repeated_measures_anova": TestDefinition(repeated_measures_anova_test),
        "sign": TestDefinition(sign_test),
        "spearman": TestDefinition(spearman_test),
        "student_ttest": TestDefinition(student_ttest),
        "ttest": TestDefinition(welch_ttest),
        "two_proportions": TestDefinition(two_proportions_test, read_outcomes),
        "variance_ratio": TestDefinition(variance_ratio_test),
        "welch_anova": TestDefinition(welch_anova_test),
        "wilcoxon": TestDefinition(wilcoxon_test),
    }
)
