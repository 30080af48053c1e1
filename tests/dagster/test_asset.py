"""The experiment's asset: what is known before it runs, and what a run puts on its page, whatever the numbers are."""

from __future__ import annotations

import base64
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dagster import (
    AssetKey,
    AssetSpec,
    CodeReferencesMetadataValue,
    DagsterInstance,
    FloatMetadataValue,
    IntMetadataValue,
    LocalFileCodeReference,
    PathMetadataValue,
    TableMetadataValue,
    TextMetadataValue,
    UrlMetadataValue,
)
from markdown_it import MarkdownIt
from stages_for_tests import experiment_of, registry

from crucible_bench.plots import run_chart
from crucible_core import (
    Context,
    Experiment,
    InvalidExperimentError,
    Registry,
    Stage,
    load_experiment,
    run_experiment,
    stage,
)
from crucible_core.report import headline
from crucible_dagster import asset_for, execute_experiment, job_for
from crucible_dagster.code_location import definitions_of
from crucible_dagster.execute.metadata import MAX_MARKDOWN, materialization, observation
from crucible_dagster.execute.run_chart import RUNS, SERIES, chart_of_runs


def asset(**fields: Any) -> AssetSpec:
    return asset_for(experiment_of("nothing", **fields), registry())


def run_of(**metrics: Any) -> Context:
    return Context.begin(experiment_of("nothing", id="limits")).merge_metrics(metrics)


def test_a_run_with_reports_and_gates_parses_its_comparison_once_in_a_process(parsed: list[Any]) -> None:
    treatment = [2.0, 3.0, 5.0, 6.0]
    experiment = experiment_of(
        {"name": "groups", "options": {"control": [1.0, 2.0, 3.0, 4.0], "treatment": treatment}},
        "bench",
        "report",
        gates=[{"name": "apart", "metric": "bench.ttest.p_value", "below": 0.5}],
    )
    with DagsterInstance.ephemeral() as instance:
        context = execute_experiment(experiment, registry=registry(), instance=instance)
        assert headline(context)
    assert [list(data["groups"]) for data in parsed] == [["control", "treatment"]]


# --- before it runs ---------------------------------------------------------------------------------------------------


def test_an_asset_has_a_group_a_description_kinds_and_what_it_depends_on() -> None:
    found = asset(id="my-exp", description="What it is.", deps=["dbt/orders", "raw"])
    assert found.key == AssetKey(["crucible", "my_exp"])
    assert found.group_name == "crucible"
    assert found.description == "What it is."
    assert asset().description == "Stages: nothing."
    assert {"crucible", "python"} <= set(found.kinds)
    assert [dep.asset_key for dep in found.deps] == [AssetKey(["dbt", "orders"]), AssetKey(["raw"])]
    graph = definitions_of([experiment_of("measure", id="my-exp", deps=["dbt/orders"])], registry())
    assert graph.resolve_asset_graph().get(found.key).parent_keys == {AssetKey(["dbt", "orders"])}


@pytest.mark.parametrize("owner", ["a.person@example.org", "team:vision", "team:Zürich 9"])
def test_an_owner_that_dagster_takes_is_the_owner(owner: str) -> None:
    found = asset(owner=owner)
    assert (list(found.owners), found.metadata.get("owner")) == ([owner], None)


@pytest.mark.parametrize("owner", ["A Person", "team:", "a@b", "a@b.c d"])
def test_another_owner_stands_in_the_metadata(owner: str) -> None:
    found = asset(owner=owner)
    assert (list(found.owners), found.metadata["owner"]) == ([], owner)


def test_tags_that_dagster_takes_are_tags_and_all_of_them_stand_in_the_metadata() -> None:
    tags = ["vision", "v1.2-rc_3", "two words", "ä", "x" * 63, "y" * 64]
    found = asset(tags=tags)
    assert {tag for tag in found.tags if not tag.startswith("dagster/")} == {"vision", "v1.2-rc_3", "x" * 63}
    assert found.metadata["tags"] == ", ".join(tags)
    assert "tags" not in asset(tags=["vision"]).metadata


def test_code_references_lead_to_the_file_and_to_each_stage(tmp_path: Path) -> None:
    module = tmp_path / "here_they_are.py"
    module.write_text(
        "from crucible_core import Stage, stage\n\n\n@stage\ndef one(ctx):\n    return ctx\n\n\n"
        "class Two(Stage):\n    def run(self, ctx):\n        return ctx\n"
    )
    file = tmp_path / "e.yaml"
    file.write_text(
        'id: refs\npipeline: [{name: one, module: "here_they_are:one"}, {name: two, module: "here_they_are:Two"}]\n'
    )
    found = asset_for(load_experiment(file)).metadata["dagster/code_references"]
    assert isinstance(found, CodeReferencesMetadataValue)
    places = []
    for one in found.code_references:
        assert isinstance(one, LocalFileCodeReference)
        places.append((one.file_path, one.line_number, one.label))
    assert places == [
        (str(file), 1, "experiment refs"),
        (str(module), 4, "stage one"),
        (str(module), 9, "stage two"),
    ]


def test_a_stage_without_a_source_has_no_code_reference() -> None:
    made: dict[str, Any] = {"__name__": "typed_at_a_prompt", "Stage": Stage}
    exec("class Typed(Stage):\n    def run(self, ctx):\n        return ctx\n", made)
    found = asset_for(experiment_of("typed"), Registry({"typed": made["Typed"]}))
    assert "dagster/code_references" not in found.metadata


def test_an_experiment_cannot_depend_on_its_own_asset() -> None:
    with pytest.raises(InvalidExperimentError, match="which is its own asset"):
        asset(id="my-exp", deps=["raw", "crucible/my_exp"])


def test_experiments_cannot_depend_on_each_other_in_a_circle() -> None:
    deps = {"first": ["crucible/third_one"], "second": ["raw", "crucible/first"], "third.one": ["crucible/second"]}
    experiments = [experiment_of("nothing", id=id_, deps=deps_) for id_, deps_ in deps.items()]
    with pytest.raises(InvalidExperimentError, match=r"in a circle: (\S+) on (\S+) on (\S+) on \1; remove one"):
        definitions_of(experiments[1:], registry(), beside=experiments[:1])
    assert definitions_of(experiments[:2], registry())


# --- what a run puts there --------------------------------------------------------------------------------------------


def test_every_one_of_five_thousand_metrics_is_there_under_its_plain_name() -> None:
    numbers = {f"metric_{index}": index / 7 for index in range(5_000)}
    began = time.perf_counter()
    metadata = materialization(run_of(**numbers)).metadata
    assert time.perf_counter() - began < 10
    assert all(metadata[name] == FloatMetadataValue(value) for name, value in numbers.items())
    assert len(str(metadata["report"].value).encode()) <= MAX_MARKDOWN


def test_numbers_that_are_not_plain_floats_are_shown_as_what_they_are() -> None:
    metadata = materialization(
        run_of(
            nan=math.nan,
            infinite=math.inf,
            huge=10**400,
            large=2**62,
            half=np.float16(0.5),
            single=np.float32(0.1),
            count=np.int64(7),
            yes=np.bool_(True),
            report=0.25,
            headline=1,
        )
    ).metadata
    assert metadata["large"] == IntMetadataValue(2**62)
    assert metadata["half"] == FloatMetadataValue(0.5)
    assert metadata["single"] == FloatMetadataValue(float(np.float32(0.1)))
    assert metadata["count"] == IntMetadataValue(7)
    assert metadata["yes"] == IntMetadataValue(1)
    assert not {"nan", "infinite", "huge"} & {
        name for name, value in metadata.items() if isinstance(value, IntMetadataValue | FloatMetadataValue)
    }
    assert metadata["report (metric)"] == FloatMetadataValue(0.25)
    assert metadata["headline (metric)"] == IntMetadataValue(1)
    assert isinstance(metadata["headline"], TextMetadataValue)
    report = str(metadata["report"].value)
    assert "| nan | NaN |" in report
    assert "| infinite | " in report


@pytest.mark.fault("a live link in metadata")
def test_artifacts_are_links_and_the_trace_is_a_table() -> None:
    context = run_of(x=1).put_artifact("file", "/tmp/a.bin").put_artifact("page", "https://example.org/a")
    context = context.put_artifact("odd", "javascript:alert(1)")
    metadata = materialization(context).metadata
    assert metadata["file"] == PathMetadataValue("/tmp/a.bin")
    assert metadata["page"] == UrlMetadataValue("https://example.org/a")
    assert isinstance(metadata["odd"], TextMetadataValue)
    assert isinstance(metadata["stages"], TableMetadataValue | TextMetadataValue)


def test_the_leaderboard_of_a_sweep_is_a_table_on_the_page() -> None:
    asked = {
        "id": "flips",
        "pipeline": [
            *({"name": one, "module": f"trial_stages:{one}"} for one in ("load", "flip")),
            {"name": "bench"},
        ],
        "trials": {"grid": {"flip.bias": [0.1, 0.5, 0.9]}, "replicates": 6, "measure": "heads", "baseline": "bias=0.1"},
    }
    metadata = materialization(run_experiment(Experiment.model_validate(asked))).metadata
    table = metadata["leaderboard"]
    assert isinstance(table, TableMetadataValue)
    records = table.records
    assert [column.name for column in table.schema.columns] == ["rank", "arm", "heads [95% CI]", "verdict"]
    assert [record.data["arm"] for record in records] == ["bias=0.9", "bias=0.5", "bias=0.1"]
    assert records[0].data["verdict"] == "the best mean"
    assert "leaderboard" not in materialization(run_of(x=1)).metadata


EVIL = "![x](https://evil.example/x.png) <b> `code` \x1b[31m"


def test_markdown_in_names_stays_text_in_the_descriptions_that_dagster_renders() -> None:
    context = run_of(**{EVIL: 0.5}).decide(EVIL, EVIL)
    experiment = experiment_of("nothing", description=f"First line.\n{EVIL.replace(chr(27), '')}")
    described = [
        materialization(context).description,
        observation(experiment, context.trace.decisions[0]).description,
        asset_for(experiment, registry()).description,
        job_for(experiment, registry()).description,
    ]
    for description in described:
        assert description is not None
        assert "\x1b" not in description
        rendered = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(description)
        assert not re.search("<(img|a|b|code)[ >]", rendered), rendered
    assert str(described[2]).startswith("First line.\n")


IMAGE = re.compile(r"!\[[^\n]*\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]*)\)")
CHART = run_chart({"accuracy": [("one", 0.5), ("two", 0.75)]})


def report_of(context: Context) -> str:
    text = str(materialization(context, chart=CHART).metadata["report"].value)
    assert len(text.encode()) <= MAX_MARKDOWN
    # Whatever is left out, an image is there whole or not at all.
    assert text.count("data:image") == len(IMAGE.findall(text))
    for encoded in IMAGE.findall(text):
        assert base64.b64decode(encoded).decode().rstrip().endswith("</svg>")
    return text


def test_a_report_of_five_megabytes_is_cut_between_lines_and_says_so() -> None:
    options = {f"option_{index}": "ä" * 190 for index in range(200)}
    stages = [{"name": f"record_{index}", "module": "record", "options": {"outputs": []}} for index in range(150)]
    context = Context.begin(experiment_of(*stages, id="big", description="long " * 1_000_000))
    text = report_of(context.merge_metrics(options))
    assert "data:image" not in text
    assert "bytes" in text.rsplit("… cut after 250,000 of ", 1)[1]


def test_pictures_give_way_before_any_text_does() -> None:
    small = report_of(run_of(accuracy=0.75))
    assert len(IMAGE.findall(small)) == 1
    words = len(str(materialization(run_of(accuracy=0.75)).metadata["report"].value).encode())
    filler = "x" * (MAX_MARKDOWN - words - 4_000)
    full = report_of(
        Context.begin(experiment_of("nothing", id="limits", description=filler)).merge_metrics({"accuracy": 0.75})
    )
    assert "data:image" not in full
    assert "Picture: " in full
    assert "… cut after" not in full
    assert "## What ran" in full or "accuracy" in full


# --- the last runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


@stage
def measure_many(ctx: Context, *, value: float = 0.5) -> Context:
    """Puts more metrics than a chart can hold."""
    return ctx.merge_metrics({f"m{index}": value + index for index in range(SERIES + 4)})


def test_a_chart_of_the_first_metrics_over_the_last_runs_is_in_the_report(instance: DagsterInstance) -> None:
    experiment = experiment_of("measure_many", id="charted", gates=[{"name": "g", "metric": "m1", "at_least": 1.25}])
    known = registry() | {"measure_many": measure_many}
    for _ in range(2):
        assert job_for(experiment, known).execute_in_process(instance=instance).success
    records = instance.fetch_materializations(AssetKey(["crucible", "charted"]), limit=5).records
    newest, first = (one.asset_materialization for one in records)
    assert newest is not None
    assert first is not None
    assert "## The last runs" not in str(first.metadata["report"].value)
    report = str(newest.metadata["report"].value)
    assert "## The last runs" in report
    assert "m1: 2 values from 1.5" in report
    assert "bound 1.2" in report
    assert f"m{SERIES}: 2 values" not in report


def test_a_chart_shows_what_varies_before_what_never_changed(instance: DagsterInstance) -> None:
    same = {f"same{index}": 1.0 for index in range(SERIES)}
    instance.report_runless_asset_event(materialization(run_of(**same, moves=0.1)))
    picture = chart_of_runs(instance, run_of(**same, moves=0.9))
    assert picture is not None
    assert "moves" in picture.alt
    assert "same0" in picture.alt
    assert f"same{SERIES - 1}" not in picture.alt


def test_a_chart_holds_no_more_than_the_last_runs(instance: DagsterInstance) -> None:
    for index in range(RUNS + 5):
        made = run_of(accuracy=index / 100)
        instance.report_runless_asset_event(materialization(made))
    picture = chart_of_runs(instance, run_of(accuracy=0.9, p_value=0.5))
    assert picture is not None
    assert "latest 0.90" in picture.alt
    assert f"{RUNS} values" in picture.alt or f"{RUNS} runs" in picture.alt
    assert chart_of_runs(instance, run_of(note="no number")) is None
