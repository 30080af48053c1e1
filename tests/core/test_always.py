"""A stage that runs always runs after a failure too, and hides nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stages_for_tests import experiment_of, registry

from crucible_core import Context, Experiment, RunInterrupted, StageFailedError, run_experiment, stage
from crucible_core.report import headline


@stage
def clean(ctx: Context) -> Context:
    """Says what it found."""
    failed = [name for name, ending in ctx.trace.endings.items() if ending.kind == "stage_failed"]
    return ctx.put_metric("cleaned_after", failed).put_metric("seen", dict(ctx.metrics))


@stage
def fails(ctx: Context, *, said: str = "no") -> Context:
    ctx = ctx.put_metric("before", 1)
    raise ValueError(said)


@stage
def interrupted(ctx: Context) -> Context:
    raise KeyboardInterrupt


@stage
def leaves(ctx: Context, *, file: str) -> Context:
    with Path(file).open("a") as stream:
        stream.write("\n".join(ctx.trace.endings) + "\n")
    return ctx


STAGES = registry() | {"clean": clean, "fails": fails, "interrupted": interrupted, "leaves": leaves}


def stopped(*pipeline: str | dict[str, Any]) -> StageFailedError:
    with pytest.raises(StageFailedError) as caught:
        run_experiment(experiment_of(*pipeline), registry=STAGES)
    return caught.value


def kinds(ctx: Context) -> list[tuple[str, str]]:
    return [(event.stage, event.kind.removeprefix("stage_")) for event in ctx.trace]


def test_it_runs_after_a_failure_with_what_was_kept_and_the_stages_between_do_not() -> None:
    error = stopped("add", "fails", {"name": "between", "module": "add"}, {"name": "clean", "always": True})
    assert error.stage == "fails"
    assert str(error).endswith("ValueError: no")
    assert error.context.metrics["cleaned_after"] == ["fails"]
    assert error.context.metrics["seen"] == {"total": 1.0, "before": 1}
    assert kinds(error.context)[2:] == [
        ("fails", "started"),
        ("fails", "failed"),
        ("clean", "started"),
        ("clean", "succeeded"),
    ]


def test_it_hides_no_first_error_and_the_others_still_run() -> None:
    error = stopped(
        "fails",
        {"name": "second", "module": "fails", "always": True, "options": {"said": "second"}},
        {"name": "off", "module": "clean", "always": True, "enabled": False},
        {"name": "clean", "always": True},
    )
    assert str(error).endswith("ValueError: no")
    assert isinstance(error.__cause__, ValueError)
    assert error.context.metrics["cleaned_after"] == ["fails", "second"]
    assert headline(error.context) == "Failed at stage fails: ValueError: no"
    assert "off" not in error.context.trace.endings


def test_it_is_a_stage_as_any_other_if_nothing_fails() -> None:
    ctx = run_experiment(experiment_of("add", {"name": "clean", "always": True}), registry=STAGES)
    assert ctx.metrics["cleaned_after"] == []
    assert kinds(ctx)[2:] == [("clean", "started"), ("clean", "succeeded")]


def test_one_before_the_failure_does_not_run_twice() -> None:
    error = stopped({"name": "clean", "always": True}, "fails")
    assert error.context.metrics["cleaned_after"] == []


def test_it_does_not_run_after_an_interrupt() -> None:
    with pytest.raises(RunInterrupted) as caught:
        run_experiment(experiment_of("interrupted", {"name": "clean", "always": True}), registry=STAGES)
    assert "clean" not in caught.value.context.trace.endings


def test_a_report_is_written_of_a_run_that_failed(tmp_path: Path) -> None:
    described = Experiment.model_validate(
        {
            **experiment_of("add", "fails", {"name": "report", "always": True}).to_dict(),
            "outputs": [{"name": "report"}],
        }
    )
    with pytest.raises(StageFailedError) as caught:
        run_experiment(described, registry=STAGES)
    text = Path(caught.value.context.artifacts["report.markdown"]).read_text()
    assert "Failed at stage fails: ValueError: no" in text


def test_in_a_trial_it_runs_after_a_failure_too(tmp_path: Path) -> None:
    file = tmp_path / "left"
    described = experiment_of(
        "fails",
        {"name": "leaves", "always": True, "options": {"file": str(file)}},
        trials={"grid": {"fails.said": ["a", "b"]}, "max_failures": 2},
    )
    rows = run_experiment(described, registry=STAGES).outputs
    assert [(row["stage"], row["error"]) for row in rows] == [("fails", "ValueError: a"), ("fails", "ValueError: b")]
    assert file.read_text() == "fails\nfails\n"
