"""Comparing two models over folds or resamples whose training sets overlap."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Final

from crucible_bench.data.moments import LEAST_SQUARES, moments
from crucible_bench.data.pairs import pair_differences
from crucible_bench.data.sample import Sample, Values, check_count, read_groups, unscaled
from crucible_bench.effect_sizes.standardized import standardized_mean
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.mean_difference import MeanDifference, paired_difference
from crucible_bench.hypothesis_tests.ttests import t_interval, t_tail
from crucible_bench.result import Choice, Settings, TestResult, conclude
from crucible_bench.settings import read_settings
from crucible_bench.vocabulary import EFFECT_SIZES, Alternative, EffectSizeName

_NAME: Final = "corrected_resampled_ttest"


def corrected_resampled_ttest(
    groups: Mapping[str, Values],
    *,
    test_share: float | None = None,
    alpha: float = 0.05,
    confidence_level: float | None = None,
    effect_size: EffectSizeName | None = None,
    alternative: Alternative = "two-sided",
) -> TestResult:
    """The t-test of two models' scores on the same k folds or resamples, corrected for shared training data.

    `groups` holds two rows of k scores, one per fold, in one order (Nadeau & Bengio 2003). `test_share` is the size of
    a test set over the size of its training set, 1/9 for ten folds. The default is 1/(k - 1), which is right only for
    one run of k-fold cross-validation. Ten times ten folds give k = 100 scores and need 1/9; random splits of 80 to 20
    need 1/4. The effect size is Hedges' g_z between folds: d_z times the factor for independent differences, which
    removes its bias here too, because equal correlations only divide the variance between folds by a constant.

    Raises CannotTestError for fewer than two folds, differences that are all equal and data that no test takes;
    ValueError for a share that is not positive and for levels out of range.
    """
    settings = read_settings(
        _NAME,
        EFFECT_SIZES[_NAME],
        effect_size=effect_size,
        alpha=alpha,
        confidence_level=confidence_level,
        alternative=alternative,
    )
    samples = read_groups(_NAME, groups)
    check_count(_NAME, samples, True)
    return corrected_resampled_test(samples, settings, test_share)


def corrected_resampled_test(
    samples: tuple[Sample, ...], settings: Settings, test_share: float | None = None
) -> TestResult:
    """Student's t with the variance factor 1/k + n_test / n_train in place of 1/k (Nadeau & Bengio 2003).

    If the folds' differences were normal with one correlation rho, the factor would be 1/k + rho / (1 - rho), and t and
    its noncentral-t interval would be exact. Nadeau & Bengio use n_test / (n_test + n_train) as rho.
    """
    if test_share is not None and not (test_share > 0.0 and math.isfinite(test_share)):
        raise ValueError(
            f"test_share is the size of a test set over that of its training set, a positive number, not {test_share!r}"
        )
    pairs = pair_differences(_NAME, samples)
    k = pairs.values.size
    if k < 2:
        raise CannotTestError(_NAME, "one fold has no spread to judge by; at least two folds or resamples are needed")
    of = moments(pairs.values, 0)
    if pairs.is_constant or of.squares < LEAST_SQUARES:
        raise CannotTestError(
            _NAME,
            f"the differences of all {k} folds are equal up to rounding, so their standard deviation is zero and t is "
            "undefined; check that the folds are not copies of one another",
        )
    share = 1.0 / (k - 1.0) if test_share is None else float(test_share)
    factor = 1.0 / k + share
    error = math.sqrt(of.variance * factor)
    t = of.mean / error
    return conclude(
        _NAME,
        samples,
        settings,
        method=f"corrected resampled t-test, {settings.sides}",
        statistic=("t", t),
        df=(k - 1.0,),
        p_value=t_tail(t, k - 1.0, settings.alternative),
        estimate=(
            f"mean difference ({samples[0].name} - {samples[1].name})",
            unscaled(_NAME, of.mean, pairs.exponent),
            t_interval(_NAME, (of.mean, error), k - 1.0, pairs.exponent, settings),
        ),
        effect=standardized_mean(of, settings, error=error, df=k - 1, interval=_EFFECT_INTERVAL),
        assumptions=(
            "values at the same position of the two groups come from the same fold",
            "the differences of any two folds have one correlation, n_test / (n_test + n_train); it cannot be "
            "estimated from one cross-validation (Bengio & Grandvalet 2004)",
            "the mean difference is approximately normal",
        ),
        notes=(
            *(
                (f"{k} scores are taken as the folds of one cross-validation; a repeated one needs test_share",)
                if test_share is None
                else ()
            ),
            f"the standard error is {math.sqrt(1.0 + k * share):.3g} times that of a paired t-test",
            "the effect size is in standard deviations between folds, which shrink as test sets grow: compare it only "
            "with that of the same folds",
        ),
        decisions=(_share_choice(k, share, test_share is None),),
    )


def resampled_difference(test: str, samples: tuple[Sample, Sample], test_share: float | None = None) -> MeanDifference:
    """The mean difference over folds, with the corrected standard error of `corrected_resampled_ttest`.

    More folds of the same data lower only the part 1/k of the error, so even many folds may not decide.
    """
    plain = paired_difference(test, samples)
    k = plain.counts[0]
    share = 1.0 / (k - 1.0) if test_share is None else float(test_share)
    (variance,) = plain.variances
    error = math.sqrt(variance * (1.0 / k + share))
    return dataclasses.replace(plain, error=error, df=k - 1.0, floor=variance * share)


_EFFECT_INTERVAL: Final = Choice(
    "noncentral-t interval for the effect size, on the corrected t",
    "exact for normal differences with the correlation that the test assumes",
    ("interval of independent differences",),
)


def _share_choice(k: int, share: float, assumed: bool) -> Choice:
    decision = f"test sets of {share:.4g} times the size of the training sets"
    if assumed:
        return Choice(
            decision,
            f"none was given, so the {k} scores are taken as the folds of one cross-validation; repeated "
            "cross-validation and random splits need test_share",
            ("test_share as given by the caller",),
        )
    return Choice(decision, "given by the caller", (f"1/{k - 1}, as in one cross-validation of {k} folds",))
