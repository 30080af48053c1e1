"""What the bootstraps share: reproducible draws and intervals from replicates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from crucible_bench.data.sample import Sample, Vector
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice, Interval

_EQUAL = 1e-10


def generators(seed: int, samples: Sequence[Sample]) -> tuple[np.random.Generator, ...]:
    """One independent stream per group, tied to the group's name and not to its place.

    Exchanging two groups then exchanges their resamples, so the comparison only changes its sign.
    """
    place = {name: index for index, name in enumerate(sorted(sample.name for sample in samples))}
    return tuple(np.random.default_rng([seed, place[sample.name]]) for sample in samples)


def check_resamples(test: str, resamples: int, tails: Sequence[float]) -> None:
    """Refuse so few resamples that no replicate can fall into the smallest tail asked about."""
    needed = math.ceil(1.0 / min(tails) - 1e-9) - 1
    if resamples < needed:
        raise CannotTestError(
            test,
            f"{resamples} resamples cannot resolve a tail of {min(tails):.3g}; at least {needed} are needed at this "
            "alpha and confidence level",
        )


def bca_interval(deviations: Vector, acceleration: float, tail: float) -> tuple[Interval, Choice]:
    """Bias-corrected accelerated interval (Efron 1987), as deviations from the estimate.

    `deviations`, shape (B,), are the replicates minus the estimate. Where the correction is undefined (all replicates
    on one side, or a skewness that reverses the quantiles) the percentile interval is used instead, and the choice
    says so.
    """
    z = np.array([special.ndtri(tail), -special.ndtri(tail)])
    largest = float(np.abs(deviations).max())
    # Scaled before averaging, because a ratio whose denominator nearly vanished can be as large as 1e160.
    scale = _EQUAL * largest * float(np.abs(deviations / largest).mean()) if largest > 0.0 else 0.0
    # Replicates equal to the estimate up to rounding count half: discrete data produce many.
    below = np.count_nonzero(deviations < -scale) + 0.5 * np.count_nonzero(np.abs(deviations) <= scale)
    share = below / deviations.size
    if 0.0 < share < 1.0 and math.isfinite(acceleration):
        bias = float(special.ndtri(share))
        stretch = 1.0 - acceleration * (bias + z)
        if (stretch > 0.0).all():
            levels = special.ndtr(bias + (bias + z) / stretch)
            low, high = np.quantile(deviations, levels)
            return (float(low), float(high)), Choice(
                "BCa bootstrap interval",
                f"second-order accurate; bias correction {bias:.3g}, acceleration {acceleration:.3g}",
                ("percentile bootstrap interval",),
            )
    low, high = np.quantile(deviations, special.ndtr(z))
    return (float(low), float(high)), Choice(
        "percentile bootstrap interval",
        f"BCa is undefined here: {share:.3g} of the replicates lie below the estimate, acceleration {acceleration:.3g}",
        ("BCa bootstrap interval",),
    )
