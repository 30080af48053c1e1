"""The experiment as data: names, equality, options, retries, where things stand in the file."""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from stages_for_tests import experiment_of

from crucible_bench import OTHER_TESTS, TEST_ALIASES, TEST_NAMES
from crucible_bench import vocabulary as bench_vocabulary
from crucible_bench.hypothesis_tests.run_test import DEFINITIONS
from crucible_bench.multiple.corrections import CORRECTIONS
from crucible_bench.vocabulary import EFFECT_LABELS
from crucible_core import (
    Experiment,
    InvalidExperimentError,
    OutputSpec,
    RetryPolicy,
    Schedule,
    StageDef,
    Stats,
    UnknownStageError,
    load_experiment,
)
from crucible_core.ir import vocabulary
from crucible_core.ir.experiment import Execution, Trigger
from crucible_core.ir.fields import Node
from crucible_core.ir.gates import Baseline, Gate, NoRegression
from crucible_core.report import RENDERERS, SUFFIXES

GUIDES = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["a", "A1", "_private", "gpt-4o.mini_v2", "0", "a" * 128, "a..b", "a--"])
def test_letters_digits_and_three_signs_make_a_name(name: str) -> None:
    assert Experiment.model_validate({"id": name, "pipeline": [{"name": name}]}).id == name
    assert OutputSpec(name=name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".a",
        "-a",
        "a b",
        "a/b",
        "a\\b",
        "a\n",
        "\na",
        "a\x00",
        "ä",
        "a:b",
        "a" * 129,
        "٣",
        "a\u200bb",
        "%2e",
    ],
)
def test_anything_else_is_no_name(name: str) -> None:
    for bad in ({"id": name, "pipeline": [{"name": "s"}]}, {"id": "a", "pipeline": [{"name": name}]}):
        with pytest.raises(ValidationError, match="cannot be a name"):
            Experiment.model_validate(bad)


def test_an_experiment_is_frozen() -> None:
    experiment = experiment_of("a")
    with pytest.raises(ValidationError, match="frozen"):
        experiment.id = "b"
    with pytest.raises(ValidationError, match="frozen"):
        experiment.pipeline[0].enabled = False


def test_what_was_not_said_is_not_written_and_null_stays_null() -> None:
    data = {"id": "a", "description": None, "pipeline": [{"name": "s", "options": None}], "baseline": None}
    assert Experiment.model_validate(data).to_dict() == data
    assert json.loads(Experiment.model_validate(data).to_json()) == data


def test_where_an_experiment_was_read_from_is_no_part_of_what_it_says() -> None:
    made = experiment_of("a")
    Path("a.json").write_text(made.to_json())
    assert load_experiment("a.json") == made
    assert made.source is None
    assert made.folder is None
    assert made.location("pipeline") is None


def test_experiments_that_say_different_things_are_unequal() -> None:
    assert experiment_of("a") != experiment_of("b")
    assert experiment_of("a") != experiment_of("a", description="x")
    assert experiment_of("a") != "a"


def test_the_position_of_each_part_is_known_and_of_what_is_not_there_that_of_what_holds_it() -> None:
    Path("a.yaml").write_text("id: a\npipeline:\n  - name: s\n    options:\n      lr: 1\n")
    experiment = load_experiment("a.yaml")
    place = experiment.location("pipeline", 0, "options", "lr")
    assert (place.line, place.column) == (5, 7)
    assert experiment.location("pipeline", 0, "options", "other").line == 4
    assert experiment.location("nothing", "there").line == 1
    assert str(place) == "a.yaml:5:7"


def test_options_are_replaced_one_by_one_in_a_new_experiment() -> None:
    before = experiment_of({"name": "s", "options": {"lr": 1, "epochs": 2}}, "t")
    after = before.with_options("s", {"lr": 3})
    assert after.pipeline[0].options == {"lr": 3, "epochs": 2}
    assert before.pipeline[0].options == {"lr": 1, "epochs": 2}
    assert before.with_options("t", {"x": None}).pipeline[1].options == {"x": None}


def test_replacing_options_of_an_unknown_stage_is_refused_with_the_closest_name() -> None:
    with pytest.raises(UnknownStageError, match="has no stage 'trian'; did you mean 'train'\\?; its stages: train, b"):
        experiment_of("train", "b").with_options("trian", {})


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**63, -(2**63) - 1, "\x00", "\ud800", {"a": [math.nan]}, {"\x00": 1}]
)
def test_options_made_in_code_obey_the_rules_of_the_file(value: Any) -> None:
    with pytest.raises(ValidationError):
        StageDef(name="s", options={"x": value})


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", Path("a")])
def test_options_are_json_data(value: Any) -> None:
    with pytest.raises(ValidationError):
        StageDef(name="s", options={"x": value})


def test_the_statistics_are_there_when_nothing_was_said() -> None:
    assert experiment_of("a").stats == Stats()
    assert experiment_of("a", reliability=None).stats == Stats()
    assert experiment_of("a", reliability={"stats": {"alpha": 0.01}}).stats.alpha == 0.01


# --- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cron", ["0 2 * * *", "*/5 * * * 1-5", "0 0 1,15 * *", "0 0 * * MON", "@daily", "@hourly"])
def test_cron_schedules_are_read(cron: str) -> None:
    assert Schedule(cron=cron).cron == cron


@pytest.mark.parametrize(
    "cron", ["", "* * * *", "* * * * * *", "daily", "@reboot", "every day", "0\t2 * * *", "0 2 * * *\n", "0 2 * *  *"]
)
def test_what_is_no_cron_schedule_is_refused(cron: str) -> None:
    with pytest.raises(ValidationError, match="is not a cron schedule"):
        Schedule(cron=cron)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def test_time_zones_of_the_iana_are_read(zone: str) -> None:
    assert Schedule(cron="@daily", timezone=zone).timezone == zone


@pytest.mark.parametrize("zone", ["", "Berlin", "../UTC", "/etc/localtime", "Europe", "CEST+1", "UTC\x00", "\ud800"])
def test_other_time_zones_are_refused(zone: str) -> None:
    with pytest.raises(ValidationError):
        Schedule(cron="@daily", timezone=zone)


# --- retries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        ({"max_retries": 3}, [0, 0, 0]),
        ({"delay": 2.0}, [2, 2, 2]),
        ({"delay": 2.0, "backoff": "linear"}, [2, 4, 6]),
        ({"delay": 2.0, "backoff": "exponential"}, [2, 6, 14]),
        ({"delay": 2.0, "backoff": "exponential", "max_delay": 5}, [2, 5, 5]),
        ({"delay": 2.0, "max_delay": 1}, [1, 1, 1]),
    ],
)
def test_delays_grow_by_the_formulas_of_dagster(policy: dict[str, Any], delays: list[float]) -> None:
    assert [RetryPolicy(**policy).delay_after(attempt) for attempt in (1, 2, 3)] == delays


@pytest.mark.parametrize(
    ("jitter", "draw", "delay"),
    [
        ("full", 0.0, 0.0),
        ("full", 0.5, 3.0),
        ("plus_minus", 0.0, 4.0),
        ("plus_minus", 0.5, 6.0),
        ("plus_minus", 1.0, 8.0),
    ],
)
def test_jitter_varies_the_delay(jitter: str, draw: float, delay: float) -> None:
    policy = RetryPolicy(delay=2.0, backoff="exponential", jitter=jitter)
    assert policy.delay_after(2, draw=lambda: draw) == delay


@given(
    delay=st.floats(0, 86_400),
    backoff=st.sampled_from([None, "linear", "exponential"]),
    jitter=st.sampled_from([None, "full", "plus_minus"]),
    attempt=st.integers(1, 1000),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_delay_is_never_negative_and_always_a_number(
    delay: float, backoff: Any, jitter: Any, attempt: int, draw: float
) -> None:
    policy = RetryPolicy(max_retries=1000, delay=delay, backoff=backoff, jitter=jitter)
    waited = policy.delay_after(attempt, draw=lambda: draw)
    assert 0 <= waited < math.inf
    assert policy.model_copy(update={"max_delay": 60.0}).delay_after(attempt, draw=lambda: draw) <= 60


class OwnTimeoutError(TimeoutError):
    pass


@pytest.mark.parametrize(
    ("error", "on", "covered"),
    [
        (OwnTimeoutError(), ["TimeoutError"], True),
        (OwnTimeoutError(), ["OSError"], True),
        (OwnTimeoutError(), ["ConnectionError", f"{__name__}.OwnTimeoutError"], True),
        (OwnTimeoutError(), ["ConnectionError", "somewhere.OwnTimeoutError", "ValueError"], False),
        (json.JSONDecodeError("", "", 0), ["json.decoder.JSONDecodeError"], True),
        (json.JSONDecodeError("", "", 0), ["json.JSONDecodeError"], True),  # by the name that the package offers
        (TimeoutError(), ["builtins.TimeoutError"], True),
        (ValueError(), ["not_installed.errors.Error"], False),
        (ValueError(), None, True),
        (SystemExit(), None, False),
        (SystemExit(), ["OSError"], False),
    ],
)
def test_a_stage_is_tried_again_after_the_exceptions_that_are_named(
    error: BaseException, on: list[str] | None, covered: bool
) -> None:
    assert RetryPolicy(on=on).covers(error) is covered  # type: ignore[arg-type]  # as a file has it


def test_nothing_is_imported_to_know_an_exception() -> None:
    before = set(sys.modules)
    assert not RetryPolicy(on=("wsgiref.validate.WSGIWarning",)).covers(ValueError())
    assert set(sys.modules) == before


def test_an_exception_with_a_mistake_in_its_name_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "retry.yaml"
    file.write_text("id: retry\npipeline:\n  - name: validate\n    retry:\n      on: [TimeOutError]\n")
    with pytest.raises(InvalidExperimentError, match=r"retry.yaml:5:\d+: .*did you mean 'TimeoutError'"):
        load_experiment(file)


@pytest.mark.parametrize(
    "policy",
    [
        {"max_retries": -1},
        {"delay": -1.0},
        {"delay": math.inf},
        {"delay": math.nan},
        {"backoff": "linear"},
        {"jitter": "full"},
        {"delay": "1"},
        {"max_retries": True},
        {"backoff": "quadratic", "delay": 1.0},
        {"max_delay": 1.0},
        {"max_delay": -1.0, "delay": 1.0},
        {"on": []},
        {"on": "TimeoutError"},
        {"on": ["KeyboardInterrupt"]},
        {"on": ["print"]},
        {"on": ["httpx."]},
        {"on": ["a b.C"]},
    ],
)
def test_impossible_retries_are_refused(policy: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RetryPolicy(**policy)


# --- vocabularies ---------------------------------------------------------------------------------------------------


def choices(literal: Any) -> set[str]:
    return {name for part in typing.get_args(literal) for name in (choices(part) or {part})}


def test_each_advertised_choice_is_implemented_and_each_implemented_one_advertised() -> None:
    assert choices(bench_vocabulary.TestName) == set(DEFINITIONS) | set(OTHER_TESTS) == set(TEST_NAMES)
    assert choices(bench_vocabulary.TestSpelling) == set(TEST_NAMES) | set(TEST_ALIASES) | {"auto"}
    assert choices(bench_vocabulary.CorrectionName) == set(CORRECTIONS)
    assert choices(bench_vocabulary.EffectSizeName) == {
        name for names in bench_vocabulary.EFFECT_SIZES.values() for name in names
    }
    assert choices(bench_vocabulary.EffectSizeName) == set(EFFECT_LABELS)
    assert choices(vocabulary.ReportFormat) == set(RENDERERS) == set(SUFFIXES)


# --- the guides ------------------------------------------------------------------------------------------------------


def nodes_in(model: type[Node], found: dict[type[Node], None]) -> dict[type[Node], None]:
    """The model and all that its fields are made of."""
    if model not in found:
        found[model] = None
        for field in model.model_fields.values():
            for part in parts_of(field.annotation):
                if isinstance(part, type) and issubclass(part, Node):
                    nodes_in(part, found)
    return found


def parts_of(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in typing.get_args(annotation):
        yield from parts_of(inner)


def test_the_guide_names_every_key_and_every_choice_of_the_file() -> None:
    guide = (GUIDES / "experiment-file.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`", guide))))
    models = nodes_in(Experiment, {})
    assert {StageDef, Stats, Gate, NoRegression, Baseline, Schedule, Trigger, Execution} < models.keys()
    fields = [(model.__name__, field.alias or key) for model in models for key, field in model.model_fields.items()]
    keys = {f"{model}.{key}" for model, key in fields}
    assert sorted(key for key in keys if key.partition(".")[2] not in words) == []
    choices = {
        choice
        for model in models
        if model is not Stats  # crucible stages bench lists those
        for field in model.model_fields.values()
        for part in parts_of(field.annotation)
        if typing.get_origin(part) is typing.Literal
        for choice in typing.get_args(part)
    }
    assert {"any", "exponential", "always_valid", "multiprocess", "latex"} <= choices
    assert sorted(choices - words) == []


@pytest.mark.parametrize("guide", ["experiment-file.md", "gates.md", "schedules.md"])
def test_the_examples_of_a_guide_can_be_read(guide: str, tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (GUIDES / guide).read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for example in examples:
        is_part = example.startswith("no_regression:")
        text = f"gates:\n- name: watched\n{textwrap.indent(example, '  ')}" if is_part else example
        given = {"id": "shown", "pipeline": "[{name: bench}]"}
        missing = [f"{key}: {value}\n" for key, value in given.items() if not re.search(rf"(?m)^{key}:", text)]
        file = tmp_path / "shown.yaml"
        file.write_text("".join([*missing, text]), encoding="utf-8")
        assert load_experiment(file)
