"""Experiments as small files, run as pipelines of stages that thread one Context.

This package knows nothing of Dagster, and nothing of training, data sets or any other domain.
"""

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
    RetryPolicy,
    Schedule,
    StageDef,
    Stats,
)
from crucible_core.ir.gates import Baseline, Gate, GateResult, NoRegression
from crucible_core.ir.loading import load_experiment
from crucible_core.observers import Observer, ProgressUpdate
from crucible_core.plan import Plan, PlannedStage, plan_experiment, plan_stage
from crucible_core.progress import progress
from crucible_core.registry import Registry, builtin_registry
from crucible_core.run_errors import GateFailedError, RunInterrupted, StageFailedError
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

__version__ = "0.1.0"

# Modules by the names they had before, until version 1.0.
__path__.append(f"{__path__[0]}/moved")

__all__ = [
    "Baseline",
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
    "ProgressUpdate",
    "Registry",
    "Reliability",
    "RetryPolicy",
    "RunInterrupted",
    "Schedule",
    "Stage",
    "StageDef",
    "StageDescription",
    "StageFailed",
    "StageFailedError",
    "StageRetried",
    "StageSkipped",
    "StageStarted",
    "StageSucceeded",
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
