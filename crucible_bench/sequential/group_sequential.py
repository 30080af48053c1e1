"""Looking a few times: boundaries that spend alpha over planned looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from scipy import optimize, special

from crucible_bench.data.sample import Vector
from crucible_bench.levels import share
from crucible_bench.result import plain_json

Spending = Literal["obrien_fleming", "pocock"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_MOST_PANELS: Final = 200
_REACH: Final = 8.0
_LEAST_STEP: Final = 0.999e-3
_LARGEST_Z: Final = 38.0  # beyond it the normal tail is below the smallest double


@dataclass(frozen=True, slots=True)
class GroupSequentialPlan:
    """Looks at given shares of the planned information, and the z that rejects at each of them.

    `nominal_p` are the boundaries as p-values, with the sides of the test: at look k reject if the p-value of all data
    so far is at most nominal_p[k]. `spent` is alpha spent up to each look. `inflation` is how many times the
    observations of a plan with one look the last look needs for the same `power`; `expected_share` is the share of
    them used on average when the effect is what that power was planned for.
    """

    fractions: tuple[float, ...]
    boundaries: tuple[float, ...]
    nominal_p: tuple[float, ...]
    spent: tuple[float, ...]
    spending: Spending
    alpha: float
    two_sided: bool
    power: float
    inflation: float
    expected_share: float
    assumptions: tuple[str, ...]

    def first_rejection(self, statistics: Sequence[float]) -> int | None:
        """The look, from 1, at which z statistics so far first reach the boundary; None if they have not."""
        if len(statistics) > len(self.boundaries):
            raise ValueError(f"{len(statistics)} statistics, but only {len(self.boundaries)} looks are planned")
        for look, (z, boundary) in enumerate(zip(statistics, self.boundaries, strict=False), start=1):
            if math.isnan(z):
                raise ValueError(f"the statistic of look {look} is not a number")
            if (abs(z) if self.two_sided else z) >= boundary:
                return look
        return None

    def first_significant(self, p_values: Sequence[float]) -> int | None:
        """The look, from 1, at which the p-value of all data so far first is small enough; None if none was.

        The p-values have the sides of the plan. Any test will do whose statistic is approximately normal.
        """
        if len(p_values) > len(self.nominal_p):
            raise ValueError(f"{len(p_values)} p-values, but only {len(self.nominal_p)} looks are planned")
        for look, (p, nominal) in enumerate(zip(p_values, self.nominal_p, strict=False), start=1):
            if not 0.0 <= p <= 1.0:
                raise ValueError(f"the p-value {p!r} of look {look} is not a probability")
            if p <= nominal:
                return look
        return None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; a boundary that nothing reaches becomes None."""
        fields: dict[str, Any] = plain_json(asdict(self))
        return fields


def spent_alpha(
    fraction: float, *, alpha: float = 0.05, spending: Spending = "obrien_fleming", sides: int = 2
) -> float:
    """Alpha that may be spent by the time this share of the information is available (Lan & DeMets 1983).

    | spending | per side, with a its share of alpha | like the boundaries of |
    | --- | --- | --- |
    | obrien_fleming | 2 - 2 Phi(z(a / 2) / sqrt(t)) | O'Brien & Fleming 1979: hard to cross early |
    | pocock | a log(1 + (e - 1) t) | Pocock 1977: about as hard at every look |

    Raises ValueError for a fraction outside [0, 1], an unknown spending and an alpha out of range.
    """
    a = share("alpha", alpha) / sides
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"a share of the information lies between 0 and 1, but is {fraction!r}")
    if spending not in ("obrien_fleming", "pocock"):
        raise ValueError(f"unknown spending {spending!r}; known: obrien_fleming, pocock")
    if fraction == 0.0:
        return 0.0
    if spending == "pocock":
        return sides * a * math.log1p(math.expm1(1.0) * fraction)
    return sides * 2.0 * float(special.ndtr(float(special.ndtri(a / 2.0)) / math.sqrt(fraction)))


def group_sequential_plan(
    fractions: int | Sequence[float],
    *,
    alpha: float = 0.05,
    spending: Spending = "obrien_fleming",
    two_sided: bool = True,
    power: float = 0.8,
) -> GroupSequentialPlan:
    """Boundaries for looks at these shares of the information (ascending, the last at most 1); a number means
    that many evenly spaced ones.

    Each boundary spends what `spent_alpha` allows, found by recursive numerical integration of the sub-density of
    not having stopped (Armitage, McPherson & Rowe 1969; Jennison & Turnbull 2000, chapter 19). The looks need not be
    equally spaced, nor planned in number: a boundary depends on the looks up to it only.

    Raises ValueError for fractions that do not ascend within (0, 1] and for levels out of range.
    """
    alpha, goal = share("alpha", alpha), share("power", power)
    if isinstance(fractions, int):
        fractions = [look / fractions for look in range(1, fractions + 1)]
    t = _checked_fractions(fractions)
    sides = 2 if two_sided else 1
    spent = [spent_alpha(fraction, alpha=alpha, spending=spending, sides=sides) for fraction in t]
    boundaries: list[float] = []
    state = _State.start(0.0, two_sided)
    for fraction, to_spend in zip(t, np.diff([0.0, *spent]), strict=True):
        boundaries.append(state.boundary(fraction, float(to_spend)))
        state = state.go_on(fraction, boundaries[-1])
    fixed = -float(special.ndtri(alpha / sides)) + float(special.ndtri(goal))

    def miss(drift: float) -> float:
        return sum(crossing_probabilities(boundaries, t, drift=drift, two_sided=two_sided)) - goal

    # A plan whose last look is not the end has no power to compare at 1; it is compared at its last look.
    drift = (
        float(optimize.brentq(miss, 0.0, 4.0 * (fixed + 4.0) / math.sqrt(t[-1]), xtol=1e-10)) if goal > alpha else 0.0
    )
    crossed = crossing_probabilities(boundaries, t, drift=drift, two_sided=two_sided)
    stopped_before_last = sum(p * fraction for p, fraction in zip(crossed[:-1], t[:-1], strict=True))
    return GroupSequentialPlan(
        fractions=t,
        boundaries=tuple(boundaries),
        nominal_p=tuple(sides * float(special.ndtr(-boundary)) for boundary in boundaries),
        spent=tuple(spent),
        spending=spending,
        alpha=alpha,
        two_sided=two_sided,
        power=goal,
        inflation=drift**2 * t[-1] / fixed**2 if fixed > 0.0 else math.nan,
        expected_share=(stopped_before_last + (1.0 - sum(crossed[:-1])) * t[-1]) / t[-1],
        assumptions=(
            "the statistics are jointly normal with independent increments of information",
            "when to look does not depend on the results so far",
        ),
    )


def crossing_probabilities(
    boundaries: Sequence[float], fractions: Sequence[float], *, drift: float = 0.0, two_sided: bool = True
) -> tuple[float, ...]:
    """The chance of first reaching the boundary at each look.

    `drift` is the mean of the z statistic at full information: without an effect 0, and z(alpha / 2) + z(beta) for
    the effect that one look would find with power 1 - beta. Their sum is the level, or the power.

    `boundaries` and `fractions` have one entry per look, and so has the result. Raises ValueError for different lengths
    and for fractions that do not ascend within (0, 1].
    """
    t = _checked_fractions(fractions)
    if len(boundaries) != len(t):
        raise ValueError(f"{len(boundaries)} boundaries for {len(t)} looks")
    state, crossed = _State.start(drift, two_sided), []
    for fraction, boundary in zip(t, boundaries, strict=True):
        crossed.append(state.crossing(fraction, boundary))
        state = state.go_on(fraction, boundary)
    return tuple(crossed)


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """Not having stopped up to `fraction`: quadrature points of the score b = z sqrt(t), and their mass."""

    drift: float
    two_sided: bool
    fraction: float
    scores: Vector
    mass: Vector

    @staticmethod
    def start(drift: float, two_sided: bool) -> _State:
        return _State(drift, two_sided, 0.0, np.zeros(1), np.ones(1))

    def crossing(self, fraction: float, boundary: float) -> float:
        step, ahead = self._ahead(fraction)
        edge = boundary * math.sqrt(fraction)
        tails = special.ndtr((ahead - edge) / step)
        if self.two_sided:
            tails = tails + special.ndtr((-edge - ahead) / step)
        return float(np.dot(self.mass, tails))

    def boundary(self, fraction: float, probability: float) -> float:
        """The z at which crossing has this probability; infinite where that is below what a double can hold."""
        if probability <= 0.0 or self.crossing(fraction, _LARGEST_Z) >= probability:
            return math.inf
        return float(
            optimize.brentq(
                lambda z: math.log(max(self.crossing(fraction, z), 1e-320) / probability),
                -_REACH,
                _LARGEST_Z,
                xtol=1e-12,
            )
        )

    def go_on(self, fraction: float, boundary: float) -> _State:
        step, ahead = self._ahead(fraction)
        root = math.sqrt(fraction)
        high = min(boundary * root, self.drift * fraction + _REACH * root)
        low = self.drift * fraction - _REACH * root
        if self.two_sided:
            low = max(low, -boundary * root)
        if not low < high:
            return _State(self.drift, self.two_sided, fraction, np.zeros(1), np.zeros(1))
        # Panels of three steps each: fine enough for the normal density of a single step.
        panels = min(_MOST_PANELS, max(8, math.ceil((high - low) / (3.0 * step))))
        places = (np.arange(panels)[:, None] + (_NODES + 1.0) / 2.0).ravel() / panels
        weights = np.tile(_WEIGHTS, panels) / panels
        scores = low + (high - low) * places
        density = np.exp(-np.square((scores[:, None] - ahead) / step) / 2.0) @ self.mass
        mass: Vector = weights * (high - low) / 2.0 * density / (step * math.sqrt(2.0 * math.pi))
        return _State(self.drift, self.two_sided, fraction, scores, mass)

    def _ahead(self, fraction: float) -> tuple[float, Vector]:
        """The standard deviation of the next step, and where each point is expected after it."""
        more = fraction - self.fraction
        return math.sqrt(more), self.scores + self.drift * more


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    t = tuple(float(fraction) for fraction in fractions)
    ascending = all(before + _LEAST_STEP <= after for before, after in zip((0.0, *t), t, strict=False))
    if not t or not ascending or t[-1] > 1.0:
        raise ValueError(f"looks are shares of the information that ascend within (0, 1] by at least 0.001, not {t}")
    return t
