"""The closed choices of the experiment file, each spelled once.

Whatever implements a choice is a mapping keyed by these same names, and a test asserts that the two sets are equal.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
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

ReportFormat = Literal["csv", "html", "json", "latex", "markdown"]

Sink = Literal["file", "stdout"]

ExecutorName = Literal["in_process", "multiprocess"]

ScheduleStatus = Literal["running", "stopped"]

Backoff = Literal["exponential", "linear"]

Jitter = Literal["full", "plus_minus"]
