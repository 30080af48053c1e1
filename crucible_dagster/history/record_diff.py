"""How the records of two runs differ: options, the experiment, code, and the surroundings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from crucible_core.report import flatten
from crucible_core.values.jsonable import to_json_text
from crucible_dagster.history.run_record import RunRecord, StageRecord

__all__ = ["Change", "RecordChanges", "changes_between", "code_of", "git_of", "varied_options"]


@dataclass(frozen=True, slots=True)
class Change:
    """Something that differs between two runs; a side is None if its run does not have it."""

    name: str
    a: Any
    b: Any


class RecordChanges(NamedTuple):
    """What differs; everything is empty if one of the runs has no record."""

    options: tuple[Change, ...] = ()
    experiment: tuple[Change, ...] = ()
    code: tuple[Change, ...] = ()
    surroundings: tuple[Change, ...] = ()
    packages: tuple[Change, ...] = ()


def changes_between(a: RunRecord | None, b: RunRecord | None) -> RecordChanges:
    """How the record of one run differs from that of another; `RunComparison` says what each part holds."""
    if a is None or b is None:
        return RecordChanges()
    return RecordChanges(
        options=_changes(_options(a), _options(b)),
        experiment=_changes(_experiment(a), _experiment(b)),
        code=_changes(_code(a), _code(b)),
        surroundings=_changes(_surroundings(a), _surroundings(b)),
        packages=_changes(a.packages, b.packages),
    )


def varied_options(records: Iterable[RunRecord]) -> dict[str, dict[str, Any]]:
    """Run -> its values of the options that differ among these runs of an experiment."""
    by_experiment: dict[Any, dict[str, dict[str, Any]]] = {}
    for record in records:
        by_experiment.setdefault(record.experiment.get("id"), {})[record.run_id] = _options(record)
    found = {}
    for runs in by_experiment.values():
        seen: dict[str, set[str]] = {}
        for options in runs.values():
            for name, value in options.items():
                seen.setdefault(name, set()).add(to_json_text(value))
        for run_id, options in runs.items():
            found[run_id] = {name: value for name, value in options.items() if len(seen[name]) > 1}
    return found


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Change, ...]:
    # Types count too: 1 is not true, and an option with the value null is not a missing one.
    return tuple(
        Change(name, a.get(name), b.get(name))
        for name in dict.fromkeys([*a, *b])
        if (name in a, type(a.get(name)), a.get(name)) != (name in b, type(b.get(name)), b.get(name))
    )


def _options(record: RunRecord) -> dict[str, Any]:
    shown = {f"{stage.name}.{name}": value for stage in record.stages for name, value in flatten(stage.options)}
    # So that a changed secret is a difference.
    secrets = {f"{stage.name}.{place}": digest for stage in record.stages for place, digest in stage.secrets.items()}
    return {**shown, **{name: f"secret {digest[:8]}" for name, digest in secrets.items()}}


def _experiment(record: RunRecord) -> dict[str, Any]:
    pipeline = record.experiment.get("pipeline")
    entries = [one for one in pipeline if isinstance(one, dict)] if isinstance(pipeline, list) else []
    stages = {
        f"stage.{one.get('name')}.{key}": value for one in entries for key, value in one.items() if key not in _TOLD
    }
    rest = {key: value for key, value in record.experiment.items() if key != "pipeline"}
    return dict(flatten({**rest, "stages": [stage.name for stage in record.stages], **stages}))


_TOLD = frozenset({"name", "options"})  # shown elsewhere in a comparison


def _code(record: RunRecord) -> dict[str, str]:
    return {stage.name: code_of(stage) for stage in record.stages}


def code_of(stage: StageRecord) -> str:
    """The class of a stage and twelve digits of the hash of its code, in one line."""
    found = stage.code_hash.partition(":")[2] if stage.code_hash else stage.source_hash
    return f"{stage.stage} {found[:12] if found else 'no source'}"


def git_of(record: RunRecord) -> str | None:
    """The commit, the branch and whether files differ from it, in one line."""
    git = record.git
    if git is None:
        return None
    dirty = {True: ", changed", False: "", None: ", not known whether changed"}[git.dirty]
    return f"{git.commit[:12]}{f' ({git.branch})' if git.branch else ''}{dirty}"


def _surroundings(record: RunRecord) -> dict[str, str]:
    git = git_of(record)
    known = {"git": git} if git else {}
    return {**known, "python": record.python, "platform": record.platform, "host": record.host}
