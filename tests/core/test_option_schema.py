"""The tree of a stage's options, which op config, `--set`, variants and `crucible stages` read."""

from __future__ import annotations

import datetime
import enum
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from typing_extensions import TypeAliasType

import crucible_core
from crucible_core import Context, Stage
from crucible_core.ir import option_words
from crucible_core.ir.option_schema import MAX_NESTING, NO_DEFAULT, Bound, Kind, Option, merge_options, option_tree
from crucible_core.ir.option_words import describe_option, type_in_words

ROOT = Path(crucible_core.__file__).parents[1]


class Colour(enum.Enum):
    red = 1
    blue = 2


class Layer(BaseModel):
    """One layer."""

    width: Annotated[int, Field(ge=1)] = 8
    below: Layer | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    width: int = 8


class Adam(BaseModel):
    kind: Literal["adam"]
    rate: float = 0.1
    beta: float = 0.9


class Sgd(BaseModel):
    kind: Literal["sgd", "momentum"]
    rate: int = 1


class Foreign:
    """A class of which pydantic knows no JSON schema."""


Positive = TypeAliasType("Positive", Annotated[int, Field(ge=1)])
Nested = TypeAliasType("Nested", "int | list[Nested]")
Turn = TypeAliasType("Turn", "list[Turn]")


class Options(Stage):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str
    """A text."""
    count: int = 1
    share: float = 0.5
    loud: bool = False
    nothing: None = None
    mode: Literal["fast", "exact"] = "fast"
    only: Literal["this"] = "this"
    colour: Colour | None = None
    power: Positive | None = None
    less: Annotated[Positive, Field(le=9, description="Up to nine.")] = 2
    sizes: list[int | None] = Field(default_factory=list)
    pair: tuple[float, float] = (0.0, 1.0)
    mixed: tuple[str, int] = ("a", 1)
    weights: dict[str, float] = Field(default={})
    whatever: dict[str, Any] = Field(default={})
    layer: Layer = Layer()
    maybe: Layer | None = None
    layers: list[Layer] = Field(default_factory=list)
    open: Open = Open()
    optimizer: Annotated[Adam | Sgd, Field(discriminator="kind")]
    either: int | list[int] = 1
    flag: bool | dict[str, int] = False
    several: int | str | list[int] = 1
    nested: Nested = 1
    turn: Turn = Field(default=[])
    day: datetime.date | None = None
    any: Any = None
    token: SecretStr = SecretStr("")
    foreign: Foreign | None = None
    key: Annotated[str | None, Field(json_schema_extra={"writeOnly": True})] = None

    def run(self, ctx: Context) -> Context:
        return ctx


TREE = option_tree(Options)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("name", "text", "text"),
        ("count", "integer", "whole number"),
        ("share", "number", "number"),
        ("loud", "boolean", "true or false"),
        ("nothing", "null", "null"),
        ("mode", "choice", '"fast" or "exact"'),
        ("only", "choice", '"this"'),
        ("colour", "choice", "1 or 2"),
        ("power", "integer", "whole number"),
        ("less", "integer", "whole number"),
        ("sizes", "list", "list of whole number or null"),
        ("pair", "list", "list of number, number"),
        ("mixed", "list", "list of text, whole number"),
        ("weights", "mapping", "mapping"),
        ("whatever", "mapping", "mapping"),
        ("layer", "model", "mapping"),
        ("maybe", "model", "mapping"),
        ("layers", "list", "list of mappings"),
        ("open", "model", "mapping"),
        ("optimizer", "union_by_tag", "mapping"),
        ("either", "scalar_or_more", "whole number or list of whole numbers"),
        ("flag", "scalar_or_more", "true or false or mapping"),
        ("several", "union", "whole number or text or list of whole numbers"),
        ("day", "text", "date such as 2026-01-31"),
        ("any", "anything", "anything"),
        ("foreign", "anything", "anything"),
    ],
)
def test_every_kind_of_option_is_recognized_and_has_words(name: str, kind: str, words: str) -> None:
    assert TREE.children[name].kind == kind
    assert type_in_words(TREE.children[name]) == words


def test_the_tree_is_made_once_and_holds_every_option() -> None:
    assert option_tree(Options) is TREE
    assert list(TREE.children) == list(Options.model_fields)
    assert TREE.children is TREE.children


def test_required_and_default_are_those_of_the_stage() -> None:
    required = {name for name, one in TREE.children.items() if one.required}
    assert required == {"name", "optimizer"}
    assert TREE.children["name"].default is NO_DEFAULT
    assert TREE.children["sizes"].default is NO_DEFAULT
    assert TREE.children["maybe"].default is None
    assert TREE.children["pair"].default == [0.0, 1.0]
    assert TREE.children["layer"].default == {"width": 8, "below": None}


def test_null_is_taken_off_wherever_it_stands() -> None:
    nullable = {name for name, one in TREE.children.items() if one.nullable}
    assert nullable == {"colour", "power", "maybe", "day", "foreign", "key"}
    item = TREE.children["sizes"].item
    assert item is not None
    assert (item.kind, item.nullable) == ("integer", True)


def test_what_stands_beside_a_reference_counts_too() -> None:
    less = TREE.children["less"]
    assert (less.bounds, less.description) == ({"minimum": 1, "maximum": 9}, "Up to nine.")
    assert describe_option(less) == "Up to nine. (at least 1, at most 9)"
    assert describe_option(TREE.children["maybe"]) == "One layer."


def test_the_fields_of_models_told_by_a_tag_say_which_of_them_have_them() -> None:
    fields = TREE.children["optimizer"].children
    assert list(fields) == ["kind", "rate", "beta"]
    assert (fields["kind"].choices, fields["kind"].required) == (("adam", "sgd", "momentum"), True)
    assert fields["rate"].kind == "union"
    assert describe_option(fields["rate"]) == "(number or whole number)"
    assert describe_option(fields["beta"]) == "(with kind: adam)"
    assert fields["beta"].default is NO_DEFAULT


def test_a_type_that_refers_to_itself_has_a_tree_as_deep_as_anybody_looks() -> None:
    deep = TREE.children["layer"]
    for _ in range(3 * MAX_NESTING):
        deep = deep.children["below"]
    assert deep.children["width"].bounds == {"minimum": 1}
    assert type_in_words(TREE.children["nested"]).endswith("list of anything")
    assert describe_option(TREE.children["turn"]) is None
    assert not TREE.children["layer"].secret


def test_a_secret_is_found_however_deep_it_is() -> None:
    holder: Any = SecretStr
    for index in range(3 * MAX_NESTING):
        holder = type(f"Level{index}", (BaseModel,), {"__annotations__": {"inner": list[holder]}})
    deep = type("Deep", (Stage,), {"__annotations__": {"levels": holder}, "run": lambda _, ctx: ctx})
    assert option_tree(deep).children["levels"].secret
    assert {name for name, one in TREE.children.items() if one.secret} == {"token", "key"}


def test_a_name_that_is_not_known_can_be_anything() -> None:
    assert TREE.part("nmae").kind == "anything"
    assert TREE.children["weights"].part("a").kind == "number"
    assert TREE.children["layer"].part("width").kind == "integer"


def test_what_has_parts_is_what_can_be_a_mapping() -> None:
    without = {name for name, one in TREE.children.items() if not one.has_parts}
    assert without == {
        *("name", "count", "share", "loud", "nothing", "mode", "only", "colour", "power", "less", "sizes", "pair"),
        *("mixed", "layers", "either", "several", "nested", "turn", "day", "token", "key"),
    }


def test_only_the_given_fields_of_a_model_are_replaced_and_anything_else_whole() -> None:
    options = {"layer": {"width": 3, "below": {"width": 4}}, "weights": {"a": 1}, "optimizer": {"kind": "adam"}}
    changes = {"layer": {"below": {"below": None}}, "weights": {"b": 2}, "optimizer": {"kind": "sgd"}, "new": {"x": 1}}
    assert merge_options(Options, options, changes) == {
        "layer": {"width": 3, "below": {"width": 4, "below": None}},
        "weights": {"b": 2},
        "optimizer": {"kind": "sgd"},
        "new": {"x": 1},
    }
    assert merge_options(Options, {"maybe": None}, {"maybe": {"width": 2}}) == {"maybe": {"width": 2}}


def test_every_kind_and_every_bound_has_words() -> None:
    assert set(get_args(Kind)) == set(option_words._WORDS)
    assert set(get_args(Bound)) == set(option_words._BOUNDS)
    seen = {one.kind for one in TREE.children.values()}
    assert seen == set(get_args(Kind))


def test_no_other_module_reads_the_json_schema_of_a_stage() -> None:
    said = re.compile(r"""["'](?:\$ref|\$defs|anyOf|allOf|oneOf|prefixItems)["']|model_json_schema|\.json_schema\(""")
    reading = {
        path.relative_to(ROOT).as_posix()
        for package in ("crucible_adapters", "crucible_bench", "crucible_core", "crucible_dagster")
        for path in (ROOT / package).rglob("*.py")
        if said.search(path.read_text())
    }
    assert reading == {
        "crucible_core/cli/commands.py",  # `crucible schema`: of the experiment file
        "crucible_core/ir/gates.py",  # of the experiment file
        "crucible_core/ir/option_schema.py",
        "crucible_core/ir/schedule.py",  # of the experiment file
        "crucible_dagster/components/experiment/schema.py",  # of defs.yaml
    }


def test_an_option_is_a_value_that_nobody_changes() -> None:
    with pytest.raises(AttributeError):
        TREE.children["name"].kind = "integer"  # type: ignore[misc]
    with pytest.raises(TypeError):
        TREE.children["name"] = Option("name", "text")  # type: ignore[index]
