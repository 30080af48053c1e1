"""Which effects a declared comparison can see, before it is run."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, get_args

from crucible_bench.compared import PlannedPower
from crucible_bench.declaration import Declaration
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.choose_test import choose_test
from crucible_bench.power.power import PlannedTest, PowerAnalysis, minimum_detectable_effect, power_of, sample_size
from crucible_bench.vocabulary import QUANTILE_TESTS, TESTS_OF_MANY_GROUPS, Alternative, Design, TestName

__all__ = ["foresee", "power_as_planned"]

_SIMULATIONS: Final = 400
_FEWEST_SIMULATIONS: Final = 100
_TTESTS: Final[Mapping[Design, TestName]] = MappingProxyType(
    {
        "clustered": "clustered_ttest",
        "independent": "ttest",
        "paired": "paired_ttest",
        "resampled": "corrected_resampled_ttest",
    }
)
_OF_PAIRS: Final = ("clustered", "resampled", "stratified")
_OF_OUTCOMES: Final[Mapping[Design, TestName]] = MappingProxyType(
    {"independent": "two_proportions", "paired": "mcnemar_midp"}
)
"""What a sweep compares its configurations with, by design: measurements, and outcomes."""


def foresee(
    declared: Declaration,
    groups: int,
    n: int,
    smallest_effect: float,
    *,
    power: float = 0.8,
    baseline: float | None = None,
    discordant: float | None = None,
) -> list[str]:
    """Warnings, one sentence each: that `n` replicates per group cannot see the smallest effect of interest.

    The power is that of the first declared test, at the declared alpha. If a family of pairs is corrected, alpha is
    divided by the number of pairs: Bonferroni's bound. Benjamini and Yekutieli's correction may have less power than
    that, the others have a little more. `smallest_effect` is standardized as in `power_of`; for outcomes it is a
    difference of shares. `power` is the wanted probability of seeing it.

    The power for outcomes depends on the share to start from, `baseline`, and for pairs on the share `discordant` of
    pairs that differ. What is not given is assumed, and the warning says so: shares around one half, where the power is
    least, and as many pairs that differ as if the groups erred independently of each other.

    Never raises: a problem with the plan is a warning too.
    """
    try:
        test, alpha, alternative = _planned(declared, groups, n)
        planned = _plannable(test)
        if planned is None:
            return [
                f"planned: the power of {test} cannot be computed before there are data, so it is not checked for n = "
                f"{n}"
            ]
        sizes = [n] * groups if test in TESTS_OF_MANY_GROUPS else n
        shares = _shares(planned, declared, smallest_effect, baseline, discordant)
        plan = power_of(
            planned,
            smallest_effect,
            sizes,
            alpha=alpha,
            alternative=alternative,
            test_share=declared.share_of_test_set,
            baseline=shares.baseline,
            discordant=shares.discordant,
            simulations=_simulations(n),
        )
        if plan.power + 2.0 * plan.power_error >= power:
            return []
        said = (
            f"planned: with n = {n} the {test} at alpha {alpha:.3g} sees an effect of {smallest_effect:g} "
            f"({plan.effect_size_name}) with a power of only {plan.power:.0%}, but {power:.0%} is wanted"
        )
        return [said + _what_would_do(declared, planned, plan, smallest_effect, power, shares) + shares.assumed]
    except (CannotTestError, ValueError) as refusal:
        return [f"planned: {refusal}"]


def _what_would_do(
    declared: Declaration,
    planned: PlannedTest,
    plan: PowerAnalysis,
    smallest_effect: float,
    power: float,
    shares: _Shares,
) -> str:
    """Which effect this n can see, and which n would be enough; empty for simulated tests, and if no n would be enough,
    as with more folds of the same data.
    """
    if plan.power_error > 0.0:
        return ""
    try:
        least = minimum_detectable_effect(
            planned,
            plan.n[0] if len(set(plan.n)) == 1 and planned not in TESTS_OF_MANY_GROUPS else plan.n,
            power=power,
            alpha=plan.alpha,
            alternative=plan.alternative,
            test_share=declared.share_of_test_set,
            baseline=shares.baseline,
            discordant=shares.discordant,
        )
        said = f": n = {plan.n[0]} can see effects from {least.effect_size:.2g} on"
        needed = sample_size(
            planned,
            smallest_effect,
            power=power,
            alpha=plan.alpha,
            alternative=plan.alternative,
            groups=max(2, len(plan.n)),
            test_share=declared.share_of_test_set,
            baseline=shares.baseline,
            discordant=shares.discordant,
        )
    except (CannotTestError, ValueError):
        return ""
    return f"{said}; n = {max(needed.n)} would do"


def power_as_planned(
    declared: Declaration,
    groups: int,
    n: int,
    smallest_effect: float,
    *,
    power: float = 0.8,
    baseline: float | None = None,
    discordant: float | None = None,
) -> PlannedPower | None:
    """The power of the declared comparison with `n` replicates in each of the `groups`; None if it cannot be computed.

    The test, its alpha and the shares assumed for outcomes are those of `foresee`.
    """
    try:
        test, alpha, alternative = _planned(declared, groups, n)
        planned = _plannable(test)
        if planned is None:
            return None
        many = test in TESTS_OF_MANY_GROUPS
        shares = _shares(planned, declared, smallest_effect, baseline, discordant)

        def of(size: int, planned: PlannedTest = planned) -> PowerAnalysis:
            return power_of(
                planned,
                smallest_effect,
                [size] * groups if many else size,
                alpha=alpha,
                alternative=alternative,
                test_share=declared.share_of_test_set,
                baseline=shares.baseline,
                discordant=shares.discordant,
                simulations=_simulations(size),
            )

        sizes = sorted({max(3, round(n * step / 8)) for step in (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)} | {n})
        plan = of(n)
        curve = tuple((size, of(size).power) for size in sizes) if plan.power_error == 0.0 else ()
    except (CannotTestError, ValueError):
        return None
    return PlannedPower(
        test=test,
        n=n,
        smallest_effect=smallest_effect,
        effect_size_name=plan.effect_size_name,
        power=plan.power,
        wanted=power,
        curve=curve,
    )


class _Shares(NamedTuple):
    """The shares that the power for outcomes depends on, and what was assumed of them."""

    baseline: float | None = None
    discordant: float | None = None
    assumed: str = ""


def _shares(
    test: PlannedTest, declared: Declaration, effect: float, baseline: float | None, discordant: float | None
) -> _Shares:
    if test == "proportion":
        return _Shares(declared.reference)
    if test not in ("two_proportions", "mcnemar", "mcnemar_midp"):
        return _Shares()
    start = (1.0 - effect) / 2.0 if baseline is None else baseline
    assumed = "" if baseline is not None else f" (shares around one half are assumed; say `baseline` for {test})"
    if test == "two_proportions":
        return _Shares(start, None, assumed)
    if discordant is not None:
        return _Shares(None, discordant)
    end = min(1.0, start + effect)
    apart = start * (1.0 - end) + end * (1.0 - start)
    return _Shares(
        None,
        apart,
        f" (it is assumed that {apart:.0%} of the pairs differ, as of groups that err independently of each "
        "other; say `discordant` if fewer do)",
    )


def _plannable(test: TestName) -> PlannedTest | None:
    return next((planned for planned in get_args(PlannedTest) if planned == test), None)


def _simulations(n: int) -> int:
    """Fewer for larger groups, so that a warning takes a second or two."""
    return max(_FEWEST_SIMULATIONS, min(_SIMULATIONS, 40_000 // n))


def _planned(declared: Declaration, groups: int, n: int) -> tuple[TestName, float, Alternative]:
    """The test that decides, and the alpha and the alternative of one of its comparisons."""
    if declared.study == "multiple_datasets":
        return "friedman", declared.alpha, "two-sided"
    if declared.study == "sweep" and declared.design in _TTESTS and groups > 1:
        # A configuration is dropped where one of all others is shown to be better.
        of_outcomes = _OF_OUTCOMES.get(declared.design) if declared.outcome == "binary" else None
        return of_outcomes or _TTESTS[declared.design], declared.alpha / (groups - 1), "greater"
    # No test takes more than two groups of these designs at once: they are compared as pairs, asked for or not.
    of_pairs = groups > 2 and (declared.comparing is not None or declared.design in _OF_PAIRS)
    pairs = 1
    if of_pairs:
        pairs = groups - 1 if declared.comparing == "baseline" else groups * (groups - 1) // 2
    alpha = declared.alpha if declared.correction == "none" else declared.alpha / pairs
    if declared.quantile is not None and declared.design in QUANTILE_TESTS:
        return QUANTILE_TESTS[declared.design], alpha, declared.alternative
    named = [test for test in declared.tests if test != "auto"]
    fitting = [test for test in named if (test in TESTS_OF_MANY_GROUPS) != of_pairs or groups <= 2]
    sizes = [n] * (2 if of_pairs else groups)
    test = fitting[0] if fitting else choose_test(declared.outcome or "continuous", sizes, design=declared.design).test
    return test, alpha, "two-sided" if test in TESTS_OF_MANY_GROUPS else declared.alternative
