"""From the name in the file to the stage class: registered, imported, offered by a package, or refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stages_for_tests import HERE, Train, experiment_of, fail, measure, nothing

from crucible_core import (
    CrucibleError,
    InvalidExperimentError,
    Registry,
    StageDef,
    UnknownStageError,
    builtin_registry,
    load_experiment,
    plan_experiment,
    run_experiment,
    stage,
)

STAGE_MODULE = """\
from crucible_core import Context, Stage, stage

@stage
def load(ctx: Context, *, rows: int = 3) -> Context:
    "Loads."
    return ctx.put_metric("rows", rows)

class Train(Stage):
    "Trains."
    class Inner(Stage):
        "Is inside."
        def run(self, ctx): return ctx
    def run(self, ctx): return ctx

def plain(ctx): return ctx
instance = Train()
text = "load"
"""


def refused(module: str | None, *, registry: Registry | None = None, name: str = "s") -> UnknownStageError:
    with pytest.raises(UnknownStageError) as caught:
        (builtin_registry() if registry is None else registry).resolve(
            StageDef(name=name, module=module), folder=Path.cwd()
        )
    assert caught.value.stage == name
    return caught.value


def resolved(module: str, *, folder: Path | None = None) -> str:
    found = builtin_registry().resolve(StageDef(name="s", module=module), folder=folder or Path.cwd())
    return found.__qualname__


# --- the object -----------------------------------------------------------------------------------------------------


def test_a_registry_is_a_mapping_of_names_to_stages() -> None:
    registry = Registry({"b": measure, "a": nothing})
    assert registry["a"] is nothing
    assert registry.names() == ("a", "b")
    assert list(registry) == ["a", "b"]
    assert len(registry) == 2
    assert "a" in registry
    assert "c" not in registry
    assert repr(registry) == "Registry(a, b)"


def test_a_registry_describes_a_stage_under_its_registered_name() -> None:
    described = Registry({"fit": Train}).describe("fit")
    assert described["name"] == "fit"
    assert described["required"] == ["epochs"]


@pytest.mark.fault("an unknown stage")
def test_an_unknown_name_is_refused_with_the_closest_and_all_others() -> None:
    with pytest.raises(UnknownStageError) as caught:
        builtin_registry()["bnech"]
    assert str(caught.value) == (
        "unknown stage 'bnech'; did you mean 'bench'?; registered: bench, data_checks, load_inspect, load_lm_eval, "
        "report, validate"
    )
    assert caught.value.stage == "bnech"
    assert caught.value.known == ("bench", "data_checks", "load_inspect", "load_lm_eval", "report", "validate")


def test_an_empty_registry_says_that_it_is_empty() -> None:
    with pytest.raises(UnknownStageError, match=r"registered: none$"):
        Registry()["a"]


@pytest.mark.parametrize("value", [None, "measure", Train(epochs=1), lambda ctx: ctx, dict, object()])
def test_what_is_no_stage_cannot_be_registered(value: object) -> None:
    with pytest.raises(TypeError, match="the stage registered as 'x' is not a stage"):
        Registry({"x": value})


def test_a_function_that_was_not_decorated_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match="decorate it with @stage"):
        Registry({"x": lambda ctx: ctx})


def test_a_refused_registration_leaves_no_traces() -> None:
    registry = Registry({"a": nothing})
    with pytest.raises(TypeError):
        registry | {"b": 1}
    assert registry.names() == ("a",)


def test_registries_are_joined_and_the_right_one_wins() -> None:
    joined = Registry({"a": nothing, "b": nothing}) | {"b": measure} | Registry({"c": Train})
    assert joined.names() == ("a", "b", "c")
    assert joined["b"] is measure


def test_the_mapping_that_a_registry_was_made_of_may_change() -> None:
    stages = {"a": nothing}
    registry = Registry(stages)
    stages["b"] = measure
    assert registry.names() == ("a",)


# --- module references ----------------------------------------------------------------------------------------------


def test_a_module_may_name_a_registered_stage() -> None:
    found = builtin_registry().resolve(StageDef(name="second_check", module="data_checks"))
    assert found.__name__ == "DataChecks"


@pytest.mark.parametrize(
    ("reference", "name"),
    [("my_stages:load", "load"), ("my_stages:Train", "Train"), ("my_stages:Train.Inner", "Train.Inner")],
)
def test_a_class_or_function_beside_the_experiment_file_is_found(reference: str, name: str) -> None:
    Path("my_stages.py").write_text(STAGE_MODULE)
    assert resolved(reference) == name


def test_a_package_beside_the_experiment_file_is_found() -> None:
    Path("my_package").mkdir()
    Path("my_package/__init__.py").touch()
    Path("my_package/steps.py").write_text(STAGE_MODULE)
    assert resolved("my_package.steps:load") == "load"


def test_an_experiment_finds_the_stages_beside_its_file_from_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("there").mkdir()
    Path("there/beside_it.py").write_text(STAGE_MODULE)
    Path("there/a.yaml").write_text("id: a\npipeline: [{name: s, module: 'beside_it:load', options: {rows: 7}}]\n")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert run_experiment(load_experiment("../there/a.yaml")).get_metric("rows") == 7


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("not_there:Train", ["there is no module 'not_there' to import", "looked beside the experiment file"]),
        ("not_there.deeper:Train", ["there is no module 'not_there.deeper' to import"]),
        ("my_stages.deeper:Train", ["my_stages.deeper"]),
        ("my_stages:Trian", ["'my_stages' has no 'Trian'; did you mean 'Train'?; its stages: Train, load"]),
        ("my_stages.py:Train", ["there is no module 'my_stages.py' to import"]),
        ("my_stages:Train.Outer", ["has no 'Train.Outer'"]),
        ("my_stages:plain", ["'my_stages:plain' is not a stage", "decorate it with @stage"]),
        ("my_stages:instance", ["'my_stages:instance' is not a stage"]),
        ("my_stages:text", ["'my_stages:text' is not a stage: it is 'load'"]),
        ("my_stages:Stage", ["is not a stage"]),
        ("my_stages:instance.run", ["is not a stage"]),
        ("my_stages:Train.run", ["is not a stage"]),
        ("my_stages:Train.__class__", ["is not a stage"]),
        ("my_stages:__builtins__", ["is not a stage"]),
        ("os:system", ["'os:system' is not a stage"]),
        ("builtins:eval", ["is not a stage"]),
        ("subprocess:Popen", ["'subprocess:Popen' is not a stage"]),
        ("my_stages", ["unknown stage 'my_stages'", "registered: bench"]),
        ("my_stages.Train", ["a Python class is named with a colon: `module: my_stages:Train`"]),
        ("Elixir.CrucibleTrain.Stages.Train", ["this is an Elixir module", "register its Python successor"]),
        ("bnech", ["unknown stage 'bnech'; did you mean 'bench'?"]),
        ("", ["unknown stage"]),
    ],
)
def test_a_reference_to_no_stage_is_refused_with_what_was_asked_and_what_exists(
    reference: str, parts: list[str]
) -> None:
    Path("my_stages.py").write_text(STAGE_MODULE)
    shown = str(refused(reference))
    assert shown.startswith("stage 's': ")
    assert all(part in shown for part in parts), shown


@pytest.mark.parametrize(
    "reference",
    [
        ":", ":Train", "my_stages:", ".my_stages:Train", "..my_stages:Train", "my_stages.:Train", "my stages:Train",
        "my_stages:Train:Inner", "my_stages:Train()", "my_stages:Train.", "my_stages::Train", "./my_stages:Train",
        "/my_stages:Train", "my-stages:Train", "my_stages:0", "my_stages:Train[0]", " my_stages:Train",
    ],
)  # fmt: skip
@pytest.mark.fault("an unknown stage")
def test_a_reference_of_another_form_is_refused_and_imports_nothing(reference: str) -> None:
    Path("my_stages.py").write_text(STAGE_MODULE)
    before = set(sys.modules)
    shown = str(refused(reference))
    assert "is not of the form package.module:Attribute" in shown
    assert "my_stages" not in set(sys.modules) - before


def test_a_stage_without_module_that_is_unknown_is_told_of_module() -> None:
    shown = str(refused(None, name="trian", registry=Registry({"train": Train})))
    assert shown == (
        "stage 'trian': unknown stage 'trian'; did you mean 'train'?; registered: train; "
        "or name its class with `module: package.module:Class`"
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("import a_library_that_is_not_installed\n", ["importing 'broken' failed", "a_library_that_is_not_installed"]),
        ("1 / 0\n", ["importing 'broken' failed: ZeroDivisionError: division by zero"]),
        ("def f(:\n", ["importing 'broken' failed: SyntaxError"]),
        ("import sys\nsys.exit(0)\n", ["importing 'broken' failed", "sys.exit"]),
        ("raise SystemExit\n", ["importing 'broken' failed"]),
        ("\x00", ["importing 'broken' failed"]),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_with_the_reason(text: str, parts: list[str]) -> None:
    Path("broken.py").write_text(text)
    shown = str(refused("broken:Train"))
    assert all(part in shown for part in parts), shown


def test_the_reason_why_an_import_failed_is_the_cause() -> None:
    Path("broken.py").write_text("1 / 0\n")
    assert isinstance(refused("broken:Train").__cause__, ZeroDivisionError)


@pytest.mark.parametrize("name", ["json", "time", "pydantic"])
def test_a_file_with_the_name_of_an_installed_module_is_the_one_that_the_file_beside_it_means(name: str) -> None:
    installed = sys.modules[name]
    Path(f"{name}.py").write_text(STAGE_MODULE)
    assert resolved(f"{name}:load") == "load"
    assert sys.modules[name] is installed, "nobody else gets the file"


def test_where_a_deployment_lists_modules_the_installed_one_is_meant() -> None:
    Path("json.py").write_text("import pathlib; pathlib.Path('imported').touch()\n" + STAGE_MODULE)
    assert "'json' has no 'Train'" in str(refused("json:Train", registry=Registry(importable=["json"])))
    assert not Path("imported").exists()


def test_two_folders_with_a_module_of_one_name_never_get_each_others() -> None:
    for folder, rows in (("one", 1), ("two", 2)):
        Path(folder).mkdir()
        Path(folder, "twice_named.py").write_text(STAGE_MODULE.replace("= 3", f"= {rows}"))
        Path(folder, "a.yaml").write_text("id: a\npipeline: [{name: s, module: 'twice_named:load'}]\n")
    for folder, rows in (("one", 1), ("two", 2), ("one", 1)):
        assert run_experiment(load_experiment(f"{folder}/a.yaml")).get_metric("rows") == rows


def test_the_position_of_the_stage_in_the_file_is_shown() -> None:
    Path("a.yaml").write_text("id: a\npipeline:\n  - name: bench\n  - name: trian\n  - name: x\n    module: no:Way\n")
    with pytest.raises(UnknownStageError) as caught:
        plan_experiment(load_experiment("a.yaml"), Registry({"bench": nothing, "train": Train}))
    first, second = caught.value.each()
    assert (first.line, first.column) == (4, 5)
    assert (second.line, second.column) == (6, 5)
    assert "did you mean 'train'?" in first.message


# --- what may be imported -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("importable", [(), ["other"], ["my_stage"], ["my_stages.deeper"]])
@pytest.mark.fault("S2")
def test_modules_outside_the_list_are_refused_and_not_imported(importable: list[str]) -> None:
    Path("my_stages.py").write_text("import pathlib; pathlib.Path('imported').touch()\n" + STAGE_MODULE)
    shown = str(refused("my_stages:load", registry=Registry(importable=importable)))
    assert "importing 'my_stages' is not allowed here" in shown
    assert "CRUCIBLE_IMPORTABLE" in shown
    assert not Path("imported").exists()
    assert "my_stages" not in sys.modules


def test_a_package_in_the_list_allows_what_is_below_it() -> None:
    Path("my_package").mkdir()
    Path("my_package/__init__.py").touch()
    Path("my_package/steps.py").write_text(STAGE_MODULE)
    registry = Registry(importable=["my_package"])
    assert registry.resolve(StageDef(name="s", module="my_package.steps:load"), folder=Path.cwd()).__name__ == "load"


def test_the_list_outlives_joining() -> None:
    joined = Registry(importable=[]) | {"a": nothing}
    assert "not allowed here" in str(refused("my_stages:load", registry=joined))


def test_one_package_given_as_a_text_is_that_package() -> None:
    Path("my_stages.py").write_text(STAGE_MODULE)
    try:
        registry = Registry(importable="my_stages")
    except TypeError:
        return
    assert registry.resolve(StageDef(name="s", module="my_stages:load"), folder=Path.cwd()).__name__ == "load"


@pytest.mark.parametrize(
    ("listed", "allowed"),
    [("my_stages", True), ("other, my_stages ,", True), ("other", False), ("", False), (" ", False)],
)
def test_a_deployment_lists_what_may_be_imported(listed: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my_stages.py").write_text(STAGE_MODULE)
    monkeypatch.setenv("CRUCIBLE_IMPORTABLE", listed)
    if allowed:
        assert resolved("my_stages:load") == "load"
    else:
        assert "not allowed here" in str(refused("my_stages:load"))


def test_registered_stages_need_no_permission_to_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRUCIBLE_IMPORTABLE", "")
    assert builtin_registry().resolve(StageDef(name="validate")).__name__ == "Validate"


# --- entry points ---------------------------------------------------------------------------------------------------


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a distribution with entry points on the path, as pip would."""

    def place(distribution: str, **stages: str) -> None:
        info = Path("site", f"{distribution}-1.0.dist-info")
        info.mkdir(parents=True)
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in stages.items()]
        info.joinpath("entry_points.txt").write_text("\n".join(["[crucible.stages]", *lines]) + "\n")
        monkeypatch.syspath_prepend(str(Path("site").absolute()))
        monkeypatch.syspath_prepend(str(HERE))

    return place


def test_an_installed_package_offers_stages(install: Callable[..., None]) -> None:
    install("their_package", fit="stages_for_tests:Train", count="stages_for_tests:measure")
    registry = builtin_registry()
    assert {"fit", "count", "bench"} <= set(registry.names())
    assert registry["fit"] is Train
    assert run_experiment(experiment_of("count"), registry=registry).get_metric("accuracy") == 0.5


def test_an_installed_stage_is_imported_when_it_is_first_used(install: Callable[..., None]) -> None:
    install("their_package", late="imported_late:load")
    Path("site/imported_late.py").write_text(STAGE_MODULE)
    registry = builtin_registry()
    assert "late" in registry
    assert "late" in registry.names()
    assert "imported_late" not in sys.modules
    assert registry["late"].__name__ == "load"


def test_two_packages_that_offer_one_name_are_refused(install: Callable[..., None]) -> None:
    install("one_package", fit="stages_for_tests:Train")
    install("other_package", fit="stages_for_tests:measure")
    with pytest.raises(
        CrucibleError, match=r"two packages register a stage 'fit': stages_for_tests:.* and stages_for_t"
    ):
        builtin_registry()


def test_a_package_cannot_replace_a_built_in_stage(install: Callable[..., None]) -> None:
    install("their_package", bench="stages_for_tests:measure")
    with pytest.raises(CrucibleError, match=r"'bench': crucible_core.stages.bench:Bench and stages_for_tests:measure"):
        builtin_registry()


@pytest.mark.parametrize(
    "value", ["not_there:Train", "stages_for_tests:Trian", "stages_for_tests:experiment_of", "os:path"]
)
def test_a_broken_installed_stage_is_refused_when_it_is_used_and_only_then(
    install: Callable[..., None], value: str
) -> None:
    install("their_package", broken=value, fine="stages_for_tests:nothing")
    registry = builtin_registry()
    assert registry["fine"] is nothing
    with pytest.raises(InvalidExperimentError, match=f"the installed stage 'broken' \\({value}\\) cannot be loaded"):
        registry["broken"]
    with pytest.raises(InvalidExperimentError, match="cannot be loaded"):
        plan_experiment(experiment_of("broken"), registry)


def test_joining_keeps_installed_stages_unloaded(install: Callable[..., None]) -> None:
    install("their_package", broken="not_there:Train")
    joined = builtin_registry() | {"mine": fail} | Registry({"other": stage(lambda_stage)})
    assert {"broken", "mine", "other", "bench"} <= set(joined.names())


def lambda_stage(ctx):
    return ctx


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (None, None, None),
        (None, ["a"], {"a"}),
        (["a"], None, {"a"}),
        (["a"], [], set()),
        (["a", "b"], ["b", "c"], {"b"}),
        (["a"], ["a.sub", "ab"], {"a.sub"}),
    ],
)
def test_of_two_registries_only_what_both_allow_may_be_imported(one: Any, other: Any, both: Any) -> None:
    assert (Registry(importable=one) | Registry(importable=other)).importable == both


def test_a_list_is_no_registry() -> None:
    with pytest.raises(TypeError, match="Registry takes a mapping of names to values"):
        Registry([])  # type: ignore[arg-type]
