"""What a sweep gives: the leaderboard of its arms, its charts, and its whole table."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from scipy import stats

from crucible_bench import compare
from crucible_bench.decisions.rankings import indistinguishable_from_best
from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    GateFailedError,
    InvalidExperimentError,
    Registry,
    StageFailedError,
    run_experiment,
    stage,
)
from crucible_core.ir.vocabulary import ReportFormat
from crucible_core.report import render_report, report_on
from crucible_core.report.document import Document, Paragraph, Picture, PictureOfTwoWidths, Table
from crucible_core.report.leaderboard import leaderboard_of
from crucible_core.report.sweep_pictures import sweep_pictures
from crucible_core.report.tables import csv_of_records, parquet_of_records
from crucible_core.report.trials_section import trial_rows
from crucible_core.stages.bench import Bench
from crucible_core.stages.report import Report


@stage
def guess(
    ctx: Context, *, at: float = 1.0, how: str = "well", fails: int = -1, refuses: float | None = None, seed: int = 0
) -> Context:
    """A number near `at`; the replicate `fails` fails, and so does every one of the arm that `refuses`."""
    if at == refuses or (fails >= 0 and seed % 7 == fails):
        raise RuntimeError("it does not work")
    noise = np.random.default_rng(seed).normal()
    own = np.random.default_rng(seed + round(1000 * at)).normal()
    return ctx.put_metric("score", at + (how == "well") + float(noise) + 0.1 * float(own))


REGISTRY = Registry({"bench": Bench, "guess": guess})


def swept(
    trials: Mapping[str, Any], bench: Mapping[str, Any] | None = None, first: Mapping[str, Any] | None = None
) -> Context:
    stages: list[Mapping[str, Any]] = [first or {"name": "guess"}]
    if bench is not None:
        stages.append({"name": "bench", "options": bench})
    asked = {"id": "guesses", "seed": 1, "pipeline": stages, "trials": {"measure": "score", **trials}}
    try:
        return run_experiment(Experiment.model_validate(asked), registry=REGISTRY)
    except GateFailedError as failed:
        return failed.context


def section(document: Document) -> tuple[list[Table], list[str]]:
    (found,) = [one for one in document.sections if one.title == "Trials"]
    return (
        [one for one in found.blocks if isinstance(one, Table)],
        [one.text for one in found.blocks if isinstance(one, Paragraph)],
    )


def test_the_leaderboard_has_mean_interval_n_rank_and_what_may_be_the_best_beside_a_baseline() -> None:
    ctx = swept({"grid": {"guess.at": [0.0, 2.0, 2.05]}, "replicates": 8, "baseline": {"guess.at": 0.0}}, {})
    board = leaderboard_of(ctx, trial_rows(ctx))
    scores = {
        arm: np.array([row["score"] for row in ctx.outputs if row["arm"] == arm])
        for arm in ("at=0.0", "at=2.0", "at=2.05")
    }
    best = indistinguishable_from_best(scores, paired=True)
    assert [one.name for one in board.arms] == [one.name for one in best.contenders]
    assert [(one.rank, one.n, one.may_be_best) for one in board.arms] == [(1, 8, True), (2, 8, True), (3, 8, False)]
    for one in board.arms:
        values = scores[one.name]
        assert one.mean == pytest.approx(values.mean())
        expected = stats.t.interval(0.95, 7, loc=values.mean(), scale=stats.sem(values))
        assert one.interval == pytest.approx(expected)
    (table,), notes = section(report_on(ctx))
    assert table.columns == ("rank", "arm", "score [95% CI]", "n", "mean time", "verdict")
    assert [row[-1].split(",")[0] for row in table.rows] == ["the best mean", "may be the best", "shown to be worse"]
    assert "the best of 3 was picked" in notes[0]
    assert "pair by pair" in notes[1]


def test_the_headline_has_what_was_declared_first_and_then_the_best_arm() -> None:
    ctx = swept({"grid": {"guess.at": [0.0, 2.0, 4.0]}, "replicates": 8, "baseline": {"guess.at": 0.0}}, {})
    (headline, *_) = [one.text for one in report_on(ctx).blocks if isinstance(one, Paragraph)]
    assert headline.startswith("2 of 2 comparisons with at=0.0 in score show a difference: ")
    assert headline.endswith("at=4.0 has the best mean in score, 4.92; every other one is shown to be worse.")


def test_trials_that_failed_are_counted_beside_the_arm() -> None:
    ctx = swept({"grid": {"guess.at": [0.0, 1.0, 2.0], "guess.fails": [-1, 0]}, "replicates": 20}, {})
    (_, table), _ = section(report_on(ctx))
    counted = {row[1]: row[3] for row in table.rows}
    failed = sum(row["status"] == "failed" for row in ctx.outputs) // 3
    assert failed > 0
    assert counted["at=0.0 fails=0"] == f"{20 - failed} ({failed} failed)"
    assert counted["at=0.0 fails=-1"] == str(20 - failed)  # the pairs of the failed trials are left out


@pytest.mark.parametrize("baseline", [None, {"guess.at": 0.0}])
def test_an_arm_whose_every_trial_failed_is_left_out_and_the_others_are_compared(baseline: Any) -> None:
    grid = {"guess.at": [0.0, 1.0, 2.0, -1.0]}
    trials = {"grid": grid, "replicates": 6, "max_failures": 0.5, **({"baseline": baseline} if baseline else {})}
    with_failures = {"name": "guess", "options": {"refuses": -1.0}}
    ctx = swept(trials, {}, with_failures)
    _, table = section(report_on(ctx))[0]
    assert [row[1] for row in table.rows] == ["at=2.0", "at=1.0", "at=0.0", "at=-1.0"]
    assert table.rows[-1][0] == "–"
    assert table.rows[-1][3] == "0 (6 failed)"
    assert [row[3] for row in table.rows[:3]] == ["6"] * 3
    assert [one.reasoning for one in ctx.trace.decisions if one.decision == "without at=-1.0"]
    assert "6 of 24 trials failed." in [one.text for one in report_on(ctx).blocks if isinstance(one, Paragraph)]


def test_a_baseline_without_a_value_is_named() -> None:
    trials = {"grid": {"guess.at": [0.0, 1.0, -1.0]}, "replicates": 4, "baseline": {"guess.at": -1.0}}
    with pytest.raises(StageFailedError, match=r"the baseline 'at=-1\.0' has no value that others can"):
        swept(trials, {}, {"name": "guess", "options": {"refuses": -1.0}})


def test_one_arm_that_is_left_has_nothing_to_be_compared_with() -> None:
    with pytest.raises(StageFailedError, match=r"there is no value of at=-1\.0 to compare the others with"):
        swept({"grid": {"guess.at": [0.0, -1.0]}, "replicates": 4}, {}, {"name": "guess", "options": {"refuses": -1.0}})


def test_arms_of_the_same_mean_share_a_rank() -> None:
    grid = {"guess.at": [0.0, 2.0], "guess.fails": [-1, -2]}
    ctx = swept({"grid": grid, "replicates": 5}, {})
    board = leaderboard_of(ctx, trial_rows(ctx))
    assert [one.rank for one in board.arms] == [1, 1, 3, 3]


def test_without_a_comparison_the_arms_have_means_and_no_ranks() -> None:
    ctx = swept({"grid": {"guess.at": [0.0, 2.0]}, "replicates": 3})
    (table,), notes = section(report_on(ctx))
    assert table.columns == ("arm", "score", "n", "mean time")
    assert [row[0] for row in table.rows] == ["at=0.0", "at=2.0"]
    assert not notes


def test_many_arms_are_cut_with_a_sentence() -> None:
    ctx = swept({"grid": {"guess.at": [float(at) for at in range(120)]}})
    (table,), notes = section(report_on(ctx))
    assert len(table.rows) == 100
    assert notes == ["The first 100 of 120 arms."]


def test_replicates_that_were_added_until_it_was_enough_are_said_to_be() -> None:
    until = {"until": {"width": 0.2, "at_most": 40}, "baseline": {"guess.at": 0.0}}
    ctx = swept({"grid": {"guess.at": [0.0, 2.0, 4.0]}, "replicates": 10, **until}, {})
    _, notes = section(report_on(ctx))
    assert "decided by what the earlier ones measured (`until`)" in notes[-1]


# --- charts -----------------------------------------------------------------------------------------------------------


def pictures(trials: Mapping[str, Any], bench: Mapping[str, Any] | None = None) -> list[str]:
    """The alternative texts of the charts among the trials."""
    ctx = swept(trials, bench)
    (found,) = [one for one in report_on(ctx).sections if one.title == "Trials"]
    assert all(isinstance(one, PictureOfTwoWidths) for one in found.blocks if isinstance(one, Picture))
    return [one.alt for one in found.blocks if isinstance(one, Picture)]


def test_two_varied_options_make_a_heat_map_and_a_number_among_them_a_curve() -> None:
    grid = {"guess.how": ["well", "badly"], "guess.at": [0.1, 1.0, 10.0]}
    heat, line = pictures({"grid": grid, "replicates": 12, "baseline": {"guess.how": "badly", "guess.at": 0.1}}, {})
    assert heat.startswith("Heat map of score by guess.at and guess.how. well: 0.1 ")
    assert heat.count("(framed)") == 1
    assert "(framed); badly: 0.1 " in heat
    assert line.startswith("score by guess.at. well: ")
    assert line.count("95% CI [") == 6
    assert "; badly: " in line


def test_a_cell_whose_trials_all_failed_is_empty() -> None:
    grid = {"guess.at": [0.0, 1.0], "guess.how": ["well", "badly"]}
    ctx = swept({"grid": grid})
    rows = [{**row, "status": "failed", "score": None} if row["arm"] == "at=1.0 badly" else row for row in ctx.outputs]
    (heat,) = sweep_pictures(ctx, rows, leaderboard_of(ctx, rows))
    assert heat.alt.endswith("badly no value.")


@pytest.mark.parametrize(
    ("trials", "charts"),
    [
        ({"grid": {"guess.at": [1.0, 2.0, 3.0]}}, ["score by guess.at"]),
        ({"grid": {"guess.at": [1.0, 2.0, 3.0], "guess.how": ["well"]}}, ["score by guess.at"]),
        ({"grid": {"guess.at": [1.0, 2.0]}}, []),
        ({"grid": {"guess.how": ["well", "badly"]}}, []),
        ({"grid": {"guess.at": [1.0, 2.0, 3.0], "guess.fails": [-1, -2, -3]}}, ["Heat map of score"]),
        ({"grid": {"guess.at": [1.0, 2.0, 3.0], "guess.fails": [-1, -2], "guess.how": ["well", "badly"]}}, []),
        ({"grid": {"guess.at": [1.0, 2.0, 3.0]}, "arms": {"a": {"guess": {"how": "well"}}}}, []),
        ({"grid": {"guess.at": [1.0, 2.0, 3.0]}, "measure": None}, []),
    ],
)
def test_charts_are_those_that_the_grid_can_have(trials: Mapping[str, Any], charts: Sequence[str]) -> None:
    found = pictures({"replicates": 2, **trials})
    assert [any(text.startswith(chart) for text in found) for chart in charts] == [True] * len(charts)
    assert len(found) == len(charts)


@pytest.mark.parametrize("report_format", ["html", "latex", "markdown"])
def test_reports_hold_the_leaderboard_and_its_charts(report_format: ReportFormat) -> None:
    grid = {"guess.how": ["well", "badly"], "guess.at": [0.1, 1.0, 10.0]}
    ctx = swept({"grid": grid, "replicates": 4, "baseline": {"guess.how": "badly", "guess.at": 0.1}}, {})
    text = render_report(ctx, report_format)
    assert "shown to be worse" in text
    assert text.count({"html": "<figure>", "latex": "tikzpicture}[", "markdown": "data:image/svg"}[report_format]) == 4


# --- the whole table --------------------------------------------------------------------------------------------------


def with_report(trials: Mapping[str, Any], **more: Any) -> Context:
    asked = {"id": "guesses", "seed": 1, "pipeline": [{"name": "guess"}, {"name": "report"}], "trials": trials, **more}
    return run_experiment(Experiment.model_validate(asked), registry=Registry({"guess": guess, "report": Report}))


def test_the_whole_table_is_an_artifact_beside_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path))
    grid = {"guess.how": ["=1+1", 'a, "b"'], "guess.at": [-2.0]}
    ctx = with_report({"grid": grid, "replicates": 3})
    path = Path(ctx.artifacts["trials.csv"])
    assert path.parent == Path(ctx.artifacts["report.html"]).parent == tmp_path / "guesses" / ctx.run_id
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["arm"] for row in read] == [
        "'=1+1 at=-2.0",
        'a, "b" at=-2.0',
    ] * 3
    assert [float(row["score"]) for row in read] == [row["score"] for row in ctx.outputs]  # in full
    assert min(float(row["score"]) for row in read) < 0
    assert path.read_bytes().count(b"\r\n") == 7
    for name in ("report.html", "report.markdown"):
        assert "All columns of all 6 trials: trials.csv and trials.parquet" in Path(ctx.artifacts[name]).read_text()


def test_parquet_keeps_the_types_of_the_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path))
    ctx = with_report({"grid": {"guess.at": [1.0, 2.0], "guess.how": ["well", "badly"]}, "replicates": 2})
    table = parquet.read_table(ctx.artifacts["trials.parquet"])
    assert table.to_pylist() == list(ctx.outputs)
    types = {name: str(table.schema.field(name).type) for name in ("arm", "guess.at", "replicate", "seed", "score")}
    assert types == {"arm": "string", "guess.at": "double", "replicate": "int64", "seed": "int64", "score": "double"}


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([1, None, 2.5], [1.0, None, 2.5]),
        ([1, "a", None], ["1", "a", None]),
        ([[1, 2], {"a": 1}, None], ["[1, 2]", '{"a": 1}', None]),
        ([10**30, 1], [str(10**30), "1"]),
        ([True, False], [True, False]),
        ([True, 1], ["True", "1"]),
        ([math.inf, -0.0], [math.inf, -0.0]),
    ],
)
def test_a_column_of_several_types_is_one_of_texts(values: list[Any], kept: list[Any]) -> None:
    written = parquet_of_records([{"x": value} for value in values])
    assert parquet.read_table(io.BytesIO(written)).column("x").to_pylist() == kept


def test_without_pyarrow_there_is_the_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ctx = with_report({"grid": {"guess.at": [1.0, 2.0]}})
    assert set(ctx.artifacts) == {"report.html", "report.markdown", "trials.csv"}
    with pytest.raises(CrucibleError, match="pip install pyarrow"):
        parquet_of_records([{"x": 1}])


def test_an_output_with_the_name_of_the_table_is_refused() -> None:
    outputs = [{"name": "trials", "formats": ["csv"]}]
    with pytest.raises(InvalidExperimentError, match="the name of the table of the trials; give it another name"):
        with_report({"grid": {"guess.at": [1.0, 2.0]}}, outputs=outputs)


def test_a_large_table_is_written_in_little_time() -> None:
    rows = [
        {"arm": f"C={place % 6}", "replicate": place, **dict.fromkeys("abcdefgh", place / 7)} for place in range(20_000)
    ]
    began = time.process_time()
    text = csv_of_records(rows)
    assert time.process_time() - began < 5
    assert text.count("\r\n") == 20_001


# --- a leaderboard beside any comparison ------------------------------------------------------------------------------


GROUPS = {"a": [1.0, 2.0, 3.5, 4.0], "b": [2.0, 3.5, 4.0, 5.5], "c": [9.0, 9.5, 11.5, 12.0]}


def test_a_leaderboard_beside_a_comparison_is_that_of_a_sweep() -> None:
    asked: dict[str, Any] = {"design": "paired", "compare": "baseline", "baseline": "a"}
    with_it, without = compare(GROUPS, leaderboard=True, **asked), compare(GROUPS, **asked)
    assert with_it.best == compare(GROUPS, design="paired", study="sweep").best
    assert without.best is None
    assert with_it.comparisons == without.comparisons
    assert with_it.headline == f"{without.headline} c has the best mean, 10.5; every other one is shown to be worse."
    assert with_it.method == without.method
    assert with_it.sentence.startswith(without.sentence)
    assert type(with_it).from_dict(with_it.to_dict()) == with_it


def test_a_leaderboard_of_groups_that_cannot_be_told_apart_is_left_out_openly() -> None:
    found = compare({"a": [1.0], "b": [2.0]}, leaderboard=True, tests="mann_whitney")
    assert found.best is None
    assert [choice.reasoning for about, choice in found.decisions if about == "leaderboard"]


def test_means_of_a_logarithmic_scale_are_geometric_and_so_are_their_intervals() -> None:
    asked = {"grid": {"guess.at": [10.0, 20.0, 40.0]}, "replicates": 6, "baseline": {"guess.at": 10.0}}
    ctx = swept(asked, {"scale": "log", "compare": "baseline"})
    first = leaderboard_of(ctx, trial_rows(ctx)).arms[0]
    logs = np.log([row["score"] for row in ctx.outputs if row["arm"] == "at=40.0"])
    assert first.mean == pytest.approx(np.exp(logs.mean()))
    assert first.interval == pytest.approx(np.exp(stats.t.interval(0.95, 5, loc=logs.mean(), scale=stats.sem(logs))))
