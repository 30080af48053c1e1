"""How tests may be spelled; which tests, effect sizes and corrections exist is said in `crucible_core.vocabulary`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, get_args

from crucible_core.stats.refusal import CannotTestError
from crucible_core.vocabulary import TEST_ALIASES, CorrectionName, EffectSizeName, TestName

__all__ = [
    "FURTHER_TEST_NAMES",
    "OTHER_TESTS",
    "TEST_ALIASES",
    "TEST_NAMES",
    "Alternative",
    "AnyEffectSizeName",
    "AnyTestName",
    "CorrectionName",
    "EffectSizeName",
    "FurtherTestName",
    "OtherTestName",
    "TestName",
    "any_test_name",
    "canonical_test_name",
]

Alternative = Literal["greater", "less", "two-sided"]
"""Which way a test looks: `greater` asks whether the first group is higher than the second, or than the reference."""

FurtherTestName = Literal[
    "brown_forsythe",
    "brunner_munzel",
    "corrected_resampled_ttest",
    "friedman",
    "kendall",
    "levene",
    "mcnemar",
    "mcnemar_midp",
    "paired_permutation",
    "pearson",
    "permutation",
    "repeated_measures_anova",
    "sign",
    "spearman",
    "student_ttest",
    "two_proportions",
    "variance_ratio",
    "welch_anova",
]
"""Tests of groups that this package computes and the experiment file does not name yet."""

OtherTestName = Literal[
    "chi_square",
    "clustered_ttest",
    "fisher_exact",
    "one_sample_sign",
    "one_sample_ttest",
    "one_sample_wilcoxon",
    "proportion",
]
"""Tests of something else than groups of observations: counts, clusters, a reference."""

FurtherEffectSizeName = Literal[
    "cliffs_delta",
    "cohens_dav",
    "cohens_g",
    "cohens_h",
    "common_language",
    "cramers_v",
    "glass_delta",
    "kendall_tau",
    "kendall_w",
    "odds_ratio",
    "partial_eta_squared",
    "pearson_r",
    "risk_ratio",
    "spearman_rho",
    "variance_ratio",
]

AnyTestName: TypeAlias = TestName | FurtherTestName | OtherTestName
AnyEffectSizeName: TypeAlias = EffectSizeName | FurtherEffectSizeName

TEST_NAMES: Final[tuple[TestName, ...]] = get_args(TestName)
FURTHER_TEST_NAMES: Final[tuple[FurtherTestName, ...]] = get_args(FurtherTestName)

OTHER_TESTS: Final[Mapping[OtherTestName, str]] = MappingProxyType(
    {
        "chi_square": "chi_square_test",
        "clustered_ttest": "clustered_ttest",
        "fisher_exact": "fisher_exact_test",
        "one_sample_sign": "one_sample_test",
        "one_sample_ttest": "one_sample_test",
        "one_sample_wilcoxon": "one_sample_test",
        "proportion": "proportion_test",
    }
)
"""The function of this package that computes each test which `run_test` cannot: groups alone are not enough for it."""


def canonical_test_name(name: str) -> TestName:
    """The one spelling of a test's name, given that spelling or an alias of it.

    Raises CannotTestError, which lists the known names and the closest one, for any other name.
    """
    known = _canonical(name, TEST_NAMES)
    assert known in TEST_NAMES
    return known


def any_test_name(name: str) -> TestName | FurtherTestName:
    """The same among all tests of this package, those included that the experiment file does not name."""
    return _canonical(name, (*TEST_NAMES, *FURTHER_TEST_NAMES))


def _canonical(name: str, names: tuple[TestName | FurtherTestName, ...]) -> TestName | FurtherTestName:
    for known in names:
        if name == known:
            return known
    if name in TEST_ALIASES:
        return TEST_ALIASES[name]
    other = next((function for test, function in OTHER_TESTS.items() if test == name), None)
    if other is not None:
        raise CannotTestError(name, f"it needs more than groups of numbers; call crucible_core.stats.{other}")
    close = difflib.get_close_matches(str(name), [*names, *TEST_ALIASES], n=1)
    hint = f"; did you mean {TEST_ALIASES.get(close[0], close[0])!r}?" if close else ""
    raise CannotTestError(str(name), f"there is no test of that name; known: {', '.join(names)}{hint}")
