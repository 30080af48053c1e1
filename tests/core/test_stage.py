"""Stages: classes and functions whose typed arguments are the options, and what is derived from them."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import ConfigDict, Field, ValidationError
from stages_for_tests import Bounds, Train, experiment_of, measure, nothing

from crucible_core import (
    Context,
    Experiment,
    InvalidOptionsError,
    Registry,
    Stage,
    plan_experiment,
    run_experiment,
    stage,
)
from crucible_core.plan import advice


@stage
def train(
    ctx: Context,
    *,
    lr: Annotated[float, Field(gt=0, description="Step size.")] = 0.1,
    layers: list[int],
    mode: Literal["fast", "slow"] | None = None,
) -> Context:
    """Trains.

    At length.
    """
    return ctx.put_metric("lr", lr).put_metric("layers", layers).put_metric("mode", mode)


def test_a_function_becomes_a_stage_whose_keyword_arguments_are_the_options() -> None:
    assert issubclass(train, Stage)
    assert train.__name__ == "train"
    made = train(layers=[1])
    assert (made.lr, made.layers, made.mode) == (0.1, [1], None)


def test_the_function_stays_reachable() -> None:
    from crucible_core import Context

    ctx = Context.begin(experiment_of("a"))
    assert train.function(ctx, layers=[2]).get_metric("layers") == [2]


def test_a_stage_of_a_function_runs_with_its_options() -> None:
    experiment = experiment_of({"name": "train", "options": {"layers": [3], "lr": 1}})
    ctx = run_experiment(experiment, registry=Registry({"train": train}))
    assert dict(ctx.metrics) == {"lr": 1.0, "layers": [3], "mode": None}


def test_a_description_is_derived() -> None:
    described = train.describe()
    assert described["name"] == "train"
    assert described["description"] == "Trains.\n\nAt length."
    assert described["required"] == ["layers"]
    assert described["optional"] == ["lr", "mode"]
    assert described["types"] == {"lr": "float", "layers": "list[int]", "mode": '"fast" | "slow" | None'}
    assert described["defaults"] == {"lr": 0.1, "mode": None}
    assert described["schema"]["properties"]["lr"]["exclusiveMinimum"] == 0
    assert described["schema"]["properties"]["lr"]["description"] == "Step size."
    assert described["schema"]["required"] == ["layers"]
    assert json.loads(json.dumps(described)) == described


def test_a_string_below_a_field_describes_the_option() -> None:
    assert Train.describe()["schema"]["properties"]["epochs"]["description"] == "How often every point is seen."


@pytest.mark.parametrize(
    ("name", "snake"),
    [("Train", "train"), ("DataLoad", "data_load"), ("HTTPLoad", "http_load"), ("TrainV2", "train_v2"), ("a", "a")],
)
def test_the_name_of_a_class_is_written_in_lower_case(name: str, snake: str) -> None:
    assert type(name, (Stage,), {"run": lambda self, ctx: ctx}).describe()["name"] == snake


def test_types_are_named_as_one_would_write_them() -> None:
    assert Bounds.describe()["types"] == {
        "share": "float",
        "count": "int | None",
        "size": "int | list[int]",
        "mode": '"fast" | "slow"',
        "verbose": "bool",
        "pair": "tuple[int, float]",
        "weights": "dict[str, float]",
        "file": "Path | None",
    }


def test_a_stage_without_a_docstring_has_an_empty_description() -> None:
    class Bare(Stage):
        def run(self, ctx: Context) -> Context:
            return ctx

    @stage
    def bare(ctx: Context) -> Context:
        return ctx

    assert Bare.describe()["description"] == bare.describe()["description"] == ""


def test_a_default_that_is_made_by_a_factory_is_described() -> None:
    class Listing(Stage):
        items: list[int] = Field(default_factory=lambda: [1, 2])

        def run(self, ctx: Context) -> Context:
            return ctx

    assert Listing.describe()["optional"] == ["items"]
    assert Listing.describe()["defaults"] == {"items": [1, 2]}


def test_a_default_that_json_does_not_have_is_described() -> None:
    @stage
    def clip(ctx: Context, *, limit: float = math.inf) -> Context:
        return ctx

    assert clip.describe()["defaults"] == {"limit": "Infinity"}
    json.dumps(clip.describe(), allow_nan=False)


class Blur(Stage):
    """An option whose name in the file is a word of Python."""

    lambda_: float = Field(default=0.1, alias="lambda")
    """Strength."""

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("strength", self.lambda_)


def test_an_option_may_be_named_by_a_word_of_python() -> None:
    experiment = experiment_of({"name": "blur", "options": {"lambda": 0.5}})
    assert run_experiment(experiment, registry=Registry({"blur": Blur})).get_metric("strength") == 0.5


def test_an_option_with_an_alias_is_described_by_the_name_it_has_in_the_file() -> None:
    described = Blur.describe()
    assert described["optional"] == ["lambda"]
    assert described["types"] == {"lambda": "float"}
    assert described["defaults"] == {"lambda": 0.1}


def test_a_stage_is_frozen() -> None:
    for made, option in ((measure(value=1.0), "value"), (Train(epochs=1), "epochs")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(made, option, 2)


def test_an_unknown_option_is_refused() -> None:
    for made in (measure, Train):
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            made(epoch=1, epochs=1)


def test_a_stage_may_have_an_option_that_begins_with_model() -> None:
    @stage
    def load(ctx: Context, *, model_name: str = "small") -> Context:
        return ctx.put_metric("model", model_name)

    assert run_experiment(experiment_of("load"), registry=Registry({"load": load})).get_metric("model") == "small"


def test_the_default_of_one_run_is_not_changed_by_another() -> None:
    @stage
    def grow(ctx: Context, *, items: list[int] = []) -> Context:
        items.append(1)
        return ctx.put_metric("items", len(items))

    registry = Registry({"grow": grow})
    assert [run_experiment(experiment_of("grow"), registry=registry).get_metric("items") for _ in range(3)] == [1, 1, 1]


# --- what @stage refuses --------------------------------------------------------------------------------------------


def no_argument() -> Context: ...


def only_options(*, lr: float) -> Context: ...


def any_arguments(*ctx: Any) -> Context: ...


def positional_option(ctx: Context, lr: float = 0.1) -> Context: ...


def any_options(ctx: Context, **options: Any) -> Context: ...


def untyped_option(ctx: Context, *, lr=0.1) -> Context: ...


def run_option(ctx: Context, *, run: int = 1) -> Context: ...


def underscored_option(ctx: Context, *, _lr: float = 0.1) -> Context: ...


async def asynchronous_generator(ctx: Context) -> AsyncIterator[Context]:
    yield ctx


def generator(ctx: Context) -> Context:
    yield ctx


@pytest.mark.parametrize(
    ("function", "part"),
    [
        (no_argument, "the first argument of no_argument must take the Context"),
        (only_options, "the first argument of only_options must take the Context"),
        (any_arguments, "the first argument of any_arguments must take the Context"),
        (positional_option, "put a * before 'lr'"),
        (any_options, "'options'"),
        (untyped_option, "the option 'lr' of untyped_option has no type"),
        (run_option, "the option 'run' of run_option has the name of a method of Stage"),
        (asynchronous_generator, "generator"),
        (generator, "generator"),
        (functools.partial(positional_option, lr=1), "@stage goes on a function"),
        ("name", "@stage goes on a function"),
        (Train, "@stage goes on a function"),
    ],
    ids=lambda one: getattr(one, "__name__", None) if callable(one) else "",
)
def test_a_function_of_another_shape_is_refused_with_what_to_change(function: Any, part: str) -> None:
    with pytest.raises(TypeError) as caught:
        stage(function)
    assert part in str(caught.value)


def test_an_option_with_an_underscore_is_refused_or_works() -> None:
    try:
        made = stage(underscored_option)
    except TypeError:
        return
    assert "_lr" in made.describe()["optional"]


def test_a_function_whose_context_is_known_to_type_checkers_only_becomes_a_stage() -> None:
    # Linters move imports that only annotations need below TYPE_CHECKING.
    Path("only_typed.py").write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "from crucible_core import stage\n"
        "if TYPE_CHECKING:\n"
        "    from crucible_core import Context\n"
        "@stage\n"
        "def load(ctx: Context, *, rows: int = 3) -> Context:\n"
        "    return ctx.put_metric('rows', rows)\n"
    )
    Path("a.json").write_text(experiment_of({"name": "a", "module": "only_typed:load"}).to_json())
    from crucible_core import load_experiment

    assert run_experiment(load_experiment("a.json")).get_metric("rows") == 3


def test_a_wrong_default_is_refused_before_it_reaches_the_function() -> None:
    @stage
    def load(ctx: Context, *, rows: int = "many") -> Context:
        return ctx.put_metric("rows", rows)

    from crucible_core import InvalidOptionsError

    with pytest.raises(InvalidOptionsError, match="rows"):
        run_experiment(experiment_of("load"), registry=Registry({"load": load}))


def test_a_class_without_run_is_no_stage() -> None:
    class Idle(Stage):
        pass

    with pytest.raises(TypeError, match="has no run\\(self, ctx\\) method"):
        Registry({"idle": Idle})


def test_a_stage_may_inherit_the_options_of_another() -> None:
    class Longer(Train):
        """Trains longer."""

        patience: int = 3
        """How long to wait."""

    assert Longer.describe()["required"] == ["epochs"]
    assert "patience" in Longer.describe()["optional"]
    assert "seeds" in Longer.describe()["optional"]


def test_a_stage_without_options_describes_itself() -> None:
    described = nothing.describe()
    assert (described["required"], described["optional"], described["types"], described["defaults"]) == ([], [], {}, {})


# --- what else a stage says -------------------------------------------------------------------------------------------


class Advises(Stage):
    said: ClassVar[Any] = None

    def run(self, ctx: Context) -> Context:
        return ctx

    def advise(self, experiment: Experiment) -> Any:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


def advised(said: Any) -> list[str]:
    kind = type(
        "Advises", (Advises,), {"said": said, "__module__": __name__, "__annotations__": {"said": ClassVar[Any]}}
    )
    experiment = Experiment(id="advised", pipeline=[{"name": "adv"}])
    return advice(plan_experiment(experiment, Registry({"adv": kind})))


@pytest.mark.parametrize(("said", "warnings"), [("be careful", 1), (None, 0), (["a", "b"], 2), ((), 0)])
def test_advice_is_one_text_several_or_none(said: Any, warnings: int) -> None:
    found = advised(said)
    assert len(found) == warnings
    assert all(one.startswith("stage 'adv': ") for one in found)


def test_advice_that_is_no_text_is_refused_with_its_stage() -> None:
    with pytest.raises(InvalidOptionsError, match="stage 'adv': its advise failed: TypeError"):
        advised([3])


class ChecksNothing(Stage):
    def run(self, ctx: Context) -> Context:
        return ctx

    def check(self, experiment: Experiment) -> Any:
        return [3]


def test_a_problem_that_is_no_text_is_refused_with_its_stage() -> None:
    experiment = Experiment(id="checked", pipeline=[{"name": "c"}])
    with pytest.raises(InvalidOptionsError, match="stage 'c': its check failed: TypeError"):
        plan_experiment(experiment, Registry({"c": ChecksNothing}))


def test_advice_that_raises_names_its_stage() -> None:
    with pytest.raises(InvalidOptionsError, match="stage 'adv': its advise failed: ValueError: no"):
        advised(ValueError("no"))


class Thing:
    pass


class Holds(Stage):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    thing: Thing = Thing()
    """What nobody can write into a file."""

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("held", float(isinstance(self.thing, Thing)))


def test_an_option_of_a_type_that_pydantic_does_not_know_keeps_its_default() -> None:
    experiment = Experiment(id="holds", pipeline=[{"name": "holds"}])
    assert run_experiment(experiment, registry=Registry({"holds": Holds})).get_metric("held") == 1.0
    assert Holds.describe()["optional"] == ["thing"]
