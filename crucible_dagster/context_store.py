"""The context store: where the Context that one op returns waits for the next, and stays when the run is over.

One object per step, below `<base>/<run id>/<step key>/`: `result` is what the step returned, `failed` the Context as
it stood when the step failed. Objects are pickles and are read with the trust that Dagster's own default IO manager
gives its storage: whoever can write to the store can run code where it is read.
"""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dagster import Field, InitResourceContext, InputContext, OutputContext, UPathIOManager, io_manager
from upath import UPath

from crucible_core import Context, CrucibleError, RunInterrupted, StageFailedError
from crucible_core.jsonable import type_name

__all__ = ["STORE_KEY", "ContextIOManager", "context_store", "store_base"]

T = TypeVar("T")

STORE_KEY = "context_store"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class StoredFailure:
    """The Context as it stood when a stage failed or was interrupted, and why."""

    context: Context
    stage: str
    reason: str
    interrupted: bool
    pickled_cause: bytes | None

    @classmethod
    def of(cls, error: StageFailedError | RunInterrupted) -> StoredFailure:
        interrupted = isinstance(error, RunInterrupted)
        reason = str(error) if isinstance(error, RunInterrupted) else error.reason
        return cls(error.context, error.stage, reason, interrupted, _pickle_if_possible(error.__cause__))

    def to_error(self) -> StageFailedError | RunInterrupted:
        """The error again, with its cause, or with the cause's text where the cause itself cannot be kept."""
        if self.interrupted:
            return RunInterrupted(self.stage, self.context)
        error = StageFailedError(self.stage, self.context, self.reason)
        error.__cause__ = pickle.loads(self.pickled_cause) if self.pickled_cause else CrucibleError(self.reason)  # noqa: S301
        return error


def _pickle_if_possible(cause: BaseException | None) -> bytes | None:
    # Many exceptions can be pickled and not unpickled: their constructors want more than `args` holds.
    try:
        pickled = pickle.dumps(cause, protocol=5)
        pickle.loads(pickled)  # noqa: S301  # made in the line above
    except Exception:  # noqa: BLE001  # whatever a user's exception class does here
        return None
    return pickled


class ContextIOManager(UPathIOManager):
    """Keeps Contexts below `base_path`, a local folder or any fsspec URL."""

    def dump_to_path(
        self,
        context: OutputContext,  # noqa: ARG002
        obj: Context,
        path: UPath,
    ) -> None:
        _write(path, obj, obj)

    def load_from_path(self, context: InputContext, path: UPath) -> Context:  # noqa: ARG002
        return _expect(_read(path), Context, path)

    def load_context(self, run_id: str, step_key: str) -> Context:
        """The Context that a step returned. Raises CrucibleError if there is none."""
        path = self._place(run_id, step_key, "result")
        return _expect(_read(path), Context, path)

    def put_failure(self, run_id: str, step_key: str, failure: StoredFailure) -> None:
        _write(self._place(run_id, step_key, "failed"), failure, failure.context)

    def load_failure(self, run_id: str, step_key: str) -> StoredFailure | None:
        path = self._place(run_id, step_key, "failed")
        return _expect(_read(path), StoredFailure, path) if path.exists() else None

    def _place(self, run_id: str, step_key: str, name: str) -> UPath:
        return self._base_path / run_id / step_key / name


@io_manager(config_schema={"base_path": Field(str, is_required=False, description="A folder or an fsspec URL.")})
def context_store(init: InitResourceContext) -> ContextIOManager:
    """Keeps what ops hand to each other, by default below the Dagster instance's storage folder."""
    configured = init.resource_config.get("base_path") if init.resource_config else None
    assert init.instance is not None
    return ContextIOManager(UPath(configured) if configured else store_base(init.instance))


def store_base(instance: Any) -> UPath:
    """The default place of the store: `crucible` in the instance's storage folder."""
    return UPath(instance.storage_directory()) / "crucible"


def _write(path: UPath, value: Any, context: Context) -> None:
    try:
        data = pickle.dumps((FORMAT_VERSION, value), protocol=5)
    except Exception as error:
        raise CrucibleError(_unstorable(context) or f"the Context cannot be stored: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own and a rename: a reader finds the whole object or none.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        temporary.write_bytes(data)
        if path.protocol in {"", "file"}:
            Path(str(temporary)).replace(str(path))
        else:
            temporary.rename(path)
    except OSError as error:
        raise CrucibleError(f"cannot write to the context store at {path}: {error.strerror or error}") from error


def _unstorable(context: Context) -> str | None:
    parts: Mapping[str, Any] = {
        **{f"assigns[{key!r}]": value for key, value in context.assigns.items()},
        **{f"metrics[{key!r}]": value for key, value in context.metrics.items()},
        **{f"artifacts[{key!r}]": value for key, value in context.artifacts.items()},
        **{f"outputs[{index}]": value for index, value in enumerate(context.outputs)},
    }
    for place, value in parts.items():
        try:
            pickle.dumps(value, protocol=5)
        except Exception as error:  # noqa: BLE001  # __reduce__ of a user's class may raise anything
            return f"{place} is a {type_name(value)} and cannot be stored between stages: {error}"
    return None


def _read(path: UPath) -> Any:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CrucibleError(
            f"the context store has nothing at {path}: the step did not finish, or its folder was removed"
        ) from None
    try:
        version, value = pickle.loads(data)  # noqa: S301  # the module's docstring says whom this trusts
    except Exception as error:
        raise CrucibleError(
            f"{path} in the context store cannot be read back: {type(error).__name__}: {error}"
        ) from error
    if version != FORMAT_VERSION:
        raise CrucibleError(
            f"{path} has format {version}, and this version of crucible reads format {FORMAT_VERSION}; upgrade"
        )
    return value


def _expect(value: Any, kind: type[T], path: UPath) -> T:
    if not isinstance(value, kind):
        raise CrucibleError(f"{path} in the context store holds a {type_name(value)}, not a {kind.__name__}")
    return value
