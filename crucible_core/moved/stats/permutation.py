"""Moved to `crucible_bench.hypothesis_tests.permutation`; this name goes with version 1.0."""

from crucible_core.moved import moved

moved(__name__, "crucible_bench.hypothesis_tests.permutation")
