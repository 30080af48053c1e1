"""Stages that read the logs of evaluations: of Inspect, and of the lm-evaluation-harness."""

from crucible_adapters.logs.inspect_log import LoadInspect
from crucible_adapters.logs.lm_eval_log import LoadLmEval
from crucible_adapters.logs.records import LogError

__all__ = ["LoadInspect", "LoadLmEval", "LogError"]
