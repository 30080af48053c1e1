"""Looking repeatedly: exact enumeration, integrals that must be 1, and error rates under continuous looking."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from crucible_bench import CannotTestError
from crucible_bench.sequential.confidence_sequences import (
    ConfidenceSequence,
    betting_sequence,
    t_mixture_sequence,
)

RNG = np.random.default_rng(8)
SCORES = RNG.beta(4, 2, 120)

ALL: dict[str, Callable[..., ConfidenceSequence]] = {
    "betting": lambda x, **options: betting_sequence(x, (0.0, 1.0), **options),
    "t_mixture": t_mixture_sequence,
}


def test_the_betting_sequence_is_the_set_of_means_that_no_capital_refutes() -> None:
    # Waudby-Smith & Ramdas (2023), written out value by value for one mean at a time.
    x, alpha = SCORES[:40], 0.1

    def refuted(m: float, upto: int) -> bool:
        up = down = 1.0
        total, squares, variance = 0.5, 0.25, 0.25
        for t, value in enumerate(x[:upto], start=1):
            bet = math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(t + 1)))
            up *= 1 + min(bet, 0.5 / m) * (value - m)
            down *= 1 - min(bet, 0.5 / (1 - m)) * (value - m)
            total += value
            squares += (value - total / (t + 1)) ** 2
            variance = squares / (t + 1)
        return max(up, down) / 2 >= 1 / alpha

    sequence = betting_sequence(x, (0.0, 1.0), alpha=alpha, breaks=200)
    for upto in (1, 5, 17, 40):
        low, high = sequence.lower[upto - 1], sequence.upper[upto - 1]
        for m in (k / 200 for k in range(1, 200)):
            assert refuted(m, upto) == (not low + 1e-9 < m < high - 1e-9)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
@pytest.mark.slow
def test_over_all_paths_of_ten_coins_the_true_mean_is_left_out_with_at_most_alpha(p: float) -> None:
    missed = 0.0
    for path in itertools.product((0.0, 1.0), repeat=10):
        if betting_sequence(list(path), (0.0, 1.0), alpha=0.3, breaks=100).first_exclusion(p) is not None:
            missed += math.prod(p if value else 1 - p for value in path)
    assert missed <= 0.3


@pytest.mark.parametrize("n", [2, 5, 40])
def test_the_t_mixture_is_a_martingale_with_mean_one(n: int) -> None:
    # Its end is where the Bayes factor of Gonen et al. (2005) is 1 / alpha, and that factor has mean 1 under the null.
    alpha, x = 0.2, RNG.normal(3.0, 2.0, n)
    sequence = t_mixture_sequence(x, alpha=alpha, tightest_at=20)

    def mixing() -> float:  # found again by search: the shortest normal-mixture boundary at 20
        widths = [(normal_mixture_width(20, r, alpha), r) for r in np.geomspace(0.05, 50, 4000)]
        return float(min(widths)[1])

    g = 1 / mixing()

    def factor(t: float) -> float:
        x = t * t / (n - 1)
        return float((1 + n * g) ** -0.5 * ((1 + x) / (1 + x / (1 + n * g))) ** (n / 2))

    mean = 2 * sum(
        integrate.quad(lambda t: stats.t.pdf(t, n - 1) * factor(t), a, b, limit=500)[0]
        for a, b in itertools.pairwise((0.0, 1.0, 10.0, 1e3, math.inf))
    )
    assert mean == pytest.approx(1.0, abs=2e-4)
    high = sequence.upper[-1]
    if math.isinf(high):
        assert factor(1e9) < 1 / alpha
    else:
        t = (x.mean() - high) / (x.std(ddof=1) / math.sqrt(n))
        assert factor(t) == pytest.approx(1 / alpha, rel=1e-2)  # the search above has steps


def normal_mixture_width(t: float, r: float, alpha: float) -> float:
    return math.sqrt((t + r) * math.log((t + r) / (r * alpha**2))) / t


DRAWS: dict[str, tuple[Callable[[np.random.Generator], np.ndarray], float]] = {
    "betting": (lambda rng: (rng.random(250) < 0.2).astype(float), 0.2),
    "t_mixture": (lambda rng: rng.normal(1.0, 7.0, 250), 1.0),
}


@pytest.mark.parametrize("name", sorted(ALL))
def test_looking_after_every_value_errs_with_at_most_alpha(name: str) -> None:
    draw, mean = DRAWS[name]
    rng, runs, alpha = np.random.default_rng(13), 300, 0.2
    options: dict[str, Any] = {"breaks": 100} if name == "betting" else {}
    missed = sum(ALL[name](draw(rng), alpha=alpha, **options).first_exclusion(mean) is not None for _ in range(runs))
    assert missed / runs <= alpha + 3.5 * math.sqrt(alpha * (1 - alpha) / runs)
    if name == "t_mixture":
        assert missed / runs > 0.05  # and it is not asleep


def test_a_t_test_after_every_value_errs_far_more_often() -> None:
    rng, runs = np.random.default_rng(13), 200
    missed = 0
    for _ in range(runs):
        x = rng.normal(size=250)
        t = np.arange(5, 251)
        means = np.cumsum(x)[4:] / t
        sds = np.sqrt((np.cumsum(x * x)[4:] - t * means**2) / (t - 1))
        missed += bool((np.abs(means) * np.sqrt(t) / sds > stats.t.ppf(0.975, t - 1)).any())
    assert missed / runs > 0.25


@pytest.mark.parametrize("name", sorted(ALL))
def test_intervals_shrink_towards_the_mean(name: str) -> None:
    x = np.random.default_rng(3).beta(3, 3, 3000)
    sequence = ALL[name](x)
    low, high = sequence.interval
    assert low < 0.5 < high
    assert high - low < 0.1
    assert sequence.upper[99] - sequence.lower[99] < sequence.upper[9] - sequence.lower[9]
    assert sequence.estimates[-1] == pytest.approx(x.mean())
    assert sequence.first_exclusion(0.9) is not None
    assert sequence.first_exclusion(0.5) is None


@given(st.lists(st.integers(0, 8).map(lambda i: i / 8), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_units_and_origin_do_not_matter(x: list[float]) -> None:
    moved = [4.0 * value - 2.0 for value in x]
    pairs = [
        (betting_sequence(x, (0, 1), breaks=64), betting_sequence(moved, (-2, 2), breaks=64)),
        (t_mixture_sequence(x), t_mixture_sequence(moved)),
    ]
    for plain, other in pairs:
        for field in ("estimates", "lower", "upper"):
            expected = 4.0 * np.array(getattr(plain, field)) - 2.0
            assert np.array(getattr(other, field)) == pytest.approx(expected, rel=1e-8, abs=1e-8)
    mirrored = betting_sequence([1.0 - value for value in x], (0, 1), breaks=64)
    assert 1.0 - np.array(mirrored.lower) == pytest.approx(np.array(pairs[0][0].upper))


def test_constant_prefixes_say_nothing_where_the_spread_is_estimated() -> None:
    sequence = t_mixture_sequence([0.3] * 50 + [0.4] * 50)
    assert set(sequence.lower[:50]) == {-math.inf}
    assert json.loads(json.dumps(sequence.to_dict(), allow_nan=False))["lower"][0] is None
    assert t_mixture_sequence([1e300, -1e300, 1e299] * 20).upper[-1] < math.inf


def test_what_cannot_be_watched_is_refused() -> None:
    with pytest.raises(CannotTestError, match=r"1 of 3 values lie outside the bounds 0 and 1; the first, at .* 2"):
        betting_sequence([0.1, 0.5, 1.5], (0.0, 1.0))
    for bounds in ((1.0, 0.0), (0.0, math.inf), (math.nan, 1.0), (-1.7e308, 1.7e308)):
        with pytest.raises(CannotTestError, match="bounds must be two finite numbers"):
            betting_sequence([0.1], bounds)
    with pytest.raises(CannotTestError, match="missing"):
        betting_sequence([0.1, math.nan], (0.0, 1.0))
    with pytest.raises(CannotTestError, match="empty"):
        betting_sequence([], (0.0, 1.0))
    for wrong in (
        lambda: betting_sequence([0.5], (0, 1), alpha=0.0),
        lambda: betting_sequence([0.5], (0, 1), breaks=3),
        lambda: t_mixture_sequence([0.5], tightest_at=0),
    ):
        with pytest.raises(ValueError, match="must"):
            wrong()


def test_skewed_or_few_values_are_noted_where_a_sequence_needs_normal_ones() -> None:
    """So many sequences of lognormal values leave the mean out at some look, and say so while they are looked at."""
    rng, runs, looks = np.random.default_rng(19), 300, 60
    wrong = silent = 0
    for _ in range(runs):
        values = rng.lognormal(size=looks) - math.exp(0.5)
        first = t_mixture_sequence(values, tightest_at=8).first_exclusion(0.0)
        wrong += first is not None
        silent += first is not None and not t_mixture_sequence(values[:first], tightest_at=8).notes
    assert 0.15 < wrong / runs < 0.25 + 3.5 * math.sqrt(0.25 * 0.75 / runs)
    assert silent / runs <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / runs)
    assert "25 % where 5 % are promised" in t_mixture_sequence(RNG.normal(size=19)).notes[0]
    assert t_mixture_sequence(np.linspace(-1.0, 1.0, 20)).notes == ()
    assert betting_sequence(SCORES[:5], (0.0, 1.0)).notes == ()
