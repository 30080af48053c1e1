"""The compiled job: its config, its names, what it tells Dagster, its failures and schedules."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DagsterInvalidConfigError,
    DagsterRunStatus,
    DefaultScheduleStatus,
    Definitions,
    ExecuteInProcessResult,
    ReexecutionOptions,
    build_reconstructable_job,
    execute_job,
    validate_run_config,
)
from pydantic import BaseModel, Field

from crucible_core import (
    Context,
    CrucibleError,
    Experiment,
    InvalidExperimentError,
    InvalidOptionsError,
    Registry,
    Stage,
    UnknownStageError,
    builtin_registry,
    stage,
)
from crucible_core.ir.option_schema import merge_options
from crucible_dagster import build_definitions, execute_experiment, job_for, open_instance
from crucible_dagster.store.io_manager import open_store


class Optimizer(BaseModel):
    kind: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    """How much of the last step is kept."""


class Train(Stage):
    """Pretends to train."""

    rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Step size."""
    epochs: int = 3
    name: str
    shuffle: bool = True
    optimizer: Optimizer = Optimizer()
    layers: list[int] = Field(default=[8, 4])
    limit: int | None = None
    weights: dict[str, float] = Field(default={})
    mode: Literal["fast", "exact"] = "fast"
    either: int | list[int] = 1

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("options", self.model_dump(mode="json"))


@stage
def measure(ctx: Context, *, value: float = 0.5) -> Context:
    ctx = ctx.decide("measured", "it was asked for", alternatives=["guessed"], confidence=0.75)
    return ctx.merge_metrics({"accuracy": value, "count": 3, "nan": float("nan"), "deep": {"loss": 0.25}, "note": "x"})


@stage
def breaks(ctx: Context, *, secretive: str = "visible") -> Context:
    raise RuntimeError("it broke")


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def registry() -> Registry:
    return builtin_registry() | {"train": Train, "measure": measure, "breaks": breaks}


def experiment(*pipeline: Mapping[str, Any], **more: Any) -> Experiment:
    return Experiment.model_validate({"id": "exp", "pipeline": list(pipeline), **more})


TRAIN = {"name": "train", "options": {"name": "file", "epochs": 7, "optimizer": {"momentum": 0.5}}}


def launch(
    described: Experiment, registry: Registry, instance: DagsterInstance, **config: Any
) -> ExecuteInProcessResult:
    ops = {name: {"config": options} for name, options in config.items()}
    job = job_for(described, registry)
    return job.execute_in_process(instance=instance, run_config={"ops": ops} if ops else {}, raise_on_error=False)


def context_of(result: ExecuteInProcessResult, instance: DagsterInstance, step: str) -> Context:
    return open_store(instance).load(result.run_id, step)


def test_config_that_sets_one_option_keeps_all_others_of_the_file(
    registry: Registry, instance: DagsterInstance
) -> None:
    result = launch(experiment(TRAIN), registry, instance, train={"rate": 0.2})
    assert result.success
    context = context_of(result, instance, "train")
    assert context.metrics["options"] == {
        "rate": 0.2,
        "epochs": 7,
        "name": "file",
        "shuffle": True,
        "optimizer": {"kind": "sgd", "momentum": 0.5},
        "layers": [8, 4],
        "limit": None,
        "weights": {},
        "mode": "fast",
        "either": 1,
    }
    assert context.experiment.pipeline[0].options == {
        "name": "file",
        "epochs": 7,
        "optimizer": {"momentum": 0.5},
        "rate": 0.2,
    }


def test_config_that_sets_one_nested_option_keeps_the_others_beside_it(
    registry: Registry, instance: DagsterInstance
) -> None:
    result = launch(experiment(TRAIN), registry, instance, train={"optimizer": {"kind": "adam"}})
    options = context_of(result, instance, "train").metrics["options"]
    assert options["optimizer"] == {"kind": "adam", "momentum": 0.5}
    assert options["epochs"] == 7


def test_the_files_options_are_the_defaults_that_dagster_shows(registry: Registry) -> None:
    resolved = validate_run_config(job_for(experiment(TRAIN), registry), {})
    assert resolved["ops"]["train"]["config"] == {
        "rate": 0.1,
        "epochs": 7,
        "name": "file",
        "shuffle": True,
        "optimizer": {"kind": "sgd", "momentum": 0.5},
        "layers": [8, 4],
        "weights": {},
        "mode": "fast",
        "either": 1,
    }


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"epochs": "many"}, "epochs"),
        ({"epochs": 2.5}, "epochs"),
        ({"rate": "0.1"}, "rate"),
        ({"shuffle": 1}, "shuffle"),
        ({"name": 3}, "name"),
        ({"layers": [1, "two"]}, "layers"),
        ({"mode": "slow"}, "mode"),
        ({"optimizer": {"kind": "newton"}}, "kind"),
        ({"optimizer": {"speed": 1}}, "speed"),
        ({"weights": {"a": "heavy"}}, "weights"),
        ({"limit": "none"}, "limit"),
        ({"epoch": 3}, "epoch"),
    ],
)
def test_config_of_the_wrong_type_is_refused_before_the_run(registry: Registry, config: Any, said: str) -> None:
    with pytest.raises(DagsterInvalidConfigError, match=said):
        validate_run_config(job_for(experiment(TRAIN), registry), {"ops": {"train": {"config": config}}})


@pytest.mark.parametrize(
    "config", [{"rate": 1}, {"rate": 1.0}, {"limit": 3}, {"limit": None}, {"either": [1, 2]}, {"weights": {"a": 1.5}}]
)
def test_config_of_the_right_type_reaches_the_stage(registry: Registry, instance: DagsterInstance, config: Any) -> None:
    result = launch(experiment(TRAIN), registry, instance, train=config)
    assert result.success
    options = context_of(result, instance, "train").metrics["options"]
    assert {name: options[name] for name in config} == config


def test_every_option_is_described_in_the_launchpad(registry: Registry) -> None:
    snapshot = job_for(experiment(TRAIN), registry).get_job_snapshot()
    text = json.dumps(
        [
            field.description
            for kind in snapshot.config_schema_snapshot.all_config_snaps_by_key.values()
            for field in kind.fields or []
        ]
    )
    assert "Step size. (more than 0, at most 1)" in text
    assert "How much of the last step is kept." not in text  # Optimizer does not use attribute docstrings


def test_an_option_out_of_bounds_is_refused_before_a_run_is_created(
    registry: Registry, instance: DagsterInstance
) -> None:
    described = experiment({"name": "measure"}, TRAIN)
    said = r"^stage 'train', option rate: should be less than or equal to 1 \(given: 5.0\)$"
    with pytest.raises(DagsterInvalidConfigError, match=said):
        launch(described, registry, instance, train={"rate": 5.0})
    job = job_for(described, registry)
    with pytest.raises(DagsterInvalidConfigError, match=said):
        instance.create_run_for_job(job, run_config={"ops": {"train": {"config": {"rate": 5.0}}}})
    assert instance.get_runs() == []


def test_every_option_out_of_bounds_is_named(registry: Registry) -> None:
    described = experiment({"name": "bounded", "options": {"count": 2}})
    said = "stage 'bounded', option count: should be greater than or equal to 1 (given: 0)\n"
    said += "stage 'bounded', option names: List should have at least 1 item after validation, not 0"
    job = job_for(described, registry | {"bounded": bounded})
    with pytest.raises(DagsterInvalidConfigError) as caught:
        validate_run_config(job, {"ops": {"bounded": {"config": {"count": 0, "names": []}}}})
    assert str(caught.value) == said


@stage
def bounded(
    ctx: Context, *, count: Annotated[int, Field(ge=1)], names: Annotated[list[str], Field(min_length=1)] = ["a"]
) -> Context:
    """Has bounds."""
    return ctx


def test_a_run_materializes_the_experiments_asset_with_its_metrics_report_and_stages(
    registry: Registry, instance: DagsterInstance
) -> None:
    result = launch(
        experiment({"name": "measure"}, {"name": "skipped", "module": "measure", "enabled": False}), registry, instance
    )
    (event,) = [one for one in result.all_events if one.event_type is DagsterEventType.ASSET_MATERIALIZATION]
    made = event.step_materialization_data.materialization
    assert made.asset_key == AssetKey(["crucible", "exp"])
    values = {name: value.value for name, value in made.metadata.items() if name != "stages"}
    assert values["accuracy"] == 0.5
    assert values["count"] == 3
    assert values["deep.loss"] == 0.25
    assert "nan" not in values  # Dagster would plot a gap and show nothing; the report has it
    assert values["note"] == "x"
    assert str(values["report"]).startswith("# exp\n\n**accuracy = 0.5, count = 3")
    assert [record.data["outcome"] for record in made.metadata["stages"].records] == ["succeeded", "skipped"]


def test_the_metrics_that_a_stage_adds_are_metadata_of_its_output(
    registry: Registry, instance: DagsterInstance
) -> None:
    result = launch(experiment({"name": "measure"}, {"name": "train", "options": {"name": "n"}}), registry, instance)
    outputs = {
        event.step_key: event.step_output_data.metadata for event in result.all_events if event.is_successful_output
    }
    assert outputs["measure"]["accuracy"].value == 0.5
    assert "accuracy" not in outputs["train"]
    assert outputs["train"]["options.epochs"].value == 3


def test_decisions_are_observations_beside_the_asset_whose_plots_they_would_crowd(
    registry: Registry, instance: DagsterInstance
) -> None:
    result = launch(experiment({"name": "measure"}), registry, instance)
    (event,) = [one for one in result.all_events if one.event_type is DagsterEventType.ASSET_OBSERVATION]
    observed = event.asset_observation_data.asset_observation
    assert observed.asset_key == AssetKey(["crucible", "exp", "decisions"])
    (decision,) = open_store(instance).load(result.run_id, "measure").trace.decisions
    assert {name: value.value for name, value in observed.metadata.items()} == {
        "id": decision.id,
        "stage": "measure",
        "decision": "measured",
        "reasoning": "it was asked for",
        "alternatives": "guessed",
        "confidence": 0.75,
    }


def test_a_failure_shows_the_stage_its_options_the_traceback_and_the_trace(
    registry: Registry, instance: DagsterInstance
) -> None:
    result = launch(
        experiment({"name": "measure"}, {"name": "breaks", "options": {"secretive": "set"}}), registry, instance
    )
    failure = next(event for event in result.all_events if event.is_step_failure)
    shown = failure.event_specific_data.user_failure_data
    assert shown.description == "stage 'breaks' of experiment 'exp' failed: RuntimeError: it broke"
    assert shown.metadata["stage"].value == "breaks"
    assert shown.metadata["options"].value == {"secretive": "set"}
    assert "test_job.py" in shown.metadata["traceback"].value
    assert [record.data["outcome"] for record in shown.metadata["trace"].records] == ["succeeded", "failed"]
    assert result.dagster_run.status is DagsterRunStatus.FAILURE
    assert failure.event_specific_data.error.cause.message.strip() == "RuntimeError: it broke"


def test_the_id_stays_readable_in_tags(registry: Registry) -> None:
    job = job_for(experiment({"name": "measure"}, id="my-exp.v2"), registry)
    assert job.name == "my_exp_v2"
    assert job.tags["crucible/experiment"] == "my-exp.v2"


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (
            experiment({"name": "measure"}, id="type"),
            "Dagster reserves the name 'type'; give the experiment another id",
        ),
        (
            experiment({"name": "input", "module": "measure"}),
            "Dagster reserves the name 'input'; give the stage another name",
        ),
        (
            experiment({"name": "a-b", "module": "measure"}, {"name": "a.b", "module": "measure"}),
            "the stages 'a-b' and 'a.b' would both be the op 'a_b'; rename one",
        ),
    ],
)
def test_names_that_dagster_refuses_are_refused_in_our_words(
    registry: Registry, described: Experiment, said: str
) -> None:
    with pytest.raises(InvalidExperimentError, match=said):
        job_for(described, registry)


def test_a_job_is_not_compiled_from_an_experiment_that_cannot_run(registry: Registry) -> None:
    with pytest.raises(UnknownStageError, match="did you mean 'train'"):
        job_for(experiment({"name": "trian"}), registry)
    with pytest.raises(InvalidOptionsError, match="'name' is missing"):
        job_for(experiment({"name": "train"}), registry)


def test_a_job_compiled_twice_is_the_same_job_to_dagster(registry: Registry) -> None:
    code = (
        "from crucible_core import Experiment; from crucible_dagster import job_for;"
        "e = Experiment.model_validate({'id': 'x', 'pipeline': [{'name': 'validate'}, {'name': 'bench'}]});"
        "print(job_for(e).get_job_snapshot_id())"
    )
    snapshots = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(snapshots) == 1


def test_options_of_a_union_are_replaced_whole() -> None:
    assert merge_options(Train, {"either": [1, 2], "weights": {"a": 1}}, {"either": 3, "weights": {"b": 2}}) == {
        "either": 3,
        "weights": {"b": 2},
    }


def test_an_ephemeral_instance_cannot_serve_other_processes(registry: Registry, instance: DagsterInstance) -> None:
    with pytest.raises(CrucibleError, match="set DAGSTER_HOME"):
        execute_experiment(
            experiment({"name": "measure"}), registry=registry, instance=instance, executor="multiprocess"
        )


def test_a_stage_that_other_processes_cannot_import_is_named(tmp_path: Path) -> None:
    @stage
    def local(ctx: Context) -> Context:
        return ctx

    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with (
        DagsterInstance.from_config(str(tmp_path)) as instance,
        pytest.raises(CrucibleError, match="define it at the top level"),
    ):
        execute_experiment(
            experiment({"name": "local"}),
            registry=Registry({"local": local}),
            instance=instance,
            executor="multiprocess",
        )


def test_a_value_that_cannot_be_stored_is_named_with_its_place_and_type(instance: DagsterInstance) -> None:
    described = experiment({"name": "hold", "module": "agreement_stages:hold_lambda"})
    said = r"step hold: .*assigns\['function'\] \(step 'hold', run .*\) is a function, which cannot be stored"
    with pytest.raises(CrucibleError, match=said):
        execute_experiment(described, instance=instance)


# --- definitions from files ---------------------------------------------------------------------------------------


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_folder_of_experiments_becomes_jobs_assets_and_schedules(tmp_path: Path) -> None:
    write(
        tmp_path,
        "one.yaml",
        "id: one\npipeline: [{name: validate}]\nschedule: {cron: 0 2 * * *, timezone: Europe/Berlin}\n",
    )
    write(
        tmp_path,
        "deep/two.json",
        '{"id": "two", "pipeline": [{"name": "validate"}],'
        ' "schedule": {"cron": "@daily", "default_status": "running"}}',
    )
    write(tmp_path, "deep/notes.txt", "not an experiment")
    write(tmp_path, ".hidden/three.yaml", "broken: [")
    made = build_definitions(tmp_path)
    Definitions.validate_loadable(made)
    assert {job.name for job in made.resolve_all_job_defs() if not job.name.startswith("__")} == {"one", "two"}
    one, two = made.resolve_schedule_def("one_schedule"), made.resolve_schedule_def("two_schedule")
    assert (one.cron_schedule, one.execution_timezone, one.default_status) == (
        "0 2 * * *",
        "Europe/Berlin",
        DefaultScheduleStatus.STOPPED,
    )
    assert two.default_status is DefaultScheduleStatus.RUNNING
    assert {spec.key for spec in made.resolve_all_asset_specs()} == {
        AssetKey(["crucible", name, *more]) for name in ("one", "two") for more in ([], ["decisions"])
    }


def test_every_mistake_of_every_file_is_said_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "id: a\npipeline: [{name: valdiate}]\n")
    write(tmp_path, "b.yaml", "id: b\npipeline: [\n")
    write(tmp_path, "c.yaml", "id: c-x\npipeline: [{name: validate}]\n")
    write(tmp_path, "d.yaml", "id: c.x\npipeline: [{name: validate}]\n")
    write(tmp_path, "e.yaml", "id: e\npipeline: [{name: validate}]\nschedule: {cron: 99 99 * * *}\n")
    with pytest.raises(InvalidExperimentError) as caught:
        build_definitions(tmp_path, strict=True)
    said = str(caught.value).splitlines()
    assert len(said) == 4
    assert "b.yaml:3:1: this file is not valid YAML" in said[0]
    assert "a.yaml:2:13: stage 'valdiate': unknown stage 'valdiate'; did you mean 'validate'?" in said[1]
    assert "e.yaml:3:12: schedule.cron: '99 99 * * *' is not a cron schedule" in said[2]
    assert "d.yaml:1:1: the id 'c.x' is taken by experiment 'c-x'" in said[3]


def test_a_folder_without_experiments_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperimentError, match="there is no experiment file"):
        build_definitions(tmp_path / "nowhere")
    with pytest.raises(InvalidExperimentError, match="there is no experiment file"):
        build_definitions([tmp_path])


def test_patterns_name_files_too(tmp_path: Path) -> None:
    write(tmp_path, "x/one.yaml", "id: one\npipeline: [{name: validate}]\n")
    write(tmp_path, "y/two.yaml", "id: two\npipeline: [{name: validate}]\n")
    made = build_definitions([f"{tmp_path}/*/one.yaml"])
    assert {job.name for job in made.resolve_all_job_defs() if not job.name.startswith("__")} == {"one"}


def test_a_reexecution_goes_on_as_a_run_of_its_own(tmp_path: Path) -> None:
    options = {"counter": str(tmp_path / "calls"), "successes_after": 1}
    described = experiment(
        {"name": "first", "module": "agreement_stages:decide_twice"},
        {"name": "sometimes", "module": "agreement_stages:fail_until", "options": options},
    )
    job = build_reconstructable_job(
        "crucible_dagster.execution",
        "rebuild_job",
        reconstructable_kwargs={
            "experiment": described.to_json(indent=None),
            "path": None,
            "stages": {},
            "importable": None,
        },
    )
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        failed = execute_job(job, instance)
        again = execute_job(job, instance, reexecution_options=ReexecutionOptions.from_failure(failed.run_id, instance))
        assert (failed.success, again.success) == (False, True)
        assert {event.step_key for event in again.all_events if event.is_step_start} == {"sometimes"}
        context = open_store(instance).load(again.run_id, "sometimes")
    assert context.run_id == again.run_id != failed.run_id
    assert context.metrics == {"decided": 2, "said": "twice", "calls": 2}
    assert context.completed_stages == ("first", "sometimes")


def test_metrics_named_like_parts_of_the_page_do_not_replace_them(instance: DagsterInstance) -> None:
    @stage
    def clash(ctx: Context) -> Context:
        return ctx.merge_metrics({"report": 3.0, "accuracy": 1.0}).put_artifact("accuracy", "https://example.org/x")

    result = launch(experiment({"name": "clash"}), Registry({"clash": clash}), instance)
    (event,) = [one for one in result.all_events if one.event_type is DagsterEventType.ASSET_MATERIALIZATION]
    shown = event.step_materialization_data.materialization.metadata
    assert str(shown["report"].value).startswith("# exp")
    assert shown["report (metric)"].value == 3.0
    assert shown["accuracy"].value == 1.0
    assert shown["accuracy (artifact)"].value == "https://example.org/x"


def test_a_check_is_not_asked_again_while_the_run_goes_on(instance: DagsterInstance, tmp_path: Path) -> None:
    made = tmp_path / "made"

    @stage
    def make(ctx: Context) -> Context:
        made.touch()
        return ctx

    class Once(Stage):
        """Would not overwrite what is there."""

        def check(self, experiment: Experiment) -> Iterator[str]:
            if made.exists():
                yield "it would overwrite what is there"

        def run(self, ctx: Context) -> Context:
            return ctx.put_metric("done", 1)

    stages = Registry({"make": make, "once": Once})
    assert launch(experiment({"name": "make"}, {"name": "once"}), stages, instance).success


@pytest.mark.parametrize("name", ["reports", "venv"])
def test_files_that_are_no_experiments_do_not_break_the_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path, "one.yaml", "id: one\npipeline: [{name: validate}]\n")
    write(tmp_path, "dagster.yaml", "telemetry: {enabled: false}\n")
    write(tmp_path, "package.json", '{"name": "x"}')
    write(tmp_path, f"{name}/pyvenv.cfg" if name == "venv" else f"{name}/notes.md", "")
    write(tmp_path, f"{name}/run/partial.json", '{"experiment": {"id": "one", "pipeline": []}}')
    made = build_definitions(tmp_path)
    assert [job.name for job in made.resolve_all_job_defs() if not job.name.startswith("__")] == ["one"]


@pytest.mark.parametrize("home", ["/nowhere/at/all", "relative"])
def test_an_instance_that_cannot_be_opened_is_named(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("DAGSTER_HOME", home)
    with pytest.raises(CrucibleError, match=f"the Dagster instance of DAGSTER_HOME={home} cannot be opened"):
        open_instance()


def test_a_run_id_that_dagster_refuses_is_refused_in_our_words(registry: Registry, instance: DagsterInstance) -> None:
    with pytest.raises(CrucibleError, match="'abc' is not a UUID; Dagster requires one"):
        execute_experiment(experiment({"name": "measure"}), registry=registry, instance=instance, run_id="abc")
