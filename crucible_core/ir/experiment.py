"""The experiment IR: what an experiment file says, as frozen data with closed vocabularies.

It reads the experiments that the Elixir `crucible_ir` 0.2 and 0.3 write, and writes them back without loss: `null`
stays `null`, a key that was left out stays out, and what this package does not use is kept unchanged.
"""

from __future__ import annotations

import builtins
import copy
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Protocol, Self, cast

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from crucible_bench.vocabulary import (
    CORRECTION_ALIASES,
    CorrectionName,
    CorrectionSpelling,
    EffectSizeName,
    TestSpelling,
)
from crucible_core.errors import InvalidExperimentError, InvalidOptionsError, Location, UnknownStageError
from crucible_core.ir.fields import Data, Name, Node, Options, Text
from crucible_core.ir.gates import Gate
from crucible_core.ir.lock import Lock
from crucible_core.ir.option_schema import merge_options
from crucible_core.ir.schedule import Automation, Schedule, Trigger
from crucible_core.ir.trials import Trials
from crucible_core.ir.vocabulary import Backoff, ExecutorName, Jitter, ReportFormat, Sink
from crucible_core.values.arguments import check_mapping
from crucible_core.values.messages import closest, describe_mistake, listing

__all__ = [
    "Automation",
    "Execution",
    "Experiment",
    "OutputSpec",
    "Reliability",
    "ResourceDef",
    "RetryPolicy",
    "Schedule",
    "Source",
    "StageDef",
    "Stats",
    "Trigger",
    "kinds_of",
]


class RetryPolicy(Node):
    """How often, when and after which errors a stage that raised is run again.

    The first four fields are those of Dagster's RetryPolicy.
    """

    max_retries: int = Field(default=1, ge=0, le=1000, strict=True)
    """Attempts after the first one."""
    delay: float | None = Field(default=None, ge=0, le=86_400, strict=True)
    """Seconds before the next attempt."""
    backoff: Backoff | None = None
    """`linear`: delay x attempt; `exponential`: delay x (2^attempt - 1); otherwise always the delay."""
    jitter: Jitter | None = None
    """`full`: a random part of the delay; `plus_minus`: up to one `delay` more or less."""
    max_delay: float | None = Field(default=None, ge=0, le=86_400, strict=True)
    """Seconds that no delay exceeds, whatever `backoff` and `jitter` make of it."""
    on: tuple[Text, ...] | None = Field(default=None, min_length=1)
    """The exceptions, with their subclasses, after which there is another attempt (default: all): `TimeoutError`, or
    `package.module.Class`, which may be a name that a loaded module gives the class. Nothing is imported for this."""

    @field_validator("on")
    @classmethod
    def _names_of_exceptions(cls, on: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in on or ():
            if "." in name:
                reason = "" if all(map(str.isidentifier, name.split("."))) else "is not written as package.module.Class"
            else:
                kinds = [one for one in vars(builtins).values() if isinstance(one, type) and issubclass(one, Exception)]
                known = [kind.__name__ for kind in kinds]
                said = f"is not a built-in exception{closest(name, known)}; write any other as package.module.Class"
                reason = "" if name in known else said
            if reason:
                raise PydanticCustomError("exception", "{name} {reason}", {"name": repr(name), "reason": reason})
        return on

    @model_validator(mode="after")
    def _delay_to_vary(self) -> Self:
        if self.delay is None and (self.backoff or self.jitter or self.max_delay is not None):
            raise ValueError("backoff, jitter and max_delay change the delay, and there is no delay")
        return self

    def covers(self, error: BaseException) -> bool:
        """Whether there is another attempt after this error, if any is left."""
        from crucible_core.run_state.spending import is_final  # noqa: PLC0415  # few attempts fail

        if is_final(error):
            return False
        if self.on is None or not isinstance(error, Exception):
            return isinstance(error, Exception)
        kinds = getattr(error, "kinds", None) or kinds_of(error)  # of an error that came from another process as a name
        return any(name in kinds or _loaded(name) in type(error).__mro__ for name in self.on)

    def delay_after(self, attempt: int, *, draw: Callable[[], float] = random.random) -> float:
        """Seconds to wait after failed attempt number `attempt` (1 is the first); `draw` gives uniform [0, 1)."""
        base = self.delay or 0.0
        factors: dict[Backoff | None, int] = {None: 1, "linear": attempt, "exponential": 2**attempt - 1}
        most = math.inf if self.max_delay is None else self.max_delay
        delay = min(base * factors[self.backoff], most)
        if self.jitter == "full":
            return draw() * delay
        if self.jitter == "plus_minus":
            return min(max(0.0, delay + (2 * draw() - 1) * base), most)
        return delay


def kinds_of(error: BaseException) -> tuple[str, ...]:
    """The names of an exception's class and of those that it inherits from: `package.module.Class`, or `OSError`."""
    return tuple(
        kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        for kind in type(error).__mro__
    )


def _loaded(name: str) -> object:
    """What a loaded module has under that name: many packages offer a class that a module below them defines."""
    module, _, attribute = name.rpartition(".")
    return vars(sys.modules[module]).get(attribute) if module in sys.modules else None


class StageDef(Node):
    """One entry of the pipeline."""

    name: Name
    """Names the stage in this pipeline; also the registered stage to run, unless `module` names another one."""
    module: Text | None = None
    """A registered stage by its name, or `package.module:Attribute`."""
    options: Options | None = None
    """The stage's options."""
    enabled: bool = Field(default=True, strict=True)
    """`false` skips the stage; its record in the trace says so."""
    timeout: float | None = Field(default=None, gt=0, le=31_536_000, strict=True)
    """Seconds after which an attempt at the stage is ended. Such a stage runs in a process of its own."""
    retry: RetryPolicy | None = None
    always: bool = Field(default=False, strict=True)
    """`true`: the stage runs even if one before it has failed, as for a report or a cleanup."""
    cache: bool = Field(default=False, strict=True)
    """`true`: on Dagster, an earlier result of the same code, options and inputs is reused."""

    @field_validator("cache")
    @classmethod
    def _of_what_it_looks_at(cls, cache: bool, info: ValidationInfo) -> bool:
        if cache and info.data.get("timeout") is not None:
            raise PydanticCustomError(
                "cache",
                "a stage has `cache: true` or a `timeout`, not both: what a stage in a process of its own looks at is "
                "not known, so its result cannot be used again",
            )
        return cache


class ResourceDef(Node):
    """Something that stages find in `ctx.resources` and no run keeps, such as a client: made when first asked for."""

    module: Text | None = None
    """Its factory: `package.module:Attribute`, or the name of one in the registry (default: the resource's name)."""
    options: Options | None = None
    """The arguments of the factory, which is a function, a class or a pydantic model."""


class OutputSpec(Node):
    """A report to write."""

    name: Name
    """The name of the report, and of its files."""
    formats: tuple[ReportFormat, ...] = ("markdown",)
    sink: Sink = "file"
    """`file`: under the output root; `stdout`: printed; `s3`: into a bucket; `postgres`: carried, not written."""
    options: Options | None = None
    """`path`: where under the output root to write, without the suffix; `title`: the heading; with the sink `s3` also
    `bucket`, `prefix` and `region`."""

    @property
    def path(self) -> str | None:
        value = (self.options or {}).get("path")
        return value if value is None else str(value)

    @property
    def title(self) -> str | None:
        value = (self.options or {}).get("title")
        return value if value is None else str(value)


_ITERATIONS = "bootstrap_iterations"


class Stats(Node):
    """Defaults for the comparisons of every `bench` stage."""

    tests: tuple[TestSpelling, ...] | None = None
    alpha: float | None = Field(default=None, gt=0, lt=1, strict=True)
    """Significance level."""
    confidence_level: float | None = Field(default=None, gt=0, lt=1, strict=True)
    """Confidence level of the intervals (default: 1 - alpha)."""
    effect_size_type: EffectSizeName | None = None
    """The effect size to report; a test that does not define it reports its own."""
    multiple_testing_correction: CorrectionSpelling | None = None
    bootstrap_iterations: int | None = Field(default=None, ge=1, strict=True)
    options: Options | None = None
    """`bootstrap_iterations`, which the original reads from here too; the rest is kept, and not used."""

    @field_validator("options")
    @classmethod
    def _whole_number_of_iterations(cls, options: Options | None) -> Options | None:
        iterations = (options or {}).get(_ITERATIONS)
        if iterations is not None and (type(iterations) is not int or iterations < 1):
            raise PydanticCustomError(
                "iterations",
                "bootstrap_iterations is a whole number of at least 1, not {given}",
                {"given": repr(iterations), "place": ("reliability", "stats", "options", _ITERATIONS)},
            )
        return options

    @property
    def correction(self) -> CorrectionName | None:
        """`multiple_testing_correction` under its standard name."""
        asked = self.multiple_testing_correction
        return CORRECTION_ALIASES.get(asked or "", cast("CorrectionName | None", asked))

    @property
    def resamples(self) -> int | None:
        """`bootstrap_iterations`, or else what `options` have under that name."""
        return self.bootstrap_iterations or cast("int | None", (self.options or {}).get(_ITERATIONS))


class Reliability(Node):
    """`stats` is used by the built-in stages; the rest is kept for other stages."""

    stats: Stats | None = None
    ensemble: Data = None
    hedging: Data = None
    guardrails: Data = None
    fairness: Data = None
    monitoring: Data = None
    drift: Data = None
    circuit_breaker: Data = None
    feedback: Data = None


class Execution(Node):
    """How Dagster runs the experiment; `run_experiment` runs it in this process."""

    executor: ExecutorName = "in_process"
    max_concurrent: int | None = Field(default=None, ge=1, strict=True)
    """How many steps run at once with `multiprocess` (default: the number of cores) and `k8s` (default: any number)."""
    queue: Name | None = None
    """The queue of Celery's workers (default: `dagster`)."""

    @model_validator(mode="after")
    def _of_the_executor(self) -> Self:
        if self.queue is not None and self.executor != "celery":
            raise ValueError(f"`queue` is for the executor celery, not for {self.executor}")
        if self.max_concurrent is not None and self.executor == "celery":
            raise ValueError("`max_concurrent` is not for the executor celery: it runs as many steps as it has workers")
        return self


Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The file that an experiment was read from, and the position of each value in it."""

    path: str
    """Absolute, so that files beside it are found from any working directory."""
    shown: str
    """The path as given, for error messages."""
    find: Callable[[], Mapping[tuple[str | int, ...], tuple[int, int]]] = field(default=dict, repr=False)

    def __reduce__(self) -> tuple[type[Source], tuple[str, str]]:
        return Source, (self.path, self.shown)  # positions are looked up only in the process that read the file

    def location(self, *place: str | int) -> Location:
        """The position of the value at `place`, for example ("pipeline", 2, "options"), or of the value around it."""
        positions = self.find()
        for length in range(len(place), -1, -1):
            if place[:length] in positions:
                return Location(self.shown, *positions[place[:length]])
        return Location(self.shown)

    def below(self, *place: str | int) -> Source:
        """The same file, with places relative to `place`: an experiment may be a part of a larger file."""
        size = len(place)
        return Source(
            self.path,
            self.shown,
            lambda: {found[size:]: position for found, position in self.find().items() if found[:size] == place},
        )


class Resolver(Protocol):
    """Finds the class behind an entry of a pipeline, as a Registry does."""

    def resolve(self, definition: StageDef, *, folder: Path | None = None) -> type[BaseModel]:
        """The stage's class; modules are also looked for in `folder`. Raises UnknownStageError."""


class Experiment(Node):
    """An experiment: a pipeline of stages, what to report, and when to run it again."""

    id: Name
    """The name of the experiment: letters, digits, '_', '-', '.'."""
    description: Text | None = None
    owner: Text | None = None
    """A person's e-mail address, or `team:name`."""
    tags: tuple[Text, ...] | None = None
    metadata: Options | None = None
    pipeline: tuple[StageDef, ...] = Field(json_schema_extra={"minItems": 1})
    """The stages, in the order in which they run."""
    seed: int | None = Field(default=None, strict=True, ge=0, lt=2**63)
    """The seed of every stage that has an option `seed` without a value."""
    variants: dict[Name, dict[Name, Options]] | None = None
    """Variant -> stage -> options that replace those of the pipeline when the variant is run."""
    variant: Name | None = None
    """The variant whose options the pipeline already has; a run records it."""
    resources: dict[Name, ResourceDef] | None = None
    """What stages need and no run can keep, such as clients, by name; in `ctx.resources`."""
    outputs: tuple[OutputSpec, ...] | None = None
    """The reports that the `report` stage writes."""
    reliability: Reliability | None = None
    trials: Trials | None = None
    """Arms and replicates: a part of the pipeline is run once for each."""
    budget: dict[Name, Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]] | None = None
    """What a run may spend, by name, such as `{usd: 5.0, tokens: 1e6}`; stages count it with `ctx.spend`."""
    lock: Lock | None = None
    """What was declared before the data were seen: NAME.lock.yaml beside the file, which a run records."""
    schedule: Schedule | None = None
    execution: Execution | None = None
    gates: tuple[Gate, ...] | None = None
    """The rules that decide whether a run is good enough."""
    deps: tuple[Text, ...] | None = None
    """Keys of the assets that the experiment depends on, such as `dbt/orders`."""
    trigger: Trigger | None = None
    automation: Automation | None = None

    # Kept for the stages that use them.
    backend: Data = None
    dataset: Data = None
    experiment_type: Data = None
    model_version: Data = None
    training_config: Data = None
    baseline: Data = None
    created_at: Data = None
    updated_at: Data = None

    _source: Source | None = PrivateAttr(default=None)
    # What was replaced after reading, and where the new value is from, if known: a place in the file, or elsewhere.
    _replaced: Mapping[Place, Place | Location | None] = PrivateAttr(default={})
    _options_changed: bool = PrivateAttr(default=False)

    @field_validator("pipeline")
    @classmethod
    def _some_stages_under_their_own_names(cls, pipeline: tuple[StageDef, ...]) -> tuple[StageDef, ...]:
        if not pipeline:
            raise PydanticCustomError("empty_pipeline", "the pipeline is empty: it needs at least one stage")
        _check_distinct(
            "pipeline", pipeline, "give one of them another name, and say with `module:` which stage it runs"
        )
        return pipeline

    @field_validator("outputs")
    @classmethod
    def _reports_under_their_own_names(cls, outputs: tuple[OutputSpec, ...] | None) -> tuple[OutputSpec, ...] | None:
        _check_distinct("outputs", outputs or (), "each report needs a name of its own")
        return outputs

    @field_validator("gates")
    @classmethod
    def _gates_under_their_own_names(cls, gates: tuple[Gate, ...] | None) -> tuple[Gate, ...] | None:
        _check_distinct("gates", gates or (), "each gate needs a name of its own")
        return gates

    @field_validator("budget")
    @classmethod
    def _names_of_what_is_spent(cls, budget: dict[str, float] | None) -> dict[str, float] | None:
        if "by_stage" in (budget or {}):
            said = "`by_stage` cannot be a name: what each stage spent is kept under it"
            raise PydanticCustomError("budget", "{said}", {"said": said, "place": ("budget", "by_stage")})
        return budget

    @field_validator("deps")
    @classmethod
    def _keys_of_assets(cls, deps: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for index, dep in enumerate(deps or ()):
            reason = ""
            if not all(part and part == part.strip() for part in dep.split("/")):
                reason = "is not an asset key: separate its parts by slashes, as in dbt/orders, without blanks"
            elif dep in (deps or ())[:index]:
                reason = "is named twice"
            if reason:
                place = ("deps", index)
                raise PydanticCustomError("dep", "{dep} {reason}", {"dep": repr(dep), "reason": reason, "place": place})
        return deps

    @model_validator(mode="after")
    def _variant_of_its_own(self) -> Self:
        if self.variant is not None and self.variants is not None and self.variant not in self.variants:
            raise PydanticCustomError(
                "variant",
                "no variant {name} in `variants`{closest}; known: {known}",
                {
                    "name": repr(self.variant),
                    "closest": closest(self.variant, self.variants),
                    "known": listing(self.variants),
                    "place": ("variant",),
                },
            )
        return self

    @field_validator("trigger")
    @classmethod
    def _something_to_be_triggered_by(cls, trigger: Trigger | None, info: ValidationInfo) -> Trigger | None:
        if trigger is not None and not info.data.get("deps", ("refused",)):
            raise PydanticCustomError("trigger", "a trigger needs `deps`: the assets whose updates it waits for")
        return trigger

    @field_validator("schedule", "trigger")
    @classmethod
    def _a_variant_that_there_is(cls, value: Schedule | Trigger | None, info: ValidationInfo) -> Any:
        variants = info.data.get("variants") or {}
        if (
            value is not None
            and value.variant is not None
            and "variants" in info.data
            and value.variant not in variants
        ):
            raise _no_variant(value.variant, variants, (str(info.field_name), "variant"))
        return value

    @field_validator("gates")
    @classmethod
    def _baselines_that_there_are(cls, gates: tuple[Gate, ...] | None, info: ValidationInfo) -> Any:
        # An experiment without variants may be compared with earlier runs, when it still had some.
        variants = info.data.get("variants") or {}
        for index, gate in enumerate(gates or ()):
            asked = gate.no_regression and gate.no_regression.baseline.variant
            if asked and variants and asked not in variants:
                place = ("gates", index, "no_regression", "baseline", "variant")
                raise _no_variant(asked, variants, place)
        return gates

    @property
    def stats(self) -> Stats:
        return (self.reliability and self.reliability.stats) or Stats()

    @property
    def source(self) -> Source | None:
        """The file it was read from, or None if it was made in code."""
        return self._source

    def read_from(self, source: Source) -> Self:
        self._source = source
        return self

    @property
    def folder(self) -> Path | None:
        """The folder of the file it was read from, where stage modules are looked for too."""
        # Asked twice for every run: by name, reading a private attribute takes as long as a stage.
        source = (self.__pydantic_private__ or {}).get("_source")
        return Path(source.path).parent if source else None

    def path(self, *parts: str | PathLike[str]) -> Path:
        """`ctx.experiment.path("data.csv")`: a path relative to the experiment's file, from whichever folder it is run.

        An absolute path stays as it is. Without a file, paths are relative to the working directory.
        """
        return (self.folder or Path.cwd()).joinpath(*parts)

    def location(self, *place: str | int) -> Location | None:
        """The position of the value at `place` in its file; None if it is not from a file, or was replaced since."""
        for length in (1, 4):
            if place[:length] in self._replaced:
                moved = self._replaced[place[:length]]
                if isinstance(moved, Location):
                    return moved
                return self._source.location(*moved, *place[length:]) if self._source and moved else None
        return self._source.location(*place) if self._source else None

    @property
    def options_changed(self) -> bool:
        """Whether `with_options` has replaced options of the file and the variant, as `--set` does."""
        return self._options_changed

    def as_changed(self, changed: bool) -> Self:
        """Restore `options_changed`, which JSON does not keep."""
        self._options_changed = changed
        return self

    def with_own_data(self) -> Experiment:
        """The same experiment, holding copies of the data that it carries for stages."""
        carried = {name: copy.deepcopy(value) for name in _CARRIED if (value := getattr(self, name)) is not None}
        return self.model_copy(update=carried) if carried else self

    def with_variant(self, name: str, resolver: Resolver) -> Experiment:
        """The same experiment with the options of the variant `name`, which becomes its `variant`.

        `resolver`, a Registry, finds the stages. Their schemas show which options are mappings: a variant may replace a
        part of one. Raises InvalidExperimentError if there is no such variant, UnknownStageError if it names a stage
        that the pipeline does not have, or one that does not exist.
        """
        variants = self.variants or {}
        if name not in variants:
            raise InvalidExperimentError(
                f"experiment {self.id!r} has no variant {name!r}{closest(name, variants)}; its variants: "
                f"{listing(variants)}"
            )
        if self.variant is not None:
            if self.variant != name:
                raise InvalidExperimentError(
                    f"this is variant {self.variant!r} of experiment {self.id!r} already; make variant {name!r} from "
                    "the experiment file"
                )
            return self
        changed = self.model_copy(update={"variant": name})
        changed.__pydantic_fields_set__.add("variant")
        for stage, options in variants[name].items():
            index = self.index_of(stage, "variants", name, stage)
            definition = self.pipeline[index]
            found = resolver.resolve(definition, folder=self.folder)
            merged = merge_options(found, definition.options or {}, options)
            changed = changed.with_options(stage, {option: merged[option] for option in options})
        moved: dict[Place, Place | Location | None] = {
            ("pipeline", self.index_of(stage), "options", option): ("variants", name, stage, option)
            for stage, options in variants[name].items()
            for option in options
        }
        changed._replaced = {**self._replaced, **moved}
        changed._options_changed = self._options_changed
        return changed

    def with_seed(self, seed: int) -> Experiment:
        """The same experiment with another `seed`. Raises InvalidExperimentError if it is not a valid seed."""
        try:
            changed = Experiment.model_validate({**self.to_dict(), "seed": seed})
        except ValidationError as error:
            said = "; ".join(describe_mistake(mistake, Experiment) for mistake in error.errors(include_url=False))
            raise InvalidExperimentError(said) from None
        changed._source = self._source
        changed._replaced = {**self._replaced, ("seed",): None}
        changed._options_changed = self._options_changed
        return changed

    def index_of(self, stage: str, *place: str | int) -> int:
        """The position in the pipeline, from 0, of the stage of that name; `place` is where it was asked for.

        Raises UnknownStageError if there is no such stage.
        """
        names = [definition.name for definition in self.pipeline]
        if stage not in names:
            match place:
                case ("variants", variant, *_):
                    asked = f"variant {variant!r}: "
                case ("trials", *_):
                    asked = "trials: "
                case _:
                    asked = ""
            raise UnknownStageError(
                f"{asked}experiment {self.id!r} has no stage {stage!r}{closest(stage, names)}; its stages: "
                f"{', '.join(names)}",
                stage=stage,
                known=names,
                location=self.location(*place) if place else None,
            )
        return names.index(stage)

    def with_options(self, stage: str, options: Mapping[str, Any], *, asked: Location | None = None) -> Experiment:
        """The same experiment with some options of one stage replaced; `asked` is where mistakes in them are shown.

        Raises UnknownStageError if the pipeline has no stage of that name, InvalidOptionsError if a value is not plain
        data.
        """
        check_mapping("with_options", options)
        index = self.index_of(stage)
        data = self.to_dict()
        entry = data["pipeline"][index]
        entry["options"] = {**(entry.get("options") or {}), **options}
        try:
            changed = Experiment.model_validate(data)
        except ValidationError as error:
            said = "; ".join(describe_mistake(mistake, Experiment) for mistake in error.errors(include_url=False))
            raise InvalidOptionsError(f"stage {stage!r}: {said}", stage=stage) from None
        changed._source = self._source
        changed._replaced = {**self._replaced, **{("pipeline", index, "options", name): asked for name in options}}
        changed._options_changed = self._options_changed or changed.pipeline != self.pipeline
        return changed


_CARRIED = (
    *("metadata", "reliability", "backend", "dataset", "experiment_type", "model_version"),
    *("training_config", "baseline"),
)


def _no_variant(asked: str, variants: Mapping[str, Any], place: Place) -> PydanticCustomError:
    return PydanticCustomError(
        "variant",
        "there is no variant {variant}{closest}; {known}",
        {
            "variant": repr(asked),
            "closest": closest(asked, variants),
            "known": f"variants: {listing(variants)}" if variants else "the experiment has none",
            "place": place,
        },
    )


def _check_distinct(what: str, items: Sequence[StageDef | OutputSpec | Gate], remedy: str) -> None:
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        if item.name in seen:
            raise PydanticCustomError(
                "duplicate_name",
                "two entries are named {name} (positions {first} and {second}): {remedy}",
                {
                    "name": repr(item.name),
                    "first": seen[item.name] + 1,
                    "second": index + 1,
                    "remedy": remedy,
                    "place": (what, index, "name"),
                },
            )
        seen[item.name] = index
