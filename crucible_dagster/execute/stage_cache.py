"""Reusing earlier results of stages: `cache: true` in the experiment file.

An earlier result of a stage is reused if its code, its options and everything that it looked at in the Context are the
same. What it looks at is noted while it runs, and stored with the result. Files, the network, the
clock, environment variables and modules that the stage imports are not seen.

Below `reuse/<digest of code and options>/` of the store, each set of things that such a stage once looked at has a
`.reads` file, and each result with these things as they were a `.result` file; so a look-up costs as many small
reads as there are different sets, and no listing of results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from crucible_core import Context, Decision, PlannedStage, Trace
from crucible_core.ir.secrets import has_secrets, hide
from crucible_core.values.immutable import PersistentDict
from crucible_core.values.jsonable import to_jsonable
from crucible_dagster.history.source_identity import stage_identity
from crucible_dagster.store import ContextStore, StoreError
from crucible_dagster.store.lazy import (
    NEVER_THE_SAME,
    PARTS,
    Cell,
    Chunk,
    Read,
    Reads,
    StoredDict,
    StoredList,
    digest_of_read,
    entries_of,
)
from crucible_dagster.store.manifest import read_document, write_document
from crucible_dagster.store.objects import Ref, object_name
from crucible_dagster.store.store import REUSE

__all__ = ["Hit", "StageCache", "StageKey", "described_read", "key_of"]

Part = dict[str, JsonValue]
"""`part`, `then`, `now`: something a result depends on, in the earlier run and in this one."""


@dataclass(frozen=True, slots=True)
class StageKey:
    """What of a stage is known before it runs."""

    experiment_id: str
    name: str
    """In the pipeline."""
    stage: str
    code: str | None
    """None if there is no source: then nothing is reused."""
    options: Mapping[str, str]
    """Name -> digest of its value."""

    @property
    def folder(self) -> str:
        return f"{REUSE}/{_digest([self.stage, self.code, dict(self.options)])}"

    @property
    def last(self) -> str:
        return f"{REUSE}/last/{_digest([self.experiment_id, self.name])}"

    def parts(self) -> dict[str, str]:
        return {
            "stage": self.stage,
            "code": self.code or "no source",
            **{f"option {name}": digest for name, digest in self.options.items()},
        }


@dataclass(frozen=True, slots=True)
class Hit:
    """An earlier result that fits."""

    run_id: str
    reads: Mapping[Read, str]
    context: Context
    """With the result in it, and the decisions that the stage took then; without the records of its start and end."""


def key_of(planned: PlannedStage, experiment_id: str, digest_of_secret: Callable[[Any], str]) -> StageKey:
    stage, code = stage_identity(type(planned.stage))
    # As given, because a secret is masked among those in effect; and those in effect, because of defaults.
    given, effective = planned.definition.options or {}, to_jsonable(planned.stage)
    if has_secrets(type(planned.stage)):
        given = hide(type(planned.stage), given, digest_of_secret)
        effective = hide(type(planned.stage), effective)
    names = sorted({**given, **effective})
    options = {name: _digest([given.get(name), effective.get(name)]) for name in names}
    return StageKey(experiment_id, planned.name, stage, code, options)


def written_names(before: Context, after: Context) -> dict[str, frozenset[str]]:
    """Part -> the names that a stage gave a value to, even the same as before."""
    return {
        part: frozenset(name for name, entry in entries_of(getattr(after, part)).items() if was.get(name) is not entry)
        for part in PARTS
        for was in [entries_of(getattr(before, part))]
    }


def described_read(read: Read) -> str:
    """For people: `assigns['model']`, `the names of metrics`."""
    match read:
        case ("value", part, name):
            return f"{part}[{name!r}]"
        case ("has", part, name):
            return f"whether {part} has {name!r}"
        case ("names", part):
            return f"the names of {part}"
    return read[0]


class StageCache:
    """Which results may be reused; kept in the store, beside the results themselves."""

    def __init__(self, store: ContextStore) -> None:
        self._store = store

    def find(self, key: StageKey, before: Context) -> Hit | None:
        """The newest earlier result of this stage that depends on nothing that is different now."""
        if key.code is None:
            return None
        try:
            names = self._store.files.children(key.folder)
        except OSError:  # an index that cannot be read is as good as none
            return None
        for name in names:
            if not name.endswith(".reads"):
                continue
            document = self._read(f"{key.folder}/{name}")
            reads = [tuple(read) for read in document["reads"]] if document else None
            if reads is None:
                continue
            now = {read: digest_of_read(before, read) for read in reads}
            found = self._read(f"{key.folder}/{_result_name(now)}")
            if found is not None and self._damage(found) is None:
                return Hit(found["run_id"], now, self._restore(found, before, key.name))
        return None

    def remember(
        self,
        key: StageKey,
        run_id: str,
        before: Context,
        after: Context,
        *,
        reads: Mapping[Read, str],
        written: Mapping[str, frozenset[str]],
    ) -> str | None:
        """Offer a result, as committed, to later runs. Returns why it cannot be, if it cannot."""
        never = [described_read(read) for read, digest in reads.items() if digest == NEVER_THE_SAME]
        delta = _delta(before, after, written)
        if key.code is None:
            return f"the source of {key.stage} cannot be read, or was changed after it was imported"
        if never:
            return f"it read ctx.{never[0]}, which is different in every run"
        if delta is None:
            return (
                "it removed something from the Context, changed earlier outputs or the experiment, or gave another "
                "name to an object that had more than one"
            )
        document = {
            "run_id": run_id,
            "parts": key.parts(),
            "reads": [[list(read), digest] for read, digest in reads.items()],
            "delta": delta,
        }
        files = self._store.files
        names = write_document({"reads": [list(one) for one in reads]})
        try:
            files.write(f"{key.folder}/{_names_digest(reads)}.reads", [names])
            files.write(f"{key.folder}/{_result_name(reads)}", [write_document(document)])
            files.write(key.last, [write_document(document)])
        except OSError as error:
            return f"the store cannot be written to: {error.strerror or error}"
        return None

    def compare_with_last(self, key: StageKey, before: Context) -> tuple[str | None, list[Part]]:
        """The last run with a result of this stage of this experiment, and what the result depends on, then and now."""
        last = self._read(key.last)
        if last is None:
            return None, []
        now = key.parts()
        parts: list[Part] = [
            {"part": name, "then": last["parts"].get(name), "now": now.get(name)}
            for name in dict.fromkeys([*last["parts"], *now])
        ]
        for read, then in last["reads"]:
            parts.append(
                {"part": described_read(tuple(read)), "then": then, "now": digest_of_read(before, tuple(read))}
            )
        if all(part["then"] == part["now"] for part in parts):
            damage = self._damage(last)
            parts.append({"part": "the stored result", "then": "whole", "now": damage or "removed from the store"})
        return last["run_id"], parts

    def _read(self, name: str) -> dict[str, Any] | None:
        # Not worth failing for: the stage runs.
        try:
            return read_document(self._store.files.read(name), name)
        except Exception:  # noqa: BLE001
            return None

    def _damage(self, found: Mapping[str, Any]) -> str | None:
        """What is wrong with the objects of a result, or None: then they are as new to the garbage collection."""
        try:
            for ref in _refs(found["delta"]):
                self._store.objects.check(ref, "the earlier result")
                for digest, _ in ref.objects:
                    self._store.files.keep(object_name(digest))
        except StoreError as error:
            return str(error)
        return None

    def _restore(self, found: Mapping[str, Any], before: Context, stage: str) -> Context:
        delta, where = found["delta"], f"(reused from run {found['run_id']})"
        objects = self._store.objects
        groups: dict[str, Cell] = {}
        changed: dict[str, Any] = {}
        for part in PARTS:
            cells = {}
            for name, ref, shared in delta[part]:
                cell = Cell(objects, Ref.from_json(ref), f"{part}[{name!r}] {where}")
                if shared is not None:
                    cell = groups.setdefault(shared, cell)
                    cell.shared = shared
                cells[name] = cell
            held: PersistentDict[Any] = getattr(before, part)
            changed[part] = held.merge(cells)
        assert isinstance(before.outputs, StoredList)
        added = [Chunk(Cell(objects, Ref.from_json(ref), f"outputs {where}"), count) for ref, count in delta["outputs"]]
        changed["outputs"] = StoredList([*before.outputs.chunks, *added], Reads())
        decisions = [{**decision, "stage": stage} for decision in delta["decisions"]]
        changed["trace"] = Trace.from_json(json.dumps(decisions))
        return before._replace(**changed)


def _delta(before: Context, after: Context, written: Mapping[str, frozenset[str]]) -> dict[str, Any] | None:
    """What a stage wrote, in references; None if that is not all it did."""
    delta: dict[str, Any] = {}
    shared = {entry[1] for part in PARTS for entry in _refs_of(getattr(before, part)).values()} - {None}
    for part in PARTS:
        earlier, later = (_refs_of(getattr(one, part)) for one in (before, after))
        if list(earlier) != list(later)[: len(earlier)]:
            return None
        changed = {name: entry for name, entry in later.items() if name in written[part] or earlier.get(name) != entry}
        if any(entry[1] in shared for name, entry in changed.items() if earlier.get(name) != entry):
            return None
        delta[part] = [[name, *entry] for name, entry in changed.items()]
    chunks = [[[chunk.cell.ref.to_json(), chunk.count] for chunk in _chunks(one)] for one in (before, after)]
    if chunks[1][: len(chunks[0])] != chunks[0]:
        return None
    delta["outputs"] = chunks[1][len(chunks[0]) :]
    new = after.trace.events[len(before.trace) :]
    delta["decisions"] = json.loads(Trace(event for event in new if isinstance(event, Decision)).to_json())
    return delta


def _refs_of(part: object) -> dict[str, list[Any]]:
    assert isinstance(part, StoredDict)
    return {name: [cell.ref.to_json(), cell.shared] for name, cell in part.entries().items()}


def _chunks(context: Context) -> Sequence[Chunk]:
    assert isinstance(context.outputs, StoredList)
    return context.outputs.chunks


def _refs(delta: Mapping[str, Any]) -> Iterator[Ref]:
    for part in PARTS:
        for _, ref, _ in delta[part]:
            yield Ref.from_json(ref)
    for ref, _ in delta["outputs"]:
        yield Ref.from_json(ref)


def _names_digest(reads: Mapping[Read, str]) -> str:
    return _digest(sorted(list(read) for read in reads))


def _result_name(reads: Mapping[Read, str]) -> str:
    return f"{_digest(sorted([*read, digest] for read, digest in reads.items()))}.result"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
