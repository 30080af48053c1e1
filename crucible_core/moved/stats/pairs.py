"""Moved to `crucible_bench.data.pairs`; this name goes with version 1.0."""

from crucible_core.moved import moved

moved(__name__, "crucible_bench.data.pairs")
