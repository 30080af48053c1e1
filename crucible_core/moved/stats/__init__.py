"""Moved to `crucible_bench`; this name goes with version 1.0."""

from crucible_core.moved import moved_package

__getattr__ = moved_package(__name__, "crucible_bench", {"Comparison": "PairResult", "Plan": "PowerAnalysis"})
