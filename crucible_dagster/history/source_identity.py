"""Which code a stage is: its name and a hash of its source."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator

from crucible_core import Stage
from crucible_core.stage import FunctionStage, state_of_source
from crucible_core.values.jsonable import safe_text
from crucible_core.values.messages import BESIDE, as_written


@functools.lru_cache(maxsize=1024)
def stage_identity(stage: type[Stage]) -> tuple[str, str | None]:
    """The qualified name of a stage's class, and a hash of the source of the modules that define it.

    The hash covers the modules of the class and of its base classes, down to `Stage`, but not what these import. It is
    None for a class whose source does not determine its behaviour: if it was typed at a prompt, made by a function that
    can make others with that name, or imported from a file that was changed afterwards.
    """
    if not _is_what_its_source_says(stage):
        return _qualified(stage), None
    digest = hashlib.sha256()
    for name in dict.fromkeys(modules_of(stage)):
        source = _source_of(name)
        if source is None:
            return _qualified(stage), None
        digest.update(f"{as_written(name)}\0{len(source)}\0".encode())
        digest.update(source.encode(errors="surrogatepass"))
    return _qualified(stage), digest.hexdigest()


def _is_what_its_source_says(stage: type[Stage]) -> bool:
    made = inspect.unwrap(stage.function) if issubclass(stage, FunctionStage) else stage
    if "<locals>" in made.__qualname__ or getattr(made, "__closure__", None):
        return False
    return all(
        cls.source_when_defined == state_of_source(cls.__module__)
        for cls in stage.__mro__
        if issubclass(cls, Stage) and cls not in FunctionStage.__mro__
    )


def _qualified(stage: type[Stage]) -> str:
    return safe_text(as_written(f"{stage.__module__}:{stage.__qualname__}"))


def modules_of(stage: type[Stage]) -> Iterator[str]:
    """The modules of the class and of all that it inherits from, down to `Stage`."""
    for cls in stage.__mro__:
        if cls not in FunctionStage.__mro__:
            yield cls.__module__
    if issubclass(stage, FunctionStage):
        yield inspect.unwrap(stage.function).__module__


def packages_of(stage: type[Stage]) -> set[str]:
    """The packages of those modules; modules beside an experiment file form one package, and have plain names too."""
    found = set()
    for name in modules_of(stage):
        found.add(as_written(name).partition(".")[0])
        if name.startswith(BESIDE):
            found.add(BESIDE + name.removeprefix(BESIDE).partition(".")[0])
    return found


def _source_of(module: str) -> str | None:
    try:
        return inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError, SyntaxError, UnicodeDecodeError):
        return None
