"""Statistical tests as pure functions: groups of numbers in, one typed, frozen result out.

Nothing here knows of pipelines. Every result carries an effect size with an interval, the group sizes, what was
assumed, and each choice that was made on the way.
"""

from crucible_core.stats.comparison import run_test
from crucible_core.stats.corrections import adjust_p_values
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
    "CannotTestError",
    "Choice",
    "CorrectionName",
    "EffectSizeName",
    "GroupSummary",
    "TestName",
    "TestResult",
    "adjust_p_values",
    "canonical_test_name",
    "run_test",
    "summarize",
]
