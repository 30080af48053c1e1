"""Correlation of two measurements per observation: Pearson's, Spearman's, Kendall's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crucible_bench.data.moments import LEAST_SQUARES
from crucible_bench.data.sample import Sample, Vector, scale_exponent, scaled
from crucible_bench.distributions.rank_distributions import midranks
from crucible_bench.distributions.resampling import check_resamples
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.ttests import t_tail
from crucible_bench.result import Choice, Effect, Interval, Settings, TestResult, conclude
from crucible_bench.vocabulary import Alternative, EffectSizeName, TestName
from crucible_bench.wording import counted

_EVERY_ORDER_UP_TO = 9  # 362880 orders; R's cor.test enumerates as far
_EVERY_TABLE_UP_TO = 8  # 40320 orders, with a table for each
_EXACT_TAU_UP_TO = 50
_MOST_CELLS = 10_000
_ROUGH = 0.2
_NOISE = 1e-10
_BATCH = 1 << 14
Matrix: TypeAlias = NDArray[np.float64]
_PAIRED = "values at the same position of the two groups belong together"


def pearson_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Pearson's r and its t test (Student 1908; Fisher 1915), with Fisher's (1921) z interval."""
    _check("pearson", samples)
    n = samples[0].n
    r = _product_moment("pearson", samples)
    df = n - 2.0
    notes = ("the points lie on a straight line, up to rounding",) if abs(r) >= 1.0 else ()
    return _concluded(
        "pearson",
        samples,
        settings,
        method="Pearson's correlation",
        effect_name="pearson_r",
        value=r,
        df=(df,),
        p_value=_t_tail(r, df, settings.alternative),
        variance=1.0 / (n - 3.0) if n > 3 else math.inf,
        half_step=0.0,
        assumptions=(_PAIRED, "pairs are independent of each other", "both measurements are jointly normal"),
        notes=notes,
        choice=Choice("Fisher's z interval", "on the z scale the spread hardly depends on r", ("bootstrap interval",)),
        decisions=(),
    )


def spearman_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Spearman's rho (1904): Pearson's r of the midranks.

    Up to 9 pairs every order is counted, ties included; beyond, Student's t approximation, or random orders if ties
    make it rough. The interval is Fisher's z with the variance of Bonett & Wright (2000).
    """
    _check("spearman", samples)
    n = samples[0].n
    ranks = tuple(Sample(sample.name, midranks(sample.values)) for sample in samples)
    rho = _product_moment("spearman", ranks)
    if n <= _EVERY_ORDER_UP_TO or _is_rough(ranks[0].values, ranks[1].values):
        p_value, note, choice = _by_orders(settings, ranks, lambda x, y: y @ x, "t approximation", _EVERY_ORDER_UP_TO)
    else:
        p_value = max(_t_tail(rho, n - 2.0, settings.alternative), math.exp(-math.lgamma(n + 1.0)))  # one order of n!
        note = f"t approximation{_ties(samples, ', ties share the mean of their ranks')}"
        choice = Choice("t approximation of rho", f"{n} pairs", ("exact distribution",))
    return _concluded(
        "spearman",
        samples,
        settings,
        method="Spearman's rank correlation",
        effect_name="spearman_rho",
        value=rho,
        df=(),
        p_value=p_value,
        variance=(1.0 + rho * rho / 2.0) / (n - 3.0) if n > 3 else math.inf,
        half_step=6.0 / (n * (n**2 - 1.0)),
        assumptions=(_PAIRED, "pairs are independent of each other"),
        notes=(note,),
        choice=Choice(
            "Bonett and Wright's interval", "Fisher's z with the spread that ranks have", ("bootstrap interval",)
        ),
        decisions=(choice,),
    )


def kendall_test(samples: tuple[Sample, ...], settings: Settings) -> TestResult:
    """Kendall's tau-b (1945), in O(n log n).

    Without ties and up to 50 pairs the p-value is exact; otherwise normal, with the variance that ties leave (Kendall
    1970), or that of all or random orders if ties make this rough. The interval is Fisher's z with the variance of
    Fieller, Hartley & Pearson (1957).
    """
    from scipy import stats  # noqa: PLC0415  # as in `shapiro_wilk`: slow to load

    _check("kendall", samples)
    n = samples[0].n
    levels = tuple(
        Sample(sample.name, np.unique(sample.values, return_inverse=True)[1].astype(np.float64)) for sample in samples
    )
    x, y = (sample.values for sample in levels)
    tied = _ties(samples, "with ties")
    is_exact = not tied and n <= _EXACT_TAU_UP_TO
    method = "exact" if is_exact else "asymptotic"
    tau, p_value = map(float, stats.kendalltau(x, y, method=method, alternative=settings.alternative))
    tau = _one_up_to_rounding(tau)
    if tied and (x.max() + 1.0) * (y.max() + 1.0) <= _MOST_CELLS and _is_rough(midranks(x), midranks(y)):
        p_value, note, choice = _by_orders(settings, levels, _concordances, "normal approximation", _EVERY_TABLE_UP_TO)
    elif is_exact:
        note = f"exact p-value, n = {n}; no ties"
        choice = Choice("exact distribution of tau", f"{n} pairs without ties", ("normal approximation",))
    else:
        note = f"normal approximation{', with tie correction' if tied else ''}"
        choice = Choice("normal approximation of tau", f"{n} pairs {tied or 'without ties'}", ("exact distribution",))
    return _concluded(
        "kendall",
        samples,
        settings,
        method="Kendall's rank correlation",
        effect_name="kendall_tau",
        value=tau,
        df=(),
        p_value=p_value,
        variance=0.437 / (n - 4.0) if n > 4 else math.inf,
        half_step=2.0 / (n * (n - 1.0)),
        assumptions=(_PAIRED, "pairs are independent of each other"),
        notes=(note,),
        choice=Choice("Fieller's interval", "Fisher's z with the spread that tau has", ("bootstrap interval",)),
        decisions=(choice,),
    )


def _check(test: TestName, samples: tuple[Sample, ...]) -> None:
    first, second = samples
    if first.n != second.n:
        raise CannotTestError(
            test, f"a correlation needs pairs, but {first.name!r} has {first.n} values and {second.name!r} {second.n}"
        )
    if first.n < 3:
        raise CannotTestError(test, f"{counted(first.n, 'pair')} always lie on a line; at least 3 are needed")
    for sample in samples:
        if sample.is_constant:
            raise CannotTestError(
                test, f"group {sample.name!r} is constant, so it cannot vary together with anything; r is undefined"
            )


def _concluded(
    test: TestName,
    samples: tuple[Sample, ...],
    settings: Settings,
    *,
    method: str,
    effect_name: EffectSizeName,
    value: float,
    df: tuple[float, ...],
    p_value: float,
    variance: float,
    half_step: float,
    assumptions: tuple[str, ...],
    notes: tuple[str, ...],
    choice: Choice,
    decisions: tuple[Choice, ...],
) -> TestResult:
    if math.isinf(variance):
        notes = (*notes, f"{samples[0].n} pairs are too few for an interval; it is all of -1 to 1")
    elif abs(value) >= 1.0 and half_step:
        notes = (*notes, "a perfect correlation: its interval is that of a coefficient half a step nearer to zero")
    return conclude(
        test,
        samples,
        settings,
        method=f"{method}, {settings.sides}",
        statistic=(effect_name, value),
        df=df,
        p_value=p_value,
        estimate=(
            f"{effect_name} of {samples[0].name} and {samples[1].name}",
            value,
            settings.bounded(_z_interval(value, variance, half_step, settings.estimate_tail), -1.0, 1.0),
        ),
        effect=Effect(effect_name, value, _z_interval(value, variance, half_step, settings.tail), choice),
        assumptions=assumptions,
        notes=notes,
        decisions=decisions,
    )


def _z_interval(value: float, variance: float, half_step: float, tail: float) -> Interval:
    if math.isinf(variance):
        return -1.0, 1.0
    inner = min(1.0 - half_step, max(half_step - 1.0, value))  # the z of a perfect correlation is infinite
    if abs(inner) >= 1.0:
        return value, value
    reach = -float(special.ndtri(tail)) * math.sqrt(variance)
    low, high = math.tanh(math.atanh(inner) - reach), math.tanh(math.atanh(inner) + reach)
    return (-1.0 if value <= -1.0 else low), (1.0 if value >= 1.0 else high)


def _product_moment(test: TestName, samples: tuple[Sample, ...]) -> float:
    units = []
    for sample in samples:
        # A scale for each, because r does not compare them; two passes, because offsets take digits.
        centred = scaled(sample.values, scale_exponent((sample,)))
        centred -= centred.mean()
        centred -= centred.mean()
        squares = float(np.dot(centred, centred))
        if squares < LEAST_SQUARES:
            raise CannotTestError(
                test, f"group {sample.name!r} varies too little, next to its size, for double precision; rescale"
            )
        centred /= math.sqrt(squares)
        units.append(centred)
    r = float(np.dot(*units))
    if abs(r) > 0.9:  # from the distance of the two unit vectors, which keeps the digits of 1 - r
        other = units[0] - math.copysign(1.0, r) * units[1]
        r = math.copysign(1.0 - float(np.dot(other, other)) / 2.0, r)
    return _one_up_to_rounding(r)


def _t_tail(r: float, df: float, alternative: Alternative) -> float:
    t = math.copysign(math.inf, r) if abs(r) >= 1.0 else r * math.sqrt(df / ((1.0 - r) * (1.0 + r)))
    return t_tail(t, df, alternative)


def _one_up_to_rounding(value: float) -> float:
    return math.copysign(1.0, value) if 1.0 - abs(value) < 4.0 * np.finfo(float).eps else value


def _is_rough(x: Vector, y: Vector) -> bool:
    """Whether, with these ties, the correlation of random orders is far from normal, so that approximations are rough.

    Judged by its third and fourth standardized cumulants (Pitman 1937), which follow from those of both sets of ranks.
    """
    n = x.size
    if np.unique(x).size == np.unique(y).size == n:
        return False
    thirds, fourths = 1.0, 1.0
    for ranks in (x, y):
        centred = ranks - ranks.mean()
        variance = float(np.mean(centred**2))
        thirds *= float(np.mean(centred**3)) / variance**1.5
        fourths *= float(np.mean(centred**4)) / variance**2 - 3.0
    return n <= _EVERY_ORDER_UP_TO or abs(thirds) / math.sqrt(n) > _ROUGH or abs(fourths) / n > _ROUGH


def _by_orders(
    settings: Settings,
    samples: tuple[Sample, ...],
    statistic: Callable[[Vector, Matrix], Vector],
    other: str,
    every_up_to: int,
) -> tuple[float, str, Choice]:
    """The p-value among all orders of few pairs, else (b + 1) / (B + 1) of B random ones (Phipson & Smyth 2010);
    two-sided, twice the smaller tail. `statistic` takes x, shape (n,), and orders of y, shape (B, n).
    """
    x, y, turned = _one_way_round(*(sample.values for sample in sorted(samples, key=lambda sample: sample.name)))
    n = x.size
    observed = float(statistic(x, y[None, :])[0])
    slack = _NOISE * max(1.0, abs(observed))
    every = n <= every_up_to
    above = below = 0 if every else 1
    total = math.factorial(n) if every else settings.resamples + 1
    if not every:
        check_resamples("random orders", settings.resamples, (settings.alpha,))
    for orders in _every_order(n) if every else _random_orders(settings, n):
        found = statistic(x, y[orders])
        above += int(np.count_nonzero(found >= observed - slack))
        below += int(np.count_nonzero(found <= observed + slack))
    if turned:
        above, below = below, above
    p = min(1.0, 2.0 * min(above, below) / total)
    if settings.alternative != "two-sided":
        p = (above if settings.alternative == "greater" else below) / total
    if every:
        note = f"exact p-value, n = {n}{_ties(samples, ', given the ties')}"
        return p, note, Choice("every order", f"{n} pairs: every order is counted", (other,))
    return (
        p,
        f"p-value of {settings.resamples} random orders, seed {settings.seed}, given the ties",
        Choice("random orders", "so many values are tied that approximations are far off", (other,)),
    )


def _one_way_round(x: Vector, y: Vector) -> tuple[Vector, Vector, bool]:
    """The pairs in a standard order and direction, and whether that has changed the sign of the coefficient.

    So the random orders depend neither on the given order of the pairs nor on the signs of the measurements.
    """
    ways = []
    for turn_x, turn_y in itertools.product((False, True), repeat=2):
        first, second = (
            values.min() + values.max() - values if turn else values for values, turn in ((x, turn_x), (y, turn_y))
        )
        order = np.lexsort((second, first))
        ways.append((first[order].tolist(), second[order].tolist(), turn_x != turn_y))
    one, other, turned = min(ways)
    return np.array(one), np.array(other), turned


def _every_order(n: int) -> Iterator[NDArray[np.intp]]:
    orders = itertools.permutations(range(n))
    while block := list(itertools.islice(orders, _BATCH)):
        yield np.array(block, dtype=np.intp)


def _random_orders(settings: Settings, n: int) -> Iterator[NDArray[np.intp]]:
    stream = np.random.default_rng(settings.seed)
    rows = max(1, _BATCH // n)
    for start in range(0, settings.resamples, rows):
        yield np.argsort(stream.random((min(rows, settings.resamples - start), n)), axis=1)


def _concordances(x: Vector, y: Matrix) -> Vector:
    """Concordant minus discordant pairs of levels x, shape (n,), with each row of y, shape (B, n), by their tables."""
    rows, columns = int(x.max()) + 1, int(y.max()) + 1
    place = np.arange(y.shape[0])[:, None] * (rows * columns) + (x * columns + y).astype(np.intp)
    tables = np.bincount(place.ravel(), minlength=y.shape[0] * rows * columns).reshape(-1, rows, columns)
    before = np.cumsum(np.cumsum(tables, axis=1), axis=2)[:, :-1]  # of all lower rows, up to each column
    lower = np.concatenate([np.zeros_like(before[:, :, :1]), before[:, :, :-1]], axis=2)
    return cast(Vector, (tables[:, 1:] * (lower - (before[:, :, -1:] - before))).sum(axis=(1, 2)).astype(np.float64))


def _ties(samples: tuple[Sample, ...], said: str) -> str:
    return said if any(np.unique(sample.values).size < sample.n for sample in samples) else ""
