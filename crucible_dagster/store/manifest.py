"""The manifest of a step: one small file that says where each value of the Context is kept, with the trace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crucible_dagster.store.errors import StoreError
from crucible_dagster.store.lazy import PARTS
from crucible_dagster.store.objects import ObjectStore, Ref

__all__ = ["FORMAT", "Log", "Manifest", "read_document", "write_document"]

FORMAT = 2
MAGIC = b"crucible-store"
# Bytes of a growing log that a manifest holds itself; for more, it refers to an object.
MAX_TAIL = 16 * 1024


@dataclass(frozen=True, slots=True)
class Log:
    """Items in order. Many steps in a row write each item only once: older items are in objects, the newest here."""

    sealed: tuple[str, ...] = ()
    tail: tuple[Any, ...] = ()
    size: int = 0
    """Bytes of the tail."""

    def items(self, objects: ObjectStore, where: str) -> list[Any]:
        found: list[Any] = []
        for blob in self.sealed:
            found += json.loads(objects.get_bytes(blob, where))
        return [*found, *self.tail]

    def extended(self, items: Sequence[Any], objects: ObjectStore) -> Log:
        if not items:
            return self
        tail = (*self.tail, *items)
        size = self.size + len(_json(items))
        if size <= MAX_TAIL:
            return Log(self.sealed, tail, size)
        return Log((*self.sealed, objects.put_bytes(_json(tail))))

    def to_json(self) -> list[Any]:
        return [list(self.sealed), list(self.tail)]

    @classmethod
    def from_json(cls, found: Sequence[Any]) -> Log:
        sealed, tail = found
        return cls(tuple(sealed), tuple(tail), len(_json(tail)))


@dataclass(frozen=True, slots=True)
class Manifest:
    """One attempt of one step."""

    run_id: str
    step: str
    attempt: str
    experiment_id: str
    experiment: Ref
    parts: Mapping[str, Log]
    """Entries of assigns, metrics and artifacts: `[name, ref, mark shared by entries of the same object, or null]`."""
    outputs: Log
    """Entries `[ref of a list of outputs, their number]`."""
    trace: Log
    """The events."""
    failure: Mapping[str, Any] | None = None
    """For a failed step: stage, reason, interrupted, and the ref of the cause."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """For a stage with `cache: true`: what it read, and why an earlier result was reused or not."""

    def to_bytes(self) -> bytes:
        return write_document(
            {
                "run_id": self.run_id,
                "step": self.step,
                "attempt": self.attempt,
                "experiment_id": self.experiment_id,
                "experiment": self.experiment.to_json(),
                **{part: self.parts[part].to_json() for part in PARTS},
                "outputs": self.outputs.to_json(),
                "trace": self.trace.to_json(),
                "failure": self.failure,
                "notes": dict(self.notes),
            }
        )

    @classmethod
    def from_document(cls, found: Mapping[str, Any]) -> Manifest:
        return cls(
            found["run_id"],
            found["step"],
            found["attempt"],
            found["experiment_id"],
            Ref.from_json(found["experiment"]),
            {part: Log.from_json(found[part]) for part in PARTS},
            Log.from_json(found["outputs"]),
            Log.from_json(found["trace"]),
            found["failure"],
            found["notes"],
        )


def write_document(body: Mapping[str, Any]) -> bytes:
    """A JSON document, preceded by its format and its digest."""
    text = _json(body)
    return b"%s %d %s\n%s\n" % (MAGIC, FORMAT, hashlib.sha256(text).hexdigest().encode(), text)


def read_document(data: bytes, name: str) -> dict[str, Any]:
    """Read a document. Raises StoreError, which names the file, if it is damaged or has a newer format."""
    head, _, text = data.partition(b"\n")
    match head.split(b" "):
        case [magic, version, digest] if magic == MAGIC and version.isdigit():
            if int(version) > FORMAT:
                raise StoreError(
                    f"{name} in the context store has format {int(version)}, and this version of crucible reads up to "
                    f"format {FORMAT}; upgrade crucible-dagster"
                )
            if hashlib.sha256(text.removesuffix(b"\n")).hexdigest().encode() == digest:
                found: dict[str, Any] = json.loads(text)
                return found
    raise StoreError(
        f"{name} in the context store is damaged: the file was changed or cut off after it was written. What it held "
        "is lost; run the experiment again. `crucible store verify` lists everything that is damaged"
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
