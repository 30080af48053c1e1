"""What happened in a run, as tagged events: each stage's start and its one ending, retries, and decisions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter

from crucible_core.values.immutable import PersistentList

if TYPE_CHECKING:
    pass

__all__ = [
    "Decision",
    "Event",
    "Observer",
    "StageFailed",
    "StageRetried",
    "StageSkipped",
    "StageStarted",
    "StageSucceeded",
    "Trace",
]


def _now() -> datetime:
    return datetime.now(UTC)


# The slots of a pydantic model themselves: models refuse plain assignment, and each detour costs as much as the slot.
_set_values, _set_fields_set, _set_extra, _set_private = (
    vars(BaseModel)[slot].__set__
    for slot in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)
_NONE_SET: set[str] = set()


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    _template: ClassVar[dict[str, object]]

    stage: str
    """Name of the stage in the pipeline."""
    at: AwareDatetime = Field(default_factory=_now)
    """When it happened, UTC."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        cls._template = {name: field.default for name, field in cls.model_fields.items()}

    @classmethod
    def of(cls, stage: str, **values: object) -> Self:
        """An event of values that the runner made itself: not validated, at seven tenths of the cost.

        Two of these are made for every stage that runs: it is about a tenth of the overhead of a run.
        """
        event = object.__new__(cls)
        fields = cls._template | values
        fields["stage"] = stage
        fields["at"] = _now()
        _set_values(event, fields)
        _set_fields_set(event, _NONE_SET)
        _set_extra(event, None)
        _set_private(event, None)
        return event


class StageStarted(_Event):
    """A stage began."""

    kind: Literal["stage_started"] = "stage_started"


class StageSucceeded(_Event):
    """A stage returned its Context."""

    kind: Literal["stage_succeeded"] = "stage_succeeded"
    seconds: float
    """Wall time from the start, retries and their delays included."""
    attempts: int = 1
    reused_from: str | None = None
    """The run whose result was taken instead of running the stage again."""


class _Raised(_Event):
    error_type: str
    message: str

    @property
    def reason(self) -> str:
        """`ValueError: too small`, or the type alone where there is no message."""
        return f"{self.error_type}: {self.message}" if self.message else self.error_type


class StageFailed(_Raised):
    """A stage raised, in its last attempt, or was interrupted."""

    kind: Literal["stage_failed"] = "stage_failed"
    seconds: float
    """Wall time from the start, retries and their delays included."""
    attempts: int = 1
    traceback: str
    """The traceback within the stage's own code, as text."""


class StageSkipped(_Event):
    """A stage did not run."""

    kind: Literal["stage_skipped"] = "stage_skipped"
    reason: str


class StageRetried(_Raised):
    """An attempt raised and another follows."""

    kind: Literal["stage_retried"] = "stage_retried"
    attempt: int
    """The attempt that failed, counted from 1."""
    delay: float
    """Seconds until the next attempt."""


class Decision(_Event):
    """A choice that a stage made, and why."""

    kind: Literal["decision"] = "decision"
    decision: str
    """What was chosen."""
    reasoning: str
    alternatives: tuple[str, ...] = ()
    """What could have been chosen instead."""
    confidence: float | None = Field(default=None, ge=0, le=1)
    """How sure the stage is, 0 to 1, where it can say."""


Event = Annotated[
    StageStarted | StageSucceeded | StageFailed | StageSkipped | StageRetried | Decision,
    Field(discriminator="kind"),
]

Observer = Callable[[Event], None]
"""Called with each event as it happens."""


Ending = StageSucceeded | StageFailed | StageSkipped


@functools.cache
def _events_adapter() -> TypeAdapter[tuple[Event, ...]]:
    return TypeAdapter(tuple[Event, ...])


class Trace:
    """The events of one run, in order. Immutable."""

    __slots__ = ("events",)

    events: PersistentList[Event]

    def __init__(self, events: Iterable[Event] = ()) -> None:
        object.__setattr__(self, "events", events if isinstance(events, PersistentList) else PersistentList(events))

    def append(self, event: Event) -> Trace:
        trace = Trace.__new__(Trace)
        object.__setattr__(trace, "events", self.events.append(event))
        return trace

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Trace is immutable; {name!r} cannot be set")

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __eq__(self, other: object) -> bool:
        return self.events == other.events if isinstance(other, Trace) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.events))

    def __repr__(self) -> str:
        return f"Trace({len(self.events)} events)"

    def __reduce__(self) -> tuple[type[Trace], tuple[PersistentList[Event]]]:
        return Trace, (self.events,)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(event for event in self.events if isinstance(event, Decision))

    @property
    def endings(self) -> dict[str, Ending]:
        """Stage name -> how it ended, in pipeline order; a stage that is still running is not in it."""
        return {
            event.stage: event
            for event in self.events
            if isinstance(event, StageSucceeded | StageFailed | StageSkipped)
        }

    def to_json(self) -> str:
        """The events as a JSON array, readable by `from_json`."""
        return _events_adapter().dump_json(tuple(self.events)).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Trace:
        """Read what `to_json` wrote.

        Raises pydantic.ValidationError on an unknown kind or a damaged event.
        """
        return cls(_events_adapter().validate_json(text))


# Who hears of the decisions of which run while a stage of it runs: set by run_stage around the stage, so that
# `Context.decide` is heard at once and not when the stage ends.
current_listener: ContextVar[tuple[str, Observer] | None] = ContextVar("crucible_listener", default=None)
