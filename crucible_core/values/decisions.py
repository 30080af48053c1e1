"""What a decision says, and how events name each other: by ids that are made from their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from crucible_core.errors import CrucibleError
from crucible_core.values.arguments import check_mapping
from crucible_core.values.jsonable import to_jsonable
from crucible_core.values.messages import cut

__all__ = ["fields_of", "id_of", "lost", "made_readable", "parents_of"]


def id_of(event: Any) -> str:
    """Ten hexadecimal digits that follow from the kind of an event, what it is about, and when it was.

    So it need not be stored, and is the same wherever the event is. Two events of one run have the same id if they say
    the same and happened in the same microsecond, or by chance: once in about a million runs of a thousand events.
    """
    about = (
        (event.decision, event.reasoning)
        if event.kind == "decision"
        else (event.stage, event.result.gate if event.kind == "gate_judged" else "")
    )
    said = "\0".join((event.kind, f"{event.at.timestamp():.6f}", *about))
    return hashlib.blake2s(said.encode("utf-8", "surrogatepass"), digest_size=5).hexdigest()


def lost(heard: Iterable[Any], kept: Iterable[Any]) -> str:
    """The first of the decisions among these events that are not among the kept ones, and how many more there are."""
    there = set(kept)
    missing = [repr(event.decision) for event in heard if event.kind == "decision" and event not in there]
    more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
    return f"{missing[0]}{more}" if missing else ""


def parents_of(events: Iterable[Any]) -> dict[str, str]:
    """Id of an event -> that of the start of its stage."""
    started: dict[str, str] = {}
    found = {}
    for event in events:
        if event.kind == "stage_started":
            started[event.stage] = id_of(event)
        elif event.stage in started:
            found[id_of(event)] = started[event.stage]
    return found


def fields_of(
    readable: Callable[[str], str],
    trace: Any,
    decision: str,
    reasoning: str,
    alternatives: Iterable[str],
    confidence: float | None,
    depends_on: Any,
    metadata: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The fields of a decision that comes next in the trace; each text is as `readable` returns it.

    Raises CrucibleError if it depends on one that is not there, TypeError for metadata that is not a mapping.
    """
    instead = (alternatives,) if isinstance(alternatives, str) else alternatives
    said: dict[str, Any] = {
        "decision": readable(decision),
        "reasoning": readable(reasoning),
        "alternatives": tuple(map(readable, instead)),
        "confidence": confidence,
    }
    if depends_on != ():
        said["depends_on"] = tuple(_known(depends_on, trace.decisions))
    if metadata is not None:
        check_mapping("metadata of a decision", metadata)
        said["metadata"] = _readable(to_jsonable(dict(metadata)), readable)
    return said


def made_readable(decision: Any, readable: Callable[[str], str]) -> Any:
    """The decision with each of its texts as `readable` returns it."""
    said: dict[str, Any] = {
        "decision": readable(decision.decision),
        "reasoning": readable(decision.reasoning),
        "alternatives": tuple(map(readable, decision.alternatives)),
        "metadata": _readable(decision.metadata, readable),
    }
    changed = {name: value for name, value in said.items() if getattr(decision, name) != value}
    return replace(decision, **changed) if changed else decision


def _known(depends_on: Any, earlier: Sequence[Any]) -> Iterator[str]:
    one = isinstance(depends_on, str) or hasattr(depends_on, "kind")
    asked = [depends_on] if one else list(depends_on)
    for each in asked:
        wanted = each if isinstance(each, str) else getattr(each, "id", None)
        # The last ones first: most depend on what was decided just before.
        if not any(id_of(decision) == wanted for decision in reversed(earlier)):
            known = cut(", ".join(f"{id_of(decision)} ({decision.decision})" for decision in earlier), 500)
            raise CrucibleError(
                f"depends_on names no decision before this one: {each!r:.80}; give one of ctx.trace.decisions, or its "
                f"id; there are: {known or 'none'}"
            )
        yield str(wanted)


def _readable(value: Any, readable: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, list):
        return [_readable(item, readable) for item in value]
    if isinstance(value, dict):
        return {readable(name): _readable(item, readable) for name, item in value.items()}
    return value
