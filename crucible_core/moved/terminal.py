"""Moved to `crucible_core.cli.terminal`; this name goes with version 1.0."""

from crucible_core.moved import moved

moved(__name__, "crucible_core.cli.terminal")
