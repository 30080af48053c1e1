"""Group-sequential boundaries: published constants, scipy's multivariate normal, and simulation."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from crucible_bench.sequential.group_sequential import crossing_probabilities, group_sequential_plan, spent_alpha

FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)
POCOCK, OBRIEN = [2.413] * 5, [2.040 / math.sqrt(t) for t in FIVE]  # Jennison & Turnbull (2000), tables 2.1 and 2.3


def test_lan_demets_boundaries_are_those_of_the_published_programs() -> None:
    # Five equal looks, two-sided 0.05: as printed by the Lan-DeMets program and R's ldbounds
    plan = group_sequential_plan(FIVE)
    assert plan.boundaries == pytest.approx((4.8769, 3.3569, 2.6803, 2.2898, 2.0310), abs=2e-4)
    plan = group_sequential_plan(FIVE, spending="pocock")
    assert plan.boundaries == pytest.approx((2.4380, 2.4268, 2.4101, 2.3966, 2.3859), abs=2e-4)


@pytest.mark.parametrize(("constants", "inflation"), [(POCOCK, 1.207), (OBRIEN, 1.026)])
def test_jennison_and_turnbulls_constants_have_their_level_and_inflation(
    constants: list[float], inflation: float
) -> None:
    assert sum(crossing_probabilities(constants, FIVE)) == pytest.approx(0.05, abs=5e-5)
    drift = optimize.brentq(lambda d: sum(crossing_probabilities(constants, FIVE, drift=d)) - 0.9, 1, 6)
    fixed = stats.norm.ppf(0.975) + stats.norm.ppf(0.9)
    assert (drift / fixed) ** 2 == pytest.approx(inflation, abs=1e-3)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("drift", [0.0, 2.5])
@pytest.mark.parametrize("fractions", [(0.2, 0.5, 1.0), (0.05, 0.9, 0.95, 1.0), (0.3, 0.6)])
def test_crossing_probabilities_are_those_of_a_multivariate_normal(
    fractions: tuple[float, ...], drift: float, two_sided: bool
) -> None:
    t = np.array(fractions)
    covariance = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    boundaries = np.array([2.6, 2.4, 2.2, 2.0][: len(t)])
    crossed = np.cumsum(crossing_probabilities(boundaries, fractions, drift=drift, two_sided=two_sided))
    for k in range(1, len(t) + 1):
        inside = stats.multivariate_normal(
            mean=drift * np.sqrt(t[:k]), cov=covariance[:k, :k], abseps=1e-9, maxpts=10**6, seed=1
        ).cdf(boundaries[:k], lower_limit=-boundaries[:k] if two_sided else None)
        assert crossed[k - 1] == pytest.approx(1 - inside, abs=2e-6)


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=12, unique=True),
    st.sampled_from(["obrien_fleming", "pocock"]),
    st.sampled_from([0.01, 0.05, 0.2]),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_every_plan_spends_exactly_what_it_may(looks: list[int], spending: Any, alpha: float, two_sided: bool) -> None:
    fractions = [look / 100 for look in sorted(looks)]
    plan = group_sequential_plan(fractions, alpha=alpha, spending=spending, two_sided=two_sided)
    crossed = np.cumsum(crossing_probabilities(plan.boundaries, fractions, two_sided=two_sided))
    assert crossed == pytest.approx(plan.spent, abs=1e-9)
    if fractions[-1] == 1.0:
        assert plan.spent[-1] == pytest.approx(alpha)
    sides = 2 if two_sided else 1
    assert plan.nominal_p == pytest.approx([sides * stats.norm.sf(b) for b in plan.boundaries])
    # A later look does not change an earlier boundary.
    shorter = group_sequential_plan(fractions[:1], alpha=alpha, spending=spending, two_sided=two_sided)
    assert shorter.boundaries[0] == plan.boundaries[0]


def test_one_look_at_the_end_is_the_plain_test() -> None:
    plan = group_sequential_plan([1.0], power=0.9)
    assert plan.boundaries == pytest.approx((stats.norm.ppf(0.975),))
    assert plan.inflation == pytest.approx(1.0, abs=1e-3)  # the far side's power is not in the textbook formula
    assert plan.expected_share == 1.0


def test_spending_starts_at_nothing_and_ends_at_alpha() -> None:
    for spending in ("obrien_fleming", "pocock"):
        spent = [spent_alpha(t, spending=spending) for t in np.linspace(0, 1, 21)]  # type: ignore[arg-type]
        assert spent[0] == 0.0
        assert spent[-1] == pytest.approx(0.05)
        assert spent == sorted(spent)
    assert spent_alpha(0.5) == pytest.approx(2 * (2 - 2 * stats.norm.cdf(stats.norm.ppf(1 - 0.0125) / math.sqrt(0.5))))
    assert spent_alpha(0.5, spending="pocock") == pytest.approx(0.05 * math.log(1 + (math.e - 1) / 2))


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_simulated_trials_reject_as_often_as_planned(spending: Any) -> None:
    rng, runs, n = np.random.default_rng(17), 4000, 100
    plan = group_sequential_plan(FIVE, spending=spending, power=0.8)
    fixed = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    for mean, expected in ((0.0, 0.05), (fixed * math.sqrt(plan.inflation / n), 0.8)):
        walks = np.cumsum(rng.normal(mean, 1.0, (runs, n)), axis=1)
        at = np.array([round(t * n) for t in FIVE])
        looks = [plan.first_rejection(z) for z in walks[:, at - 1] / np.sqrt(at)]
        rate = sum(look is not None for look in looks) / runs
        assert rate == pytest.approx(expected, abs=3.5 * math.sqrt(expected * (1 - expected) / runs))
        if mean:
            used = np.mean([1.0 if look is None else FIVE[look - 1] for look in looks])
            assert used == pytest.approx(plan.expected_share, abs=0.02)


def test_the_first_rejection_is_found() -> None:
    plan = group_sequential_plan((0.5, 1.0))
    assert plan.first_rejection([]) is None
    assert plan.first_rejection([2.5]) is None
    assert plan.first_rejection([-3.5]) == 1
    assert plan.first_rejection([1.0, 2.0]) == 2
    assert group_sequential_plan((0.5, 1.0), two_sided=False).first_rejection([-9.0]) is None
    with pytest.raises(ValueError, match="3 statistics, but only 2 looks"):
        plan.first_rejection([0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="not a number"):
        plan.first_rejection([math.nan])


def test_a_plan_is_plain_json_even_with_a_look_too_early_to_reject() -> None:
    plan = group_sequential_plan((0.001, 0.5, 1.0))
    assert plan.boundaries[0] == math.inf
    assert json.loads(json.dumps(plan.to_dict(), allow_nan=False))["boundaries"][0] is None
    assert sum(crossing_probabilities(plan.boundaries, plan.fractions)) == pytest.approx(0.05)


def test_looks_and_levels_out_of_range_are_refused() -> None:
    for fractions in ([], [0.0, 1.0], [0.5, 0.5], [0.8, 0.4], [0.5, 1.1], [math.nan]):
        with pytest.raises(ValueError, match="ascend within"):
            group_sequential_plan(fractions)
    with pytest.raises(ValueError, match="2 boundaries for 1 looks"):
        crossing_probabilities([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="known: obrien_fleming, pocock"):
        spent_alpha(0.5, spending="haybittle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="between 0 and 1"):
        spent_alpha(1.5)
    with pytest.raises(ValueError, match="alpha must lie"):
        group_sequential_plan(FIVE, alpha=2.0)
