"""A whole comparison: what `compare` and `analyse` return, what a `bench` stage stores, and what a report reads."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from crucible_bench.compared import Compared, PairResult
from crucible_bench.effect_sizes.interpretation import interpret
from crucible_bench.finding import finding
from crucible_bench.headline import headline, method
from crucible_bench.result import TestResult, plain_json

__all__ = ["KIND", "VERSION", "Comparison", "UnreadableComparisonError", "comparison_numbers", "looks_like_comparison"]

KIND: Final = "comparison"
VERSION: Final = 2
"""The version of the JSON. It grows when older versions of this package cannot read the JSON any more."""

_SHAPE: Final = frozenset({"alpha", "groups", "tests"})
_MOST_REASONS: Final = 3


class UnreadableComparisonError(ValueError):
    """The data are not a comparison that this version of the package can read; the message is a sentence saying why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Compared):
    """The result of a comparison: as declared, what was measured, and every choice that was made on the way.

    `tests` has the tests of all groups at once, `comparisons` the family of pairs, `verdicts` the pairs judged against
    the margin, `decisions` each choice with its reason; `sentence` is the finding in words. Differences are in the
    units of the data, effect sizes have no unit.

    It reads and writes its own JSON: `Comparison.from_dict(comparison.to_dict()) == comparison`.
    """

    @property
    def sentence(self) -> str:
        """What was found and how, in one sentence, or a few if several pairs were compared."""
        return finding(self)

    @property
    def headline(self) -> str:
        """What was found, in one line; with `method`, it says what `sentence` says."""
        return headline(self)

    @property
    def method(self) -> str:
        """How the headline was found, in one line."""
        return method(self)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON types, tagged with `kind` and `version`.

        `tests` is a mapping of test name to result, in which `significant` is decided by `p_adjusted` if there are
        several tests. Infinite numbers become None.
        """
        fields: dict[str, Any] = plain_json(self)
        adjusted = fields.pop("p_adjusted")
        for test, (_, p_adjusted, significant) in zip(fields["tests"], self.judged, strict=True):
            own = {} if adjusted is None else {"p_adjusted": p_adjusted}
            test.update(own, significant=significant, interpretation=_word(test))
        if fields["comparisons"] is not None:
            for pair in fields["comparisons"]["comparisons"]:
                pair["interpretation"] = _word(pair)
        if fields["ranking"] is not None:
            del fields["ranking"]["family"]  # it is `comparisons`
        fields["tests"] = {test["test"]: test for test in fields["tests"]}
        derived = {"paired": self.paired, "family_size": self.family_size}
        return {"kind": KIND, "version": VERSION, **fields, **derived}

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        """The comparison that `to_dict` wrote; also one that was stored before there were `kind` and `version`.

        Raises UnreadableComparisonError if the data are of a newer version, or not a comparison.
        """
        _check_version(data)
        try:
            return _reader().validate_python(_fields(data))
        except ValidationError as error:
            raise UnreadableComparisonError(f"This comparison cannot be read: {_reasons(error)}.") from error

    @classmethod
    def from_json(cls, text: str | bytes) -> Comparison:
        """The comparison that `to_json` wrote. Raises as `from_dict` does, and for text that is not a JSON object."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise UnreadableComparisonError(f"This comparison cannot be read: it is not JSON: {error}.") from error
        if not isinstance(data, dict):
            raise UnreadableComparisonError("This comparison cannot be read: it is not a JSON object.")
        return cls.from_dict(data)


def looks_like_comparison(value: object) -> bool:
    """Whether a value is tagged as a comparison or, without a tag, has the entries that every comparison has."""
    if not isinstance(value, dict):
        return False
    kind = value.get("kind")
    return kind is None and value.keys() >= _SHAPE if not isinstance(kind, str) else kind == KIND


def comparison_numbers(comparison: Compared) -> Iterator[tuple[str, float]]:
    """The findings as numbers to follow from run to run, not the settings: `svm.mean`, `ttest.p_value`,
    `svm_vs_logistic.estimate`. Infinite numbers are left out.
    """
    for group, summary in comparison.groups.items():
        yield f"{group}.mean", summary.mean
    for group, of in comparison.quantiles.items():
        yield f"{group}.quantile", of.value
    for test in comparison.judged:
        yield from _numbers(test.result.test, test.result, test.p_adjusted)
    for pair in comparison.comparisons.comparisons if comparison.comparisons else ():
        yield from _numbers(f"{pair.first}_vs_{pair.second}", pair, pair.p_adjusted)
    for arm in comparison.preferences.arms if comparison.preferences is not None else ():
        if arm.strength is not None:
            yield f"{arm.name}.strength", arm.strength
    ranking = comparison.ranking
    if ranking is not None:
        for name, rank in zip(ranking.groups, ranking.mean_ranks, strict=True):
            yield f"{name}.mean_rank", rank


def _numbers(name: str, compared: TestResult | PairResult, p_adjusted: float | None) -> Iterator[tuple[str, float]]:
    numbers = {
        "estimate": compared.estimate,
        "effect_size": compared.effect_size,
        "p_value": compared.p_value,
        "p_adjusted": p_adjusted,
    }
    for key, number in numbers.items():
        if number is not None and math.isfinite(number):
            yield f"{name}.{key}", number


def _word(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """A convention's word for the effect size and its source, if it has one and an effect is shown to be there."""
    name, value = fields["effect_size_name"], fields["effect_size"]
    if name is None or value is None or not fields["significant"]:
        return None
    word: dict[str, Any] | None = plain_json(interpret(name, value))
    return word


# --- reading ----------------------------------------------------------------------------------------------------------


@functools.cache
def _reader() -> TypeAdapter[Comparison]:
    return TypeAdapter(Comparison)  # takes milliseconds to make, so not while the package is imported


def _check_version(data: Mapping[str, Any]) -> None:
    kind, version = data.get("kind"), data.get("version")
    if kind is None:
        return
    if kind != KIND:
        raise UnreadableComparisonError(f"This is not a comparison: its kind is {kind!r:.80}.")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise UnreadableComparisonError(f"This comparison cannot be read: its version is {version!r:.80}.")
    if version > VERSION:
        raise UnreadableComparisonError(
            f"This is a comparison of a newer version ({version}; this version of crucible reads up to {VERSION}). "
            "Upgrade crucible-dagster to see it."
        )


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Comparison, from the JSON: the reverse of `to_dict`."""
    opened = dict(data)
    _refuse_none(opened)
    alpha = opened.get("alpha")
    if "kind" not in opened:
        opened |= _of_before_versions(opened)
    tests = [dict(test) for test in opened["tests"].values()]
    adjusted = [test.pop("p_adjusted", None) for test in tests]
    if any(p is not None for p in adjusted):
        if any(p is None for p in adjusted) or opened.get("correction") is None:
            raise UnreadableComparisonError(
                "This comparison cannot be read: either all p-values are adjusted, by a correction that is named, or "
                "none."
            )
        opened["p_adjusted"] = adjusted
        for test in tests:
            test["significant"] = _is_at_most(test.get("p_value"), alpha)
    opened["tests"] = tests
    if isinstance(ranking := opened.get("ranking"), Mapping):
        opened["ranking"] = {**ranking, "family": opened.get("comparisons")}
    return opened


def _refuse_none(opened: Mapping[str, Any]) -> None:
    """Refuse JSON of the wrong shape, and JSON that compares nothing."""
    tests = opened.get("tests")
    if not isinstance(tests, Mapping) or not all(isinstance(test, Mapping) for test in tests.values()):
        raise UnreadableComparisonError("This comparison cannot be read: tests: not a mapping of name to result.")
    if not (tests or opened.get("comparisons") or opened.get("best") or opened.get("ranking")):
        raise UnreadableComparisonError("This comparison cannot be read: nothing was compared.")


def _is_at_most(value: Any, bound: Any) -> Any:
    try:
        return bool(value <= bound)
    except TypeError:
        return None  # refused with the field's own name


def _of_before_versions(data: Mapping[str, Any]) -> dict[str, Any]:
    """Copy what JSON without a `version` has only once, at the top, into each part that has it as a field."""
    alpha, verdicts = data.get("alpha"), data.get("verdicts") or ()
    share = alpha
    if isinstance(alpha, float) and len(verdicts) > 1 and data.get("correction") != "none":
        share = alpha / len(verdicts)
    lacking: dict[str, dict[str, Any]] = {
        "comparisons": {"alpha": alpha},
        "best": {"alpha": alpha},
        "ranking": {"higher_is_better": data.get("higher_is_better", True)},
    }
    found: dict[str, Any] = {
        name: {**said, **data[name]} for name, said in lacking.items() if isinstance(data.get(name), Mapping)
    }
    found["tests"] = {name: {"alpha": alpha, **test} for name, test in data["tests"].items()}
    found["verdicts"] = [{"alpha": share, **one} if isinstance(one, Mapping) else one for one in verdicts]
    if "design" not in data:
        found["design"] = "paired" if data.get("paired") else "independent"
    return found


def _reasons(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    said = [
        f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Input ')}" for one in problems[:_MOST_REASONS]
    ]
    more = [f"and {len(problems) - _MOST_REASONS} more"] if len(problems) > _MOST_REASONS else []
    return "; ".join([*said, *more])
