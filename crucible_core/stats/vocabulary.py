"""How tests may be spelled; which tests, effect sizes and corrections exist is said in `crucible_core.vocabulary`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, get_args

from crucible_core.stats.refusal import CannotTestError
from crucible_core.vocabulary import TEST_ALIASES, Alternative, CorrectionName, EffectSizeName, TestName

__all__ = [
    "OTHER_TESTS",
    "TEST_ALIASES",
    "TEST_NAMES",
    "Alternative",
    "CorrectionName",
    "EffectSizeName",
    "TestName",
    "canonical_test_name",
]

TEST_NAMES: Final[tuple[TestName, ...]] = get_args(TestName)

OTHER_TESTS: Final[Mapping[TestName, str]] = MappingProxyType(
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
    for known in TEST_NAMES:
        if name == known:
            return known
    if name in TEST_ALIASES:
        return TEST_ALIASES[name]
    close = difflib.get_close_matches(str(name), [*TEST_NAMES, *TEST_ALIASES], n=1)
    hint = f"; did you mean {TEST_ALIASES.get(close[0], close[0])!r}?" if close else ""
    raise CannotTestError(str(name), f"there is no test of that name; known: {', '.join(TEST_NAMES)}{hint}")
