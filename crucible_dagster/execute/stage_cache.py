"""Reusing earlier results of stages: `cache: true` in the experiment file.

An earlier result of a stage is reused if the code that it can reach, its options and everything that it looked at in
the Context are the same. What the stage looks at is noted while it runs, and stored with the result. The files and
environment variables that its options and its code name are stored too, except files that it wrote itself. Other files,
the network and the clock are not checked.

In `reuse/<digest of code and options>/` of the store, there is one `.reads` file for each set of things that such a
stage has looked at, and one `.result` file for each state of these things. So a look-up costs as many small reads as
there are different sets, and lists no results.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from crucible_core import Context, Decision, PlannedStage, Trace
from crucible_core.ir.secrets import has_secrets, hide, secrets_in
from crucible_core.run_state.resources import resources_of
from crucible_core.run_state.spending import SPENT
from crucible_core.values.immutable import PersistentDict
from crucible_core.values.jsonable import to_jsonable
from crucible_core.values.messages import shorten
from crucible_dagster.history.reachable_code import ReachableCode, code_hash, code_of_classes, code_of_stage
from crucible_dagster.history.source_identity import stage_identity
from crucible_dagster.store import ContextStore, StoreError
from crucible_dagster.store.lazy import (
    ABSENT,
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
"""`part`: what a result depends on; `then`, `now`: in the earlier run and in this one; `values`: as text for people."""

MAX_SHOWN = 60
MAX_DIGESTED = 256 * 1024 * 1024
"""Bytes; for a larger file, its size and modification time are used instead of its content."""


@dataclass(frozen=True, slots=True)
class StageKey:
    """What is known about a stage before it runs."""

    experiment_id: str
    name: str
    """The stage's name in the pipeline."""
    stage: str
    code: ReachableCode | str
    """The code, or why it is not known: then nothing is reused."""
    options: Mapping[str, str]
    """Option -> digest of its value."""
    shown: Mapping[str, str]
    """Part -> its value as text for people, if it is short."""

    @property
    def folder(self) -> str:
        return f"{REUSE}/{_digest([self.stage, self._code_digest, dict(self.options)])}"

    @property
    def last(self) -> str:
        return f"{REUSE}/last/{_digest([self.experiment_id, self.name])}"

    @property
    def unknown(self) -> str | None:
        """Why nothing can be reused; None if something can."""
        return self.code if isinstance(self.code, str) else None

    @property
    def pieces(self) -> dict[str, str]:
        """What the code consists of: name -> digest."""
        return {} if isinstance(self.code, str) else dict(self.code.parts)

    @property
    def _code_digest(self) -> str:
        return "not known" if isinstance(self.code, str) else self.code.digest

    def parts(self) -> dict[str, str]:
        return {
            "stage": self.stage,
            "code": self._code_digest,
            **{f"option {name}": digest for name, digest in self.options.items()},
        }


@dataclass(frozen=True, slots=True)
class Hit:
    """An earlier result that can be reused."""

    run_id: str
    reads: Mapping[Read, str]
    context: Context
    """The Context with the result and the decisions that the stage made; without the events of its start and end."""


def key_of(planned: PlannedStage, experiment_id: str, digest_of_secret: Callable[[Any], str]) -> StageKey:
    kind, code = type(planned.stage), code_of_stage(planned.stage)
    # Three forms: as given, because secrets are masked in the effective options; the effective ones, because they have
    # the defaults; and as they are in memory, because that includes other values, such as private attributes.
    given, effective = planned.definition.options or {}, to_jsonable(planned.stage)
    held = {} if isinstance(code, str) else dict(code.options)
    if has_secrets(kind):
        for name in {place.partition(".")[0] for place in secrets_in(kind, given)} & held.keys():
            held[name] = digest_of_secret(held[name])
        given, effective = hide(kind, given, digest_of_secret), hide(kind, effective)
    names = sorted({**given, **effective, **held})
    options = {name: _digest([given.get(name), effective.get(name), held.get(name)]) for name in names}
    shown = {f"option {name}": _short(json.dumps(value)) for name, value in effective.items()}
    # Without the module's package, because a module beside the experiment file is named after its folder.
    module, _, name = stage_identity(kind)[0].partition(":")
    return StageKey(experiment_id, planned.name, f"{module.rpartition('.')[2]}:{name}", code, options, shown)


def written_names(before: Context, after: Context) -> dict[str, frozenset[str]]:
    """Part -> the names that a stage set, even to the same value as before."""
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
        case ("file", name):
            return f"file {name.rstrip('/')}"
        case ("environment", name):
            return f"environment variable {name}"
    return read[0]


class StageCache:
    """Which results may be reused; kept in the store, beside the results themselves."""

    def __init__(self, store: ContextStore) -> None:
        self._store = store

    def find(self, key: StageKey, before: Context) -> Hit | None:
        """The newest earlier result of this stage whose dependencies are all unchanged; None if there is none."""
        if key.unknown is not None:
            return None
        try:
            names = self._store.files.children(key.folder)
        except OSError:  # if the index cannot be read, nothing is reused
            return None
        for name in names:
            if not name.endswith(".reads"):
                continue
            document = self._read(f"{key.folder}/{name}")
            reads = [tuple(read) for read in document["reads"]] if document else None
            if reads is None:
                continue
            now = {read: self._now(before, read) for read in reads}
            found = self._read(f"{key.folder}/{_result_name(now)}")
            if found is not None and self._damage(found) is None:
                return Hit(found["run_id"], now, self._restore(found, before, key.name))
        return None

    def inputs(self, key: StageKey, before: Context) -> dict[Read, str]:
        """The files and environment variables that the stage's options and code name, and what they hold now."""
        if isinstance(key.code, str):
            return {}
        folder = before.experiment.folder
        reads: list[Read] = [("environment", name) for name in sorted(key.code.environment)]
        reads += [("file", name) for name in sorted(key.code.paths) if name.endswith("/") or _find_file(name, folder)]
        return {read: self._now(before, read) for read in reads}

    def seen(self, before: Context, reads: Mapping[Read, str], inputs: Mapping[Read, str]) -> dict[Read, str]:
        """Everything that the stage depended on, after it has run; files that it wrote itself are left out."""
        found = {read: self._with_classes(before, read, digest) for read, digest in reads.items()}
        kept = {
            read: digest for read, digest in inputs.items() if read[0] != "file" or self._now(before, read) == digest
        }
        return {**found, **kept}

    def shown(self, key: StageKey, before: Context, reads: Iterable[Read]) -> dict[str, str]:
        """Part -> its value as text for people, if it is short."""
        values = {described_read(read): _shown_read(before, read) for read in reads}
        return {**key.shown, **{part: value for part, value in values.items() if value is not None}}

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
        """Offer a committed result to later runs. Returns why it cannot be reused, or None if it can."""
        never = [described_read(read) for read, digest in reads.items() if digest == NEVER_THE_SAME]
        delta = _delta(before, after, written)
        if key.unknown is not None:
            return key.unknown
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
            "pieces": key.pieces,
            "shown": self.shown(key, before, reads),
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
        """The last run with a result of this stage in this experiment, and what that depends on, then and now."""
        last = self._read(key.last)
        if last is None:
            return None, []
        now = key.parts()
        reads = [tuple(read) for read, _ in last["reads"]]
        then = {**last["parts"], **{described_read(tuple(read)): digest for read, digest in last["reads"]}}
        now |= {described_read(read): self._now(before, read) for read in reads}
        shown = self.shown(key, before, reads)
        parts: list[Part] = []
        for name in dict.fromkeys([*then, *now]):
            values = [last.get("shown", {}).get(name), shown.get(name)]
            if name == "code":
                values = _changed_pieces(last.get("pieces", {}), key.pieces)
            parts.append({"part": name, "then": then.get(name), "now": now.get(name), "values": [*values]})
        if all(part["then"] == part["now"] for part in parts):
            damage = self._damage(last)
            parts.append({"part": "the stored result", "then": "whole", "now": damage or "removed from the store"})
        return last["run_id"], parts

    def _now(self, before: Context, read: Read) -> str:
        match read:
            case ("environment", name):
                value = os.environ.get(name)
                return ABSENT if value is None else self._store.digest_of_secret(value)
            case ("file", name):
                return _digest_of_file(name, before.experiment.folder)
        return self._with_classes(before, read, digest_of_read(before, read))

    def _with_classes(self, before: Context, read: Read, digest: str) -> str:
        """The digest of what was read, together with the code of the classes of pickled objects in it."""
        match read:
            case ("resources",):
                factories = [getattr(one, "factory", None) for one in resources_of(before.run_id).makers.values()]
                hashes = [code_hash(one) for one in factories if one is not None]
                return NEVER_THE_SAME if digest == NEVER_THE_SAME or None in hashes else _digest([digest, hashes])
            case ("value", part, name):
                held = getattr(before, part)
                cells = [held.before.get(name)] if isinstance(held, StoredDict) else []
            case ("outputs",):
                cells = [chunk.cell for chunk in _chunks(before)]
            case _:
                cells = []
        pickled = [cell for cell in cells if isinstance(cell, Cell) and cell.ref.codec == "pickle"]
        if not pickled:
            return digest
        try:
            names = {name for cell in pickled for name in self._store.objects.classes_in(cell.ref, cell.where)}
        except Exception:  # noqa: BLE001  # a pickle that cannot be followed
            return NEVER_THE_SAME
        code = code_of_classes(names, before.experiment.folder)
        return NEVER_THE_SAME if code is None else _digest([digest, code])

    def _read(self, name: str) -> dict[str, Any] | None:
        # No reason to fail: the stage just runs.
        try:
            return read_document(self._store.files.read(name), name)
        except Exception:  # noqa: BLE001
            return None

    def _damage(self, found: Mapping[str, Any]) -> str | None:
        """What is wrong with the objects of a result. If nothing is, mark them as new for the garbage collection."""
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
    """What a stage added, as references; None if it also changed something else."""
    delta: dict[str, Any] = {}
    shared = {entry[1] for part in PARTS for entry in _refs_of(getattr(before, part)).values()} - {None}
    for part in PARTS:
        earlier, later = (_refs_of(getattr(one, part)) for one in (before, after))
        if list(earlier) != list(later)[: len(earlier)]:
            return None
        changed = {name: entry for name, entry in later.items() if name in written[part] or earlier.get(name) != entry}
        if part == "metrics":
            changed.pop(SPENT, None)  # a reused result is not paid for again
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


def _find_file(name: str, folder: Path | None) -> Path | None:
    """The file in the working directory or in the experiment's folder; None if there is none."""
    for path in (Path(name), *([folder / name] if folder is not None else [])):
        with contextlib.suppress(OSError, ValueError):
            if path.is_file():
                return path
    return None


def _digest_of_file(name: str, folder: Path | None) -> str:
    try:
        if (path := _find_file(name, folder)) is None:
            entries = sorted(one for one in Path(name).rglob("*") if one.is_file()) if name.endswith("/") else []
            return _digest([[str(one), one.stat().st_size, one.stat().st_mtime_ns] for one in entries])
        status = path.stat()
        if status.st_size > MAX_DIGESTED:
            return _digest([status.st_size, status.st_mtime_ns])
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() if status.st_size else ABSENT
    except OSError:
        return ABSENT


def _shown_read(before: Context, read: Read) -> str | None:
    match read:
        case ("value", part, name):
            held = getattr(before, part)
            cell = held.before.get(name) if isinstance(held, StoredDict) else None
            if isinstance(cell, Cell) and cell.ref.codec == "json" and cell.ref.head.startswith("text:"):
                return _short(cell.ref.head.removeprefix("text:"))
    return None


def _changed_pieces(then: Mapping[str, str], now: Mapping[str, str]) -> list[str | None]:
    """The pieces of the code that differ, then and now; a number is shown with its value."""
    sides: list[list[str]] = [[], []]
    for name in sorted(name for name in {*then, *now} if then.get(name) != now.get(name)):
        for side, digest in zip(sides, (then.get(name), now.get(name)), strict=True):
            if digest is not None:
                side.append(name if len(digest) > MAX_SHOWN else f"{name} = {digest}")
    return [_short(", ".join(side)) for side in sides]


def _short(text: str) -> str:
    return shorten(text, MAX_SHOWN)


def _names_digest(reads: Mapping[Read, str]) -> str:
    return _digest(sorted(list(read) for read in reads))


def _result_name(reads: Mapping[Read, str]) -> str:
    return f"{_digest(sorted([*read, digest] for read, digest in reads.items()))}.result"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
