"""Planning: power, sample size and the effect that can be found, each the inverse of the others."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from scipy import optimize, special

from crucible_bench.data.moments import standard_error
from crucible_bench.data.sample import Vector
from crucible_bench.distributions.noncentral import noncentral_t_cdf
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.run_test import run_test
from crucible_bench.levels import share
from crucible_bench.power.exact_proportions import binomial_power, mcnemar_power, two_proportions_power
from crucible_bench.result import plain_json
from crucible_bench.vocabulary import Alternative

PlannedTest = Literal[
    "anova",
    "bootstrap",
    "brunner_munzel",
    "corrected_resampled_ttest",
    "kruskal_wallis",
    "mann_whitney",
    "mcnemar",
    "mcnemar_midp",
    "one_sample_ttest",
    "paired_permutation",
    "paired_ttest",
    "permutation",
    "proportion",
    "sign",
    "student_ttest",
    "ttest",
    "two_proportions",
    "welch_anova",
    "wilcoxon",
]

Draw: TypeAlias = Callable[[np.random.Generator, int], Vector]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_NEGLIGIBLE: Final = 1e-17
_MOST: Final = 10**7
_MOST_COUNTED: Final = 10**6
_MOST_SIMULATED: Final = 10**4
_LARGEST_EFFECT: Final = 1e3
_UNLUCKY: Final = ("every value", "group '", "neither", "none of")

_SHIFT, _SHIFT_OF_PAIRS = "shift in standard deviations", "shift in standard deviations of the differences"
_EVENLY, _SHARES = "Cohen's f, groups evenly spaced", "difference of proportions"
_EFFECTS: Final[Mapping[PlannedTest, str]] = MappingProxyType(
    {
        "anova": "Cohen's f",
        "bootstrap": _SHIFT,
        "brunner_munzel": _SHIFT,
        "corrected_resampled_ttest": "Cohen's d_z between folds",
        "kruskal_wallis": _EVENLY,
        "mann_whitney": _SHIFT,
        "mcnemar": _SHARES,
        "mcnemar_midp": _SHARES,
        "one_sample_ttest": "Cohen's d",
        "paired_permutation": _SHIFT_OF_PAIRS,
        "paired_ttest": "Cohen's d_z",
        "permutation": _SHIFT,
        "proportion": _SHARES,
        "sign": _SHIFT_OF_PAIRS,
        "student_ttest": "Cohen's d",
        "ttest": "Cohen's d, in root mean square standard deviations",
        "two_proportions": _SHARES,
        "welch_anova": _EVENLY,
        "wilcoxon": _SHIFT_OF_PAIRS,
    }
)
_MCNEMAR: Final = ("mcnemar", "mcnemar_midp")
_OF_SHARES: Final = ("proportion", "two_proportions", *_MCNEMAR)
_SIMULATED_PAIRS: Final = ("paired_permutation", "sign", "wilcoxon")
_OF_PAIRS: Final = (
    *("corrected_resampled_ttest", "one_sample_ttest", "paired_ttest", "proportion"),
    *_MCNEMAR,
    *_SIMULATED_PAIRS,
)
_OF_MANY: Final = ("anova", "kruskal_wallis", "welch_anova")
_SIMULATED: Final = (
    *("bootstrap", "brunner_munzel", "kruskal_wallis", "mann_whitney", "permutation", "welch_anova"),
    *_SIMULATED_PAIRS,
)
_WITH_SD_RATIO: Final = ("bootstrap", "brunner_munzel", "mann_whitney", "permutation", "ttest")
_ONE_IS_ENOUGH: Final = ("anova", "kruskal_wallis", "mann_whitney", "permutation", *_OF_SHARES, *_SIMULATED_PAIRS)


@dataclass(frozen=True, slots=True)
class PowerAnalysis:
    """How likely a test is to find an effect of this size with groups of these sizes, before any data.

    `n` has one entry per group, one in all for pairs and for one sample. `power_error` is the standard error of a
    simulated power, 0 for an exact one. A plan says nothing about data at hand: the power computed for an effect that
    was itself observed is only the p-value again (Hoenig & Heisey 2001).
    """

    test: PlannedTest
    n: tuple[int, ...]
    effect_size: float
    effect_size_name: str
    power: float
    power_error: float
    alpha: float
    alternative: Alternative
    method: str
    assumptions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields: dict[str, Any] = plain_json(asdict(self))
        return fields


Plan = PowerAnalysis
"""The old name, which stored values may have; it goes with version 1.0."""


def power_of(
    test: PlannedTest,
    effect_size: float,
    n: int | Sequence[int],
    *,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
    sd_ratio: float = 1.0,
    baseline: float | None = None,
    discordant: float | None = None,
    test_share: float | None = None,
    simulations: int = 2000,
    resamples: int = 999,
    seed: int = 0,
    draw: Draw | None = None,
) -> PowerAnalysis:
    """The power of a test with `n` values per group (one number for two equal groups, for pairs, for one sample).

    | test | effect size | how | source |
    | --- | --- | --- | --- |
    | one_sample_ttest, paired_ttest | d, d_z | exact, noncentral t | Cohen 1988 |
    | student_ttest | d in the common sd | exact, noncentral t; any two sizes | Cohen 1988 |
    | ttest (Welch) | d in the root mean square of the two sds | exact, noncentral t averaged over the beta \
distribution of the variances' shares | Welch 1947; Nel, van der Merwe & Moser 1990 |
    | anova | f, weighted by the sizes | exact, noncentral F | Cohen 1988 |
    | corrected_resampled_ttest | d_z in sds between folds | exact, noncentral t, given the test's correlation | \
Nadeau & Bengio 2003 |
    | proportion | difference from `baseline` | exact, all outcomes | |
    | two_proportions | difference, the second being `baseline` | exact, all outcomes | |
    | mcnemar, mcnemar_midp | difference, a share `discordant` of the pairs differing | exact, all outcomes | |
    | mann_whitney, brunner_munzel, permutation, bootstrap | shift in sds | simulation | |
    | wilcoxon, sign, paired_permutation | shift of the differences in their sds | simulation | |
    | kruskal_wallis, welch_anova | f, groups evenly spaced | simulation | |

    `sd_ratio` is the second group's sd over the first's, for ttest and what is simulated of two groups. `test_share` is
    that of `corrected_resampled_ttest`: the size of a test set over that of its training set, 1/(k - 1) if left out. In
    paired outcomes, `discordant` cannot be smaller than the difference; two models that err independently on 20 % each
    differ on 32 % of the questions, similar ones on far fewer. A simulation runs the test `simulations` times on normal
    noise, or on what `draw(generator, size)` returns (shape (size,), one unit being the standard deviation); equal
    seeds give equal powers.

    Raises CannotTestError for sizes with which the test cannot be run, ValueError for numbers out of range.
    """
    wanted = _Question(
        test, alpha, alternative, sd_ratio, baseline, discordant, test_share, simulations, resamples, seed, draw
    )
    if not math.isfinite(effect_size) or abs(effect_size) > _LARGEST_EFFECT:
        raise ValueError(f"effect_size must be a number of at most {_LARGEST_EFFECT:g}, not {effect_size!r}")
    if test in _OF_SHARES:
        wanted.check_share(float(effect_size))
    if test in _OF_MANY and effect_size < 0.0:
        raise ValueError(f"Cohen's f has no sign, but effect_size is {effect_size!r}")
    return wanted.plan(float(effect_size), wanted.sizes(n))


def sample_size(
    test: PlannedTest,
    effect_size: float,
    *,
    power: float = 0.8,
    groups: int = 2,
    ratio: float = 1.0,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
    sd_ratio: float = 1.0,
    baseline: float | None = None,
    discordant: float | None = None,
    test_share: float | None = None,
    simulations: int = 2000,
    resamples: int = 999,
    seed: int = 0,
    draw: Draw | None = None,
) -> PowerAnalysis:
    """The smallest groups with which the test has at least this power; the other parameters are `power_of`'s.

    `groups` matters to anova, welch_anova and kruskal_wallis. `ratio` is the second group's n over the first's, rounded
    up, for tests of two groups. The power of tests of counts rises like a sawtooth, and simulated power is noisy:
    there, one less is too few (with the same seed), but a larger size may be too few again.

    Raises CannotTestError where no size up to ten million (a million for counts, ten thousand if simulated) has that
    power.
    """
    wanted = _Question(
        test, alpha, alternative, sd_ratio, baseline, discordant, test_share, simulations, resamples, seed, draw
    )
    goal, effect_size = share("power", power), float(effect_size)
    if not (0.0 < abs(effect_size) <= _LARGEST_EFFECT):
        raise ValueError(f"effect_size must differ from 0 and be at most {_LARGEST_EFFECT:g}, but is {effect_size!r}")
    if test in _OF_SHARES:
        wanted.check_share(effect_size)
    if not (math.isfinite(ratio) and ratio > 0.0):
        raise ValueError(f"ratio must be a positive number, but is {ratio!r}")

    def planned(size: int) -> PowerAnalysis:
        if test in _OF_PAIRS:
            return wanted.plan(effect_size, wanted.sizes(size))
        if test in _OF_MANY:
            return wanted.plan(effect_size, wanted.sizes((size,) * operator.index(groups)))
        return wanted.plan(effect_size, wanted.sizes((size, max(2, math.ceil(size * ratio - 1e-9)))))

    most = _MOST_SIMULATED if test in _SIMULATED else _MOST_COUNTED if test in _OF_SHARES else _MOST
    low, high, found = 1, 2, planned(2)
    while found.power < goal:
        if high >= most:
            raise CannotTestError(
                test,
                f"even {high} per group give a power of only {found.power:.3g} for an effect size of {effect_size:g}; "
                "ask for a larger effect, or look in the direction of the effect",
            )
        low, high = high, min(most, 2 * high)
        found = planned(high)
    while high - low > 1:
        middle = (low + high) // 2
        plan = planned(middle)
        if plan.power < goal:
            low = middle
        else:
            high, found = middle, plan
    return found


def minimum_detectable_effect(
    test: PlannedTest,
    n: int | Sequence[int],
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    alternative: Alternative = "two-sided",
    sd_ratio: float = 1.0,
    baseline: float | None = None,
    discordant: float | None = None,
    test_share: float | None = None,
    simulations: int = 2000,
    resamples: int = 999,
    seed: int = 0,
    draw: Draw | None = None,
) -> PowerAnalysis:
    """The smallest effect size that the test finds with this power; the parameters are `power_of`'s.

    Positive, or negative for the alternative "less". Raises CannotTestError where no effect has that power, as with
    groups too small for any p-value to reach alpha.
    """
    wanted = _Question(
        test, alpha, alternative, sd_ratio, baseline, discordant, test_share, simulations, resamples, seed, draw
    )
    goal, sizes = share("power", power), wanted.sizes(n)
    sign = -1.0 if alternative == "less" else 1.0
    largest = wanted.largest(sign)
    low, high = 0.0, min(1.0, largest)
    while (found := wanted.plan(sign * high, sizes)).power < goal:
        if high >= largest:
            raise CannotTestError(
                test, f"no effect size up to {high:g} is found with a power of {goal:g} by groups of {sizes}"
            )
        low, high = high, min(largest, 2.0 * high)
    least = wanted.plan(0.0, sizes).power
    if least >= goal:
        raise ValueError(f"a power of {goal:g} is not above the test's level, {least:.3g}; ask for more")
    if test in _SIMULATED:  # a step function: halve the interval and keep the end that reaches the power
        while high - low > 1e-3 * high:
            middle = wanted.plan(sign * (low + high) / 2.0, sizes)
            if middle.power < goal:
                low = abs(middle.effect_size)
            else:
                high, found = abs(middle.effect_size), middle
        return found
    effect = float(optimize.brentq(lambda d: wanted.plan(sign * d, sizes).power - goal, low, high, xtol=1e-12))
    return replace(wanted.plan(sign * effect, sizes), power=goal)


@dataclass(frozen=True, slots=True)
class _Question:
    """The parameters that all three questions share, checked."""

    test: PlannedTest
    alpha: float
    alternative: Alternative
    sd_ratio: float
    baseline: float | None
    discordant: float | None
    test_share: float | None
    simulations: int
    resamples: int
    seed: int
    draw: Draw | None

    def __post_init__(self) -> None:
        if self.test not in _EFFECTS:
            raise CannotTestError(str(self.test), f"it cannot be planned; known: {', '.join(sorted(_EFFECTS))}")
        share("alpha", self.alpha)
        if not (math.isfinite(self.sd_ratio) and self.sd_ratio > 0.0):
            raise ValueError(f"sd_ratio must be a positive number, but is {self.sd_ratio!r}")
        if self.sd_ratio != 1.0 and self.test not in _WITH_SD_RATIO:
            raise ValueError(f"{self.test} does not take an sd_ratio")
        self._check_option("baseline", self.baseline, ("proportion", "two_proportions"))
        self._check_option("discordant", self.discordant, _MCNEMAR)
        if self.test_share is not None:
            if self.test != "corrected_resampled_ttest":
                raise ValueError(f"{self.test} does not take a test_share")
            if not (math.isfinite(self.test_share) and self.test_share > 0.0):
                raise ValueError(f"test_share must be a positive number, but is {self.test_share!r}")
        if self.alternative not in ("greater", "less", "two-sided"):
            raise ValueError(f"unknown alternative {self.alternative!r}; known: greater, less, two-sided")
        if self.test in _OF_MANY and self.alternative != "two-sided":
            raise CannotTestError(self.test, "a test of several groups has no direction")
        if operator.index(self.simulations) < 100:
            raise ValueError(f"simulations must be at least 100, not {self.simulations}")

    def _check_option(self, name: str, value: float | None, tests: tuple[str, ...]) -> None:
        if self.test not in tests:
            if value is not None:
                raise ValueError(f"{self.test} does not take a {name}")
        elif value is None:
            raise ValueError(f"{self.test} cannot be planned without {name}, a share between 0 and 1")
        else:
            share(name, value)

    def check_share(self, effect: float) -> None:
        """Refuse a difference that would take a proportion out of [0, 1]."""
        if not abs(effect) <= self.largest(effect):
            limit = f"baseline {self.baseline:g}" if self.baseline is not None else f"discordant {self.discordant:g}"
            raise ValueError(
                f"with {limit} the difference cannot be {effect:g}; it lies between {-self.largest(-1.0):g} and "
                f"{self.largest(1.0):g}"
            )

    def largest(self, sign: float) -> float:
        """The largest possible effect of this sign."""
        if self.baseline is not None:
            return 1.0 - self.baseline if sign >= 0.0 else self.baseline
        return _LARGEST_EFFECT if self.discordant is None else self.discordant

    def sizes(self, n: int | Sequence[int]) -> tuple[int, ...]:
        groups = 1 if self.test in _OF_PAIRS else 2
        sizes = tuple(map(operator.index, n if isinstance(n, Sequence) else (n,) * groups))
        if len(sizes) < groups or (len(sizes) > groups and self.test not in _OF_MANY):
            what = "one size" if groups == 1 else "two sizes"
            raise CannotTestError(self.test, f"it takes {what}, but {len(sizes)} were given")
        least = 1 if self.test in _ONE_IS_ENOUGH else 2
        if min(sizes) < least or (self.test in _OF_MANY and sum(sizes) == len(sizes)):
            raise CannotTestError(self.test, f"groups of {sizes} are too small to be tested")
        if self.test in _OF_SHARES and max(sizes) > _MOST_COUNTED:
            raise CannotTestError(self.test, f"more than {_MOST_COUNTED} outcomes are too many to count them all")
        return sizes

    def plan(self, effect: float, sizes: tuple[int, ...]) -> PowerAnalysis:
        simulated = self.test in _SIMULATED
        power = self._simulated(effect, sizes) if simulated else self._exact(effect, sizes)
        return PowerAnalysis(
            test=self.test,
            n=sizes,
            effect_size=effect,
            effect_size_name=_EFFECTS[self.test],
            power=power,
            power_error=math.sqrt(power * (1.0 - power) / self.simulations) if simulated else 0.0,
            alpha=float(self.alpha),
            alternative=self.alternative,
            method=f"{self.simulations} simulated tests, seed {self.seed}" if simulated else self._exactly(),
            assumptions=self._assumptions(simulated),
        )

    def _exactly(self) -> str:
        if self.test in _OF_SHARES:
            return "exact, summed over all outcomes"
        return f"exact, noncentral {'F' if self.test == 'anova' else 't'}"

    def _assumptions(self, simulated: bool) -> tuple[str, ...]:
        if self.test in _MCNEMAR:
            return "pairs are independent", f"a share of {self.discordant:g} of the pairs differs"
        if self.test in _OF_SHARES:
            return "outcomes are independent", f"the proportion compared with is {self.baseline:g}"
        if self.test == "corrected_resampled_ttest":
            given = "" if self.test_share is None else f", test sets of {self.test_share:g} times the training sets"
            return f"differences between folds correlated as the test assumes{given}", "normal data"
        noise = "normal noise" if self.draw is None else "the noise that was given"
        return (
            "observations are independent",
            f"simulated with {noise}" if simulated else "normal data",
            *self._spread(),
        )

    def _spread(self) -> tuple[str, ...]:
        if self.test in _OF_PAIRS:
            return ()
        if self.sd_ratio == 1.0:
            return ("all groups have the same spread",)
        return (f"the second group's standard deviation is {self.sd_ratio:g} times the first's",)

    def _exact(self, effect: float, sizes: tuple[int, ...]) -> float:
        if self.test == "anova":
            n, dfs = float(sum(sizes)), (len(sizes) - 1.0, float(sum(sizes) - len(sizes)))
            critical = float(special.fdtri(*dfs, 1.0 - self.alpha))
            return float(1.0 - special.ncfdtr(*dfs, effect * effect * n, critical))
        if self.test == "ttest":
            return self._welch(effect, (sizes[0], sizes[1]))
        if self.test in _OF_SHARES:
            return self._counted(effect, sizes)
        if self.test == "corrected_resampled_ttest":
            folds = sizes[0]
            factor = 1.0 / folds + (1.0 / (folds - 1.0) if self.test_share is None else self.test_share)
            return self._beyond(self._critical(folds - 1.0), folds - 1.0, effect / math.sqrt(factor))
        df = float(sum(sizes) - len(sizes))
        root = math.sqrt(sizes[0] if len(sizes) == 1 else sizes[0] * sizes[1] / (sizes[0] + sizes[1]))
        return self._beyond(self._critical(df), df, effect * root)

    def _counted(self, difference: float, sizes: tuple[int, ...]) -> float:
        if self.discordant is not None:
            mid_p = self.test == "mcnemar_midp"
            return mcnemar_power(sizes[0], difference, self.discordant, self.alpha, self.alternative, mid_p=mid_p)
        second = float(self.baseline or 0.0)
        first = min(1.0, max(0.0, second + difference))
        if self.test == "proportion":
            return binomial_power(sizes[0], first, second, self.alpha, self.alternative)
        return two_proportions_power((sizes[0], sizes[1]), first, second, self.alpha, self.alternative)

    def _critical(self, df: float) -> float:
        tail = self.alpha / 2.0 if self.alternative == "two-sided" else self.alpha
        return -float(special.stdtrit(df, tail))

    def _beyond(self, critical: float, df: float, delta: float) -> float:
        """The probability that a noncentral t lies beyond the critical value, on the sides that count."""
        above = _above(critical, df, delta) if self.alternative != "less" else 0.0
        below = _above(critical, df, -delta) if self.alternative != "greater" else 0.0
        return min(1.0, above + below)

    def _welch(self, effect: float, sizes: tuple[int, int]) -> float:
        """Exact for normal groups: given the share B of the two variances' sum of squares, t is a scaled noncentral t.

        B is beta distributed and independent of the total, so one integral is left (over the angle whose squared
        sine is B, in which the integrand is smooth).
        """
        variances = 1.0, self.sd_ratio**2
        dfs = sizes[0] - 1.0, sizes[1] - 1.0
        total = sum(dfs)
        error = math.sqrt(variances[0] / sizes[0] + variances[1] / sizes[1])
        delta = effect * math.sqrt(sum(variances) / 2.0) / error
        half = dfs[0] / 2.0, dfs[1] / 2.0
        low = math.asin(math.sqrt(special.betaincinv(*half, _NEGLIGIBLE)))
        high = math.acos(math.sqrt(special.betaincinv(half[1], half[0], _NEGLIGIBLE)))
        angle = low + (high - low) * (_NODES + 1.0) / 2.0
        log_mass = (dfs[0] - 1.0) * np.log(np.sin(angle)) + (dfs[1] - 1.0) * np.log(np.cos(angle))
        mass = _WEIGHTS * np.exp(log_mass - log_mass.max())
        power = 0.0
        for portion, part in zip(np.sin(angle) ** 2, mass / mass.sum(), strict=True):
            seen = variances[0] * portion / dfs[0], variances[1] * (1.0 - portion) / dfs[1]
            seen_error, df = standard_error((float(seen[0]), float(seen[1])), sizes)
            critical = self._critical(df) * seen_error * math.sqrt(total) / error
            power += float(part) * self._beyond(critical, total, delta)
        return min(1.0, power)

    def _simulated(self, effect: float, sizes: tuple[int, ...]) -> float:
        rng = np.random.default_rng(self.seed)
        shifts, scales = self._shifts(effect, len(sizes)), (1.0, self.sd_ratio)
        found = 0
        for run in range(self.simulations):
            noise = [self._noise(rng, size) for size in sizes]
            if self.test in _SIMULATED_PAIRS:
                groups = {"0": noise[0] + effect, "1": np.zeros(sizes[0])}
            elif len(sizes) == 2:
                groups = {str(i): scales[i] * noise[i] + shifts[i] for i in (0, 1)}
            else:
                groups = {str(i): noise[i] + shift for i, shift in enumerate(shifts)}
            try:
                found += run_test(
                    self.test,
                    groups,
                    alpha=self.alpha,
                    alternative=self.alternative,
                    resamples=self.resamples,
                    seed=run,
                ).significant
            except CannotTestError as refused:
                if refused.reason.startswith(_UNLUCKY):
                    continue  # data that the test refuses, as with small groups and coarse noise, are no rejection
                raise
        return found / self.simulations

    def _shifts(self, effect: float, groups: int) -> Vector:
        if self.test not in _OF_MANY:
            return np.array([effect * math.sqrt((1.0 + self.sd_ratio**2) / 2.0), 0.0])
        steps = np.arange(groups) - (groups - 1) / 2.0
        spaced: Vector = effect * steps / steps.std()
        return spaced

    def _noise(self, rng: np.random.Generator, size: int) -> Vector:
        if self.draw is None:
            return rng.standard_normal(size)
        drawn = np.asarray(self.draw(rng, size), dtype=np.float64)
        if drawn.shape != (size,):
            raise ValueError(f"draw(generator, {size}) must return shape ({size},), not {drawn.shape}")
        return drawn


def _above(critical: float, df: float, delta: float) -> float:
    if critical >= 0.0:
        return 1.0 - noncentral_t_cdf(critical, df, delta)
    return noncentral_t_cdf(-critical, df, -delta)
