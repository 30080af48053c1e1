"""Rankings: Demsar's own example, scipy's Friedman test, brute force over cliques, and simulation of the promise."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from crucible_bench import CannotTestError
from crucible_bench.decisions.rankings import indistinguishable_from_best, rank_over_blocks

# Demsar (2006), table 6: AUC of C4.5 with and without tuning of m and cf, on 14 data sets. On voting he prints 0.975
# for the last two but ranks them 2 and 3, by digits that are not printed; the fifth digit here stands for those.
AUC = {
    "C4.5": [.763, .599, .954, .628, .882, .936, .661, .583, .775, 1.0, .940, .619, .972, .957],
    "C4.5+m": [.768, .591, .971, .661, .888, .931, .668, .583, .838, 1.0, .962, .666, .981, .978],
    "C4.5+cf": [.771, .590, .968, .654, .886, .916, .609, .563, .866, 1.0, .965, .614, .97501, .946],
    "C4.5+m+cf": [.798, .569, .967, .657, .898, .931, .685, .625, .875, 1.0, .962, .669, .975, .970],
}  # fmt: skip


def test_demsars_example_gives_his_ranks_statistics_and_critical_difference() -> None:
    ranking = rank_over_blocks(AUC)
    assert dict(zip(ranking.groups, ranking.mean_ranks, strict=True)) == pytest.approx(
        {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}, abs=5e-4
    )
    assert ranking.groups == ("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")
    assert ranking.critical_difference == pytest.approx(1.25, abs=5e-3)
    # He prints 9.28 and 3.69 from the formula without ties; with it, from our mean ranks:
    n, k = 14, 4
    untied = 12 * n / (k * (k + 1)) * (sum(r * r for r in ranking.mean_ranks) - k * (k + 1) ** 2 / 4)
    assert untied == pytest.approx(9.28, abs=5e-3)
    assert (n - 1) * untied / (n * (k - 1) - untied) == pytest.approx(3.69, abs=5e-3)
    # At 0.05 no pair reaches 1.25, so all four hang together; at 0.10 the difference is 1.12 and two pairs do.
    assert ranking.cliques == (ranking.groups,)
    ten = rank_over_blocks(AUC, alpha=0.1)
    assert ten.critical_difference == pytest.approx(1.12, abs=5e-3)
    assert ten.cliques == (("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+cf", "C4.5"))


def test_friedmans_statistic_is_scipys_and_iman_davenports_follows() -> None:
    ranking = rank_over_blocks(AUC)
    theirs = stats.friedmanchisquare(*AUC.values())
    assert ranking.friedman[:2] == pytest.approx((theirs.statistic, 3))
    assert ranking.friedman[2] == pytest.approx(theirs.pvalue, abs=5e-3)  # ours is exact where that is quick
    f = 13 * theirs.statistic / (14 * 3 - theirs.statistic)
    assert ranking.iman_davenport == pytest.approx((f, 3, 39, stats.f.sf(f, 3, 39)))


def test_wilcoxon_holm_is_all_pairs_corrected() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=12)
    scores = {
        name: base + rng.normal(shift, 0.6, 12) for name, shift in zip("abcde", (0, 0, 0.6, 1.2, 1.3), strict=True)
    }
    ranking = rank_over_blocks(scores, procedure="wilcoxon_holm")
    raw = [stats.wilcoxon(x, y).pvalue for x, y in itertools.combinations(scores.values(), 2)]
    assert [row.p_value for row in ranking.family.comparisons] == pytest.approx(raw)
    assert [row.p_adjusted for row in ranking.family.comparisons] == pytest.approx(multipletests(raw, method="holm")[1])
    assert ranking.critical_difference is None
    # Oracle for the cliques: every subset, by brute force.
    apart = {frozenset((row.first, row.second)) for row in ranking.family.comparisons if row.significant}
    assert apart
    alike = [
        set(names)
        for size in range(2, 6)
        for names in itertools.combinations(scores, size)
        if not any(frozenset(pair) in apart for pair in itertools.combinations(names, 2))
    ]
    maximal = {frozenset(names) for names in alike if not any(names < other for other in alike)}
    assert {frozenset(clique) for clique in ranking.cliques} == maximal
    for clique in ranking.cliques:
        assert list(clique) == [name for name in ranking.groups if name in clique]


def test_lower_scores_can_be_the_better_ones() -> None:
    errors = {name: [-score for score in scores] for name, scores in AUC.items()}
    up, down = rank_over_blocks(AUC), rank_over_blocks(errors, higher_is_better=False)
    assert (up.groups, up.mean_ranks, up.cliques) == (down.groups, down.mean_ranks, down.cliques)


def test_one_order_in_every_block_has_an_infinite_f_and_json_for_it() -> None:
    ranking = rank_over_blocks({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 4.0], "c": [3.0, 4.0, 5.0]})
    assert ranking.groups == ("c", "b", "a")
    assert ranking.iman_davenport[0] == math.inf
    plain = json.loads(json.dumps(ranking.to_dict(), allow_nan=False))
    assert plain == ranking.to_dict()
    assert plain["iman_davenport"][0] is None


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a": [1.0, 2.0], "b": [2.0, 1.0]}, "at least 3 groups and 2 data sets, not 2 and 2"),
        ({"a": [1.0], "b": [2.0], "c": [3.0]}, "not 3 and 1"),
        ({"a": [1.0, 2.0], "b": [2.0, 1.0], "c": [1.0, 2.0, 3.0]}, "their lengths are"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 2.0]}, "nothing to rank"),
        ({"a": [1.0, math.nan], "b": [1.0, 2.0], "c": [1.0, 2.0]}, "missing"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(groups: dict[str, list[float]], said: str) -> None:
    with pytest.raises(CannotTestError, match=said):
        rank_over_blocks(groups)


def test_an_unknown_procedure_is_refused() -> None:
    with pytest.raises(CannotTestError, match="known: nemenyi, wilcoxon_holm"):
        rank_over_blocks(AUC, procedure="tukey")  # type: ignore[arg-type]


SWEEP = {
    "lr=0.1": [0.80, 0.82, 0.81, 0.79, 0.83],
    "lr=0.01": [0.84, 0.83, 0.85, 0.82, 0.84],
    "lr=0.001": [0.835, 0.82, 0.84, 0.85, 0.81],
    "lr=1": [0.50, 0.55, 0.40, 0.61, 0.52],
}


@pytest.mark.parametrize("paired", [False, True])
def test_the_kept_configurations_are_those_that_no_other_beats(paired: bool) -> None:
    best = indistinguishable_from_best(SWEEP, paired=paired)
    assert best.leader == "lr=0.01"
    assert best.size == 3
    for contender in best.contenders:  # the oracle: scipy's one-sided tests
        others = {name: values for name, values in SWEEP.items() if name != contender.name}
        own = SWEEP[contender.name]
        p = {
            name: stats.ttest_rel(values, own, alternative="greater").pvalue
            if paired
            else stats.ttest_ind(values, own, equal_var=False, alternative="greater").pvalue
            for name, values in others.items()
        }
        assert contender.p_value == pytest.approx(min(1.0, 3 * min(p.values())))
        assert contender.mean == pytest.approx(np.mean(own))
        assert contender.beaten_by == (None if contender.name == best.leader else min(p, key=lambda name: p[name]))
    assert "lr=1" not in best.kept
    assert {"lr=0.01", "lr=0.001"} <= set(best.kept)
    assert json.loads(json.dumps(best.to_dict())) == best.to_dict()
    losses = {name: [-value for value in values] for name, values in SWEEP.items()}
    assert indistinguishable_from_best(losses, paired=paired, higher_is_better=False).kept == best.kept


def test_a_sweep_of_one_or_without_a_pair_to_test_is_refused() -> None:
    with pytest.raises(CannotTestError, match="fewer than two"):
        indistinguishable_from_best({"a": [1.0, 2.0]})
    with pytest.raises(CannotTestError, match="has 1 value"):
        indistinguishable_from_best({"a": [1.0], "b": [2.0, 3.0]})


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("means", [[0.0] * 6, [0.0, 0.0, -0.5, -0.5, -3.0, -3.0]])
@pytest.mark.slow
def test_the_truly_best_is_among_the_kept(paired: bool, means: list[float]) -> None:
    rng = np.random.default_rng(2)
    runs, lost, kept = 300, 0, 0
    for _ in range(runs):
        seeds = rng.normal(0.0, 1.0, 8)
        groups: dict[str, Any] = {
            str(i): mean + (seeds if paired else 0.0) + rng.normal(0.0, 1.0 + i / 3, 8) for i, mean in enumerate(means)
        }
        best = indistinguishable_from_best(groups, paired=paired)
        lost += "0" not in best.kept
        kept += len(best.kept)
    assert lost / runs <= 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / runs)
    assert kept / runs < (6.0 if means[-1] == 0.0 else 5.3)  # and it does drop what is worse
