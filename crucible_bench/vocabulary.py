"""Every closed choice of a comparison, spelled once: designs, tests, effect sizes, corrections, families, studies."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

from crucible_bench.errors import CannotTestError

Design = Literal["clustered", "independent", "one_sample", "paired", "resampled", "stratified"]
"""How the values of the groups belong together.

`paired`: value i of every group shares an example, a seed or a block. `clustered`: paired items that fall into
clusters. `resampled`: scores on the folds or resamples of one cross-validation. `one_sample`: one group against a
reference. `stratified`: scores of several tasks, each with seeds of its own.
"""


Outcome = Literal["binary", "continuous", "ordinal"]


Scale = Literal["linear", "log"]
"""The scale on which values are compared: `log` for times, sizes and costs, whose differences are ratios."""


Alternative = Literal["greater", "less", "two-sided"]
"""Which way a test looks: `greater` asks whether the first group is higher than the second, or than the reference."""


TestName = Literal[
    "anova",
    "bootstrap",
    "brown_forsythe",
    "brunner_munzel",
    "chi_square",
    "clustered_ttest",
    "corrected_resampled_ttest",
    "fisher_exact",
    "friedman",
    "iqm",
    "kendall",
    "kruskal_wallis",
    "levene",
    "mann_whitney",
    "mcnemar",
    "mcnemar_midp",
    "one_sample_sign",
    "one_sample_ttest",
    "one_sample_wilcoxon",
    "paired_permutation",
    "paired_quantile",
    "paired_ttest",
    "pearson",
    "permutation",
    "proportion",
    "quantile",
    "repeated_measures_anova",
    "sign",
    "spearman",
    "student_ttest",
    "ttest",
    "two_proportions",
    "variance_ratio",
    "welch_anova",
    "wilcoxon",
]


TestSpelling = Literal[TestName, "auto", "kruskal", "mannwhitney"]
"""`auto` chooses by written rules; the Elixir IR spells two of the tests differently, and both spellings are kept."""


TEST_ALIASES: Mapping[str, TestName] = {"kruskal": "kruskal_wallis", "mannwhitney": "mann_whitney"}


EffectSizeName = Literal[
    "cliffs_delta",
    "cohens_d",
    "cohens_dav",
    "cohens_dz",
    "cohens_g",
    "cohens_h",
    "common_language",
    "cramers_v",
    "epsilon_squared",
    "eta_squared",
    "glass_delta",
    "hedges_g",
    "hedges_gav",
    "hedges_gz",
    "kendall_tau",
    "kendall_w",
    "odds_ratio",
    "omega_squared",
    "partial_eta_squared",
    "pearson_r",
    "rank_biserial",
    "risk_difference",
    "risk_ratio",
    "spearman_rho",
    "variance_ratio",
]


EFFECT_LABELS: Mapping[EffectSizeName, str] = {
    "cliffs_delta": "Cliff's δ",
    "cohens_d": "Cohen's d",
    "cohens_dav": "Cohen's d_av",
    "cohens_dz": "Cohen's d_z",
    "cohens_g": "Cohen's g",
    "cohens_h": "Cohen's h",
    "common_language": "P(first > second)",
    "cramers_v": "Cramér's V",
    "epsilon_squared": "ε²",
    "eta_squared": "η²",
    "glass_delta": "Glass's Δ",
    "hedges_g": "Hedges' g",
    "hedges_gav": "Hedges' g_av",
    "hedges_gz": "Hedges' g_z",
    "kendall_tau": "Kendall's τ",
    "kendall_w": "Kendall's W",
    "odds_ratio": "odds ratio",
    "omega_squared": "ω²",
    "partial_eta_squared": "partial η²",
    "pearson_r": "Pearson's r",
    "rank_biserial": "rank-biserial r",
    "risk_difference": "difference of proportions",
    "risk_ratio": "risk ratio",
    "spearman_rho": "Spearman's ρ",
    "variance_ratio": "variance ratio",
}
"""How an effect size is written in a report."""


RATIOS: frozenset[EffectSizeName] = frozenset({"odds_ratio", "risk_ratio", "variance_ratio"})
"""The effect sizes for which 1 means no effect, and which are infinite where a denominator is zero."""


EFFECT_SIZES: Mapping[TestName, tuple[EffectSizeName, ...]] = {
    "anova": ("eta_squared", "omega_squared", "epsilon_squared"),
    "bootstrap": ("hedges_g", "cohens_d"),
    "brown_forsythe": ("eta_squared", "omega_squared"),
    "brunner_munzel": ("rank_biserial", "cliffs_delta", "common_language"),
    "chi_square": ("cramers_v",),
    "clustered_ttest": ("hedges_gz", "cohens_dz"),
    "corrected_resampled_ttest": ("hedges_gz", "cohens_dz"),
    "fisher_exact": ("odds_ratio",),
    "friedman": ("kendall_w",),
    "iqm": ("common_language",),
    "kendall": ("kendall_tau",),
    "kruskal_wallis": ("epsilon_squared", "eta_squared"),
    "levene": ("eta_squared", "omega_squared"),
    "mann_whitney": ("rank_biserial", "cliffs_delta", "common_language"),
    "mcnemar": ("risk_difference", "cohens_g", "odds_ratio"),
    "mcnemar_midp": ("risk_difference", "cohens_g", "odds_ratio"),
    "one_sample_sign": ("cohens_g",),
    "one_sample_ttest": ("hedges_gz", "cohens_dz"),
    "one_sample_wilcoxon": ("rank_biserial",),
    "paired_permutation": ("hedges_gz", "cohens_dz", "cohens_dav", "rank_biserial"),
    "paired_quantile": (),
    "paired_ttest": ("hedges_gz", "cohens_dz", "cohens_dav"),
    "pearson": ("pearson_r",),
    "permutation": ("hedges_g", "cohens_d", "glass_delta", "rank_biserial", "cliffs_delta", "common_language"),
    "proportion": ("cohens_h",),
    "quantile": (),
    "repeated_measures_anova": ("partial_eta_squared",),
    "sign": ("cohens_g",),
    "spearman": ("spearman_rho",),
    "student_ttest": ("cohens_d", "hedges_g", "glass_delta"),
    "ttest": ("hedges_gav", "cohens_dav", "hedges_g", "cohens_d", "glass_delta"),
    "two_proportions": ("risk_difference", "cohens_h", "odds_ratio", "risk_ratio"),
    "variance_ratio": ("variance_ratio",),
    "welch_anova": ("omega_squared",),
    "wilcoxon": ("rank_biserial",),
}
"""The effect sizes that each test defines, its default first. A difference of quantiles has none."""


TESTS_OF_DESIGN: Mapping[Design, frozenset[TestName]] = {
    "clustered": frozenset({"clustered_ttest"}),
    "independent": frozenset(
        {
            "anova",
            "bootstrap",
            "brown_forsythe",
            "brunner_munzel",
            "chi_square",
            "fisher_exact",
            "kruskal_wallis",
            "levene",
            "mann_whitney",
            "permutation",
            "quantile",
            "student_ttest",
            "ttest",
            "two_proportions",
            "variance_ratio",
            "welch_anova",
        }
    ),
    "one_sample": frozenset({"one_sample_sign", "one_sample_ttest", "one_sample_wilcoxon", "proportion"}),
    "paired": frozenset(
        {
            "friedman",
            "kendall",
            "mcnemar",
            "mcnemar_midp",
            "paired_permutation",
            "paired_quantile",
            "paired_ttest",
            "pearson",
            "repeated_measures_anova",
            "sign",
            "spearman",
            "wilcoxon",
        }
    ),
    "resampled": frozenset({"corrected_resampled_ttest"}),
    "stratified": frozenset({"iqm"}),
}
"""The tests of each design. A test belongs to one design: the one whose dependence between values it accounts for."""


TESTS_OF_MANY_GROUPS: frozenset[TestName] = frozenset(
    {
        "anova",
        "brown_forsythe",
        "chi_square",
        "friedman",
        "kruskal_wallis",
        "levene",
        "repeated_measures_anova",
        "welch_anova",
    }
)
"""The tests that take more than two groups at once; a test of two groups compares more as a family of pairs."""


CorrectionName = Literal["benjamini_yekutieli", "bonferroni", "fdr", "hochberg", "holm", "holm_sidak", "none", "sidak"]
"""`fdr` is Benjamini-Hochberg; the name is that of the Elixir IR."""


CorrectionSpelling = Literal[CorrectionName, "benjamini_hochberg"]
"""`fdr` may also be written by its authors' names."""


CORRECTION_ALIASES: Mapping[str, CorrectionName] = {"benjamini_hochberg": "fdr"}


FamilyName = Literal["dunn", "dunnett", "games_howell", "nemenyi", "pairwise", "tukey_hsd"]
"""How several groups are compared two by two; `pairwise` is the declared test on every pair, with the correction."""


Comparing = Literal["all_pairs", "baseline"]


MissingValues = Literal["drop", "refuse"]


StudyName = Literal["ab_test", "ablation", "multiple_datasets", "sweep"]
"""The shape of a study, which determines what is compared with what."""


Looks = Literal["always_valid", "once"]
"""How often a comparison is looked at: `always_valid` keeps its error rate however often that is."""


TEST_NAMES: Final[tuple[TestName, ...]] = get_args(TestName)


OTHER_TESTS: Final[Mapping[TestName, str]] = MappingProxyType(
    {
        "chi_square": "chi_square_test",
        "clustered_ttest": "clustered_ttest",
        "fisher_exact": "fisher_exact_test",
        "iqm": "compare_iqm",
        "one_sample_sign": "one_sample_test",
        "one_sample_ttest": "one_sample_test",
        "one_sample_wilcoxon": "one_sample_test",
        "paired_quantile": "compare_quantiles",
        "proportion": "proportion_test",
        "quantile": "compare_quantiles",
    }
)
"""For each test that `run_test` cannot compute, because it needs more than groups: the function that computes it."""


QUANTILE_TESTS: Final[Mapping[Design, TestName]] = MappingProxyType(
    {"independent": "quantile", "paired": "paired_quantile"}
)
"""The test of a declared quantile, by design."""


def canonical_test_name(name: str) -> TestName:
    """The one spelling of a test's name, given that spelling or an alias of it.

    Raises CannotTestError, which lists the known names and the closest one, for any other name.
    """
    for known in TEST_NAMES:
        if name == known:
            return known
    if name in TEST_ALIASES:
        return TEST_ALIASES[name]
    close = difflib.get_close_matches(str(name), [*TEST_NAMES, *TEST_ALIASES], n=1)
    hint = f"; did you mean {TEST_ALIASES.get(close[0], close[0])!r}?" if close else ""
    raise CannotTestError(str(name), f"there is no test of that name; known: {', '.join(TEST_NAMES)}{hint}")
