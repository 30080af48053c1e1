"""The command line, `crucible`."""
