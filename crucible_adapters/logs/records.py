"""What the logs of all tools become: one output for each answer, with its item, epoch and cluster."""

from __future__ import annotations

import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field

from crucible_core.context import Context
from crucible_core.errors import CrucibleError
from crucible_core.stage import Stage
from crucible_core.values.messages import closest, listing

__all__ = ["Answer", "LoadLogs", "Log", "LogError", "cluster_in", "digest_of", "the_one"]

MEGABYTE = 1_000_000


class LogError(CrucibleError, ValueError):
    """A log cannot be read, or logs do not fit together. The message is enough; a traceback would add nothing."""

    explains_itself: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to one item."""

    item: str
    epoch: int
    """Which answer to the item this is, counted from 1."""
    score: float | None
    """None if the sample failed, or its score is not a number."""
    answer: str | None
    target: str | None
    cluster: str | None
    content: str
    """A digest of the question, the same in every log that asked it."""


@dataclass(frozen=True, slots=True)
class Log:
    """One log of one task."""

    path: Path
    task: str
    model: str | None
    answers: Sequence[Answer]


class LoadLogs(Stage):
    """The base of the stages that load logs."""

    logs: dict[str, str | list[str]] = Field(min_length=1)
    """The name of each group, and its logs: a file, a folder, or a list of them, relative to the experiment's file.
    Further logs of a task in one group are further epochs."""
    tasks: list[str] | None = Field(default=None, min_length=1)
    """The tasks to read (default: all). If a group has several, its items are named `TASK/ITEM`."""
    cluster: str | None = None
    """The field of an item that says which items are not independent, such as `passage`; a dot goes into a mapping
    (default: each item is a cluster of its own)."""
    same_questions: bool = True
    """Refuse logs in which the same item has different questions."""
    max_megabytes: int = Field(default=2_000, ge=1)
    """The largest size of one log after unpacking, in MB."""

    @abstractmethod
    def read(self, path: Path) -> Iterator[Log]:
        """The logs in the file or folder.

        Raises LogError if there is none, or one cannot be read.
        """

    def run(self, ctx: Context) -> Context:
        groups = {name: self._logs_of(ctx, name, places) for name, places in self.logs.items()}
        several = any(len({log.task for log in logs}) > 1 for logs in groups.values())
        asked: dict[tuple[str | None, str], tuple[str, Path]] = {}
        outputs: list[dict[str, Any]] = []
        summaries = {}
        for group, logs in groups.items():
            own: list[dict[str, Any]] = []
            epochs: dict[str, int] = {}
            for log in logs:
                before = epochs.get(log.task, 0)
                for one in log.answers:
                    if self.same_questions:
                        _check_same(asked, log, one, several)
                    epochs[log.task] = max(epochs.get(log.task, 0), before + one.epoch)
                    item = f"{log.task}/{one.item}" if several else one.item
                    own.append(
                        {
                            "group": group,
                            "task": log.task,
                            "model": log.model,
                            "item": item,
                            "epoch": before + one.epoch,
                            "cluster": item if self.cluster is None else one.cluster,
                            "score": one.score,
                            "answer": one.answer,
                            "target": one.target,
                        }
                    )
            outputs += own
            summaries[group] = _summary(logs, own)
        earlier = ctx.get_metric("logs", {})
        return ctx.add_outputs(outputs).put_metric("logs", {**earlier, **summaries})

    def _logs_of(self, ctx: Context, group: str, places: str | list[str]) -> list[Log]:
        paths = [ctx.experiment.path(place) for place in ([places] if isinstance(places, str) else places)]
        found: list[Log] = []
        known: dict[str, None] = {}
        for path in paths:
            if not path.exists():
                beside = sorted(one.name for one in path.parent.iterdir()) if path.parent.is_dir() else []
                raise LogError(f"logs: {group}: there is no file or folder {path}{closest(path.name, beside)}")
            for log in self.read(path):
                known[log.task] = None
                if self.tasks is None or log.task in self.tasks:
                    found.append(log)
        lacking = next((task for task in self.tasks or () if task not in known), None)
        if lacking is not None:
            raise LogError(
                f"logs: {group}: no log is of task {lacking!r}{closest(lacking, known)}; tasks: {listing(known)}"
            )
        files = [(log.path.resolve(), log.task) for log in found]
        twice = next((file for place, file in enumerate(files) if file in files[:place]), None)
        if twice is not None:
            raise LogError(f"logs: {group}: {twice[0].name} is named twice")
        if not any(log.answers for log in found):
            raise LogError(f"logs: {group}: there is no answer in {', '.join(str(path) for path in paths)}")
        return found


def _check_same(asked: dict[tuple[str | None, str], tuple[str, Path]], log: Log, one: Answer, several: bool) -> None:
    content, path = asked.setdefault((log.task if several else None, one.item), (one.content, log.path))
    if content != one.content:
        raise LogError(
            f"item {one.item!r} is one question in {path.name} and another in {log.path.name}: these logs are of "
            "different data; `same_questions: false` compares them all the same"
        )


def _summary(logs: Sequence[Log], outputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores = [one["score"] for one in outputs if one["score"] is not None]
    return {
        "models": list(dict.fromkeys(log.model for log in logs if log.model is not None)),
        "tasks": list(dict.fromkeys(log.task for log in logs)),
        "logs": len(logs),
        "items": len({one["item"] for one in outputs}),
        "answers": len(outputs),
        "missing": len(outputs) - len(scores),
        "mean": fmean(scores) if scores and all(map(math.isfinite, scores)) else None,
    }


def cluster_in(fields: Any, name: str | None, where: str) -> str | None:
    """The item's cluster as text; None if no field is named.

    Raises LogError if the item has no such field, or its value is not a name.
    """
    if name is None:
        return None
    held = fields
    for part in name.split("."):
        if not isinstance(held, Mapping) or part not in held:
            has = listing(held) if isinstance(held, Mapping) else f"{held!r:.80}"
            raise LogError(f"{where} has no field {name!r} for `cluster`; there is: {has}")
        held = held[part]
    if not isinstance(held, str | int):
        raise LogError(f"{where} has a {name!r} that is not a name: {held!r:.80}")
    return str(held)


def digest_of(*values: Any) -> str:
    """A digest that is equal for equal JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def the_one(option: str, chosen: str | None, found: Sequence[str], where: str) -> str:
    """The name in `found` that was chosen, or the only one if none was chosen.

    Raises LogError if the chosen one is not there, or if there are several and none was chosen.
    """
    if chosen is None and len(found) == 1:
        return found[0]
    if chosen in found:
        return str(chosen)
    raise _not_one(option, chosen, found, where)


def _not_one(option: str, chosen: str | None, found: Sequence[str], where: str) -> LogError:
    if not found:
        return LogError(f"{where} has no {option}")
    there = listing(found)
    if chosen is None:
        return LogError(f"{where} has several {option}s, {there}: choose one with `{option}`")
    return LogError(f"{where} has no {option} {chosen!r}{closest(chosen, found)}; there is: {there}")
