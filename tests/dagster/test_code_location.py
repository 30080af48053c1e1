"""Experiments among the definitions of a project that was there before them; names; and many of them."""

from __future__ import annotations

import importlib
import os
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetSelection,
    ConfigurableResource,
    DagsterInstance,
    DagsterInvalidDefinitionError,
    Definitions,
    InMemoryIOManager,
    ResourceParam,
    asset,
    define_asset_job,
    in_process_executor,
    job,
    logger,
    op,
)

from crucible_core import InvalidExperimentError
from crucible_dagster import build_definitions
from crucible_dagster.code_location import experiment_files
from crucible_dagster.execute.compiled import EXPERIMENT_KEY

EXPERIMENT = "id: {id}\npipeline:\n  - name: validate\n  - name: report\n"


def write(name: str, id: str, more: str = "") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(EXPERIMENT.format(id=id) + more)
    return path


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as made:
        yield made


def test_a_huge_data_file_and_a_pipe_beside_experiments_are_not_read_whole(tmp_path: Path) -> None:
    experiment = write(str(tmp_path / "e.yaml"), "e")
    with (tmp_path / "data.json").open("wb") as stream:
        stream.truncate(400 << 20)
    os.mkfifo(tmp_path / "pipe.yaml")
    tracemalloc.start()
    try:
        assert experiment_files(tmp_path) == (experiment,)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


# --- a project that was there before ---------------------------------------------------------------------------------


class Told(InMemoryIOManager):
    """An I/O manager of the project's own, which says what passed through it."""

    def handle_output(self, context: Any, obj: Any) -> None:
        super().handle_output(context, obj)
        written.append(context.asset_key.to_user_string() if context.has_asset_key else context.step_key)


written: list[str] = []
said: list[str] = []


class Settings(ConfigurableResource):  # type: ignore[type-arg]
    greeting: str


@logger(config_schema={})
def own_logger(_: Any) -> Any:
    import logging

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    kept = logging.Logger("kept", level="DEBUG")
    kept.addHandler(Kept())
    return kept


@asset
def examples(experiment: ResourceParam[Settings]) -> str:
    return experiment.greeting


@op
def greet() -> str:
    return "hello"


@job
def greeting() -> None:
    greet()


def project(**more: Any) -> Definitions:
    return Definitions(
        assets=[examples],
        jobs=[greeting, define_asset_job("examples_job", AssetSelection.assets("examples"))],
        # The name of a resource of ours, which is the job's own and not seen outside of it.
        resources={"io_manager": Told(), EXPERIMENT_KEY: Settings(greeting="good morning")},
        loggers={"own": own_logger},
        executor=in_process_executor,
        **more,
    )


@pytest.mark.parametrize("first", [True, False])
def test_experiments_join_a_project_that_has_everything_already(first: bool, instance: DagsterInstance) -> None:
    """Its own I/O manager, logger, executor, and a resource that is named like ours."""
    write("experiments/qa.yaml", "greeting.2", "deps: [examples]\n")
    ours = build_definitions("experiments")
    merged = Definitions.merge(*((ours, project()) if first else (project(), ours)))
    written.clear()
    said.clear()
    for name in ("greeting", "examples_job", "greeting_2"):
        run_config = {"loggers": {"own": {}}}
        assert merged.resolve_job_def(name).execute_in_process(instance=instance, run_config=run_config).success
    assert written == ["greet", "examples"], "the experiment's Contexts are kept by the context store"
    assert any("greeting_2" in line for line in said), "the project's logger can be asked for"
    assert merged.resolve_job_def("greeting").executor_def is in_process_executor
    assert merged.resolve_job_def("greeting_2").executor_def.name == "crucible"
    assert set(merged.resources or {}) == {"io_manager", EXPERIMENT_KEY}
    assets = merged.get_repository_def().asset_graph
    assert assets.get(AssetKey(["crucible", "greeting_2"])).parent_keys == {AssetKey("examples")}


def test_a_job_of_the_project_that_is_named_like_an_experiment_is_refused_by_its_name() -> None:
    write("experiments/greeting.yaml", "greeting")
    with pytest.raises(DagsterInvalidDefinitionError, match=r"Duplicate job definition found for .*'greeting'"):
        Definitions.merge(project(), build_definitions("experiments")).get_repository_def()


def test_the_ten_lines_of_the_guide_work(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parent.parent.parent / "docs" / "add-to-a-project.md"
    (lines,) = re.findall(r"```python\n(from pathlib .*?)```", guide.read_text(), re.DOTALL)
    assert len(lines.splitlines()) <= 12
    write("src/my_project/experiments/a.yaml", "a")
    Path("src/my_project/__init__.py").touch()
    Path("src/my_project/assets.py").write_text("import dagster as dg\n\n\n@dg.asset\ndef prices() -> None: ...\n")
    Path("src/my_project/definitions.py").write_text(lines)
    monkeypatch.syspath_prepend(own_folder / "src")
    made: Definitions = importlib.import_module("my_project.definitions").defs
    assert set(made.resolve_all_asset_keys()) == {
        AssetKey("prices"),
        AssetKey(["crucible", "a"]),
        AssetKey(["crucible", "a", "decisions"]),
    }
    assert made.resolve_job_def("a").name == "a"


# --- names --------------------------------------------------------------------------------------------------------


def test_ids_that_become_one_are_refused_each_with_where_the_other_stands() -> None:
    for name, id in (("a", "x.y"), ("b", "x-y"), ("c", "x_y"), ("d", "z")):
        write(f"experiments/{name}.yaml", id)
    with pytest.raises(InvalidExperimentError) as caught:
        build_definitions("experiments", strict=True)
    folder = Path("experiments").absolute()
    assert str(caught.value).splitlines() == [
        f"{folder}/{name}.yaml:1:1: the id '{id}' is taken by experiment 'x.y' ({folder}/a.yaml:1:1): both are 'x_y' "
        "in Dagster; change one of them"
        for name, id in (("b", "x-y"), ("c", "x_y"))
    ]


def test_an_id_that_is_given_twice_is_refused() -> None:
    write("experiments/a.yaml", "x")
    write("experiments/b.yaml", "x")
    with pytest.raises(InvalidExperimentError, match=r"b\.yaml:1:1: the id 'x' is taken by .* \(.*\); change one"):
        build_definitions("experiments", strict=True)


def test_ids_that_become_one_when_definitions_are_merged_are_named_with_their_files() -> None:
    """Dagster finds it, and shows what each asset says of itself."""
    one, two = write("one/a.yaml", "x.y"), write("two/b.yaml", "x-y")
    merged = Definitions.merge(build_definitions(one), build_definitions(two))
    with pytest.raises(DagsterInvalidDefinitionError) as caught:
        merged.get_repository_def()
    for fact in ("'x.y'", "'x-y'", str(one.absolute()), str(two.absolute())):
        assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("läufe", "'läufe' cannot be a name (it holds LATIN SMALL LETTER A WITH DIAERESIS): use 1 to 128 letters"),
        ("а", "'а' cannot be a name (it holds CYRILLIC SMALL LETTER A)"),
        ("実験", "(it holds CJK UNIFIED IDEOGRAPH-5B9F)"),
        ("\U000f0000", "(it holds 0xf0000)"),
        ("type", "Dagster reserves the name 'type'; give the experiment another id"),
        ("class", "Dagster reserves the name 'class'"),
        ("__mine", "Dagster reserves the name '__mine'"),
    ],
)
def test_an_id_that_dagster_cannot_show_is_refused(id: str, said: str) -> None:
    path = write("a.yaml", f'"{id}"')
    with pytest.raises(InvalidExperimentError) as caught:
        build_definitions(path, strict=True)
    assert str(caught.value).startswith(f"{path.absolute()}:1:1: ")
    assert said in str(caught.value)


def test_names_with_dashes_and_dots_and_a_leading_digit_are_kept_where_people_read_them() -> None:
    write("a.yaml", "2nd.try-b")
    made = build_definitions("a.yaml")
    job = made.resolve_job_def("2nd_try_b")
    assert job.tags["crucible/experiment"] == "2nd.try-b"
    spec, decisions = sorted(made.resolve_all_asset_specs(), key=lambda one: one.key)
    assert decisions.key == AssetKey(["crucible", "2nd_try_b", "decisions"])
    assert spec.key == AssetKey(["crucible", "2nd_try_b"])
    assert spec.metadata["experiment"] == "2nd.try-b"


# --- many ---------------------------------------------------------------------------------------------------------


def test_a_location_of_two_hundred_experiments_has_each_under_its_name() -> None:
    for n in range(200):
        write(f"experiments/{n % 7}/{n}.yaml", f"many-{n}.b", "schedule: {cron: '0 2 * * *'}\n")
    repository = build_definitions("experiments").get_repository_def()
    names = {f"many_{n}_b" for n in range(200)}
    assert {one.name for one in repository.get_all_jobs()} >= names
    assert {key.path[1] for key in repository.asset_graph.get_all_asset_keys()} == names
    assert len(repository.schedule_defs) == 200
