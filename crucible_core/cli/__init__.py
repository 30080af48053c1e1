"""The command line, `crucible`."""

from crucible_core.cli.group import main

__all__ = ["main"]
