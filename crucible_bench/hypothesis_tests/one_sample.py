"""One sample against a reference value."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from crucible_bench.data.pairs import PairDifferences, pair_differences
from crucible_bench.data.sample import Sample, Values, read_sample
from crucible_bench.errors import CannotTestError
from crucible_bench.hypothesis_tests.sign import sign_test
from crucible_bench.hypothesis_tests.ttests import paired_ttest
from crucible_bench.hypothesis_tests.wilcoxon import wilcoxon_test
from crucible_bench.result import Settings, TestResult
from crucible_bench.settings import read_settings
from crucible_bench.vocabulary import Alternative, EffectSizeName, TestName
from crucible_bench.wording import counted

OneSampleTest = Literal["sign", "ttest", "wilcoxon"]


@dataclass(frozen=True, slots=True)
class _Definition:
    name: TestName
    method: str
    estimate: str
    effect_size: EffectSizeName
    assumptions: tuple[str, ...]


_DEFINITIONS: Final[dict[str, _Definition]] = {
    "sign": _Definition("one_sample_sign", "one-sample sign test", "median", "cohens_g", ("values are independent",)),
    "ttest": _Definition(
        "one_sample_ttest",
        "one-sample t-test",
        "mean",
        "hedges_gz",
        ("values are independent", "the mean is approximately normal (normal values, or many of them)"),
    ),
    "wilcoxon": _Definition(
        "one_sample_wilcoxon",
        "one-sample Wilcoxon signed-rank test",
        "Hodges-Lehmann pseudomedian",
        "rank_biserial",
        ("values are independent", "the values are symmetric about their median"),
    ),
}


def one_sample_test(
    values: Values,
    reference: float,
    *,
    test: OneSampleTest = "ttest",
    alpha: float = 0.05,
    confidence_level: float | None = None,
    alternative: Alternative = "two-sided",
) -> TestResult:
    """Test whether values, shape (n,), lie around a reference that was fixed before they were seen.

    | test | asks about | effect size, against the reference |
    | --- | --- | --- |
    | sign | the median | cohens_g: the share of values above, minus one half |
    | ttest | the mean | hedges_gz: its distance in standard deviations, without bias |
    | wilcoxon | the centre of symmetry | rank_biserial |

    It is the test of pairs with the reference as each second value (Student 1908; Wilcoxon 1945; Dixon & Mood 1946).
    The estimate and its interval are the location itself, not its distance from the reference. "greater" asks whether
    the values are higher than the reference. A number that was itself measured is not a reference: compare two groups.

    Raises CannotTestError for values that are too few or all equal, that have nothing to rank or count, or that no test
    takes; ValueError for a reference that is not finite, an unknown test and levels out of range.
    """
    definition = _DEFINITIONS.get(test)
    if definition is None:
        raise ValueError(f"unknown one-sample test {test!r}; known: {', '.join(_DEFINITIONS)}")
    settings = read_settings(
        definition.name,
        (definition.effect_size,),
        alpha=alpha,
        confidence_level=confidence_level,
        alternative=alternative,
    )
    if isinstance(reference, bool) or not math.isfinite(reference):
        raise ValueError(f"reference must be a finite number, not {reference!r}")
    sample, reference = read_sample(definition.name, "values", values), float(reference)
    samples = sample, Sample("reference", np.full(sample.n, reference))
    _check(definition, pair_differences(definition.name, samples), reference)
    try:
        result = _RUNS[test](samples, settings)
    except CannotTestError as refusal:
        raise CannotTestError(definition.name, refusal.reason) from None
    return _against(reference, definition, settings, result)


_RUNS: Final = {"sign": sign_test, "ttest": paired_ttest, "wilcoxon": wilcoxon_test}


def _check(definition: _Definition, differences: PairDifferences, reference: float) -> None:
    n = differences.values.size
    if definition.name == "one_sample_ttest":
        if n < 2:
            raise CannotTestError(definition.name, "one value has no spread to judge by; at least two are needed")
    elif not differences.signed_levels().any():
        raise CannotTestError(
            definition.name,
            f"none of {counted(n, 'value')} differs from the reference {reference:.6g} by more than rounding, so there "
            "is nothing to rank or count",
        )


def _against(reference: float, definition: _Definition, settings: Settings, result: TestResult) -> TestResult:
    """The result of the test of pairs, reworded for one sample and its reference."""
    low, high = result.confidence_interval
    estimate, low, high = (end + reference for end in (result.estimate, low, high))
    if not math.isfinite(estimate) or any(
        math.isinf(end) != math.isinf(was) for end, was in zip((low, high), result.confidence_interval, strict=True)
    ):
        raise CannotTestError(definition.name, "the result is larger than the largest double (1.8e308); rescale")
    return dataclasses.replace(
        result,
        test=definition.name,
        method=f"{definition.method} against {reference:.6g}, {settings.sides}"
        if result.effect_size is not None
        else f"exact one-sample permutation test against {reference:.6g}, {settings.sides}",
        groups=result.groups[:1],
        n=result.n[:1],
        estimate=estimate,
        estimate_name=definition.estimate,
        confidence_interval=(low, high),
        null_value=reference,
        assumptions=(*definition.assumptions, "the reference was fixed before the values were seen"),
        notes=tuple(
            note.replace("pair", "value").replace("disagree about zero", f"disagree about {reference:.4g}")
            for note in result.notes
        ),
    )
