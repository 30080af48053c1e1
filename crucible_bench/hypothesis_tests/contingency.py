"""Counts in a table: Pearson's chi-square, Fisher's exact test, Cramer's V."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from scipy import special

from crucible_bench.data.outcomes import read_count
from crucible_bench.data.pairs import Integers
from crucible_bench.data.sample import Vector
from crucible_bench.distributions.hypergeometric import (
    MOST_CELLS,
    conditional_interval,
    conditional_odds_ratio,
    fisher_tail,
    support,
)
from crucible_bench.distributions.noncentral import noncentral_chi_square_interval
from crucible_bench.distributions.resampling import check_resamples
from crucible_bench.errors import CannotTestError
from crucible_bench.result import Choice, Effect, Settings, TestResult, conclude
from crucible_bench.settings import read_settings
from crucible_bench.vocabulary import Alternative, TestName

Table: TypeAlias = Mapping[str, Sequence[int]]
"""Row name -> counts per column, shape (columns,)."""

_LEAST_EXPECTED = 5.0
_EQUAL = 1e-7  # of two tables' log probabilities, R's tolerance
_MOST_STEPS = 100_000  # of counting every table: some tenths of a second
_MOST_DRAWN = 10**9  # what numpy's hypergeometric draws from


def chi_square_test(
    table: Table,
    *,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> TestResult:
    """Pearson's test (1900) that rows and columns of a table of counts are independent, without Yates' correction.

    If an expected count is below 5, the p-value comes from seeded random tables with the same margins: the share,
    counted as (b + 1) / (B + 1), whose chi-square is as large. The effect size is Cramer's V (1946), its interval the
    noncentralities under which chi-square is not extreme (Smithson 2003), divided by n and the smaller dimension.

    If only one column has counts, there is no evidence against independence: p is 1, and V may be anything.

    Raises CannotTestError for a table with fewer than two rows or columns, an empty row or column beside two others, or
    cells that are not counts. `table` is row name -> counts, of shape (columns,).
    """
    settings = read_settings(
        "chi_square", ("cramers_v",), alpha=alpha, confidence_level=confidence_level, resamples=resamples, seed=seed
    )
    rows, cells = _read("chi_square", table, may_be_alike=True)
    if np.count_nonzero(cells.any(axis=0)) == 1:
        return _all_alike(rows, settings)
    n = int(cells.sum())
    expected = np.outer(cells.sum(1) / n, cells.sum(0))
    chi_square = _chi_square(cells, expected)
    df = float((cells.shape[0] - 1) * (cells.shape[1] - 1))
    p_value, note, choice = _p_value(chi_square, df, cells, expected, settings)
    return _conclude_table(
        "chi_square",
        rows,
        cells,
        settings,
        "Pearson's chi-square test of independence",
        (chi_square, df),
        (p_value, note, choice),
        "chi-square tests one tail, the interval leaves out two"
        " (1 - 2 * alpha as the confidence level makes them agree)",
    )


def _all_alike(rows: tuple[_Row, ...], settings: Settings) -> TestResult:
    choice = Choice("the whole range as the interval", "all outcomes are alike, and so would be those of any table")
    effect = Effect("cramers_v", 0.0, (0.0, 1.0), choice)
    return conclude(
        "chi_square",
        rows,
        settings,
        method="Pearson's chi-square test of independence",
        statistic=("chi-square", 0.0),
        df=(len(rows) - 1.0,),
        p_value=1.0,
        estimate=(effect.name, effect.value, effect.interval),
        effect=effect,
        assumptions=("every observation is counted in one cell", "observations are independent"),
        notes=("all outcomes of all groups are alike: nothing speaks against one probability",),
        decisions=(),
    )


def fisher_exact_test(
    table: Table,
    *,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = 10_000,
    seed: int = 0,
) -> TestResult:
    """Fisher's exact test (1935) of a table of counts (row name -> shape (columns,)), its margins held fixed.

    The two-sided p-value sums all tables no more probable than the observed one. For a 2 x 2 table the estimate is the
    conditional maximum-likelihood odds ratio. Its interval inverts both one-sided exact tests, as in R; "greater" asks
    for an odds ratio above 1. For a larger table (Freeman & Halton 1951) the effect size is Cramer's V, as in
    `chi_square_test`. All tables are counted column by column, with equal states merged (the idea of Mehta & Patel
    1983). If that takes too long, the p-value is (b + 1) / (B + 1) from seeded random tables.

    Raises CannotTestError for what `chi_square_test` refuses, and for a one-sided question about a larger table.
    """
    settings = read_settings(
        "fisher_exact",
        ("odds_ratio",),
        alpha=alpha,
        confidence_level=confidence_level,
        alternative=alternative,
        resamples=resamples,
        seed=seed,
    )
    rows, cells = _read("fisher_exact", table)
    if cells.shape != (2, 2):
        return _fisher_of_many(rows, cells, settings)
    first, margins = int(cells[0, 0]), (rows[0].n, rows[1].n, int(cells[:, 0].sum()))
    low, high = support(margins)
    if high - low > MOST_CELLS:
        raise CannotTestError(
            "fisher_exact", f"{high - low} tables share these margins: with such counts chi_square is as good as exact"
        )
    ratio = conditional_odds_ratio(first, margins)
    return conclude(
        "fisher_exact",
        rows,
        settings,
        method=f"Fisher's exact test, {settings.sides}",
        statistic=("first cell", float(first)),
        df=(),
        p_value=fisher_tail(first, margins, settings.alternative),
        estimate=(
            "odds_ratio",
            ratio,
            settings.bounded(conditional_interval(first, margins, settings.estimate_tail), 0.0),
        ),
        effect=Effect(
            "odds_ratio",
            ratio,
            conditional_interval(first, margins, settings.tail),
            Choice("exact conditional interval for the odds ratio", "it inverts the exact test", ("Wald interval",)),
            ("a cell is at the largest value its margins allow: the odds ratio is infinite",) if high == first else (),
            is_ratio=True,
        ),
        assumptions=("every observation is counted in one cell", "observations are independent"),
        notes=(f"exact p-value, {high - low + 1} tables share the margins",),
        decisions=(),
        disagreement="the two-sided p-value orders tables by probability, the interval takes both tails alike",
        null_value=1.0,
    )


def _fisher_of_many(rows: tuple[_Row, ...], cells: Integers, settings: Settings) -> TestResult:
    shape = f"{cells.shape[0]} rows and {cells.shape[1]} columns"
    if settings.alternative != "two-sided":
        raise CannotTestError("fisher_exact", f"a table of {shape} has no direction: it is two-sided only")
    observed = float(special.gammaln(cells + 1.0).sum())
    p_value = every_table_tail(cells, observed)
    note, choice = "exact p-value, every table counted", Choice("every table", shape, ("random tables",))
    if p_value is None:
        check_resamples("fisher_exact", settings.resamples, (settings.alpha,))
        drawn = _drawn(cells, lambda counts, _row, _column: special.gammaln(counts + 1.0), settings)
        p_value = (np.count_nonzero(drawn >= observed - _EQUAL) + 1.0) / (drawn.size + 1.0)
        note = f"p-value from {drawn.size} random tables with the same margins, seed {settings.seed}"
        choice = Choice("random tables with the same margins", f"{shape} are too many to count", ("every table",))
    expected = np.outer(cells.sum(1) / cells.sum(), cells.sum(0))
    df = float((cells.shape[0] - 1) * (cells.shape[1] - 1))
    chi_square = _chi_square(cells, expected)
    return _conclude_table(
        "fisher_exact",
        rows,
        cells,
        settings,
        "Fisher's exact test of a larger table (Freeman-Halton)",
        (chi_square, df),
        (p_value, note, choice),
        "the p-value orders tables by probability, the interval by chi-square",
    )


def _conclude_table(
    test: TestName,
    rows: tuple[_Row, ...],
    cells: Integers,
    settings: Settings,
    method: str,
    statistic: tuple[float, float],
    p_value: tuple[float, str, Choice],
    disagreement: str,
) -> TestResult:
    """The result of a test of a whole table: chi-square with its df, Cramer's V; `p_value` with its note and choice."""
    chi_square, df = statistic
    effect = _cramers_v(chi_square, df, cells, settings.confidence_level)
    return conclude(
        test,
        rows,
        settings,
        method=method,
        statistic=("chi-square", chi_square),
        df=(df,),
        p_value=p_value[0],
        estimate=(effect.name, effect.value, effect.interval),
        effect=effect,
        assumptions=("every observation is counted in one cell", "observations are independent"),
        notes=(p_value[1],),
        decisions=(p_value[2],),
        disagreement=disagreement,
    )


def every_table_tail(cells: Integers, observed: float) -> float | None:
    """The probability of tables whose sum of log factorials is at least `observed`, the margins being those of `cells`.

    None where there are too many to count. What is left of the rows decides what may follow, in whatever order, so
    equal states are merged, and so are equal sums.
    """
    if cells.shape[0] > cells.shape[1]:
        cells = cells.T
    rows, columns = sorted(map(int, cells.sum(1))), sorted(map(int, cells.sum(0)), reverse=True)
    log_factorials = special.gammaln(np.arange(rows[-1] + 2.0) + 1.0).tolist() if rows[-1] <= _MOST_STEPS else []
    if not log_factorials:
        return None
    states: dict[tuple[int, ...], dict[float, float]] = {tuple(rows): {0.0: 1.0}}
    steps = 0
    for column in columns[:-1]:
        following: dict[tuple[int, ...], dict[float, float]] = {}
        for left, sums in states.items():
            for filled in _fillings(left, column):
                steps += len(sums)
                if steps > _MOST_STEPS:
                    return None
                rest = tuple(sorted(have - used for have, used in zip(left, filled, strict=True)))
                more = sum(log_factorials[used] for used in filled)
                merged = following.setdefault(rest, {})
                for total, count in sums.items():
                    key = round(total + more, 9)
                    merged[key] = merged.get(key, 0.0) + count
        states = following
    margins = float(special.gammaln(cells.sum(0) + 1.0).sum() + special.gammaln(cells.sum(1) + 1.0).sum())
    constant = margins - float(special.gammaln(cells.sum() + 1.0))
    tail = 0.0
    for left, sums in states.items():
        last = sum(log_factorials[have] for have in left)
        for total, count in sums.items():
            if total + last >= observed - _EQUAL:
                tail += count * math.exp(constant - total - last)
    return min(1.0, tail)


def _fillings(left: tuple[int, ...], column: int) -> Iterator[tuple[int, ...]]:
    """Every way to take `column` from what is left of the rows."""
    if len(left) == 1:
        if column <= left[0]:
            yield (column,)
        return
    behind = sum(left[1:])
    for used in range(max(0, column - behind), min(left[0], column) + 1):
        for rest in _fillings(left[1:], column - used):
            yield (used, *rest)


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    n: int


def _read(test: str, table: Table, *, may_be_alike: bool = False) -> tuple[tuple[_Row, ...], Integers]:
    if not isinstance(cast(object, table), Mapping):
        raise CannotTestError(test, f"the table must be a mapping of row name to counts, not {type(table).__name__}")
    lines = {}
    for name, counts in table.items():
        if isinstance(counts, (str, bytes, Mapping)) or not hasattr(counts, "__len__"):
            raise CannotTestError(test, f"row {name!r} must be a sequence of counts, not {type(counts).__name__}")
        lines[str(name)] = [read_count(test, f"row {name!r}, column {i}", value) for i, value in enumerate(counts)]
    widths = {name: len(line) for name, line in lines.items()}
    if len(set(widths.values())) > 1:
        raise CannotTestError(test, f"the rows differ in length: {widths}")
    if len(lines) < 2 or max(widths.values()) < 2:
        raise CannotTestError(test, "a table of counts needs at least two rows and two columns")
    if sum(map(sum, lines.values())) > 2**53:
        raise CannotTestError(test, "the counts add up to more than 2**53, beyond which doubles cannot count")
    cells = np.array(list(lines.values()), dtype=np.int64)
    for name, line in lines.items():
        if not any(line):
            raise CannotTestError(test, f"row {name!r} is empty, so nothing is known of it; leave it out")
    filled = cells.any(axis=0)
    if not filled.all() and not (may_be_alike and np.count_nonzero(filled) == 1):
        where = int(np.argmin(cells.any(axis=0)))
        raise CannotTestError(test, f"column {where} is empty, so nothing is known of it; leave it out")
    return tuple(_Row(name, sum(line)) for name, line in lines.items()), cells


def _chi_square(cells: Integers, expected: Vector) -> float:
    return float((np.square(cells - expected) / expected).sum())


def _p_value(
    chi_square: float, df: float, cells: Integers, expected: Vector, settings: Settings
) -> tuple[float, str, Choice]:
    least = float(expected.min())
    if least >= _LEAST_EXPECTED or int(cells.sum()) >= _MOST_DRAWN:
        choice = Choice("chi-square distribution", f"the smallest expected count is {least:.3g}", ("random tables",))
        return float(special.chdtrc(df, chi_square)), f"smallest expected count {least:.3g}", choice
    check_resamples("chi_square", settings.resamples, (settings.alpha,))
    drawn = _drawn(
        cells,
        lambda counts, row, column: np.square(counts - expected[row, column]) / expected[row, column],
        settings,
    )
    p_value = (np.count_nonzero(drawn >= chi_square * (1.0 - 1e-9)) + 1.0) / (drawn.size + 1.0)
    note = f"p-value from {drawn.size} random tables with the same margins, seed {settings.seed}"
    return (
        float(p_value),
        note,
        Choice(
            "random tables with the same margins",
            f"the smallest expected count is {least:.3g}, below 5, where the chi-square distribution is rough",
            ("chi-square distribution", "Fisher's exact test of a 2 x 2 table"),
        ),
    )


def _drawn(cells: Integers, score: Callable[[Integers, int, int], Vector], settings: Settings) -> Vector:
    """Sums of the cells' scores in random tables, shape (B,); each cell is hypergeometric, given those before it."""
    stream, size = np.random.default_rng(settings.seed), settings.resamples
    left = np.tile(cells.sum(0), (size, 1))  # what each column still has to give, per table
    total = np.zeros(size)
    for row, members in enumerate(cells.sum(1)):
        wanted = np.full(size, members)
        for column in range(cells.shape[1]):
            later = left[:, column + 1 :].sum(1)
            drawn = stream.hypergeometric(left[:, column], later, wanted)
            left[:, column] -= drawn
            wanted -= drawn
            total += score(drawn, row, column)
    return total


def _cramers_v(chi_square: float, df: float, cells: Integers, confidence_level: float) -> Effect:
    most = float(cells.sum()) * (min(cells.shape) - 1.0)
    low, high = (
        min(1.0, math.sqrt(end / most)) for end in noncentral_chi_square_interval(chi_square, df, confidence_level)
    )
    value = min(1.0, math.sqrt(chi_square / most))
    notes: tuple[str, ...] = ()
    if not low <= value <= high:
        notes = ("V is biased upwards; its interval, of the population's V, lies below it",)
    return Effect(
        "cramers_v",
        value,
        (low, high),
        Choice(
            "noncentral chi-square interval for the effect size", "it agrees with the test about zero", ("bootstrap",)
        ),
        notes,
    )
