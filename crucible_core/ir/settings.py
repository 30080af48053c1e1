"""What an experiment says outside its pipeline, such as `reliability.hedging`, as a model of the stage that uses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from crucible_core.errors import InvalidExperimentError
from crucible_core.ir.experiment import Experiment
from crucible_core.values.jsonable import type_name
from crucible_core.values.messages import describe_mistake, error_text, without_echoes

__all__ = ["Settings", "mistakes_in_settings"]

M = TypeVar("M", bound=BaseModel)


class Settings(NamedTuple, Generic[M]):
    """Where an experiment has the settings of a stage, and the model that they are of.

    A stage declares them as a class variable named `settings`: `settings: ClassVar = Settings("reliability.hedging",
    HedgingSettings)`. They are checked when the experiment is planned; `self.settings.of(ctx.experiment)` gives them.
    """

    place: str
    """`reliability.hedging`, `training_config`, `metadata.team`: a key of the file, and keys below it."""
    model: type[M]

    def of(self, experiment: Experiment) -> M:
        """The settings of this experiment; the model's defaults if it has none there.

        Raises pydantic.ValidationError for settings that the model refuses.
        """
        found: Any = experiment
        for key in self.place.split("."):
            found = found.get(key) if isinstance(found, Mapping) else getattr(found, key, None)
        # As JSON, by the strict rules of options.
        read: M = self.model.__pydantic_validator__.validate_json(to_json({} if found is None else found), strict=True)
        return read


def mistakes_in_settings(experiment: Experiment, name: str, declared: object) -> Iterator[InvalidExperimentError]:
    """What is wrong with the settings that the stage of this name declares, where the file has it.

    A class variable `settings` of another type is the stage's own, and is not checked.
    """
    if not isinstance(declared, Settings):
        return
    place = declared.place.split(".")
    try:
        if place[0] not in type(experiment).model_fields:
            raise InvalidExperimentError(
                f"stage {name!r} has its settings at {declared.place!r}, and an experiment has no key {place[0]!r}"
            )
        declared.of(experiment)
    except ValidationError as error:
        for mistake in without_echoes(error.errors(include_url=False, include_context=True)):
            said = describe_mistake(mistake, declared.model)
            location = experiment.location(*place, *mistake["loc"])
            yield InvalidExperimentError(f"{declared.place} (of stage {name!r}): {said}", location=location)
    except InvalidExperimentError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a validator of the model raises
        said = f"{declared.place} (of stage {name!r}) cannot be checked: {type_name(error)}: {error_text(error)}"
        yield InvalidExperimentError(said, location=experiment.location(*place))
