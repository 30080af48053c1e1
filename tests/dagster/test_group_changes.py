"""Two runs of an experiment, whose values belong together by what their pairs are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from crucible_core import Context, Experiment, Registry, builtin_registry, run_experiment, stage
from crucible_core.stages import Bench
from crucible_dagster.history.group_changes import GroupChange, compare_groups

_DRAW = np.random.default_rng(3)
HARDNESS = _DRAW.normal(0.0, 10.0, 30)  # of the questions, far larger than what changes from run to run
BEFORE, AFTER = (list(map(float, HARDNESS + shift + _DRAW.normal(0.0, 0.1, 30))) for shift in (0.0, 0.1))


@stage
def answer(ctx: Context) -> Context:
    """Puts one output per model and question, in the order of the run."""
    return ctx.add_outputs(ctx.assigns["answers"])


REGISTRY = Registry({"answer": answer, "bench": Bench})
OPTIONS = {"data": "outputs", "group_by": "model", "value": "score", "pair_by": "question", "design": "paired"}


def run(scores: Sequence[float | None], order: Sequence[int], **options: Any) -> Context:
    answers = [
        {"model": model, "score": score, "question": f"q{question}"}
        for question in order
        for model, score in (("one", scores[question]), ("two", HARDNESS[question] + question % 3))
        if score is not None
    ]
    file = {"id": "x", "pipeline": [{"name": "answer"}, {"name": "bench", "options": OPTIONS | options}]}
    return run_experiment(Experiment.model_validate(file), registry=REGISTRY, assigns={"answers": answers})


def change(a: Context, b: Context) -> GroupChange:
    return compare_groups(a, b, REGISTRY, names=("a", "b"))[0]


def test_questions_answered_in_another_order_are_the_same_pairs() -> None:
    straight = change(run(BEFORE, range(30)), run(AFTER, range(30))).result
    shuffled = change(run(BEFORE, range(30)), run(AFTER, [*range(15, 30), *range(15)])).result
    assert straight is not None
    assert shuffled is not None
    assert shuffled.significant
    assert shuffled.p_value == pytest.approx(straight.p_value, rel=1e-9)
    assert shuffled.estimate == pytest.approx(float(np.mean(AFTER) - np.mean(BEFORE)), rel=1e-9)


def test_a_group_whose_quantile_is_compared_changed_in_that_quantile() -> None:
    options = {"quantile": 0.8, "confidence_level": 0.9}
    found = change(run(BEFORE, range(30), **options), run(AFTER, range(30), **options)).result
    assert found is not None
    assert found.test == "paired_quantile"
    assert found.estimate == pytest.approx(float(np.quantile(AFTER, 0.8) - np.quantile(BEFORE, 0.8)))


def test_runs_that_answered_different_questions_have_no_pairs() -> None:
    found = change(run(BEFORE, range(20)), run(AFTER, range(10, 30)))
    assert found.result is None
    assert found.reason is not None
    assert "different pairs" in found.reason


def test_pairs_dropped_from_one_run_are_not_replaced_by_their_neighbours() -> None:
    gone, also = list[float | None](BEFORE), list[float | None](AFTER)
    gone[3], also[20] = None, None
    other = change(run(gone, range(30), missing="drop"), run(also, range(30), missing="drop"))
    assert other.result is None
    also[20], also[3] = AFTER[20], None
    same = change(run(gone, range(30), missing="drop"), run(also, range(30), missing="drop"))
    assert same.result is not None
    assert same.result.n == (29, 29)


def test_positions_of_groups_without_names_for_their_pairs_are_kept_when_some_are_dropped() -> None:
    def bench(scores: Sequence[float | None]) -> Context:
        options = {"paired": True, "missing": "drop"}
        file = {"id": "x", "pipeline": [{"name": "bench", "options": options}]}
        groups = {"one": list(scores), "two": list(map(float, HARDNESS))}
        return run_experiment(
            Experiment.model_validate(file), registry=builtin_registry(), assigns={"bench_data": groups}
        )

    gone, also = list[float | None](BEFORE), list[float | None](AFTER)
    gone[3], also[20] = None, None
    assert change(bench(gone), bench(also)).result is None
    assert change(bench(gone), bench([None if place == 3 else one for place, one in enumerate(AFTER)])).result
    assert change(bench(BEFORE), bench(AFTER)).result


def test_the_effect_size_is_the_one_that_the_stage_declares() -> None:
    found = change(run(BEFORE, range(30)), run(AFTER, range(30), effect_size="cohens_dav")).result
    assert found is not None
    assert found.effect_size_name == "cohens_dav"


def test_several_answers_to_every_question_are_paired_by_the_question_across_runs() -> None:
    options = {"pair_by": None, "design": "clustered", "clusters": "question"}
    before = run(BEFORE, [*range(30), *range(30)], **options)
    after = run(AFTER, [*range(29, -1, -1), *range(30), *range(30)], **options)
    found = change(before, after).result
    assert found is not None
    assert (found.test, found.n) == ("clustered_ttest", (90, 60))
    assert found.significant
    assert found.estimate == pytest.approx(float(np.mean(AFTER) - np.mean(BEFORE)), rel=1e-9)


def test_pass_at_k_is_compared_item_by_item_across_runs() -> None:
    options = {"pair_by": None, "design": "clustered", "clusters": "question", "pass_at": 2}
    right = {scale: [float(place % scale == 0) for place in range(30)] for scale in (2, 5)}

    def answered(scale: int, order: Sequence[int]) -> Context:
        answers = [
            {"model": model, "score": right[scale][question] * (count < 2), "question": f"q{question}"}
            for question in order
            for model in ("one", "two")
            for count in range(3)
        ]
        file = {"id": "x", "pipeline": [{"name": "answer"}, {"name": "bench", "options": OPTIONS | options}]}
        return run_experiment(Experiment.model_validate(file), registry=REGISTRY, assigns={"answers": answers})

    found = change(answered(5, range(30)), answered(2, range(29, -1, -1))).result
    assert found is not None
    assert found.n == (30, 30)
    assert found.estimate == pytest.approx(15 / 30 - 6 / 30)


def test_preferences_have_no_groups_that_change() -> None:
    def voted(winner: str) -> Context:
        votes = [{"first": "a", "second": "b", "winner": winner if place % 3 else "a"} for place in range(12)]
        options = {"data": "outputs", "preferences": {}}
        file = {"id": "x", "pipeline": [{"name": "answer"}, {"name": "bench", "options": options}]}
        return run_experiment(Experiment.model_validate(file), registry=REGISTRY, assigns={"answers": votes})

    found = change(voted("a"), voted("b"))
    assert found.result is None
    assert found.reason is not None
    assert "preferences are comparisons of two arms" in found.reason
