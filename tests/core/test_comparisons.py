"""Comparisons among the metrics of a run: each read once, and none left out without a word."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from stages_for_tests import experiment_of

from crucible_bench import compare
from crucible_core import Context, run_experiment
from crucible_core.metrics import comparisons, comparisons_in, named_values, results
from crucible_core.report import headline, render_report, report_on, summarize_run

CONTROL = [0.71, 0.74, 0.69, 0.73, 0.72, 0.75, 0.70, 0.74]
TREATMENT = [0.75, 0.79, 0.74, 0.77, 0.78, 0.80, 0.73, 0.79]
FORMATS = ["csv", "html", "json", "latex", "markdown"]
NEWER = (
    "This is a comparison of a newer version (3; this version of crucible reads up to 2). Upgrade crucible-dagster to "
    "see it."
)


def stored(**changed: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(compare({"forest": TREATMENT, "linear": CONTROL}).to_json())
    return {**data, **changed}


def reported(**metrics: Any) -> Context:
    return Context.begin(experiment_of("report"), run_id="run-1").merge_metrics(metrics)


# --- once -------------------------------------------------------------------------------------------------------------


def test_a_direct_run_with_reports_and_gates_parses_each_comparison_once(parsed: list[Mapping[str, Any]]) -> None:
    experiment = experiment_of(
        "bench",
        {"name": "ranks", "module": "bench", "options": {"tests": ["mann_whitney"], "metric": "ranks"}},
        "report",
        outputs=[{"name": "one", "formats": FORMATS}, {"name": "two", "formats": FORMATS}],
        gates=[
            {"name": "apart", "metric": "bench.ttest.p_value", "below": 0.05},
            {"name": "by_ranks", "metric": "ranks.mann_whitney.p_value", "below": 0.05},
        ],
    )
    ctx = run_experiment(experiment, assigns={"bench_data": {"forest": TREATMENT, "linear": CONTROL}})
    assert all([headline(ctx), report_on(ctx), summarize_run(ctx), named_values(ctx)])
    assert [list(data["tests"]) for data in parsed] == [["ttest"], ["mann_whitney"]]


def test_a_comparison_that_is_loaded_anew_is_not_parsed_anew(parsed: list[Mapping[str, Any]]) -> None:
    data = stored()
    first, second = reported(bench=data), reported(bench=copy.deepcopy(data))
    assert comparisons(first)["bench"] is comparisons(second)["bench"]
    assert len(parsed) == 1


def test_a_comparison_that_was_changed_in_place_is_read_as_it_is_now(parsed: list[Mapping[str, Any]]) -> None:
    data = stored()
    ctx = reported(bench=data)
    assert comparisons(ctx)["bench"].measure is None
    data["measure"] = "accuracy"
    data["groups"]["forest"]["mean"] = 0.5
    assert comparisons(ctx)["bench"].measure == "accuracy"
    assert comparisons(ctx)["bench"].groups["forest"].mean == 0.5
    assert len(parsed) == 2


def test_the_order_of_tests_and_groups_is_part_of_a_comparison(parsed: list[Mapping[str, Any]]) -> None:
    data: dict[str, Any] = compare({"a": CONTROL, "b": TREATMENT}, tests=["ttest", "mann_whitney"]).to_dict()
    turned = {**data, "tests": dict(reversed(data["tests"].items())), "groups": dict(reversed(data["groups"].items()))}
    assert turned == data
    found = [comparisons(reported(bench=one))["bench"] for one in (data, turned, data)]
    assert [[test.test for test in one.tests] for one in found] == [list(one["tests"]) for one in (data, turned, data)]
    assert [list(one.groups) for one in found] == [["a", "b"], ["b", "a"], ["a", "b"]]
    assert len(parsed) == 2


def test_metrics_that_hold_arrays_are_read_as_often_as_they_are_asked_for() -> None:
    metrics = {"bench": stored(extra=np.arange(3)), "other": stored(extra=np.arange(4))}
    for _ in range(2):
        found = comparisons_in(metrics)
        assert list(found.read) == ["bench", "other"]


# --- nothing vanishes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report_format", FORMATS)
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": 3, "groups": "in another shape"}, NEWER),
        ({"alpha": "much"}, "This comparison cannot be read: alpha: should be a valid number."),
        ({"tests": {}}, "This comparison cannot be read: nothing was compared."),
    ],
)
def test_every_format_says_that_a_comparison_cannot_be_read_and_shows_its_numbers(
    changed: dict[str, Any], said: str, report_format: Any
) -> None:
    ctx = reported(bench=stored(**changed), ranks=stored())
    text = render_report(ctx, report_format)
    assert said in text
    assert "family_size" in text.replace("\\", "")
    if report_format not in {"csv", "json"}:
        assert "Comparison: bench" in text
        assert "Comparison: ranks" in text


def test_the_headline_says_it_beside_what_was_found() -> None:
    ctx = reported(bench=stored(version=3), ranks=stored())
    assert headline(ctx) == f"{comparisons(ctx)['ranks'].headline} bench: {NEWER}"
    assert summarize_run(ctx)["headline"] == headline(ctx)


def test_in_csv_the_sentence_is_the_value_of_the_metric() -> None:
    rows = csv.DictReader(io.StringIO(render_report(reported(bench=stored(version=4)), "csv")))
    values = {row["metric"]: row["value"] for row in rows}
    assert values["bench"] == NEWER.replace("(3;", "(4;")
    assert float(values["bench.groups.forest.mean"]) == pytest.approx(np.mean(TREATMENT))


def test_the_numbers_of_a_comparison_that_cannot_be_read_keep_their_places() -> None:
    ctx = reported(bench=stored(version=3))
    assert dict(results(ctx))["bench.groups.forest.mean"] == pytest.approx(np.mean(TREATMENT))
    assert comparisons_in(ctx.metrics).unread == {"bench": NEWER}


def test_a_comparison_stored_before_there_were_versions_is_one() -> None:
    old = stored()
    del old["kind"], old["version"]
    assert comparisons(reported(bench=old))["bench"].sentence == comparisons(reported(bench=stored()))["bench"].sentence


@pytest.mark.parametrize(
    "value", [{"alpha": 0.1, "groups": {"a": 1}, "tests": {"x": 2}}, {"kind": "image", "version": 9}, [1], 0.5, "text"]
)
def test_a_metric_that_only_resembles_a_comparison_is_a_metric(value: Any) -> None:
    found = comparisons_in({"mine": value})
    assert (dict(found.read), dict(found.unread)) == ({}, {})
