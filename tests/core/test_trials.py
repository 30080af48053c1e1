"""Trials: a sweep as a table, its seeds, its rows, and what cannot be."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crucible_bench import t_mixture_sequence
from crucible_core import (
    Context,
    Experiment,
    GateFailedError,
    InvalidExperimentError,
    Registry,
    Stage,
    StageFailedError,
    load_experiment,
    plan_experiment,
    run_experiment,
    stage,
)
from crucible_core.cli import main
from crucible_core.stages.bench import Bench
from crucible_core.stages.trials import RunTrials
from crucible_core.trials.engine import DIED
from crucible_core.trials.log import COMPACTED, FEW, LINES_PER_FILE, FolderFiles, TrialLog, _writers
from crucible_core.trials.table import MOST_TRIALS, TrialsError, arms_of, seed_of, table_of
from crucible_core.trials.until import differences


@stage
def load(ctx: Context, *, n: int = 4) -> Context:
    return ctx.assign(data=np.arange(float(n)), seen=[])


@stage
def flip(ctx: Context, *, bias: float = 0.5, n: int = 20, seed: int = 0) -> Context:
    draws = np.random.default_rng(seed).random(n)
    ctx.assigns["seen"].append(seed)  # in place: it must not reach another trial
    ctx.assigns["data"][0] += 1
    fresh = len(ctx.assigns["seen"]) == 1 and bool(ctx.assigns["data"][0] == 1.0)
    return ctx.put_metric("heads", float((draws < bias).mean())).put_metric("fresh", fresh)


@stage
def stumble(ctx: Context, *, on: list[int] | None = None, marks: str | None = None) -> Context:
    """Fails for some replicates, and leaves a mark of each time that it ran."""
    seed = ctx.experiment.seed
    if marks is not None:
        with Path(marks).open("a") as file:
            file.write(f"{seed}\n")
    if seed in (on or ()):
        raise RuntimeError(f"seed {seed} does not work")
    return ctx


@stage
def vanish(ctx: Context, *, on: list[int] | None = None, once: str | None = None) -> Context:
    """Kills its own process for some replicates: always, or only the first time."""
    seed = ctx.experiment.seed
    mark = None if once is None else Path(f"{once}-{seed}")
    if seed in (on or ()) and not (mark and mark.exists()):
        if mark is not None:
            mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return ctx


@stage
def odd_metric(ctx: Context) -> Context:
    return ctx.put_metric("seed", 1)


@stage
def hold(ctx: Context) -> Context:
    return ctx.assign(open=(one for one in [1]))


class Gathers(Stage):
    """Looks at the rows, as `bench` does."""

    gathers = True

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("rows", len(ctx.outputs))


STAGES: Mapping[str, type[Stage]] = {
    "flip": flip,
    "gather": Gathers,
    "hold": hold,
    "load": load,
    "odd_metric": odd_metric,
    "stumble": stumble,
    "vanish": vanish,
}
REGISTRY = Registry({**STAGES, "bench": Bench})
SEED = 42


def experiment(trials: Mapping[str, Any], *between: Mapping[str, Any] | str, **more: Any) -> Experiment:
    inside = [{"name": one} if isinstance(one, str) else one for one in between]
    pipeline = [{"name": "load"}, {"name": "flip"}, *inside, {"name": "gather"}]
    return Experiment.model_validate({"id": "coins", "seed": SEED, "pipeline": pipeline, "trials": trials, **more})


def rows(ctx: Context) -> list[dict[str, Any]]:
    return list(ctx.outputs)


def without_time(ctx: Context) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in ctx.outputs]


GRID = {"grid": {"flip.bias": [0.5, 0.9]}, "replicates": 3}


# --- seeds and table --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**63 - 1), replicate=st.integers(0, 2**32 - 1))
def test_the_seed_of_a_replicate_is_that_of_numpy(seed: int, replicate: int) -> None:
    expected = np.random.SeedSequence(seed, spawn_key=(replicate,)).generate_state(1)[0]
    assert seed_of(seed, replicate) == expected


def test_arms_share_the_seeds_of_replicates_and_more_of_either_change_none() -> None:
    few = list(table_of(arms_of(None, {"a.x": [1, 2]}), 2, SEED))
    many = list(table_of(arms_of(None, {"a.x": [1, 2, 3]}), 5, SEED))
    assert [one.seed for one in few] == [seed_of(SEED, 0)] * 2 + [seed_of(SEED, 1)] * 2
    seeds = {(one.arm.name, one.replicate): one.seed for one in many}
    assert all(seeds[one.arm.name, one.replicate] == one.seed for one in few)
    assert [(one.arm.varied["a.x"], one.replicate) for one in many] == [(x, r) for r in range(5) for x in (1, 2, 3)]


@pytest.mark.parametrize(
    ("arms", "grid", "names"),
    [
        (None, None, ["all"]),
        (None, {"train.model": ["svm", "ridge"], "train.C": [0.1, 1]}, ["svm C=0.1", "svm C=1"]),
        (None, {"train.n": [1], "test.n": [2]}, ["train.n=1 test.n=2"]),
        ({"small": {"a": {"x": 1}}, "large": {"a": {"x": 2}}}, None, ["small", "large"]),
        (None, {"a.x": ["on", "off"], "b.y": ["on", "off"]}, ["x=on y=on", "x=on y=off"]),
        (None, {"a.x": ["on", None]}, ["x=on", "x=null"]),
        ({"small": {"a": {"x": 1}}}, {"b.y": [True, None]}, ["small y=true", "small y=null"]),
        (None, {"a.text": ["x" * 50, "x" * 51]}, [f"{'x' * 39}…", f"{'x' * 39}… (2)"]),
    ],
)
def test_arms_have_names_that_tell_them_apart(arms: Any, grid: Any, names: list[str]) -> None:
    found = [arm.name for arm in arms_of(arms, grid)]
    assert found[: len(names)] == names
    assert len(set(found)) == len(found)


def test_a_sweep_has_a_size_that_can_be_run() -> None:
    with pytest.raises(TrialsError, match=r"10,000,000 trials are more than the 1,000,000"):
        next(table_of(arms_of(None, {"a.x": list(range(10))}), MOST_TRIALS, 0))
    with pytest.raises(TrialsError, match="more than"):
        arms_of(None, {f"a.x{number}": list(range(100)) for number in range(4)})


# --- a run ------------------------------------------------------------------------------------------------------------


def test_every_arm_is_run_with_every_seed_and_each_trial_is_a_row() -> None:
    ctx = run_experiment(experiment(GRID), registry=REGISTRY)
    assert [(row["arm"], row["replicate"]) for row in rows(ctx)] == [
        (arm, replicate) for replicate in range(3) for arm in ("bias=0.5", "bias=0.9")
    ]
    for row in rows(ctx):
        draws = np.random.default_rng(seed_of(SEED, row["replicate"])).random(20)
        assert row["heads"] == float((draws < row["flip.bias"]).mean())
        assert row["seed"] == seed_of(SEED, row["replicate"])
        assert row["status"] == "succeeded"
        assert row["seconds"] > 0
        assert row["fresh"] is True
    assert ctx.metrics["trials"] == {"count": 6, "succeeded": 6, "failed": 0, "failed_share": 0.0}
    assert ctx.metrics["rows"] == 6
    assert ctx.completed_stages == ("load", "trials", "gather")
    assert "heads" not in ctx.metrics


def test_a_trial_that_fails_is_a_row_and_the_run_fails_after_its_last_stage() -> None:
    bad = seed_of(SEED, 1)
    asked = experiment(GRID, {"name": "stumble", "options": {"on": [bad]}})
    with pytest.raises(GateFailedError, match=r"trials.failed is 2, not at most 0") as failed:
        run_experiment(asked, registry=REGISTRY)
    ctx = failed.value.context
    assert ctx.metrics["rows"] == 6
    wrong = [row for row in rows(ctx) if row["status"] == "failed"]
    assert [(row["arm"], row["replicate"], row["stage"]) for row in wrong] == [
        ("bias=0.5", 1, "stumble"),
        ("bias=0.9", 1, "stumble"),
    ]
    assert wrong[0]["error"] == f"RuntimeError: seed {bad} does not work"
    assert wrong[0]["heads"] is None
    (said,) = [one for one in ctx.trace.decisions if "trials failed" in one.decision]
    assert said.decision == "2 of 6 trials failed, and are left out"
    assert said.reasoning == f"2 of them in stage 'stumble': RuntimeError: seed {bad} does not work"


@pytest.mark.parametrize(("limit", "passes"), [(2, True), (1, False), (0.34, True), (0.3, False)])
def test_so_many_trials_may_fail(limit: float, passes: bool) -> None:
    asked = experiment({**GRID, "max_failures": limit}, {"name": "stumble", "options": {"on": [seed_of(SEED, 1)]}})
    if passes:
        assert run_experiment(asked, registry=REGISTRY).metrics["trials"]["failed"] == 2
    else:
        with pytest.raises(GateFailedError):
            run_experiment(asked, registry=REGISTRY)


def test_a_trial_begins_with_the_first_stage_that_varies_and_ends_before_the_first_that_gathers() -> None:
    def stages(trials: Mapping[str, Any]) -> list[str]:
        plan = plan_experiment(experiment(trials, "stumble"), REGISTRY)
        return [one.name for one in plan.stages[[one.name for one in plan].index("trials")].stage.stages]  # type: ignore[attr-defined]

    assert stages(GRID) == ["flip", "stumble"]
    assert stages({"grid": {"load.n": [2, 3]}}) == ["load", "flip", "stumble"]
    assert stages({"replicates": 2}) == ["flip", "stumble"]  # the seed reaches it
    assert stages({"replicates": 2, "from": "stumble"}) == ["stumble"]
    assert stages({**GRID, "to": "flip"}) == ["flip"]


def test_arms_of_a_stage_whose_code_is_not_known_are_told_apart(tmp_path: Path) -> None:
    made: dict[str, Any] = {"__name__": "__typed__", "stage": stage, "Context": Context}
    exec("@stage\ndef typed(ctx: Context, *, x: int = 0) -> Context:\n    return ctx.put_metric('x', x)", made)
    asked = Experiment.model_validate(
        {"id": "typed", "pipeline": [{"name": "typed"}], "trials": {"grid": {"typed.x": [1, 2]}, "replicates": 2}}
    )
    for _ in range(2):
        ctx = run_experiment(asked, registry=Registry({"typed": made["typed"]}), keep=tmp_path)
        assert [row["x"] for row in rows(ctx)] == [1, 2, 1, 2]
    assert not [one for one in ctx.trace.decisions if "not run again" in one.decision]


def test_what_cannot_be_copied_is_shared_by_trials_in_this_process() -> None:
    pipeline = [{"name": "hold"}, {"name": "load"}, {"name": "flip"}, {"name": "gather"}]
    asked = Experiment.model_validate({"id": "coins", "seed": SEED, "pipeline": pipeline, "trials": GRID})
    assert all(row["fresh"] for row in rows(run_experiment(asked, registry=REGISTRY)))


def test_a_metric_with_the_name_of_a_column_fails_its_trial() -> None:
    with pytest.raises(GateFailedError) as failed:
        run_experiment(experiment(GRID, "odd_metric"), registry=REGISTRY)
    assert rows(failed.value.context)[0]["error"] == (
        "the metric 'seed' has the name of a column of the trials; give it another name"
    )


def test_a_measure_that_no_trial_puts_fails_the_stage() -> None:
    with pytest.raises(StageFailedError, match=r"no trial put the metric 'haeds'.*did you mean 'heads'"):
        run_experiment(experiment({**GRID, "measure": "haeds"}), registry=REGISTRY)


def test_variants_change_the_stages_of_trials() -> None:
    asked = experiment(GRID, variants={"long": {"flip": {"n": 40}}, "small": {"load": {"n": 1}}})
    plan_experiment(asked, REGISTRY)
    long = run_experiment(asked.with_variant("long", REGISTRY), registry=REGISTRY)
    planned = plan_experiment(asked, REGISTRY).experiment.with_variant("long", REGISTRY)
    assert without_time(run_experiment(planned, registry=REGISTRY)) == without_time(long)
    assert without_time(long) != without_time(run_experiment(asked, registry=REGISTRY))


# --- until the differences are known ----------------------------------------------------------------------------------

UNTIL = {
    "grid": {"flip.bias": [0.5, 0.7, 0.9]},
    "replicates": 4,
    "measure": "heads",
    "baseline": "bias=0.5",
    "until": {"width": 0.3, "at_most": 60},
}


def widths(ctx: Context, replicates: int) -> list[float]:
    """Of the confidence sequences of the differences from the first arm, by hand."""
    heads = {(row["arm"], row["replicate"]): row["heads"] for row in rows(ctx)}
    found = []
    for arm in ("bias=0.7", "bias=0.9"):
        pairs = [heads[arm, one] - heads["bias=0.5", one] for one in range(replicates)]
        low, high = t_mixture_sequence(pairs, alpha=0.025, tightest_at=30).interval
        found.append(high - low)
    return found


def test_replicates_are_added_until_the_differences_are_known_so_well() -> None:
    ctx = run_experiment(experiment(UNTIL), registry=REGISTRY)
    replicates = len(rows(ctx)) // 3
    assert replicates % 4 == 0
    assert 8 <= replicates < 60
    assert max(widths(ctx, replicates)) <= 0.3 < max(widths(ctx, replicates - 4))
    fixed = {key: value for key, value in UNTIL.items() if key != "until"} | {"replicates": replicates}
    assert without_time(run_experiment(experiment(fixed), registry=REGISTRY)) == without_time(ctx)
    (said,) = [one for one in ctx.trace.decisions if "replicates" in one.decision]
    widest = max(widths(ctx, replicates))
    assert said.decision == (
        f"stopped after {replicates} replicates: the widest interval is {widest:.4g}, and 0.3 was asked for"
    )
    assert said.reasoning.startswith("heads minus that of bias=0.5: bias=0.7 0.")
    assert "(0.95 for all of them together) hold however often one has looked" in said.reasoning


def test_replicates_end_at_most_so_many_and_where_nothing_is_measured() -> None:
    ctx = run_experiment(experiment({**UNTIL, "until": {"width": 0.001, "at_most": 10}}), registry=REGISTRY)
    assert len(rows(ctx)) == 30
    (said,) = [one for one in ctx.trace.decisions if "replicates" in one.decision]
    assert said.decision.startswith("stopped after 10 replicates: the widest interval is ")
    broken = {"name": "stumble", "options": {"on": [seed_of(SEED, replicate) for replicate in range(60)]}}
    ctx = run_experiment(experiment({**UNTIL, "max_failures": 60}, broken), registry=REGISTRY)
    assert len(rows(ctx)) == 12


@pytest.mark.slow
def test_the_differences_are_in_their_intervals_at_all_looks_together() -> None:
    generator = np.random.default_rng(1)
    arms, truth, sweeps, missed = ["a", "b", "c"], {"a": 0.0, "b": 1.0, "c": -1.0}, 400, 0
    for _ in range(sweeps):
        values = generator.normal(list(truth.values()), 1.0, (40, 3))
        table = [
            {"arm": arm, "replicate": replicate, "score": float(value)}
            for replicate, row in enumerate(values)
            for arm, value in zip(arms, row, strict=True)
        ]
        looks = [differences(table[: 3 * n], arms, "a", "score", alpha=0.2, tightest_at=20) for n in range(5, 41, 5)]
        missed += any(not one.lower <= truth[one.arm] <= one.upper for look in looks for one in look)
    assert 0 < missed / sweeps <= 0.2


@pytest.mark.slow
def test_rounds_are_the_same_in_processes_and_go_on_where_they_were_interrupted(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    asked = experiment(UNTIL, {"name": "stumble", "options": {"marks": str(ran)}})
    here = run_experiment(asked, registry=REGISTRY, keep=tmp_path / "kept")
    total = len(marks(ran))
    apart = run_experiment(asked, registry=REGISTRY, jobs=2, keep=tmp_path / "apart")
    assert without_time(apart) == without_time(here)
    assert len(marks(ran)) == 2 * total
    (file,) = (one for one in (tmp_path / "kept").rglob("*") if one.is_file())
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:17]))
    again = run_experiment(asked, registry=REGISTRY, keep=tmp_path / "kept")
    assert without_time(again) == without_time(here)
    assert len(marks(ran)) == 3 * total - 17


# --- search -----------------------------------------------------------------------------------------------------------

SEARCH = {
    "search": {"budget": 24, "batch": 6, "space": {"flip.bias": {"low": 0.05, "high": 0.95}, "flip.n": [10, 20, 40]}},
    "measure": "heads",
}


@pytest.mark.slow
def test_a_search_finds_better_arms_than_chance_and_asks_again_for_the_same(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    asked = experiment(SEARCH, {"name": "stumble", "options": {"marks": str(ran)}})
    here = run_experiment(asked, registry=REGISTRY, keep=tmp_path / "kept")
    table = rows(here)
    assert len(table) == len(marks(ran)) == len({row["arm"] for row in table}) == 24
    assert all(0.05 <= row["flip.bias"] <= 0.95 and row["flip.n"] in (10, 20, 40) for row in table)
    assert {row["seed"] for row in table} == {seed_of(SEED, 0)}
    assert all(row["arm"].startswith(f"bias={row['flip.bias']:.4g} n={row['flip.n']}") for row in table)
    first, last = ([row["heads"] for row in part] for part in (table[:6], table[-6:]))
    assert np.mean(last) > np.mean(first) + 0.1
    apart = run_experiment(asked, registry=REGISTRY, jobs=2)
    assert without_time(apart) == without_time(here)
    (file,) = (one for one in (tmp_path / "kept").rglob("*") if one.is_file())
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:15]))
    again = run_experiment(asked, registry=REGISTRY, keep=tmp_path / "kept")
    assert without_time(again) == without_time(here)
    assert len(marks(ran)) == 24 + 24 + 9


@pytest.mark.slow
def test_the_direction_of_a_search_is_that_of_the_comparison_or_its_own() -> None:
    def lowered(search: Mapping[str, Any], *after: Mapping[str, Any]) -> Any:
        table = {**SEARCH, "search": {**SEARCH["search"], **search}, "replicates": 2}  # type: ignore[dict-item]
        asked = experiment(table)
        asked = asked.model_validate({**asked.to_dict(), "pipeline": [*asked.to_dict()["pipeline"], *after]})
        plan = plan_experiment(asked, REGISTRY)
        return next(one.options or {} for one in plan.experiment.pipeline if one.name == "trials")["search"]

    bench = {"name": "bench", "options": {"higher_is_better": False}}
    assert lowered({})["higher_is_better"] is True  # type: ignore[index]
    assert lowered({}, bench)["higher_is_better"] is False  # type: ignore[index]
    assert lowered({"higher_is_better": True}, bench)["higher_is_better"] is True  # type: ignore[index]
    table = {**SEARCH, "search": {**SEARCH["search"], "budget": 48, "higher_is_better": False}}  # type: ignore[dict-item]
    ctx = run_experiment(experiment(table), registry=REGISTRY)
    assert np.mean([row["heads"] for row in rows(ctx)[-24:]]) < 0.4


@pytest.mark.slow
def test_an_arm_that_is_chosen_again_is_not_run_again_and_one_that_fails_is_told_so() -> None:
    asked = {
        "search": {"budget": 12, "sampler": "random", "batch": 5, "space": {"flip.n": [10, 20]}},
        "measure": "heads",
    }
    ctx = run_experiment(experiment(asked), registry=REGISTRY)
    assert sorted(row["arm"] for row in rows(ctx)) == ["n=10", "n=20"]
    broken = {"name": "stumble", "options": {"on": [seed_of(SEED, 0)]}}
    ctx = run_experiment(experiment({**SEARCH, "max_failures": 100}, broken), registry=REGISTRY)
    assert ctx.metrics["trials"]["failed"] == 24


def test_a_search_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        InvalidExperimentError, match=r"needs the extra 'optuna': pip install 'crucible-dagster\[optuna\]'"
    ):
        plan_experiment(experiment(SEARCH), REGISTRY)


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ("search: {budget: 5, space: {flip.n: [1, 2]}}", "coins.yaml:8:3: trials: search: name the `measure`"),
        ("search: {budget: 0, space: {flip.n: [1, 2]}}", "coins.yaml:8:12: trials.search.budget"),
        ("search: {budget: 5, space: {}}", "coins.yaml:8:23: trials.search.space: names no option that is searched"),
        ("search: {budget: 5, sampler: tpa, space: {flip.n: [1, 2]}}", "trials.search.sampler: should be"),
        ("search: {budget: 5, space: {flip.n: []}}", "coins.yaml:8:31: trials.search.space: 'flip.n' needs a list of"),
        ("search: {budget: 5, space: {flip.n: {low: 2, high: 1}}}", "whose low is below its high, and above 0 if log"),
        ("search: {budget: 5, space: {flip.n: {low: 0, high: 1, log: true}}}", "'flip.n' needs a list of choices, or"),
        ("search: {budget: 5, space: {flip.n: {low: a, high: b}}}", "such as {low: 0.1, high: 10, log: true}"),
        ("search: {budget: 5, space: {flip: [1]}}", "'flip' does not name an option: write it as stage.option"),
        (
            "measure: heads\nsearch: {budget: 5, space: {flip.m: [1]}}",
            "coins.yaml:9:31: trials: arm 'm=1': stage 'flip' has no option 'm'",
        ),
        (
            "measure: heads\nsearch: {budget: 5, space: {flip.n: {low: 0.5, high: 3}}}",
            "trials: arm 'n=0.5': stage 'flip', option n: should be a valid integer",
        ),
        (
            "measure: heads\nsearch: {budget: 5, space: {flop.n: [1]}}",
            "coins.yaml:9:31: trials: experiment 'coins' has no stage 'flop'; did you mean 'flip'?",
        ),
        (
            "measure: heads\nreplicates: 10000\nsearch: {budget: 101, space: {flip.n: [1]}}",
            "1,010,000 trials are more than the 1,000,000 that a sweep can have",
        ),
        *(
            (
                f"measure: heads\n{more}\nsearch: {{budget: 5, space: {{flip.n: [1]}}}}",
                f"coins.yaml:9:3: trials: `search` chooses the arms; leave out `{more.partition(':')[0]}`",
            )
            for more in (
                "grid: {flip.n: [1]}",
                "arms: {a: {flip: {n: 1}}}",
                "baseline: a",
                "until: {width: 1, at_most: 2}",
            )
        ),
    ],
)
def test_a_search_that_cannot_be_is_said_where_the_file_has_it(
    refused: Callable[..., str], trials: str, said: str
) -> None:
    assert said in refused(trials)


def test_a_search_whose_arms_are_compared_has_replicates(refused: Callable[..., str]) -> None:
    file = FILE.replace("{name: gather}", "{name: bench}")
    text = refused("measure: heads\nsearch: {budget: 5, space: {flip.n: [1]}}", file)
    assert "coins.yaml:9:3: trials: stage 'bench' compares the arms, for which each needs `replicates: 2`" in text


# --- what is kept -----------------------------------------------------------------------------------------------------


def marks(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_what_is_kept_is_not_run_again(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    def run(trials: Mapping[str, Any]) -> Context:
        asked = experiment(trials, {"name": "stumble", "options": {"marks": str(ran)}})
        return run_experiment(asked, registry=REGISTRY, keep=tmp_path / "kept")

    first = run(GRID)
    assert len(marks(ran)) == 6
    assert rows(run(GRID)) == rows(first)
    assert len(marks(ran)) == 6
    more = run({**GRID, "replicates": 5})
    assert len(marks(ran)) == 10
    assert rows(more)[:6] == rows(first)
    one_more_arm = run({"grid": {"flip.bias": [0.5, 0.7, 0.9]}, "replicates": 3})
    assert len(marks(ran)) == 13
    assert [row["heads"] for row in rows(one_more_arm) if row["arm"] == "bias=0.9"] == [
        row["heads"] for row in rows(first) if row["arm"] == "bias=0.9"
    ]


def test_failed_trials_are_run_again_and_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    def run(on: list[int]) -> Context:
        asked = experiment(
            {**GRID, "max_failures": 6}, {"name": "stumble", "options": {"marks": str(ran)}}, {"name": "vanish"}
        )
        if on:
            asked = asked.with_options("stumble", {"on": on})
        return run_experiment(asked, registry=REGISTRY, keep=tmp_path / "kept")

    run([seed_of(SEED, 1)])
    assert len(marks(ran)) == 6
    again = run([seed_of(SEED, 1)])
    assert marks(ran)[6:] == [str(seed_of(SEED, 1))] * 2
    assert again.metrics["trials"]["failed"] == 2


def test_the_log_reads_what_a_killed_process_left(tmp_path: Path) -> None:
    log = TrialLog(FolderFiles(tmp_path), "coins", "run-1")
    log.begin("a")
    log.keep("a", {"status": "succeeded", "x": 1})
    log.begin("b")
    log.begin("c")
    log.keep("c", {"status": "failed"})
    (half,) = (tmp_path / "trials/coins/run-1").iterdir()
    with half.open("ab") as stream:
        stream.write(b'd {"status":"succ')
    assert log.rows(["a", "b", "c", "d"]) == {
        "a": {"status": "succeeded", "x": 1},
        "b": None,
        "c": {"status": "failed"},
        "d": None,
    }
    assert log.unfinished(["a", "b", "c", "d"]) == ["b"]
    other = TrialLog(FolderFiles(tmp_path), "coins", "run-2")
    found = other.rows(["a", "b", "c"])
    assert [key for key in found if found[key]] == ["a"]  # what failed in another run is tried again
    assert other.unfinished(["b"]) == []


def test_a_line_that_the_disk_had_no_room_for_spoils_no_later_one(tmp_path: Path) -> None:
    log = TrialLog(FolderFiles(tmp_path), "coins", "run-1")
    log.keep("a", {"status": "succeeded"})
    (file,) = (tmp_path / "trials/coins/run-1").iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, hard))  # room for a part of the next line
    try:
        with pytest.raises(OSError, match="File too large"):
            log.keep("b", {"status": "succeeded"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.keep("c", {"status": "succeeded"})
    row = {"status": "succeeded"}
    assert log.rows(["a", "b", "c"]) == {"a": row, "b": None, "c": row}


def of_writers(log: TrialLog, *sizes: int) -> list[str]:
    """The keys of rows that so many processes have kept."""
    keys = []
    for writer, size in enumerate(sizes):
        _writers.clear()
        for number in range(size):
            keys.append(f"{writer}.{number}")
            log.keep(keys[-1], {"status": "succeeded", "number": number})
    return keys


def test_what_many_processes_have_kept_is_put_together(tmp_path: Path) -> None:
    log = TrialLog(FolderFiles(tmp_path), "coins", "run-1")
    folder = tmp_path / "trials/coins/run-1"
    keys = of_writers(log, 3, LINES_PER_FILE + 1, 2)
    before = log.rows(keys)
    with next(folder.iterdir()).open("ab") as stream:
        stream.write(b'killed {"status":"succ')
    log.compact()
    assert [path.name.startswith(COMPACTED) for path in folder.iterdir()] == [True]
    assert log.rows(keys) == before
    assert set(log.own_rows()) == set(keys)
    log.keep("later", {"status": "succeeded"})
    assert log.rows(["later"])["later"]


def test_of_another_run_only_what_is_not_written_to_any_more_is_put_together(tmp_path: Path) -> None:
    other, log = (TrialLog(FolderFiles(tmp_path), "coins", run) for run in ("run-1", "run-2"))
    keys = of_writers(other, 3, *[LINES_PER_FILE] * FEW)
    before = log.rows(keys)
    log.compact()
    names = [path.name for path in (tmp_path / "trials/coins/run-1").iterdir()]
    assert sorted(name.startswith(COMPACTED) for name in names) == [False, True]
    assert log.rows(keys) == before


class DyingFiles(FolderFiles):
    """Files of a process that dies when it has written or removed so many."""

    left = 0

    def write(self, name: str, parts: Sequence[bytes]) -> None:
        if self.left == 0:
            super().write(name, [parts[0][:-5]])
        self._one_less()
        super().write(name, parts)

    def delete(self, name: str) -> None:
        self._one_less()
        super().delete(name)

    def _one_less(self) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1


@pytest.mark.parametrize("steps", range(4))
def test_putting_together_loses_nothing_if_it_is_killed(tmp_path: Path, steps: int) -> None:
    files = DyingFiles(tmp_path)
    log = TrialLog(files, "coins", "run-1")
    keys = of_writers(log, 2, 2, 2)
    before = log.rows(keys)
    files.left = steps
    with pytest.raises(KeyboardInterrupt):
        log.compact()
    assert log.rows(keys) == before
    files.left = 10
    log.compact()
    assert log.rows(keys) == before


@pytest.mark.slow
def test_nothing_is_lost_while_others_write_and_put_together(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom crucible_core.trials.log import FolderFiles, TrialLog\n"
        "log = TrialLog(FolderFiles(Path(sys.argv[1])), 'coins', 'run-1')\n"
        "for number in range(20_000):\n    log.keep(f'{sys.argv[2]}.{number}', {'status': 'succeeded'})\n"
    )
    keys = [f"{writer}.{number}" for writer in range(2) for number in range(20_000)]
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(writer)]) for writer in range(2)]
    log = TrialLog(FolderFiles(tmp_path), "coins", "run-2")
    found, ended = 0, False
    while not ended:
        ended = all(writer.poll() is not None for writer in writers)
        log.compact()
        now = sum(row is not None for row in log.rows(keys).values())
        assert now >= found
        found = now
    assert found == len(keys)
    assert len(log._files.children("trials/coins/run-1")) <= 3 * FEW


# --- in processes -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_give_the_same_rows_and_each_trial_is_run_once(tmp_path: Path) -> None:
    trials = {"grid": {"flip.bias": [0.5, 0.7, 0.9]}, "replicates": 10}
    asked = experiment(trials, {"name": "stumble", "options": {"marks": str(tmp_path / "ran")}})
    here = run_experiment(asked, registry=REGISTRY)
    (tmp_path / "ran").unlink()
    apart = run_experiment(asked, registry=REGISTRY, jobs=2)
    assert without_time(apart) == without_time(here)
    assert len(marks(tmp_path / "ran")) == 30
    assert all(row["fresh"] for row in rows(apart))
    for jobs in (2, 3):
        kept = run_experiment(asked, registry=REGISTRY, jobs=jobs, keep=tmp_path / "kept")
        assert without_time(kept) == without_time(here)
        assert len([path for path in (tmp_path / "kept").rglob("*") if path.is_file()]) == 1


@pytest.mark.slow
def test_a_process_that_dies_costs_its_own_trial_and_only_if_it_dies_twice(tmp_path: Path) -> None:
    trials = {"grid": {"flip.bias": [0.5, 0.9]}, "replicates": 8, "max_failures": 2}
    ran = {"name": "stumble", "options": {"marks": str(tmp_path / "ran")}}
    once = {"name": "vanish", "options": {"on": [seed_of(SEED, 2)], "once": str(tmp_path / "once")}}
    ctx = run_experiment(experiment(trials, once, ran), registry=REGISTRY, jobs=2, keep=tmp_path / "kept")
    assert ctx.metrics["trials"]["failed"] == 0
    # The pool ends its other process too, so what that was running is run again.
    assert 16 <= len(marks(tmp_path / "ran")) <= 17
    (tmp_path / "ran").unlink()
    always = {"name": "vanish", "options": {"on": [seed_of(SEED, 2)]}}
    ctx = run_experiment(experiment(trials, always, ran), registry=REGISTRY, jobs=2)
    assert [row["error"] for row in rows(ctx) if row["status"] == "failed"] == [DIED] * 2
    assert 14 <= len(marks(tmp_path / "ran")) <= 16


@pytest.mark.slow
def test_a_context_that_cannot_be_sent_says_what_to_do() -> None:
    pipeline = [{"name": "hold"}, {"name": "load"}, {"name": "flip"}, {"name": "gather"}]
    asked = Experiment.model_validate({"id": "coins", "seed": SEED, "pipeline": pipeline, "trials": GRID})
    with pytest.raises(StageFailedError, match=r"cannot be sent to other processes: .* or run them with `jobs: 1`"):
        run_experiment(asked, registry=REGISTRY, jobs=2)


# --- mistakes ---------------------------------------------------------------------------------------------------------

FILE = """\
id: coins
seed: 1
pipeline:
  - {name: load}
  - {name: flip}
  - {name: gather}
trials:
"""


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[str], str]:
    def refuse(trials: str, file: str = FILE) -> str:
        path = tmp_path / "coins.yaml"
        path.write_text(file + textwrap.indent(textwrap.dedent(trials), "  "))
        with pytest.raises(InvalidExperimentError) as error:
            plan_experiment(load_experiment(path), REGISTRY)
        return str(error.value).replace(str(path), "coins.yaml")

    return refuse


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        (
            "grid: {flop.bias: [0.5]}",
            "coins.yaml:8:10: trials: experiment 'coins' has no stage 'flop'; did you mean 'flip'?",
        ),
        (
            "grid: {flip.bios: [0.5]}",
            "coins.yaml:8:22: trials: arm 'bios=0.5': stage 'flip' has no option 'bios'; did you mean 'bias'?",
        ),
        (
            "grid: {flip.bias: [0.5, high]}",
            "coins.yaml:8:27: trials: arm 'bias=high': stage 'flip', option bias: should be a valid number",
        ),
        (
            "arms:\n  one: {flip: {n: 1}}\n  two: {flip: {n: x}}",
            "coins.yaml:10:11: trials: arm 'two': stage 'flip', option n: should",
        ),
        (
            "arms:\n  one: {flip: {n: 1}}\n  two: {flip: {n: 1}}",
            "trials: the arms 'one' and 'two' have the same options",
        ),
        (
            "arms:\n  one: {flip: {n: 20}}\n  two: {}",
            "trials: the arms 'one' and 'two' are the same: leave one of them",
        ),
        ('arms: {"": {flip: {n: 1}}}', "coins.yaml:8:10: trials.arms..[key]: '' cannot be a name"),
        ("grid: {flip.bias: [0.5, 0.5]}", "have the same options; leave one of them out"),
        ("grid: {flip.bias: [0.5, 0.9]}\nbaseline: fair", "coins.yaml:9:3: trials: there is no arm 'fair'; arms: "),
        ("grid: {flip.bias: [0.5, 0.9]}\nbaseline: {flip.bias: 0.4}", "trials: there is no arm {'flip.bias': 0.4}"),
        ("replicates: 0", "coins.yaml:8:3: trials.replicates"),
        ("replicates: 10000000", "trials: 10,000,000 trials are more than the 1,000,000 that a sweep can have"),
        ("replicates: 2\njobs: 0", "coins.yaml:9:3: trials.jobs"),
        ("replicates: 2\nworkers: 33", "coins.yaml:9:3: trials.workers"),
        ("replicates: 2\nmax_failures: 1.5", "a whole number of trials, or a share of them from 0 to below 1"),
        ("replicates: 2\nengine: {kind: dusk}", "'dusk' is not an engine; did you mean 'dask'?"),
        (
            "replicates: 2\nuntil: {width: 0, at_most: 9}",
            "coins.yaml:9:11: trials.until.width: should be greater than 0",
        ),
        (
            "replicates: 2\nuntil: {width: 1, at_most: 9}",
            "coins.yaml:9:3: trials: until: name the `measure` that it looks at",
        ),
        (
            "replicates: 2\nmeasure: heads\nuntil: {width: 1, at_most: 9}",
            "coins.yaml:10:3: trials: until: differences need two arms, or more arms and the `baseline` of them",
        ),
        (
            "grid: {flip.n: [2, 3]}\nreplicates: 20\nmeasure: heads\nuntil: {width: 1, at_most: 9}",
            "coins.yaml:11:21: trials: until: replicates are added 20 at a time, which is more than at_most, 9",
        ),
        (
            "grid: {flip: [1]}",
            "coins.yaml:8:10: trials.grid: 'flip' does not name an option: write it as stage.option, such as",
        ),
        ("grid: {flip.bias: []}", "coins.yaml:8:10: trials.grid: 'flip.bias' has no values"),
        (
            "replicates: 2\nfrom: gather",
            "trials: a trial would have no stage: it begins with 'gather', which gathers results",
        ),
        ("replicates: 2\nfrom: flap", "coins.yaml:9:3: trials: from: there is no stage 'flap'; did you mean 'flip'?"),
        (
            "replicates: 2\nto: load",
            "coins.yaml:7:1: trials: a trial would have no stage: it begins with 'flip' and ends",
        ),
        (
            "grid: {load.n: [1, 2]}\nfrom: flip",
            "coins.yaml:8:10: trials: an arm changes an option of 'load', which is not",
        ),
    ],
)
def test_what_cannot_be_is_said_where_the_file_has_it(refused: Callable[..., str], trials: str, said: str) -> None:
    assert said in refused(trials)


def test_arms_of_a_stage_after_the_trials_and_a_gathering_stage_before_them(refused: Callable[..., str]) -> None:
    late = FILE.replace("  - {name: gather}\n", "  - {name: gather}\n  - {name: stumble}\n")
    assert "an arm changes an option of 'stumble', which is not one of the stages of a trial (flip)" in refused(
        "replicates: 2\narms: {a: {stumble: {on: [1]}}, b: {flip: {n: 2}}}", late
    )
    early = FILE.replace("  - {name: flip}\n  - {name: gather}\n", "  - {name: gather}\n  - {name: flip}\n")
    assert "stage 'gather' gathers the results of trials, but it is before their end" in refused("replicates: 2", early)
    taken = FILE.replace("{name: load}", "{name: trials, module: load}")
    assert "the pipeline has a stage 'trials' already; give it another name" in refused("replicates: 2", taken)
    same = FILE.replace("  - {name: flip}\n", "  - {name: stumble}\n")
    assert "no arm, no grid and no seed reaches a stage" in refused("replicates: 2", same)
    wrong = FILE.replace("{name: flip}", "{name: flip, options: {bias: low}}")
    assert "coins.yaml:5:28: stage 'flip', option bias" in refused("replicates: 2", wrong)


def test_a_comparison_compares_the_arms_by_the_measure() -> None:
    stages = Registry({**STAGES, "bench": Bench})
    asked = Experiment.model_validate(
        {
            "id": "coins",
            "pipeline": [{"name": "load"}, {"name": "flip"}, {"name": "bench", "options": {"alpha": 0.1}}],
            "trials": {"grid": {"flip.bias": [0.5, 0.9]}, "replicates": 5, "measure": "heads", "baseline": "bias=0.5"},
        }
    )
    bench = plan_experiment(asked, stages).experiment.pipeline[-1].options
    assert bench == {
        "data": "outputs",
        "group_by": "arm",
        "value": "heads",
        "missing": "drop",
        "pair_by": "replicate",
        "paired": True,
        "baseline": "bias=0.5",
        "compare": "baseline",
        "alpha": 0.1,
    }
    unmeasured = asked.model_copy(update={"trials": asked.trials and asked.trials.model_copy(update={"measure": None})})
    with pytest.raises(InvalidExperimentError, match=r"stage 'bench' compares the arms.*name the `measure`"):
        plan_experiment(unmeasured, stages)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"design": "resampled", "test_share": 0.5}, "with `design: resampled`"),
        ({"paired": False}, "with `design: independent`"),
        ({"scale": "log"}, "by `scale: log`"),
    ],
)
def test_a_comparison_that_may_not_be_looked_at_often_cannot_say_when_to_end(
    refused: Callable[..., str], options: Mapping[str, Any], said: str
) -> None:
    file = FILE.replace("{name: gather}", json.dumps({"name": "bench", "options": options}))
    trials = "grid: {flip.bias: [0.5, 0.9]}\nmeasure: heads\nuntil: {width: 0.1, at_most: 9}"
    text = refused(trials, file)
    assert f"coins.yaml:10:3: trials: until: stage 'bench' compares the arms {said}, for which there is no" in text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"compare": "baseline", "leaderboard": True}),
        ({"study": "ab_test"}, {"study": "ab_test"}),
        ({"design": "independent"}, {"compare": "baseline", "leaderboard": True}),
        ({"design": "stratified", "strata": "arm"}, {"compare": "baseline"}),
        ({"leaderboard": False}, {"compare": "baseline", "leaderboard": False}),
    ],
)
def test_a_comparison_with_a_baseline_ranks_the_arms_too(
    options: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    asked = Experiment.model_validate(
        {
            "id": "coins",
            "pipeline": [{"name": "load"}, {"name": "flip"}, {"name": "bench", "options": options}],
            "trials": {
                "grid": {"flip.bias": [0.5, 0.7, 0.9]},
                "replicates": 5,
                "measure": "heads",
                "baseline": "bias=0.5",
            },
        }
    )
    bench = plan_experiment(asked, Registry({**STAGES, "bench": Bench})).experiment.pipeline[-1].options or {}
    assert {name: bench.get(name) for name in ("compare", "leaderboard", "study") if name in bench} == expected


def test_rows_are_json() -> None:
    ctx = run_experiment(experiment(GRID), registry=REGISTRY)
    assert json.loads(json.dumps(rows(ctx))) == rows(ctx)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    (tmp_path / "sweep_stages.py").write_text(
        "from crucible_core import Context, stage\n\n\n@stage\n"
        "def guess(ctx: Context, *, at: int = 1, seed: int = 0) -> Context:\n"
        '    return ctx.put_metric("score", float(seed % 5 + at))\n'
    )
    (tmp_path / "pyproject.toml").touch()
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "id: sweep\npipeline: [{name: guess, module: sweep_stages:guess}]\n"
        "trials: {grid: {guess.at: [1, 2]}, replicates: 3, measure: score}\n"
    )
    return path


def said(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(arguments))
    return done.exit_code, done.stdout if "--json" in arguments else done.output


def test_validate_says_what_a_trial_is(sweep_file: Path) -> None:
    code, text = said("validate", str(sweep_file))
    assert code == 0
    assert text.splitlines()[1].endswith(
        ": 6 trials (2 arms x 3 replicates) of the stages guess; run once, before them: none; after them: none"
    )
    found = json.loads(said("validate", str(sweep_file), "--json")[1])
    assert found[str(sweep_file)]["trials"].startswith("6 trials (2 arms x 3 replicates)")


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (UNTIL, "12 trials (3 arms x 4 replicates, or more, up to 60 replicates) of the stages flip; "),
        (SEARCH, "24 trials (24 arms x 1 replicate, the arms chosen 6 at a time by tpe) of the stages flip; "),
    ],
)
def test_the_size_of_a_table_that_grows_is_said(trials: Mapping[str, Any], expected: str) -> None:
    plan = plan_experiment(experiment(trials), REGISTRY)
    (found,) = [one.stage for one in plan if isinstance(one.stage, RunTrials)]
    assert found.summary(plan.experiment).startswith(expected)


def test_run_keeps_trials_in_a_folder(sweep_file: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert said("run", str(sweep_file), "--keep", str(kept))[0] == 0
    assert len(list(kept.rglob("*"))) == 4  # trials, the experiment, the run, and what this process wrote
    first = json.loads(said("run", str(sweep_file), "--keep", str(kept), "--json")[1])
    assert len(first["outputs"]) == 6
    assert len(list(kept.rglob("*"))) == 4


@pytest.mark.slow
def test_options_of_trials_are_for_experiments_that_have_some(sweep_file: Path) -> None:
    assert "--keep is for runs in this process; one on Dagster keeps them itself" in said(
        "run", str(sweep_file), "--dagster", "--keep", "kept"
    )[1].replace("\n", " ")
    sweep_file.write_text("id: none\npipeline: [{name: validate}]\n")
    assert (
        "--jobs is for experiments with `trials`, and 'none' has none" in said("run", str(sweep_file), "--jobs", "2")[1]
    )
