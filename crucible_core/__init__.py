"""Experiments as small files, run as pipelines of stages that thread one Context.

This package knows nothing of Dagster, and nothing of training, data sets or any other domain.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from crucible_core.values.lazy_names import lazy_names

if TYPE_CHECKING:
    from crucible_core.context import Context
    from crucible_core.errors import (
        CrucibleError,
        InvalidExperimentError,
        InvalidOptionsError,
        MissingExtraError,
        UnknownStageError,
    )
    from crucible_core.gates.judge import judge_gates
    from crucible_core.ir.experiment import (
        Execution,
        Experiment,
        OutputSpec,
        Reliability,
        ResourceDef,
        RetryPolicy,
        Schedule,
        StageDef,
        Stats,
    )
    from crucible_core.ir.gates import Baseline, Gate, GateResult, NoRegression
    from crucible_core.ir.loading import load_experiment
    from crucible_core.ir.settings import Settings
    from crucible_core.observers import Observer, Point, ProgressUpdate
    from crucible_core.plan import Plan, PlannedStage, plan_experiment, plan_stage
    from crucible_core.progress import progress
    from crucible_core.registry import Registry, builtin_registry
    from crucible_core.run_errors import (
        GateFailedError,
        RunInterrupted,
        StageDiedError,
        StageFailedError,
        StageTimeoutError,
    )
    from crucible_core.run_state.spending import BudgetExceededError
    from crucible_core.runner import run_experiment, run_stage
    from crucible_core.stage import Stage, StageDescription, stage
    from crucible_core.trace import (
        Decision,
        Event,
        GateJudged,
        StageFailed,
        StageRetried,
        StageSkipped,
        StageStarted,
        StageSucceeded,
        Trace,
    )
    from crucible_core.values.jsonable import to_jsonable
    from crucible_core.values.series import Series

__version__ = "0.1.0"

# Modules by the names they had before, until version 1.0.
__path__.append(f"{__path__[0]}/moved")

__all__ = [
    "Baseline",
    "BudgetExceededError",
    "Context",
    "CrucibleError",
    "Decision",
    "Event",
    "Execution",
    "Experiment",
    "Gate",
    "GateFailedError",
    "GateJudged",
    "GateResult",
    "InvalidExperimentError",
    "InvalidOptionsError",
    "MissingExtraError",
    "NoRegression",
    "Observer",
    "OutputSpec",
    "Plan",
    "PlannedStage",
    "Point",
    "ProgressUpdate",
    "Registry",
    "Reliability",
    "ResourceDef",
    "RetryPolicy",
    "RunInterrupted",
    "Schedule",
    "Series",
    "Settings",
    "Stage",
    "StageDef",
    "StageDescription",
    "StageDiedError",
    "StageFailed",
    "StageFailedError",
    "StageRetried",
    "StageSkipped",
    "StageStarted",
    "StageSucceeded",
    "StageTimeoutError",
    "Stats",
    "Trace",
    "UnknownStageError",
    "__version__",
    "builtin_registry",
    "judge_gates",
    "load_experiment",
    "plan_experiment",
    "plan_stage",
    "progress",
    "run_experiment",
    "run_stage",
    "stage",
    "to_jsonable",
]

# Where each name is defined, relative to this package: a module is imported when one of its names is first used, so
# that `crucible --help` waits for none of them.
_HOMES = {
    "Baseline": "ir.gates",
    "BudgetExceededError": "run_state.spending",
    "Context": "context",
    "CrucibleError": "errors",
    "Decision": "trace",
    "Event": "trace",
    "Execution": "ir.experiment",
    "Experiment": "ir.experiment",
    "Gate": "ir.gates",
    "GateFailedError": "run_errors",
    "GateJudged": "trace",
    "GateResult": "ir.gates",
    "InvalidExperimentError": "errors",
    "InvalidOptionsError": "errors",
    "MissingExtraError": "errors",
    "NoRegression": "ir.gates",
    "Observer": "observers",
    "OutputSpec": "ir.experiment",
    "Plan": "plan",
    "PlannedStage": "plan",
    "Point": "observers",
    "ProgressUpdate": "observers",
    "Registry": "registry",
    "Reliability": "ir.experiment",
    "ResourceDef": "ir.experiment",
    "RetryPolicy": "ir.experiment",
    "RunInterrupted": "run_errors",
    "Schedule": "ir.experiment",
    "Series": "values.series",
    "Settings": "ir.settings",
    "Stage": "stage",
    "StageDef": "ir.experiment",
    "StageDescription": "stage",
    "StageDiedError": "run_errors",
    "StageFailed": "trace",
    "StageFailedError": "run_errors",
    "StageRetried": "trace",
    "StageSkipped": "trace",
    "StageStarted": "trace",
    "StageSucceeded": "trace",
    "StageTimeoutError": "run_errors",
    "Stats": "ir.experiment",
    "Trace": "trace",
    "UnknownStageError": "errors",
    "builtin_registry": "registry",
    "judge_gates": "gates.judge",
    "load_experiment": "ir.loading",
    "plan_experiment": "plan",
    "plan_stage": "plan",
    "progress": "progress",
    "run_experiment": "runner",
    "run_stage": "runner",
    "stage": "stage",
    "to_jsonable": "values.jsonable",
}


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Python binds each imported submodule to its package; `stage` and `progress` are public names as well.
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
