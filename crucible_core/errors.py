"""The root of all errors, and those raised before the first stage; `run_errors` has those of a run that has begun."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

__all__ = [
    "CrucibleError",
    "InvalidExperimentError",
    "InvalidOptionsError",
    "Location",
    "MissingExtraError",
    "UnknownStageError",
]


@dataclass(frozen=True, slots=True)
class Location:
    """A place in an experiment file; lines and columns count from 1."""

    path: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.path, self.line, self.column) if part is not None)


class Portable(BaseException):
    def __reduce__(self) -> tuple[Any, ...]:
        # Otherwise exceptions with their own signatures cannot be unpickled, and these cross processes.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class CrucibleError(Portable, Exception):
    """The root of the errors of crucible_core, crucible_adapters and crucible_dagster.

    A wrong argument may also be a TypeError or a ValueError, as its function says.
    """


def _rebuild(cls: type[Portable], args: tuple[Any, ...], state: dict[str, Any]) -> Portable:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidExperimentError(CrucibleError):
    """The experiment cannot be run as it is written.

    `location` says where (or is None for an experiment made in code); `others` holds further mistakes of the same
    experiment, so that all of them can be fixed at once.
    """

    def __init__(
        self,
        message: str,
        *,
        location: Location | None = None,
        others: Iterable[InvalidExperimentError] = (),
    ) -> None:
        super().__init__(message)
        self.location = location
        self.others = tuple(others)

    @property
    def message(self) -> str:
        """The mistake, without its place."""
        return str(self.args[0])

    @property
    def path(self) -> str | None:
        return self.location.path if self.location else None

    @property
    def line(self) -> int | None:
        return self.location.line if self.location else None

    @property
    def column(self) -> int | None:
        return self.location.column if self.location else None

    @classmethod
    def of(cls, mistakes: Iterable[InvalidExperimentError]) -> InvalidExperimentError:
        """One error for one or more mistakes: the first, with the rest as its `others`."""
        first, *others = [found for mistake in mistakes for found in mistake.each()]
        for mistake in others:
            mistake.others = ()
        first.others = tuple(others)
        return first

    def within(self, what: str) -> Self:
        """Itself, after the messages of its mistakes were prefixed with `what`."""
        for error in self.each():
            error.args = (f"{what}{error.message}", *error.args[1:])
        return self

    def each(self) -> tuple[InvalidExperimentError, ...]:
        """The first mistake and the others, flat."""
        return (self, *(found for other in self.others for found in other.each()))

    def __str__(self) -> str:
        return "\n".join(
            f"{error.location}: {error.message}" if error.location else error.message for error in self.each()
        )


class UnknownStageError(InvalidExperimentError):
    """A stage of the pipeline is neither registered nor importable; `module` is the one that cannot be imported."""

    module: str | None = None

    def __init__(
        self,
        message: str,
        *,
        stage: str,
        known: Iterable[str] = (),
        location: Location | None = None,
        others: Iterable[InvalidExperimentError] = (),
    ) -> None:
        super().__init__(message, location=location, others=others)
        self.stage = stage
        self.known = tuple(known)


class InvalidOptionsError(InvalidExperimentError):
    """The options of a stage do not fit the stage."""

    def __init__(
        self,
        message: str,
        *,
        stage: str,
        location: Location | None = None,
        others: Iterable[InvalidExperimentError] = (),
    ) -> None:
        super().__init__(message, location=location, others=others)
        self.stage = stage


class MissingExtraError(CrucibleError):
    """Something needs a package that the base install leaves out."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}: pip install 'crucible-dagster[{extra}]'")
        self.what = what
        self.extra = extra


def __getattr__(name: str) -> Any:
    # By their old names, which stored failures have: until version 1.0.
    from crucible_core.moved import moved_names  # noqa: PLC0415

    homes = dict.fromkeys(["GateFailedError", "RunInterrupted", "StageFailedError"], "crucible_core.run_errors")
    return moved_names(__name__, homes)(name)
