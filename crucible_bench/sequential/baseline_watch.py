"""Watching a metric against its baseline, night after night: one error probability for all looks together."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from crucible_bench.data.sample import Values, Vector, read_sample
from crucible_bench.errors import CannotTestError
from crucible_bench.levels import share
from crucible_bench.result import Interval, plain_json
from crucible_bench.sequential.confidence_sequences import (
    ConfidenceSequence,
    betting_change,
    betting_sequence,
    t_mixture_change,
    t_mixture_sequence,
)

WatchVerdict = Literal["better", "not_worse", "undecided", "worse"]

_NAME: Final = "watch_baseline"
_CAPS: Final = (0.5, 0.99)
_NUMBERS: Final = (int, float, np.integer, np.floating)


@dataclass(frozen=True, slots=True)
class BaselineWatch:
    """Later values against a baseline, with an interval of the difference of means after each of them.

    `estimates`, `lower` and `upper` (values minus baseline, in their units) have an entry per value. With probability 1
    - alpha all intervals cover the difference, so you may look every night and act on any of them. An end is infinite
    (None in JSON) where nothing can be said yet. `verdict` is that of the last interval, `first_worse` the number of
    values after which "worse" was first shown, None if never.
    """

    verdict: WatchVerdict
    first_worse: int | None
    method: str
    n_baseline: int
    n: int
    alpha: float
    margin: float
    higher_is_better: bool
    estimates: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def interval(self) -> Interval:
        """The last one."""
        return self.lower[-1], self.upper[-1]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields: dict[str, Any] = plain_json(asdict(self))
        return fields


def watch_baseline(
    baseline: Values | float,
    values: Values,
    *,
    bounds: tuple[float, float] | None = None,
    margin: float = 0.0,
    higher_is_better: bool = True,
    alpha: float = 0.05,
    tightest_at: int = 8,
) -> BaselineWatch:
    """Judge the values of later runs, shape (n,) in order, against the baseline's; call it again with each new one.

    The intervals after the first values are the same whether or not later ones are there, up to rounding. The first
    rule that holds for the last interval (l, u), turned so that positive is good, gives the verdict:

    | verdict | holds when |
    | --- | --- |
    | worse | u < -margin |
    | better | 0 < l |
    | not_worse | -margin < l |
    | undecided | otherwise |

    With `bounds`, the lowest and highest value that the metric can take, nothing else is assumed: the betting sequence
    of Waudby-Smith & Ramdas (2023). It needs a dozen values and more, because rare disasters are within the bounds: n
    equal values at the upper bound show only that the mean is above about (alpha / 4)**(1 / n) of the way up. Without
    them values are assumed to be normal, with one standard deviation: the t-mixture sequence (Wang & Ramdas 2025),
    narrowest after about `tightest_at` values. The evidence of a measured baseline and of the later values is one
    game with one alpha (`t_mixture_change`, `betting_change`), not two intervals that must both hold. Over fifty nights
    without a change, normal values give an alarm in 1 to 2 % at an alpha of 5 %; later nights may use up the rest.

    A value is one run's. Answers to one set of questions, asked again every night, are not new values: average them.

    Raises CannotTestError for a baseline of one value, values that are all equal and not bounded, values outside the
    bounds, and data that no test takes; ValueError for a margin that is negative and levels out of range.
    """
    alpha = share("alpha", alpha)
    if not (math.isfinite(margin) and margin >= 0.0):
        raise ValueError(f"margin must be a number in units of the values, 0 or more, not {margin!r}")
    if isinstance(baseline, _NUMBERS):
        against, n_baseline = "a number", 0
        later = (
            t_mixture_sequence(values, alpha=alpha, tightest_at=tightest_at)
            if bounds is None
            else betting_sequence(values, bounds, alpha=alpha, caps=_CAPS)
        )
        known = _finite(baseline)
    else:
        n_baseline, known = read_sample(_NAME, "baseline", baseline).n, 0.0
        against = f"{n_baseline} values of the baseline"
        later = (
            t_mixture_change(baseline, values, alpha=alpha, tightest_at=tightest_at)
            if bounds is None
            else betting_change(baseline, values, bounds, alpha=alpha, caps=_CAPS)
        )
    with np.errstate(over="ignore"):
        estimates, lower, upper = (np.subtract(ends, known) for ends in (later.estimates, later.lower, later.upper))
    if not np.isfinite(estimates).all():
        raise CannotTestError(_NAME, "the difference is larger than the largest double (1.8e308); rescale")
    worse = upper < -margin if higher_is_better else lower > margin
    return BaselineWatch(
        verdict=_verdict(float(lower[-1]), float(upper[-1]), margin, higher_is_better),
        first_worse=int(np.argmax(worse)) + 1 if worse.any() else None,
        method=f"{later.method}, against {against}",
        n_baseline=n_baseline,
        n=later.n,
        alpha=alpha,
        margin=float(margin),
        higher_is_better=higher_is_better,
        estimates=tuple(map(float, estimates)),
        lower=tuple(map(float, lower)),
        upper=tuple(map(float, upper)),
        assumptions=(
            *later.assumptions,
            "every value, including those of the baseline, is from a separate run",
        ),
        notes=_notes(later, lower, upper),
    )


def _finite(baseline: float) -> float:
    if isinstance(baseline, bool) or not math.isfinite(baseline):
        raise CannotTestError(_NAME, f"the baseline must be a finite number, or several, not {baseline!r}")
    return float(baseline)


def _verdict(low: float, high: float, margin: float, higher_is_better: bool) -> WatchVerdict:
    low, high = (low, high) if higher_is_better else (-high, -low)
    if high < -margin:
        return "worse"
    if low > 0.0:
        return "better"
    return "not_worse" if low > -margin else "undecided"


def _notes(later: ConfidenceSequence, lower: Vector, upper: Vector) -> tuple[str, ...]:
    notes = list(later.notes)
    if math.isinf(later.lower[-1]) and math.isinf(later.upper[-1]):
        notes.append(f"{later.n} values are too few, or too much alike, to say anything yet")
    if lower.max() > upper.min():
        notes.append("intervals of different nights do not overlap: the mean has changed while it was watched")
    return tuple(notes)
