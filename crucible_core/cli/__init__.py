"""The command line, `crucible`."""

from crucible_core.cli.main import main

__all__ = ["main"]
