"""Pre-registration: a lock beside the experiment file, what a run differs in from it, and what is exploratory then."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crucible_core import InvalidExperimentError, load_experiment, run_experiment
from crucible_core.cli import main
from crucible_core.cli.lock import yaml_of
from crucible_core.ir.loading import load_document
from crucible_core.ir.lock import Lock
from crucible_core.ir.registration import registration_of
from crucible_core.report import headline, render_report, summarize_run

STAGES = """
import random

from crucible_core import Context, stage


@stage
def measure(ctx: Context, *, at: float = 1.0, scale: float = 1.0, seed: int = 0) -> Context:
    return ctx.put_metric("score", at + scale * random.Random(seed).random())


@stage
def groups(ctx: Context) -> Context:
    return ctx.assign(bench_data={"a": [1.0, 2.0, 4.0], "b": [7.0, 8.0, 9.5]})
"""
SWEEP = """
id: guesses
seed: 7
pipeline:
  - {name: measure, module: locked_stages:measure}
  - {name: bench, options: {alpha: 0.05}}
trials:
  grid: {measure.at: [1.0, 2.0, 3.0]}
  replicates: 6
  measure: score
  baseline: {measure.at: 1.0}
"""
GROUPS = "id: groups\npipeline: [{name: groups, module: locked_stages:groups}, {name: bench}]\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "locked_stages.py").write_text(STAGES)
    path = tmp_path / "guesses.yaml"
    path.write_text(SWEEP)
    return path


def said(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(one) for one in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


def changed(file: Path, then: str, now: str) -> None:
    text = file.read_text()
    assert then in text
    file.write_text(text.replace(then, now, 1))


def test_a_lock_is_written_beside_the_file_and_has_each_value(file: Path) -> None:
    code, text = said("lock", file)
    assert code == 0
    beside = file.with_name("guesses.lock.yaml")
    assert re.fullmatch(rf"{re.escape(str(beside))}: locked as [0-9a-f]{{12}}\n", text)
    written = beside.read_text()
    for line in (
        "measure.at: [1.0, 2.0, 3.0]",
        "replicates: 6",
        'measure: "score"',
        'baseline: "at=1.0"',
        "alpha: 0.05",
    ):
        assert line in written
    assert said("lock", "--check", file) == (0, f"{beside}: as locked ({text[-13:-1]} of {locked_at(file)} UTC)\n")
    assert said("lock", file)[0] == 0
    assert beside.read_text() == written


def locked_at(file: Path) -> str:
    lock = load_experiment(file).lock
    assert lock is not None
    return lock.locked[:16].replace("T", " ")


def test_a_run_of_a_locked_file_carries_the_lock_and_says_so(file: Path) -> None:
    said("lock", file)
    ctx = run_experiment(load_experiment(file))
    assert ctx.experiment.lock == load_experiment(file).lock
    assert not headline(ctx).startswith("Exploratory")
    decided = [one.decision for one in ctx.trace.decisions if one.stage == "bench"]
    assert any(one.startswith("as locked: ") for one in decided)
    html = render_report(ctx, "html")
    assert "<h2>Pre-registration</h2><p>As locked (" in html.replace("\n", "")
    lock = summarize_run(ctx)["lock"]
    assert lock["changes"] == []
    assert lock["exploratory"] == {}


CHANGES = [
    ("replicates: 6", "replicates: 5", "trials.replicates: locked 6, now 5"),
    ("measure: score", "measure: score\n  max_failures: 2", "gates.failed_trials.at_most: locked 0.0, now 2.0"),
    ("[1.0, 2.0, 3.0]", "[1.0, 2.0]", "trials.grid.measure.at: locked [1.0, 2.0, 3.0], now [1.0, 2.0]"),
    ("alpha: 0.05", "alpha: 0.1", "stages.bench.options.alpha: locked 0.05, now 0.1"),
    ("alpha: 0.05", "margin: 0.5, alpha: 0.05", "stages.bench.options.margin: locked nothing, now 0.5"),
    ("seed: 7", "seed: 8", "seed: locked 7, now 8"),
    (
        "locked_stages:measure}",
        "locked_stages:measure, options: {scale: 2.0}}",
        "stages.measure.options: locked nothing",
    ),
    ("seed: 7", "seed: 7\nreliability: {stats: {alpha: 0.2}}", 'reliability: locked nothing, now {"stats": {"alpha"'),
    ("{measure.at: 1.0}", "{measure.at: 2.0}", 'stages.bench.options.baseline: locked "at=1.0", now "at=2.0"'),
]


@pytest.mark.parametrize(("then", "now", "what"), CHANGES)
def test_what_changed_since_is_named_by_the_run_and_the_check(file: Path, then: str, now: str, what: str) -> None:
    said("lock", file)
    lock = file.with_name("guesses.lock.yaml").read_text()
    changed(file, then, now)
    code, text = said("lock", "--check", file)
    assert code == 1
    assert what in text
    assert said("lock", file)[0] == 1  # a lock is not replaced by accident
    assert file.with_name("guesses.lock.yaml").read_text() == lock
    ctx = run_experiment(load_experiment(file))
    is_gate = what.startswith("gates")
    assert headline(ctx).startswith("Exploratory: ") != is_gate
    assert f"Not as locked ({load_experiment(file).lock.hash[:12]}" in headline(ctx)  # type: ignore[union-attr]
    assert what in headline(ctx)
    report = render_report(ctx, "html")
    assert ("Comparison (exploratory)" in report) != is_gate
    assert said("lock", "--renew", file)[0] == 0
    assert said("lock", "--check", file)[0] == 0


def test_workers_and_jobs_and_descriptions_are_not_locked(file: Path) -> None:
    said("lock", file)
    changed(file, "replicates: 6", "replicates: 6\n  workers: 2\n  jobs: 2")
    changed(file, "seed: 7", "seed: 7\ndescription: Another text.\ntags: [a]\nschedule: {cron: '0 3 * * *'}")
    assert said("lock", "--check", file)[0] == 0


def test_what_one_run_changes_is_not_as_locked_either(file: Path) -> None:
    said("lock", file)
    done = CliRunner().invoke(main, ["run", str(file), "--set", "bench.alpha=0.2", "--json"])
    found = json.loads(done.stdout)
    assert found["lock"]["changes"] == [{"what": "stages.bench.options.alpha", "locked": 0.05, "now": 0.2}]
    assert found["headline"].startswith("Exploratory: ")
    text = said("run", file, "--seed", "9")[1]
    assert "Pre-registration\nNot as locked (" in text
    assert "seed: locked 7, now 9" in text


def test_a_comparison_that_was_added_is_exploratory_and_the_locked_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "locked_stages.py").write_text(STAGES)
    file = tmp_path / "groups.yaml"
    file.write_text(GROUPS)
    said("lock", file)
    changed(
        file,
        "{name: bench}",
        "{name: more, module: bench, options: {metric: more, tests: [mann_whitney]}}, {name: bench}",
    )
    ctx = run_experiment(load_experiment(file))
    decided = {one.stage: one for one in ctx.trace.decisions if "locked" in one.decision + one.reasoning}
    assert decided["more"].decision == "exploratory"
    assert decided["more"].reasoning.endswith("it was not locked")
    assert decided["bench"].decision.startswith("as locked: ") is False  # a stage before it was added


@pytest.mark.parametrize(
    ("pipeline", "exploratory"),
    [
        ("{name: bench}, {name: more, module: bench, options: {metric: more}}", {"more"}),
        ("{name: bench, options: {alpha: 0.1}}", {"bench"}),
        ("{name: bench, options: {metric: other}}", {"bench", "other"}),
        ("{name: bench}, {name: data_checks, options: {}}", set()),
    ],
)
def test_a_comparison_is_exploratory_if_it_or_what_is_before_it_was_not_locked(
    tmp_path: Path, pipeline: str, exploratory: set[str]
) -> None:
    (tmp_path / "locked_stages.py").write_text(STAGES)
    file = tmp_path / "groups.yaml"
    file.write_text(GROUPS)
    said("lock", file)
    changed(file, "{name: bench}", pipeline)
    registration = registration_of(load_experiment(file))
    assert registration is not None
    metrics = {name for name in ("bench", "more", "other") if name in pipeline}
    assert {name for name in metrics if registration.exploratory(name)} == exploratory


def test_a_lock_that_was_edited_says_so(file: Path) -> None:
    said("lock", file)
    beside = file.with_name("guesses.lock.yaml")
    changed(beside, "replicates: 6", "replicates: 5")
    changed(file, "replicates: 6", "replicates: 5")
    code, text = said("lock", "--check", file)
    assert code == 1
    assert "edited after it was locked" in text
    assert headline(run_experiment(load_experiment(file))).startswith("Exploratory: ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "should be a mapping"),
        ("version: 2\n", "version"),
        ("experiment: a\n", "locked"),
        ("a: {", "guesses.lock.yaml:"),
    ],
)
def test_a_lock_that_cannot_be_read_refuses_the_experiment(file: Path, text: str, reason: str) -> None:
    file.with_name("guesses.lock.yaml").write_text(text)
    with pytest.raises(InvalidExperimentError, match=reason):
        load_experiment(file)


def test_a_lock_is_no_experiment(file: Path) -> None:
    said("lock", file)
    code, text = said("validate", file.with_name("guesses.lock.yaml"))
    assert code == 2
    assert "this is a lock, which `crucible lock` has written; name the experiment file" in text


def test_a_file_that_is_not_locked_has_no_lock(file: Path) -> None:
    code, text = said("lock", "--check", file)
    assert code == 2
    assert "is not locked: `crucible lock" in text
    ctx = run_experiment(load_experiment(file))
    assert ctx.experiment.lock is None
    assert "Pre-registration" not in render_report(ctx, "markdown")
    assert "lock" not in summarize_run(ctx)


def test_locking_runs_no_trial_again(file: Path, tmp_path: Path) -> None:
    said("run", file, "--keep", tmp_path / "kept")
    said("lock", file)
    assert "18 of 18 trials were not run again" in said("run", file, "--keep", tmp_path / "kept")[1]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(terms=st.dictionaries(TEXTS, VALUES, max_size=4))
def test_a_lock_reads_what_it_wrote(tmp_path_factory: pytest.TempPathFactory, terms: Mapping[str, Any]) -> None:
    made = Lock(version=1, experiment="a", locked="now", hash="0", comparisons={"on": "b"}, terms=dict(terms))
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(yaml_of(made), encoding="utf-8")
    assert Lock.model_validate(load_document(path)[0]) == made
