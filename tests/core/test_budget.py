"""What a run spends is counted, and it stops when the budget is used up: before a stage, or inside of one."""

from __future__ import annotations

import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_core import (
    BudgetExceededError,
    Context,
    CrucibleError,
    Experiment,
    GateFailedError,
    InvalidExperimentError,
    StageFailed,
    StageFailedError,
    StageStarted,
    load_experiment,
    run_experiment,
)
from crucible_core.report import headline, render_report
from crucible_core.run_state.spending import joined, spent_in


def experiment(*stages: str | dict[str, Any], **more: Any) -> Experiment:
    entries = [{"name": one} if isinstance(one, str) else one for one in stages]
    pipeline = [{"module": f"spending_stages:{entry['name']}", **entry} for entry in entries]
    return Experiment.model_validate({"id": "costly", "pipeline": pipeline, **more})


def pay(name: str, usd: float = 1.0, times: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": name, "module": "spending_stages:pay", "options": {"usd": usd, "times": times}, **more}


def stopped(*stages: str | dict[str, Any], **more: Any) -> StageFailedError:
    with pytest.raises(StageFailedError) as caught:
        run_experiment(experiment(*stages, **more))
    return caught.value


def used_up(error: StageFailedError) -> BudgetExceededError:
    assert isinstance(error.__cause__, BudgetExceededError)
    return error.__cause__


# --- counting ---------------------------------------------------------------------------------------------------------


def test_what_stages_spend_adds_up_in_all_and_by_stage() -> None:
    ctx = run_experiment(experiment(pay("ask", 0.25, 4), {"name": "pay", "options": {"usd": 2, "tokens": 1500}}))
    assert ctx.metrics["spent"] == {
        "usd": 3.0,
        "tokens": 1500,
        "by_stage": {"ask": {"usd": 1.0}, "pay": {"usd": 2.0, "tokens": 1500}},
    }
    assert type(ctx.metrics["spent"]["tokens"]) is int


@pytest.mark.parametrize("amount", [3, 2.5, np.float32(0.5), np.int64(7), Decimal("0.25"), 0])
def test_any_number_can_be_spent(amount: Any) -> None:
    ctx = Context.begin(experiment("pay")).spend("usd", amount)
    assert ctx.metrics["spent"]["usd"] == float(amount)
    assert type(ctx.metrics["spent"]["usd"]) in (int, float)


@pytest.mark.parametrize(
    ("name", "amount", "kind"),
    [
        ("usd", -0.01, ValueError),
        ("usd", math.nan, ValueError),
        ("usd", math.inf, ValueError),
        ("usd", "3", TypeError),
        ("usd", True, TypeError),
        ("usd", None, TypeError),
        ("usd", [1], TypeError),
        (7, 1.0, TypeError),
        ("by_stage", 1.0, ValueError),
        ("", 1.0, ValueError),
    ],
)
def test_what_is_no_amount_is_refused(name: Any, amount: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Context.begin(experiment("pay")).spend(name, amount)


def test_a_metric_of_that_name_that_counts_nothing_is_not_overwritten() -> None:
    ctx = Context.begin(experiment("pay")).put_metric("spent", 3)
    with pytest.raises(CrucibleError, match="put_metric has set it to 3"):
        ctx.spend("usd", 1)
    assert spent_in(ctx.metrics) == {}
    assert "| spent" in render_report(ctx, "markdown")


def test_a_context_is_not_changed_and_threads_can_spend_at_once() -> None:
    ctx = Context.begin(experiment("pay")).spend("usd", 1)

    def spend(number: int) -> float:
        mine = ctx
        for _ in range(50):
            mine = mine.spend("usd", number)
        total: float = mine.metrics["spent"]["usd"]
        return total

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(spend, range(8))) == [1 + 50 * number for number in range(8)]
    assert ctx.metrics["spent"]["usd"] == 1


def test_what_several_have_spent_since_one_context_adds_up() -> None:
    ctx = Context.begin(experiment("pay")).spend("usd", 1)
    parts = [ctx.spend("usd", 2).spend("tokens", 10), ctx, ctx.spend("usd", 0.5)]
    total = joined(ctx.metrics["spent"], [one.metrics["spent"] for one in parts])
    assert total == ctx.spend("usd", 2.5).spend("tokens", 10).metrics["spent"]
    assert joined(None, [ctx.metrics["spent"]] * 2)["usd"] == 2


# --- the file ---------------------------------------------------------------------------------------------------------


def file_with(tmp_path: Path, budget: str) -> Path:
    file = tmp_path / "costly.yaml"
    file.write_text(f"id: costly\npipeline:\n  - {{name: validate}}\nbudget: {{{budget}}}\n")
    return file


def test_a_budget_is_read_from_the_file(tmp_path: Path) -> None:
    assert load_experiment(file_with(tmp_path, "usd: 5.0, tokens: 1e6")).budget == {"usd": 5.0, "tokens": 1e6}


@pytest.mark.parametrize("amount", ["0", "-1", ".nan", ".inf", "five", "true", "'5'", "by_stage: 3"])
def test_what_is_no_budget_is_refused_where_it_stands(tmp_path: Path, amount: str) -> None:
    written = amount if ":" in amount else f"usd: {amount}"
    with pytest.raises(InvalidExperimentError) as caught:
        load_experiment(file_with(tmp_path, written))
    # A number that is not finite is refused as such, wherever it stands.
    column = 15 if amount in (".nan", ".inf") else 10
    assert (caught.value.line, caught.value.column) == (4, column), str(caught.value)


# --- the end of a run -------------------------------------------------------------------------------------------------


def test_a_stage_that_passes_the_limit_is_ended_and_what_it_spent_counts() -> None:
    error = stopped(pay("ask", 1.5), pay("judge", 2.0, 3), "pay", budget={"usd": 5, "tokens": 10})
    cause = used_up(error)
    assert (error.stage, cause.name, cause.spent, cause.limit) == ("judge", "usd", 5.5, 5)
    assert "the budget 'usd' is used up in stage 'judge': 5.5 of 5 spent" in str(error)
    assert error.context.metrics["spent"] == {"usd": 5.5, "by_stage": {"ask": {"usd": 1.5}, "judge": {"usd": 4.0}}}
    ending = error.context.trace.endings["judge"]
    assert isinstance(ending, StageFailed)
    assert (ending.unfinished, ending.traceback) == ((), "")


def test_a_budget_that_is_just_used_up_is_not_exceeded() -> None:
    ctx = run_experiment(experiment(pay("ask", 0.1, 3), pay("free", 0.0), budget={"usd": 0.3}))
    assert ctx.metrics["spent"]["usd"] > 0.3, "by rounding"


def test_a_stage_may_end_by_itself_and_the_next_one_does_not_begin() -> None:
    always = pay("tidy", 0.5, always=True)
    error = stopped("catch", always, pay("next"), {**always, "name": "last"}, budget={"usd": 2.5})
    assert error.stage == "next"
    assert "used up before stage 'next': 3.5 of 2.5 spent" in str(error)
    assert used_up(error).context.metrics["answers"] == 2
    ctx = error.context
    assert [event.stage for event in ctx.trace if isinstance(event, StageStarted)] == ["catch", "tidy", "last"]
    assert ctx.completed_stages == ("catch", "tidy", "last")
    assert ctx.metrics["spent"]["usd"] == 4, "what they spend counts, and does not stop them"
    assert headline(ctx).startswith("Failed at stage next: the budget 'usd' is used up")


def test_observers_hear_why_a_stage_does_not_begin() -> None:
    heard: list[Any] = []
    with pytest.raises(StageFailedError):
        run_experiment(experiment("catch", "pay", budget={"usd": 1}), observers=[heard.append])
    assert [(event.kind, event.stage) for event in heard][2:] == [("stage_failed", "pay")]


def test_other_names_are_counted_without_a_limit() -> None:
    assert run_experiment(experiment(pay("ask", 100.0), budget={"tokens": 5})).metrics["spent"]["usd"] == 100


def test_the_error_can_be_sent_without_the_context() -> None:
    cause = used_up(stopped(pay("ask", 9.0), budget={"usd": 5}))
    again = pickle.loads(pickle.dumps(cause))
    assert (str(again), again.limit, again.context) == (str(cause), 5, None)


# --- attempts ---------------------------------------------------------------------------------------------------------


def test_what_a_failed_attempt_spent_counts_and_nothing_else_of_it(tmp_path: Path) -> None:
    options = {"marks": str(tmp_path / "marks"), "fails": 2}
    flaky = {"name": "flaky", "retry": {"max_retries": 3}, "options": options}
    ctx = run_experiment(experiment(pay("ask", 0.5), flaky))
    assert ctx.metrics["spent"] == {"usd": 3.5, "by_stage": {"ask": {"usd": 0.5}, "flaky": {"usd": 3.0}}}
    (tmp_path / "marks").unlink()
    error = stopped({**flaky, "retry": None})
    assert error.context.metrics == {"spent": {"usd": 1.0, "by_stage": {"flaky": {"usd": 1.0}}}, "half": True}
    ending = error.context.trace.endings["flaky"]
    assert isinstance(ending, StageFailed)
    assert ending.unfinished == ("metrics.half",)


def test_no_attempt_follows_when_the_budget_is_used_up(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    flaky = {"name": "flaky", "retry": {"max_retries": 9}, "options": {"marks": str(marks), "fails": 9, "usd": 2.0}}
    error = stopped(flaky, budget={"usd": 5})
    assert used_up(error).spent == 6
    assert marks.read_text() == "xx"


@pytest.mark.parametrize("stage", ["pay_async", pytest.param("pay", marks=pytest.mark.slow)])
def test_asynchronous_stages_and_those_in_another_process_spend_as_others(stage: str) -> None:
    timed = {"timeout": 60} if stage == "pay" else {}
    one = {"name": stage, "options": {"usd": 2.0, "times": 2}, **timed}
    assert run_experiment(experiment(pay("ask"), one, budget={"usd": 5})).metrics["spent"]["usd"] == 5
    error = stopped(pay("ask"), one, budget={"usd": 4})
    assert used_up(error).spent == 5
    assert error.context.metrics["spent"]["by_stage"] == {"ask": {"usd": 1.0}, stage: {"usd": 4.0}}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_what_a_killed_process_has_spent_counts(tmp_path: Path, how: str) -> None:
    options = {"marks": str(tmp_path / "marks"), "how": how}
    one = {"name": "flaky", "timeout": 0.5, "retry": {"max_retries": 1}, "options": options}
    assert run_experiment(experiment(pay("ask"), one)).metrics["spent"]["by_stage"]["flaky"] == {"usd": 2.0}


# --- where it is shown ------------------------------------------------------------------------------------------------


def test_gates_judge_it_and_the_report_has_a_table() -> None:
    gate = {"name": "cheap", "metric": "spent.by_stage.ask.usd", "at_most": 1, "blocking": True}
    with pytest.raises(GateFailedError) as caught:
        run_experiment(experiment(pay("ask", 2), pay("judge", 0.5), budget={"usd": 5, "tokens": 1e6}, gates=[gate]))
    report = render_report(caught.value.context, "markdown")
    assert "## Spending" in report
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines() if "| 5 |" in line]
    assert rows == [["usd", "2.5", "5", "ask 2, judge 0.5"]]
    assert "| tokens | 0 | 1,000,000 |" in " ".join(report.split())
    assert "spent.usd" not in report.partition("## Options")[0]


def test_a_report_of_a_run_that_spends_nothing_says_nothing_of_it() -> None:
    assert "Spending" not in render_report(run_experiment(experiment(pay("ask", times=0))), "markdown")


# --- trials -----------------------------------------------------------------------------------------------------------


def sweep(limit: float | None, seconds: float = 0.0, **trials: Any) -> Experiment:
    table = {"grid": {"score.usd": [0.5, 1.0]}, "replicates": 4, "measure": "score", **trials}
    score = {"name": "score", "options": {"seconds": seconds}}
    return experiment(pay("ask", 0.25), score, seed=3, trials=table, budget=limit and {"usd": limit})


def test_what_trials_spend_adds_up_and_each_row_has_its_own() -> None:
    ctx = run_experiment(sweep(None))
    assert [row["spent.usd"] for row in ctx.outputs] == [0.5, 1.0] * 4
    assert not any("by_stage" in name for name in ctx.outputs[0])
    free = run_experiment(experiment(pay("ask", 0.25), "score", seed=3, trials={"grid": {"score.usd": [0]}}))
    assert [name for name in free.outputs[0] if "spent" in name] == [], "what was spent before is none of its own"
    assert ctx.metrics["spent"] == {"usd": 6.25, "by_stage": {"ask": {"usd": 0.25}, "trials": {"usd": 6.0}}}


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_no_trial_begins_when_the_budget_is_used_up(tmp_path: Path, jobs: int) -> None:
    seconds = 0.0 if jobs == 1 else 0.5
    with pytest.raises(StageFailedError) as caught:
        run_experiment(sweep(2.5, seconds), jobs=jobs, keep=tmp_path)
    ctx = caught.value.context
    assert used_up(caught.value).limit == 2.5
    ran = len(ctx.outputs)
    assert ran == 4 if jobs == 1 else 3 <= ran < 8, f"{ran} ran; those that had begun are finished"
    assert ctx.metrics["spent"]["by_stage"]["trials"]["usd"] == sum(row["spent.usd"] for row in ctx.outputs)
    (decision,) = ctx.trace.decisions
    assert decision.decision == f"{8 - ran} trials of 8 were not run"
    assert "(replicate 3)" in decision.reasoning
    # With more money, the run goes on; what was paid is not paid again.
    done = run_experiment(sweep(8, seconds), keep=tmp_path)
    assert len(done.outputs) == 8
    assert done.metrics["spent"]["by_stage"]["trials"]["usd"] == 6.0 - ctx.metrics["spent"]["by_stage"]["trials"]["usd"]


def test_a_trial_that_passes_the_limit_by_itself_is_a_failed_row() -> None:
    with pytest.raises(StageFailedError) as caught:
        run_experiment(sweep(0.75))
    assert [(row["status"], row["spent.usd"]) for row in caught.value.context.outputs] == [
        ("succeeded", 0.5),
        ("failed", 1.0),
    ]
    assert "BudgetExceededError" in caught.value.context.outputs[1]["error"]
