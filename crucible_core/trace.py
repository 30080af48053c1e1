"""What happened in a run, as tagged events: each stage's start and its one ending, retries, decisions, gates."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter

from crucible_core.ir.gates import GateResult
from crucible_core.values.arguments import checked_share
from crucible_core.values.immutable import PersistentList

__all__ = [
    "Decision",
    "Event",
    "GateJudged",
    "StageFailed",
    "StageRetried",
    "StageSkipped",
    "StageStarted",
    "StageSucceeded",
    "Trace",
]


_new = object.__new__
_now = functools.partial(datetime.now, UTC)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Event:
    # A TypeAdapter checks events when they are read. The runner makes them unchecked: a pydantic model takes half as
    # long again to make. == and repr are defined here once: generated for each subclass, they would double the time
    # to import them.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    stage: str
    """Name of the stage in the pipeline."""
    at: AwareDatetime = field(default_factory=_now)
    """When it happened, UTC."""

    @classmethod
    def now(cls, stage: str, **values: object) -> Self:
        """An event made by the runner, at half the cost of a frozen class's own constructor.

        Two of these are made for every stage that runs. Fields that are not given have the class's defaults.
        """
        event = _new(cls)
        values["stage"] = stage
        values["at"] = _now()
        _set_fields(event, values)
        return event

    @property
    def id(self) -> str:
        """A short id, unique within a run. It follows from the event, so that stored events have the same one."""
        from crucible_core.values.decisions import id_of  # noqa: PLC0415  # few are asked for it

        return id_of(self)

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, one.name) for one in fields(self))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self.stage, self.at))

    def __repr__(self) -> str:
        shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self))
        return f"{type(self).__name__}({shown})"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        found: dict[str, Any] = json.loads(self.to_json())
        return found

    def to_json(self) -> str:
        """One line of JSON."""
        # As a list of one, so that each process makes only one adapter.
        return _events_adapter().dump_json((self,))[1:-1].decode()  # type: ignore[arg-type]

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # Events were pydantic models once, and stored values may hold pickles of them: until version 1.0.
        self.__dict__.update(state.get("__dict__", state))


# As `event.__dict__ = values`, which a frozen class refuses; object.__setattr__ looks the name up each time.
_set_fields = vars(_Event)["__dict__"].__set__


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StageStarted(_Event):
    """A stage began."""

    kind: Literal["stage_started"] = "stage_started"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StageSucceeded(_Event):
    """A stage returned its Context."""

    kind: Literal["stage_succeeded"] = "stage_succeeded"
    seconds: float
    """Wall time from the start, retries and their delays included."""
    attempts: int = 1
    reused_from: str | None = None
    """The run whose result was taken instead of running the stage again."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Raised(_Event):
    error_type: str
    message: str

    @property
    def reason(self) -> str:
        """`ValueError: too small`, or only the type if there is no message."""
        return f"{self.error_type}: {self.message}" if self.message else self.error_type


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StageFailed(_Raised):
    """A stage raised, in its last attempt, or was interrupted."""

    kind: Literal["stage_failed"] = "stage_failed"
    seconds: float
    """Wall time from the start, retries and their delays included."""
    attempts: int = 1
    traceback: str
    """The traceback within the stage's own code, as text; empty if the message explains itself."""
    unfinished: tuple[str, ...] = ()
    """What it had put, which is in the Context: `metrics.loss`, `artifacts.plot`, `outputs[3:]` from the 4th on."""

    @property
    def reason(self) -> str:
        """`ValueError: too small`, or only the message if that explains itself."""
        return super().reason if self.traceback or not self.message else self.message


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StageSkipped(_Event):
    """A stage did not run."""

    kind: Literal["stage_skipped"] = "stage_skipped"
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StageRetried(_Raised):
    """An attempt raised and another follows."""

    kind: Literal["stage_retried"] = "stage_retried"
    attempt: int
    """The attempt that failed, counted from 1."""
    delay: float
    """Seconds until the next attempt."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Decision(_Event):
    """A choice that a stage made, and why."""

    kind: Literal["decision"] = "decision"
    decision: str
    """What was chosen."""
    reasoning: str
    alternatives: tuple[str, ...] = ()
    """What could have been chosen instead."""
    confidence: float | None = None
    """How sure the stage is, 0 to 1, if known."""
    depends_on: tuple[str, ...] = ()
    """The ids of the earlier decisions that it depends on."""
    metadata: Mapping[str, Any] | None = None
    """Whatever else the stage says about it, as JSON types."""

    def __post_init__(self) -> None:
        if self.confidence is not None:
            self.__dict__["confidence"] = checked_share(self.confidence)
        if not isinstance(self.alternatives, tuple):
            several = [self.alternatives] if isinstance(self.alternatives, str) else self.alternatives
            self.__dict__["alternatives"] = tuple(several)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GateJudged(_Event):
    """A gate was judged, after the last stage."""

    kind: Literal["gate_judged"] = "gate_judged"
    stage: str = ""
    """Empty: a gate judges the whole run."""
    result: GateResult


Event = Annotated[
    StageStarted | StageSucceeded | StageFailed | StageSkipped | StageRetried | Decision | GateJudged,
    Field(discriminator="kind"),
]

Ending = StageSucceeded | StageFailed | StageSkipped


@functools.cache
def _events_adapter() -> TypeAdapter[tuple[Event, ...]]:
    # JSON has no infinities, but gates may have some.
    return TypeAdapter(tuple[Event, ...], config=ConfigDict(ser_json_inf_nan="strings"))


class Trace(PersistentList[Event]):
    """The events of one run, in order. Immutable."""

    __slots__ = ()

    @property
    def events(self) -> Trace:
        """The trace itself, as a sequence."""
        return self

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(event for event in self if isinstance(event, Decision))

    @property
    def parents(self) -> dict[str, str]:
        """Event -> the start of its stage, by their ids; the starts, and events of no stage, are not in it."""
        from crucible_core.values.decisions import parents_of  # noqa: PLC0415  # as above

        return parents_of(self)

    @property
    def endings(self) -> dict[str, Ending]:
        """Stage name -> how it ended, in pipeline order; a stage that is still running is not in it."""
        return {event.stage: event for event in self if isinstance(event, Ending)}

    @property
    def gates(self) -> tuple[GateResult, ...]:
        """The results of the gates, in the order of the file; empty if the run was not judged."""
        return tuple({event.result.gate: event.result for event in self if isinstance(event, GateJudged)}.values())

    def to_json(self) -> str:
        """The events as a JSON array, readable by `from_json`."""
        return _events_adapter().dump_json(tuple(self)).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Trace:
        """Read what `to_json` wrote.

        Raises pydantic.ValidationError on an unknown kind or a damaged event.
        """
        return cls(_events_adapter().validate_json(text))

    def __hash__(self) -> int:  # type: ignore[override]  # unlike other lists, its items are immutable
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Trace({len(self)} events)"

    def __reduce__(self) -> tuple[type[Trace], tuple[Iterable[Event]]]:
        return Trace, (list(self),)
