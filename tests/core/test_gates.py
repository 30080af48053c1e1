"""Gates: what may be written, and what they say of a run, with and without earlier ones."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError
from stages_for_tests import experiment_of, registry

from crucible_bench import WatchVerdict, compare, judge_margin, judge_new_value, watch_baseline
from crucible_bench.decisions.differences import Differences
from crucible_core import (
    Baseline,
    Context,
    Experiment,
    Gate,
    GateFailedError,
    GateResult,
    InvalidExperimentError,
    NoRegression,
    Registry,
    Stage,
    StageFailedError,
    judge_gates,
    load_experiment,
    plan_experiment,
    run_experiment,
)
from crucible_core.errors import Portable
from crucible_core.gates.judge import HOLDS
from crucible_core.gates.outcome import EarlierRun
from crucible_core.gates.regression import WATCHED
from crucible_core.ir.gates import BOUNDS
from crucible_core.metrics import results


@dataclass
class Kept:
    """Earlier runs, in memory."""

    runs: Sequence[EarlierRun] = ()
    later: Sequence[EarlierRun] = ()
    asked: list[Baseline] = field(default_factory=list)

    def baseline(self, baseline: Baseline) -> Sequence[EarlierRun]:
        self.asked.append(baseline)
        return self.runs

    def since(self, run_id: str, *, any_options: bool = False) -> Sequence[EarlierRun]:
        return self.later


def measured(*gates: dict[str, Any], **metrics: Any) -> tuple[Context, Any]:
    """A run that measured this, and its planned stages."""
    experiment = experiment_of("nothing", "bench", gates=gates)
    values = {name: metrics.pop(name) for name in ("control", "treatment") if name in metrics}
    context = Context.begin(experiment, assigns={"bench_data": values} if values else None).merge_metrics(metrics)
    return context, plan_experiment(experiment, registry())


def verdict(gate: dict[str, Any], past: Kept | None = None, **metrics: Any) -> GateResult:
    context, planned = measured({"name": "one", **gate}, **metrics)
    (result,) = judge_gates(context, planned, past)
    return result


def runs(*values: Sequence[float], metrics: dict[str, Any] | None = None) -> list[EarlierRun]:
    """Runs with these values as their group `control`."""
    made = [measured(control=list(one), treatment=[0.0], **(metrics or {}))[0] for one in values]
    return [EarlierRun(one.run_id, lambda one=one: one) for one in made]


def numbered(*values: float) -> list[EarlierRun]:
    made = [measured(accuracy=value)[0] for value in values]
    return [EarlierRun(one.run_id, lambda one=one: one) for one in made]


def against(margin: float = 0.1, **more: Any) -> dict[str, Any]:
    rest = {name: more.pop(name) for name in ("severity", "blocking", "undecided") if name in more}
    what = {} if "metric" in more else {"group": "control"}
    return {"no_regression": {**what, "margin": margin, **more}, **rest}


# --- what may be written ----------------------------------------------------------------------------------------------

RULES = {"gates": [{"name": "one", "metric": "a", "at_least": 1}, {"name": "two", "metric": "a", "below": 2}]}


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"metric": "a"}, "a metric has one bound, above, at_least, at_most, below, is; given: none"),
        ({"metric": "a", "above": 1, "below": 2}, "given: above and below"),
        ({"metric": "a", "is": True, "below": 2}, "given: below and is"),
        ({"metric": "a", "is": 1}, "valid boolean"),
        ({"metric": "a", "is_": True}, "unknown key 'gates.0.is_'; did you mean 'is'?"),
        ({"at_least": 1}, "a gate needs a `metric` with a bound, or `no_regression`"),
        ({}, "a gate needs a `metric` with a bound, or `no_regression`"),
        ({"metric": "a", "at_least": 1, "no_regression": {"group": "g", "margin": 1}}, "make two gates of it"),
        ({"metric": "a", "at_least": 1, "blocking": True, "severity": "warn"}, "`blocking: true` is for"),
        ({"metric": "a", "at_least": 1, "undecided": "fail", "severity": "warn"}, "`undecided: fail` is for"),
        ({"metric": "a", "at_least": "1"}, "valid number"),
        ({"metric": "a", "at_leats": 1}, "did you mean 'at_least'?"),
        (against(margin=0.0), "greater than 0"),
        ({"no_regression": {"margin": 1}}, "either `group`, of a bench stage, or `metric`"),
        (against(metric="a", group="g"), "either `group`, of a bench stage, or `metric`"),
        (against(metric="a", baseline={"last_runs": 3}, paired=True), "`paired` is for the values of a `group`"),
        (against(metric="a", baseline={"last_runs": 3}, bench="b"), "`bench` names the stage of a `group`"),
        (against(metric="a"), "have no interval"),
        (against(metric="a", baseline={"run": "0a1b"}), "one of run 0a1b have no interval"),
        (against(baseline="last_pasing"), "a baseline is 'last_passing', or one of"),
        (against(baseline={"last_runs": 1}), "greater than or equal to 2"),
        (against(baseline={"last_runs": 2, "variant": "x"}), "set one of run, last_runs and variant"),
        (against(baseline={"last_run": 2}), "did you mean 'last_runs'?"),
        (against(bounds=[0, 1]), "`bounds` are for `looks: always_valid`"),
        (against(looks="always_valid", baseline={"run": "0a1b"}, bounds=[1, 0]), "the lowest and the highest"),
        (against(looks="always_valid", bounds=[0, 1]), "needs `baseline: {run: ID}`"),
        (
            against(looks="always_valid", bounds=[0, 1], baseline={"run": "a"}, paired=True),
            "nothing to pair: leave `paired` out",
        ),
    ],
)
def test_a_gate_that_says_nothing_or_two_things_is_refused_where_it_stands(
    tmp_path: Path, gate: dict[str, Any], said: str
) -> None:
    described = experiment_of("nothing").to_dict()
    file = tmp_path / "e.json"
    file.write_text(json.dumps({**described, "gates": [{"name": "x", **gate}]}, indent=1))
    with pytest.raises(InvalidExperimentError) as raised:
        load_experiment(file)
    assert said in str(raised.value)
    assert raised.value.line is not None
    assert raised.value.line > 5


def test_two_gates_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"two entries are named 'one' \(positions 1 and 2\)"):
        experiment_of("nothing", gates=[RULES["gates"][0], {**RULES["gates"][1], "name": "one"}])


@pytest.mark.parametrize(
    ("deps", "said"),
    [(["a//b"], "is not an asset key"), (["a/ b"], "is not an asset key"), (["a", "a"], "named twice")],
)
def test_a_dependency_is_the_key_of_an_asset(deps: list[str], said: str) -> None:
    assert experiment_of("nothing", deps=["dbt/orders", "raw"]).deps == ("dbt/orders", "raw")
    with pytest.raises(ValidationError, match=said):
        experiment_of("nothing", deps=deps)


@pytest.mark.parametrize(
    "baseline",
    ["last_passing", {"run": "0a1b2c3d"}, {"last_runs": 5, "any_options": True}, {"any_options": True}, None],
)
def test_gates_are_written_back_as_they_were_read(baseline: Any) -> None:
    rule = {"group": "svm", "margin": 0.5, **({} if baseline is None else {"baseline": baseline})}
    described = {
        **experiment_of("bench").to_dict(),
        "deps": ["dbt/orders"],
        "gates": [{"name": "no_worse", "no_regression": rule, "blocking": True}],
    }
    experiment = Experiment.model_validate(described)
    assert experiment.to_dict() == described
    assert Experiment.model_validate_json(experiment.to_json()) == experiment
    in_code = Gate(
        name="no_worse",
        blocking=True,
        no_regression=NoRegression(group="svm", margin=0.5)
        if baseline is None
        else NoRegression(group="svm", margin=0.5, baseline=experiment.gates[0].no_regression.baseline),  # type: ignore
    )
    assert in_code == experiment.gates[0]  # type: ignore[index]


def test_a_group_of_a_bench_stage_that_the_pipeline_does_not_have_is_refused_before_the_first_stage(
    tmp_path: Path,
) -> None:
    file = tmp_path / "e.yaml"
    text = """id: x
pipeline: [{name: nothing}, {name: bench, enabled: false}, {name: speed, module: bench, options: {metric: speed}}]
gates:
  - name: no_worse
    no_regression: {group: a, margin: 1}
  - name: as_fast
    no_regression:
      group: a
      bench: sped
      margin: 1
"""
    file.write_text(text)
    with pytest.raises(InvalidExperimentError) as raised:
        plan_experiment(load_experiment(file), registry())
    first, second = raised.value.each()
    assert (first.line, second.line) == (5, 9)
    assert "no stage of the pipeline compares groups and puts the metric 'bench'" in first.message
    assert "did you mean 'speed'?" in second.message


def test_every_bound_is_implemented_and_has_its_words() -> None:
    fields = {field.alias or name for name, field in Gate.model_fields.items()}
    assert set(HOLDS) == set(BOUNDS) == fields & set(BOUNDS)
    assert len(BOUNDS) == 5
    described = Experiment.model_json_schema()["$defs"]["Gate"]["properties"]
    assert described["is"]["description"] == "For a metric that is true or false."


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "value", "status"),
    [
        ("at_least", 0.9, "passed"),
        ("at_least", np.nextafter(0.9, 0), "failed"),
        ("at_most", 0.9, "passed"),
        ("at_most", np.nextafter(0.9, 1), "failed"),
        ("above", 0.9, "failed"),
        ("above", np.nextafter(0.9, 1), "passed"),
        ("below", 0.9, "failed"),
        ("below", np.float32(0.5), "passed"),
        pytest.param("above", 10**5000, "passed", id="huge"),
        ("above", math.inf, "passed"),
        ("below", -math.inf, "passed"),
        ("at_least", np.int64(1), "passed"),
    ],
)
def test_a_bound_is_held_to_the_last_digit(bound: str, value: Any, status: str) -> None:
    result = verdict({"metric": "a", bound: 0.9}, a=value)
    assert (result.status, result.severity) == (status, "error")
    assert result.numbers["bound"] == 0.9
    assert result.numbers["value"] == (math.inf if isinstance(value, int) else value)
    assert result.sentence.startswith("a is ")
    assert ("not " in result.sentence) == (status == "failed")


def test_a_number_that_reads_like_its_bound_is_written_out() -> None:
    result = verdict({"metric": "a", "at_least": 0.9}, a=0.89999999)
    assert result.sentence == "a is 0.89999999, not at least 0.9"


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"accuracy": math.nan}, "accuracy is not a number: it is 'NaN'"),
        ({"accuracy": "0.95"}, "accuracy is not a number: it is '0.95'"),
        ({"accuracy": None}, "accuracy is not a number: it is None"),
        ({"accuracy": [0.95]}, "accuracy is not a number: it is [0.95]"),
        ({"accuracy": Decimal("sNaN")}, "accuracy is not a number: it is 'sNaN'"),
        ({"accuracy": 1 + 0j}, "accuracy is not a number: it is '(1+0j)'"),
    ],
)
def test_what_is_no_number_is_undecided_and_never_passes(metrics: dict[str, Any], said: str) -> None:
    gate = {"metric": "accuracy", "at_least": 0.9}
    result = verdict(gate, **metrics)
    assert (result.status, result.severity, result.blocks) == ("undecided", "warn", False)
    assert result.sentence == said
    assert verdict({**gate, "blocking": True}, **metrics).blocks is False
    strict = verdict({**gate, "blocking": True, "undecided": "fail"}, **metrics)
    assert (strict.status, strict.severity, strict.blocks) == ("undecided", "error", True)


@pytest.mark.parametrize(
    ("name", "metrics", "said"),
    [
        ("accuracy", {}, "there is no metric 'accuracy'; numbers: none"),
        ("accuracy", {"acuracy": 0.5}, "there is no metric 'accuracy'; did you mean 'acuracy'?"),
        ("accuracy", {"loss": 0.5, "note": "x"}, "there is no metric 'accuracy'; numbers: loss"),
        ("accuracy", {"accuracy": {"svm": 0.95}}, "accuracy is not a number: it contains several: accuracy.svm"),
        ("val.los", {"val": {"loss": 0.5}}, "there is no metric 'val.los'; did you mean 'val.loss'?"),
        ("vall.loss", {"val": {"loss": 0.5}}, "there is no metric 'vall.loss'; did you mean 'val.loss'?"),
        (
            "val.deep.qqqqqqqqqqq",
            {"val": {"deep": {"f1": 1}, "b": 2}, "x": 3},
            "there is no metric 'val.deep.qqqqqqqqqqq'; numbers of val.deep: val.deep.f1",
        ),
    ],
)
def test_a_name_that_no_metric_has_fails_the_gate(name: str, metrics: dict[str, Any], said: str) -> None:
    result = verdict({"metric": name, "at_least": 0.9, "blocking": True}, **metrics)
    assert (result.status, result.severity, result.blocks, result.sentence) == ("failed", "error", True, said)
    warned = verdict({"metric": name, "is": True, "severity": "warn"}, **metrics)
    assert (warned.status, warned.fails) == ("failed", False)
    rule = {"metric": name, "baseline": {"last_runs": 2}, "margin": 1}
    for past in (None, Kept(numbered(0.9, 0.8))):
        assert verdict({"no_regression": rule}, past, **metrics).sentence == said
        assert verdict({"no_regression": rule}, past, **metrics).fails


def test_a_metric_that_earlier_runs_do_not_have_is_undecided() -> None:
    result = verdict(against(metric="speed", baseline={"last_runs": 2}), Kept(numbered(0.9, 0.8)), speed=1.0)
    assert result.status == "undecided"
    assert "the baseline cannot be compared: run" in result.sentence


@pytest.mark.parametrize(
    "number", [Decimal("0.9"), Fraction(9, 10), np.array(0.9), np.float64(0.9), np.longdouble(0.9)]
)
def test_every_type_of_number_is_held_to_a_bound(number: Any) -> None:
    assert verdict({"metric": "a", "at_least": 0.9}, a=number).status == "passed"
    assert verdict({"metric": "a", "above": 0.9}, a=number).status == "failed"
    context, _ = measured(a=number, in_a={"mapping": number})
    assert dict(results(context)) == {"a": 0.9, "in_a.mapping": 0.9}


@pytest.mark.parametrize("yes", [True, np.bool_(True), 1, 1.0])
def test_a_metric_that_is_true_or_false_is_held_to_is(yes: Any) -> None:
    no = type(yes)(0)
    good = verdict({"metric": "converged", "is": True}, converged=yes)
    assert (good.status, good.sentence, good.numbers) == ("passed", "converged is true", {"value": 1, "bound": 1})
    bad = verdict({"metric": "converged", "is": True, "blocking": True}, converged=no)
    assert (bad.status, bad.blocks, bad.sentence) == ("failed", True, "converged is false, not true")
    assert verdict({"metric": "diverged", "is": False}, diverged=no).status == "passed"
    assert verdict({"metric": "converged", "is": True}, converged=0.5).sentence == "converged is 0.5, not true"
    assert Gate.model_validate({"name": "g", "metric": "converged", "is": True}).words == "converged is true"


def test_a_boolean_is_a_number_for_every_bound() -> None:
    result = verdict({"metric": "converged", "at_least": 0.5, "blocking": True}, converged=False)
    assert (result.status, result.blocks) == ("failed", True)
    assert result.sentence == "converged is false (0), not at least 0.5"
    assert verdict({"metric": "converged", "above": 0}, converged=np.bool_(True)).status == "passed"
    assert dict(results(measured(converged=True)[0])) == {"converged": 1}


def test_a_name_that_two_numbers_have_decides_nothing() -> None:
    context, planned = measured({"name": "low", "metric": "val.loss", "at_most": 0.5})
    context = context.put_metric("val", {"loss": 0.1}).put_metric("val.loss", 0.9)
    (result,) = judge_gates(context, planned)
    assert (result.status, result.fails) == ("undecided", False)
    assert result.sentence == "several metrics have the name val.loss, with the values 0.1 and 0.9: rename one of them"
    (same,) = judge_gates(context.put_metric("val.loss", 0.1), planned)
    assert same.status == "passed"


def test_nested_metrics_and_the_numbers_of_a_comparison_have_names() -> None:
    names = ["bench.control.mean", "bench.ttest.effect_size", "bench.ttest.p_value", "bench.groups.control.n"]
    names += [f"bench.ttest.{what}_{end}" for what in ("interval", "effect_size") for end in ("low", "high")]
    gates = [{"name": f"g{index}", "metric": name, "above": -1e9} for index, name in enumerate([*names, "deep.loss"])]
    described = experiment_of(
        {"name": "groups", "options": {"control": [1.0, 2.0, 4.0], "treatment": [3.0, 4.0, 6.5]}},
        "bench",
        gates=gates,
    )
    planned = plan_experiment(described, registry())
    context = run_experiment(described, registry=registry()).put_metric("deep", {"loss": 0.5})
    found = judge_gates(context, planned)
    assert [one.status for one in found] == ["passed"] * len(gates)
    test = context.metrics["bench"]["tests"]["ttest"]
    by_name = {gate["metric"]: one.numbers["value"] for gate, one in zip(gates, found, strict=True)}
    assert [by_name["bench.ttest.interval_low"], by_name["bench.ttest.interval_high"]] == test["confidence_interval"]
    assert by_name["bench.ttest.effect_size_low"] == test["effect_size_interval"][0]


# --- no regression ----------------------------------------------------------------------------------------------------

NOISE = np.random.default_rng(3).normal(0, 0.01, 12)
OLD = [0.9 + value for value in NOISE]
SPREAD = list(np.random.default_rng(4).normal(0, 0.01, 12))


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("shift", "margin", "status"),
    [(0.0, 0.05, "passed"), (0.2, 0.05, "passed"), (-0.2, 0.05, "failed"), (-0.02, 0.021, "undecided")],
)
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_interval_of_the_difference_decides(
    shift: float, margin: float, status: str, paired: bool, higher_is_better: bool
) -> None:
    now = [old + (shift if higher_is_better else -shift) + noise for old, noise in zip(OLD, SPREAD, strict=True)]
    past = Kept(runs(OLD))
    result = verdict(
        against(margin, paired=paired, higher_is_better=higher_is_better), past, control=now, treatment=[0.0]
    )
    judged = judge_margin(
        {"a": now, "b": OLD}, margin, paired=paired, higher_is_better=higher_is_better, non_inferiority=True
    )
    if status == "undecided":
        assert judged.verdict in {"inconclusive", "worse"}
    if judged.verdict == "inconclusive":
        assert (result.status, result.severity) == ("undecided", "warn")
        assert result.numbers["more_replicates"] == judged.more_replicates
        assert "more" in result.sentence
    elif judged.verdict == "worse":
        assert result.status == "failed"
    else:
        assert result.status == status == "passed"
    assert result.numbers["estimate"] == pytest.approx(judged.estimate)
    assert (result.numbers["interval_low"], result.numbers["interval_high"]) == pytest.approx(
        judged.equivalence_interval
    )
    assert result.numbers["confidence_level"] == pytest.approx(0.9)
    assert result.numbers["margin"] == margin
    assert result.baseline_runs == (past.runs[0].run_id,)
    assert past.runs[0].run_id in result.sentence
    assert past.asked == [Baseline()]


def test_few_values_cannot_rule_a_loss_out_and_say_how_many_would() -> None:
    result = verdict(against(0.01), Kept(runs([0.9, 0.8, 1.0])), control=[0.92, 0.81, 0.97], treatment=[0.0])
    assert (result.status, result.severity) == ("undecided", "warn")
    assert result.numbers["more_replicates"] > 100
    assert "more values in each run would decide" in result.sentence
    blocked = verdict(
        against(0.01, undecided="fail", blocking=True),
        Kept(runs([0.9, 0.8, 1.0])),
        control=[0.92, 0.81, 0.97],
        treatment=[0.0],
    )
    assert blocked.blocks


def test_without_history_or_an_earlier_run_it_is_undecided_and_blocks_nothing() -> None:
    gate = against(blocking=True, undecided="fail")
    for past, said in ((None, "the history that Dagster keeps"), (Kept(), "no earlier run of the experiment passed")):
        result = verdict(gate, past, control=OLD, treatment=[0.0])
        assert (result.status, result.severity, result.blocks) == ("undecided", "warn", False)
        assert said in result.sentence


@pytest.mark.parametrize(
    ("more", "baseline", "said"),
    [
        ({}, {}, "no earlier run of the experiment passed with the options of the file"),
        ({"variants": {"small": {}}}, {}, "no earlier run of the experiment without a variant passed with the options"),
        ({"variants": {"small": {}}, "variant": "small"}, {}, "no earlier run of variant 'small' passed with the"),
        ({}, {"any_options": True}, "no earlier run of the experiment passed"),
        ({"variants": {"small": {}}}, {"variant": "small"}, "no run of variant 'small' has succeeded with the options"),
        (
            {"variants": {"small": {}}},
            {"variant": "small", "any_options": True},
            "no run of variant 'small' has succeeded",
        ),
    ],
)
def test_it_says_which_runs_it_looked_for(more: dict[str, Any], baseline: dict[str, Any], said: str) -> None:
    rule = {"group": "control", "margin": 1.0, **({"baseline": baseline} if baseline else {})}
    experiment = experiment_of("nothing", "bench", gates=[{"name": "one", "no_regression": rule}], **more)
    context = Context.begin(experiment, assigns={"bench_data": {"control": OLD, "treatment": [0.0]}})
    (result,) = judge_gates(context, plan_experiment(experiment, registry()), Kept())
    assert result.sentence.startswith(f"there is nothing to compare with yet: {said}")
    assert ("with the options of the file" in result.sentence) != ("any_options" in baseline)


@pytest.mark.parametrize(
    ("shift", "margin", "higher_is_better", "said"),
    [
        (-0.2, 0.05, True, "it is worse by more than the margin of 0.05"),
        (0.2, 0.05, False, "it is worse by more than the margin of 0.05"),
        (-0.2, 0.2, True, "it is worse, and the loss may be 0.2"),
        (0.2, 0.2, False, "it is worse, and the loss may be 0.2"),
    ],
)
def test_a_failed_gate_says_what_is_worse_and_by_how_much(
    shift: float, margin: float, higher_is_better: bool, said: str
) -> None:
    now = [value + shift for value in OLD]
    noisy = [value + noise for value, noise in zip(now, SPREAD, strict=True)]
    gate = against(margin, paired=True, higher_is_better=higher_is_better)
    result = verdict(gate, Kept(runs(OLD)), control=noisy, treatment=[0.0])
    assert result.status == "failed"
    assert "(95% CI of the difference [" in result.sentence
    assert said in result.sentence
    assert ("more than the margin of 0.2" in result.sentence) == (margin == 0.2)


@pytest.mark.parametrize(
    ("earlier", "options", "said"),
    [
        (runs(OLD[:-1]), {"paired": True}, "has 11 values, this one 12"),
        (runs([0.9, math.nan]), {}, "lacks 1 of 2 values (position 1, counted from 0)"),
        (runs([]), {}, "is empty"),
        ([EarlierRun("r1", lambda: measured()[0])], {}, "cannot be read: no stage before this one put assigns"),
        (runs(OLD, metrics={"bench": {"measure": "seconds"}}), {}, "its bench stage measured seconds"),
    ],
)
def test_a_baseline_that_cannot_be_compared_is_undecided(
    earlier: list[EarlierRun], options: dict[str, Any], said: str
) -> None:
    result = verdict(against(**options, blocking=True), Kept(earlier), control=OLD, treatment=[0.0])
    assert (result.status, result.severity, result.blocks) == ("undecided", "warn", False)
    assert said in result.sentence
    assert result.baseline_runs == (earlier[0].run_id,)
    assert verdict(against(**options, undecided="fail"), Kept(earlier), control=OLD, treatment=[0.0]).fails


def test_a_group_that_the_run_does_not_have_fails_and_says_which_there_are() -> None:
    result = verdict(against(group="contrl"), Kept(runs(OLD)), control=OLD, treatment=[0.0])
    assert result.status == "failed"
    assert "there is no group 'contrl'; did you mean 'control'?; groups: control, treatment" in result.sentence


@pytest.mark.parametrize(
    ("now", "then", "paired", "status", "said"),
    [
        (OLD, OLD, True, "passed", "control is exactly what it was in run"),
        ([0.9] * 5, [0.9] * 5, False, "passed", "control is exactly what it was in run"),
        ([0.0] * 5, [1.0] * 5, True, "failed", "control is 1 lower than in run"),
        ([0.2] * 5, [0.7] * 3, False, "failed", "lower than in run"),
        ([1.0], [1.0], True, "undecided", "is not shown to be worse"),
        ([1.0], [1.0], False, "undecided", "is not shown to be worse"),
        ([0.5], [0.5], True, "undecided", "one pair has no spread"),
        ([0.5], [0.5], False, "undecided", "at least 2 per group"),
    ],
)
def test_what_does_not_vary_is_taken_as_it_is(
    now: list[float], then: list[float], paired: bool, status: str, said: str
) -> None:
    result = verdict(against(paired=paired), Kept(runs(then)), control=now, treatment=[0.0])
    assert result.status == status
    assert said in result.sentence


def test_folds_of_one_data_set_are_compared_as_the_bench_stage_declares_them() -> None:
    bench = {"name": "bench", "options": {"design": "resampled", "folds": len(OLD)}}
    now = [value + noise for value, noise in zip(OLD, SPREAD, strict=True)]

    def of(values: list[float]) -> Context:
        experiment = experiment_of("nothing", bench, gates=[{"name": "one", **against(0.03, paired=True)}])
        return Context.begin(experiment, assigns={"bench_data": {"control": values, "treatment": OLD}})

    planned = plan_experiment(of(now).experiment, registry())
    (result,) = judge_gates(of(now), planned, Kept([EarlierRun("r1", lambda: of(OLD))]))
    as_folds, as_pairs = (
        judge_margin({"a": now, "b": OLD}, 0.03, difference=Differences(design), non_inferiority=True)
        for design in ("resampled", "paired")
    )
    assert result.numbers["interval_low"] == pytest.approx(as_folds.equivalence_interval[0])
    # Folds that share their training data say less than as many independent pairs.
    assert as_folds.equivalence_interval[0] < as_pairs.equivalence_interval[0]


def test_a_group_whose_quantile_is_compared_is_held_to_that_by_a_metric_and_not_to_its_mean() -> None:
    bench = {"name": "bench", "options": {"quantile": 0.5}}

    def of(gate: dict[str, Any], shift: float = 0.0) -> Context:
        experiment = experiment_of("nothing", bench, gates=[{"name": "one", **gate}])
        groups = {"control": [value + shift for value in OLD], "treatment": OLD}
        compared = compare(groups, quantile=0.5).to_dict()
        return Context.begin(experiment, assigns={"bench_data": groups}).put_metric("bench", compared)

    def judged(gate: dict[str, Any]) -> GateResult:
        earlier = [of(gate, shift) for shift in (0.0, 0.001, -0.001)]
        past = Kept([EarlierRun(one.run_id, lambda one=one: one) for one in earlier])
        (result,) = judge_gates(of(gate), plan_experiment(of(gate).experiment, registry()), past)
        return result

    of_group = judged(against())
    assert of_group.status == "undecided"
    assert "take `metric: bench.control.quantile` instead of the group" in of_group.sentence
    of_metric = judged(against(metric="bench.control.quantile", baseline={"last_runs": 3}))
    assert (of_metric.status, of_metric.numbers["value"]) == ("passed", pytest.approx(np.median(OLD)))


def test_pairs_that_have_names_are_compared_by_them_and_not_by_the_order_of_the_run() -> None:
    bench = {
        "name": "bench",
        "options": {
            "data": "outputs",
            "group_by": "group",
            "value": "score",
            "pair_by": "question",
            "paired": True,
        },
    }
    now = [value + noise / 100 for value, noise in zip(OLD, SPREAD, strict=True)]

    def of(values: list[float], order: Sequence[int]) -> Context:
        experiment = experiment_of("nothing", bench, gates=[{"name": "one", **against(0.03, paired=True)}])
        outputs = [
            {"group": group, "question": f"q{place}", "score": scores[place]}
            for place in order
            for group, scores in (("control", values), ("treatment", OLD))
        ]
        return Context.begin(experiment).add_outputs(outputs)

    def judged(earlier: Context) -> GateResult:
        current = of(now, range(len(now)))
        planned = plan_experiment(current.experiment, registry())
        return judge_gates(current, planned, Kept([EarlierRun("r1", lambda: earlier)]))[0]

    straight, shuffled = judged(of(OLD, range(len(OLD)))), judged(of(OLD, range(len(OLD))[::-1]))
    assert straight.status == "passed"
    assert shuffled.numbers == pytest.approx(straight.numbers)
    other = judged(of(OLD, range(1, len(OLD))))
    assert other.status == "undecided"
    assert "different pairs" in other.sentence


@pytest.mark.parametrize("kind", [list, np.array])
def test_right_and_wrong_answers_are_compared_by_their_share(kind: Any) -> None:
    then, now = [True, True, False, True] * 50, kind([True, True, False, False] * 50)
    result = verdict(against(0.05, paired=True), Kept(runs(then)), control=now, treatment=[0.0])
    assert result.status == "failed"
    assert result.numbers["estimate"] == -0.25


def test_answers_that_are_all_right_have_the_interval_of_their_shares() -> None:
    def judged(n: int, now: float = 1.0) -> GateResult:
        return verdict(against(0.05), Kept(runs([1.0] * n)), control=[now] * n, treatment=[0.0])

    few, many = judged(5), judged(100)
    assert (few.status, many.status) == ("undecided", "passed")
    assert few.numbers["interval_low"] < -0.3
    assert -0.05 < many.numbers["interval_low"] < -0.02
    assert judged(5, now=0.0).status == "failed"


def test_several_runs_are_averaged_pair_by_pair() -> None:
    earlier = [OLD, [value + 0.02 for value in OLD], [value - 0.02 for value in OLD]]
    now = [value + noise for value, noise in zip(OLD, SPREAD, strict=True)]
    result = verdict(
        against(baseline={"last_runs": 3}, paired=True), Kept(runs(*earlier)), control=now, treatment=[0.0]
    )
    judged = judge_margin({"a": now, "b": OLD}, 0.1, paired=True, non_inferiority=True)
    assert result.numbers["estimate"] == pytest.approx(judged.estimate)
    assert len(result.baseline_runs) == 3
    assert "the 3 runs before" in result.sentence


@pytest.mark.parametrize("what", ["metric", "group"])
def test_each_earlier_run_is_one_observation_of_a_number(what: str) -> None:
    earlier = [0.90, 0.91, 0.89, 0.905, 0.895]
    rule = against(0.1, baseline={"last_runs": 5}, **({"metric": "accuracy"} if what == "metric" else {}))
    if what == "metric":
        result = verdict(rule, Kept(numbered(*earlier)), accuracy=0.88)
    else:
        kept = Kept(runs(*([value - 0.3, value + 0.3] for value in earlier)))
        result = verdict(rule, kept, control=[0.78, 0.98], treatment=[0.0])
    judged = judge_new_value(0.88, earlier, 0.1, non_inferiority=True)
    assert result.status == "passed"
    assert result.numbers["interval_low"] == pytest.approx(judged.equivalence_interval[0])
    assert (result.numbers["n"], result.numbers["n_baseline"]) == (1, 5)


def test_one_earlier_number_has_no_interval_and_says_so() -> None:
    rule = against(0.1, metric="accuracy", baseline={"last_runs": 5})
    result = verdict(rule, Kept(numbered(0.9)), accuracy=0.95)
    assert result.status == "undecided"
    assert "there is only one earlier number, 0.9, which gives no interval" in result.sentence
    still = verdict(rule, Kept(numbered(0.9, 0.9)), accuracy=0.9)
    assert still.status == "passed"


@pytest.mark.parametrize(("earlier", "severity"), [([0.9], "warn"), ([0.9, 0.8], "warn"), ([0.9, 0.8, 0.85], "error")])
def test_nothing_fails_until_there_are_as_many_runs_as_were_asked_for(earlier: list[float], severity: str) -> None:
    rule = against(0.01, metric="accuracy", baseline={"last_runs": 3}, undecided="fail", blocking=True)
    result = verdict(rule, Kept(numbered(*earlier)), accuracy=0.85)
    assert (result.status, result.severity, result.blocks) == ("undecided", severity, severity == "error")
    if len(earlier) > 1:  # what they do show counts
        lost = verdict(rule, Kept(numbered(*earlier)), accuracy=-9.0)
        assert (lost.status, lost.blocks) == ("failed", True)


def test_earlier_runs_without_the_number_are_named_and_left_out() -> None:
    kept = Kept([*numbered(0.9, 0.91, 0.89), EarlierRun("r4", lambda: measured(loss=1)[0])])
    result = verdict(against(0.1, metric="accuracy", baseline={"last_runs": 4}), kept, accuracy=0.9)
    assert result.status == "passed"
    assert "(1 of 4 earlier runs cannot be compared; run r4: there is no metric 'accuracy'" in result.sentence
    assert result.numbers["n_baseline"] == 3


def test_a_stage_that_breaks_on_an_earlier_context_makes_the_gate_undecided_and_no_error() -> None:
    class Unreadable(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("not any more")

    context, _ = measured()
    broken = EarlierRun("r1", lambda: context.assign(bench_data=Unreadable()))
    result = verdict(against(), Kept([broken]), control=OLD, treatment=[0.0])
    assert "run r1 cannot be read: RuntimeError: not any more" in result.sentence


# --- looking every night ----------------------------------------------------------------------------------------------


def night(values: Sequence[float], *, margin: float, pinned: float = 0.8, **more: Any) -> GateResult:
    """The verdict after the last of these nights."""
    (first,) = numbered(pinned)
    rule = against(margin, metric="accuracy", baseline={"run": first.run_id}, looks="always_valid", **more)
    return verdict(rule, Kept([first], numbered(*values[:-1])), accuracy=values[-1])


def test_all_runs_since_the_pinned_one_are_looked_at_together() -> None:
    values = [0.5 + value for value in SPREAD * 4]
    result = night(values, margin=0.05, bounds=[0, 1])
    watched = watch_baseline(0.8, values, margin=0.05, bounds=(0, 1))
    assert (result.status, watched.verdict) == ("failed", "worse")
    assert (result.numbers["interval_low"], result.numbers["interval_high"]) == watched.interval
    assert (result.numbers["n"], result.numbers["confidence_level"]) == (48, 0.95)
    assert "is, over 48 runs, 0.30" in result.sentence
    assert "which holds at every look" in result.sentence
    assert night([0.8 + value for value in SPREAD], margin=0.05).status == "passed"
    few = night([0.5, 0.81], margin=0.05)
    assert (few.status, few.severity) == ("undecided", "warn")


def test_every_verdict_of_the_watch_has_a_status() -> None:
    assert set(WATCHED) == set(get_args(WatchVerdict))
    assert night([0.8 - value for value in SPREAD], margin=0.05, higher_is_better=False).status == "passed"
    assert night([0.95 - value for value in SPREAD], margin=0.05, higher_is_better=False).status == "failed"


@pytest.mark.parametrize("bounds", [None, [0, 1]])
@pytest.mark.slow
def test_looking_every_night_for_a_month_keeps_the_error_rate(bounds: list[float] | None) -> None:
    """Of months that lose just the margin, at most alpha have a night that fails, and at most alpha one that passes.

    The interval of a night is the same whether or not later nights are there, so that one call tells of all of them.
    """
    rng, alpha, nights, margin = np.random.default_rng(5), 0.1, 30, 0.1
    limits, months = (None, 200) if bounds is None else ((0.0, 1.0), 40)  # bets take their time

    def nights_of(shift: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for month in np.clip(rng.normal(0.6 + shift, 0.05, size=(months, nights)), 0, 1):
            watched = watch_baseline(0.6, month, margin=margin, bounds=limits, alpha=alpha)
            yield np.array(watched.lower), np.array(watched.upper)

    most = alpha * months + 3 * math.sqrt(alpha * (1 - alpha) * months)
    at_the_margin = list(nights_of(-margin))
    assert sum(bool((high < -margin).any()) for _, high in at_the_margin) <= most
    assert sum(bool((low > -margin).any()) for low, _ in at_the_margin) <= most
    # It finds a difference where there is one, so the silence at the margin is no weakness.
    assert sum(bool((high < -margin).any()) for _, high in nights_of(-4 * margin)) >= 0.95 * months
    assert sum(bool((low > -margin).any()) for low, _ in nights_of(margin)) >= 0.95 * months
    some = np.clip(rng.normal(0.6, 0.05, size=12), 0, 1)
    for look in (3, 12):
        watched = watch_baseline(0.6, some[:look], margin=margin, bounds=limits, alpha=alpha)
        result = night(some[:look], margin=margin, pinned=0.6, alpha=alpha, **({"bounds": bounds} if bounds else {}))
        assert result.status == WATCHED[watched.verdict]


# --- without Dagster --------------------------------------------------------------------------------------------------


def test_a_blocking_gate_that_fails_raises_after_the_last_stage_with_the_whole_context() -> None:
    described = experiment_of(
        {"name": "measure", "options": {"value": 0.5}},
        "report",
        gates=[
            {"name": "good", "metric": "accuracy", "at_least": 0.9, "blocking": True},
            {"name": "fair", "metric": "accuracy", "at_least": 0.4},
            {"name": "fine", "metric": "accuracy", "above": 0.5, "severity": "warn"},
        ],
    )
    with pytest.raises(GateFailedError) as raised:
        run_experiment(described, registry=registry())
    error = raised.value
    assert str(error) == ("a gate of experiment 'tried' did not pass: good: accuracy is 0.5, not at least 0.9")
    assert error.context.completed_stages == ("measure", "report")
    assert Path(error.context.artifacts["report.html"]).exists()
    assert [(one.gate, one.status, one.severity) for one in error.gates] == [
        ("good", "failed", "error"),
        ("fair", "passed", "error"),
        ("fine", "failed", "warn"),
    ]
    assert isinstance(error, Portable)


def test_the_error_of_a_gate_crosses_processes() -> None:
    import pickle

    described = experiment_of("measure", gates=[{"name": "g", "metric": "accuracy", "above": 1, "blocking": True}])
    with pytest.raises(GateFailedError) as raised:
        run_experiment(described, registry=registry())
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.gates) == (str(raised.value), raised.value.gates)


def test_gates_that_do_not_block_let_the_run_pass() -> None:
    gates = [{"name": "g", "metric": "accuracy", "above": 1}, {"name": "h", "metric": "nothing", "above": 1}]
    context = run_experiment(experiment_of("measure", gates=gates), registry=registry())
    assert context.metrics["accuracy"] == 0.5


def test_a_stage_that_fails_is_what_the_error_says_and_no_gate() -> None:
    gates = [{"name": "g", "metric": "accuracy", "above": 1, "blocking": True}]
    with pytest.raises(StageFailedError):
        run_experiment(experiment_of("measure", "fail", gates=gates), registry=registry())


# --- the reports ------------------------------------------------------------------------------------------------------


def reported(*more: Any, **gate: Any) -> Experiment:
    outputs = [
        {"name": "full", "formats": ["markdown", "html", "json", "latex"]},
        {"name": "shown", "formats": ["markdown"], "sink": "stdout"},
    ]
    gates = [{"name": "good", "metric": "accuracy", **gate}]
    return experiment_of({"name": "measure", "options": {"value": 0.5}}, "report", *more, outputs=outputs, gates=gates)


def test_the_saved_reports_have_the_results_of_the_gates(capsys: pytest.CaptureFixture[str]) -> None:
    context = run_experiment(reported(at_least=0.4), registry=registry())
    for report_format in ("markdown", "html", "latex"):
        text = Path(context.artifacts[f"full.{report_format}"]).read_text()
        assert "accuracy is 0.5, at least 0.4" in text
    saved = json.loads(Path(context.artifacts["full.json"]).read_text())
    assert saved["gates"] == [one.to_dict() for one in context.trace.gates]
    assert saved["status"] == "succeeded"
    assert saved["stages"] == {"measure": "succeeded", "report": "succeeded"}
    assert capsys.readouterr().out.count("# tried") == 1


def test_the_report_of_a_run_that_a_gate_fails_says_so() -> None:
    with pytest.raises(GateFailedError) as raised:
        run_experiment(reported(at_least=0.9, blocking=True), registry=registry())
    saved = json.loads(Path(raised.value.context.artifacts["full.json"]).read_text())
    assert saved["status"] == "failed"
    assert saved["failure"] == {"stage": None, "error_type": "GateFailedError", "message": str(raised.value)}
    markdown = Path(raised.value.context.artifacts["full.markdown"]).read_text()
    assert "| good | failed (blocking) | accuracy is 0.5, not at least 0.9 |" in markdown


def test_a_stage_that_returns_no_context_after_the_gates_leaves_the_verdict(caplog: pytest.LogCaptureFixture) -> None:
    class Forgetful(Stage):
        """Returns nothing where it may add to the reports."""

        def run(self, ctx: Context) -> Context:
            return ctx.put_metric("accuracy", 0.5)

        def after_gates(self, ctx: Context) -> Context:
            assert ctx.trace.gates
            return None  # type: ignore[return-value]

    gates = [{"name": "good", "metric": "accuracy", "at_least": 0.4}]
    context = run_experiment(experiment_of("forgetful", gates=gates), registry=Registry({"forgetful": Forgetful}))
    assert [one.status for one in context.trace.gates] == ["passed"]
    assert "its after_gates returned NoneType, not the Context" in caplog.text


def test_a_report_that_cannot_be_written_again_leaves_the_verdict(caplog: pytest.LogCaptureFixture) -> None:
    class Gone(Stage):
        """Puts a file where the folder of the reports is to be."""

        def run(self, ctx: Context) -> Context:
            folder = Path(ctx.artifacts["full.json"]).parent
            shutil.rmtree(folder)
            folder.write_text("")
            return ctx

    stages = Registry({**{name: registry()[name] for name in ("measure", "report")}, "gone": Gone})
    context = run_experiment(reported("gone", at_least=0.4), registry=stages)
    assert [one.status for one in context.trace.gates] == ["passed"]
    assert "what stage 'report' wrote does not show the gates: cannot write" in caplog.text
