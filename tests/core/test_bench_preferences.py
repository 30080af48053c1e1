"""The `bench` stage on preferences: comparisons of two arms, each with a winner or a tie."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stages_for_tests import registry

from crucible_bench import Comparison, compare_preferences
from crucible_core import Context, Experiment, InvalidOptionsError, StageFailedError, plan_experiment, run_experiment
from crucible_core.metrics import named_values
from crucible_core.report.comparison_section import comparison_section
from crucible_core.report.document import Items, Picture, Table

WINNERS = "aabatabaaabttabaaaabbataabatabaaab"
OUTPUTS = [
    {
        "model_a": ("new", "old")[place % 2],
        "model_b": ("old", "new")[place % 2],
        "winner": {"a": "new", "b": "old", "t": "tie"}[winner],
        "judge": f"judge {place % 3}",
        "prompt": place // 2,
    }
    for place, winner in enumerate(WINNERS)
]
FIELDS = {"first": "model_a", "second": "model_b"}
NAMED = {**FIELDS, "judge": "judge", "item": "prompt"}


def experiment_of(outputs: Any, **options: Any) -> Experiment:
    record = {"name": "record", "options": {"outputs": outputs}}
    return Experiment.model_validate({"id": "e", "pipeline": [record, {"name": "bench", "options": options}]})


def run(outputs: Any = OUTPUTS, assigns: Any = None, **options: Any) -> Context:
    return run_experiment(experiment_of(outputs, **options), registry=registry(), assigns=assigns)


def test_the_stage_stores_what_the_function_returns_and_records_its_choices() -> None:
    ctx = run(data="outputs", preferences=NAMED, baseline="old", measure="helpfulness")
    stored = ctx.get_metric("bench")
    expected = compare_preferences(OUTPUTS, **NAMED, baseline="old", measure="helpfulness")
    assert Comparison.from_dict(json.loads(json.dumps(stored))) == expected
    assert (stored["kind"], stored["version"]) == ("comparison", 2)
    assert expected.comparisons is not None
    assert "win rate of new 0." in expected.sentence
    assert "ties: half a win for both" in [decision.decision for decision in ctx.trace.decisions]
    assert named_values(ctx)["bench.new_vs_old.estimate"] == expected.comparisons.comparisons[0].estimate


def test_the_report_has_rates_strengths_judges_and_the_position_bias() -> None:
    result = Comparison.from_dict(run(data="outputs", preferences=NAMED).get_metric("bench"))
    blocks = comparison_section("bench", result).blocks
    pairs, arms, judges = (block for block in blocks if isinstance(block, Table))
    assert pairs.columns[:4] == ("first – second", "wins", "ties", "losses")
    assert pairs.rows[0][:4] == ("new – old", *(str(WINNERS.count(letter)) for letter in "atb"))
    assert [row[0] for row in arms.rows] == ["new", "old"]
    assert "log odds against the mean [95% CI]" in arms.columns
    assert sorted(row[0] for row in judges.rows) == ["judge 0", "judge 1", "judge 2"]
    lines = [line for block in blocks if isinstance(block, Items) for line in block.items]
    assert any(line.startswith("position bias: the arm shown first has a win rate of ") for line in lines)
    assert any(isinstance(block, Picture) for block in blocks)


def test_records_may_be_assigned_and_use_the_usual_names() -> None:
    records = [{"first": "new", "second": "old", "winner": one["winner"]} for one in OUTPUTS]
    ctx = run([], {"votes": records}, data="assigns.votes", preferences={})
    assert Comparison.from_dict(ctx.get_metric("bench")) == compare_preferences(records)
    with pytest.raises(StageFailedError, match=r"assigns\['votes'\] must be a list of comparisons"):
        run([], {"votes": {"new": 3}}, data="assigns.votes", preferences={})
    with pytest.raises(StageFailedError, match="outputs is empty"):
        run([], data="outputs", preferences={})


def test_an_arm_that_always_wins_is_reported_and_not_an_infinite_number() -> None:
    always = [{**one, "winner": "new"} for one in OUTPUTS]
    result = Comparison.from_dict(run(always, data="outputs", preferences=FIELDS).get_metric("bench"))
    blocks = comparison_section("bench", result).blocks
    lines = [line for block in blocks if isinstance(block, Items) for line in block.items]
    assert "new won every one of 34 comparisons, so no finite strength fits" in lines


def test_a_missing_winner_is_refused_or_left_out_openly() -> None:
    lacking = [{**OUTPUTS[0], "winner": None}, *OUTPUTS]
    with pytest.raises(StageFailedError, match="1 comparison of 35 without a winner"):
        run(lacking, data="outputs", preferences=FIELDS)
    result = Comparison.from_dict(run(lacking, data="outputs", preferences=FIELDS, missing="drop").get_metric("bench"))
    assert result.sentence.endswith("Left out because no winner is given: 1 of 35 comparisons.")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"design": "paired"}, "design: preferences do not take it; they take alpha, baseline,"),
        ({"margin": 0.1}, "margin: preferences do not take it"),
        ({"tests": ["sign"]}, "tests: preferences do not take it"),
        ({"data": "nowhere"}, "'nowhere' is not one of assigns.NAME"),
        ({"groups": ["a", "b"], "baseline": "c"}, "baseline: 'c' is not among the groups"),
        ({"preferences": {"frist": "x"}}, "frist"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_run(options: Any, said: str) -> None:
    with pytest.raises(InvalidOptionsError) as caught:
        plan_experiment(experiment_of([], **{"data": "outputs", "preferences": FIELDS, **options}), registry())
    assert said in str(caught.value)
