"""MLflow: a run of Crucible is a run of MLflow, as it happens or afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crucible_adapters.mlflow.observer import MlflowObserver

__all__ = ["MlflowObserver"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crucible_adapters.mlflow.observer import MlflowObserver  # noqa: PLC0415  # an extra

    return MlflowObserver
