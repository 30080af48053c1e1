"""The folder of a run, which the runs that resume or retry it share, and the checkpoints that stages keep in it.

Whatever runs stages says where the folder of a run is; nothing is made before a stage asks for it. For a Context that
belongs to no run, as in a test of a stage, it is a temporary folder of this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

from pydantic_core import to_jsonable_python

from crucible_core.errors import CrucibleError

__all__ = ["Kept", "folder_of", "kept_in", "part_of_run", "place_of", "restore", "save"]


class Kept(NamedTuple):
    """Where the folder of a run is."""

    find: Callable[[], Any]
    """The folder, a Path, or what behaves like one on an object store; it need not exist."""
    allow_pickle: bool = True


_RUNS: dict[str, Kept] = {}  # by run, and not in a context variable: threads of a stage see it too
_temporary: list[tempfile.TemporaryDirectory[str]] = []
_part: ContextVar[str] = ContextVar("crucible_part_of_run", default="")


@contextlib.contextmanager
def kept_in(run_id: str, kept: Kept) -> Iterator[None]:
    """Says where the run's folder is, while its stages run in this process."""
    before = _RUNS.get(run_id)
    _RUNS[run_id] = kept
    try:
        yield
    finally:
        if before is None:
            _RUNS.pop(run_id, None)
        else:
            _RUNS[run_id] = before


@contextlib.contextmanager
def part_of_run(name: str) -> Iterator[None]:
    """While a part of a run, such as a trial, runs with a folder of its own inside the run's."""
    token = _part.set(name)
    try:
        yield
    finally:
        _part.reset(token)


def place_of(run_id: str) -> Kept:
    """Where the folder is, which may not exist yet."""
    kept = _RUNS.get(run_id)
    if kept is not None:
        return kept
    if not _temporary:
        _temporary.append(tempfile.TemporaryDirectory(prefix="crucible-", ignore_cleanup_errors=True))
    return Kept(lambda: Path(_temporary[0].name) / run_id)


def folder_of(run_id: str) -> Any:
    """The folder, made if it does not exist."""
    folder = place_of(run_id).find()
    if part := _part.get():
        folder = folder / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save(ctx: Any, name: str, value: Any) -> tuple[str, str]:
    """Keep the value as the stage's checkpoint of that name; returns the artifact's name and path.

    It replaces the one before only when all of it is written: a killed process leaves one of the two.
    """
    path = _checkpoint(ctx, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = pickle.dumps(value, protocol=5)
    if _is_remote(path):
        path.write_bytes(content)  # an object store shows an object when all of it is there
    else:
        written = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
        try:
            with written.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            written.replace(path)
        finally:
            written.unlink(missing_ok=True)
    return f"checkpoint.{_stage_of(ctx)}.{name}", str(path)


def restore(ctx: Any, name: str, default: Any) -> Any:
    """The stage's last checkpoint of that name in this run or those that it continues, or the default."""
    try:
        content = _checkpoint(ctx, name).read_bytes()
    except FileNotFoundError:
        return default
    return pickle.loads(content)  # noqa: S301  # written by `save`, in a folder that is trusted as the store is


def _checkpoint(ctx: Any, name: str) -> Any:
    if not place_of(ctx.run_id).allow_pickle:
        raise CrucibleError(
            f"checkpoint {name!r} needs pickle, which this deployment does not allow (CRUCIBLE_ALLOW_PICKLE); write a "
            "file of your own in ctx.folder"
        )
    stage = _stage_of(ctx)
    names = [one.name for one in ctx.experiment.pipeline]
    until = ctx.experiment.pipeline[: names.index(stage) + 1] if stage in names else ()
    # With other options, of this stage or one before it, an earlier attempt did not do what this one would do.
    asked = to_jsonable_python([[[one.module, one.options] for one in until], ctx.experiment.seed])
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    return folder_of(ctx.run_id) / "checkpoints" / f"{quote(stage or '-', '')}-{key}" / f"{quote(name, '')}.pickle"


def _stage_of(ctx: Any) -> str:
    return ctx.trace.events[-1].stage if len(ctx.trace) else ""


def _is_remote(path: Any) -> bool:
    return getattr(path, "protocol", "") not in {"", "file", "local"}
