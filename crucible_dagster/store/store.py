"""The context store: it keeps what each step returned, for the next step, for resuming a run, and for reading last
month's runs.

| file below the base                    | what it is                                                             |
| -------------------------------------- | ---------------------------------------------------------------------- |
| `objects/ab/cdef...`                   | an immutable object, named by the SHA-256 of its bytes                 |
| `runs/<run>/run.json`                  | the record of the run, written once                                    |
| `runs/<run>/<step>/result`             | the manifest that counts: written last, once, by one of the attempts   |
| `runs/<run>/<step>/<attempt>.failed`   | the manifest of an attempt that failed                                 |
| `runs/<run>/<step>/<attempt>.events`   | the events of an attempt, one per line, as they happened               |
| `reuse/...`                            | which results may be reused: `execute.stage_cache`                     |
| `runs/<run>/before-first/result`       | what the run was given: `execute.given`                                |
| `trials/<experiment>/<run>/...`        | the trials that a run kept: `crucible_core.trials.log`                 |
| `folders/<run>/...`                    | the folder of a run and of those that continue it: `ctx.folder`        |
| `claims/ab/cdef...`                    | which run does work that only one run may do; written once             |
| `heartbeats/<run>`                     | a file that grows while the process of the run is alive                |
| `instances/<id>`                       | a Dagster instance whose runs are kept here                            |
"""

from __future__ import annotations

import hashlib
import json
import pickle
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from upath import UPath

from crucible_core import Context, Event, Experiment, RunInterrupted, StageFailedError, Trace
from crucible_core.ir.experiment import Source
from crucible_dagster.store.errors import RefusedWriteError, StoreError
from crucible_dagster.store.failure import StoredFailure
from crucible_dagster.store.files import TEMPORARY, open_files
from crucible_dagster.store.lazy import PARTS, Cell, Chunk, Reads, StoredDict, StoredList, entries_of, untracked
from crucible_dagster.store.manifest import Log, Manifest, read_document, write_document
from crucible_dagster.store.objects import ObjectStore, Ref

__all__ = ["ContextStore"]

RUNS = "runs"
REUSE = "reuse"
DIGEST_KEY = "digest_key.json"
CLAIMS = "claims"
HEARTBEATS = "heartbeats"
INSTANCES = "instances"
FOLDERS = "folders"
RESULT = "result"
RECORD = "run.json"


class ContextStore:
    """Contexts by run and step, below `base`: a folder, or any fsspec URL."""

    def __init__(self, base: UPath, *, allow_pickle: bool = True, file_mode: int | None = None) -> None:
        self.base = base
        self.files = open_files(base, file_mode)
        self.objects = ObjectStore(self.files, allow_pickle=allow_pickle)
        self._digest_key: bytes | None = None

    def __repr__(self) -> str:
        return f"ContextStore({str(self.base)!r})"

    # --- results ---

    def save(
        self, context: Context, run_id: str, step: str, *, attempt: str, notes: Mapping[str, Any] | None = None
    ) -> Context:
        """Keep what a step returned, and return it in the form that the next step gets.

        Raises StoreError for a value that cannot be stored or a store that cannot be written to, and RefusedWriteError
        if another attempt already has the result that counts.
        """
        manifest, cells = self._write_values(context, run_id, step, attempt, None, notes or {})
        if not self._create(self.result_name(run_id, step), manifest.to_bytes()):
            taken = self.find(run_id, step)
            raise RefusedWriteError(
                f"the result of step {step!r} of run {run_id} comes too late and is refused: "
                + ("another run has replaced this one" if taken is None else "another attempt's result counts")
            )
        return _restored(context, manifest, cells)

    def load(self, run_id: str, step: str) -> Context:
        """The Context that a step returned, each value read when it is looked at.

        Raises StoreError if there is none, it is damaged, or it is of a newer format.
        """
        manifest = self.find(run_id, step)
        if manifest is None:
            raise StoreError(
                f"the context store {self.base} has no result of step {step!r} of run {run_id}: the step did not "
                "finish, or the run was removed from the store"
            )
        return self._context(manifest)

    def find(self, run_id: str, step: str) -> Manifest | None:
        """The manifest that counts, or None. Raises StoreError if it is damaged or of a newer format."""
        found = self._document(self.result_name(run_id, step))
        return None if found is None or "closed_by" in found else Manifest.from_document(found)

    def check(self, run_id: str, step: str) -> None:
        """Read the bytes of every value of a result. Raises StoreError if some are missing or damaged."""
        manifest, where = self.find(run_id, step), f"(step {step!r}, run {run_id})"
        if manifest is not None:
            for part in PARTS:
                for name, ref, _ in manifest.parts[part].items(self.objects, f"{part} {where}"):
                    self.objects.check(Ref.from_json(ref), f"{part}[{name!r}] {where}")
            for ref, _ in manifest.outputs.items(self.objects, f"outputs {where}"):
                self.objects.check(Ref.from_json(ref), f"outputs {where}")

    def has_result(self, run_id: str, step: str) -> bool:
        """Whether the step has a result that counts. Raises StoreError as `find` does."""
        return self.find(run_id, step) is not None

    def close(self, run_id: str, step: str, by: str) -> None:
        """Refuse results of a step from now on, even if it is still running, because `by` replaces its run."""
        self._create(self.result_name(run_id, step), write_document({"closed_by": by}))

    # --- failures ---

    def save_failure(
        self, error: StageFailedError | RunInterrupted, run_id: str, step: str, *, attempt: str
    ) -> Sequence[str]:
        """Keep the Context as it stood when a step failed.

        Returns why some values are not kept: a value that cannot be stored must not hide why the stage failed.
        Raises StoreError if the store cannot be written to.
        """
        interrupted = isinstance(error, RunInterrupted)
        cause = None if interrupted else self._cause(error.__cause__)
        failure = {
            "stage": error.stage,
            "reason": str(error) if isinstance(error, RunInterrupted) else error.reason,
            "interrupted": interrupted,
            "cause": cause and cause.to_json(),
        }
        manifest, cells = self._write_values(error.context, run_id, step, attempt, failure, {})
        self._create(f"{self.step_folder(run_id, step)}/{attempt}.failed", manifest.to_bytes())
        return cells.lost

    def load_failure(self, run_id: str, step: str) -> StoredFailure | None:
        """How the step's last attempt failed, or None. Raises StoreError as `load` does."""
        folder = self.step_folder(run_id, step)
        found = [
            Manifest.from_document(document)
            for name in self.files.children(folder)
            if name.endswith(".failed") and (document := self._document(f"{folder}/{name}")) is not None
        ]
        if not found:
            return None
        manifest = max(found, key=lambda one: one.attempt)
        failure = manifest.failure or {}
        cause = Ref.from_json(failure["cause"]) if failure["cause"] and self.objects.allow_pickle else None
        context = self._context(manifest)

        def read_cause() -> BaseException | None:
            objects = self.objects.beside(context.experiment.folder)
            where = f"the cause of the failure of step {step!r} of run {run_id}"
            return None if cause is None else objects.get(cause, where)

        return StoredFailure(context, failure["stage"], failure["reason"], failure["interrupted"], read_cause)

    def _cause(self, cause: BaseException | None) -> Ref | None:
        # Many exceptions can be pickled but not unpickled: their constructors need more than is in `args`.
        try:
            if cause is None:
                return None
            pickle.loads(pickle.dumps(cause, protocol=5))  # noqa: S301  # made in this line
            return self.objects.put(cause, "the cause")
        except Exception:  # noqa: BLE001  # a user's exception class may raise anything
            return None

    # --- what is beside the Contexts ---

    def put_run_record(self, run_id: str, text: str) -> None:
        """Keep the record of the run; the first one counts. Raises StoreError."""
        self._create(f"{RUNS}/{run_id}/{RECORD}", write_document({"record": text}))

    def run_record(self, run_id: str) -> str | None:
        """What `put_run_record` was given. Raises StoreError if it is damaged."""
        found = self._document(f"{RUNS}/{run_id}/{RECORD}")
        return None if found is None else found["record"]

    def digest_of_secret(self, secret: Any) -> str:
        """A digest that shows whether two secrets of this store's runs are the same, but not what they are.

        It is keyed with a random text that only this store has, so it reveals nothing to somebody who sees it in a
        report. It is slow to compute, so even with the key every guess takes time. Raises StoreError.
        """
        if self._digest_key is None:
            self._create(DIGEST_KEY, write_document({"key": token_hex(32)}))
            found = self._document(DIGEST_KEY)
            assert found is not None  # the key is never removed
            self._digest_key = bytes.fromhex(found["key"])
        text = secret if isinstance(secret, str) else json.dumps(secret, sort_keys=True)
        return hashlib.scrypt(text.encode(), salt=self._digest_key, n=2**14, r=8, p=1, dklen=16).hex()

    def claim(self, key: str, run_id: str, holder: str | None = None) -> str:
        """Give `key` to the holder (default: the run) if nobody has it, and return who has it. Raises StoreError."""
        holder = holder or run_id
        while not self._create(_claim_name(key), write_document({"key": key, "run_id": run_id, "holder": holder})):
            found = self.claimed_by(key)
            if found is not None:  # the claim was not removed meanwhile together with its run
                return found
        return holder

    def claimed_by(self, key: str) -> str | None:
        """Who has `key`. Raises StoreError if that cannot be read."""
        found = self._document(_claim_name(key))
        return None if found is None else str(found["holder"])

    def beat(self, run_id: str) -> None:
        """Note that the process of the run is alive. Raises OSError."""
        self.files.append(f"{HEARTBEATS}/{run_id}", b".")

    def beats(self, run_id: str) -> int | None:
        """A number that changes with each `beat` of the run; None if there was none. Raises OSError."""
        try:
            return len(self.files.read(f"{HEARTBEATS}/{run_id}"))
        except FileNotFoundError:
            return None

    def add_instance(self, identity: str, home: str) -> None:
        """Remember that runs of this Dagster instance are kept here. Raises StoreError."""
        name = f"{INSTANCES}/{identity}"
        if not self.files.exists(name):
            self._create(name, write_document({"home": home}))

    def instances(self) -> dict[str, str]:
        """The Dagster instances whose runs are kept here, and their homes. Raises StoreError."""
        found = {name: self._document(f"{INSTANCES}/{name}") for name in self.files.children(INSTANCES)}
        return {name: document["home"] for name, document in found.items() if document is not None}

    def put_event(self, run_id: str, step: str, attempt: str, event: Event) -> None:
        """Keep an event as it happens, however the stage ends. Raises OSError."""
        name = f"{self.step_folder(run_id, step)}/{attempt}.events"
        self.files.append(name, event.to_json().encode() + b"\n")

    def events(self, run_id: str, step: str) -> Trace:
        """The events of all attempts of a step, even of those that were killed."""
        folder = self.step_folder(run_id, step)
        lines: list[bytes] = []
        for name in self.files.children(folder):
            if name.endswith(".events"):
                # The last line of a killed process may be incomplete.
                lines += self.files.read(f"{folder}/{name}").split(b"\n")[:-1]
        return Trace.from_json(b"[%s]" % b",".join(lines))

    def folder(self, run_id: str) -> UPath:
        """The folder of a run and of those that resume or retry it; it may not exist yet."""
        return self.base / FOLDERS / run_id

    def runs(self) -> Sequence[str]:
        """Every run of which the store has something."""
        return self.files.children(RUNS)

    def steps(self, run_id: str) -> Sequence[str]:
        """The steps of which the store has something."""
        # A process killed while writing the record may have left its temporary file.
        found = self.files.children(f"{RUNS}/{run_id}")
        return [name for name in found if name != RECORD and not name.startswith(TEMPORARY)]

    def step_folder(self, run_id: str, step: str) -> str:
        return f"{RUNS}/{run_id}/{step}"

    def result_name(self, run_id: str, step: str) -> str:
        return f"{self.step_folder(run_id, step)}/{RESULT}"

    def manifests(self, run_id: str) -> Iterator[Manifest]:
        """The manifests of every attempt of a run. Raises StoreError for a damaged one."""
        for step in self.steps(run_id):
            folder = self.step_folder(run_id, step)
            for name in self.files.children(folder):
                if name == RESULT or name.endswith(".failed"):
                    document = self._document(f"{folder}/{name}")
                    if document is not None and "closed_by" not in document:
                        yield Manifest.from_document(document)

    def _document(self, name: str) -> dict[str, Any] | None:
        try:
            return read_document(self.files.read(name), name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{name} in the context store cannot be read: {error.strerror or error}") from error

    def _create(self, name: str, data: bytes) -> bool:
        try:
            return self.files.create(name, data)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(f"cannot write to the context store at {self.base}: {error.strerror or error}")

    # --- writing a Context ---

    def _write_values(
        self,
        context: Context,
        run_id: str,
        step: str,
        attempt: str,
        failure: Mapping[str, Any] | None,
        notes: Mapping[str, Any],
    ) -> tuple[Manifest, _Cells]:
        before = next(
            (one.origin for part in PARTS if isinstance(one := getattr(context, part), StoredDict)),
            None,
        )
        assert before is None or isinstance(before, Manifest)
        try:
            writer = _Writer(self.objects, f"(step {step!r}, run {run_id})", lenient=failure is not None)
            cells = writer.write(context)
            manifest = Manifest(
                run_id,
                step,
                attempt,
                context.experiment_id,
                self._put_experiment(context.experiment, before),
                {
                    part: self._extend_part(
                        before.parts[part] if before else None,
                        {name: [name, cell.ref.to_json(), cell.shared] for name, cell in cells.parts[part].items()},
                    )
                    for part in PARTS
                },
                self._extend(
                    before.outputs if before else None,
                    [[chunk.cell.ref.to_json(), chunk.count] for chunk in cells.outputs],
                ),
                self._extend_trace(before, context.trace),
                failure,
                notes,
            )
        except OSError as error:
            raise self._unwritable(error) from error
        return manifest, cells

    def _extend(self, before: Log | None, items: Sequence[Any]) -> Log:
        """The log of these outputs; if they begin with the outputs before, that log with the new ones added."""
        known = before.items(self.objects, "the manifest before") if before else []
        if before is None or items[: len(known)] != known:
            return Log().extended(items, self.objects)
        return before.extended(items[len(known) :], self.objects)

    def _extend_part(self, before: Log | None, items: Mapping[str, Any]) -> Log:
        """The log of these named entries. If several have the same name, the last counts, at the place of the first."""
        known = {item[0]: item for item in before.items(self.objects, "the manifest before")} if before else {}
        if before is None or list(known) != list(items)[: len(known)]:
            return Log().extended(list(items.values()), self.objects)
        changed = [item for name, item in items.items() if known.get(name) != item]
        return before.extended(changed, self.objects)

    def _extend_trace(self, before: Manifest | None, trace: Trace) -> Log:
        log = before.trace if before else Log()
        known = len(log.items(self.objects, "the trace before"))
        return log.extended(json.loads(Trace(trace.events[known:]).to_json()), self.objects)

    def _put_experiment(self, experiment: Experiment, before: Manifest | None) -> Ref:
        source = experiment.source
        try:
            described = {
                "experiment": experiment.to_json(indent=None),
                "path": source.path if source else None,
                "shown": source.shown if source else None,
            }
            ref, encoded = self.objects.ref(described, "the experiment")
            if before is not None and before.experiment == ref:
                return ref
            kept = Experiment.model_validate_json(described["experiment"] or "") == experiment
        except ValueError:  # from pydantic: a stage put something into the experiment that is not JSON
            kept = False
        if not kept:
            ref, encoded = self.objects.ref(experiment, "the experiment")
        self.objects.write(ref, encoded, "the experiment")
        return ref

    # --- reading a Context ---

    def _context(self, manifest: Manifest) -> Context:
        where = f"(step {manifest.step!r}, run {manifest.run_id})"
        described = self.objects.get(manifest.experiment, f"the experiment {where}")
        experiment = described if isinstance(described, Experiment) else _experiment(described)
        # Stages beside the experiment file may have put objects of classes into the Context that are defined there.
        objects = self.objects.beside(experiment.folder)
        shared: dict[str, Cell] = {}
        cells: dict[str, dict[str, Cell]] = {}
        for part in PARTS:
            cells[part] = {}
            for name, ref, group in manifest.parts[part].items(self.objects, f"{part} {where}"):
                cell = Cell(objects, Ref.from_json(ref), f"{part}[{name!r}] {where}")
                if group is not None:
                    cell = shared.setdefault(f"{group} {cell.ref.digest}", cell)
                    cell.shared = group
                cells[part][name] = cell
        outputs = [
            Chunk(Cell(objects, Ref.from_json(ref), f"outputs {where}"), count)
            for ref, count in manifest.outputs.items(self.objects, f"outputs {where}")
        ]
        events = manifest.trace.items(self.objects, f"the trace {where}")
        context = Context(
            manifest.experiment_id,
            manifest.run_id,
            experiment,
            trace=Trace.from_json(json.dumps(events)),
        )
        return _restored(context, manifest, _Cells(cells, outputs))


@dataclass(frozen=True, slots=True)
class _Cells:
    parts: Mapping[str, Mapping[str, Cell]]
    outputs: Sequence[Chunk]
    lost: Sequence[str] = ()


class _Writer:
    """Writes the values of one Context; each object is written once, no matter how many names it has.

    If `lenient`, a value that cannot be stored is left out, or kept as it was stored before, and is listed in `lost`.
    """

    def __init__(self, objects: ObjectStore, where: str, *, lenient: bool) -> None:
        self.objects = objects
        self.where = where
        self.lenient = lenient
        self.lost: list[str] = []
        self.again: dict[int, Cell] = {}
        """New cells, by the id of the cell that a value was read through."""
        self.by_value: dict[int, Cell] = {}
        self.uses: dict[int, int] = {}

    def write(self, context: Context) -> _Cells:
        entries = {part: entries_of(getattr(context, part)) for part in PARTS}
        for part in PARTS:
            for name, entry in entries[part].items():
                if isinstance(entry, Cell) and id(entry) not in self.again:
                    again = self.again[id(entry)] = self._again(entry, f"{part}[{name!r}]")
                    if entry.is_read:
                        self._remember(entry.value, again)
        parts: dict[str, dict[str, Cell]] = {}
        for part in PARTS:
            parts[part] = {}
            for name, entry in entries[part].items():
                cell = self._cell(entry, f"{part}[{name!r}]")
                if cell is not None:
                    parts[part][name] = cell
        return _Cells(parts, self._outputs(context.outputs), self.lost)

    def _again(self, cell: Cell, place: str) -> Cell:
        try:
            return cell.stored_again(self.objects, f"{place} {self.where}")
        except StoreError as error:
            self._lose(error)
            return cell.unread()

    def _lose(self, error: StoreError) -> None:
        if not self.lenient:
            raise error
        self.lost.append(str(error))

    def _cell(self, entry: Any, place: str) -> Cell | None:
        if isinstance(entry, Cell):
            cell = self.again[id(entry)]
        elif (found := self.by_value.get(id(entry))) is not None:
            cell = found
        else:
            try:
                cell = self._put(entry, f"{place} {self.where}")
            except StoreError as error:
                self._lose(error)
                return None
            self._remember(entry, cell)
        self.uses[id(cell)] = self.uses.get(id(cell), 0) + 1
        if self.uses[id(cell)] > 1 and cell.shared is None:
            cell.shared = uuid.uuid4().hex[:12]
        return cell

    def _remember(self, value: Any, cell: Cell) -> None:
        if not isinstance(value, str | bytes | int | float | complex | None):  # these cannot be changed in place
            self.by_value[id(value)] = cell

    def _outputs(self, outputs: Sequence[Any]) -> Sequence[Chunk]:
        if not isinstance(outputs, StoredList):
            return self._chunks(list(outputs))
        kept = [Chunk(self._again(chunk.cell, "outputs"), chunk.count) for chunk in outputs.chunks]
        return [*kept, *self._chunks(outputs.added())]

    def _chunks(self, added: list[Any]) -> Sequence[Chunk]:
        if not added:
            return []
        try:
            return [Chunk(self._put(added, f"outputs {self.where}"), len(added))]
        except StoreError as error:
            fit, blamed = [], []
            for index, output in enumerate(added):
                try:
                    self.objects.put(output, f"outputs[{index}] {self.where}")
                    fit.append(output)
                except StoreError as unfit:
                    blamed.append(unfit)
            for one in blamed or [error]:
                self._lose(one)
            return self._chunks(fit) if blamed else []

    def _put(self, value: Any, where: str) -> Cell:
        ref, encoded = self.objects.ref(value, where)
        self.objects.write(ref, encoded, where)
        cell = Cell(self.objects, ref, where, value, ref)
        cell.exact = encoded.exact
        return cell


def _restored(context: Context, manifest: Manifest, cells: _Cells) -> Context:
    reads = Reads()
    parts = {part: StoredDict(cells.parts[part], part, reads, manifest) for part in PARTS}
    return untracked(context)._replace(**parts, outputs=StoredList(cells.outputs, reads))


def _experiment(described: Mapping[str, Any]) -> Experiment:
    experiment = Experiment.model_validate_json(described["experiment"])
    if described["path"] is not None:
        experiment.read_from(Source(described["path"], described["shown"]))
    return experiment


def _claim_name(key: str) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"{CLAIMS}/{digest[:2]}/{digest[2:]}"
