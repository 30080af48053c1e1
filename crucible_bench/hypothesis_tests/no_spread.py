"""Two groups without any spread: a t statistic is 0 / 0 or infinite, but the exact p-value is defined."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from crucible_bench.data.pairs import pair_differences
from crucible_bench.data.sample import Sample, unscaled
from crucible_bench.result import Choice, Settings, TestResult, conclude
from crucible_bench.vocabulary import Alternative, TestName
from crucible_bench.wording import counted


@dataclass(frozen=True, slots=True)
class NoSpread:
    """The difference of the means of values without spread, and its permutation p-value (Fisher 1935).

    The observed arrangement of the values is the most extreme one, so its probability is the one-sided p-value. If the
    groups are equal, all arrangements are alike.
    """

    difference: float
    log_probability: float
    mirrored: bool
    """Whether the arrangement with the groups exchanged is as extreme."""
    reason: str

    def p_value(self, alternative: Alternative) -> float:
        """The probability of a difference at least as extreme, if the values can be exchanged."""
        if self.difference == 0.0:
            return 1.0
        if alternative == "two-sided":
            return math.exp(self.log_probability + (math.log(2.0) if self.mirrored else 0.0))
        return math.exp(self.log_probability) if (alternative == "greater") == (self.difference > 0.0) else 1.0


def no_spread_of_pairs(test: str, samples: tuple[Sample, ...]) -> NoSpread | None:
    """For pairs that all differ by the same amount; None if they do not."""
    pairs = pair_differences(test, samples)
    if not pairs.is_constant:
        return None
    n = pairs.values.size
    is_zero = not pairs.signed_levels().any()
    difference = 0.0 if is_zero else unscaled(test, float(pairs.values.mean()), pairs.exponent)
    reason = f"all {counted(n, 'difference')} are {difference:.6g}"
    return NoSpread(difference, -n * math.log(2.0), True, reason)


def no_spread_of_groups(samples: tuple[Sample, ...]) -> NoSpread | None:
    """For independent groups that are each constant; None if one is not."""
    first, second = samples
    if not (first.is_constant and second.is_constant):
        return None
    a, b = float(first.values[0]), float(second.values[0])
    log_ways = float(
        special.gammaln(first.n + second.n + 1.0) - special.gammaln(first.n + 1.0) - special.gammaln(second.n + 1.0)
    )
    larger = max(abs(a), abs(b))
    is_zero = abs(a - b) <= 1e-15 * larger
    values = f"both are always {a:.6g}" if is_zero else f"{first.name} is always {a:.6g}, {second.name} always {b:.6g}"
    return NoSpread(0.0 if is_zero else a - b, -log_ways, first.n == second.n, values)


def without_spread(
    test: TestName,
    samples: tuple[Sample, ...],
    of: NoSpread,
    settings: Settings,
    estimate: str,
    assumptions: tuple[str, ...],
) -> TestResult:
    """The result of a t-test of groups without spread: an exact p-value, and neither interval nor effect size."""
    return conclude(
        test,
        samples,
        settings,
        method=f"exact permutation test, {settings.sides}",
        statistic=("difference", of.difference),
        df=(),
        p_value=of.p_value(settings.alternative),
        estimate=(f"{estimate} ({samples[0].name} - {samples[1].name})", of.difference, (-math.inf, math.inf)),
        effect=None,
        assumptions=(*assumptions, "without an effect the values could be exchanged"),
        notes=(of.reason, "without any spread there is no t, no interval and no standardized effect size"),
        decisions=(Choice("exact permutation test", f"{of.reason}, so t is undefined"),),
    )
