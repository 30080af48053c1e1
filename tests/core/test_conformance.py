"""One contract that every stage passes: those that come with the product and those of these tests."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from pydantic import ValidationError
from stages_for_tests import STAGES, Broken, experiment_of, registry

from crucible_core import Context, CrucibleError, Stage, StageDescription, builtin_registry, run_experiment
from crucible_core.values.jsonable import to_jsonable

BUILT_IN = {name: builtin_registry()[name] for name in builtin_registry().names()}
# The least that a stage needs to be made at all.
REQUIRED: dict[str, dict[str, Any]] = {
    "assign": {"values": {}},
    "fail_until": {"counter": "counter"},
    "groups": {"control": [1.0], "treatment": [2.0]},
    "load_inspect": {"logs": {"new": "new.eval"}},
    "load_lm_eval": {"logs": {"new": "samples.jsonl"}},
    "record": {"outputs": []},
    "sleep": {"seconds": 0.0},
    "train": {"epochs": 1},
}

each = pytest.mark.parametrize(("name", "stage"), sorted({**STAGES, **BUILT_IN}.items()))


@each
def test_a_stage_describes_itself_completely_in_json(name: str, stage: type[Stage]) -> None:
    described = stage.describe()
    assert set(described) == set(StageDescription.__annotations__)
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["name"]
    assert described["name"] == described["name"].lower()
    assert described["description"] == described["description"].strip() != ""


@each
def test_the_description_agrees_with_the_model(name: str, stage: type[Stage]) -> None:
    described = stage.describe()
    options = set(stage.model_fields)
    required = {option for option, field in stage.model_fields.items() if field.is_required()}
    assert set(described["required"]) == required
    assert set(described["optional"]) == options - required
    assert set(described["types"]) == options
    assert all(described["types"].values())
    assert set(described["defaults"]) == options - required
    assert set(described["schema"].get("properties", {})) == options
    assert set(described["schema"].get("required", ())) == required
    assert described["schema"]["additionalProperties"] is False
    made = stage(**REQUIRED.get(name, {}))
    for option, default in described["defaults"].items():
        if option not in REQUIRED.get(name, {}):
            assert to_jsonable(getattr(made, option)) == default


@pytest.mark.parametrize(("name", "stage"), sorted(BUILT_IN.items()))
def test_every_option_of_a_built_in_stage_says_what_it_is(name: str, stage: type[Stage]) -> None:
    for option, schema in stage.describe()["schema"].get("properties", {}).items():
        assert schema.get("description"), f"{name}.{option}"
        assert schema["description"].rstrip().endswith((".", "?")), f"{name}.{option}"


@each
def test_options_survive_json(name: str, stage: type[Stage]) -> None:
    made = stage(**REQUIRED.get(name, {}))
    assert stage.model_validate_json(made.model_dump_json(), strict=True) == made
    assert stage.model_validate_json(made.model_dump_json(exclude_unset=True), strict=True) == made


@each
def test_an_unknown_option_is_refused(name: str, stage: type[Stage]) -> None:
    with pytest.raises(ValidationError, match="no_such_option"):
        stage(**REQUIRED.get(name, {}), no_such_option=1)


@each
def test_an_instance_is_frozen(name: str, stage: type[Stage]) -> None:
    made = stage(**REQUIRED.get(name, {}))
    for option in [*stage.model_fields, "another"]:
        with pytest.raises((ValidationError, ValueError, AttributeError)):
            setattr(made, option, 1)


@each
def test_a_stage_returns_a_context_or_raises_and_leaves_the_one_it_was_given(name: str, stage: type[Stage]) -> None:
    if name in {"returns_none", "returns_metrics"}:
        return  # the stages that break this, on purpose; see test_runner
    experiment = experiment_of({"name": name, "options": REQUIRED.get(name)})
    given = Context.begin(experiment, assigns={"model": {"weights": [], "nested": {}}})
    before = (dict(given.metrics), list(given.outputs), dict(given.artifacts), set(given.assigns), list(given.trace))
    with contextlib.suppress(Broken, CrucibleError, KeyError, SystemExit, ValueError, KeyboardInterrupt):
        assert isinstance(stage(**REQUIRED.get(name, {})).run(given), Context)
    after = (dict(given.metrics), list(given.outputs), dict(given.artifacts), set(given.assigns), list(given.trace))
    assert after == before


@each
def test_a_stage_can_be_named_in_an_experiment(name: str, stage: type[Stage]) -> None:
    found = registry()[name]
    assert found is stage
    assert registry().describe(name)["name"] == name


def test_a_second_run_of_a_stage_gives_the_same() -> None:
    for name in ("measure", "choose", "odd_values", "train", "validate", "bounds"):
        experiment = experiment_of({"name": name, "options": REQUIRED.get(name)})
        runs = [run_experiment(experiment, registry=registry()) for _ in range(2)]
        assert runs[0].differences(runs[1]) == ()
