"""The settings that a caller may give a test, checked before any number is looked at."""

from __future__ import annotations

import operator
from typing import get_args

from crucible_bench.errors import CannotTestError
from crucible_bench.levels import levels
from crucible_bench.result import Settings
from crucible_bench.vocabulary import Alternative, EffectSizeName

_FEWEST_RESAMPLES = 100


def read_settings(
    test: str,
    effect_sizes: tuple[EffectSizeName, ...],
    *,
    effect_size: EffectSizeName | None = None,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = 10_000,
    seed: int = 0,
) -> Settings:
    """The settings of a test that defines `effect_sizes`, the default first, or none.

    Raises CannotTestError for an effect size that the test does not define, ValueError for anything out of range.
    """
    alpha, level = levels(alpha, confidence_level)
    resamples, seed = operator.index(resamples), operator.index(seed)
    if resamples < _FEWEST_RESAMPLES:
        raise ValueError(f"resamples must be at least {_FEWEST_RESAMPLES}, not {resamples}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}")
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative must be one of {', '.join(get_args(Alternative))}, not {alternative!r}")
    effect = next(iter(effect_sizes), None) if effect_size is None else effect_size
    if effect is not None and effect not in effect_sizes:
        raise CannotTestError(
            test, f"it does not define the effect size {effect!r}; it defines {', '.join(effect_sizes)}"
        )
    return Settings(alpha, level, effect, resamples, seed, alternative)
