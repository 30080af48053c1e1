"""Errors as Dagster's UI shows them: what went wrong, without the frames of Dagster and of this package.

Dagster shows an error that another process passes to it unchanged, and any other error with its whole own stack.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dagster import DagsterInvalidConfigError, Failure
from dagster_shared.error import SerializableErrorInfo

import crucible_core
from crucible_core.values.jsonable import shown_text
from crucible_core.values.redaction import scrub
from crucible_dagster.dagster_internals import DagsterUserCodeProcessError

__all__ = ["RefusedConfigError", "StepFailure"]

ROOT = Path(crucible_core.__file__).parents[1]
OURS = tuple(f'File "{ROOT / name}/' for name in ("crucible_core", "crucible_dagster"))


class _AsTold(DagsterUserCodeProcessError):
    """Of such an error, Dagster shows only what is in `user_code_process_error_infos`."""

    def __init__(self, *args: Any) -> None:
        Exception.__init__(self, *args)


class StepFailure(Failure, _AsTold):
    """Ends a step without a retry; of the traceback, only the frames of the user's own code are shown."""

    def __init__(
        self, said: str, *, cause: BaseException | None = None, metadata: Mapping[str, Any] | None = None
    ) -> None:
        said = shown_text(said)
        super().__init__(description=said, metadata=metadata, allow_retries=False)
        # A cause that reveals a secret is left out; the message has its text with the secret masked.
        secretive = cause is None or scrub(told := "".join(traceback.format_exception(cause))) != told
        shown = None if cause is None or secretive else _without_our_frames(cause)
        self.user_code_process_error_infos = [SerializableErrorInfo(said, [], Failure.__name__, shown)]


class RefusedConfigError(DagsterInvalidConfigError, _AsTold):
    """Run config that a stage or the experiment refuses."""

    def __init__(self, said: str, config: object = None) -> None:
        said = shown_text(said)
        super().__init__(said, [], config)  # type: ignore[no-untyped-call]  # Dagster's
        self.user_code_process_error_infos = [SerializableErrorInfo(said, [], DagsterInvalidConfigError.__name__)]


def _without_our_frames(error: BaseException) -> SerializableErrorInfo:
    told = SerializableErrorInfo.from_traceback(traceback.TracebackException.from_exception(error))
    return told._replace(stack=list(_of_the_user(told.stack)))


def _of_the_user(stack: Any) -> Iterator[str]:
    for frame in stack:
        if not any(ours in frame for ours in OURS):
            yield frame
