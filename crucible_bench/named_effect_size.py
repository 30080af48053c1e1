"""Effect sizes by themselves: each with its interval, by the computation of the test that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

from crucible_bench.data.sample import Values
from crucible_bench.effect_sizes.interpretation import Interpretation, interpret
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.contingency import Table, chi_square_test
from crucible_bench.hypothesis_tests.run_test import DEFINITIONS, run_test
from crucible_bench.levels import levels
from crucible_bench.result import Choice, Interval, TestResult, plain_json
from crucible_bench.vocabulary import EFFECT_SIZES, EffectSizeName, TestName, canonical_test_name


@dataclass(frozen=True, slots=True)
class EffectSize:
    """An effect size with its two-sided interval, and the test whose effect size it is.

    An effect of two groups is that of the first against the second. `decisions` says how the interval was made. A ratio
    whose denominator is zero is infinite (None in JSON), and `notes` says so. `interpretation` is a convention's word
    with its source, None where there is no accepted one; it never replaces the number.
    """

    name: EffectSizeName
    value: float
    interval: Interval
    confidence_level: float
    groups: tuple[str, ...]
    n: tuple[int, ...]
    test: TestName
    interpretation: Interpretation | None
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    decisions: tuple[Choice, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; infinite numbers become None."""
        fields: dict[str, Any] = plain_json(asdict(self))
        return fields


class Home(NamedTuple):
    """The tests whose computation defines an effect size: for independent groups, and for groups of equal length."""

    independent: TestName | None
    paired: TestName | None


EFFECT_SIZE_HOMES: Final[Mapping[EffectSizeName, Home]] = MappingProxyType(
    {
        "cliffs_delta": Home("mann_whitney", None),
        "cohens_d": Home("student_ttest", None),
        "cohens_dav": Home("ttest", "paired_ttest"),
        "cohens_dz": Home(None, "paired_ttest"),
        "cohens_g": Home(None, "sign"),
        "cohens_h": Home("two_proportions", None),
        "common_language": Home("mann_whitney", None),
        "cramers_v": Home("chi_square", None),
        "epsilon_squared": Home("kruskal_wallis", None),
        "eta_squared": Home("anova", None),
        "glass_delta": Home("student_ttest", None),
        "hedges_g": Home("student_ttest", None),
        "hedges_gav": Home("ttest", None),
        "hedges_gz": Home(None, "paired_ttest"),
        "kendall_tau": Home(None, "kendall"),
        "kendall_w": Home(None, "friedman"),
        "odds_ratio": Home("two_proportions", "mcnemar"),
        "omega_squared": Home("anova", None),
        "partial_eta_squared": Home(None, "repeated_measures_anova"),
        "pearson_r": Home(None, "pearson"),
        "rank_biserial": Home("mann_whitney", "wilcoxon"),
        "risk_difference": Home("two_proportions", "mcnemar"),
        "risk_ratio": Home("two_proportions", None),
        "spearman_rho": Home(None, "spearman"),
        "variance_ratio": Home("variance_ratio", None),
    }
)


_OF_TABLES: Final[tuple[TestName, ...]] = ("chi_square",)
_ON_ANOTHER_SCALE: Final[tuple[TestName, ...]] = ("brown_forsythe", "kruskal_wallis", "levene")
"""Shares of variance of ranks and of distances, for which the conventions were not made."""


def effect_size(
    name: EffectSizeName,
    groups: Mapping[str, Values],
    *,
    paired: bool | None = None,
    test: str | None = None,
    confidence_level: float = 0.95,
) -> EffectSize:
    """The named effect size of groups (mapping of name to shape (n,)), with its two-sided interval.

    | effect size | groups | source |
    | --- | --- | --- |
    | cliffs_delta | two | Cliff 1993; P(X > Y) - P(X < Y), rank_biserial of independent groups |
    | cohens_d | two | Cohen 1988; in pooled standard deviations |
    | cohens_dav | two, paired or not | Bonett 2008, Cumming 2012; in root mean square standard deviations |
    | cohens_dz | two, paired | Cohen 1988; in standard deviations of the differences |
    | cohens_g | two, paired | Cohen 1988; the share of pairs that the first wins, minus one half |
    | cohens_h | two of outcomes | Cohen 1988; difference of arcsines |
    | common_language | two | McGraw & Wong 1992, Vargha & Delaney 2000; P(X > Y) + P(X = Y) / 2 |
    | cramers_v | rows of counts | Cramer 1946 |
    | epsilon_squared | two or more | Kelley 1935, Tomczak & Tomczak 2014; of ranks, of means with test="anova" |
    | eta_squared | two or more | Pearson 1905; of means, of ranks with test="kruskal_wallis" |
    | glass_delta | two | Glass 1976; in standard deviations of the second group |
    | hedges_g | two | Hedges 1981; Cohen's d without its bias; with paired=True, hedges_gz |
    | hedges_gav | two | Delacre et al. 2021; d_av without its bias |
    | hedges_gz | two, paired | Hedges 1981; cohens_dz without its bias |
    | kendall_tau | two, paired | Kendall 1945; tau-b |
    | kendall_w | two or more, paired | Kendall & Babington Smith 1939 |
    | odds_ratio | two of outcomes, paired or not | Fisher 1935; McNemar 1947 |
    | omega_squared | two or more | Hays 1963 |
    | partial_eta_squared | two or more, paired | Cohen 1973 |
    | pearson_r | two, paired | Pearson 1896 |
    | rank_biserial | two, paired or not | Wendt 1972; King & Minium 2003, Kerby 2014 |
    | risk_difference | two of outcomes, paired or not | Miettinen & Nurminen 1985, Tango 1998 for its interval |
    | risk_ratio | two of outcomes | Koopman 1984 for its interval |
    | spearman_rho | two, paired | Spearman 1904 |
    | variance_ratio | two | Snedecor 1934 |

    An effect size that exists for independent and for paired groups is that of independent ones, unless `paired`.
    `test` asks for the version of one of the tests that define the effect size. Outcomes are booleans, or 0 and 1.

    Raises CannotTestError, which carries the effect size's name, for one that does not exist or does not fit the
    groups, and for data that leave it undefined; ValueError for a level out of range.
    """
    level = levels(0.05, confidence_level)[1]
    if name == "hedges_g" and paired:
        name = "hedges_gz"
    home = EFFECT_SIZE_HOMES.get(name)
    if home is None:
        raise CannotTestError(
            str(name), f"there is no effect size of that name; known: {', '.join(sorted(EFFECT_SIZE_HOMES))}"
        )
    chosen = _home(name, home, paired) if test is None else _asked(name, test)
    try:
        result = _run(chosen, name, groups, level)
    except CannotTestError as refusal:
        raise CannotTestError(name, refusal.reason) from None
    if result.effect_size is None or result.effect_size_name is None or result.effect_size_interval is None:
        raise CannotTestError(name, f"it is not defined here: {result.notes[0]}")
    return EffectSize(
        name=result.effect_size_name,
        value=result.effect_size,
        interval=result.effect_size_interval,
        confidence_level=level,
        groups=result.groups,
        n=result.n,
        test=result.test,
        interpretation=None if chosen in _ON_ANOTHER_SCALE else interpret(name, result.effect_size),
        assumptions=result.assumptions,
        notes=tuple(note for note in result.notes if "p-value" not in note and "disagree" not in note),
        decisions=result.decisions[-1:],
    )


def _home(name: str, home: Home, paired: bool | None) -> TestName:
    fitting = (home.independent, home.paired) if paired is None else (home.paired if paired else home.independent,)
    found = next((test for test in fitting if test is not None), None)
    if found is None:
        raise CannotTestError(name, f"it is not defined for {'paired' if paired else 'independent'} groups")
    return found


def _asked(name: EffectSizeName, test: str) -> TestName:
    defining = [known for known in (*DEFINITIONS, *_OF_TABLES) if name in EFFECT_SIZES[known]]
    asked = canonical_test_name(test)
    if asked not in defining:
        raise CannotTestError(name, f"{asked} does not define it for groups; tests that do: {', '.join(defining)}")
    return asked


def _run(test: TestName, name: EffectSizeName, groups: Mapping[str, Values], level: float) -> TestResult:
    if test in _OF_TABLES:
        return chi_square_test(cast(Table, groups), confidence_level=level)
    return run_test(test, groups, effect_size=name, confidence_level=level)
