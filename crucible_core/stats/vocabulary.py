"""How tests may be spelled; which tests, effect sizes and corrections exist is said in `crucible_core.vocabulary`."""

from __future__ import annotations

import difflib
from typing import Final, get_args

from crucible_core.stats.refusal import CannotTestError
from crucible_core.vocabulary import TEST_ALIASES, CorrectionName, EffectSizeName, TestName

__all__ = ["TEST_ALIASES", "TEST_NAMES", "CorrectionName", "EffectSizeName", "TestName", "canonical_test_name"]

TEST_NAMES: Final[tuple[TestName, ...]] = get_args(TestName)


def canonical_test_name(name: str) -> TestName:
    """The one spelling of a test's name, given that spelling or an alias of it.

    Raises CannotTestError, which lists the known names and the closest one, for any other name.
    """
    if name in TEST_NAMES:
        return name
    if name in TEST_ALIASES:
        return TEST_ALIASES[name]
    close = difflib.get_close_matches(str(name), [*TEST_NAMES, *TEST_ALIASES], n=1)
    hint = f"; did you mean {TEST_ALIASES.get(close[0], close[0])!r}?" if close else ""
    raise CannotTestError(str(name), f"there is no test of that name; known: {', '.join(TEST_NAMES)}{hint}")
