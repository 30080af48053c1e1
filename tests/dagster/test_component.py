"""The component, in Dagster projects that are loaded in this process: what a defs.yaml means, and its mistakes."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import jsonschema
import pytest
from click import ClickException
from dagster import (
    AssetKey,
    Component,
    DagsterInstance,
    Definitions,
    ScaffoldRequest,
    build_defs_for_component,
    load_from_defs_folder,
)
from dagster.components.core.component_tree import ComponentTreeException
from dagster_shared.libraries import DagsterLibraryRegistry
from pydantic import BaseModel, TypeAdapter, create_model

import crucible_dagster
from crucible_core import Context, Experiment, InvalidExperimentError, __version__, load_experiment
from crucible_dagster import ExperimentComponent
from crucible_dagster.code_location import build_definitions
from crucible_dagster.components.experiment.scaffolder import ExperimentScaffolder, ScaffoldParams
from crucible_dagster.components.experiment.schema import ExperimentAttributes

Files = Mapping[str, str]
LoadProject = Callable[[Files], Definitions]

HEAD = "type: crucible_dagster.ExperimentComponent\nattributes:\n"
STAGES = """\
from crucible_core import Context, stage


@stage
def train(ctx: Context, *, rate: float = 0.1, word: str = "", limit: int | None = None) -> Context:
    return ctx.merge_metrics({"rate": rate, "word": word})
"""


def component(text: str) -> str:
    return HEAD + textwrap.indent(textwrap.dedent(text), "  ")


@pytest.fixture
def load_project(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> LoadProject:
    """Writes files below the `defs` folder of a project, and loads it as Dagster does."""

    def load(files: Files) -> Definitions:
        package = own_folder / "project" / "src" / "projected"
        for name, text in {"defs/__init__.py": "", "__init__.py": "", **files}.items():
            path = package / name if name.endswith("__init__.py") else package / "defs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (own_folder / "project" / "pyproject.toml").write_text(
            '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "projected"\n'
        )
        monkeypatch.syspath_prepend(package.parent)
        return load_from_defs_folder(path_within_project=package)

    return load


def mistakes_in(load: LoadProject, files: Files) -> list[str]:
    """The mistakes as they are shown, without the folder of the project."""
    with pytest.raises(ComponentTreeException) as caught:
        load(files)
    error = caught.value.__cause__
    while isinstance(error, ComponentTreeException):
        error = error.__cause__
    assert isinstance(error, InvalidExperimentError)
    return [str(one).split("/defs/", 1)[-1] for one in str(error).splitlines()]


def run(definitions: Definitions, name: str) -> Context:
    """The Context after the last stage of the job."""
    quiet = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    job = definitions.resolve_job_def(name)
    with DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, run_config=quiet)
        context: Context = result.output_for_node(list(job.graph.node_dict)[-1])
        return context


# --- what it means ------------------------------------------------------------------------------------------------


def test_one_experiment_inline_is_a_job_and_an_asset_and_finds_the_stages_beside_it(load_project: LoadProject) -> None:
    definitions = load_project(
        {
            "qa/defs.yaml": component("id: qa-1.b\npipeline: [{name: a, module: 'train_qa:train'}]"),
            "qa/train_qa.py": STAGES,
        }
    )
    assert set(definitions.resolve_all_asset_keys()) == {
        AssetKey(["crucible", "qa_1_b"]),
        AssetKey(["crucible", "qa_1_b", "decisions"]),
    }
    assert run(definitions, "qa_1_b").metrics == {"rate": 0.1, "word": ""}


def test_values_are_those_of_an_experiment_file_not_those_of_yaml_1_1(load_project: LoadProject) -> None:
    text = "id: qa\npipeline: [{name: a, module: 'train_qa:train', options: {rate: 1e-3, word: '12:30'}}]\n"
    text += "reliability: {stats: {alpha: 1e-2}}\n"
    definitions = load_project({"qa/defs.yaml": component(text), "qa/train_qa.py": STAGES})
    context = run(definitions, "qa")
    assert context.metrics == {"rate": 0.001, "word": "12:30"}
    Path("qa.yaml").write_text(text)
    assert context.experiment == load_experiment("qa.yaml")


def test_files_are_named_by_globs_and_folders_below_the_project(load_project: LoadProject) -> None:
    files = {
        f"{folder}/{name}.yaml": f"id: {name}\npipeline: [{{name: validate}}]\n"
        for folder, name in (("many", "one"), ("many", "two"), ("many/deep", "three"), ("beside", "four"))
    }
    files["many/defs.yaml"] = component("files: ['[ot]*.yaml', deep, ../beside/*.yaml]")
    jobs = [job.name for job in load_project(files).resolve_all_job_defs()]
    assert sorted(name for name in jobs if not name.startswith("__")) == ["four", "one", "three", "two"]


def test_several_components_may_stand_in_one_file(load_project: LoadProject) -> None:
    first = component("id: first\npipeline: [{name: validate}]")
    second = component("id: second\npipeline: [{name: validate}]\nowner: 3")
    assert mistakes_in(load_project, {"qa/defs.yaml": f"{first}\n---\n{second}"}) == [
        "qa/defs.yaml:10:3: owner: should be a valid string (given: 3)"
    ]
    definitions = load_project({"qa/defs.yaml": f"{first}\n---\n{second.replace('3', 'team:a')}"})
    assert {"first", "second"} <= {job.name for job in definitions.resolve_all_job_defs()}


def test_dagster_s_own_keys_beside_the_experiment_keep_their_meaning(load_project: LoadProject) -> None:
    text = component("id: qa\npipeline: [{name: validate}]") + textwrap.dedent("""
        post_processing:
          assets:
            - attributes: {tags: {cost: low}, group_name: nightly}
        """)
    specs = load_project({"qa/defs.yaml": text}).resolve_all_asset_specs()
    assert [(spec.tags["cost"], spec.group_name) for spec in specs] == [("low", "nightly")] * 2  # its decisions too


def test_braces_that_are_not_dagster_s_stay_in_a_prompt(load_project: LoadProject) -> None:
    prompt = "Answer {{ question }} from {{ context.text }}"
    text = f"id: qa\npipeline: [{{name: a, module: 'train_qa:train', options: {{word: '{prompt}'}}}}]"
    definitions = load_project({"qa/defs.yaml": component(text), "qa/train_qa.py": STAGES})
    assert run(definitions, "qa").metrics["word"] == prompt


def test_a_component_in_python_takes_experiments_and_a_registry(load_project: LoadProject) -> None:
    made = """\
        import dagster as dg
        from crucible_core import Context, Experiment, StageDef, builtin_registry
        from crucible_dagster import ExperimentComponent

        from .stages import train


        @dg.component_instance
        def load(context: dg.ComponentLoadContext) -> ExperimentComponent:
            pipeline = (StageDef(name="train", options={"rate": 0.5}),)
            return ExperimentComponent([Experiment(id="qa", pipeline=pipeline)], builtin_registry() | {"train": train})
        """
    definitions = load_project({"qa/component.py": textwrap.dedent(made), "qa/stages.py": STAGES})
    assert run(definitions, "qa").metrics["rate"] == 0.5


def test_attributes_that_come_from_no_file_are_taken_as_they_are() -> None:
    made = ExperimentComponent.from_attributes_dict(attributes={"id": "qa", "pipeline": [{"name": "validate"}]})
    assert made.experiments == [Experiment.model_validate({"id": "qa", "pipeline": [{"name": "validate"}]})]
    with pytest.raises(InvalidExperimentError, match="unknown key 'pipelines'; did you mean 'pipeline'") as caught:
        ExperimentComponent.from_attributes_dict(attributes={"id": "qa", "pipelines": []})
    assert caught.value.location is None


def test_a_component_may_be_built_alone() -> None:
    experiment = Experiment.model_validate({"id": "qa", "pipeline": [{"name": "validate"}]})
    assert run(build_defs_for_component(ExperimentComponent([experiment])), "qa").completed_stages == ("validate",)
    with pytest.raises(TypeError, match="takes a list of experiments"):
        ExperimentComponent(experiment)  # type: ignore[arg-type]


def test_components_and_calls_that_make_one_location_name_nothing_twice(load_project: LoadProject) -> None:
    """Whatever an experiment brings along is named after it, or Dagster refuses the second."""
    more = "schedule: {cron: '0 2 * * *'}\ngates: [{name: g, metric: m, at_least: 1.0}]\ndeps: [prices]\n"
    text = f"id: {{}}\npipeline: [{{{{name: validate}}}}]\n{more.replace('{', '{{').replace('}', '}}')}"
    for name in "cd":
        Path(f"{name}.yaml").write_text(text.format(name))
    merged = Definitions.merge(
        load_project({f"{name}/defs.yaml": component(text.format(name)) for name in "ab"}),
        *(build_definitions(f"{name}.yaml") for name in "cd"),
    )
    assert {job.name for job in merged.get_repository_def().get_all_jobs()} >= set("abcd")
    assert len(merged.get_repository_def().schedule_defs) == 4


def test_a_folder_of_experiments_leaves_components_to_dg(own_folder: Path) -> None:
    (own_folder / "defs.yaml").write_text(component("id: a\npipeline: [{name: validate}]"))
    (own_folder / "b.yaml").write_text("id: b\npipeline: [{name: validate}]\n")
    assert [job.name for job in build_definitions(own_folder).jobs or ()] == ["b"]


# --- mistakes -----------------------------------------------------------------------------------------------------

MISTAKES: Mapping[str, tuple[str, list[str]]] = {
    "an unknown key deep in the pipeline": (
        "id: qa\npipeline:\n  - name: validate\n    retry:\n      max_retires: 3",
        ["7:9: unknown key 'pipeline.0.retry.max_retires'; did you mean 'max_retries'?"],
    ),
    "two at once": (
        "id: ä\npipeline:\n  - nam: validate",
        [
            "3:3: id: 'ä' cannot be a name (it holds LATIN SMALL LETTER A WITH DIAERESIS): use 1 to 128 letters",
            "5:7: unknown key 'pipeline.0.nam'; did you mean 'name'?",
        ],
    ),
    "an option that the stage has not": (
        "id: qa\npipeline:\n  - name: a\n    module: train_qa:train\n    options:\n      rat: 1",
        ["8:9: stage 'a' has no option 'rat'; did you mean 'rate'?"],
    ),
    "a stage that is not there": ("id: qa\npipeline:\n  - name: vlaidate", ["5:7: stage 'vlaidate': unknown stage"]),
    "a word that is a boolean in YAML 1.1": (
        "id: qa\npipeline:\n  - name: validate\n    enabled: on",
        ["6:16: on is a word in YAML 1.2 and a boolean in YAML 1.1"],
    ),
    "a time that is a number in YAML 1.1": (
        "id: qa\npipeline:\n  - name: validate\n    options: {at: 12:30}",
        ["6:21: 12:30 is a text in YAML 1.2 and a date or a number of seconds in YAML 1.1"],
    ),
    "a key twice": ("id: qa\nid: qb\npipeline: [{name: validate}]", ["4:3: the key 'id' occurs twice in one mapping"]),
    "a template of Dagster's": (
        "id: qa\npipeline:\n  - name: validate\n    options: {key: '{{ env.KEY }}'}",
        ["6:17: {{ env.KEY }}: Dagster's templates are not read in an experiment"],
    ),
    "a reserved word": ("id: type\npipeline: [{name: validate}]", ["3:3: Dagster reserves the name 'type'"]),
    "nothing": ("", ["2:1: no experiment: `attributes:` needs either `id:`"]),
    "files and an experiment": (
        "files: [a.yaml]\nid: qa",
        ["4:3: 'id' cannot be combined with `files:`", "3:11: 'a.yaml': there is no experiment file"],
    ),
    "files that are no list": ("files: a.yaml", ["3:3: files: should be a list of files, folders or glob patterns"]),
    "a file outside": ("files:\n  - ../../../../../*.md", ["4:7: '../../../../../*.md' leaves the project"]),
    "an absolute path": ("files: [/etc/*.yaml]", ["3:11: '/etc/*.yaml' is not a path relative to this file"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_reported_once_with_file_line_and_column(name: str, load_project: LoadProject) -> None:
    text, expected = MISTAKES[name]
    Path("outside.md").write_text("")
    said = mistakes_in(load_project, {"qa/defs.yaml": component(text), "qa/train_qa.py": STAGES})
    assert len(said) == len(expected)
    for line, start in zip(said, expected, strict=True):
        assert line.startswith(f"qa/defs.yaml:{start}"), line


def test_a_mistake_in_a_file_that_a_component_names_is_reported_in_that_file(load_project: LoadProject) -> None:
    files = {"qa/defs.yaml": component("files: ['*_exp.yaml']"), "qa/a_exp.yaml": "id: a\npipeline: [{zzz: b}]\n"}
    said = mistakes_in(load_project, files)
    assert [line.split(": ")[0] for line in said] == ["qa/a_exp.yaml:2:12", "qa/a_exp.yaml:2:13"]


def test_a_module_of_template_variables_is_refused(load_project: LoadProject) -> None:
    text = component("id: qa\npipeline: [{name: validate}]") + "\ntemplate_vars_module: .variables\n"
    variables = "import dagster as dg\n@dg.template_var\ndef size(context): return 3\n"
    assert mistakes_in(load_project, {"qa/defs.yaml": text, "qa/variables.py": variables})[0].startswith(
        "qa/defs.yaml:5:1: `template_vars_module` has no effect here"
    )


def test_ids_that_become_one_are_refused_across_components(load_project: LoadProject) -> None:
    inline = component("id: a.b\npipeline: [{name: validate}]")
    files = {"one/defs.yaml": inline, "two/defs.yaml": component("files: [c.yaml]")}
    said = mistakes_in(load_project, {**files, "two/c.yaml": "id: a-b\npipeline: [{name: validate}]\n"})
    assert len(said) == 1
    assert "the id 'a" in said[0]
    assert "both are 'a_b' in Dagster; change one of them" in said[0]
    assert "two/c.yaml:1:1" in said[0]
    assert "one/defs.yaml:3:3" in said[0]


# --- the schema that `dg check yaml` and editors use ------------------------------------------------------------------


def schema_says(attributes: object) -> list[tuple[str, str]]:
    validator = jsonschema.Draft202012Validator(ExperimentAttributes.model_json_schema())
    return [(error.json_path, error.message) for error in validator.iter_errors(attributes)]


EXPERIMENT = {"id": "a", "pipeline": [{"name": "b"}]}


@pytest.mark.parametrize(
    "attributes",
    [
        EXPERIMENT,
        {**EXPERIMENT, "description": None, "schedule": None},
        {**EXPERIMENT, "reliability": {"stats": {"alpha": "1e-3"}}},  # as YAML 1.1 reads it
        {**EXPERIMENT, "gates": [{"name": "g", "no_regression": {"margin": "1e-3", "baseline": "last_passing"}}]},
        {"files": ["*.yaml"]},
    ],
)
def test_the_schema_takes_what_the_loader_takes(attributes: object) -> None:
    assert schema_says(attributes) == []


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {**EXPERIMENT, "pipeline": [{"name": "b", "retry": {"max_retires": 1}}]},
            [("$.pipeline[0].retry", "Additional properties are not allowed ('max_retires' was unexpected)")],
        ),
        (
            {**EXPERIMENT, "reliability": {"stats": {"alpha": "x"}}},
            [("$.reliability.stats.alpha", "'x' is not of type 'number'")],
        ),
        (
            {**EXPERIMENT, "gates": [{"name": "g", "no_regression": {"margin": 1.0, "baseline": {"lats_runs": 5}}}]},
            [
                (
                    "$.gates[0].no_regression.baseline",
                    "Additional properties are not allowed ('lats_runs' was unexpected)",
                )
            ],
        ),
        ({**EXPERIMENT, "schedule": {"cron": 5}}, [("$.schedule.cron", "5 is not of type 'string'")]),
        ({"id": "a"}, [("$", "'pipeline' is a required property")]),
        ({"files": ["a.yaml"], "id": "a"}, [("$", "'id' is not one of ['files']")]),
        ({"files": []}, [("$.files", "[] should be non-empty")]),
    ],
)
def test_the_schema_gives_one_exact_message_per_mistake(attributes: object, expected: list[tuple[str, str]]) -> None:
    assert schema_says(attributes) == expected


def test_the_schema_says_one_of_nowhere() -> None:
    """A mistake below `anyOf` is reported where the whole value begins, as "not valid under any of the schemas"."""
    text = json.dumps(ExperimentAttributes.model_json_schema())
    assert '"anyOf"' not in text
    assert '"oneOf"' not in text


def test_the_schema_stands_inside_the_schema_of_a_whole_defs_yaml() -> None:
    model: type[BaseModel] = create_model("File", attributes=(ExperimentComponent.get_model_cls(), None))
    schema = TypeAdapter(model).json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    (error,) = jsonschema.Draft202012Validator(schema).iter_errors({"attributes": {**EXPERIMENT, "ids": 1}})
    assert error.message == "Additional properties are not allowed ('ids' was unexpected)"


# --- registration and scaffolding ---------------------------------------------------------------------------------


def test_the_component_is_registered_and_costs_nothing_until_it_is_asked_for() -> None:
    assert DagsterLibraryRegistry.get()["crucible-dagster"] == __version__
    assert "ExperimentComponent" in dir(crucible_dagster)
    assert issubclass(ExperimentComponent, Component)
    with pytest.raises(AttributeError, match="has no attribute 'ExperimentComponents'"):
        crucible_dagster.ExperimentComponents


def scaffold(folder: Path, *, python: bool = False, append: bool = False, **params: object) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    request = ScaffoldRequest(
        type_name="crucible_dagster.ExperimentComponent",
        target_path=folder / "defs.yaml" if append else folder,
        scaffold_format="python" if python else "yaml",
        project_root=None,
        params=ScaffoldParams.model_validate(params),
        append=append,
    )
    ExperimentScaffolder().scaffold(request)
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("params", [{}, {"own_file": True}, {"python": True}])
def test_what_is_scaffolded_runs(params: dict[str, bool], own_folder: Path, load_project: LoadProject) -> None:
    defs = own_folder / "project" / "src" / "projected" / "defs"
    scaffold(defs / "first", id="first-one.b", **params)
    scaffold(defs / "deep" / "2nd", **params)
    definitions = load_project({})
    assert run(definitions, "first_one_b").metrics == {"heads": pytest.approx(0.5, abs=0.05)}
    assert run(definitions, "2nd").completed_stages == ("toss", "judge")


def test_a_scaffolded_component_is_added_to_a_file_that_holds_another(own_folder: Path) -> None:
    assert scaffold(own_folder / "qa") == ["defs.yaml", "stages_qa.py"]
    assert scaffold(own_folder / "qa", append=True, id="qb") == ["defs.yaml", "stages_qa.py", "stages_qb.py"]
    assert (own_folder / "qa" / "defs.yaml").read_text().count("\n---\n") == 1


def test_a_name_that_is_no_id_is_refused_and_leaves_nothing_behind(own_folder: Path) -> None:
    with pytest.raises(ClickException, match=r"id: 'läufe' cannot be a name .*; give another one with --id"):
        scaffold(own_folder / "läufe")
    assert not (own_folder / "läufe").exists()
    assert "defs.yaml" in scaffold(own_folder / "läufe", id="runs")


def test_importing_the_package_does_not_load_the_component(own_folder: Path) -> None:
    import subprocess

    program = "import crucible_dagster, sys\nassert 'crucible_dagster.component' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
