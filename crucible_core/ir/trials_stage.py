"""An experiment with `trials:` as one without: the stage `trials` stands for the stages that each trial runs.

A sweep is a table of trials, not a graph. So planning, the Launchpad, `--set`, reports and Dagster have a pipeline like
any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel

from crucible_core.errors import InvalidExperimentError, Location, UnknownStageError
from crucible_core.ir.experiment import Experiment, Place, Resolver, Source, StageDef
from crucible_core.ir.fields import Options
from crucible_core.ir.option_schema import file_name, merge_options, option_tree
from crucible_core.trials.table import Arm, TrialsError, arms_of, find_arm
from crucible_core.values.messages import closest, listing

__all__ = ["MODULE", "STAGE", "every_stage", "with_trials_stage"]

STAGE: Final = "trials"
MODULE: Final = "crucible_core.stages.trials:RunTrials"
"""The `module` of its entry, for comparisons that need not import the stage itself, which few experiments have."""
GATE: Final = "failed_trials"
MOST_RANKED: Final = 200
"""The most arms that are ranked: all pairs are compared, which takes a second or two for so many."""


def with_trials_stage(experiment: Experiment, resolver: Resolver) -> Experiment:
    """The experiment with the stage `trials` in place of the stages that each trial runs.

    The trial's stages are those from the first one that an arm or the seed of a replicate reaches up to the first one
    that gathers. `bench` stages after them that say nothing else compare the measure of the arms, paired by replicate.

    Raises UnknownStageError or InvalidExperimentError for trials that are not possible.
    """
    return _Lowering(experiment, resolver).lowered()


def every_stage(experiment: Experiment) -> Iterator[StageDef]:
    """The entries of the pipeline, and those of the stages of its trials."""
    for definition in experiment.pipeline:
        yield definition
        if definition.module == MODULE:
            inside: Any = (definition.options or {}).get("stages") or ()
            yield from map(StageDef.model_validate, inside)


class _Lowering:
    def __init__(self, experiment: Experiment, resolver: Resolver) -> None:
        assert experiment.trials is not None
        self.experiment = experiment
        self.trials = experiment.trials
        self.resolver = resolver
        self.names = [one.name for one in experiment.pipeline]
        self.models = [self._model(index) for index in range(len(self.names))]
        self.first, self.end = self._bounds()
        self.arms = self._arms()
        self.baseline = self._baseline()

    def lowered(self) -> Experiment:
        data = self.experiment.to_dict()
        del data["trials"]
        pipeline = data["pipeline"]
        inside, after = pipeline[self.first : self.end], pipeline[self.end :]
        options = {one["name"]: one["options"] for one in inside if one.get("options")}
        of_stage = {name: value for name, value in self.trials.to_dict().items() if name not in _OF_THE_PIPELINE}
        of_stage["stages"] = [
            {key: value for key, value in one.items() if key not in ("options", "cache")} for one in inside
        ]
        if options:
            of_stage["options"] = options
        if self.trials.until is not None:
            of_stage["baseline"] = self.baseline or (self.arms[0].name if len(self.arms) == 2 else None)
        if self.trials.search is not None:
            said = [
                one["options"]["higher_is_better"] for one in after if "higher_is_better" in (one.get("options") or {})
            ]
            of_stage["search"] = {"higher_is_better": said[0] if said else True, **of_stage["search"]}
        stage = {"name": STAGE, "module": MODULE, "options": of_stage}
        after = [self._gathering(self.end + place, one) for place, one in enumerate(after)]
        data["pipeline"] = [*pipeline[: self.first], stage, *after]
        data["gates"] = [*(data.get("gates") or ()), self._gate()]
        if self.experiment.variants:
            data["variants"] = {
                name: self._variant(changes, options) for name, changes in self.experiment.variants.items()
            }
        made: Experiment = type(self.experiment).model_validate(data)
        made._source = self._source()
        made._replaced = {self._moved(place): at for place, at in self.experiment._replaced.items()}
        return made.as_changed(self.experiment.options_changed)

    # --- which stages a trial has ---

    def _model(self, index: int) -> type[BaseModel]:
        definition = self.experiment.pipeline[index]
        try:
            return self.resolver.resolve(definition, folder=self.experiment.folder)
        except UnknownStageError as error:
            error.location = self.experiment.location("pipeline", index, "module" if definition.module else "name")
            raise

    def _bounds(self) -> tuple[int, int]:
        changed = {name: self.experiment.index_of(name, "trials", *place) for name, place in self._reached().items()}
        seeded = [index for index, one in enumerate(self.experiment.pipeline) if self._is_seeded(index, one)]
        if self.trials.from_ is not None:
            first = self._index(self.trials.from_, "from")
        else:
            reached = [*changed.values(), *seeded]
            if not reached:
                raise self._refuse(
                    "no arm, no grid and no seed reaches a stage, so each trial would be the same; name the first "
                    "stage of a trial by `from`"
                )
            first = min(reached)
        gathering = [index for index, model in enumerate(self.models) if _gathers(model)]
        if self.trials.to is not None:
            end = self._index(self.trials.to, "to") + 1
        else:
            end = next((index for index in gathering if index >= first), len(self.names))
        self._check_order(first, end, gathering)
        shown = listing(self.names[first:end])
        for name, index in changed.items():
            if not first <= index < end:
                raise self._refuse(
                    f"an arm changes an option of {name!r}, which is not one of the stages of a trial ({shown}); "
                    "`from` and `to` set them",
                    *self._reached()[name],
                )
        if STAGE in (*self.names[:first], *self.names[end:]):
            raise self._refuse(f"the pipeline has a stage {STAGE!r} already; give it another name")
        for index in range(first, end):
            if option_tree(self.models[index]).secret:
                raise self._refuse(
                    f"stage {self.names[index]!r} has a secret option, which a stage of trials cannot have: read it "
                    "from an environment variable, or in a stage before the trials"
                )
        return first, end

    def _check_order(self, first: int, end: int, gathering: Sequence[int]) -> None:
        if end <= first:
            raise self._refuse(
                f"a trial would have no stage: it begins with {self.names[first]!r}"
                + (f" and ends with {self.names[end - 1]!r}" if self.trials.to else ", which gathers results")
            )
        before = [self.names[index] for index in gathering if index < end]
        if before:
            raise self._refuse(
                f"stage {before[0]!r} gathers the results of trials, but it is before their end "
                f"({listing(self.names[first:end])}); move it after them"
            )

    def _reached(self) -> dict[str, Place]:
        """Stage -> the place of the first arm or grid that changes one of its options."""
        found: dict[str, Place] = {}
        for arm, stages in (self.trials.arms or {}).items():
            for stage in stages:
                found.setdefault(stage, ("arms", arm, stage))
        for key in self.trials.grid or {}:
            found.setdefault(key.partition(".")[0], ("grid", key))
        for key in self.trials.search.space if self.trials.search else ():
            found.setdefault(key.partition(".")[0], ("search", "space", key))
        return found

    def _is_seeded(self, index: int, definition: StageDef) -> bool:
        if not definition.enabled or "seed" in (definition.options or {}) or _gathers(self.models[index]):
            return False
        return "seed" in _option_names(self.models[index])

    def _index(self, name: str, key: str) -> int:
        if name not in self.names:
            raise self._refuse(
                f"{key}: there is no stage {name!r}{closest(name, self.names)}; stages: {listing(self.names)}", key
            )
        return self.names.index(name)

    def _arms(self) -> tuple[Arm, ...]:
        if self.trials.search is not None:
            for key in ("arms", "grid", "baseline", "until"):
                if getattr(self.trials, key) is not None:
                    raise self._refuse(f"`search` chooses the arms; leave out `{key}`", key)
        try:
            return arms_of(self.trials.arms, self.trials.grid)
        except TrialsError as error:
            raise self._refuse(str(error), *error.place) from None

    def _baseline(self) -> str | None:
        """The name of the arm that the others are compared with."""
        if self.trials.baseline is None:
            return None
        try:
            return find_arm(self.arms, self.trials.baseline).name
        except TrialsError as error:
            raise self._refuse(str(error), "baseline") from None

    # --- the other stages ---

    def _gathering(self, index: int, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """A stage after the trials: one that compares groups, and says nothing about its data, compares the arms."""
        options = dict(entry.get("options") or {})
        named = _option_names(self.models[index])
        if not named >= {"data", "group_by", "value", "pair_by"} or {"data", "group_by"} & options.keys():
            return entry
        measure = options.get("value", self.trials.measure)
        if measure is None:
            raise self._refuse(
                f"stage {entry['name']!r} compares the arms, and needs to know by what: name the `measure`, a metric "
                "of each trial"
            )
        defaults: dict[str, Any] = {"data": "outputs", "group_by": "arm", "value": measure, "missing": "drop"}
        many = len(self.arms) > 2 or self.trials.search is not None
        if self.trials.search is not None and self.trials.replicates == 1:
            raise self._refuse(
                f"stage {entry['name']!r} compares the arms, for which each needs `replicates: 2` or more", "search"
            )
        design = options.get("design", "paired" if options.get("paired", True) else "independent")
        if self.trials.until is not None and (design != "paired" or options.get("scale") == "log"):
            compared = f"with `design: {design}`" if design != "paired" else "by `scale: log`"
            raise self._refuse(
                f"until: stage {entry['name']!r} compares the arms {compared}, for which there is no interval that "
                "holds however often one looks; compare pairs on a linear scale, or set `replicates` alone",
                "until",
            )
        if (self.trials.replicates > 1 or self.trials.until is not None) and design in ("paired", "resampled"):
            defaults |= {"pair_by": "replicate", **({"paired": True} if design == "paired" else {})}
        if self.baseline is not None and "baseline" not in options:
            defaults["baseline"] = self.baseline
            if not {"study", "family"} & options.keys():
                defaults["compare"] = "baseline"
        elif many and not {"study", "family", "compare", "baseline", "tests"} & options.keys():
            defaults["study"] = "sweep"  # which arms may be the best
        if "study" not in {**defaults, **options} and self._can_be_ranked(design, options):
            defaults["leaderboard"] = True
        return {**entry, "options": {**defaults, **options}}

    def _can_be_ranked(self, design: str, options: Mapping[str, Any]) -> bool:
        """Whether a comparison of another kind can also rank the arms by their means, in little time."""
        ranked = design in ("clustered", "independent", "paired", "resampled") and "preferences" not in options
        return ranked and 2 < len(self.arms) <= MOST_RANKED

    def _gate(self) -> dict[str, Any]:
        limit = self.trials.max_failures
        metric = f"{STAGE}.failed_share" if isinstance(limit, float) else f"{STAGE}.failed"
        return {"name": GATE, "metric": metric, "at_most": limit, "blocking": True}

    def _variant(self, changes: Mapping[str, Options], options: Mapping[str, Any]) -> dict[str, Any]:
        """The changes of a variant: those of the trial's stages are the stage's option `options`, as a whole."""
        inside = {name: one for name, one in changes.items() if name in self.names[self.first : self.end]}
        outside = {name: one for name, one in changes.items() if name not in inside}
        merged = dict(options)
        for name, one in inside.items():
            merged[name] = merge_options(self.models[self.names.index(name)], options.get(name) or {}, one)
        return {**outside, **({STAGE: {"options": merged}} if inside else {})}

    # --- where each value is in the file ---

    def _moved(self, place: Place) -> Place:
        if place[:1] == (STAGE,):
            return ("pipeline", self.first, "options", *place[1:])
        if place[:1] != ("pipeline",) or len(place) < 2 or not isinstance(place[1], int) or place[1] < self.first:
            return place
        index, rest = place[1], place[2:]
        if index >= self.end:
            return ("pipeline", index - (self.end - self.first) + 1, *rest)
        if rest[:1] == ("options",):
            return ("pipeline", self.first, "options", "options", self.names[index], *rest[1:])
        return ("pipeline", self.first, "options", "stages", index - self.first, *rest)

    def _source(self) -> Source | None:
        source = self.experiment.source
        if source is None:
            return None

        def find() -> dict[Place, tuple[int, int]]:
            positions = source.find()
            own = positions.get((STAGE,))
            found = {self._moved(place): at for place, at in positions.items()}
            return found if own is None else {**found, ("pipeline", self.first): own}

        return type(source)(source.path, source.shown, find)

    def _refuse(self, reason: str, *place: str | int) -> InvalidExperimentError:
        location: Location | None = self.experiment.location("trials", *place)
        return InvalidExperimentError(f"trials: {reason}", location=location)


_OF_THE_PIPELINE = frozenset({"baseline", "from", "max_failures", "to"})


def _option_names(model: type[BaseModel]) -> set[str]:
    return {file_name(name, field) for name, field in model.model_fields.items()}


def _gathers(model: type[BaseModel]) -> bool:
    return bool(getattr(model, "gathers", False))
