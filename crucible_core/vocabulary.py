"""The closed choices of the experiment file, each spelled once.

Whatever implements a choice is a mapping keyed by these same names, and a test asserts that the two sets are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

__all__ = [
    "EFFECT_SIZES",
    "PAIRED_TESTS",
    "TEST_ALIASES",
    "Backoff",
    "CorrectionName",
    "EffectSizeName",
    "ExecutorName",
    "Jitter",
    "ReportFormat",
    "ScheduleStatus",
    "Sink",
    "TestName",
    "TestSpelling",
]

TestName = Literal["anova", "bootstrap", "kruskal_wallis", "mann_whitney", "paired_ttest", "ttest", "wilcoxon"]

TestSpelling = Literal[TestName, "kruskal", "mannwhitney"]
"""The Elixir IR spells two of the tests differently; both spellings are understood and kept."""

CorrectionName = Literal["bonferroni", "fdr", "holm", "none"]
"""`fdr` is Benjamini-Hochberg, the Elixir IR's word."""

EffectSizeName = Literal[
    "cohens_d", "cohens_dz", "epsilon_squared", "eta_squared", "hedges_g", "omega_squared", "rank_biserial"
]

EFFECT_SIZES: Mapping[TestName, tuple[EffectSizeName, ...]] = {
    "anova": ("eta_squared", "omega_squared"),
    "bootstrap": ("hedges_g", "cohens_d"),
    "kruskal_wallis": ("epsilon_squared", "eta_squared"),
    "mann_whitney": ("rank_biserial",),
    "paired_ttest": ("cohens_dz",),
    "ttest": ("hedges_g", "cohens_d"),
    "wilcoxon": ("rank_biserial",),
}
"""The effect sizes that each test defines, its own first."""

PAIRED_TESTS: frozenset[TestName] = frozenset({"paired_ttest", "wilcoxon"})
"""The tests in which value i of each group belongs together."""

TEST_ALIASES: Mapping[str, TestName] = {"kruskal": "kruskal_wallis", "mannwhitney": "mann_whitney"}

ReportFormat = Literal["csv", "html", "json", "latex", "markdown"]

Sink = Literal["file", "stdout"]

ExecutorName = Literal["in_process", "multiprocess"]

ScheduleStatus = Literal["running", "stopped"]

Backoff = Literal["exponential", "linear"]

Jitter = Literal["full", "plus_minus"]
