"""Why an earlier result of a stage was reused, or why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dagster import DagsterInstance

from crucible_core import CrucibleError
from crucible_core.values.messages import closest
from crucible_dagster.execute.stage_cache import described_read
from crucible_dagster.history.history import History
from crucible_dagster.history.recorded import recorded_run
from crucible_dagster.store.io_manager import open_store
from crucible_dagster.store.lazy import NEVER_THE_SAME

__all__ = ["Part", "Why", "explain_stage"]


Verdict = Literal["same", "different", "only then", "only now"]


@dataclass(frozen=True, slots=True)
class Part:
    """Something that the result of the stage depends on."""

    part: str
    then: str | None
    """Its digest or text in the earlier run; None if it did not exist."""
    now: str | None
    """The same for the run in question."""
    verdict: Verdict
    values: tuple[str | None, str | None] = (None, None)
    """The values then and now as text for people, if they are short; for code, the pieces that differ."""

    def __str__(self) -> str:
        """Such as `n: 30 -> 40`."""
        then, now = self.values
        name = self.part.removeprefix("option ")
        if self.part == "code" and (then or now):
            if then == now:
                return f"code of {now}"
            return f"code: {then or 'nothing'} -> {now or 'nothing'}"
        return name if then is None or now is None or then == now else f"{name}: {then} -> {now}"


@dataclass(frozen=True, slots=True)
class Why:
    """What happened to a stage with `cache: true`, and what its result depends on."""

    run_id: str
    stage: str
    reused_from: str | None
    compared_with: str | None
    """The last run that had a result of this stage of the experiment."""
    verdict: str
    parts: tuple[Part, ...]


def explain_stage(instance: DagsterInstance, run: str, stage: str) -> Why:
    """Explain why a result was reused or not, part by part.

    Raises CrucibleError if there is no such run or stage, or the stage has no result.
    """
    record = recorded_run(History(instance), run)
    found = next((one for one in record.stages if one.name == stage), None)
    if found is None:
        names = [one.name for one in record.stages]
        raise CrucibleError(
            f"run {record.run_id} has no stage {stage!r}{closest(stage, names)}; it has: {', '.join(names)}"
        )
    if found.from_run is not None:
        earlier = explain_stage(instance, found.from_run, stage)
        verdict = f"{stage} was not run: its result is that of run {found.from_run}, which this run resumes. There, "
        return replace(earlier, run_id=record.run_id, verdict=verdict + earlier.verdict)
    manifest = open_store(instance).find(record.run_id, found.step)
    if manifest is None:
        raise CrucibleError(f"stage {stage!r} has no result in run {record.run_id}: it failed, or did not begin")
    notes: Mapping[str, Any] | None = manifest.notes.get("reuse")
    if notes is None:
        verdict = f"{stage} was run: its entry in the experiment does not have `cache: true`"
        return Why(record.run_id, stage, None, None, verdict, ())
    depends = {**notes["key"], **{described_read(tuple(read)): digest for read, digest in notes["reads"]}}
    shown: Mapping[str, str] = notes.get("shown", {})
    if notes.get("from"):
        verdict = f"{stage} was reused from run {notes['from']}: everything that the result depends on is the same"
        same = tuple(
            Part(name, digest, digest, "same", (shown.get(name), shown.get(name))) for name, digest in depends.items()
        )
        return Why(record.run_id, stage, notes["from"], notes["from"], verdict, same)
    now = tuple(Part(name, None, digest, "only now", (None, shown.get(name))) for name, digest in depends.items())
    if notes.get("unknown"):
        verdict = f"{stage} was run: nothing is reused, because {notes['unknown']}"
        return Why(record.run_id, stage, None, None, verdict, now)
    never = [name for name, digest in depends.items() if digest == NEVER_THE_SAME]
    if never:
        verdict = f"{stage} was run: it reads ctx.{never[0]}, which is different in every run"
        return Why(record.run_id, stage, None, None, verdict, now)
    if notes.get("fresh"):
        return Why(record.run_id, stage, None, None, f"{stage} was run because of --fresh", now)
    if notes.get("last") is None:
        verdict = f"{stage} was run: there was no earlier result of this stage of the experiment"
        return Why(record.run_id, stage, None, None, verdict, now)
    parts = tuple(_part(part) for part in notes["parts"])
    differ = [str(part) for part in parts if part.verdict != "same"]
    verdict = f"{stage} was run: since run {notes['last']}, this is different: {', '.join(differ)}"
    return Why(record.run_id, stage, None, notes["last"], verdict, parts)


def _part(found: Mapping[str, Any]) -> Part:
    then, now = found["then"], found["now"]
    earlier, later = found.get("values", (None, None))
    if then == now:
        return Part(found["part"], then, now, "same", (earlier, later))
    verdict: Verdict = "only now" if then is None else "only then" if now is None else "different"
    return Part(found["part"], then, now, verdict, (earlier, later))
