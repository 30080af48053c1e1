"""From an experiment file to an Experiment, or to an InvalidExperimentError that says where and why.

The file is untrusted. It is read as a stream of parser events, without recursion, and limits on size, depth and number
of values are checked before anything is built. YAML is read by the core schema of YAML 1.2.2 (section 10.3), so `1e-3`
is a number and `on` is not a boolean. A text that YAML 1.1 readers take for something else must be quoted.
"""

from __future__ import annotations

import codecs
import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from crucible_core.errors import InvalidExperimentError, Location
from crucible_core.ir.experiment import Experiment, Source
from crucible_core.ir.fields import Node
from crucible_core.ir.lock import Lock
from crucible_core.values.arguments import check_instance
from crucible_core.values.messages import describe_mistake, without_echoes

if TYPE_CHECKING:
    from crucible_core.ir.guarded_yaml import Place

__all__ = ["LOCK", "experiment_from", "is_experiment", "load_document", "load_experiment", "lock_file", "parse_scalar"]

MAX_BYTES = 1_000_000
MAX_MISTAKES = 100
"""Wording a mistake takes up to a millisecond, and nobody reads more of them."""
LOCK = ".lock.yaml"


def load_experiment(path: str | os.PathLike[str]) -> Experiment:
    """Read an experiment from a YAML (`.yaml`, `.yml`) or JSON (`.json`) file.

    Nothing is imported: stages are looked up when the experiment is run, validated or compiled. A symbolic link counts
    as being in its own folder, unless the modules of its stages are only beside the file that it leads to.

    If there is a NAME.lock.yaml beside it, the experiment has it as its `lock`.

    Raises InvalidExperimentError with the file, the line and the column of the first mistake; its `others` are the
    further ones.
    """
    check_instance("load_experiment", path, (str, os.PathLike), "the path of a file")
    file = Path(path)
    if file.name.endswith(LOCK):
        raise InvalidExperimentError(
            "this is a lock, which `crucible lock` has written; name the experiment file", location=Location(str(file))
        )
    data, source = load_document(path)
    experiment = _locked(experiment_from(data, source), lock_file(file))
    if file.is_symlink() and not _has_modules(file.parent, experiment):
        target = file.resolve()
        if _has_modules(target.parent, experiment):
            experiment.read_from(replace(source, path=str(target)))
    return experiment


def lock_file(file: Path) -> Path:
    """Where the lock of an experiment file is, if it was locked."""
    return file.with_name(f"{file.stem}{LOCK}")


def _locked(experiment: Experiment, file: Path) -> Experiment:
    """The experiment with the lock in that file, if it exists. Raises InvalidExperimentError if it is not a lock."""
    if experiment.lock is not None or not file.is_file():
        return experiment
    data, source = load_document(file)
    try:
        lock = Lock.model_validate(data)
    except ValidationError as error:
        raise _mistakes(error, source, Lock) from None
    locked = experiment.model_copy(update={"lock": lock})
    locked.__pydantic_fields_set__.add("lock")
    return locked.read_from(experiment.source) if experiment.source else locked


def _has_modules(folder: Path, experiment: Experiment) -> bool:
    """Whether the module of some stage or resource is in the folder."""
    named = [one.module for one in experiment.pipeline]
    named += [one.module for one in (experiment.resources or {}).values()]
    tops = {one.split(":")[0].split(".")[0] for one in named if one and ":" in one}
    return any((folder / f"{top}.py").is_file() or (folder / top).is_dir() for top in tops)


def is_experiment(file: Path) -> bool:
    """Whether a YAML or JSON file is an experiment, right or wrong, and not one of the other files in its folder.

    An experiment is a mapping with `id` or `pipeline`; a component of `dg`, of whatever type, is not one. A file that
    cannot be read, or has both words and cannot be parsed, counts as one, so that its mistake is reported.
    """
    from crucible_core.ir.guarded_yaml import parse_json, parse_yaml  # noqa: PLC0415  # as below

    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES)
    except OSError:
        return True
    text = raw.decode(_wide_encoding(raw) or "utf-8-sig", errors="replace")
    if all(re.search(rf"(?m)^{key}\s*:", text) for key in ("type", "attributes")):
        return False
    if re.search(rf"(?m)^{_KEY}", text):
        return True
    mentioned = {found[1] for found in re.finditer(_KEY, text) if _begins_an_entry(text, found.start())}
    if not mentioned:
        return False
    try:
        data = parse_json(text, "") if file.suffix.lower() == ".json" else parse_yaml(text, "")[0]
    except InvalidExperimentError:
        data = None
    return not mentioned.isdisjoint(data) if isinstance(data, dict) else len(mentioned) > 1


MAX_INDENT = 200
_KEY = r"""["']?(id|pipeline)["']?\s*:"""


def _begins_an_entry(text: str, place: int) -> bool:
    """Whether a key may be there: at the beginning of a line or of a mapping, or after a comma."""
    # Searched backwards from the key, and not far: a forward search would start anew at every blank of a long run.
    before = text[max(0, place - MAX_INDENT) : place]
    stated = before.rstrip(" \t\r\n{-")
    return not stated or stated[-1] == "," or not {"\n", "{"}.isdisjoint(before[len(stated) :])


def _wide_encoding(raw: bytes) -> str | None:
    """The encoding of text in UTF-16, as Windows programs write it; None for other text."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return {b"\0": "utf-16-be"}.get(raw[:1]) or {b"\0": "utf-16-le"}.get(raw[1:2])


def load_document(path: str | os.PathLike[str], *, number: int | None = None) -> tuple[Any, Source]:
    """The content of a YAML or JSON file, read by the rules of experiment files, and the place of each value.

    A file of several YAML documents is refused, unless `number` (0 is the first) selects one.

    Raises InvalidExperimentError for a file that cannot be read or parsed.
    """
    # Only for those who read a file: it compiles ten patterns.
    from crucible_core.ir.guarded_yaml import json_positions, parse_json, parse_yaml  # noqa: PLC0415

    file = Path(path)
    _check_suffix(file)
    text = _read(file)
    shown = str(file)
    positions: Callable[[], Mapping[Place, tuple[int, int]]]
    if file.suffix.lower() == ".json":
        data = parse_json(text, shown)
        positions = functools.cache(lambda: json_positions(text))
    else:
        data, found = parse_yaml(text, shown, number)
        positions = lambda: found  # noqa: E731
    return data, Source(str(file.absolute()), shown, positions)


def _check_suffix(file: Path) -> None:
    if file.suffix == ".py":
        near = _experiments_in(file.parent)
        there = f"; beside it: {', '.join(near)}" if near else ""
        raise InvalidExperimentError(
            f"this is Python; an experiment is a YAML or JSON file{there}", location=Location(str(file))
        )


def _experiments_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*") if file.suffix in {".yaml", ".yml", ".json"})[:10]


def experiment_from(data: Any, source: Source | None) -> Experiment:
    """The experiment that plain data describes; mistakes are located in `source`, where the data was read.

    Raises InvalidExperimentError for data that do not describe an experiment.
    """
    if not isinstance(data, dict):
        raise InvalidExperimentError(
            f"an experiment is a mapping with `id:` and `pipeline:`, but this file holds {_kind(data)}",
            location=source.location() if source else None,
        )
    try:
        experiment = Experiment.model_validate(data)
    except ValidationError as error:
        raise _mistakes(error, source) from None
    return experiment.read_from(source) if source else experiment


def parse_scalar(text: str) -> Any:
    """A value from the command line: a number, a boolean or null as in an experiment file, `[1, 2]`, `{a: b}`, or text.

    A text is taken as it is, whatever is in it (`#ff0000`, `a: b`). In quotes, it is never taken for anything else.

    Raises InvalidExperimentError for a list, mapping or quoted text that is not complete, and for a text that YAML 1.1
    takes for something else.
    """
    from crucible_core.ir.guarded_yaml import is_flow, parse_flow, resolve_plain  # noqa: PLC0415  # as above

    given = text.strip()
    try:
        value = parse_flow(given) if is_flow(given) else resolve_plain(given)
    except ValueError as error:
        raise InvalidExperimentError(str(error)) from None
    return text if value == given else value


def _kind(data: Any) -> str:
    if data is None:
        return "nothing"
    return "a list" if isinstance(data, list) else f"the single value {data!r:.80}"


def _read(file: Path) -> str:
    shown = Location(str(file))
    try:
        if file.is_dir():
            raise InvalidExperimentError("is a folder; name an experiment file in it", location=shown)
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = _experiments_in(file.parent)
        there = f"; its folder holds: {', '.join(near)}" if near else ""
        raise InvalidExperimentError(f"there is no such file{there}", location=shown) from None
    except (OSError, ValueError) as error:
        raise InvalidExperimentError(
            f"cannot be read: {getattr(error, 'strerror', None) or error}", location=shown
        ) from error
    if len(raw) > MAX_BYTES:
        raise InvalidExperimentError(
            f"is larger than {MAX_BYTES:,} bytes; an experiment names its data, it does not contain it", location=shown
        )
    if _wide_encoding(raw):
        raise InvalidExperimentError("this file is UTF-16; save it as UTF-8", location=shown)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidExperimentError(
            f"this file is not UTF-8: byte {error.start} is {raw[error.start]:#04x}; save it as UTF-8", location=shown
        ) from error


def _mistakes(error: ValidationError, source: Source | None, model: type[Node] = Experiment) -> InvalidExperimentError:
    found = []
    told = error.errors(include_url=False)
    for mistake in without_echoes(told[:MAX_MISTAKES]):
        place = tuple(mistake.get("ctx", {}).get("place", mistake["loc"]))
        location = source.location(*place) if source else None
        found.append(InvalidExperimentError(describe_mistake(mistake, model), location=location))
    found.sort(key=lambda one: (one.line or 0, one.column or 0))
    if (more := len(told) - MAX_MISTAKES) > 0:
        found.append(InvalidExperimentError(f"and {more:,} more mistakes, which are shown when these are corrected"))
        found[-1].location = found[0].location and Location(found[0].location.path)
    return InvalidExperimentError.of(found)
