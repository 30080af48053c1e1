"""Moved to `crucible_dagster.execute.run_claims`; this name goes with version 1.0."""

from crucible_core.moved import moved

moved(__name__, "crucible_dagster.execute.run_claims")
