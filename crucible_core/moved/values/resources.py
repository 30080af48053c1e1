"""Moved to `crucible_core.run_state.resources`; this name goes with version 1.0."""

from crucible_core.moved import moved

moved(__name__, "crucible_core.run_state.resources")
