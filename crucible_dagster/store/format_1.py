"""Reading what version 0.1 wrote: a pickle per step, of the whole Context, at `<run>/<step>/result` or `.../failed`."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

from upath import UPath

from crucible_core import Context
from crucible_dagster.store.errors import StoreError
from crucible_dagster.store.failure import StoredFailure

__all__ = ["load_format_1"]


@dataclass(frozen=True, slots=True)
class _Failure:
    context: Context
    stage: str
    reason: str
    interrupted: bool
    pickled_cause: bytes | None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("crucible_dagster.context_store", "StoredFailure"):
            return _Failure
        return super().find_class(module, name)


def load_format_1(
    base: UPath, run_id: str, step: str, name: str, *, allow_pickle: bool
) -> Context | StoredFailure | None:
    """What a step of version 0.1 left under this name, or None. Raises StoreError if it cannot be read."""
    path = base / run_id / step / name
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not allow_pickle:
        raise StoreError(
            f"{path} was written by version 0.1 of crucible-dagster, which kept pickles, and reading pickles is "
            "switched off (CRUCIBLE_ALLOW_PICKLE=false)"
        )
    try:
        version, value = _Unpickler(io.BytesIO(data)).load()
    except Exception as error:
        raise StoreError(f"{path} in the context store cannot be read: {type(error).__name__}: {error}") from error
    if version != 1:
        raise StoreError(f"{path} in the context store has the unknown format {version!r}")
    if isinstance(value, _Failure):
        cause = pickle.loads(value.pickled_cause) if value.pickled_cause else None  # noqa: S301  # asked above
        return StoredFailure(value.context, value.stage, value.reason, value.interrupted, cause)
    if not isinstance(value, Context):
        raise StoreError(f"{path} in the context store holds a {type(value).__name__}, not a Context")
    return value
