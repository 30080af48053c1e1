"""Moved to `crucible_dagster.cli.rerun`; this name goes with version 1.0."""

from crucible_core.moved import moved

moved(__name__, "crucible_dagster.cli.rerun")
