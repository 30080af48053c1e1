"""What the ops of a job look up: the experiment, and the settings of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from crucible_core import (
    Experiment,
    Observer,
    Registry,
)

EXPERIMENT_KEY = "experiment"


LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What was set for one run, beside the options of its stages."""

    variant: str | None = None
    seed: int | None = None
    tracing: bool = True
    log_level: LogLevel = "INFO"
    library_log_level: LogLevel = "WARNING"


DEFAULTS = RunSettings()

Settings = RunSettings  # the name that event_log and captured_logs import


@dataclass(frozen=True, slots=True)
class CompiledExperiment:
    """What the ops of a job look up: it reaches them as the job's resource `experiment`."""

    experiment: Experiment
    registry: Registry
    observers: Sequence[Observer]
    op_names: tuple[str, ...]
    settings: RunSettings = DEFAULTS
