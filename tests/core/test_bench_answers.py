"""The `bench` stage on several answers to every item: pass@k and majority@k, item by item."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stages_for_tests import registry

from crucible_bench import Comparison, compare, majority_at_k, pair_by_item, pass_at_k
from crucible_core import (
    Context,
    Experiment,
    InvalidOptionsError,
    StageFailedError,
    plan_experiment,
    run_experiment,
)
from crucible_core.report.comparison_section import comparison_section
from crucible_core.report.document import Items

RIGHT = {
    "new": ["1101", "1110", "0010", "1111", "0111", "1011"],
    "old": ["1100", "0100", "0000", "1010", "0110", "0011"],
}
OUTPUTS = [
    {"arm": arm, "item": f"q{place}", "document": f"d{place // 2}", "right": one == "1"}
    for arm, answers in RIGHT.items()
    for place, item in enumerate(answers)
    for one in item
]
OPTIONS = {"data": "outputs", "group_by": "arm", "value": "right", "design": "clustered", "clusters": "item"}
ITEMS = [output["item"] for output in OUTPUTS if output["arm"] == "new"]


def run(outputs: Any = OUTPUTS, assigns: Any = None, **options: Any) -> Context:
    experiment = experiment_of(outputs, **options)
    return run_experiment(experiment, registry=registry(), assigns=assigns)


def experiment_of(outputs: Any, **options: Any) -> Experiment:
    record = {"name": "record", "options": {"outputs": outputs}}
    return Experiment.model_validate({"id": "e", "pipeline": [record, {"name": "bench", "options": options}]})


def compared(outputs: Any = OUTPUTS, assigns: Any = None, **options: Any) -> Comparison:
    stored = run(outputs, assigns, **options).get_metric("bench")
    result = Comparison.from_dict(json.loads(json.dumps(stored)))
    assert result.to_dict() == stored
    return result


def right(arm: str, outputs: Any = OUTPUTS) -> list[bool]:
    return [output["right"] for output in outputs if output["arm"] == arm]


def test_pass_at_k_is_compared_item_by_item_as_pairs_are() -> None:
    result = compared(**OPTIONS, pass_at=2, margin=0.1)
    arms = {arm: pass_at_k(right(arm), ITEMS, 2) for arm in RIGHT}
    expected = compare(pair_by_item(arms), design="paired", margin=0.1)
    assert result.tests == expected.tests
    assert result.verdicts == expected.verdicts
    assert result.sentence.startswith("new is higher than old in pass@2: mean difference (new - old) 0.2778,")
    assert "n = 6 items" in result.sentence
    assert {arm: result.groups[arm].mean_interval for arm in RIGHT} == {arm: one.interval for arm, one in arms.items()}
    blocks = comparison_section("bench", result).blocks
    lines = [line for block in blocks if isinstance(block, Items) for line in block.items]
    assert "each value is pass@2 of an item's 4 answers" in lines


def test_the_item_may_be_named_by_pair_by_and_share_a_cluster_with_others() -> None:
    assert (
        compared(**{**OPTIONS, "design": "paired", "clusters": None}, pair_by="item", pass_at=2).tests
        == compared(**OPTIONS, pass_at=2).tests
    )
    nested = compared(**{**OPTIONS, "clusters": "document"}, pair_by="item", pass_at=2)
    values = pair_by_item({arm: pass_at_k(right(arm), ITEMS, 2) for arm in RIGHT})
    expected = compare(values, design="clustered", clusters=["d0", "d0", "d1", "d1", "d2", "d2"])
    assert nested.tests == expected.tests


def test_majority_takes_right_and_wrong_or_texts_with_the_expected_answer() -> None:
    result = compared(**OPTIONS, majority_at=3)
    arms = {arm: majority_at_k(right(arm), ITEMS, 3) for arm in RIGHT}
    assert result.tests == compare(pair_by_item(arms), design="paired").tests
    assert result.measure == "majority@3"
    texts = [
        {**one, "answer": "x" if one["right"] else f"w{place % 3}", "key": "x"} for place, one in enumerate(OUTPUTS)
    ]
    result = compared(texts, **{**OPTIONS, "value": "answer"}, majority_at=3, expected="key")
    said = {arm: [one["answer"] for one in texts if one["arm"] == arm] for arm in RIGHT}
    arms = {arm: majority_at_k(said[arm], ITEMS, 3, expected=dict.fromkeys(ITEMS, "x")) for arm in RIGHT}
    assert result.tests == compare(pair_by_item(arms), design="paired").tests


def test_groups_may_be_assigned_with_their_items() -> None:
    assigned = {"bench_data": {arm: right(arm) for arm in RIGHT}, "items": ITEMS}
    place = {"design": "clustered", "clusters": "assigns.items", "pass_at": 2}
    assert compared([], assigned, **place).tests == compared(**OPTIONS, pass_at=2).tests
    assigned["items"] = {"new": ITEMS}
    with pytest.raises(StageFailedError, match=r"assigns\.items has no items of group 'old'"):
        run([], assigned, **place)


def test_more_than_two_arms_are_compared_in_pairs_or_with_the_baseline() -> None:
    third = [
        {**one, "arm": "third", "right": place % 3 == 0} for place, one in enumerate(OUTPUTS) if one["arm"] == "new"
    ]
    family = compared([*OUTPUTS, *third], **OPTIONS, pass_at=2).comparisons
    assert family is not None
    assert [(one.first, one.second) for one in family.comparisons] == [
        ("new", "old"),
        ("new", "third"),
        ("old", "third"),
    ]
    result = compared([*OUTPUTS, *third], **OPTIONS, pass_at=2, compare="baseline", baseline="old", margin=0.2)
    assert result.comparisons is not None
    assert [(one.first, one.second) for one in result.comparisons.comparisons] == [("new", "old"), ("third", "old")]
    assert len(result.verdicts) == 2
    one_pair = compared(**OPTIONS, pass_at=2)
    assert one_pair.comparisons is None


def test_an_item_with_too_few_answers_is_refused_or_left_out_openly() -> None:
    short = [one for place, one in enumerate(OUTPUTS) if place not in (0, 1, 2)]
    short[5] = {**short[5], "right": None}
    with pytest.raises(StageFailedError, match="group 'new' lacks 1 of 21 values"):
        run(short, **OPTIONS, pass_at=2)
    with pytest.raises(StageFailedError, match=r"1 of 6 items of 'new' have fewer \('q0' has 1\)"):
        run([one for one in short if one["right"] is not None], **OPTIONS, pass_at=2)
    ctx = run(short, **OPTIONS, pass_at=2, missing="drop")
    result = Comparison.from_dict(ctx.get_metric("bench"))
    assert result.groups["new"].n == 5
    assert result.dropped == ("group 'new', position 5: missing", "item 'q0' has fewer than 2 answers of new")
    assert result.sentence.endswith(
        "Left out because of missing values: 1 of 21 answers of new. Left out: 1 of 6 items, to which a group has "
        "fewer than 2 answers."
    )
    assert any("item 'q0'" in decision.reasoning for decision in ctx.trace.decisions)
    lacking = [one for one in OUTPUTS if (one["arm"], one["item"]) != ("old", "q3")]
    with pytest.raises(StageFailedError, match="item 'q3' has no answer of old"):
        run(lacking, **OPTIONS, pass_at=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pass_at": 2, "majority_at": 2}, "pass_at: majority_at is there too"),
        ({"pass_at": 2, "expected": "key"}, "expected: only with majority_at"),
        ({"expected": "key"}, "expected: only with majority_at"),
        ({"pass_at": 0}, "greater than or equal to 1"),
        ({"pass_at": 2, "design": None, "clusters": None}, "pass_at: needs the item of each answer"),
        ({"majority_at": 2, "design": "paired", "clusters": None}, "majority_at: needs the item of each answer"),
        ({"pass_at": 2, "outcome": "binary"}, "so leave `outcome` out"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_run(options: Any, said: str) -> None:
    with pytest.raises(InvalidOptionsError) as caught:
        plan_experiment(experiment_of([], **{**OPTIONS, **options}), registry())
    assert said in str(caught.value)


def test_an_expected_answer_is_one_per_item() -> None:
    texts = [{**one, "key": str(place)} for place, one in enumerate(OUTPUTS)]
    with pytest.raises(StageFailedError, match="item 'q0' has two values of key: '0' and '1'"):
        run(texts, **OPTIONS, majority_at=2, expected="key")
    with pytest.raises(StageFailedError, match="output 0 lacks one of 'item', 'key'"):
        run(OUTPUTS, **OPTIONS, majority_at=2, expected="key")
    nameless = [{**one, "item": ["q0"]} for one in texts]
    with pytest.raises(StageFailedError, match="output 0 has an item that is not a name"):
        run(nameless, **OPTIONS, majority_at=2, expected="key")
