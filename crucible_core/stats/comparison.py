"""Running a test by name."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from crucible_core.stats.anova import anova_test
from crucible_core.stats.bootstrap import bootstrap_test
from crucible_core.stats.kruskal_wallis import kruskal_wallis_test
from crucible_core.stats.levels import levels
from crucible_core.stats.mann_whitney import mann_whitney_test
from crucible_core.stats.refusal import CannotTestError
from crucible_core.stats.result import Settings, TestResult
from crucible_core.stats.sample import Sample, Values, read_groups
from crucible_core.stats.ttests import paired_ttest, welch_ttest
from crucible_core.stats.vocabulary import EffectSizeName, TestName, canonical_test_name
from crucible_core.stats.wilcoxon import wilcoxon_test
from crucible_core.vocabulary import EFFECT_SIZES

_FEWEST_RESAMPLES = 100


def run_test(
    test: str,
    groups: Mapping[str, Values],
    *,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> TestResult:
    """Compare groups of numbers (mapping of name to shape (n,)) with the named test, two-sided.

    `confidence_level` is 1 - alpha unless given. `effect_size` is one the test defines, the first of its row:

    | test | groups | effect sizes |
    | --- | --- | --- |
    | anova | two or more | eta_squared, omega_squared |
    | bootstrap | two | hedges_g, cohens_d |
    | kruskal_wallis | two or more | epsilon_squared, eta_squared |
    | mann_whitney | two | rank_biserial |
    | paired_ttest | two, of one length | cohens_dz |
    | ttest | two | hedges_g, cohens_d |
    | wilcoxon | two, of one length | rank_biserial |

    `resamples` and `seed` matter to bootstrap only; equal seeds give equal results.

    Raises CannotTestError when the test, the effect size and the data do not fit each other, and ValueError for an
    alpha, confidence level, number of resamples or seed out of range. Never returns a result that is not a number.
    """
    name = canonical_test_name(test)
    definition = TESTS[name]
    alpha, level = levels(alpha, confidence_level)
    resamples, seed = operator.index(resamples), operator.index(seed)
    if resamples < _FEWEST_RESAMPLES:
        raise ValueError(f"resamples must be at least {_FEWEST_RESAMPLES}, not {resamples}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}")
    effect = definition.effect_sizes[0] if effect_size is None else effect_size
    if effect not in definition.effect_sizes:
        raise CannotTestError(
            name,
            f"it does not define the effect size {effect!r}; it defines {', '.join(definition.effect_sizes)}",
        )
    samples = read_groups(name, groups)
    _check_count(name, samples, definition.pairwise)
    return definition.run(samples, Settings(alpha, level, effect, resamples, seed))


@dataclass(frozen=True, slots=True)
class TestDefinition:
    """A test's implementation, whether it compares exactly two groups, and its effect sizes, the default first."""

    __test__ = False

    run: Callable[[tuple[Sample, ...], Settings], TestResult]
    pairwise: bool
    effect_sizes: tuple[EffectSizeName, ...]


TESTS: Final[Mapping[TestName, TestDefinition]] = MappingProxyType(
    {
        "anova": TestDefinition(anova_test, False, EFFECT_SIZES["anova"]),
        "bootstrap": TestDefinition(bootstrap_test, True, EFFECT_SIZES["bootstrap"]),
        "kruskal_wallis": TestDefinition(kruskal_wallis_test, False, EFFECT_SIZES["kruskal_wallis"]),
        "mann_whitney": TestDefinition(mann_whitney_test, True, EFFECT_SIZES["mann_whitney"]),
        "paired_ttest": TestDefinition(paired_ttest, True, EFFECT_SIZES["paired_ttest"]),
        "ttest": TestDefinition(welch_ttest, True, EFFECT_SIZES["ttest"]),
        "wilcoxon": TestDefinition(wilcoxon_test, True, EFFECT_SIZES["wilcoxon"]),
    }
)


def _check_count(name: TestName, samples: tuple[Sample, ...], pairwise: bool) -> None:
    listed = ", ".join(repr(sample.name) for sample in samples) or "none"
    if len(samples) < 2:
        raise CannotTestError(name, f"a comparison needs at least two groups; given: {listed}")
    if pairwise and len(samples) > 2:
        raise CannotTestError(
            name,
            f"it compares two groups, but {len(samples)} were given ({listed}); choose two of them, or use anova or "
            "kruskal_wallis for all at once",
        )
