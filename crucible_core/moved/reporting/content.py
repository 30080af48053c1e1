"""Moved to `crucible_core.report.run_report`; this name goes with version 1.0."""

from crucible_core.moved import moved

moved(__name__, "crucible_core.report.run_report")
