"""Statistical tests as pure functions: groups of numbers in, one typed, frozen result out.

Nothing here knows of pipelines. Every result carries an effect size with an interval, the group sizes, what was
assumed, and each choice that was made on the way.
"""

from crucible_core.stats.comparison import run_test
from crucible_core.stats.corrections import AdjustmentName, adjust_p_values
from crucible_core.stats.families import (
    Comparison,
    FamilyName,
    FamilyResult,
    dunn,
    dunnett,
    games_howell,
    nemenyi,
    pairwise_tests,
    tukey_hsd,
)
from crucible_core.stats.margins import MarginResult, Verdict, judge_margin
from crucible_core.stats.planning import Draw, Plan, PlannedTest, minimum_detectable_effect, power_of, sample_size
from crucible_core.stats.rankings import (
    BestSet,
    Contender,
    Ranking,
    RankingProcedure,
    indistinguishable_from_best,
    rank_over_blocks,
)
from crucible_core.stats.refusal import CannotTestError
from crucible_core.stats.result import Choice, TestResult
from crucible_core.stats.summary import GroupSummary, summarize
from crucible_core.stats.vocabulary import (
    TEST_ALIASES,
    TEST_NAMES,
    CorrectionName,
    EffectSizeName,
    TestName,
    canonical_test_name,
)

__all__ = [
    "TEST_ALIASES",
    "TEST_NAMES",
    "AdjustmentName",
    "BestSet",
    "CannotTestError",
    "Choice",
    "Comparison",
    "Contender",
    "CorrectionName",
    "Draw",
    "EffectSizeName",
    "FamilyName",
    "FamilyResult",
    "GroupSummary",
    "MarginResult",
    "Plan",
    "PlannedTest",
    "Ranking",
    "RankingProcedure",
    "TestName",
    "TestResult",
    "Verdict",
    "adjust_p_values",
    "canonical_test_name",
    "dunn",
    "dunnett",
    "games_howell",
    "indistinguishable_from_best",
    "judge_margin",
    "minimum_detectable_effect",
    "nemenyi",
    "pairwise_tests",
    "power_of",
    "rank_over_blocks",
    "run_test",
    "sample_size",
    "summarize",
    "tukey_hsd",
]
