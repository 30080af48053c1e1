"""When an experiment is run again automatically."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

from crucible_core.ir.fields import Name, Node
from crucible_core.ir.vocabulary import AutomationWhen, MissedTicks, OnUpdate, ScheduleStatus
from crucible_core.values.messages import closest_ignoring_case

__all__ = ["Automation", "Schedule", "Trigger", "number_out_of_range"]

_CRON_WORDS = {"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"}
_CRON_FIELDS = re.compile(r"(\S+ ){4}\S+")
_CRON_RANGES = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
# Numbers of a list or a range, not the steps after a slash. The rest is left to what runs the schedule.
_NUMBERS = re.compile(r"(?<![\w/#])[0-9]{1,9}(?![\w#])")


def _checked_cron(value: str) -> str:
    if _CRON_FIELDS.fullmatch(value) or value in _CRON_WORDS:
        return value
    raise PydanticCustomError(
        "cron",
        "{value} is not a cron schedule: write five fields such as '0 2 * * *', or @daily",
        {"value": repr(value)},
    )


def number_out_of_range(cron: str) -> str | None:
    """Which field of a cron schedule has a number that it does not take, as a sentence; None if none has."""
    if cron in _CRON_WORDS:
        return None
    for text, (name, lowest, highest) in zip(cron.split(" "), _CRON_RANGES, strict=True):
        for number in _NUMBERS.findall(text):
            if not lowest <= int(number) <= highest:
                return f"{cron!r} is not a cron schedule: its {name} is {number}, and goes from {lowest} to {highest}"
    return None


def _checked_zone(value: str) -> str:
    from zoneinfo import ZoneInfo, available_timezones  # noqa: PLC0415  # most experiments have no schedule

    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise PydanticCustomError(
            "timezone",
            "{value} is not an IANA time zone, such as Europe/Berlin{closest}",
            {"value": repr(value), "closest": closest_ignoring_case(value, available_timezones())},
        ) from None
    return value


Cron = Annotated[str, AfterValidator(_checked_cron)]
Zone = Annotated[str, AfterValidator(_checked_zone)]


class Schedule(Node):
    """When the experiment is run again."""

    cron: Cron
    """Five fields (minute, hour, day of month, month, day of week), or @hourly, @daily, @weekly, @monthly, @yearly."""
    timezone: Zone = "UTC"
    """An IANA time zone, for example Europe/Berlin."""
    default_status: ScheduleStatus = "stopped"
    """Whether the schedule is on when it is first deployed; the switch in the UI overrides it."""
    missed: MissedTicks = "latest"
    """Ticks that passed while no daemon was running: run the `latest` or `all`, or `skip` those that are too late."""
    max_catch_up: int | None = Field(default=None, ge=1, le=100, strict=True)
    """With `missed: all`: how many ticks to look back for missed ones (default: 10)."""
    max_late: float | None = Field(default=None, ge=0, le=31 * 86_400, strict=True)
    """With `missed: skip`: how many seconds late a tick may be and still run (default: 300)."""
    variant: Name | None = None
    """The variant of the experiment to run (default: the pipeline as written)."""

    @model_validator(mode="after")
    def _no_bound_that_bounds_nothing(self) -> Self:
        for name, policy in (("max_catch_up", "all"), ("max_late", "skip")):
            if getattr(self, name) is not None and self.missed != policy:
                raise ValueError(f"{name} needs `missed: {policy}`, but it is {self.missed}")
        return self


class Trigger(Node):
    """Runs the experiment again when an asset that it depends on (`deps`) is updated."""

    on_update: OnUpdate
    """`any`: when one of the assets is updated; `all`: when each was updated since the last run that this started."""
    default_status: ScheduleStatus = "stopped"
    """Whether the trigger is on when it is first deployed; the switch in the UI overrides it."""
    variant: Name | None = None
    """The variant of the experiment to run (default: the pipeline as written)."""


class Automation(Node):
    """Dagster's Declarative Automation: when the experiment's asset materializes itself.

    `automation: eager` is short for `automation: {when: eager}`.
    """

    when: AutomationWhen
    """`eager`: when an asset of `deps` is updated, or there is no result yet; `on_cron`: once per tick, after each
    asset of `deps` was updated since the tick; `on_missing`: when there is no result yet."""
    cron: Cron | None = None
    """With `when: on_cron`: five fields, as in `schedule`."""
    timezone: Zone = "UTC"
    """An IANA time zone, for example Europe/Berlin."""
    default_status: ScheduleStatus = "stopped"
    """Whether the automation is on when it is first deployed; the switch in the UI overrides it."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": ["eager", "on_missing"]}, handler(core)]}

    @model_validator(mode="before")
    @classmethod
    def _of_one_word(cls, given: object) -> object:
        return {"when": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _times_if_they_matter(self) -> Self:
        if (self.cron is not None) != (self.when == "on_cron"):
            needs = "on_cron needs `cron`, such as" if self.when == "on_cron" else "cron needs `when: on_cron`, as in"
            raise ValueError(f"{needs} {{when: on_cron, cron: '0 2 * * *'}}")
        return self
