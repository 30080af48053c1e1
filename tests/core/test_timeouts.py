"""A stage with a time limit is ended when its time is over, whatever it does; otherwise it is like any other stage."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    InvalidOptionsError,
    Observer,
    ProgressUpdate,
    Registry,
    RunInterrupted,
    StageDiedError,
    StageFailed,
    StageFailedError,
    StageTimeoutError,
    builtin_registry,
    load_experiment,
    plan_experiment,
    run_experiment,
    stage,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crucible_core.attempts.child.GRACE", 0.5)


def experiment(*stages: str | dict[str, Any], **more: Any) -> Experiment:
    entries = [{"name": one} if isinstance(one, str) else one for one in stages]
    pipeline = [{"module": f"timed_stages:{entry['name']}", **entry} for entry in entries]
    return Experiment.model_validate({"id": "timed", "pipeline": pipeline, **more})


def stopped(*stages: str | dict[str, Any]) -> StageFailedError:
    with pytest.raises(StageFailedError) as caught:
        run_experiment(experiment(*stages))
    return caught.value


def ending(error: StageFailedError) -> StageFailed:
    found = error.context.trace.endings[error.stage]
    assert isinstance(found, StageFailed)
    return found


def test_a_stage_with_a_time_limit_gives_what_it_gives_without(tmp_path: Path) -> None:
    timed = run_experiment(experiment("load", {"name": "quick", "timeout": 60}))
    assert timed.differences(run_experiment(experiment("load", "quick"))) == ()
    assert timed.assigns["data"] == [1, 2, 3, 4]


def test_it_runs_in_another_process_which_is_kept_for_the_next_one(tmp_path: Path) -> None:
    file = tmp_path / "processes"
    quick = {"module": "timed_stages:quick", "timeout": 60, "options": {"file": str(file)}}
    run_experiment(experiment("load", {**quick, "name": "one"}, {**quick, "name": "two"}))
    first, second = file.read_text().split()
    assert first == second != str(os.getpid())


class Heard(Observer):
    interval = 0.0

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.updates: list[ProgressUpdate] = []
        self.threads: set[int] = set()

    def on_event(self, event: Any) -> None:
        self.kinds.append(event.kind)
        self.threads.add(threading.get_ident())

    def on_progress(self, update: ProgressUpdate) -> None:
        self.updates.append(update)


def test_observers_and_logs_hear_of_it_as_of_any_stage(caplog: pytest.LogCaptureFixture) -> None:
    timed, plain = Heard(), Heard()
    run_experiment(experiment("load", {"name": "quick", "timeout": 60}), observers=[timed])
    assert [record.getMessage() for record in caplog.records if record.name == "timed_stages"] == ["this is quick"]
    run_experiment(experiment("load", "quick"), observers=[plain])
    assert timed.kinds == plain.kinds
    assert timed.threads == {threading.get_ident()}
    assert [one.count for one in timed.updates] == [one.count for one in plain.updates] != []


def test_a_new_context_that_is_not_returned_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    run_experiment(experiment({"name": "forgets", "timeout": 60}))
    assert "returned the Context that it was given" in caplog.text


@pytest.mark.parametrize(("name", "line"), [("sleeps", "time.sleep(seconds)"), ("in_c", "in in_c")])
def test_it_is_ended_when_its_time_is_over_also_in_a_loop_in_c(name: str, line: str) -> None:
    started = time.monotonic()
    error = stopped("load", {"name": name, "timeout": 0.3})
    assert time.monotonic() - started < 20
    cause = error.__cause__
    assert isinstance(cause, StageTimeoutError)
    assert isinstance(cause, TimeoutError)
    assert isinstance(cause, CrucibleError)
    assert (cause.stage, cause.seconds) == (name, 0.3)
    assert f"stage '{name}' took longer than its `timeout` of 0.3 s" in str(error)
    assert ending(error).error_type == "crucible_core.run_errors.StageTimeoutError"
    assert line in ending(error).traceback
    assert "crucible_core/attempts" not in ending(error).traceback
    assert error.context.assigns["data"] == [1, 2, 3]


def test_the_decisions_until_then_are_kept() -> None:
    assert [one.decision for one in stopped({"name": "sleeps", "timeout": 0.3}).context.trace.decisions] == ["sleep"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_trial_that_takes_too_long_is_a_failed_row(jobs: int) -> None:
    described = experiment(
        {"name": "sleeps", "timeout": 0.5, "options": {"seconds": 0}},
        trials={"grid": {"sleeps.seconds": [0, 60]}, "replicates": 2, "max_failures": 2},
    )
    rows = run_experiment(described, jobs=jobs).outputs
    assert [row["status"] for row in rows] == ["succeeded", "failed"] * 2
    assert rows[1]["stage"] == "sleeps"
    assert "StageTimeoutError: stage 'sleeps' took longer than its `timeout` of 0.5 s" in rows[1]["error"]


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError:
        return False


def test_what_it_has_started_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    error = stopped({"name": "stubborn", "timeout": 0.5, "options": {"file": str(file)}})
    assert "its process was killed" in str(error)
    until = time.monotonic() + 10
    while is_running(int(file.read_text())) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(int(file.read_text()))


def test_each_attempt_has_the_whole_time(tmp_path: Path) -> None:
    entry = {
        "name": "slow_at_first",
        "timeout": 0.5,
        "retry": {"max_retries": 2},
        "options": {"file": str(tmp_path / "tried"), "until": 2},
    }
    ctx = run_experiment(experiment(entry))
    assert ctx.metrics["tried"] == 3
    retried = [event for event in ctx.trace if event.kind == "stage_retried"]
    assert [event.error_type for event in retried] == ["crucible_core.run_errors.StageTimeoutError"] * 2


@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("how", ["late", "wrong"])
def test_it_is_tried_again_after_the_errors_that_are_named(tmp_path: Path, how: str, timeout: float | None) -> None:
    entry = {
        "name": "flaky",
        "timeout": timeout,
        "retry": {"max_retries": 1, "on": ["TimeoutError"]},
        "options": {"file": str(tmp_path / "tried"), "how": how},
    }
    if how == "late":
        assert run_experiment(experiment(entry)).metrics["tried"] == 2
    else:
        assert ending(stopped(entry)).attempts == 1


@pytest.mark.parametrize("how", ["plain", "exit"])
def test_what_it_raises_is_what_it_raises_without_a_time_limit(how: str) -> None:
    entry = {"name": "raises", "options": {"how": how}}
    timed, plain = stopped({**entry, "timeout": 60}), stopped(entry)
    assert str(timed) == str(plain)
    assert type(timed.__cause__) is type(plain.__cause__)
    assert ending(timed).traceback == ending(plain).traceback != ""


def test_an_exception_that_cannot_be_sent_keeps_its_name_and_what_it_says() -> None:
    error = stopped({"name": "raises", "options": {"how": "unportable"}, "timeout": 60})
    assert str(error).endswith("UnportableError: timed cannot be sent")
    assert "raise UnportableError" in ending(error).traceback


def test_a_crash_of_its_process_is_a_failure_of_the_stage(capfd: pytest.CaptureFixture[str]) -> None:
    error = stopped({"name": "crashes", "timeout": 60})
    assert isinstance(error.__cause__, StageDiedError)
    assert error.__cause__.code == -signal.SIGSEGV
    assert "ended by signal 11" in str(error)


def test_what_cannot_be_sent_is_named() -> None:
    error = stopped("unsendable", {"name": "quick", "timeout": 60})
    assert "what it is given cannot be sent there: assigns['lock']: TypeError: cannot pickle" in str(error)
    assert "cannot be sent back" in str(stopped({"name": "unsendable", "timeout": 60}))


def test_ctrl_c_ends_it_too() -> None:
    threading.Timer(3.0, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(RunInterrupted) as caught:
        run_experiment(experiment({"name": "sleeps", "timeout": 60}))
    assert [one.decision for one in caught.value.context.trace.decisions] == ["sleep"]


def test_the_report_is_written_where_the_run_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path / "here"))
    described = experiment("load", {"name": "report", "module": "report", "timeout": 60}, outputs=[{"name": "report"}])
    plan = plan_experiment(described, builtin_registry())
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path / "elsewhere"))
    run_experiment(plan)
    assert (tmp_path / "here").is_dir()
    assert not (tmp_path / "elsewhere").exists()


def test_a_stage_that_no_other_process_can_import_is_refused(tmp_path: Path) -> None:
    @stage
    def local(ctx: Context) -> Context:
        return ctx

    file = tmp_path / "timed.yaml"
    file.write_text("id: timed\npipeline:\n  - name: local\n    timeout: 5\n")
    with pytest.raises(InvalidOptionsError, match=r"timed.yaml:4:5: .*'local'.* cannot import .*local: .*at the top"):
        plan_experiment(load_experiment(file), Registry({"local": local}))


@pytest.mark.parametrize("timeout", ["0", "-1", "1e9", "soon", "true"])
def test_a_time_limit_is_a_number_of_seconds_above_zero(timeout: str, tmp_path: Path) -> None:
    file = tmp_path / "timed.yaml"
    file.write_text(f"id: timed\npipeline:\n  - name: validate\n    timeout: {timeout}\n")
    with pytest.raises(CrucibleError, match=r"timed.yaml:4:\d+: .*timeout"):
        load_experiment(file)


def test_a_stage_with_a_time_limit_has_no_cache(tmp_path: Path) -> None:
    file = tmp_path / "timed.yaml"
    file.write_text("id: timed\npipeline:\n  - {name: validate, timeout: 5, cache: true}\n")
    with pytest.raises(CrucibleError, match=r"timed.yaml:3:\d+: .*not both"):
        load_experiment(file)


def test_processes_that_wait_for_work_are_few(caplog: pytest.LogCaptureFixture) -> None:
    from crucible_core.attempts import own_process

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            run_experiment(experiment("load", {"name": "quick", "timeout": 60}))
    assert len(own_process._waiting) == 1
