"""Families, rankings, verdicts and sequences on any doubles: finite numbers or a refusal, never in between."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crucible_bench import (
    CannotTestError,
    dunn,
    dunnett,
    games_howell,
    indistinguishable_from_best,
    judge_margin,
    nemenyi,
    pairwise_tests,
    rank_over_blocks,
    t_mixture_sequence,
    tukey_hsd,
)

RUNS: dict[str, Callable[[dict[str, list[float]]], Any]] = {
    "dunn": dunn,
    "dunnett": lambda groups: dunnett(groups, "a"),
    "games_howell": games_howell,
    "margin": lambda groups: judge_margin({name: groups[name] for name in "ab"}, 1.0),
    "paired margin": lambda groups: judge_margin({name: groups[name] for name in "ab"}, 1e-3, paired=True),
    "best": indistinguishable_from_best,
    "nemenyi": nemenyi,
    "pairwise": lambda groups: pairwise_tests("wilcoxon", groups),
    "ranking": rank_over_blocks,
    "tukey_hsd": tukey_hsd,
    "t_mixture": lambda groups: t_mixture_sequence(groups["a"]),
}
MAY_BE_NONE = {"confidence_interval", "control", "lower", "upper", "more_replicates", "beaten_by", "iman_davenport",
               "critical_difference", "note", "df",  # the df of shares are infinite
               "effect_size", "effect_size_name", "effect_size_interval"}  # fmt: skip


def holes(plain: Any, key: str = "") -> list[str]:
    """Where a plain JSON value has None and must not."""
    if isinstance(plain, dict):
        return [hole for name, value in plain.items() for hole in holes(value, name)]
    if isinstance(plain, list):
        return [hole for value in plain for hole in holes(value, key)]
    return [key] if plain is None and key not in MAY_BE_NONE else []


doubles = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3)


@pytest.mark.parametrize("run", sorted(RUNS))
@given(a=doubles, b=doubles, c=doubles)
@example(a=[1.0, 2.0, 3.0], b=[1e300, -1e300, 5.0], c=[1e-300, 2e-300, 0.0])
@example(a=[1.7e308, -1.7e308, 0.0], b=[1.7e308, 1.7e308, 1.0], c=[-1.7e308, 0.0, 1.7e308])
@example(a=[5e-324, 0.0, 1e-323], b=[0.0, 5e-324, 0.0], c=[1e-322, 0.0, 0.0])
@example(a=[1e12 + 1, 1e12 + 2, 1e12 + 3], b=[1e12, 1e12 + 1, 1e12 + 1], c=[1e12, 1e12, 1e12 + 5])
@settings(max_examples=12, deadline=None)
def test_any_doubles_give_finite_numbers_or_a_refusal(run: str, a: list[float], b: list[float], c: list[float]) -> None:
    try:
        result = RUNS[run]({"a": a, "b": b, "c": c})
    except CannotTestError:
        return
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    if run == "best" and plain["mean"] is None:  # of the leader: a note says why it has none
        del plain["mean"]
        assert plain["notes"]
    for one in plain.get("contenders", ()):
        if one["interval"] is None:  # the spread of its values is 0, or too large, in doubles
            del one["interval"]
            with np.errstate(all="ignore"):
                assert not 0 < np.std({"a": a, "b": b, "c": c}[one["name"]], ddof=1) < math.inf
    assert holes(plain) == []
    for row in getattr(result, "comparisons", ()):
        assert not any(math.isnan(end) for end in row.confidence_interval)
        assert row.confidence_interval[0] <= row.estimate <= row.confidence_interval[1]
