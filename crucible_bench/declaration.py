"""What a comparison declares before the data are seen."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Final, Literal, get_args

from crucible_bench.vocabulary import (
    EFFECT_SIZES,
    QUANTILE_TESTS,
    TESTS_OF_DESIGN,
    TESTS_OF_MANY_GROUPS,
    Alternative,
    Comparing,
    CorrectionName,
    Design,
    EffectSizeName,
    FamilyName,
    Outcome,
    StudyName,
    TestName,
)
from crucible_bench.wording import listing

__all__ = ["Declaration"]

_TWO_SIDED: Final[frozenset[FamilyName]] = frozenset({"dunn", "dunnett", "games_howell", "nemenyi", "tukey_hsd"})
_FAMILY_DESIGN: Final[Mapping[FamilyName, Design]] = MappingProxyType(
    {
        "dunn": "independent",
        "dunnett": "independent",
        "games_howell": "independent",
        "nemenyi": "paired",
        "tukey_hsd": "independent",
    }
)
FAMILY_COMPARES: Final[Mapping[FamilyName, Comparing]] = MappingProxyType(
    {"dunnett": "baseline", "games_howell": "all_pairs", "tukey_hsd": "all_pairs"}
)
STUDY_COMPARES: Final[Mapping[StudyName, Comparing]] = MappingProxyType({"ab_test": "baseline", "ablation": "baseline"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What is compared and how, declared before the data are seen; `compare` explains each field.

    `outcome` None means binary for groups of booleans, of successes of n, or of only 0 and 1, else continuous.
    `baseline` is the group that others are compared with; `leaderboard` ranks the groups beside whatever else is
    compared, as a sweep does; `study` determines which comparisons there are:

    | study | compares | needs |
    | --- | --- | --- |
    | ab_test | each group with the baseline, by default the first group | |
    | ablation | each group, in which a component is left out, with the full system | baseline |
    | sweep | all groups, to find those that may be the best | |
    | multiple_datasets | methods by their ranks; value i of every group is data set i | three groups |
    """

    design: Design = "independent"
    outcome: Outcome | None = None
    tests: tuple[TestName | Literal["auto"], ...] = ("auto",)
    alternative: Alternative = "two-sided"
    alpha: float = 0.05
    confidence_level: float | None = None
    effect_size: EffectSizeName | None = None
    correction: CorrectionName = "holm"
    study: StudyName | None = None
    compare: Comparing | None = None
    family: FamilyName | None = None
    baseline: str | None = None
    margin: float | None = None
    non_inferiority: bool = False
    rope: float | None = None
    higher_is_better: bool = True
    leaderboard: bool = False
    reference: float | None = None
    quantile: float | None = None
    folds: int | None = None
    repeats: int | None = None
    test_share: float | None = None
    resamples: int = 10_000
    seed: int = 0

    def problems(self) -> list[str]:
        """The problems that do not depend on the data, one sentence each: unknown words, or else contradictions."""
        return [*_unknown_words(self), *_not_numbers(self)] or list(_contradictions(self))

    @property
    def share_of_test_set(self) -> float | None:
        """The size of a test set over that of its training set, as declared or by the folds; None if neither is."""
        if self.test_share is None and self.folds is not None:
            return 1.0 / (self.folds - 1.0)
        return self.test_share

    @property
    def comparing(self) -> Comparing | None:
        """Which pairs are compared, by the study, `compare` or the family."""
        if self.study is not None and self.study in STUDY_COMPARES:
            return STUDY_COMPARES[self.study]
        if self.compare is None and self.family is not None and self.family in FAMILY_COMPARES:
            return FAMILY_COMPARES[self.family]
        return self.compare


_WORDS: Final[Mapping[str, object]] = MappingProxyType(
    {
        "alternative": Alternative,
        "compare": Comparing,
        "correction": CorrectionName,
        "design": Design,
        "effect_size": EffectSizeName,
        "family": FamilyName,
        "outcome": Outcome,
        "study": StudyName,
    }
)
_NUMBERS: Final = (
    "alpha", "confidence_level", "folds", "margin", "quantile", "reference", "repeats", "resamples", "rope", "seed",
    "test_share",
)  # fmt: skip
_OPTIONAL: Final = frozenset({"compare", "effect_size", "family", "outcome", "study"})


def _unknown_words(said: Declaration) -> Iterator[str]:
    for name, vocabulary in _WORDS.items():
        word = getattr(said, name)
        if not (word is None and name in _OPTIONAL):
            yield from _unknown_word(name, word, get_args(vocabulary))
    for test in said.tests:
        yield from _unknown_word("tests", test, ("auto", *get_args(TestName)))


def _not_numbers(said: Declaration) -> Iterator[str]:
    for name in _NUMBERS:
        value = getattr(said, name)
        if value is not None and not isinstance(value, Real):
            yield f"{name} is a number, not {value!r:.80}"


def _unknown_word(name: str, word: object, known: tuple[str, ...]) -> Iterator[str]:
    if word not in known:
        close = difflib.get_close_matches(str(word), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        yield f"{name}: {word!r} is not known; known: {', '.join(known)}{hint}"


def _contradictions(said: Declaration) -> Iterator[str]:
    yield from _contradictions_of_tests(said)
    yield from _contradictions_of_design(said)
    yield from _contradictions_of_study(said)
    yield from _contradictions_of_family(said)


def _contradictions_of_tests(said: Declaration) -> Iterator[str]:
    named = [test for test in said.tests if test != "auto"]
    if not said.tests:
        yield "tests: there is none; name at least one, or auto"
    for test in named:
        if test not in TESTS_OF_DESIGN[said.design]:
            fitting = next(design for design, tests in TESTS_OF_DESIGN.items() if test in tests)
            ignores = " and would ignore the pairing" if (said.design, fitting) == ("paired", "independent") else ""
            yield (
                f"tests: {test} is for the design {fitting}{ignores}, but the design is {said.design}; its tests: "
                f"{listing(TESTS_OF_DESIGN[said.design])}"
            )
    if said.effect_size and len(named) == len(said.tests) and not _is_defined(said.effect_size, named):
        yield f"effect_size: none of the tests {', '.join(named)} defines {said.effect_size}"

    if said.alternative != "two-sided":
        yield from _without_direction(said, named)


def _is_defined(effect_size: EffectSizeName, tests: Iterable[TestName]) -> bool:
    return any(effect_size in EFFECT_SIZES[test] for test in tests)


def _without_direction(said: Declaration, named: Sequence[TestName]) -> Iterator[str]:
    """A one-sided alternative that no comparison would use."""
    if said.study in ("multiple_datasets", "sweep"):
        yield f"alternative: the study {said.study} has questions of its own, so it cannot be {said.alternative!r}"
    elif said.comparing is None and named and len(named) == len(said.tests) and set(named) <= TESTS_OF_MANY_GROUPS:
        yield (
            f"alternative: {' and '.join(named)} compares groups all at once, which has no direction, so it cannot be "
            f"{said.alternative!r}"
        )


def _contradictions_of_design(said: Declaration) -> Iterator[str]:
    if said.design == "one_sample" and said.reference is None:
        yield "reference: one sample needs the number that it is compared with"
    if said.design == "one_sample" and said.margin is not None:
        yield "margin: verdicts are about two groups; for one sample, read its interval"
    if said.outcome == "ordinal" and said.margin is not None:
        yield (
            "margin: ordinal values have an order and no distances, so a difference of their means has no unit; leave "
            "`margin` out (the estimate, P(first > second), says how often the first is higher), or declare `outcome: "
            "continuous` if a difference of means is what matters"
        )
    if said.leaderboard and said.design in ("one_sample", "stratified"):
        yield f"leaderboard: it ranks groups by their means, which the design {said.design} does not compare"
    if said.design != "one_sample" and said.reference is not None:
        yield f"reference: it is for the design one_sample, but the design is {said.design}"
    yield from _contradictions_of_folds(said)
    yield from _contradictions_of_rope(said)
    yield from _contradictions_of_strata(said)
    yield from _contradictions_of_quantile(said)
    if said.non_inferiority and said.margin is None:
        yield "margin: non-inferiority needs the largest loss that would not matter"


def _contradictions_of_folds(said: Declaration) -> Iterator[str]:
    given = {"folds": said.folds, "repeats": said.repeats, "test_share": said.test_share}
    if said.design != "resampled":
        for name in [name for name, value in given.items() if value is not None]:
            yield f"{name}: it is for the design resampled, but the design is {said.design}"
        return
    if said.folds is None and said.test_share is None:
        yield (
            "folds: declare the number of folds of the cross-validation, such as 10, and `repeats` if it was repeated "
            "(or `test_share` for random splits: the size of a test set over that of its training set); how dependent "
            "the scores are follows from this, not from their number"
        )
    if said.folds is not None and said.test_share is not None:
        yield "test_share: it is 1 / (folds - 1) for folds, so declare one of the two"
    if said.folds is not None and said.folds < 2:
        yield f"folds: a cross-validation has at least 2, not {said.folds}"
    if said.repeats is not None and said.folds is None:
        yield "repeats: it is the number of times that a cross-validation was repeated, and needs its `folds`"
    if said.repeats is not None and said.repeats < 1:
        yield f"repeats: a cross-validation is done at least once, not {said.repeats} times"


def _contradictions_of_rope(said: Declaration) -> Iterator[str]:
    if said.rope is None:
        return
    if not 0.0 < said.rope < math.inf:
        yield f"rope: it must be a positive number in units of the data, not {said.rope!r}"
    if said.design not in ("paired", "resampled"):
        yield (
            f"rope: its Bayesian tests are for pairs and folds, but the design is {said.design}; a `margin` judges "
            "practical equivalence there"
        )
    if said.outcome in ("binary", "ordinal"):
        yield f"rope: {said.outcome} values have no distances that a region of equivalence could measure; leave it out"
    if said.study == "sweep":
        yield "rope: a sweep asks which may be the best, and judges no pairs; leave it out"


def _contradictions_of_strata(said: Declaration) -> Iterator[str]:
    if said.design != "stratified":
        return
    if said.outcome in ("binary", "ordinal"):
        yield (
            f"outcome: interquartile means need measurements, not {said.outcome} values; for right and wrong answers "
            "take the design clustered, with the task as the cluster"
        )
    if said.margin is not None:
        yield "margin: the design stratified has no verdicts; read the interval of the difference"
    if said.study in ("multiple_datasets", "sweep"):
        yield (
            f"study: {said.study} compares one mean per group; for the design stratified, declare `compare: all_pairs`"
        )


def _contradictions_of_quantile(said: Declaration) -> Iterator[str]:
    of_quantiles = frozenset(QUANTILE_TESTS.values())
    if said.quantile is None:
        for test in said.tests:
            if test in of_quantiles:
                yield f"quantile: {test} needs to know which one, such as 0.95 for the 95th percentile"
        return
    if not 0.0 < said.quantile < 1.0:
        yield f"quantile: it lies between 0 and 1, such as 0.95 for the 95th percentile, not {said.quantile!r}"
    if said.design not in QUANTILE_TESTS:
        yield f"quantile: it is for the designs {' and '.join(QUANTILE_TESTS)}, but the design is {said.design}"
        return
    others = [test for test in said.tests if test != "auto" and test not in of_quantiles]
    if others:
        yield (
            f"tests: {' and '.join(others)} would not be about the quantile; leave `tests` out, and give another "
            "comparison a stage of its own"
        )
    if said.outcome in ("binary", "ordinal"):
        yield f"quantile: {said.outcome} values have no distances, so a difference of their quantiles has no unit"
    if said.effect_size is not None and not others:
        yield "effect_size: a difference of quantiles has none; its unit is that of the data"
    if said.rope is not None:
        yield "rope: it judges means, not quantiles; a `margin` judges the difference of quantiles"
    if said.leaderboard:
        yield "leaderboard: it ranks groups by their means, not by their quantiles"
    if said.study in ("multiple_datasets", "sweep"):
        yield f"study: {said.study} compares means; for quantiles, declare `compare: all_pairs`"
    if said.family not in (None, "pairwise"):
        yield f"family: {said.family} compares means or ranks; quantiles are compared by pairwise"


def _contradictions_of_study(said: Declaration) -> Iterator[str]:
    study, compare = said.study, said.compare
    if study is None:
        return
    if study == "ablation" and said.baseline is None:
        yield "baseline: an ablation needs the name of the full system"
    if study in STUDY_COMPARES and compare not in (None, STUDY_COMPARES[study]):
        yield f"compare: {compare}, but the study {study} compares with the baseline"
    if study not in STUDY_COMPARES and compare is not None:
        yield f"compare: the study {study} has comparisons of its own, so leave `compare` out"
    if study == "multiple_datasets" and said.design != "paired":
        yield "design: multiple_datasets is for the design paired: value i of every group is from data set i"
    if study == "multiple_datasets" and said.family not in (None, "nemenyi", "pairwise"):
        yield f"family: multiple_datasets takes nemenyi or pairwise (Wilcoxon tests with Holm), not {said.family}"
    if study == "multiple_datasets" and said.margin is not None:
        yield "margin: methods are ranked over data sets, so no pair of them is judged by its means"
    if study not in STUDY_COMPARES and said.baseline is not None:
        yield f"baseline: the study {study} has comparisons of its own, none with a baseline; leave `baseline` out"
    if study == "sweep" and said.family is not None:
        yield f"family: the study sweep has comparisons of its own, not {said.family}"
    if study == "sweep" and said.design == "one_sample":
        yield "design: one_sample is about one group, but a sweep has several groups"


def _contradictions_of_family(said: Declaration) -> Iterator[str]:
    family = said.family
    if said.compare == "baseline" and said.baseline is None and said.study is None:
        yield "baseline: comparing with a baseline needs its name"
    if family is None:
        return
    fitting = _FAMILY_DESIGN.get(family, said.design)
    if fitting != said.design:
        yield f"family: {family} is for the design {fitting}, but the design is {said.design}"
    compares = FAMILY_COMPARES.get(family, said.comparing)
    if said.comparing not in (None, compares):
        yield f"family: {family} compares {compares}, not {said.comparing}"
    if said.comparing is None and family not in FAMILY_COMPARES and said.study is None:
        yield f"compare: the family {family} needs to know what is compared: all_pairs or baseline"
    if family == "dunnett" and said.baseline is None and said.study != "ab_test":
        yield "baseline: dunnett compares with one, and needs its name"
    if family in _TWO_SIDED and said.alternative != "two-sided":
        yield f"alternative: {family} is two-sided; only pairwise tests can be {said.alternative!r}"
